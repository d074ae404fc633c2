//! The commands of `courtside`, except those with a module of their own, such as
//! `play`.

pub mod backup;
mod client;
pub mod dead_letters;
mod descriptors;
pub mod failure;
mod fetch;
pub mod games;
pub mod groups;
pub mod health;
mod operator;
pub mod plain;
pub mod plugin;
pub mod plugins;
pub mod replay;
pub mod reset;
pub mod serve;
mod settings;
pub mod token;
pub mod topics;
pub mod usage;

use std::future::Future;

use anyhow::Context as _;

/// Runs a future to its end on a runtime of its own. Blocking calls that the future
/// leaves behind (an address lookup, brokers that do not answer) are not waited for.
pub fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(output)
}
