//! `lambic doctor`: what this machine offers, and whether a stopped server's files are whole. It changes nothing.

mod erasures;
mod files;
mod functions;
mod groups;

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::bail;
use serde_json::{Value, json};

use super::Global;
use crate::{
    cli,
    output::{self, Rows},
    settings::Settings,
};

/// One thing that was looked at.
struct Check {
    name: &'static str,
    found: String,
    /// What is wrong and what to do.
    trouble: Option<String>,
    /// What can be done where nothing is wrong; too long for the table.
    note: Option<String>,
}

impl Check {
    fn fine(name: &'static str, found: impl Into<String>) -> Check {
        Check {
            name,
            found: found.into(),
            trouble: None,
            note: None,
        }
    }

    fn noted(name: &'static str, found: impl Into<String>, note: Option<String>) -> Check {
        Check {
            note,
            ..Check::fine(name, found)
        }
    }

    fn trouble(
        name: &'static str,
        found: impl Into<String>,
        trouble: impl std::fmt::Display,
    ) -> Check {
        Check {
            name,
            found: found.into(),
            trouble: Some(trouble.to_string()),
            note: None,
        }
    }

    fn judged(name: &'static str, found: impl Into<String>, trouble: Option<&str>) -> Check {
        Check {
            name,
            found: found.into(),
            trouble: trouble.map(str::to_owned),
            note: None,
        }
    }
}

pub fn run(global: &Global, args: &cli::Doctor) -> anyhow::Result<()> {
    let folder = args
        .data
        .clone()
        .filter(|data| data.is_dir())
        .unwrap_or_else(|| PathBuf::from("."));
    let mut checks = machine(&folder);
    // What the machine offers is told also where the folder cannot be looked at, as that of a server that runs.
    let mut refused = None;
    match args.data.as_deref().map(files::check) {
        Some(Ok(of_files)) => checks.extend(of_files),
        Some(Err(error)) => refused = Some(error),
        None => {}
    }
    let rows = Rows {
        columns: ["check", "found", "trouble"].map(str::to_owned).to_vec(),
        rows: checks
            .iter()
            .map(|check| {
                vec![
                    json!(check.name),
                    json!(check.found),
                    check.trouble.as_ref().map_or(json!(""), |t| json!(t)),
                ]
            })
            .collect(),
        ..Rows::default()
    };
    if global.json {
        let mut objects = rows.objects();
        for (object, check) in objects.iter_mut().zip(&checks) {
            if let Some(note) = &check.note {
                object["note"] = json!(note);
            }
        }
        output::print_json(&Value::Array(objects))?;
    } else {
        output::print(&rows.table())?;
        for check in &checks {
            if let Some(note) = &check.note {
                eprintln!("{}: {note}", check.name);
            }
        }
    }
    if let Some(error) = refused {
        return Err(error);
    }
    let troubles = checks
        .iter()
        .filter(|check| check.trouble.is_some())
        .count();
    if troubles > 0 {
        bail!("{troubles} of {} checks found trouble", checks.len());
    }
    Ok(())
}

fn machine(folder: &Path) -> Vec<Check> {
    let mut checks = facts()
        .into_iter()
        .map(|(name, found)| Check::fine(name, found))
        .collect::<Vec<_>>();
    checks.push(disk(folder));
    checks.push(fsync(folder));
    checks.push(open_files());
    checks.extend(functions::check(folder));
    checks.push(groups::check());
    let usual = Settings::default().server;
    for (name, address) in [("http port", usual.http), ("postgres port", usual.pg)] {
        checks.push(match TcpListener::bind(address) {
            Ok(_) => Check::fine(name, format!("{address} is free")),
            // No trouble: most likely it is our own server.
            Err(_) => Check::fine(
                name,
                format!("{address} is taken; `serve` needs another, or is running"),
            ),
        });
    }
    checks
}

/// What a benchmark's reader wants to know of the machine.
pub fn facts() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = proc_value("/proc/meminfo", "MemTotal").unwrap_or_else(|| "unknown".to_owned());
    let processor =
        proc_value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let build = if cfg!(debug_assertions) {
        "debug (slow: build with --release to measure)"
    } else {
        "release"
    };
    vec![
        ("lambic", format!("{} {build}", env!("CARGO_PKG_VERSION"))),
        (
            "system",
            format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
        ("processor", processor),
        ("cores", cores.to_string()),
        ("memory", memory),
    ]
}

fn proc_value(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':')
        .map(|(_, value)| value.trim().to_owned())
}

fn disk(folder: &Path) -> Check {
    let free = Command::new("df")
        .arg("-Pk")
        .arg(folder)
        .output()
        .ok()
        .and_then(|output| {
            let text = String::from_utf8(output.stdout).ok()?;
            text.lines()
                .nth(1)?
                .split_whitespace()
                .nth(3)?
                .parse::<u64>()
                .ok()
        });
    match free {
        Some(kib) => {
            let trouble = (kib < 1 << 20)
                .then_some("less than 1 GiB is free: appends will be refused when it is full");
            Check::judged(
                "disk free",
                format!("{:.1} GiB", kib as f64 / f64::from(1 << 20)),
                trouble,
            )
        }
        None => Check::fine("disk free", "unknown"),
    }
}

fn fsync(folder: &Path) -> Check {
    const NAME: &str = "fsync of 4 KiB";
    match fsync_times(folder, 50) {
        Ok(mut times) => {
            times.sort();
            let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
            let trouble = (p50 > Duration::from_millis(50))
                .then_some("this disk is slow to sync; every acknowledgement waits for it");
            Check::judged(
                NAME,
                format!("p50 {:.2} ms, p99 {:.2} ms", millis(p50), millis(p99)),
                trouble,
            )
        }
        Err(error) => Check::trouble(
            NAME,
            error.to_string(),
            format_args!("cannot write in {}", folder.display()),
        ),
    }
}

pub fn fsync_times(folder: &Path, count: usize) -> std::io::Result<Vec<Duration>> {
    // A file without a name: the folder is not changed, whatever happens.
    let mut file = tempfile::tempfile_in(folder)?;
    (0..count)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[7; 4096])?;
            file.sync_data()?;
            Ok(start.elapsed())
        })
        .collect()
}

/// Of sorted durations.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or_default()
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn open_files() -> Check {
    const NAME: &str = "open files";
    let limit = proc_value_words("/proc/self/limits", "Max open files");
    match limit {
        Some(limit) => {
            let trouble = (limit < 1024)
                .then_some("raise it with `ulimit -n 4096`: files and connections share it");
            Check::judged(NAME, limit.to_string(), trouble)
        }
        None => Check::fine(NAME, "unknown"),
    }
}

fn proc_value_words(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_many() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_millis(51));
        assert_eq!(percentile(&times, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
