//! `lambic function update`: code, settings, or both; waits until they are in use.

use anyhow::bail;
use serde_json::Value;

use super::{
    super::Global,
    api::{Api, of},
    exported, guess,
    package::Package,
    runtimes::{Language, Machine},
    settings,
};
use crate::{cli, output};

/// Of deployed code that is fetched to look for a handler.
const FETCHED_BYTES_MAX: u64 = 16 << 20;

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
    if package.is_none()
        && let Some(deployed) = deployed(&api, &args.name, changes.as_ref(), &present)
    {
        let name = &args.name;
        let instead = format!("`lambic function update {name} CODE` takes code that has it along");
        check(&deployed, changes.as_ref(), &present, &instead)?;
    }
    if let Some(package) = &package {
        let instead = "say --handler, and --runtime if that is another one";
        check(package, changes.as_ref(), &present, instead)?;
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

/// The code that the function has, if that is what a changed handler or runtime has to fit, and can be had.
fn deployed(api: &Api, name: &str, changes: Option<&Value>, present: &Value) -> Option<Package> {
    let changes = changes.filter(|changes| asks_for_code(changes, present))?;
    let runtime = changes["Runtime"].as_str().or(present["Runtime"].as_str());
    // A component is found by itself.
    if Language::of(runtime.unwrap_or_default()) == Language::Wasm {
        return None;
    }
    let function = api.client.get(&of(name, "", None)).ok()?;
    // The server may call itself otherwise than it is reached from here.
    let location = function["Code"]["Location"].as_str()?;
    let path = &location[location.find("/v1/code/")?..];
    let zip = api.client.bytes(path, FETCHED_BYTES_MAX).ok()?;
    Package::zipped(format!("the code of {name}"), zip).ok()
}

/// Only what another handler or runtime has to fit is looked at, and only what comes at once.
fn asks_for_code(changes: &Value, present: &Value) -> bool {
    let is_new = |member: &str| {
        let new = changes[member].as_str();
        new.is_some() && new != present[member].as_str()
    };
    let is_small = present["CodeSize"]
        .as_u64()
        .is_some_and(|bytes| bytes <= FETCHED_BYTES_MAX);
    is_small && (is_new("Handler") || is_new("Runtime"))
}

/// Code without the file of its handler would break a function that works. `instead` says what to do then.
fn check(
    package: &Package,
    changes: Option<&Value>,
    present: &Value,
    instead: &str,
) -> anyhow::Result<()> {
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
        Some(trouble) => bail!("{trouble}; {instead}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn code_is_fetched_for_another_handler_only() {
        let present = json!({ "Handler": "a.b", "Runtime": "python3.11", "CodeSize": 100 });
        for (changes, expected) in [
            (json!({ "Handler": "c.d" }), true),
            (json!({ "Runtime": "nodejs20.x" }), true),
            (json!({ "Handler": "a.b", "Timeout": 3 }), false),
            (json!({}), false),
        ] {
            assert_eq!(asks_for_code(&changes, &present), expected, "{changes}");
        }
        let large = json!({ "Handler": "a.b", "CodeSize": FETCHED_BYTES_MAX + 1 });
        assert!(!asks_for_code(&json!({ "Handler": "c.d" }), &large));
    }
}
