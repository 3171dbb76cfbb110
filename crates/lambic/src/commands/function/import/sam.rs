//! AWS SAM's and CloudFormation's templates: their functions and layers, and what belongs to them.

mod around;
mod function;
mod layer;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    super::package::Package,
    Asked,
    cloudformation::{Missing, Resolved, Resource, Template, intrinsic},
    known,
    plan::{NOT_HERE, NOTHING_ELSE, Plan},
};
use crate::yaml_source::{Node, Source};

const SERVERLESS: &str = "AWS::Serverless::Function";
const PLAIN: &str = "AWS::Lambda::Function";
const LAYERS: [&str; 2] = ["AWS::Serverless::LayerVersion", "AWS::Lambda::LayerVersion"];
/// What is taken over.
const TAKEN: [&str; 4] = [SERVERLESS, PLAIN, LAYERS[0], LAYERS[1]];
const PERMISSION: &str = "AWS::Lambda::Permission";
/// Kinds that a function brings along by itself here.
const IMPLIED: [&str; 3] = ["AWS::IAM::Role", PERMISSION, "AWS::Logs::LogGroup"];

/// Whether a file is such a template.
pub fn is_template(source: &Source) -> bool {
    let resources = source.root.get("Resources");
    let resources = resources.map_or(&[][..], Node::entries);
    resources.iter().any(|(_, node)| {
        let kind = node.get("Type").and_then(Node::text).unwrap_or_default();
        kind.starts_with("AWS::")
    })
}

pub fn plan(source: &Source, folder: &Path, asked: &Asked) -> Result<Plan, String> {
    let stack = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut template = Template::new(source, &stack, asked.parameters)?;
    let mut plan = Plan {
        source: source.path.display().to_string(),
        ..Plan::default()
    };
    let mut wanted = Vec::new();
    for resource in template.resources() {
        match template.is_wanted(resource) {
            Ok(true) => wanted.push(resource),
            Ok(false) => plan.leave_out(
                source.line(resource.key),
                shown(resource),
                "its condition is not met",
            ),
            Err(missing) => plan.leave_out(
                source.line(resource.key),
                shown(resource),
                format!("its condition cannot be told: {}", why(&missing)),
            ),
        }
    }
    for resource in &wanted {
        if is_function(*resource) {
            let named = resource
                .node
                .get("Properties")
                .and_then(|all| all.get("FunctionName"));
            let name = named.and_then(|node| template.text(node).ok());
            template.name_function(resource.id, name.as_deref().unwrap_or(resource.id));
        }
    }
    for resource in wanted.iter().filter(|one| one.kind == around::ALIAS) {
        if let Some(name) = alias_name(&template, *resource) {
            template.name_function(resource.id, &name);
        }
    }
    let mut reader = Reader {
        template: &template,
        folder,
        asked,
        plan: &mut plan,
    };
    for resource in &wanted {
        let resource = *resource;
        match resource.kind {
            kind if around::KINDS.contains(&kind) => {}
            _ if is_function(resource) => reader.function(resource),
            kind if LAYERS.contains(&kind) => reader.layer(resource),
            kind if IMPLIED.contains(&kind) => reader.leave_out(
                resource.key,
                shown(resource),
                "nothing of that kind is needed here",
            ),
            kind => match known::kind_meant(kind, TAKEN.into_iter().chain(around::KINDS)) {
                Some(best) => {
                    let place = source.line(resource.key);
                    let why = format!("there is no such kind; did you mean {best}?");
                    reader.plan.warn(place, shown(resource), why);
                }
                None => reader.leave_out(resource.key, shown(resource), NOTHING_ELSE),
            },
        }
    }
    // They belong to functions, which must be there, and a URL may be an alias's.
    for kind in around::KINDS {
        let of_kind = wanted.iter().filter(|one| one.kind == kind);
        of_kind.for_each(|resource| reader.around(*resource));
    }
    reader.rest();
    Ok(plan)
}

/// What `Ref` of an alias gives, as far as it names something here: `NAME:ALIAS`.
fn alias_name(template: &Template<'_>, resource: Resource<'_>) -> Option<String> {
    let properties = resource.node.get("Properties")?;
    let text = |name: &str| template.text(properties.get(name)?).ok();
    let function = text("FunctionName")?;
    let name = function.rsplit(":function:").next().unwrap_or(&function);
    Some(format!("{name}:{}", text("Name")?))
}

fn is_function(resource: Resource<'_>) -> bool {
    [SERVERLESS, PLAIN].contains(&resource.kind)
}

fn shown(resource: Resource<'_>) -> String {
    format!("{} ({})", resource.id, resource.kind)
}

