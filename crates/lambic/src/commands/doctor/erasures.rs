//! Whether the erasure log is as it was written: every entry has the hash of the one before it.

use lambic_dataset::{Dataset, ErasureLog, Manifest};

use super::Check;
use crate::output::counted;

const NAME: &str = "erasure log";
const ADVICE: &str = "compare it with a backup: somebody has changed it";

/// `None` if it cannot be read.
pub async fn check(dataset: &Dataset, checks: &mut Vec<Check>) -> Option<ErasureLog> {
    let log = match ErasureLog::open(dataset.store()).await {
        Ok(log) => log,
        Err(error) => {
            checks.push(Check::trouble(NAME, "erasures", error));
            return None;
        }
    };
    for broken in log.broken() {
        let trouble = format_args!("{broken}; {ADVICE}");
        checks.push(Check::trouble(NAME, "erasures", trouble));
    }
    for erasure in log.pending() {
        if let Err(error) = log.offsets(&erasure).await {
            checks.push(Check::trouble(NAME, "erasures", error));
        }
    }
    let (entries, newest) = log.newest();
    let mut told = match entries {
        1 => "1 entry".to_owned(),
        entries => format!("{entries} entries"),
    };
    if entries > 0 {
        told += &format!(", the newest with hash {newest}");
    }
    let pending = log.pending().len() as u64;
    if pending > 0 {
        told += &format!("; {} to be carried out", counted(pending, "erasure"));
    }
    checks.push(Check::fine(NAME, told));
    Some(log)
}

/// Files know of the erasures that they were rewritten for: none may be missing at the end of the log.
pub fn check_files(log: &ErasureLog, manifest: &Manifest, path: &str, checks: &mut Vec<Check>) {
    let known = log.newest_of(manifest.stream);
    let erased = manifest.files.iter().filter_map(|file| file.erased);
    let newest = erased.map(|erased| erased.number).max().unwrap_or(0);
    if newest > known {
        checks.push(Check::trouble(
            NAME,
            path,
            format_args!(
                "erasure {newest} is in the files, but the erasure log has none of the stream after {known}: its end was cut off; {ADVICE}"
            ),
        ));
    }
}
