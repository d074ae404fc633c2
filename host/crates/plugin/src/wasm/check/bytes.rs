//! Whether bytes are a whole component. The compiler would notice, too, but
//! its words are for people who write compilers.

use super::super::rejection::{self, rejection};
use crate::Rejection;

const MAGIC: [u8; 4] = *b"\0asm";
/// Version and layer of a core module, as its next four bytes give them.
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];
/// The layer of a component is 1; the version before it is not final, so the
/// compiler judges it.
const COMPONENT_LAYER: [u8; 2] = [1, 0];
const HEADER_BYTES: usize = 8;

pub fn check_bytes(bytes: &[u8], bytes_max: usize) -> Result<(), Rejection> {
    if bytes.is_empty() {
        return Err(rejection(rejection::EMPTY, "the file is empty"));
    }
    if bytes.len() > bytes_max {
        return Err(rejection(
            rejection::TOO_LARGE,
            format!(
                "the file has {} bytes, the limit plugin_bytes_max is {bytes_max}",
                bytes.len()
            ),
        ));
    }
    let magic_read = bytes.len().min(MAGIC.len());
    if bytes.get(..magic_read) != MAGIC.get(..magic_read) {
        return Err(rejection(
            rejection::NOT_WASM,
            "the file is not webassembly: it does not begin with \\0asm",
        ));
    }
    let Some((header, sections)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(truncated(bytes.len()));
    };
    if header.ends_with(&CORE_MODULE) {
        return Err(rejection(
            rejection::CORE_MODULE,
            "the file is a core module, not a component: build for wasm32-wasip2",
        ));
    }
    if !header.ends_with(&COMPONENT_LAYER) {
        return Err(rejection(
            rejection::NOT_WASM,
            format!(
                "the file is not a component: its header is {}",
                hex::encode(header)
            ),
        ));
    }
    if !is_whole(sections) {
        return Err(truncated(bytes.len()));
    }
    Ok(())
}

fn truncated(bytes: usize) -> Rejection {
    rejection(
        rejection::TRUNCATED,
        format!("the file is cut short: it ends inside a section, after {bytes} bytes"),
    )
}

/// Walks the top-level sections (an id, a length, that many bytes) to the end.
fn is_whole(mut sections: &[u8]) -> bool {
    while let Some((_id, rest)) = sections.split_first() {
        let Some((length, rest)) = length(rest) else {
            return false;
        };
        match rest.get(length..) {
            Some(rest) => sections = rest,
            None => return false,
        }
    }
    true
}

/// A 32-bit number in LEB128, and the bytes that follow it. A number that is too long
/// counts as the largest there is: no file holds that many bytes.
fn length(mut bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).unwrap_or(usize::MAX), bytes));
        }
    }
    Some((usize::MAX, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &[u8]) -> Option<&'static str> {
        check_bytes(bytes, 1_000)
            .err()
            .map(|rejection| rejection.code)
    }

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn says_what_the_bytes_are_instead() {
        assert_eq!(code(b""), Some(rejection::EMPTY));
        assert_eq!(code(&[0; 1_001]), Some(rejection::TOO_LARGE));
        assert_eq!(code(b"(component)"), Some(rejection::NOT_WASM));
        assert_eq!(code(&[0x7f; 300]), Some(rejection::NOT_WASM));
        assert_eq!(code(b"\0asm\x02\0\0\0"), Some(rejection::NOT_WASM));
        assert_eq!(code(b"\0asm\x01\0\0\0"), Some(rejection::CORE_MODULE));
        assert_eq!(code(COMPONENT), None);
    }

    #[test]
    fn a_cut_anywhere_inside_a_section_shows() {
        let mut bytes = COMPONENT.to_vec();
        bytes.extend_from_slice(&[0, 0x83, 0x00, 1, b'x', 7]); // a custom section of 3 bytes
        assert_eq!(code(&bytes), None);
        for end in 1..bytes.len() {
            if end == COMPONENT.len() {
                continue; // an empty component, and whole
            }
            assert_eq!(code(&bytes[..end]), Some(rejection::TRUNCATED), "{end}");
        }
    }

    #[test]
    fn a_length_that_never_ends_is_not_followed() {
        let mut bytes = COMPONENT.to_vec();
        bytes.extend_from_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(code(&bytes), Some(rejection::TRUNCATED));
    }
}
