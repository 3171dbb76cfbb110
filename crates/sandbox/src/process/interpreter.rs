//! Finds the interpreters of this machine: the programs behind shims, and where their libraries are.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::Error;

/// An interpreter that was asked where it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The program itself, behind shims and links.
    pub program: PathBuf,
    /// `3.11`; `20`: what AWS's names of runtimes tell apart.
    pub version: String,
    /// Files and folders that it needs, wherever they are.
    pub needs: Vec<PathBuf>,
}

impl Interpreter {
    /// Asks the Python that `program` stands for.
    pub async fn python(program: &Path) -> Result<Interpreter, Error> {
        // In a virtual environment the program is a link, and where that lies is what makes it one.
        let script = "import os, sys\n\
            is_venv = sys.prefix != sys.base_prefix\n\
            print(sys.executable if is_venv else os.path.realpath(sys.executable))\n\
            print('%d.%d' % sys.version_info[:2])\n\
            print(os.path.realpath(sys.base_prefix))\n\
            print(sys.prefix if is_venv else os.path.realpath(sys.prefix))";
        let [executable, version, base_prefix, prefix] = ask(program, "-c", script).await?;
        let mut needs = vec![PathBuf::from(base_prefix)];
        // The folder of a virtual environment, with links into the other one.
        if !needs.contains(&PathBuf::from(&prefix)) {
            needs.push(PathBuf::from(prefix));
        }
        Ok(Interpreter {
            program: PathBuf::from(executable),
            version,
            needs,
        })
    }

    /// Asks the Node that `program` stands for.
    pub async fn node(program: &Path) -> Result<Interpreter, Error> {
        let script = "console.log(process.execPath + '\\n' + process.versions.node.split('.')[0])";
        let [executable, version] = ask(program, "-e", script).await?;
        let program = PathBuf::from(executable);
        Ok(Interpreter {
            // Node carries its library in itself.
            needs: vec![program.clone()],
            program,
            version,
        })
    }
}

/// The lines that `program` prints, as many as there must be.
async fn ask<const LINES: usize>(
    program: &Path,
    flag: &str,
    script: &str,
) -> Result<[String; LINES], Error> {
    let spawn_error = |source| Error::Spawn {
        program: program.display().to_string(),
        source,
    };
    let found = Command::new(program)
        .args([flag, script])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(spawn_error)?;
    let said = String::from_utf8_lossy(&found.stdout);
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    match lines.try_into() {
        Ok(lines) if found.status.success() => Ok(lines),
        _ => Err(spawn_error(io::Error::other(
            String::from_utf8_lossy(&found.stderr).trim().to_owned(),
        ))),
    }
}
