//! Whether a plugin's description of itself keeps to the contract.

use super::super::rejection::{self, rejection};
use crate::{Description, Rejection};

const NAME_BYTES_MAX: usize = 64;
const VERSION_BYTES_MAX: usize = 64;
const READS_MAX: usize = 64;

pub fn check_description(description: &Description) -> Result<(), Rejection> {
    problem(description).map_or(Ok(()), |problem| {
        Err(rejection(rejection::DESCRIPTION_INVALID, problem))
    })
}

fn problem(description: &Description) -> Option<String> {
    let Description {
        name,
        version,
        writes,
        reads,
    } = description;
    if !is_name(name) {
        return Some(format!(
            "the name {} is not 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _, the first a letter or digit",
            quoted(name)
        ));
    }
    if version.len() > VERSION_BYTES_MAX {
        return Some(format!("the version is over {VERSION_BYTES_MAX} bytes"));
    }
    if let Err(error) = semver::Version::parse(version) {
        return Some(format!(
            "the version {} is not a semantic version: {error}",
            quoted(version)
        ));
    }
    if reads.len() > READS_MAX {
        return Some(format!(
            "it reads {} checkpoint formats, the limit is {READS_MAX}",
            reads.len()
        ));
    }
    for format in std::iter::once(writes).chain(reads) {
        if !is_format(format) {
            return Some(format!(
                "the checkpoint format {} is not <plugin>/<number>",
                quoted(format)
            ));
        }
    }
    if !reads.contains(writes) {
        return Some(format!(
            "it writes the checkpoint format {writes} but does not read it"
        ));
    }
    None
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// `<plugin>/<number>`, the number as one would print it.
fn is_format(format: &str) -> bool {
    format.split_once('/').is_some_and(|(plugin, number)| {
        is_name(plugin)
            && number
                .parse::<u32>()
                .is_ok_and(|value| value.to_string() == number)
    })
}

/// A text of the plugin's making, fit for one line of a message.
fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(80).collect();
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(name: &str, version: &str, writes: &str, reads: &[&str]) -> Description {
        Description {
            name: name.into(),
            version: version.into(),
            writes: writes.into(),
            reads: reads.iter().map(|&format| format.into()).collect(),
        }
    }

    #[test]
    fn a_good_one_passes() {
        let good = description("nba-scoring", "1.2.3-rc.1", "nba/2", &["nba/1", "nba/2"]);
        assert_eq!(check_description(&good), Ok(()));
    }

    #[test]
    fn each_rule_is_named() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let many: Vec<String> = (0..=READS_MAX).map(|n| format!("a/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let cases: &[(&str, Description)] = &[
            ("the name", description("", "1.0.0", "a/1", &["a/1"])),
            ("the name", description("Ä b", "1.0.0", "a/1", &["a/1"])),
            ("the name", description("-a", "1.0.0", "a/1", &["a/1"])),
            ("the name", description(&long, "1.0.0", "a/1", &["a/1"])),
            ("the version", description("a", "1.0", "a/1", &["a/1"])),
            ("the version", description("a", &long, "a/1", &["a/1"])),
            ("format", description("a", "1.0.0", "a", &["a"])),
            ("format", description("a", "1.0.0", "a/01", &["a/01"])),
            ("format", description("a", "1.0.0", "a/+1", &["a/+1"])),
            ("format", description("a", "1.0.0", "/1", &["/1"])),
            ("format", description("a", "1.0.0", "a/1", &["a/1", "a/b"])),
            ("does not read", description("a", "1.0.0", "a/2", &["a/1"])),
            ("65 checkpoint", description("a", "1.0.0", "a/1", &many)),
        ];
        for (words, description) in cases {
            let rejection = check_description(description).expect_err(words);
            assert_eq!(rejection.code, rejection::DESCRIPTION_INVALID);
            assert!(rejection.message.contains(words), "{rejection}");
        }
    }
}
