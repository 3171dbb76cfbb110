//! Which code of a function is meant: `$LATEST`, a published version, or an alias that points to versions.
//!
//! Words and rules are AWS Lambda's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Error;

const LATEST: &str = "$LATEST";
/// AWS's, of a qualifier.
const QUALIFIER_BYTES_MAX: usize = 128;

/// Written `$LATEST` or `7`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FunctionVersion {
    /// What was deployed last; it changes.
    #[default]
    Latest,
    /// A published version, from 1; it never changes.
    Number(u64),
}

impl fmt::Display for FunctionVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FunctionVersion::Latest => f.write_str(LATEST),
            FunctionVersion::Number(number) => write!(f, "{number}"),
        }
    }
}

impl FromStr for FunctionVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<FunctionVersion, Error> {
        let number = text.parse().ok().filter(|_| is_number(text));
        match (text, number) {
            (LATEST, _) => Ok(FunctionVersion::Latest),
            (_, Some(number)) => Ok(FunctionVersion::Number(number)),
            _ => Err(Error::BadValue {
                reason: format!("`{text}` is not a version; it is `{LATEST}` or a number"),
            }),
        }
    }
}

impl TryFrom<String> for FunctionVersion {
    type Error = Error;

    fn try_from(text: String) -> Result<FunctionVersion, Error> {
        text.parse()
    }
}

impl From<FunctionVersion> for String {
    fn from(version: FunctionVersion) -> String {
        version.to_string()
    }
}

/// Digits only: an alias must not look like this.
pub fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What stands behind a function's name: `f:7`, `f:live`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Qualifier {
    Version(FunctionVersion),
    Alias(String),
}

impl Qualifier {
    pub const LATEST: Qualifier = Qualifier::Version(FunctionVersion::Latest);
}

impl fmt::Display for Qualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Qualifier::Version(version) => version.fmt(f),
            Qualifier::Alias(alias) => f.write_str(alias),
        }
    }
}

impl FromStr for Qualifier {
    type Err = Error;

    fn from_str(text: &str) -> Result<Qualifier, Error> {
        if let Ok(version) = text.parse() {
            return Ok(Qualifier::Version(version));
        }
        let is_name = (1..=QUALIFIER_BYTES_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        match is_name && !is_number(text) {
            true => Ok(Qualifier::Alias(text.to_owned())),
            false => Err(Error::BadValue {
                reason: format!(
                    "`{text}` is neither a version nor the name of an alias: use letters, digits, `-` and `_`, at most {QUALIFIER_BYTES_MAX}"
                ),
            }),
        }
    }
}

impl TryFrom<String> for Qualifier {
    type Error = Error;

    fn try_from(text: String) -> Result<Qualifier, Error> {
        text.parse()
    }
}

impl From<Qualifier> for String {
    fn from(qualifier: Qualifier) -> String {
        qualifier.to_string()
    }
}

/// A function's name with what stands behind it, as the queue of events keeps it.
pub fn split(name: &str) -> (&str, Option<Qualifier>) {
    match name.split_once(':') {
        Some((name, qualifier)) => (name, qualifier.parse().ok()),
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_aliases_are_told_apart() {
        for (text, expected) in [
            ("$LATEST", Some(Qualifier::LATEST)),
            ("7", Some(Qualifier::Version(FunctionVersion::Number(7)))),
            ("live", Some(Qualifier::Alias("live".to_owned()))),
            ("7a", Some(Qualifier::Alias("7a".to_owned()))),
            ("+7", None),
            ("$latest", None),
            ("", None),
            ("a b", None),
            // Digits, and more than a number has.
            ("99999999999999999999999", None),
        ] {
            let read = text.parse::<Qualifier>().ok();
            assert_eq!(read, expected, "{text}");
            if let Some(read) = read {
                assert_eq!(read.to_string(), text);
            }
        }
        assert!("x".repeat(129).parse::<Qualifier>().is_err());
    }

    #[test]
    fn a_qualified_name_is_split() {
        assert_eq!(split("f"), ("f", None));
        assert_eq!(
            split("f:live"),
            ("f", Some(Qualifier::Alias("live".to_owned())))
        );
    }
}
