//! A small disk that can be filled.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted folder; unmounted in the end.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    pub fn mount(at: &Path, bytes: u64) -> Result<Tmpfs, String> {
        fs::create_dir(at).map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(at)
            .output()
            .map_err(|error| format!("mount(8): {error}"))?;
        match mounted.status.success() {
            true => Ok(Tmpfs(at.to_owned())),
            false => Err(super::text(&mounted.stderr)),
        }
    }

    pub fn free_bytes(&self) -> u64 {
        let output = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(&self.0)
            .output()
            .expect("df(1) is there");
        let text = super::text(&output.stdout);
        let avail = text.lines().nth(1).map(str::trim);
        avail
            .and_then(|avail| avail.parse().ok())
            .expect("df prints a number")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // What does not let go yet is let go later.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
