//! AWS SAM's and CloudFormation's templates: their functions and layers, and what belongs to them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lambic_functions::Destination;
use serde_json::{Map, Value, json};

use super::{
    super::{guess, package::Package, runtimes::Language},
    Asked,
    cloudformation::{Missing, Resolved, Resource, Template, intrinsic, referred},
    events,
    plan::{Function, Layer, LayerUse, Plan},
};
use crate::yaml_source::{Node, Source, Yaml};

const SERVERLESS: &str = "AWS::Serverless::Function";
const PLAIN: &str = "AWS::Lambda::Function";
const LAYERS: [&str; 2] = ["AWS::Serverless::LayerVersion", "AWS::Lambda::LayerVersion"];
/// Kinds that a function brings along by itself here.
const IMPLIED: [&str; 3] = [
    "AWS::IAM::Role",
    "AWS::Lambda::Permission",
    "AWS::Logs::LogGroup",
];

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
    let mut reader = Reader {
        template: &template,
        folder,
        asked,
        plan: &mut plan,
    };
    for resource in wanted {
        match resource.kind {
            _ if is_function(resource) => reader.function(resource),
            kind if LAYERS.contains(&kind) => reader.layer(resource),
            kind if IMPLIED.contains(&kind) => reader.leave_out(
                resource.key,
                shown(resource),
                "nothing of that kind is needed here",
            ),
            _ => reader.leave_out(
                resource.key,
                shown(resource),
                "only functions and layers are taken over",
            ),
        }
    }
    reader.rest();
    Ok(plan)
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

/// A function's properties, its own over the template's `Globals`.
type Properties = Vec<(String, Node)>;

