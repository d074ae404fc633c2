//! Names of topics and groups: one rule for both engines, so that what was
//! configured on one can be moved to the other.

/// Kafka's limit for the name of a topic, and ours for the name of a group.
const NAME_BYTES_MAX: usize = 249;

/// Checks that a name is valid on either engine.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() {
        Err("the name is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Err("the name is longer than 249 bytes")
    } else if name == "." || name == ".." {
        Err("the name is . or ..")
    } else if !name.bytes().all(legal) {
        Err("the name has characters other than letters, digits, . _ and -")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas() {
        for name in ["a", "NBA-Games", "a.b_c-9", &"x".repeat(249)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "é", "a/b", &"x".repeat(250)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