fn why(missing: &Missing) -> &str {
    match missing {
        Missing::NoValue => "it has no value",
        Missing::Unknown(why) => why,
    }
}

/// Reads resources into a plan.
pub struct Reader<'a, 'p> {
    pub template: &'a Template<'a>,
    folder: &'a Path,
    asked: &'a Asked<'a>,
    pub plan: &'p mut Plan,
}

impl Reader<'_, '_> {
    pub fn leave_out(&mut self, node: &Node, what: impl Into<String>, why: impl Into<String>) {
        let place = self.template.source.line(node);
        self.plan.leave_out(place, what, why);
    }

    /// True if a property is mistyped, which is told.
    fn is_mistyped(&mut self, node: &Node, what: &str, name: &str, known: &[&str]) -> bool {
        let Some(why) = known::mistyped(name, known) else {
            return false;
        };
        let place = self.template.source.line(node);
        self.plan.warn(place, what, why);
        true
    }

    /// Members of a property that have names which it does not have.
    fn check_members(&mut self, node: &Node, what: &str, known: &[&str]) {
        if intrinsic(node).is_some() {
            return;
        }
        for (key, value) in node.entries() {
            let name = key.text().unwrap_or_default();
            self.is_mistyped(value, &format!("{what}.{name}"), name, known);
        }
    }

    fn problem(&mut self, node: &Node, message: &str) {
        let problem = self.template.source.mistake(node, message);
        self.plan.problems.push(problem);
    }

    /// A value that may be missing: then it is left out, with why.
    fn optional<T>(&mut self, node: &Node, what: &str, found: Resolved<T>) -> Option<T> {
        match found {
            Ok(value) => Some(value),
            Err(Missing::NoValue) => None,
            Err(Missing::Unknown(why)) => {
                self.leave_out(node, what, why);
                None
            }
        }
    }

    fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        let found = self.template.text(node);
        self.optional(node, what, found)
    }

    fn number(&mut self, node: &Node, what: &str) -> Option<u32> {
        let text = self.text(node, what)?;
        match text.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                self.problem(node, &format!("{what} is {text:?}, and should be a number"));
                None
            }
        }
    }

    fn json(&mut self, node: &Node, what: &str) -> Option<Value> {
        let found = self.template.json(node);
        self.optional(node, what, found)
    }

    fn packed(&mut self, node: &Node, id: &str, made: anyhow::Result<Package>) -> Option<Package> {
        match made {
            Ok(package) => Some(package),
            Err(error) => {
                self.problem(node, &format!("{id}: {error:#}"));
                None
            }
        }
    }

    /// Where code lies; what lies in S3 is left out.
    fn path(&mut self, resource: Resource<'_>, node: &Node) -> Option<PathBuf> {
        let found = match self.template.resolve(node) {
            Ok(found) => found,
            Err(missing) => {
                self.problem(node, &format!("{}: {}", resource.id, why(&missing)));
                return None;
            }
        };
        match found.text() {
            Some(text) if !text.starts_with("s3://") => Some(self.folder.join(text)),
            _ => {
                let why = "its code is in S3; import the template from before `sam package`, or download the code";
                self.leave_out(resource.key, shown(resource), why);
                None
            }
        }
    }

    /// What else a template holds.
    fn rest(&mut self) {
        let source = self.template.source;
        for (key, node) in source.root.entries() {
            let name = key.text().unwrap_or_default();
            match name {
                "Outputs" => self.leave_out(
                    key,
                    name,
                    "there are no stacks here that could have outputs",
                ),
                "Globals" => {
                    for (kind, node) in node.entries() {
                        let kind = kind.text().unwrap_or_default();
                        if kind != "Function" {
                            let what = format!("Globals.{kind}");
                            self.leave_out(node, what, NOTHING_ELSE);
                        }
                    }
                }
                "Transform" => {
                    let text = node.to_json().to_string();
                    if intrinsic(node).is_some()
                        || text
                            .replace("AWS::Serverless-2016-10-31", "")
                            .contains("AWS::")
                    {
                        self.leave_out(key, name, "only AWS SAM's transform is known here");
                    }
                }
                "Hooks" | "Rules" => self.leave_out(key, name, NOT_HERE),
                _ => {}
            }
        }
    }
}

/// The template of a folder, by the names that AWS's tools give it.
pub fn find(folder: &Path) -> Option<PathBuf> {
    let names = [
        "template.yaml",
        "template.yml",
        "template.json",
        "sam.yaml",
        "sam.yml",
    ];
    let found = names
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file());
    found.or_else(|| synthesised(folder))
}

/// What `cdk synth` writes: one template for each stack.
fn synthesised(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".template.json"))
        .collect();
    found.sort();
    match found.len() {
        1 => found.pop(),
        _ => None,
    }
}
