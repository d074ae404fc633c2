//! Backups as clients get them.

use std::sync::atomic::Ordering;

use courtside_engine::backup::frames::FrameReader;
use courtside_types::failure::ErrorCode as _;

use super::host::TestHost;

async fn ask(host: &TestHost) -> reqwest::Response {
    let (address, _) = host.listen().await;
    let asked = reqwest::get(format!("http://{address}/backup"));
    asked.await.unwrap()
}

#[tokio::test]
async fn a_log_that_is_elsewhere_is_a_conflict() {
    let host = TestHost::new();
    let answer = ask(&host).await;
    assert_eq!(answer.status(), 409);
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "backup-elsewhere");
}

#[tokio::test]
async fn a_host_that_stops_says_so_in_the_midst_of_a_backup() {
    let host = TestHost::new();
    host.operator.endless.store(true, Ordering::Relaxed);
    let mut answer = ask(&host).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let mut bytes = answer.chunk().await.unwrap().unwrap().to_vec();
    host.shutdown.cancel();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    let mut frames = FrameReader::new(&*bytes);
    let error = loop {
        match frames.next_frame() {
            Ok(frame) => assert!(frame.is_some(), "it ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "stopping");
}
