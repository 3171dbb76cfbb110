//! `lambic`: the command line, the configuration, and the wiring of the rooms into one program.

mod amount;
mod backup;
mod bench;
mod cli;
mod client;
mod commands;
mod credentials;
mod demo;
mod engine;
mod exit;
mod output;
mod project;
mod server;
mod settings;
mod source;
mod tls;
mod toml_source;
mod yaml_source;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

/// Many threads allocate and free for each other: events, records, instances.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let json = cli.json;
    watch(&cli);
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(exit::report(&error, json)),
    }
}

/// Log lines go to stderr; the command's data alone goes to stdout.
fn watch(cli: &cli::Cli) {
    use std::io::IsTerminal;

    use tracing_subscriber::EnvFilter;

    // Lines would run through the demo's picture.
    let pictured = matches!(cli.command, cli::Command::Demo(_)) && std::io::stdout().is_terminal();
    let usual = if pictured { "error" } else { "warn" };
    let filter = match EnvFilter::try_new(cli.log.as_deref().unwrap_or(usual)) {
        Ok(filter) => filter,
        Err(error) => cli::Cli::command()
            .error(
                clap::error::ErrorKind::ValueValidation,
                format!(
                    "--log or LAMBIC_LOG is no filter of log lines: {error}; examples: warn, info,lambic_api=debug"
                ),
            )
            .exit(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
