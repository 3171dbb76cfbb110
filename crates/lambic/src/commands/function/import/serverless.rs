//! Serverless Framework's `serverless.yml`: its functions and layers, and what belongs to them.

mod event;
mod function;
mod layer;

use std::path::{Path, PathBuf};

use super::{
    Asked,
    plan::{NO_IAM, NOT_HERE, NOTHING_ELSE, Plan},
    variables::Variables,
};
use crate::yaml_source::{Node, Source, Yaml};

const NAMES: [&str; 3] = ["serverless.yml", "serverless.yaml", "serverless.json"];
const OF_CLOUDFORMATION: &str = "it is a function of CloudFormation, whose value AWS knows only";

pub fn find(folder: &Path) -> Option<PathBuf> {
    let mut paths = NAMES.iter().map(|name| folder.join(name));
    paths.find(|path| path.is_file())
}

/// Whether a file is such a description.
pub fn is_service(source: &Source) -> bool {
    source.root.get("service").is_some() && source.root.get("provider").is_some()
}

pub fn plan(source: &Source, folder: &Path, asked: &Asked) -> Plan {
    let mut plan = Plan {
        source: source.path.display().to_string(),
        ..Plan::default()
    };
    let variables = Variables::new(source, folder, asked.parameters);
    let mut reader = Reader {
        source,
        folder,
        asked,
        variables: &variables,
        plan: &mut plan,
    };
    reader.service();
    plan
}

struct Reader<'a, 'p> {
    source: &'a Source,
    folder: &'a Path,
    asked: &'a Asked<'a>,
    variables: &'a Variables<'a>,
    plan: &'p mut Plan,
}

impl Reader<'_, '_> {
    fn leave_out(&mut self, node: &Node, what: impl Into<String>, why: impl Into<String>) {
        let place = self.source.line(node);
        self.plan.leave_out(place, what, why);
    }

    fn problem(&mut self, node: &Node, message: &str) {
        let problem = self.source.mistake(node, message);
        self.plan.problems.push(problem);
    }

    fn resolved(&mut self, node: &Node, what: &str) -> Option<Node> {
        match self.variables.resolve(node) {
            Ok(found) if found.is_null() => None,
            Ok(found) => Some(found),
            Err(why) => {
                self.leave_out(node, what, why);
                None
            }
        }
    }

    fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        let found = self.resolved(node, what)?;
        match found.text() {
            Some(text) => Some(text.to_owned()),
            None if !found.entries().is_empty() || found.tag.is_some() => {
                self.leave_out(node, what, OF_CLOUDFORMATION);
                None
            }
            None => {
                self.problem(node, &format!("{what} should be a text"));
                None
            }
        }
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

    fn service(&mut self) {
        let root = &self.source.root;
        let empty = Node {
            value: Yaml::Map(Vec::new()),
            ..Node::scalar("")
        };
        let provider = match root.get("provider") {
            // `provider: aws`
            Some(node) if node.is_map() => node.clone(),
            _ => empty.clone(),
        };
        let service = root.get("service").cloned().unwrap_or(empty);
        let service = service.get("name").cloned().unwrap_or(service);
        let service = self.text(&service, "service").unwrap_or_default();
        let layers = root.get("layers").map_or(&[][..], Node::entries);
        for (key, node) in layers {
            self.layer(key.text().unwrap_or_default(), node);
        }
        for (key, node) in self.functions() {
            let id = key.text().unwrap_or_default().to_owned();
            self.function(&service, &provider, &id, &node);
        }
        for (key, node) in provider.entries() {
            let name = key.text().unwrap_or_default();
            match name {
                "name" | "runtime" | "memorySize" | "timeout" | "environment" | "stage"
                | "region" | "architecture" | "layers" | "tags" | "profile" | "stackName"
                | "deploymentMethod" | "versionFunctions" | "deploymentBucket" | "stackTags" => {}
                "iam" | "iamRoleStatements" | "role" => {
                    self.leave_out(node, format!("provider.{name}"), NO_IAM)
                }
                _ => self.leave_out(node, format!("provider.{name}"), NOT_HERE),
            }
        }
        for (key, node) in root.entries() {
            let name = key.text().unwrap_or_default();
            match name {
                "service"
                | "provider"
                | "functions"
                | "layers"
                | "package"
                | "custom"
                | "frameworkVersion"
                | "configValidationMode"
                | "useDotenv"
                | "params"
                | "org"
                | "app"
                | "stages"
                | "build" => {}
                "plugins" => {
                    let names = node.to_json().to_string();
                    self.leave_out(
                        node,
                        format!("plugins {names}"),
                        "plugins are not run; what they would build or change is missing",
                    );
                }
                "resources" => self.leave_out(key, name, NOTHING_ELSE),
                _ => self.leave_out(key, name, NOT_HERE),
            }
        }
    }

    /// The entries of `functions`, which may be a list of maps.
    fn functions(&mut self) -> Vec<(Node, Node)> {
        let Some(node) = self.source.root.get("functions") else {
            return Vec::new();
        };
        let Some(node) = self.resolved(node, "functions") else {
            return Vec::new();
        };
        let mut found = node.entries().to_vec();
        for item in node.items() {
            let item = self.resolved(item, "functions");
            found.extend(item.iter().flat_map(|item| item.entries().to_vec()));
        }
        found
    }
}
