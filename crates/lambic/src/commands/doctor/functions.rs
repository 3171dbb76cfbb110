//! What this machine offers to functions: interpreters, and how processes are shut in.
//!
//! It is tried as a server tries it, by the user who asks, with a shell that ends at once. What is missing is no trouble
//! of the engine, so it does not make `doctor` fail: it says which functions cannot run, and what to do.

use std::{fs, path::Path};

use lambic_functions::Runtimes;
use lambic_sandbox::process::{Interpreter, Isolation, Launch, Part, Zygote};

use super::Check;
use crate::settings::Settings;

pub fn check(folder: &Path) -> Vec<Check> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return vec![Check::fine(
                "functions",
                format!("cannot be tried: {error}"),
            )];
        }
    };
    // What a server warns of is told by the checks.
    let silent = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(silent, || runtime.block_on(looked_at(folder)))
}

async fn looked_at(folder: &Path) -> Vec<Check> {
    let settings = Settings::default().functions;
    let looked = Runtimes::of_machine(&settings.python, &settings.node, settings.interpreters);
    let (found, troubles) = looked.await;
    let mut checks: Vec<Check> = ["python", "node"]
        .into_iter()
        .map(|name| {
            let own = match name {
                "node" => &found.node,
                _ => &found.python,
            };
            let all = found.all.iter().map(String::as_str);
            let trouble = troubles.get(name).map(String::as_str);
            Check::fine(name, interpreter(name, own.as_deref(), all, trouble))
        })
        .collect();
    match Isolation::probe(folder).await {
        Ok(isolation) => {
            checks.extend(parts(&isolation));
            checks.push(Check::fine("control groups", control_groups(&isolation)));
            let python = Interpreter::python(&settings.python).await;
            let zygote = match python {
                Ok(python) if Zygote::can_be(&Launch::Python(python.clone()), &isolation) => {
                    "Python functions are split off from an interpreter that runs already"
                }
                Ok(_) => {
                    "no: Python starts anew for each environment; it takes root, a root folder and a network of its own for functions"
                }
                Err(_) => "no: there is no Python",
            };
            checks.push(Check::fine("zygote", zygote));
        }
        Err(error) => checks.push(Check::fine(
            "sandbox",
            format!("cannot be tried: {error}; only components (WASI) run"),
        )),
    }
    checks
}

/// Of a language: what runs functions that name no version, and what else there is.
fn interpreter<'a>(
    name: &str,
    own: Option<&str>,
    all: impl Iterator<Item = &'a str>,
    trouble: Option<&str>,
) -> String {
    let (shown, program, prefix) = match name {
        "node" => ("Node", "node", "nodejs"),
        _ => ("Python", "python3", "python"),
    };
    let others: Vec<&str> = all
        .filter(|one| one.starts_with(prefix) && Some(*one) != own)
        .collect();
    match (own, others.as_slice()) {
        (Some(own), []) => own.to_owned(),
        (Some(own), others) => format!("{own}, also {}", others.join(", ")),
        (None, []) => format!(
            "none ({}): {shown} functions cannot run, everything else can; install {program}, or name one in `functions.{name}` or its folder in `functions.interpreters`",
            trouble.unwrap_or("it is not there")
        ),
        (None, others) => format!(
            "{}; but no {program} ({}): functions must name one of these versions, or `functions.{name}` one of these programs",
            others.join(", "),
            trouble.unwrap_or("it is not there")
        ),
    }
}

/// One line for each boundary.
fn parts(isolation: &Isolation) -> Vec<Check> {
    let lines = [
        (
            Part::User,
            "user",
            match isolation.user {
                Some(user) => format!("functions run as the user {user}, who owns nothing"),
                None if isolation.namespaces => {
                    "functions run as the server's user, in a user namespace".to_owned()
                }
                None => "functions run as the server's user".to_owned(),
            },
        ),
        (
            Part::Namespaces,
            "namespaces",
            "own processes, IPC, host name and mounts".to_owned(),
        ),
        (
            Part::Root,
            "root folder",
            "own, read-only; Landlock is not needed".to_owned(),
        ),
        (
            Part::Network,
            "network",
            "own, with a way out to allowed hosts only".to_owned(),
        ),
        (
            Part::SystemCalls,
            "system calls",
            "those of a list (seccomp)".to_owned(),
        ),
    ];
    lines
        .into_iter()
        .map(|(part, name, there)| {
            let mut lacks = isolation.lacks().iter();
            let found = match lacks.find(|lack| lack.of == part) {
                None => there,
                Some(lack) => {
                    let instead = match (part, isolation.landlock) {
                        (Part::Root, true) => "; Landlock keeps them from most of these",
                        (Part::Root, false) => "; nor is there Landlock",
                        _ => "",
                    };
                    missing(part, &lack.reason, instead)
                }
            };
            Check::fine(name, found)
        })
        .collect()
}