impl Reader<'_, '_> {
    pub fn leave_out(&mut self, node: &Node, what: impl Into<String>, why: impl Into<String>) {
        let place = self.template.source.line(node);
        self.plan.leave_out(place, what, why);
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

    fn function(&mut self, resource: Resource<'_>) {
        let id = resource.id;
        let properties = self.properties(resource);
        let find = |name: &str| {
            properties
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, node)| node)
        };
        if let Some(node) = find("PackageType")
            && self.template.text(node) == Ok("Image".to_owned())
        {
            let why = "it is a container image; only code in files is taken over";
            return self.leave_out(resource.key, shown(resource), why);
        }
        let mut needed = |name: &str| {
            let Some(node) = find(name) else {
                self.problem(resource.key, &format!("function {id} has no {name}"));
                return None;
            };
            match self.template.text(node) {
                Ok(text) => Some(text),
                Err(missing) => {
                    self.problem(node, &format!("function {id}: {name}: {}", why(&missing)));
                    None
                }
            }
        };
        let (Some(runtime), Some(handler)) = (needed("Runtime"), needed("Handler")) else {
            return;
        };
        if Language::is_elsewhere(&runtime) {
            let why = format!("the runtime {runtime} is not here");
            return self.leave_out(resource.key, shown(resource), why);
        }
        let runtime = match self.asked.runtime(&runtime) {
            Ok(runtime) => runtime,
            Err(error) => return self.problem(resource.key, &format!("function {id}: {error}")),
        };
        let Some(package) = self.code(resource, &properties, &runtime) else {
            return;
        };
        let name = self.template.function(id).unwrap_or(id).to_owned();
        let mut function = Function::new(name, package, runtime, handler);
        for (key, node) in &properties {
            self.property(&mut function, id, key, node);
        }
        let trouble = guess::trouble(&function.package, &function.runtime, &function.handler);
        match trouble {
            Some(trouble) if function.layers.is_empty() => {
                self.problem(resource.key, &format!("function {id}: {trouble}"));
            }
            Some(trouble) => {
                let why = format!("{trouble}; a layer must have it");
                self.leave_out(resource.key, format!("{id}: Handler"), why);
            }
            None => {}
        }
        if let Some(node) = resource.node.get("Metadata") {
            self.metadata(id, node);
        }
        self.plan.functions.push(function);
    }

    /// What tools note there is for AWS; how code is built is not.
    fn metadata(&mut self, id: &str, node: &Node) {
        if let Some(method) = node.get("BuildMethod") {
            let why = "code is taken as it is; `sam build` builds it, and .aws-sam/build is imported then";
            self.leave_out(method, format!("{id}: Metadata.BuildMethod"), why);
        }
    }

    fn properties(&mut self, resource: Resource<'_>) -> Properties {
        let own = resource.node.get("Properties");
        let own = own.map_or(&[][..], Node::entries).iter();
        let mut properties: Properties = own
            .map(|(key, node)| (key.text().unwrap_or_default().to_owned(), node.clone()))
            .collect();
        let globals = self.template.source.root.get("Globals");
        let globals = globals.and_then(|globals| globals.get("Function"));
        if resource.kind != SERVERLESS {
            return properties;
        }
        for (key, node) in globals.map_or(&[][..], Node::entries) {
            let name = key.text().unwrap_or_default();
            match properties.iter_mut().find(|(own, _)| own == name) {
                Some((_, own)) => *own = over(node, own),
                None => properties.push((name.to_owned(), node.clone())),
            }
        }
        properties
    }

    /// The code: a path, a text in the template, or what `cdk synth` put beside the template.
    fn code(
        &mut self,
        resource: Resource<'_>,
        properties: &Properties,
        runtime: &str,
    ) -> Option<Package> {
        let id = resource.id;
        let find = |name: &str| {
            properties
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, node)| node)
        };
        let asset = resource
            .node
            .get("Metadata")
            .and_then(|all| all.get("aws:asset:path"));
        let inline = match find("InlineCode") {
            Some(text) => Some(text),
            None => find("Code").and_then(|code| code.get("ZipFile")),
        };
        if let Some(text) = inline {
            let name = match Language::of(runtime) {
                Language::Python => "index.py",
                Language::Node => "index.js",
                _ => {
                    self.problem(
                        text,
                        &format!("function {id}: code in the template is Python's or Node's"),
                    );
                    return None;
                }
            };
            let text = self.text(text, &format!("{id}: the code in the template"))?;
            let made = Package::single(format!("the code of {id}"), name, text.as_bytes(), false);
            return self.packed(resource.key, id, made);
        }
        let path = match (asset, find("CodeUri"), find("Code")) {
            (Some(path), _, _) => path.clone(),
            (None, Some(path), _) | (None, None, Some(path)) => path.clone(),
            // SAM's own default.
            (None, None, None) => Node::scalar("."),
        };
        let path = self.path(resource, &path)?;
        self.packed(resource.key, id, Package::open(&path))
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

    fn property(&mut self, function: &mut Function, id: &str, key: &str, node: &Node) {
        let what = format!("{id}: {key}");
        match key {
            "FunctionName" | "Runtime" | "Handler" | "CodeUri" | "Code" | "InlineCode"
            | "PackageType" => {}
            "Description" => function.settings.description = self.text(node, &what),
            "Timeout" => function.settings.timeout = self.number(node, &what),
            "MemorySize" => function.settings.memory = self.number(node, &what),
            "EphemeralStorage" => {
                if let Some(size) = node.get("Size") {
                    function.settings.tmp = self.number(size, &what);
                }
            }
            "ReservedConcurrentExecutions" => function.concurrency = self.number(node, &what),
            "Environment" => {
                let variables = node.get("Variables");
                let variables = variables.map_or(&[][..], Node::entries);
                for (name, value) in variables {
                    self.variable(function, id, name.text().unwrap_or_default(), value);
                }
            }
            "Layers" => self.layers(function, node, &what),
            "Tags" => function.tags = self.tags(node, &what),
            "VpcConfig" => {
                let why = "a function is in no VPC here, and reaches public addresses only";
                self.leave_out(node, what, why);
            }
            "DeadLetterConfig" | "DeadLetterQueue" => {
                let target = node.get("TargetArn");
                let target = target.and_then(|target| self.template.text(target).ok());
                let is_here = |arn: &String| Destination::parse(arn).is_some();
                match target.filter(is_here) {
                    Some(arn) => {
                        let config = json!({ "TargetArn": arn });
                        let kept = &mut function.settings.kept;
                        kept.insert("DeadLetterConfig".to_owned(), config);
                    }
                    None => {
                        let why = "there are no queues and topics here; what keeps failing is in lambic_dead_letters";
                        self.leave_out(node, what, why);
                    }
                }
            }
            "Architectures" | "LoggingConfig" | "SnapStart" => {
                if let Some(value) = self.json(node, &what) {
                    function.settings.kept.insert(key.to_owned(), value);
                }
                if !["Architectures", "LoggingConfig"].contains(&key) {
                    self.leave_out(node, what, "it is kept and shown, but has no effect here");
                }
            }
            "Tracing" | "TracingConfig" => {
                let mode = match node.get("Mode") {
                    Some(mode) => self.text(mode, &what),
                    None => self.text(node, &what),
                };
                if let Some(mode) = mode {
                    let config = json!({ "Mode": mode });
                    function
                        .settings
                        .kept
                        .insert("TracingConfig".to_owned(), config);
                    self.leave_out(node, what, "it is kept and shown, but has no effect here");
                }
            }
            "FunctionUrlConfig" => function.url = self.json(node, &what),
            "EventInvokeConfig" => function.queued = self.queued(node, &what),
            "AutoPublishAlias" => function.alias = self.text(node, &what),
            "Events" => {
                for (name, event) in node.entries() {
                    let name = name.text().unwrap_or_default();
                    events::of_sam(self, function, &format!("{id}: Events.{name}"), event);
                }
            }
            "Role"
            | "Policies"
            | "RolePath"
            | "PermissionsBoundary"
            | "AssumeRolePolicyDocument" => {
                self.leave_out(
                    node,
                    what,
                    "there is no IAM here; a function reaches what the server lets all reach",
                );
            }
            "ProvisionedConcurrencyConfig" => self.leave_out(
                node,
                what,
                "environments start in milliseconds here; set it by AWS's API if it is wanted",
            ),
            "DeploymentPreference" => self.leave_out(
                node,
                what,
                "there is no CodeDeploy here; `lambic function alias set` shifts weights",
            ),
            _ => self.leave_out(node, what, "Lambic does not have it"),
        }
    }

    /// A variable whose value is not known keeps the one that it has here.
    fn variable(&mut self, function: &mut Function, id: &str, name: &str, value: &Node) {
        match self.template.text(value) {
            Ok(text) => {
                function.environment.insert(name.to_owned(), text);
            }
            Err(Missing::NoValue) => {}
            Err(Missing::Unknown(why)) => {
                function.environment_kept.insert(name.to_owned());
                let why = format!(
                    "{why}; set it with `lambic function update {} --env {name}=…`, and later imports keep it",
                    function.name
                );
                self.leave_out(value, format!("{id}: Environment.{name}"), why);
            }
        }
    }

    fn layers(&mut self, function: &mut Function, node: &Node, what: &str) {
        let list = match self.template.resolve(node) {
            Ok(list) => list,
            Err(missing) => return self.leave_out(node, what, why(&missing)),
        };
        for item in list.items() {
            let resource = referred(item).and_then(|id| self.template.resource(&id));
            if let Some(resource) = resource
                && LAYERS.contains(&resource.kind)
            {
                let name = self.layer_name(resource);
                function.layers.push(LayerUse::Local(name));
            } else if let Some(arn) = self.text(item, what) {
                function.layers.push(LayerUse::Arn(arn));
            }
        }
    }

    fn layer_name(&self, resource: Resource<'_>) -> String {
        let named = resource
            .node
            .get("Properties")
            .and_then(|all| all.get("LayerName"));
        let name = named.and_then(|node| self.template.text(node).ok());
        name.unwrap_or_else(|| resource.id.to_owned())
    }

    /// SAM has a map, CloudFormation a list of `Key` and `Value`.
    fn tags(&mut self, node: &Node, what: &str) -> std::collections::BTreeMap<String, String> {
        let entries: Vec<(String, Node)> = match &node.value {
            Yaml::List(items) => items
                .iter()
                .filter_map(|item| {
                    let key = item.get("Key")?.text()?.to_owned();
                    Some((key, item.get("Value")?.clone()))
                })
                .collect(),
            _ => node
                .entries()
                .iter()
                .map(|(key, value)| (key.text().unwrap_or_default().to_owned(), value.clone()))
                .collect(),
        };
        let tags = entries.into_iter().filter_map(|(key, value)| {
            let text = self.text(&value, what)?;
            Some((key, text))
        });
        tags.collect()
    }

    fn queued(&mut self, node: &Node, what: &str) -> Option<Value> {
        let mut body = Map::new();
        for (key, value) in node.entries() {
            let key = key.text().unwrap_or_default();
            match key {
                "MaximumEventAgeInSeconds" | "MaximumRetryAttempts" => {
                    if let Some(number) = self.number(value, what) {
                        body.insert(key.to_owned(), json!(number));
                    }
                }
                _ => self.leave_out(
                    value,
                    format!("{what}.{key}"),
                    "destinations are functions and streams of this server; set them by AWS's API",
                ),
            }
        }
        (!body.is_empty()).then_some(Value::Object(body))
    }

    fn layer(&mut self, resource: Resource<'_>) {
        let id = resource.id;
        let properties = resource.node.get("Properties");
        let find = |name: &str| properties.and_then(|all| all.get(name));
        let asset = resource
            .node
            .get("Metadata")
            .and_then(|all| all.get("aws:asset:path"));
        let Some(path) = asset.or(find("ContentUri")).or(find("Content")) else {
            return self.problem(resource.key, &format!("layer {id} has no ContentUri"));
        };
        let Some(path) = self.path(resource, path) else {
            return;
        };
        let Some(package) = self.packed(resource.key, id, Package::open(&path)) else {
            return;
        };
        let mut text = |name: &str| {
            let node = find(name)?.clone();
            self.text(&node, &format!("{id}: {name}"))
        };
        let description = text("Description").unwrap_or_default();
        let license = text("LicenseInfo").unwrap_or_default();
        let runtimes = find("CompatibleRuntimes").and_then(|node| {
            let value = self.json(node, &format!("{id}: CompatibleRuntimes"))?;
            let names = value.as_array()?.iter().filter_map(Value::as_str);
            Some(names.map(str::to_owned).collect())
        });
        let name = self.layer_name(resource);
        self.plan.layers.push(Layer {
            name,
            package,
            description,
            runtimes: runtimes.unwrap_or_default(),
            license,
        });
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
                            self.leave_out(node, what, "only functions and layers are taken over");
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
                "Hooks" | "Rules" => self.leave_out(key, name, "Lambic does not have it"),
                _ => {}
            }
        }
    }
}

/// A value of `Globals` under a function's own: maps meet key by key, lists follow one another, all else is replaced.
fn over(global: &Node, own: &Node) -> Node {
    if intrinsic(global).is_some() || intrinsic(own).is_some() {
        return own.clone();
    }
    let value = match (&global.value, &own.value) {
        (Yaml::Map(globals), Yaml::Map(owns)) => {
            let mut entries = owns.clone();
            for (key, node) in globals {
                match entries
                    .iter_mut()
                    .find(|(name, _)| name.text() == key.text())
                {
                    Some((_, own)) => *own = over(node, own),
                    None => entries.push((key.clone(), node.clone())),
                }
            }
            Yaml::Map(entries)
        }
        (Yaml::List(globals), Yaml::List(owns)) => {
            Yaml::List(globals.iter().chain(owns).cloned().collect())
        }
        _ => return own.clone(),
    };
    Node {
        value,
        ..own.clone()
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
