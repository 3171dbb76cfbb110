//! A connection's settings: what `SHOW` answers and `SET` changes.
//!
//! Clients set many of Postgres's settings out of habit. Those that have a meaning here take effect
//! (`statement_timeout`, `bytea_output`); the others are remembered and shown again. A name that
//! Postgres does not know either is an error, as there.

use std::{collections::BTreeMap, time::Duration};

use lambic_query::Modes;

use super::control::{ModeChange, isolation_named, name_of};

/// What `server_version` says: clients choose their catalog queries by it.
pub const SERVER_VERSION: &str = "16.6";

/// Name as clients show it, value at the start of a connection.
const DEFAULTS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("array_nulls", "on"),
    ("bytea_output", "hex"),
    ("check_function_bodies", "on"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("cursor_tuple_fraction", "0.1"),
    ("DateStyle", "ISO, MDY"),
    ("default_table_access_method", "heap"),
    ("default_tablespace", ""),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("enable_bitmapscan", "on"),
    ("enable_hashjoin", "on"),
    ("enable_indexscan", "on"),
    ("enable_mergejoin", "on"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "on"),
    ("escape_string_warning", "on"),
    ("extra_float_digits", "1"),
    ("geqo", "on"),
    ("gin_fuzzy_search_limit", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "on"),
    ("jit", "off"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("lock_timeout", "0"),
    ("log_statement", "none"),
    ("max_connections", "100"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("password_encryption", "scram-sha-256"),
    ("plan_cache_mode", "auto"),
    ("quote_all_identifiers", "off"),
    ("row_security", "off"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "160006"),
    ("session_authorization", ""),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("synchronize_seqscans", "on"),
    ("synchronous_commit", "on"),
    ("TimeZone", "UTC"),
    ("transaction_deferrable", "off"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
    ("wal_level", "replica"),
    ("work_mem", "4MB"),
    ("xmloption", "content"),
];

/// Facts of the server: `SET` refuses them.
const FIXED: &[&str] = &[
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "max_connections",
    "max_identifier_length",
    "max_index_keys",
    "server_encoding",
    "server_version",
    "server_version_num",
    "session_authorization",
    // `SET TRANSACTION` sets these.
    "transaction_isolation",
    "transaction_read_only",
    "wal_level",
];

/// Settings whose value clients are told at the start and at every change.
const REPORTED: &[&str] = &[
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetError {
    Unknown,
    Fixed,
    Invalid,
}

#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// By lower-case name: what differs from [`DEFAULTS`].
    changed: BTreeMap<String, String>,
    /// What the start of the connection asked for; `RESET` goes back to it.
    initial: BTreeMap<String, String>,
}

impl Settings {
    /// From the parameters of the startup message; unknown ones are ignored, as clients expect.
    pub fn at_startup<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in parameters {
            match name {
                "user" => settings.keep_initial("session_authorization", value),
                "database" | "replication" | "options" => {}
                _ if known(name).is_some() && !FIXED.contains(&name) => {
                    settings.keep_initial(&name.to_ascii_lowercase(), value);
                }
                _ => {}
            }
        }
        settings.changed = settings.initial.clone();
        settings
    }

    fn keep_initial(&mut self, name: &str, value: &str) {
        // Only UTF-8 is spoken; clients that ask for it under other names get its usual one.
        // Drivers send the zone of the machine that they run on; the answer tells them which it is here.
        let value = match name {
            "client_encoding" => "UTF8",
            "timezone" => "UTC",
            _ => value,
        };
        self.initial.insert(name.to_owned(), value.to_owned());
    }

    /// The name as shown and the value.
    pub fn get(&self, name: &str) -> Option<(String, String)> {
        let lower = name.to_ascii_lowercase();
        let (shown, default) = match known(&lower) {
            Some((shown, default)) => (shown.to_owned(), Some(default.to_owned())),
            None => (lower.clone(), None),
        };
        let value = self.changed.get(&lower).cloned().or(default)?;
        Some((shown, value))
    }

    pub fn value(&self, name: &str) -> String {
        self.get(name).map(|(_, value)| value).unwrap_or_default()
    }

    /// `None` sets the default. Returns what to tell the client, if it follows this setting.
    pub fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
    ) -> Result<Option<(String, String)>, SetError> {
        let lower = name.to_ascii_lowercase();
        // Names with a dot are the client's own in Postgres too.
        let shown = match known(&lower) {
            Some((shown, _)) => shown,
            None if lower.contains('.') => lower.as_str(),
            None => return Err(SetError::Unknown),
        };
        if FIXED.contains(&lower.as_str()) {
            return Err(SetError::Fixed);
        }
        match value {
            Some(value) => {
                let value = checked(&lower, value).ok_or(SetError::Invalid)?;
                self.changed.insert(lower.clone(), value);
            }
            None => match self.initial.get(&lower) {
                Some(initial) => {
                    self.changed.insert(lower.clone(), initial.clone());
                }
                None => {
                    self.changed.remove(&lower);
                }
            },
        }
        let report = REPORTED.contains(&shown);
        Ok(report.then(|| (shown.to_owned(), self.value(&lower))))
    }

    pub fn reset_all(&mut self) {
        self.changed = self.initial.clone();
    }

    pub fn all(&self) -> Vec<(String, String)> {
        DEFAULTS
            .iter()
            .filter_map(|(name, _)| self.get(name))
            .collect()
    }

    /// What the client is told when the connection starts.
    pub fn reported(&self) -> Vec<(String, String)> {
        REPORTED.iter().filter_map(|name| self.get(name)).collect()
    }

    /// `None`: no limit.
    pub fn statement_timeout(&self) -> Option<Duration> {
        duration(&self.value("statement_timeout")).filter(|timeout| !timeout.is_zero())
    }

    /// What transactions of the session begin with.
    pub fn modes(&self) -> Modes {
        let isolation = self.value("default_transaction_isolation");
        Modes {
            isolation: isolation_named(&isolation).unwrap_or_default(),
            read_only: self.value("default_transaction_read_only") == "on",
        }
    }

    pub fn set_modes(&mut self, modes: ModeChange) {
        let read_only = modes.read_only.map(on_or_off);
        let isolation = modes.isolation.map(name_of);
        for (name, value) in [
            ("default_transaction_isolation", isolation),
            ("default_transaction_read_only", read_only),
        ] {
            if let Some(value) = value {
                self.changed.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    pub fn bytea_as_escape(&self) -> bool {
        self.value("bytea_output").eq_ignore_ascii_case("escape")
    }
}

/// The default of a setting, for the SQL functions that have no connection at hand.
pub fn default_of(name: &str) -> Option<&'static str> {
    known(name).map(|(_, default)| default)
}

fn known(name: &str) -> Option<(&'static str, &'static str)> {
    DEFAULTS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .copied()
}

fn checked(name: &str, value: &str) -> Option<String> {
    match name {
        "client_encoding" => {
            let plain: String = value
                .chars()
                .filter(|c| c.is_ascii_alphanumeric())
                .collect();
            ["utf8", "unicode", "sqlascii"]
                .iter()
                .any(|known| plain.eq_ignore_ascii_case(known))
                .then(|| "UTF8".to_owned())
        }
        // Timestamps are read and written in UTC only.
        "timezone" => is_utc(value).then(|| "UTC".to_owned()),
        "statement_timeout" => duration(value).map(|_| value.to_owned()),
        "default_transaction_isolation" => {
            isolation_named(value).map(|isolation| name_of(isolation).to_owned())
        }
        "default_transaction_read_only" => switch(value).map(|on| on_or_off(on).to_owned()),
        "bytea_output" => ["hex", "escape"]
            .iter()
            .find(|known| value.eq_ignore_ascii_case(known))
            .map(|known| (*known).to_owned()),
        // Only the ISO form is written, whatever the order of day and month in input.
        "datestyle" => {
            let order = value
                .rsplit(',')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_uppercase();
            let order = if matches!(order.as_str(), "DMY" | "YMD") {
                order
            } else {
                "MDY".to_owned()
            };
            Some(format!("ISO, {order}"))
        }
        _ => Some(value.to_owned()),
    }
}

pub fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn is_utc(zone: &str) -> bool {
    let zone = zone.trim().to_ascii_lowercase();
    matches!(
        zone.as_str(),
        "utc"
            | "etc/utc"
            | "gmt"
            | "etc/gmt"
            | "zulu"
            | "z"
            | "universal"
            | "0"
            | "+00"
            | "+00:00"
            | "-00"
    )
}

/// `5000`, `5000ms`, `5s`, `2min`, `1h`: Postgres's units of time, milliseconds if there is none.
pub fn duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let number: u64 = value[..digits].parse().ok()?;
    let factor = match value[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_as_postgres_names_them() {
        let mut settings = Settings::at_startup([("user", "ada"), ("TimeZone", "Europe/Berlin")]);
        assert_eq!(
            settings.get("timezone"),
            Some(("TimeZone".into(), "UTC".into()))
        );
        assert_eq!(
            settings.set("timezone", Some("Europe/Berlin")),
            Err(SetError::Invalid)
        );
        assert_eq!(settings.value("session_authorization"), "ada");
        assert_eq!(
            settings.set("timezone", Some("UTC")),
            Ok(Some(("TimeZone".into(), "UTC".into())))
        );
        settings.set("timezone", None).unwrap();
        assert_eq!(settings.value("TimeZone"), "UTC");
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        let mut settings = Settings::default();
        assert_eq!(
            settings.set("serch_path", Some("a")),
            Err(SetError::Unknown)
        );
        assert_eq!(
            settings.set("server_version", Some("9")),
            Err(SetError::Fixed)
        );
        assert_eq!(
            settings.set("client_encoding", Some("latin1")),
            Err(SetError::Invalid)
        );
        assert_eq!(settings.set("my.own", Some("a")), Ok(None));
        assert_eq!(settings.get("my.own"), Some(("my.own".into(), "a".into())));
    }

    #[test]
    fn the_statement_timeout_has_units() {
        let mut settings = Settings::default();
        assert_eq!(settings.statement_timeout(), None);
        for (value, ms) in [
            ("5000", 5000),
            ("250ms", 250),
            ("2s", 2000),
            ("1min", 60000),
        ] {
            settings.set("statement_timeout", Some(value)).unwrap();
            assert_eq!(
                settings.statement_timeout(),
                Some(Duration::from_millis(ms))
            );
        }
        assert_eq!(
            settings.set("statement_timeout", Some("soon")),
            Err(SetError::Invalid)
        );
    }
}
