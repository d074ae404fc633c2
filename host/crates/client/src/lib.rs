//! How a command gets to a host: the host's address, the token that the command
//! shows, and the certificates that it believes.
//!
//! The root certificates are the system's. Those of Mozilla, built in, would lack a
//! company's own authority.

pub mod terminal;

use std::{fs, net::IpAddr, path::PathBuf};

use clap::Args;
use courtside_types::{
    coded,
    failure::{Failure, OrFail as _},
};
use reqwest::{
    Certificate, ClientBuilder, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
    redirect,
};

use crate::terminal::say_line;

/// The token is no argument: everybody on the machine can read arguments.
const TOKEN: &str = "COURTSIDE_TOKEN";

/// The host that a command asks.
#[derive(Args, Clone, Debug)]
pub struct HostArgs {
    /// The host to ask.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        env = "COURTSIDE_URL"
    )]
    pub url: String,
    /// A file with the token to show it; without, the environment's COURTSIDE_TOKEN.
    #[arg(long, value_name = "FILE", env = "COURTSIDE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Root certificates of an https host, in PEM, in place of the system's.
    #[arg(long, value_name = "FILE", env = "COURTSIDE_CACERT")]
    pub cacert: Option<PathBuf>,
}

impl HostArgs {
    /// The host's address.
    pub fn url(&self) -> anyhow::Result<Url> {
        let url: Url = self
            .url
            .parse()
            .or_fail_with("bad-url", || format!("{} is no URL", self.url))?;
        match url.scheme() {
            "http" | "https" => Ok(url),
            scheme => Err(coded!(
                "bad-url",
                "{url}: the URL must begin with http:// or https://, not {scheme}:"
            )),
        }
    }

    /// A client of that host, with timeouts to be set.
    pub fn http(&self) -> anyhow::Result<ClientBuilder> {
        let url = self.url()?;
        let mut headers = HeaderMap::new();
        if let Some(token) = self.token()? {
            if url.scheme() == "http" && !is_here(&url) {
                say_line(&format!(
                    "courtside: the token is sent to {url} unencrypted, so everybody on the way can read it"
                ));
            }
            headers.insert(AUTHORIZATION, token);
        }
        let http = builder(&url).default_headers(headers);
        match &self.cacert {
            None => Ok(http),
            Some(path) => trusting(http, path),
        }
    }

    fn token(&self) -> anyhow::Result<Option<HeaderValue>> {
        let text = match &self.token_file {
            Some(path) => fs::read_to_string(path)
                .or_fail_with("token-unreadable", || format!("{}", path.display()))?,
            None => match std::env::var(TOKEN) {
                Ok(text) => text,
                Err(std::env::VarError::NotPresent) => return Ok(None),
                Err(error) => return Err(coded!("token-unreadable", "{TOKEN}: {error}")),
            },
        };
        let text = text.trim();
        if text.is_empty() {
            if let Some(path) = &self.token_file {
                return Err(coded!("token-unreadable", "{} is empty", path.display()));
            }
            return Ok(None);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| {
            coded!(
                "token-unreadable",
                "a token is one line of visible characters"
            )
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// The settings that all clients of a host have in common.
pub fn builder(url: &Url) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("courtside/", env!("CARGO_PKG_VERSION")))
        // The command asks the host, and no proxy in between.
        .no_proxy()
        // A redirected POST would become a GET, and a token go elsewhere.
        .redirect(redirect::Policy::none())
        // Reading the system's root certificates takes a while, and http needs none.
        .tls_built_in_root_certs(url.scheme() == "https")
}

/// A client that believes these certificates, and no others.
fn trusting(http: ClientBuilder, path: &PathBuf) -> anyhow::Result<ClientBuilder> {
    let (code, name) = ("cacert-unreadable", || path.display().to_string());
    let pem = fs::read(path).or_fail_with(code, name)?;
    let certificates = Certificate::from_pem_bundle(&pem).or_fail_with(code, name)?;
    if certificates.is_empty() {
        return Err(coded!(code, "{} has no certificate", name()));
    }
    let http = http.tls_built_in_root_certs(false);
    Ok(certificates
        .into_iter()
        .fold(http, ClientBuilder::add_root_certificate))
}

fn is_here(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || name
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback())
    })
}

/// Why a host gave no answer.
pub fn no_answer(url: &str, error: &reqwest::Error) -> Failure {
    if is_untrusted(error) {
        let why = root(error);
        Failure::new(
            "host-untrusted",
            format!("the server at {url} is not trusted: {why}"),
        )
    } else {
        Failure::new(
            "host-unreachable",
            format!("no answer from {url}: {}", root(error)),
        )
    }
}

