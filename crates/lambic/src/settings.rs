//! All settings, read from one commented file of defaults and overridden by the user's.
//!
//! A mistake (unknown key, wrong type) is shown with its place and the closest name that exists.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use serde::Deserialize;

use crate::{amount::Amount, credentials::Auth, exit::refusal, tls::Tls, toml_source};

/// A day: no function may run longer.
pub const TIMEOUT_S_MAX: u64 = 86_400;
/// More interpreters than these would be ready for nobody.
const SPARES_MAX: usize = 1_000;

/// The commented file that ships in the binary.
pub const DEFAULTS: &str = include_str!("../defaults.toml");

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub server: Server,
    pub auth: Auth,
    pub tls: Tls,
    pub log: Log,
    pub dataset: Dataset,
    pub speed: Speed,
    pub batch: Batch,
    pub memory: Memory,
    pub functions: Functions,
    pub traces: Traces,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub http: SocketAddr,
    pub pg: SocketAddr,
    pub http_connections_max: usize,
    pub pg_connections_max: usize,
    pub http_bodies_bytes_max: usize,
    pub http_statements_max: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub segment_bytes: u64,
    pub append_bytes_max: u64,
    pub queue_bytes_max: u64,
    pub producers_max: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    pub seal_records: u64,
    pub seal_after_s: u64,
    pub file_bytes_max: u64,
    pub compact_files: usize,
    pub expire_every_s: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    pub checkpoint_records: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub memory: Amount,
    pub disk_bytes_max: u64,
    pub view_memory: Amount,
    pub slice_records: u64,
    pub threads: usize,
    pub nice: u8,
    pub io_bytes_per_s: u64,
    pub renewal_s_max: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Functions {
    pub python: PathBuf,
    pub node: PathBuf,
    /// Folders with more of them.
    pub interpreters: Vec<PathBuf>,
    pub weak_isolation: bool,
    pub images: Vec<String>,
    /// Empty: there is none.
    pub registry_accounts: PathBuf,
    pub spares: usize,
    pub memory_mb_max: u64,
    pub cpu_overcommit: f64,
    pub timeout_s_max: u64,
    pub retry_s: Vec<f64>,
    pub async_age_s_max: u64,
    pub drain_s_max: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// Empty: they are not wanted.
    pub file: PathBuf,
    pub bytes_max: u64,
}

impl Functions {
    /// How long failed events wait; what was checked is a time.
    pub fn retry_waits(&self) -> Vec<Duration> {
        let seconds = self.retry_s.iter();
        let waits = seconds.map(|seconds| Duration::try_from_secs_f64(*seconds));
        waits.map(Result::unwrap_or_default).collect()
    }

    /// Of a machine that has so many bytes.
    pub fn memory_mb_of(&self, machine: u64) -> u64 {
        match self.memory_mb_max {
            0 => (machine / 4 * 3) >> 20,
            set => set,
        }
    }

