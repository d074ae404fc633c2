//! TLS by files: a certificate with its chain, and its key.
//!
//! The host reads both again when they change. New connections get the new
//! certificate, and open ones keep theirs. A handshake counts as a connection from
//! its first byte, and must end within a timeout.
//!
//! TLS is that of rustls on ring. The OpenSSL that librdkafka brings has a Rust binding
//! that is as large, and unsafe below. The default of rustls, aws-lc-rs, builds longer
//! and wants cmake. The crate reqwest 0.12 takes ring as well.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::StatusCode;
use courtside_types::failure::ErrorCode;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::super::{problem::Problem, reload::Reloaded};

/// The first byte of a TLS connection (the type of a handshake record).
const HANDSHAKE: u8 = 0x16;
/// Encrypted bytes that wait for a slow client: about one record. Without this bound,
/// rustls would hold as many bytes as hyper holds before it.
const UNSENT_BYTES_MAX: usize = 16 * 1024;

/// Plain HTTP, where both files are empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The host's own first, then what leads to a root, in PEM.
    pub certificate: PathBuf,
    /// In PEM, not encrypted.
    pub key: PathBuf,
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl TlsConfig {
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    pub fn check(&self) -> Result<(), String> {
        if self.is_set() == self.key.as_os_str().is_empty() {
            return Err("http.tls.certificate and http.tls.key must be set together".to_owned());
        }
        Ok(())
    }
}

/// A certificate, or a key, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl ErrorCode for TlsError {
    fn code(&self) -> &str {
        "certificate-invalid"
    }
}

/// The certificate in force. Clones share it.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<Reloaded<ServerConfig>>,
    handshake_timeout: Duration,
}

impl Tls {
    /// Reads the files for the first time. None means that the host speaks plain HTTP.
    pub fn open(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        if !config.is_set() {
            return Ok(None);
        }
        let (certificate, key) = (config.certificate.clone(), config.key.clone());
        let paths = vec![certificate.clone(), key.clone()];
        let reloaded = Reloaded::open("certificate", paths, move |files| match files {
            [chain, secret] => server(chain, secret).map_err(|reason| {
                format!("{} with {}: {reason}", certificate.display(), key.display())
            }),
            _ => Err("two files".to_owned()),
        });
        Ok(Some(Self {
            config: Arc::new(reloaded.map_err(TlsError)?),
            handshake_timeout: config.handshake_timeout,
        }))
    }

    /// Reads the files again whenever they change or `asked` does, until `stop`.
    pub async fn follow(self, stop: CancellationToken, asked: watch::Receiver<()>) {
        self.config.follow(stop, asked).await;
    }

    /// Shakes hands with the certificate that is in force now.
    pub async fn accept<S>(&self, mut stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Peek,
    {
        let shake = async {
            if stream.first_byte().await? != Some(HANDSHAKE) {
                let answer = not_plain();
                stream.write_all(&answer).await?;
                stream.shutdown().await?;
                return Err(io::Error::other("it does not begin as TLS does"));
            }
            let mut stream = TlsAcceptor::from(self.config.current())
                .accept(stream)
                .await?;
            let (_, session) = stream.get_mut();
            session.set_buffer_limit(Some(UNSENT_BYTES_MAX));
            Ok(stream)
        };
        let shaken = timeout(self.handshake_timeout, shake)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        shaken.inspect_err(|_| {
            metrics::counter!("courtside_tls_handshakes_failed_total").increment(1);
        })
    }
}

/// A stream whose first byte, or whose end, can be known before it is read.
pub trait Peek {
    fn first_byte(&self) -> impl Future<Output = io::Result<Option<u8>>> + Send;

    /// Whether the peer has closed its side, with nothing left to read.
    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>>;
}

impl Peek for TcpStream {
    async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let count = self.peek(&mut byte).await?;
        Ok(byte.first().copied().filter(|_| count > 0))
    }

    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut byte = [0];
        let peeked = self.poll_peek(cx, &mut ReadBuf::new(&mut byte));
        peeked.map_ok(|count| count == 0)
    }
}

/// The answer to a client that speaks plain HTTP to this TLS port.
fn not_plain() -> Vec<u8> {
    let detail = "this port speaks TLS: ask with https://";
    let problem = Problem::new(StatusCode::BAD_REQUEST, "tls-required", detail);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
         content-type: application/problem+json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

fn server(chain: &[u8], key: &[u8]) -> Result<ServerConfig, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate: {error}"))?;
    if chain.is_empty() {
        return Err("the certificate: the file has none".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        // The builder also fails if the key belongs to another certificate.
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_goes_with_its_key() {
        let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, two) = (make(), make());
        let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        server(chain.as_bytes(), key.as_bytes()).unwrap();
        let other = two.signing_key.serialize_pem();
        let refused =
            |chain: &str, key: &str| server(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(
            refused(&chain, &other).contains("key"),
            "{}",
            refused(&chain, &other)
        );
        assert!(refused("", &key).contains("certificate"));
        assert!(refused(&chain, "").contains("key"));
        assert!(refused(&key, &key).contains("certificate"));
        let half = &chain[..chain.len() / 2];
        assert!(refused(half, &key).contains("certificate"));
    }

    #[test]
    fn both_files_or_none() {
        let config = |certificate: &str, key: &str| TlsConfig {
            certificate: certificate.into(),
            key: key.into(),
            ..TlsConfig::default()
        };
        assert_eq!(config("", "").check(), Ok(()));
        assert_eq!(config("a", "b").check(), Ok(()));
        assert!(config("a", "").check().is_err());
        assert!(config("", "b").check().is_err());
        assert!(Tls::open(&config("", "")).unwrap().is_none());
        assert_eq!(
            Tls::open(&config("a", "b")).unwrap_err().code(),
            "certificate-invalid"
        );
    }
}
