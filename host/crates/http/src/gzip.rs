//! gzip, put together from parts that are compressed already.
//!
//! A stream of this kind costs its reader's connection nothing but a checksum. Each
//! part ends at a whole byte, so a reader can use it as soon as it has come.
//!
//! gzip is the only encoding of streams, because every client has it.
//!
//! The crate async-compression, and the layer of tower-http that compresses lists and
//! the page, would compress each answer anew and hold a state for each stream.

use axum::{
    http::{
        HeaderMap, HeaderValue,
        header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY},
    },
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use flate2::Crc;

use crate::scoreboard::deflate;

/// The name of this encoding in `Content-Encoding`.
pub const GZIP: &str = "gzip";

/// The head of a member: DEFLATE, no name, no time, an unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty stored block that is marked as the last.
const LAST: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// One gzip member that is being written.
pub struct Gzip {
    is_begun: bool,
    read: Crc,
}

impl Gzip {
    pub fn new() -> Self {
        Self {
            is_begun: false,
            read: Crc::new(),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.is_begun, true) {
            out.extend_from_slice(&HEAD);
        }
    }

    /// Adds bytes uncompressed, in blocks of their own.
    pub fn store(&mut self, out: &mut Vec<u8>, plain: &[u8]) {
        self.begin(out);
        for block in plain.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(block);
        }
        self.read.update(plain);
    }

    /// Adds bytes that the scoreboard has compressed.
    pub fn add(&mut self, out: &mut Vec<u8>, plain: &[u8], deflated: &[u8]) {
        self.begin(out);
        out.extend_from_slice(deflated);
        self.read.update(plain);
    }

    /// Ends the member with its last block, checksum and length.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        out.extend_from_slice(&LAST);
        out.extend_from_slice(&self.read.sum().to_le_bytes());
        out.extend_from_slice(&self.read.amount().to_le_bytes());
    }
}

/// One value that the scoreboard has compressed, as a whole answer.
pub fn whole(plain: &[u8], deflated: &[u8]) -> Vec<u8> {
    const AROUND: usize = HEAD.len() + LAST.len() + 8;
    let mut out = Vec::with_capacity(deflated.len().saturating_add(AROUND));
    let mut gzip = Gzip::new();
    gzip.add(&mut out, plain, deflated);
    gzip.end(&mut out);
    out
}

/// Bytes that do not change, compressed once for all clients.
#[derive(Debug)]
pub struct Constant {
    plain: Bytes,
    gzip: Option<Bytes>,
}

impl Constant {
    pub fn new(plain: Bytes) -> Self {
        let gzip = deflate(&plain).map(|deflated| whole(&plain, &deflated).into());
        Self { plain, gzip }
    }

    /// The body for this client, with the headers that say how it is encoded.
    pub fn answer(&self, request: &HeaderMap) -> Response {
        let varies = (VARY, HeaderValue::from(ACCEPT_ENCODING));
        match self.gzip.clone().filter(|_| is_accepted(request)) {
            Some(gzip) => {
                let encoded = (CONTENT_ENCODING, HeaderValue::from_static(GZIP));
                ([varies, encoded], gzip).into_response()
            }
            None => ([varies], self.plain.clone()).into_response(),
        }
    }
}

/// Whether a client takes gzip, and prefers it to no encoding or ranks both the same.
pub fn is_accepted(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter();
    let codings = codings.filter_map(|value| value.to_str().ok());
    let (mut gzip, mut any, mut identity) = (None, None, 0.0);
    for coding in codings.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let quality = quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0_f32));
        match &*name {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "*" => any = Some(quality),
            "identity" => identity = quality,
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn is_gzip_whatever_it_is_made_of() {
        let json = format!(r#"{{"n":"{}"}}"#, "abc".repeat(100));
        let long = "x".repeat(150_000);
        let mut out = Vec::new();
        let mut gzip = Gzip::new();
        gzip.store(&mut out, b"id: 0:1\n");
        gzip.add(
            &mut out,
            json.as_bytes(),
            &deflate(json.as_bytes()).unwrap(),
        );
        gzip.store(&mut out, b"");
        gzip.store(&mut out, long.as_bytes());
        gzip.add(
            &mut out,
            json.as_bytes(),
            &deflate(json.as_bytes()).unwrap(),
        );
        gzip.end(&mut out);
        let mut read = String::new();
        // The decoder checks the checksum and the length, too.
        GzDecoder::new(&*out).read_to_string(&mut read).unwrap();
        assert_eq!(read, format!("id: 0:1\n{json}{long}{json}"));
    }

    #[test]
    fn is_taken_where_it_is_asked_for() {
        let accepts = |values: &[&str]| {
            let values = values.iter();
            let headers =
                values.map(|value| (ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap()));
            is_accepted(&headers.collect())
        };
        for yes in [
            "gzip",
            "GZIP",
            "br, gzip, zstd",
            "deflate;q=1, gzip;q=0.5",
            "*",
            "x-gzip",
            "gzip, identity",
        ] {
            assert!(accepts(&[yes]), "{yes}");
        }
        assert!(accepts(&["br", "gzip"]));
        for no in [
            "",
            "br",
            "gzip;q=0",
            "gzip; q=0.0",
            "*;q=0",
            "gzip;q=0, *",
            "identity, gzip;q=0.5",
            "gzip;q=x",
        ] {
            assert!(!accepts(&[no]), "{no}");
        }
        assert!(!accepts(&[]));
    }
}
