//! `lambic function deploy`: a function as a project's `lambic.toml` declares it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use super::super::Global;
use crate::{
    client::segment,
    output,
    project::manifest::{Function, Manifest, Runtime, Start},
};

pub fn run(global: &Global, name: &str, project: &Path) -> anyhow::Result<()> {
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
    let body = request(function, project, name)?;
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
fn request(function: &Function, project: &Path, name: &str) -> anyhow::Result<Value> {
    let mut files = BTreeMap::new();
    let image = function.image(project);
    if image.is_none() {
        let folder = function.folder(project, name);
        read_files(&folder, &folder, &mut files)?;
    }
    Ok(json!({
        "runtime": match function.runtime {
            Runtime::Wasm => "wasm",
            Runtime::Python => "python",
            Runtime::Node => "node",
            Runtime::Bootstrap => "bootstrap",
            Runtime::Image => "image",
        },
        "image": image,
        "handler": function.handler,
        "timeout_s": function.timeout_s,
        "memory_mb": function.memory_mb,
        "environment": function.environment,
        "output": function.output,
        "retries": function.retries,
        "dead_letter": function.dead_letter,
        "concurrency": function.concurrency,
        "hosts": function.hosts,
        "trigger": function.trigger.as_ref().map(|trigger| json!({
            "stream": trigger.stream,
            "batch": trigger.batch,
            "window_ms": trigger.window_ms,
            "start": match trigger.start {
                Start::Latest => "latest",
                Start::Earliest => "earliest",
            },
            "filters": trigger.filters,
            "bisect_batch_on_function_error": trigger.bisect_batch_on_function_error,
            "report_batch_item_failures": trigger.report_batch_item_failures,
            "maximum_record_age_in_seconds": trigger.maximum_record_age_in_seconds,
            "on_failure": trigger.on_failure,
            "parallelization_factor": trigger.parallelization_factor,
            "tumbling_window_in_seconds": trigger.tumbling_window_in_seconds,
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
