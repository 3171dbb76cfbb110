//! `lambic function`, one file for each command; all but `deploy` ask what any client of AWS's API could ask.

mod api;
mod concurrency;
mod create;
mod delete;
mod deploy;
mod event_stream;
mod exported;
mod guess;
mod import;
mod invoke;
mod list;
mod logs;
mod new;
mod package;
mod patterns;
mod runtimes;
mod settings;
mod test;
mod update;
mod url;
mod versions;

use super::Global;
use crate::cli;

pub fn run(global: &Global, command: cli::Function) -> anyhow::Result<()> {
    match command {
        cli::Function::List => list::all(global),
        cli::Function::Show { name, qualifier } => list::one(global, &name, qualifier.as_deref()),
        cli::Function::Templates => new::templates(global),
        cli::Function::New(args) => new::run(global, &args),
        cli::Function::Create(args) => create::run(global, &args),
        cli::Function::Update(args) => update::run(global, &args),
        cli::Function::Import(args) => import::run(global, &args),
        cli::Function::Deploy { name, project } => deploy::run(global, &name, &project),
        cli::Function::Invoke(args) => invoke::run(global, &args),
        cli::Function::Test(args) => test::run(global, &args),
        cli::Function::Logs(args) => logs::run(global, &args),
        cli::Function::Url(args) => url::run(global, &args),
        cli::Function::Versions { name } => versions::list(global, &name),
        cli::Function::Publish { name, description } => {
            versions::publish(global, &name, description.as_deref())
        }
        cli::Function::Alias(command) => versions::alias(global, &command),
        cli::Function::Concurrency { name, count, none } => {
            concurrency::run(global, &name, count, none)
        }
        cli::Function::Delete(args) => delete::run(global, &args),
    }
}
