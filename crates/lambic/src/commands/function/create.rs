//! `lambic function create`.

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    super::Global,
    api::Api,
    exported,
    guess::{self, Guess},
    package::Package,
    runtimes::Machine,
    settings,
};
use crate::{
    cli::{self, FunctionSettings},
    client::Failure,
    output,
};

pub fn run(global: &Global, args: &cli::FunctionCreate) -> anyhow::Result<()> {
    // What is wrong with the code is told whether or not a server is there.
    let (package, guess) = read(global, &args.code, &args.settings)?;
    let api = Api::new(global)?;
    let mut function = create(&api, &args.name, &package, &guess, &args.settings)?;
    if args.publish {
        function = api.publish(&args.name, None)?;
    }
    if global.json {
        return output::print_json(&function);
    }
    let seen = match guess.because.as_str() {
        "" => String::new(),
        because => format!(" ({because})"),
    };
    eprintln!(
        "function {} created: {}, {}{seen}; {}",
        args.name,
        guess.runtime,
        guess.handler,
        package.size_shown()
    );
    Ok(())
}

/// Code, ready to be sent, with what runs it.
pub fn read(
    global: &Global,
    code: &std::path::Path,
    settings: &FunctionSettings,
) -> anyhow::Result<(Package, Guess)> {
    let package = Package::open(code)?;
    let (runtime, handler) = (settings.runtime.as_deref(), settings.handler.as_deref());
    let machine = Machine::of_server(global);
    let guess = guess::guess(&package, runtime, handler, &machine).map_err(anyhow::Error::msg)?;
    if let Some(trouble) = guess::trouble(&package, &guess.runtime, &guess.handler) {
        match settings.layers.as_slice() {
            [] => bail!(trouble),
            _ => eprintln!("warning: {trouble}; a layer must have it"),
        }
    }
    let unexported = exported::unexported(&package, &guess.runtime, &guess.handler);
    if let Some(unexported) = unexported {
        eprintln!("warning: {unexported}");
    }
    Ok((package, guess))
}

/// Creates a function, and waits until it can be invoked.
pub fn create(
    api: &Api,
    name: &str,
    package: &Package,
    guess: &Guess,
    settings: &FunctionSettings,
) -> anyhow::Result<Value> {
    let mut body = settings::new(settings, &guess.runtime, &guess.handler);
    body["FunctionName"] = json!(name);
    body["Code"] = json!({ "ZipFile": package.base64() });
    api.create(&body).map_err(|error| explained(error, name))?;
    if let Some(count) = settings.concurrency {
        api.reserve(name, Some(count))?;
    }
    api.settled(name)
}

/// What to do about a name that is taken.
fn explained(error: anyhow::Error, name: &str) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(mut failure) => {
            if failure.kind.as_deref() == Some("ResourceConflictException") {
                failure.hint = Some(format!(
                    "`lambic function update {name} CODE` changes it, `lambic function delete {name}` takes it away"
                ));
            }
            anyhow::Error::new(failure)
        }
        Err(error) => error,
    }
}
