//! What `cargo lambda build` leaves behind: `target/lambda/<name>/bootstrap`, or `bootstrap.zip` beside it.
//!
//! Settings stand in Cargo.toml, where `cargo lambda deploy` takes them from: `[package.metadata.lambda.deploy]`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Deserialize;

use super::{
    super::package::Package,
    plan::{Function, LayerUse, Plan},
};

const RUNTIME: &str = "provided.al2023";
/// Beside the functions.
const EXTENSIONS: &str = "extensions";

/// The folder whose folders are functions, if there is one.
pub fn find(folder: &Path) -> Option<PathBuf> {
    let places = [folder.join("target/lambda"), folder.to_owned()];
    let holds_functions =
        |place: &PathBuf| !place.join("bootstrap").exists() && !built(place).is_empty();
    places.into_iter().find(holds_functions)
}

/// Functions by their names.
fn built(folder: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let dir = entry.path();
        let files = [dir.join("bootstrap.zip"), dir.join("bootstrap")];
        let file = files.into_iter().find(|file| file.is_file())?;
        (name != EXTENSIONS).then_some((name, file))
    });
    found.collect()
}

/// Of `[package.metadata.lambda.deploy]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Deploy {
    memory: Option<u32>,
    timeout: Option<u32>,
    env: BTreeMap<String, String>,
    layers: Vec<String>,
    tags: BTreeMap<String, String>,
    description: Option<String>,
    #[serde(flatten)]
    more: toml::Table,
}

pub fn plan(folder: &Path) -> anyhow::Result<Plan> {
    let mut plan = Plan {
        source: folder.display().to_string(),
        ..Plan::default()
    };
    let project = folder.parent().and_then(Path::parent);
    let manifest = project.map(|project| project.join("Cargo.toml"));
    let deploy = match manifest.filter(|manifest| manifest.is_file()) {
        Some(manifest) => deploy(&manifest, &mut plan)?,
        None => Deploy::default(),
    };
    for (name, file) in built(folder) {
        let package = Package::open(&file)?;
        let mut function = Function::new(name, package, RUNTIME.to_owned(), "bootstrap".to_owned());
        function.settings.memory = deploy.memory;
        function.settings.timeout = deploy.timeout;
        function.settings.description = deploy.description.clone();
        function.environment = deploy.env.clone();
        function.tags = deploy.tags.clone();
        function.layers = deploy.layers.iter().cloned().map(LayerUse::Arn).collect();
        plan.functions.push(function);
    }
    if folder.join(EXTENSIONS).is_dir() {
        let why = "extensions are layers: publish them by AWS's API";
        plan.leave_out(format!("{}: ", folder.display()), EXTENSIONS, why);
    }
    Ok(plan)
}

fn deploy(manifest: &Path, plan: &mut Plan) -> anyhow::Result<Deploy> {
    let text = fs::read_to_string(manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let table: toml::Table = crate::toml_source::parse(manifest, &text)?;
    let path = ["package", "metadata", "lambda", "deploy"];
    let found = path
        .iter()
        .try_fold(&toml::Value::Table(table), |here, name| here.get(name))
        .cloned();
    let Some(found) = found else {
        return Ok(Deploy::default());
    };
    let deploy: Deploy = found
        .try_into()
        .with_context(|| format!("{}: [package.metadata.lambda.deploy]", manifest.display()))?;
    for name in deploy.more.keys() {
        plan.leave_out(
            format!("{}: ", manifest.display()),
            format!("package.metadata.lambda.deploy.{name}"),
            "it is not taken over",
        );
    }
    Ok(deploy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_lambda_built_is_found_with_its_settings() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()), None);
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("target/lambda/one/bootstrap", "#!");
        write("target/lambda/two/bootstrap", "#!");
        write("target/lambda/extensions/logger", "#!");
        write(
            "Cargo.toml",
            "[package]\nname = \"x\"\n[package.metadata.lambda.deploy]\nmemory = 512\nenv = { A = \"b\" }\niam_role = \"r\"\n",
        );
        let lambda = dir.path().join("target/lambda");
        assert_eq!(find(dir.path()), Some(lambda.clone()));
        assert_eq!(find(&lambda), Some(lambda.clone()));
        assert_eq!(find(&lambda.join("one")), None);
        let plan = plan(&lambda).unwrap();
        let names: Vec<&str> = plan.functions.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(plan.functions[0].settings.memory, Some(512));
        assert_eq!(plan.functions[0].environment["A"], "b");
        let left_out: Vec<&str> = plan.left_out.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(
            left_out,
            ["package.metadata.lambda.deploy.iam_role", "extensions"]
        );
    }
}
