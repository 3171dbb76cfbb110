//! Names of streams, views and functions, checked once where they come in.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Postgres truncates identifiers at 63 bytes; we refuse longer ones instead of truncating in silence.
const IDENTIFIER_BYTES_MAX: usize = 63;
/// AWS Lambda's limit for function names.
const FUNCTION_NAME_BYTES_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a {kind} name: {reason}")]
pub struct NameError {
    pub kind: &'static str,
    pub name: String,
    pub reason: &'static str,
}

fn check_identifier(name: &str) -> Result<(), &'static str> {
    let mut chars = name.chars();
    match chars.next() {
        None => return Err("it is empty"),
        Some(c) if c.is_ascii_lowercase() || c == '_' => {}
        Some(_) => return Err("it must start with a lower-case letter or `_`"),
    }
    if name.len() > IDENTIFIER_BYTES_MAX {
        return Err("it is longer than 63 bytes");
    }
    if !chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Err("use lower-case letters, digits and `_` only");
    }
    Ok(())
}

fn check_function_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > FUNCTION_NAME_BYTES_MAX {
        return Err("it is longer than 64 bytes");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    {
        return Err("use letters, digits, `-` and `_` only");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
                let name = name.as_ref();
                match $check(name) {
                    Ok(()) => Ok(Self(name.into())),
                    Err(reason) => Err(NameError { kind: $kind, name: name.to_owned(), reason }),
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.as_str().to_owned()
            }
        }
    };
}

name!(
    /// A stream: a lower-case SQL identifier.
    StreamName, "stream", check_identifier
);
name!(
    /// A view: a lower-case SQL identifier; streams and views share one namespace.
    ViewName, "view", check_identifier
);
name!(
    /// A function: AWS Lambda's alphabet.
    FunctionName, "function", check_function_name
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let long = "x".repeat(64);
        for (name, stream_ok, function_ok) in [
            ("flights", true, true),
            ("_a1", true, true),
            ("Flights", false, true),
            ("flag-long", false, true),
            ("1st", false, true),
            ("", false, false),
            ("a b", false, false),
            ("größe", false, false),
            (long.as_str(), false, true),
        ] {
            assert_eq!(StreamName::new(name).is_ok(), stream_ok, "stream {name:?}");
            assert_eq!(
                FunctionName::new(name).is_ok(),
                function_ok,
                "function {name:?}"
            );
        }
    }

    #[test]
    fn a_bad_name_does_not_deserialise() {
        assert!(
            serde::Deserialize::deserialize(serde::de::value::StringDeserializer::<
                serde::de::value::Error,
            >::new("a b".to_owned()))
            .map(|_: StreamName| ())
            .is_err()
        );
    }
}