fn missing(part: Part, reason: &str, instead: &str) -> String {
    let refused = match part.is_boundary() {
        true => {
            "; functions that are processes are refused, unless `functions.weak_isolation` is set"
        }
        false => "",
    };
    format!("missing: {reason}{instead}{refused}; {}", advice(part))
}

fn advice(part: Part) -> &'static str {
    match part {
        Part::User | Part::Namespaces | Part::Root | Part::Network => {
            "start the server as root, or allow user namespaces to its user (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); in a container, allow mounts and new namespaces (CAP_SYS_ADMIN, and a seccomp profile that lets unshare and mount through)"
        }
        Part::SystemCalls => "it takes a kernel with seccomp filters, on x86-64 or arm64",
        Part::ControlGroups => {
            "let the server make control groups: start it as root, or by systemd with Delegate=yes; in a container, mount /sys/fs/cgroup writable"
        }
    }
}

fn control_groups(isolation: &Isolation) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let version = cgroup_version(&mounts);
    let mut lacks = isolation.lacks().iter();
    match lacks.find(|lack| lack.of == Part::ControlGroups) {
        None => format!("{version}: memory, processors and processes are bounded by the kernel"),
        Some(lack) => format!(
            "{version}, but {}",
            missing(Part::ControlGroups, &lack.reason, "")
        ),
    }
}

/// Of `/proc/mounts`.
fn cgroup_version(mounts: &str) -> &'static str {
    let has = |kind: &str| {
        let mut kinds = mounts.lines().filter_map(|line| line.split(' ').nth(2));
        kinds.any(|found| found == kind)
    };
    match (has("cgroup2"), has("cgroup")) {
        (true, true) => "versions 1 and 2",
        (true, false) => "version 2",
        (false, true) => "version 1",
        (false, false) => "not mounted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_told_and_what_to_do_without() {
        let check = |name, own, all: &[&str], expected: &[&str]| {
            let trouble = Some("cannot start `x`");
            let told = interpreter(name, own, all.iter().copied(), trouble);
            for part in expected {
                assert!(told.contains(part), "no {part:?} in {told}");
            }
        };
        let all = ["nodejs20.x", "python3.11", "python3.12"];
        check(
            "python",
            Some("python3.11"),
            &all,
            &["python3.11, also python3.12"],
        );
        check("node", Some("nodejs20.x"), &all, &["nodejs20.x"]);
        check(
            "node",
            None,
            &["python3.11"],
            &[
                "none (cannot start `x`)",
                "Node functions cannot run",
                "install node",
                "functions.node",
            ],
        );
        check(
            "python",
            None,
            &all,
            &[
                "python3.11, python3.12; but no python3",
                "`functions.python`",
            ],
        );
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let told = missing(Part::Namespaces, "programs see the processes: EPERM", "");
        for part in [
            "missing: programs see",
            "weak_isolation",
            "user.max_user_namespaces",
        ] {
            assert!(told.contains(part), "no {part:?} in {told}");
        }
        let told = missing(Part::ControlGroups, "counted now and then", "");
        assert!(
            told.contains("Delegate=yes") && !told.contains("refused"),
            "{told}"
        );
    }

    #[test]
    fn versions_of_control_groups_are_seen_in_mounts() {
        let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        for (mounts, expected) in [
            (String::new(), "not mounted"),
            (v1.to_owned(), "version 1"),
            (v2.to_owned(), "version 2"),
            (format!("{v1}{v2}"), "versions 1 and 2"),
        ] {
            assert_eq!(cgroup_version(&mounts), expected);
        }
    }
}
