//! The processes of a control group: counted, and killed without waiting for the first of them.
//!
//! The kernel kills all of a PID namespace when its first process dies, which happens when that gets its turn: among a
//! thousand that run, seconds later. Here each of them is told itself, so that each dies at its own next turn.

use std::{collections::HashSet, fs, io, os::fd::OwnedFd, path::PathBuf};

use nix::sys::signal::Signal;

use super::tree::{pidfd_open, pidfd_send_signal, read};

/// With so few processes and threads the first one has its turn soon.
pub const FEW: usize = 32;
/// Descriptors that are held at one time.
const AT_ONCE: usize = 64;
/// What was in the middle of a fork is not in the list before it has come back from there.
const ROUNDS_MAX: usize = 8;

pub struct Members {
    /// Of the controller that counts tasks.
    pub folder: PathBuf,
    /// The parent in between, which may be among them: it waits for all others, and is waited for.
    pub except: i32,
}

impl Members {
    /// The numbers of its processes; one with a thousand threads is one.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let list = read(self.folder.join("cgroup.procs"))?;
        let numbers = list.lines().filter_map(|number| number.parse().ok());
        // 0 is one that cannot be seen from here.
        Ok(numbers
            .filter(|number| *number > 0 && *number != self.except)
            .collect())
    }

    /// Kills all of them; it takes no new ones from then on. Blocks, for milliseconds where there are a thousand.
    pub fn kill(&self) {
        // What is killed cannot fork; what is not yet could, and that is all that depends on it.
        let _ = fs::write(self.folder.join("pids.max"), "0");
        let mut told = HashSet::new();
        for _ in 0..ROUNDS_MAX {
            let mut new = self.processes().unwrap_or_default();
            new.retain(|number| !told.contains(number));
            if new.is_empty() {
                return;
            }
            for some in new.chunks(AT_ONCE) {
                told.extend(self.kill_some(some));
            }
        }
    }

    /// Those that were told.
    fn kill_some(&self, numbers: &[i32]) -> Vec<i32> {
        let held: Vec<(i32, OwnedFd)> = numbers
            .iter()
            .filter_map(|number| Some((*number, pidfd_open(*number).ok()?)))
            .collect();
        // A number that had gone to a process elsewhere before it was opened is not in the list any more; one that is back
        // in the list was opened as a process that has ended.
        let still: HashSet<i32> = self.processes().unwrap_or_default().into_iter().collect();
        let of_group = held.iter().filter(|(number, _)| still.contains(number));
        of_group
            .map(|(number, pidfd)| {
                // It may have ended meanwhile.
                let _ = pidfd_send_signal(pidfd, Some(Signal::SIGKILL));
                *number
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Child, Command},
    };

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn all_are_killed_but_the_one_in_between() {
        let folder = tempfile::tempdir().unwrap();
        // More than are held at one time.
        let mut members: Vec<Child> = (0..AT_ONCE + 3).map(|_| sleeper()).collect();
        let mut other = sleeper();
        let mut between = sleeper();
        let numbers = members.iter().chain([&between]);
        let list: String = numbers.map(|child| format!("{}\n", child.id())).collect();
        fs::write(folder.path().join("cgroup.procs"), format!("0\n{list}")).unwrap();
        let members_of = Members {
            folder: folder.path().to_owned(),
            except: between.id() as i32,
        };
        assert_eq!(members_of.processes().unwrap().len(), members.len());
        members_of.kill();
        for child in &mut members {
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }
        let max = fs::read_to_string(folder.path().join("pids.max")).unwrap();
        assert_eq!(max, "0", "no others come");
        for child in [&mut between, &mut other] {
            assert_eq!(child.try_wait().unwrap(), None);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
