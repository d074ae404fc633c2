//! The effects of signals on a host.

use courtside_tests::{
    Engine, Place,
    place::{courtside, output},
    until,
};
use reqwest::StatusCode;
use rustix::process::Signal;

use super::point;

pub async fn only_what_is_to_end_a_host_ends_it(_: Engine) {
    let place = Place::new();
    for ends in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut host = place.start().await;
        for ignored in [
            Signal::HUP,
            Signal::USR1,
            Signal::USR2,
            Signal::PIPE,
            Signal::XFSZ,
        ] {
            host.signal(ignored);
            // Pending signals are delivered before the host goes on.
            assert_eq!(host.get("/healthz").await.status, StatusCode::OK);
            assert!(host.is_running(), "{ignored:?}");
        }
        host.accepts("/score", &point("LAL-BOS", 1)).await;
        host.signal(ends);
        // A signal comes again while the host stops.
        host.signal(Signal::HUP);
        let status = host.ended().await;
        assert!(status.success(), "{ends:?}: {status}");
        assert!(host.log().contains("stopped"), "{}", host.log());
    }
}

/// The host would see a change by itself, but would say nothing where there is
/// none.
pub async fn a_host_reads_its_files_again_when_it_is_told_to(_: Engine) {
    let place = Place::new();
    let tokens = place.path("tokens.toml");
    let made = output(courtside("token").args(["reader", "--scope", "read"]));
    std::fs::write(&tokens, &made.stdout).expect("a file of tokens");
    let place = place.set("access.tokens_file", &tokens.to_string_lossy());
    let host = place.start().await;
    assert!(!host.log().contains("files read again"), "{}", host.log());
    host.signal(Signal::HUP);
    until("the file to be read again", || async {
        let log = host.log();
        if log.contains("files read again") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    std::fs::write(&tokens, "no tokens").expect("a file of tokens");
    host.signal(Signal::HUP);
    until("the host to say what is wrong", || async {
        let log = host.log();
        if log.contains("reload-failed") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    host.stop().await;
}
