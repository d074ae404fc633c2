//! Bearer tokens: the digests that the host keeps, and how it finds a secret's token.
//!
//! The host has digests, never tokens. A token has 256 random bits, so a plain
//! SHA-256 of it tells nobody anything, and needs no salt. A search takes one digest
//! and compares it with all of them, so its time does not tell whether one matches.
//!
//! The comparison is that of the crate `subtle`, which rustls has already. A compiler
//! may shorten a loop of our own.

use std::fmt;

use courtside_types::Digest;
use rand::{TryRngCore as _, rngs::OsRng};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;

const TOKENS_MAX: usize = 1_000;
const NAME_BYTES_MAX: usize = 64;
/// Prefix by which people and scanners of secrets recognize a token.
const PREFIX: &str = "courtside_";

/// A scope that a request needs. None implies another.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Post events.
    Write,
    /// Read games, streams, plugins, groups, figures, dead letters, records.
    Read,
    /// Put, remove, roll back and confirm plugins; redrive dead letters.
    Operate,
}

impl Scope {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A token, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The holder's name, as the log shows it. Two tokens may share it, while one replaces the other.
    pub name: String,
    pub scopes: Vec<Scope>,
    /// The SHA-256 of the token's bytes.
    pub sha256: Digest,
}

/// A file of them: an entry of `[[tokens]]` for each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensFile {
    pub tokens: Vec<Token>,
}

/// All tokens that open something.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    pub fn new(tokens: Vec<Token>) -> Result<Self, String> {
        // An empty file would lock out everybody, which nobody is likely to mean.
        if tokens.is_empty() {
            return Err("it has no token".to_owned());
        }
        if tokens.len() > TOKENS_MAX {
            return Err(format!("it has more than {TOKENS_MAX} tokens"));
        }
        for (number, token) in tokens.iter().enumerate() {
            token.check()?;
            let others = tokens.iter().take(number);
            if let Some(other) = others
                .into_iter()
                .find(|other| other.sha256 == token.sha256)
            {
                let (one, two) = (&other.name, &token.name);
                return Err(format!("{one} and {two} are the same token"));
            }
        }
        Ok(Self(tokens))
    }

    /// Reads the tokens of a file, and adds those that are configured beside it.
    pub fn parse(file: &[u8], configured: &[Token]) -> Result<Self, String> {
        let text = std::str::from_utf8(file).map_err(|error| error.to_string())?;
        let file: TokensFile = toml::from_str(text).map_err(|error| wrong(text, &error))?;
        let mut tokens = file.tokens;
        tokens.extend_from_slice(configured);
        Self::new(tokens).map_err(|reason| masked(&reason))
    }

    /// Finds the token of a secret. An unknown secret takes the same time.
    pub fn find(&self, secret: &[u8]) -> Option<&Token> {
        let digest = Digest::of(secret);
        let mut found = None;
        for token in &self.0 {
            if bool::from(token.sha256.0.ct_eq(&digest.0)) {
                found = Some(token);
            }
        }
        found
    }
}

/// Says what is wrong with a file, and where, without the line itself: people put
/// tokens where their digests belong, and the text goes into the log.
fn wrong(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|text| text.matches('\n').count().saturating_add(1));
    let message = error.message();
    // The parser quotes the value that it has no use for.
    let message = match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            let (before, after) = (message.get(..first), message.get(last..));
            let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
            format!("{before}\"…{after}")
        }
        _ => message.to_owned(),
    };
    let message = masked(&message);
    let Some(line) = line else {
        return message;
    };
    // The name of the line's field is no secret if it is one of the known names.
    let field = text.lines().nth(line.saturating_sub(1));
    let field = field.and_then(|line| line.split_once('='));
    let field = field.map(|(field, _)| field.trim());
    match field.filter(|field| ["name", "scopes", "sha256"].contains(field)) {
        Some(field) => format!("line {line}: {field}: {message}"),
        None => format!("line {line}: {message}"),
    }
}

/// A text without the tokens in it.
fn masked(text: &str) -> String {
    let mut parts = text.split(PREFIX);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked.push_str(PREFIX);
        masked.push('…');
        masked.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric()));
    }
    masked
}

