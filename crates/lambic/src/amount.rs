//! Amounts of memory and disk in settings: a size, or a share of what the machine has.

use std::{fs, path::Path};

use lambic_base::bytes;
use serde::{Deserialize, Deserializer, de};

/// If the machine does not say how much it has.
const MEMORY_UNKNOWN: u64 = 4 << 30;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    Bytes(u64),
    /// In percent of the machine's.
    Share(f64),
}

impl Amount {
    pub fn parse(text: &str) -> Option<Amount> {
        match text.trim().strip_suffix('%') {
            Some(share) => {
                let share: f64 = share.trim().parse().ok()?;
                (share > 0.0 && share <= 100.0).then_some(Amount::Share(share))
            }
            None => bytes::parse(text).map(Amount::Bytes),
        }
    }

    /// In bytes, of a machine that has so many.
    pub fn of(self, all: u64) -> u64 {
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Share(share) => (all as f64 * share / 100.0) as u64,
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
            Other(de::IgnoredAny),
        }
        let amount = match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Some(Amount::Bytes(bytes)),
            Written::Text(text) => Amount::parse(&text),
            Written::Other(_) => None,
        };
        amount.ok_or_else(|| {
            de::Error::custom("expected a size such as \"512MB\" or \"4GiB\", or a share of what the machine has such as \"25%\"")
        })
    }
}

/// What the processes of this machine, or of the container that this is, may use, in bytes.
pub fn memory_bytes() -> u64 {
    let read = |path: &str| fs::read_to_string(Path::new(path)).ok();
    let machine = read("/proc/meminfo").and_then(|text| in_meminfo(&text));
    let groups = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    // What has no limit says `max`, or a number beyond every machine.
    let limits = groups
        .iter()
        .filter_map(|path| read(path)?.trim().parse().ok());
    let least = limits.chain(machine).min();
    least.unwrap_or(MEMORY_UNKNOWN)
}

fn in_meminfo(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_sizes_or_shares() {
        let all = 8 << 30;
        for (text, bytes) in [
            ("25%", Some(2 << 30)),
            ("0.5 %", Some(all / 200)),
            ("100%", Some(all)),
            ("64MiB", Some(64 << 20)),
            ("0%", None),
            ("101%", None),
            ("NaN%", None),
            ("a lot", None),
        ] {
            let amount = Amount::parse(text);
            assert_eq!(amount.map(|amount| amount.of(all)), bytes, "{text}");
        }
    }

    #[test]
    fn the_machine_says_what_it_has() {
        let text = "MemTotal:       24676480 kB\nMemFree:         1234 kB\n";
        assert_eq!(in_meminfo(text), Some(24_676_480 << 10));
        assert_eq!(in_meminfo("MemFree: 12 kB"), None);
        assert!(memory_bytes() > 64 << 20);
    }
}
