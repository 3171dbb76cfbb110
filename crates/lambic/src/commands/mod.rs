//! One file for every command.

mod append;
mod audit;
mod backup;
mod batch;
mod bench;
pub mod compile_component;
mod completions;
mod dev;
pub mod doctor;
mod erase;
mod follow;
mod function;
mod query;
mod replay;
mod restore;
mod serve;
mod stream;
mod view;

use std::{future::Future, path::PathBuf};

use crate::{
    cli::{Cli, Command},
    client::Client,
    demo,
};

/// What every command gets from the options before it.
pub struct Global {
    pub server: String,
    pub ca_file: Option<PathBuf>,
    pub json: bool,
}

impl Global {
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.server, self.ca_file.as_deref())
    }
}

pub fn run(cli: Cli) -> anyhow::Result<()> {
    let global = Global {
        server: cli.server,
        ca_file: cli.ca_file,
        json: cli.json,
    };
    match cli.command {
        Command::Dev(args) => wait(|| dev::run(args)),
        Command::Demo(args) => wait(|| {
            demo::run(demo::Options {
                duration: args.duration,
                data: args.data,
            })
        }),
        Command::Serve(args) => serve::run(args),
        Command::Append(args) => append::run(&global, &args),
        Command::Query(args) => query::run(&global, &args),
        Command::Stream(args) => stream::run(&global, args),
        Command::View(args) => view::run(&global, args),
        Command::Batch(args) => batch::run(&global, args),
        Command::Audit(args) => audit::run(&global, &args),
        Command::Replay(args) => replay::run(&global, &args),
        Command::Function(args) => function::run(&global, args),
        Command::Backup(args) => backup::run(&global, args),
        Command::Restore(args) => restore::run(&global, &args),
        Command::Bench(args) => wait(|| bench::run(global, args)),
        Command::Doctor(args) => doctor::run(&global, &args),
        Command::Completions { shell } => completions::run(shell),
        Command::CompileComponent {
            memory_bytes_max,
            cpu_s_max,
        } => compile_component::run(memory_bytes_max, cpu_s_max),
    }
}

/// Runs a command that holds an engine.
pub fn wait<T: Future<Output = anyhow::Result<()>>>(
    task: impl FnOnce() -> T + Send,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(lambic_query::STACK_BYTES)
        .build()?;
    // Views are planned at the start, which takes more stack than the main thread has.
    let result = std::thread::scope(|scope| {
        let main = std::thread::Builder::new()
            .name("command".to_owned())
            .stack_size(lambic_query::STACK_BYTES)
            .spawn_scoped(scope, || runtime.block_on(task()))?;
        main.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    // Blocking reads of a terminal or a slow disk must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}
