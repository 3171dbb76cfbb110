//! `lambic function update`: code, settings, or both; waits until they are in use.

use anyhow::bail;
use serde_json::Value;

use super::{
    super::Global,
    api::Api,
    exported, guess,
    package::Package,
    runtimes::{Language, Machine},
    settings,
};
use crate::{cli, output};

pub fn run(global: &Global, args: &cli::FunctionUpdate) -> anyhow::Result<()> {
    let package = args.code.as_deref().map(Package::open).transpose()?;
    let runtime = match &args.settings.runtime {
        Some(written) => {
            let runtime = Machine::of_server(global).runtime(written);
            Some(runtime.map_err(anyhow::Error::msg)?)
        }
        None => None,
    };
    let api = Api::new(global)?;
    let present = api.configuration(&args.name, None)?;
    let mut changes = settings::changes(&args.settings, &args.unset_env, args.no_layers, &present)?;
    if let Some(runtime) = &runtime {
        changes.get_or_insert_with(|| Value::Object(Default::default()))["Runtime"] =
            Value::from(runtime.as_str());
    }
    let concurrency = args.settings.concurrency;
    if package.is_none() && changes.is_none() && concurrency.is_none() && !args.publish {
        bail!(
            "there is nothing to update: name the new code, or settings such as --timeout 30s; see lambic function update --help"
        );
    }
    if let Some(package) = &package {
        check(package, changes.as_ref(), &present)?;
        api.update_code(&args.name, &package.base64())?;
        api.settled(&args.name)?;
    }
    if let Some(changes) = &changes {
        api.update_settings(&args.name, changes)?;
    }
    if let Some(count) = concurrency {
        api.reserve(&args.name, Some(count))?;
    }
    let mut function = api.settled(&args.name)?;
    if args.publish {
        function = api.publish(&args.name, None)?;
    }
    if global.json {
        return output::print_json(&function);
    }
    eprintln!(
        "function {} updated{}",
        args.name,
        package.map_or_else(String::new, |package| format!(": {}", package.size_shown()))
    );
    if args.publish {
        eprintln!(
            "version {} published",
            function["Version"].as_str().unwrap_or_default()
        );
    }
    Ok(())
}

/// Code without the file of its handler would break a function that works.
fn check(package: &Package, changes: Option<&Value>, present: &Value) -> anyhow::Result<()> {
    let wanted = |member: &str| {
        let changed = changes.and_then(|changes| changes[member].as_str());
        changed.or(present[member].as_str()).unwrap_or_default()
    };
    // A component is found by itself, whatever its file is called.
    if Language::of(wanted("Runtime")) == Language::Wasm {
        return Ok(());
    }
    let trouble = guess::trouble(package, wanted("Runtime"), wanted("Handler"));
    let unexported = exported::unexported(package, wanted("Runtime"), wanted("Handler"));
    if let Some(unexported) = unexported.filter(|_| trouble.is_none()) {
        eprintln!("warning: {unexported}");
    }
    let is_layered = |value: &Value| {
        value["Layers"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    };
    match trouble {
        Some(trouble) if is_layered(changes.unwrap_or(present)) || is_layered(present) => {
            eprintln!("warning: {trouble}; a layer must have it");
            Ok(())
        }
        Some(trouble) => bail!("{trouble}; say --handler, and --runtime if that is another one"),
        None => Ok(()),
    }
}
