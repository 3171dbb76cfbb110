//! `lambic completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, output};

pub fn run(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lambic", &mut script);
    output::print(&String::from_utf8(script)?)
}