impl Token {
    /// Makes a new token and its secret. Nobody but the caller has the secret afterwards.
    pub fn generate(name: &str, scopes: Vec<Scope>) -> Result<(Self, String), String> {
        let mut bytes = [0; 32];
        OsRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| error.to_string())?;
        let secret = format!("{PREFIX}{}", hex::encode(bytes));
        let token = Self {
            name: name.to_owned(),
            scopes,
            sha256: Digest::of(secret.as_bytes()),
        };
        token.check()?;
        Ok((token, secret))
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            return Err(format!(
                "the name {name:?} must be 1 to {NAME_BYTES_MAX} of A-Z, a-z, 0-9, '.', '_', '-', '@'"
            ));
        }
        if self.scopes.is_empty() {
            return Err(format!("{name} has no scope, so it permits nothing"));
        }
        if self.sha256 == Digest::of(b"") {
            return Err(format!("sha256 of {name} is that of an empty token"));
        }
        Ok(())
    }

    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, secret: &str) -> Token {
        Token {
            name: name.to_owned(),
            scopes: vec![Scope::Read],
            sha256: Digest::of(secret.as_bytes()),
        }
    }

    #[test]
    fn a_secret_is_its_tokens_alone() {
        let tokens = Tokens::new(vec![
            token("a", "one"),
            token("b", "two"),
            token("b", "three"),
        ]);
        let tokens = tokens.unwrap();
        let name = |secret: &str| tokens.find(secret.as_bytes()).map(|token| &*token.name);
        assert_eq!(name("one"), Some("a"));
        assert_eq!(name("two"), Some("b"));
        assert_eq!(
            name("three"),
            Some("b"),
            "a name may be on its way to another token"
        );
        // Neither the digest, nor a part, nor a variation of a secret finds a token.
        for wrong in ["", "on", "one ", "One", &Digest::of(b"one").to_string()] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_is_read_and_what_is_wrong_is_named() {
        let (made, secret) = Token::generate("ci", vec![Scope::Write, Scope::Read]).unwrap();
        let file = TokensFile { tokens: vec![made] };
        let text = toml::to_string(&file).unwrap();
        let tokens = Tokens::parse(text.as_bytes(), &[token("me", "mine")]).unwrap();
        assert!(tokens.find(secret.as_bytes()).unwrap().has(Scope::Write));
        assert!(!tokens.find(secret.as_bytes()).unwrap().has(Scope::Operate));
        assert!(!text.contains(&secret));
        assert_eq!(tokens.find(b"mine").unwrap().name, "me");

        let digest = Digest::of(b"x").to_string();
        let entry = |name: &str, scopes: &str, sha256: &str| {
            format!("[[tokens]]\nname = {name:?}\nscopes = {scopes}\nsha256 = {sha256:?}\n")
        };
        let twice = entry("a", "[\"read\"]", &digest) + &entry("b", "[\"read\"]", &digest);
        for (text, word) in [
            (String::new(), "tokens"),
            ("tokens = []".to_owned(), "no token"),
            (entry("a b", "[\"read\"]", &digest), "\"a b\""),
            (entry("", "[\"read\"]", &digest), "name"),
            (entry("a", "[]", &digest), "no scope"),
            (entry("a", "[\"admin\"]", &digest), "admin"),
            (entry("a", "[\"read\"]", "abc"), "sha256"),
            (
                entry("a", "[\"read\"]", &Digest::of(b"").to_string()),
                "empty",
            ),
            (
                entry("a", "[\"read\"]", &digest) + "token = \"secret\"\n",
                "token",
            ),
            (twice, "the same token"),
        ] {
            let error = Tokens::parse(text.as_bytes(), &[]).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn no_token_is_in_what_is_said_of_a_file() {
        let (made, secret) = Token::generate("ci", vec![Scope::Read]).unwrap();
        let digest = made.sha256.to_string();
        let entry = |name: &str, scope: &str, sha256: &str| {
            format!("[[tokens]]\nname = {name}\nscopes = {scope}\nsha256 = {sha256}\n")
        };
        let quoted = |text: &str| format!("{text:?}");
        let (name, scopes, sha256) = (quoted("ci"), "[\"read\"]", quoted(&digest));
        let own = "my own long secret";
        for (text, line) in [
            (entry(&name, scopes, &quoted(&secret)), 4),
            (entry(&name, scopes, &secret), 4),
            (entry(&name, scopes, &quoted(own)), 4),
            (entry(&name, scopes, own), 4),
            (entry(&name, &quoted(own), &sha256), 3),
            (entry(&name, &format!("[{secret:?}]"), &sha256), 3),
            (entry(&name, scopes, &sha256) + &secret + "\n", 5),
            (entry(&name, scopes, &sha256) + &secret + " = 1\n", 5),
            (entry(&name, scopes, &sha256) + "token = " + own + "\n", 5),
        ] {
            let error = Tokens::parse(text.as_bytes(), &[]).unwrap_err();
            let hex = secret.strip_prefix(PREFIX).unwrap();
            assert!(!error.contains(hex) && !error.contains(own), "{error}");
            assert!(error.contains(&format!("line {line}: ")), "{text}{error}");
        }
        // The error quotes a name, but masks a token in it.
        let named = entry(&quoted(&format!("ci {secret}")), scopes, &sha256);
        let error = Tokens::parse(named.as_bytes(), &[]).unwrap_err();
        assert!(error.contains("\"ci courtside_…\""), "{error}");
    }

    #[test]
    fn no_two_tokens_are_alike() {
        let make = || Token::generate("a", vec![Scope::Read]).unwrap().1;
        let (one, two) = (make(), make());
        assert_ne!(one, two);
        assert_eq!(one.len(), PREFIX.len() + 64);
        assert!(Token::generate("no name", vec![Scope::Read]).is_err());
        assert!(Token::generate("a", vec![]).is_err());
    }
}
