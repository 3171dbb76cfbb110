//! How long a stream keeps its records, as it is declared: for ever, unless said otherwise.

use std::time::Duration;

use lambic_dataset::Keep;
use serde::{Deserialize, Serialize};

use crate::{Error, error::find_word, sqlstate};

pub const AGE: &str = "retention";
pub const BYTES: &str = "retention_bytes";
const AGE_MIN: Duration = Duration::from_secs(1);
const BYTES_MIN: u64 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Since they were appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Duration>,
    /// Of sealed files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl Retention {
    pub fn is_for_ever(&self) -> bool {
        *self == Retention::default()
    }

    /// In the largest unit that it is whole in.
    pub fn age_shown(&self) -> Option<String> {
        let age = self.age?;
        let whole = |unit_s: u64| age.subsec_nanos() == 0 && age.as_secs() % unit_s == 0;
        Some(match age.as_secs() {
            86_400 => "1 day".to_owned(),
            seconds if whole(86_400) => format!("{} days", seconds / 86_400),
            seconds if whole(3_600) => format!("{}h", seconds / 3_600),
            seconds if whole(60) => format!("{}m", seconds / 60),
            _ => humantime::format_duration(age).to_string(),
        })
    }

    /// As it is declared.
    pub fn shown(&self) -> String {
        let age = self.age_shown().map(|age| format!("{AGE} = '{age}'"));
        let bytes = self.bytes.map(|bytes| format!("{BYTES} = {bytes}"));
        let parts: Vec<String> = age.into_iter().chain(bytes).collect();
        parts.join(", ")
    }

    pub fn keep(&self, now_us: i64) -> Keep {
        let since = self.age.map(|age| {
            let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            now_us.saturating_sub(age_us)
        });
        Keep {
            since_us: since,
            bytes: self.bytes,
        }
    }

    /// Takes one setting of `WITH` or `SET`; `None` as in `RESET`. False if it is none of these.
    pub fn set(&mut self, name: &str, value: Option<&str>, sql: &str) -> Result<bool, Error> {
        match name {
            AGE => self.age = value.map(|value| age(value, sql)).transpose()?,
            BYTES => self.bytes = value.map(|value| bytes(value, sql)).transpose()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn age(value: &str, sql: &str) -> Result<Duration, Error> {
    let parsed = humantime::parse_duration(value).ok();
    parsed.filter(|age| *age >= AGE_MIN).ok_or_else(|| {
        Error::new(
            sqlstate::INVALID_PARAMETER,
            format!("{AGE} must be a duration of at least 1s, not '{value}'"),
        )
        .with_position(find_word(sql, AGE))
        .with_hint("for example '30 days', '12h' or '1year'; without it records are kept for ever")
    })
}

fn bytes(value: &str, sql: &str) -> Result<u64, Error> {
    let bytes = lambic_base::bytes::parse(value);
    bytes.filter(|bytes| *bytes >= BYTES_MIN).ok_or_else(|| {
        Error::new(
            sqlstate::INVALID_PARAMETER,
            format!("{BYTES} must be a size of at least 1 byte, not '{value}'"),
        )
        .with_position(find_word(sql, BYTES))
        .with_hint("for example '500 MB', '20GB' or a number of bytes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_shown_and_what_cannot_be_meant_is_refused() {
        let check = |name: &str, value: &str, shown: Option<&str>| {
            let mut retention = Retention::default();
            match (retention.set(name, Some(value), ""), shown) {
                (Ok(true), Some(shown)) => assert_eq!(retention.shown(), shown),
                (Err(error), None) => assert_eq!(error.sqlstate, sqlstate::INVALID_PARAMETER),
                other => panic!("{name} {value}: {other:?}"),
            }
            assert!(retention.set(name, None, "").unwrap());
            assert!(retention.is_for_ever());
        };
        check(AGE, "30 days", Some("retention = '30 days'"));
        check(AGE, "36h", Some("retention = '36h'"));
        check(AGE, "24h", Some("retention = '1 day'"));
        check(AGE, "90m", Some("retention = '90m'"));
        check(AGE, "1s 500ms", Some("retention = '1s 500ms'"));
        check(AGE, "soon", None);
        check(AGE, "10ms", None);
        check(BYTES, "10", Some("retention_bytes = 10"));
        check(BYTES, "2 kB", Some("retention_bytes = 2048"));
        check(BYTES, "3GB", Some("retention_bytes = 3221225472"));
        check(BYTES, "0", None);
        check(BYTES, "-1", None);
        check(BYTES, "99999999999TB", None);
        check(BYTES, "2 parsecs", None);
        let unknown = Retention::default().set("partitions", Some("2"), "");
        assert!(matches!(unknown, Ok(false)));
    }

    #[test]
    fn its_moment_moves_with_the_clock() {
        let retention = Retention {
            age: Some(Duration::from_secs(10)),
            bytes: Some(7),
        };
        let keep = Keep {
            since_us: Some(90_000_000),
            bytes: Some(7),
        };
        assert_eq!(retention.keep(100_000_000), keep);
        let for_ever = Retention {
            age: Some(Duration::MAX),
            bytes: None,
        };
        assert!(for_ever.keep(0).since_us.is_some_and(|since| since < 0));
    }
}
