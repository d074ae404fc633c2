//! TLS, by sockets: certificates that change, handshakes that do not end.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use super::host::{GOOD, INPUT, TestHost, Wire};
use crate::{Tls, TlsConfig};

fn make() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

fn put(dir: &Path, certificate: &str, key: &str) {
    fs::write(dir.join("tls.crt"), certificate).unwrap();
    fs::write(dir.join("tls.key"), key).unwrap();
}

struct Secure {
    host: TestHost,
    address: SocketAddr,
    serving: JoinHandle<()>,
    dir: tempfile::TempDir,
    made: CertifiedKey<KeyPair>,
}

async fn serve(handshake_timeout: Duration, connections_max: usize) -> Secure {
    let dir = tempfile::tempdir().unwrap();
    let made = make();
    put(
        dir.path(),
        &made.cert.pem(),
        &made.signing_key.serialize_pem(),
    );
    let tls = TlsConfig {
        certificate: dir.path().join("tls.crt"),
        key: dir.path().join("tls.key"),
        handshake_timeout,
    };
    let mut host = TestHost::with(|http, _| {
        http.connections_max = connections_max;
        http.drain_timeout = Duration::from_secs(1);
    });
    host.host.tls = Tls::open(&tls).unwrap();
    let (address, serving) = host.listen().await;
    Secure {
        host,
        address,
        serving,
        dir,
        made,
    }
}

/// A client that trusts one certificate, and has no connection from before.
fn client(believes: &CertifiedKey<KeyPair>) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(believes.cert.pem().as_bytes()).unwrap();
    reqwest::Client::builder()
        .no_proxy()
        .tls_built_in_root_certs(false)
        .add_root_certificate(root)
        .build()
        .unwrap()
}

impl Secure {
    async fn get(&self, client: &reqwest::Client, path: &str) -> Result<reqwest::Response, String> {
        let url = format!("https://localhost:{}{path}", self.address.port());
        let answer = client.get(url).send().await;
        answer.map_err(|error| courtside_client::root(&error))
    }

    /// Waits until a new connection shows this certificate.
    async fn shows(&self, believes: &CertifiedKey<KeyPair>) {
        for _ in 0..3_000 {
            if self.get(&client(believes), "/healthz").await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never shown");
    }
}

const PATIENT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let secure = serve(PATIENT, 100).await;
    let old = client(&secure.made);
    let answer = secure.get(&old, "/healthz").await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    assert_eq!(answer.text().await.unwrap(), "ok\n");
    // A stream goes on under the certificate that it began with.
    let mut stream = secure.get(&old, "/events").await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());

    let renewed = make();
    let refused = secure.get(&client(&renewed), "/healthz").await.unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");
    put(
        secure.dir.path(),
        &renewed.cert.pem(),
        &renewed.signing_key.serialize_pem(),
    );
    secure.shows(&renewed).await;
    assert!(secure.get(&client(&secure.made), "/healthz").await.is_err());
    secure.host.put(0, "LAL-BOS", Some("{}"));
    let mut read = String::new();
    while !read.contains("event: game") {
        read += &String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap());
    }

    // A key of another certificate, and no certificate at all, change nothing.
    let stranger = make();
    put(
        secure.dir.path(),
        &stranger.cert.pem(),
        &renewed.signing_key.serialize_pem(),
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    secure.get(&client(&renewed), "/healthz").await.unwrap();
    fs::write(secure.dir.path().join("tls.crt"), "").unwrap();
    put(
        secure.dir.path(),
        &stranger.cert.pem(),
        &stranger.signing_key.serialize_pem(),
    );
    secure.shows(&stranger).await;

    secure.host.shutdown.cancel();
    secure.serving.await.unwrap();
}

#[tokio::test]
async fn who_speaks_plain_http_is_told() {
    let secure = serve(PATIENT, 100).await;
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = Wire::open(secure.address, request).await.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["code"], "tls-required");
}

#[tokio::test]
async fn a_client_that_says_goodbye_gets_its_answer() {
    let secure = serve(PATIENT, 100).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(secure.made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let request = format!(
        "POST /score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{GOOD}",
        GOOD.len()
    );
    for _ in 0..20 {
        let stream = TcpStream::connect(secure.address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENT, stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK"),
            "{read:?}: {answer:?}"
        );
    }
    assert_eq!(secure.host.log.len(INPUT), 20);
}

#[tokio::test]
async fn a_handshake_counts_and_must_end() {
    let secure = serve(Duration::from_millis(300), 1).await;
    // This client sends nothing, and has the only connection until its handshake times
    // out.
    let mut silent = TcpStream::connect(secure.address).await.unwrap();
    let waits = secure.get(&client(&secure.made), "/healthz").await;
    assert_eq!(waits.unwrap().text().await.unwrap(), "ok\n");
    assert_eq!(
        silent.read(&mut [0; 8]).await.unwrap_or(0),
        0,
        "it is closed"
    );
}

#[tokio::test]
async fn a_host_stops_though_hands_are_still_shaken() {
    let secure = serve(PATIENT, 100).await;
    let _silent = TcpStream::connect(secure.address).await.unwrap();
    secure.get(&client(&secure.made), "/healthz").await.unwrap();
    secure.host.shutdown.cancel();
    tokio::time::timeout(PATIENT, secure.serving)
        .await
        .unwrap()
        .unwrap();
}
