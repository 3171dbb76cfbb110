//! `lambic function`: what is deployed, deploying, invoking, logs.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use super::{Global, stream::show};
use crate::{
    cli,
    client::{literal, segment},
    output::{self, Rows},
    project::manifest::{Function, Manifest, Runtime, Start},
};

const FUNCTIONS: &str = "/2015-03-31/functions";

pub fn run(global: &Global, command: cli::Function) -> anyhow::Result<()> {
    match command {
        cli::Function::List => list(global),
        cli::Function::Show { name } => {
            let function = global
                .client()?
                .get(&format!("{FUNCTIONS}/{}/configuration", segment(&name)))?;
            show(&function, global.json)
        }
        cli::Function::Deploy { name, project } => deploy(global, &name, &project),
        cli::Function::Invoke {
            name,
            payload,
            queued,
            tail,
        } => invoke(global, &name, &payload, queued, tail),
        cli::Function::Logs { name, lines } => logs(global, &name, lines),
        cli::Function::Delete { name } => {
            global
                .client()?
                .delete(&format!("{FUNCTIONS}/{}", segment(&name)))?;
            super::stream::said(Some(format!("function {name} deleted")), global.json)
        }
    }
}

fn list(global: &Global) -> anyhow::Result<()> {
    let answer = global.client()?.get(&format!("{FUNCTIONS}/"))?;
    let functions = answer["Functions"].as_array().cloned().unwrap_or_default();
    if global.json {
        return output::print_json(&Value::Array(functions));
    }
    let columns = [
        ("name", "FunctionName"),
        ("runtime", "Runtime"),
        ("handler", "Handler"),
        ("timeout_s", "Timeout"),
        ("memory_mb", "MemorySize"),
        ("code_bytes", "CodeSize"),
        ("modified", "LastModified"),
    ];
    let rows = Rows {
        columns: columns
            .iter()
            .map(|(shown, _)| (*shown).to_owned())
            .collect(),
        rows: functions
            .iter()
            .map(|function| {
                columns
                    .iter()
                    .map(|(_, name)| function[*name].clone())
                    .collect()
            })
            .collect(),
        ..Rows::default()
    };
    output::print_rows(&rows, false)
}

fn invoke(
    global: &Global,
    name: &str,
    payload: &str,
    queued: bool,
    tail: bool,
) -> anyhow::Result<()> {
    let payload = if payload == "-" {
        let mut bytes = Vec::new();
        io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        bytes
    } else {
        payload.as_bytes().to_vec()
    };
    serde_json::from_slice::<serde::de::IgnoredAny>(&payload).context("the event is not JSON")?;
    let kind = if queued { "Event" } else { "RequestResponse" };
    let mut headers = vec![
        ("content-type", "application/json"),
        ("x-amz-invocation-type", kind),
    ];
    if tail && !queued {
        headers.push(("x-amz-log-type", "Tail"));
    }
    let path = format!("{FUNCTIONS}/{}/invocations", segment(name));
    let mut answer = global.client()?.post(&path, &headers, &payload)?;
    let header = |name: &str| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    if let Some(log) = header("x-amz-log-result").and_then(|log| BASE64_STANDARD.decode(log).ok()) {
        eprint!("{}", String::from_utf8_lossy(&log));
    }
    let failed = header("x-amz-function-error");
    let body = answer
        .body_mut()
        .read_to_string()
        .context("the answer broke off")?;
    if queued {
        eprintln!("queued");
        return Ok(());
    }
    output::print(&(body + "\n"))?;
    match failed {
        Some(kind) => {
            bail!("the function failed ({kind}); `lambic function logs {name}` shows what it wrote")
        }
        None => Ok(()),
    }
}

fn logs(global: &Global, name: &str, lines: u32) -> anyhow::Result<()> {
    let client = global.client()?;
    let mut rows = client.rows(&format!(
        "SELECT at, request_id, line FROM lambic_logs WHERE function = {} ORDER BY _offset DESC LIMIT {lines}",
        literal(name)
    ))?;
    rows.rows.reverse();
    if rows.rows.is_empty() {
        // A deleted function's lines are still there; a name that never was one is a mistake.
        client.get(&format!("{FUNCTIONS}/{}/configuration", segment(name)))?;
        if !global.json {
            eprintln!("function {name} has written nothing yet");
        }
    }
    if global.json {
        return output::print_rows(&rows, true);
    }
    let mut text = String::new();
    for row in &rows.rows {
        let cell = |column| rows.get(row, column).as_str().unwrap_or_default();
        text += &format!("{}  {}\n", cell("at"), cell("line").trim_end());
    }
    output::print(&text)
}

fn deploy(global: &Global, name: &str, project: &Path) -> anyhow::Result<()> {
    let path = project.join("lambic.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest = Manifest::parse(&path, &text)?;
    let Some(function) = manifest.functions.get(name) else {
        let known = manifest.functions.keys().map(String::as_str);
        let hint = crate::toml_source::closest(name, known)
            .map(|best| format!("; did you mean `{best}`?"));
        bail!(
            "{} declares no function `{name}`{}",
            path.display(),
            hint.unwrap_or_default()
        );
    };
    let body = request(function, &function.folder(project, name))?;
    let deployed = global
        .client()?
        .put_json(&format!("/v1/functions/{}", segment(name)), &body)?;
    if global.json {
        return output::print_json(&deployed);
    }
    eprintln!("function {name} deployed");
    Ok(())
}

/// The body of `PUT /v1/functions/{name}`.
fn request(function: &Function, folder: &Path) -> anyhow::Result<Value> {
    let mut files = BTreeMap::new();
    read_files(folder, folder, &mut files)?;
    Ok(json!({
        "runtime": match function.runtime {
            Runtime::Wasm => "wasm",
            Runtime::Python => "python",
            Runtime::Node => "node",
            Runtime::Bootstrap => "bootstrap",
        },
        "handler": function.handler,
        "timeout_s": function.timeout_s,
        "memory_mb": function.memory_mb,
        "environment": function.environment,
        "output": function.output,
        "retries": function.retries,
        "dead_letter": function.dead_letter,
        "concurrency": function.concurrency,
        "trigger": function.trigger.as_ref().map(|trigger| json!({
            "stream": trigger.stream,
            "batch": trigger.batch,
            "window_ms": trigger.window_ms,
            "start": match trigger.start {
                Start::Latest => "latest",
                Start::Earliest => "earliest",
            },
        })),
        "files": files,
    }))
}

fn read_files(
    root: &Path,
    folder: &Path,
    files: &mut BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name == "__pycache__" || name == "target" {
            continue;
        }
        if path.is_dir() {
            read_files(root, &path, files)?;
        } else {
            let inside = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(inside, BASE64_STANDARD.encode(&bytes));
        }
    }
    Ok(())
}
