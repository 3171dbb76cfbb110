//! How the end of a program is told: in AWS's words, which are Go's.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus};

use lambic_model::Outcome;

use crate::failure;

/// What Go calls signals, from 1 on; the others have no names there.
const SIGNALS: [&str; 15] = [
    "hangup",
    "interrupt",
    "quit",
    "illegal instruction",
    "trace/breakpoint trap",
    "aborted",
    "bus error",
    "floating point exception",
    "killed",
    "user defined signal 1",
    "segmentation fault",
    "user defined signal 2",
    "broken pipe",
    "alarm clock",
    "terminated",
];

/// Of a runtime that ended while something was expected of it.
pub fn exited(request_id: &str, status: io::Result<ExitStatus>) -> Outcome {
    let how = match status {
        Ok(status) => how(status),
        Err(error) => format!("Runtime was lost: {error}"),
    };
    failure(
        "Runtime.ExitError",
        &format!("RequestId: {request_id} Error: {how}"),
    )
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "Runtime exited without providing a reason".to_owned(),
        (Some(code), _) => format!("Runtime exited with error: exit status {code}"),
        (None, signal) => {
            let name = name_of(signal.unwrap_or_default());
            format!("Runtime exited with error: signal: {name}")
        }
    }
}

fn name_of(signal: i32) -> String {
    let index = usize::try_from(signal).ok().and_then(|n| n.checked_sub(1));
    match index.and_then(|index| SIGNALS.get(index)) {
        Some(name) => (*name).to_owned(),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use super::*;

    #[test]
    fn an_end_is_told_in_the_words_of_aws() {
        for (status, told) in [
            (0, "Runtime exited without providing a reason"),
            (7 << 8, "Runtime exited with error: exit status 7"),
            (libc::SIGKILL, "Runtime exited with error: signal: killed"),
            (
                libc::SIGSEGV,
                "Runtime exited with error: signal: segmentation fault",
            ),
            // With a dump of its memory.
            (
                libc::SIGABRT | 0x80,
                "Runtime exited with error: signal: aborted",
            ),
            (
                libc::SIGTERM,
                "Runtime exited with error: signal: terminated",
            ),
            (libc::SIGSYS, "Runtime exited with error: signal: signal 31"),
        ] {
            assert_eq!(how(ExitStatus::from_raw(status)), told);
        }
    }
}
