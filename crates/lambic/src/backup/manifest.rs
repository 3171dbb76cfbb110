//! What one backup consists of.

use std::collections::BTreeMap;

use lambic_base::{Clock, SystemClock};
use lambic_model::Frontier;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::sha256;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// When it was begun, so that ids sort by time, and some chance.
    pub id: String,
    pub started_at_us: i64,
    pub finished_at_us: i64,
    /// The version that made it.
    pub lambic: String,
    /// Machine and data folder.
    pub origin: String,
    /// Where each stream ends, by name.
    pub frontier: BTreeMap<String, Frontier>,
    /// The records of erasures up to this one are not in it.
    pub erasure: u64,
    /// By path.
    pub files: Vec<File>,
}

/// A file of the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    /// Of the text of `backup`.
    sha256: String,
    #[serde(borrow)]
    backup: &'a RawValue,
}

impl Manifest {
    /// A new id.
    pub fn id_now() -> (String, i64) {
        let at_us = SystemClock.now_us();
        let time = std::time::UNIX_EPOCH
            + std::time::Duration::from_micros(u64::try_from(at_us).unwrap_or_default());
        let time = humantime::format_rfc3339_micros(time).to_string();
        let time = time.replace([':', '-'], "");
        let chance = uuid::Uuid::new_v4().simple().to_string();
        (format!("{time}-{}", &chance[..4]), at_us)
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub fn frontier_shown(&self) -> String {
        shown(&self.frontier)
    }

    pub fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_string(self).expect("a manifest holds what JSON can say");
        let raw = RawValue::from_string(text).expect("it is JSON");
        let stored = Stored {
            sha256: sha256(raw.get().as_bytes()),
            backup: &raw,
        };
        let mut bytes = serde_json::to_vec(&stored).expect("a manifest holds what JSON can say");
        bytes.push(b'\n');
        bytes
    }

    /// The error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, String> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if sha256(stored.backup.get().as_bytes()) != stored.sha256 {
            return Err("its checksum does not match".to_owned());
        }
        serde_json::from_str(stored.backup.get()).map_err(|error| error.to_string())
    }
}

pub fn shown(frontier: &BTreeMap<String, Frontier>) -> String {
    let records = |frontier: &Frontier| frontier.records() > 0;
    let each = frontier.iter().filter(|(_, frontier)| records(frontier));
    let each = each.map(|(name, frontier)| format!("{name}@{frontier}"));
    each.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (id, at_us) = Manifest::id_now();
        let manifest = Manifest {
            id,
            started_at_us: at_us,
            finished_at_us: at_us,
            lambic: "0.1.0".to_owned(),
            origin: "here:/data".to_owned(),
            frontier: [("visits".to_owned(), Frontier::zero(2))].into(),
            erasure: 3,
            files: vec![File {
                path: "catalog.json".to_owned(),
                bytes: 12,
                sha256: sha256(b"x"),
                crc32c: None,
            }],
        };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // White space around it means nothing.
            if let Ok(read) = Manifest::decode(&flipped) {
                assert_eq!(read, manifest, "bit {bit}");
            }
        }
        for length in 0..bytes.len() - 1 {
            assert!(Manifest::decode(&bytes[..length]).is_err());
        }
    }
}