    /// Of a machine that has so many, in thousandths.
    pub fn processors_milli_of(&self, processors: usize) -> u64 {
        match self.cpu_overcommit > 0.0 {
            true => (processors as f64 * 1e3 * self.cpu_overcommit) as u64,
            // No bound, and far from where sums of it end.
            false => u64::MAX >> 1,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    pub query_bytes_max: usize,
    pub query_disk_bytes_max: u64,
    pub transactions_bytes_max: usize,
    pub join_index_bytes_max: usize,
}

impl Dataset {
    pub fn seal_after(&self) -> Duration {
        Duration::from_secs(self.seal_after_s)
    }

    pub fn expire_every(&self) -> Duration {
        Duration::from_secs(self.expire_every_s)
    }
}

impl Default for Settings {
    fn default() -> Settings {
        toml::from_str(DEFAULTS).expect("the file of defaults ships with the binary and is tested")
    }
}

impl Settings {
    /// The defaults with the keys of a file of the same shape laid over them.
    pub fn from_file(path: &Path) -> anyhow::Result<Settings> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the settings file {}", path.display()))
            .map_err(refusal)?;
        let table = toml_source::parse::<toml::Table>(path, &text).map_err(refusal)?;
        let mut settings = Settings::overlaid(&table).map_err(|error| {
            refusal(toml_source::explain_value(
                path,
                &text,
                &error,
                &known_keys(),
            ))
        })?;
        settings.stand_in(path).map_err(refusal)?;
        Ok(settings)
    }

    /// After they were read from this file, beside which others lie that they name.
    pub fn stand_in(&mut self, file: &Path) -> anyhow::Result<()> {
        self.tls.settle(file);
        self.auth.read(file)
    }

    /// The defaults with `table` laid over them.
    pub fn overlaid(table: &toml::Table) -> Result<Settings, toml::de::Error> {
        let mut all: toml::Table = toml::from_str(DEFAULTS)
            .expect("the file of defaults ships with the binary and is tested");
        overlay(&mut all, table);
        match all.try_into::<Settings>() {
            Ok(settings) => settings.checked(),
            Err(error) => Err(named(table, error)),
        }
    }

    /// What the types allow and what cannot work.
    fn checked(self) -> Result<Settings, toml::de::Error> {
        const SEGMENT_BYTES_MIN: u64 = 4 << 10;
        // More than a process can have open, and as many as a semaphore counts.
        const COUNT_MAX: usize = 1 << 20;
        const THREADS_MAX: usize = 1 << 10;
        const NICE_MAX: usize = 19;
        const RETRY_WAITS_MAX: usize = 100;
        const OVERCOMMIT: std::ops::RangeInclusive<f64> = 0.0..=1_000.0;
        let most = [
            (
                "http_connections_max",
                self.server.http_connections_max,
                COUNT_MAX,
            ),
            (
                "pg_connections_max",
                self.server.pg_connections_max,
                COUNT_MAX,
            ),
            (
                "http_statements_max",
                self.server.http_statements_max,
                COUNT_MAX,
            ),
            ("threads", self.batch.threads, THREADS_MAX),
            ("nice", self.batch.nice.into(), NICE_MAX),
            ("spares", self.functions.spares, SPARES_MAX),
            (
                "timeout_s_max",
                self.functions.timeout_s_max as usize,
                TIMEOUT_S_MAX as usize,
            ),
        ];
        if let Err(what) = self.auth.check() {
            return Err(serde::de::Error::custom(format!(
                "`keys` under [auth]: {what}"
            )));
        }
        if let Err(what) = self.tls.check() {
            return Err(serde::de::Error::custom(format!("under [tls], {what}")));
        }
        let overcommit = self.functions.cpu_overcommit;
        if !OVERCOMMIT.contains(&overcommit) {
            let what = "it must be 0, for no bound, to 1000";
            return Err(mistake("cpu_overcommit", overcommit, what));
        }
        if let Some((key, value, most)) = most.iter().find(|(_, value, most)| value > most) {
            return Err(mistake(key, value, &format!("it must be at most {most}")));
        }
        let retry_s = &self.functions.retry_s;
        let is_time = |seconds: &f64| (0.0..=TIMEOUT_S_MAX as f64).contains(seconds);
        if !(1..=RETRY_WAITS_MAX).contains(&retry_s.len()) || !retry_s.iter().all(is_time) {
            let most = format!(
                "it must have 1 to {RETRY_WAITS_MAX} times, each of 0 to {TIMEOUT_S_MAX} seconds"
            );
            return Err(mistake("retry_s", format!("{retry_s:?}"), &most));
        }
        let least: [(&str, u64, u64); 19] = [
            ("segment_bytes", self.log.segment_bytes, SEGMENT_BYTES_MIN),
            ("append_bytes_max", self.log.append_bytes_max, 1),
            ("queue_bytes_max", self.log.queue_bytes_max, 1),
            ("producers_max", self.log.producers_max as u64, 1),
            ("seal_records", self.dataset.seal_records, 1),
            ("checkpoint_records", self.speed.checkpoint_records, 1),
            // Of a share, that of the smallest machine.
            ("memory", self.batch.memory.of(1 << 30), 1 << 20),
            ("view_memory", self.batch.view_memory.of(1 << 30), 1 << 20),
            ("slice_records", self.batch.slice_records, 1_000),
            ("renewal_s_max", self.batch.renewal_s_max, 1),
            ("file_bytes_max", self.dataset.file_bytes_max, 1 << 16),
            ("expire_every_s", self.dataset.expire_every_s, 1),
            (
                "http_connections_max",
                self.server.http_connections_max as u64,
                1,
            ),
            (
                "pg_connections_max",
                self.server.pg_connections_max as u64,
                1,
            ),
            (
                "http_statements_max",
                self.server.http_statements_max as u64,
                1,
            ),
            (
                "query_bytes_max",
                self.memory.query_bytes_max as u64,
                1 << 20,
            ),
            ("timeout_s_max", self.functions.timeout_s_max, 1),
            ("async_age_s_max", self.functions.async_age_s_max, 1),
            ("bytes_max", self.traces.bytes_max, 1 << 16),
        ];
        match least.iter().find(|(_, value, least)| value < least) {
            Some((key, value, least)) => {
                Err(mistake(key, value, &format!("it must be at least {least}")))
            }
            None => Ok(self),
        }
    }
}

fn mistake(key: &str, value: impl std::fmt::Display, what: &str) -> toml::de::Error {
    serde::de::Error::custom(format!("`{key}` = {value}: {what}"))
}

/// An error of the whole that does not say which of the user's keys it comes from: the first that fails alone.
fn named(above: &toml::Table, error: toml::de::Error) -> toml::de::Error {
    if error.message().contains('`') {
        return error;
    }
    for (section, keys) in above {
        let toml::Value::Table(keys) = keys else {
            continue;
        };
        for (key, value) in keys {
            let mut all: toml::Table = toml::from_str(DEFAULTS)
                .expect("the file of defaults ships with the binary and is tested");
            let one = toml::Table::from_iter([(key.clone(), value.clone())]);
            let one = toml::Table::from_iter([(section.clone(), toml::Value::Table(one))]);
            overlay(&mut all, &one);
            if let Err(error) = all.try_into::<Settings>() {
                // Secrets are not shown, whatever is wrong with them.
                let shown = match section.as_str() {
                    "auth" => "…".to_owned(),
                    _ => value.to_string(),
                };
                return mistake(key, shown, error.message().trim_end());
            }
        }
    }
    error
}

fn overlay(below: &mut toml::Table, above: &toml::Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Names of all sections and keys, for suggestions.
pub fn known_keys() -> Vec<String> {
    let all: toml::Table =
        toml::from_str(DEFAULTS).expect("the file of defaults ships with the binary and is tested");
    let mut names = Vec::new();
    for (section, value) in &all {
        names.push(section.clone());
        if let toml::Value::Table(keys) = value {
            names.extend(keys.keys().cloned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_complete() {
        assert_eq!(Settings::default().server.http.port(), 7070);
    }

    #[test]
    fn a_file_lies_over_the_defaults() {
        let table: toml::Table =
            toml::from_str("[dataset]\nseal_after_s = 5\n").expect("valid TOML");
        let settings = Settings::overlaid(&table).expect("known keys");
        assert_eq!(settings.dataset.seal_after(), Duration::from_secs(5));
        assert_eq!(settings.log, Settings::default().log);
    }

    #[test]
    fn secrets_are_not_shown() {
        for keys in [
            "[[auth.keys]]\nid = 5\nsecret = \"hidden-hidden-hidden\"\n",
            "[[auth.keys]]\nid = \"AKID\"\nsecret = \"hidden hidden hidden\"\n",
            "[[auth.keys]]\nid = \"AKID\"\nsecrt = \"hidden-hidden-hidden\"\n",
        ] {
            let table: toml::Table = toml::from_str(keys).expect("valid TOML");
            let told = Settings::overlaid(&table).expect_err(keys).to_string();
            assert!(!told.contains("hidden"), "{told}");
        }
    }

    #[test]
    fn functions_have_three_quarters_of_the_memory_or_what_is_set() {
        let mut functions = Settings::default().functions;
        assert_eq!(functions.memory_mb_of(8 << 30), 6 << 10);
        functions.memory_mb_max = 100;
        assert_eq!(functions.memory_mb_of(8 << 30), 100);
    }

    #[test]
    fn events_are_tried_again_as_on_aws_or_as_it_is_set() {
        let settings = |text: &str| {
            let table: toml::Table = toml::from_str(text).expect("valid TOML");
            Settings::overlaid(&table).map(|settings| settings.functions.retry_waits())
        };
        let millis = |millis: [u64; 2]| millis.map(Duration::from_millis).to_vec();
        assert_eq!(settings("").expect("fine"), millis([60_000, 120_000]));
        let short = settings("[functions]\nretry_s = [0.2, 1]\n");
        assert_eq!(short.expect("fine"), millis([200, 1_000]));
        for wrong in ["[]", "[-1]", "[nan]", "[1e9]"] {
            let told = settings(&format!("[functions]\nretry_s = {wrong}\n"));
            let told = told.expect_err(wrong).to_string();
            assert!(told.contains("`retry_s` = "), "{told}");
        }
    }

    #[test]
    fn functions_have_processors_several_times_over_or_without_bound() {
        let mut functions = Settings::default().functions;
        assert_eq!(functions.processors_milli_of(2), 16_000);
        functions.cpu_overcommit = 0.5;
        assert_eq!(functions.processors_milli_of(2), 1_000);
        functions.cpu_overcommit = 0.0;
        assert!(functions.processors_milli_of(2) > 1 << 60);
        let table: toml::Table =
            toml::from_str("[functions]\ncpu_overcommit = -1\n").expect("valid TOML");
        let told = Settings::overlaid(&table).expect_err("it is refused");
        assert!(told.to_string().contains("cpu_overcommit"), "{told}");
    }

    #[test]
    fn doors_take_somebody() {
        for key in [
            "http_connections_max",
            "pg_connections_max",
            "http_statements_max",
        ] {
            for wrong in ["0", "2_000_000"] {
                let text = format!("[server]\n{key} = {wrong}\n");
                let table: toml::Table = toml::from_str(&text).expect("valid TOML");
                let told = Settings::overlaid(&table).expect_err(&text).to_string();
                assert!(told.contains(key), "{told}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let table: toml::Table =
            toml::from_str("[dataset]\nseal_afters = 5\n").expect("valid TOML");
        assert!(Settings::overlaid(&table).is_err());
    }
}