/// The cause under reqwest's layers of wrapping: "Connection refused", for one.
pub fn root(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    if let Some(error) = of_tls(error) {
        return tls_words(error);
    }
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = source.to_string();
        next = source.source();
    }
    text
}

/// Whether the host showed a certificate that is not to be believed: another try
/// changes nothing.
pub fn is_untrusted(error: &reqwest::Error) -> bool {
    matches!(of_tls(error), Some(rustls::Error::InvalidCertificate(_)))
}

fn of_tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(error) = source.downcast_ref() {
            return Some(error);
        }
        // An error of input and output does not name what it wraps as its source.
        next = match source.downcast_ref::<std::io::Error>() {
            Some(wrapper) => wrapper.get_ref().map(|inner| inner as _),
            None => source.source(),
        };
    }
    None
}

/// Says in words the faults that rustls says in its types' names.
fn tls_words(error: &rustls::Error) -> String {
    use rustls::{CertificateError as Wrong, Error};
    let Error::InvalidCertificate(wrong) = error else {
        return match error {
            Error::InvalidMessage(_) => "it does not speak TLS: ask with http://".to_owned(),
            error => error.to_string(),
        };
    };
    let words = match wrong {
        Wrong::UnknownIssuer => "no trusted authority has signed its certificate",
        Wrong::Expired | Wrong::ExpiredContext { .. } => "its certificate has expired",
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            "its certificate is not valid yet; check the clock"
        }
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        Wrong::Revoked => "its certificate was revoked",
        Wrong::BadSignature => "its certificate's signature is wrong",
        Wrong::BadEncoding => "its certificate is malformed",
        _ => "its certificate is not valid for a server",
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str) -> HostArgs {
        HostArgs {
            url: url.to_owned(),
            token_file: None,
            cacert: None,
        }
    }

    #[test]
    fn a_host_has_an_address_of_the_web() {
        for url in ["http://h:8080", "https://h", "http://[::1]:8080/live"] {
            assert!(args(url).http().is_ok(), "{url}");
        }
        for url in ["h:8080", "nonsense", "ftp://h", ""] {
            let error = args(url).http().unwrap_err();
            assert!(error.to_string().starts_with("bad-url: "), "{url}: {error}");
        }
    }

    #[test]
    fn a_token_is_a_line_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let with = |text: &str| {
            fs::write(&path, text).unwrap();
            let args = HostArgs {
                token_file: Some(path.clone()),
                ..args("http://h")
            };
            args.token().map(|token| token.unwrap())
        };
        let token = with("courtside_ab\n").unwrap();
        assert_eq!(token.as_bytes(), b"Bearer courtside_ab");
        assert!(!format!("{token:?}").contains("courtside_ab"));
        for wrong in ["", "\n", "one\ntwo"] {
            let error = with(wrong).unwrap_err().to_string();
            assert!(error.starts_with("token-unreadable: "), "{error}");
            assert!(!error.contains("two"), "{error}");
        }
        let missing = HostArgs {
            token_file: Some(dir.path().join("none")),
            ..args("http://h")
        };
        assert!(missing.http().is_err());
    }

    #[test]
    fn root_certificates_are_some() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let with = |text: &str| {
            fs::write(&path, text).unwrap();
            let args = HostArgs {
                cacert: Some(path.clone()),
                ..args("https://h")
            };
            args.http().map(|_| ())
        };
        let made = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        with(&made.cert.pem()).unwrap();
        for wrong in ["", "no certificate"] {
            let error = with(wrong).unwrap_err().to_string();
            assert!(error.starts_with("cacert-unreadable: "), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_in_words() {
        use rustls::{CertificateError, Error};
        for wrong in [
            CertificateError::UnknownIssuer,
            CertificateError::Expired,
            CertificateError::NotValidForName,
            CertificateError::BadEncoding,
            CertificateError::InvalidPurpose,
        ] {
            let words = tls_words(&Error::InvalidCertificate(wrong.clone()));
            assert!(words.contains("its certificate"), "{words}");
            assert!(!words.contains(&format!("{wrong:?}")), "{words}");
        }
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (url, expected) in [
            ("http://localhost:8080", true),
            ("http://127.0.0.1", true),
            ("http://[::1]:8080", true),
            ("http://10.0.0.7:8080", false),
            ("http://localhost.evil.example", false),
        ] {
            assert_eq!(is_here(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
