//! `lambic`: the command line, the configuration, and the wiring of the rooms into one program.

mod bench;
mod cli;
mod client;
mod commands;
mod demo;
mod engine;
mod exit;
mod output;
mod project;
mod server;
mod settings;
mod source;
mod toml_source;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    watch(&cli.log);
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(exit::report(&error)),
    }
}

/// Log lines go to stderr; the command's data alone goes to stdout.
fn watch(filter: &str) {
    use std::io::IsTerminal;

    use tracing_subscriber::EnvFilter;

    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
