//! Bounded waiting.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// The limit of every wait that names no other. It is not an expectation: a test that
/// comes near it fails.
pub const LIMIT: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until a look finds something; its error says what was seen instead.
///
/// # Panics
/// After [`LIMIT`], with what was seen last.
pub async fn until<T, L, F>(what: &str, look: L) -> T
where
    L: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    until_within(LIMIT, what, look).await
}

/// Waits as [`until`] does, for events that take long: brokers that start, sessions
/// that end.
///
/// # Panics
/// After the limit, with what was seen last.
pub async fn until_within<T, L, F>(limit: Duration, what: &str, mut look: L) -> T
where
    L: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if started.elapsed() >= limit => {
                panic!("waited {limit:?} in vain for {what}; the last look saw: {seen}")
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
