//! A function of a template: its properties, its code, and what they become here.

use std::collections::BTreeMap;

use lambic_functions::Destination;
use serde_json::{Map, Value, json};

use super::{
    super::{
        super::{guess, package::Package, runtimes::Language},
        cloudformation::{Missing, Resource, intrinsic, referred},
        events, known,
        plan::{Alias, Function, LayerUse, NO_DESTINATION, NO_IAM, NO_IMAGES, NOT_HERE},
    },
    LAYERS, Reader, SERVERLESS, shown, why,
};
use crate::{
    toml_source::closest,
    yaml_source::{Node, Yaml},
};

const NO_ALIAS: &str =
    "it takes AutoPublishAlias: environments are kept ready for a version or alias";
const NO_EFFECT: &str = "it is kept and shown, but has no effect here";

/// A function's properties, its own over the template's `Globals`.
type Properties = Vec<(String, Node)>;

impl Reader<'_, '_> {
    pub(super) fn function(&mut self, resource: Resource<'_>) {
        let id = resource.id;
        let properties = self.properties(resource);
        let find = |name: &str| named(&properties, name);
        if let Some(node) = find("PackageType")
            && self.template.text(node) == Ok("Image".to_owned())
        {
            let place = self.template.source.line(resource.key);
            return self.plan.lose(place, shown(resource), NO_IMAGES);
        }
        let mut needed = |name: &str| {
            let Some(node) = find(name) else {
                let unknown = properties.iter().map(|(key, _)| key.as_str());
                let unknown = unknown.filter(|key| known::mistyped(key, known::FUNCTION).is_some());
                let hint = match closest(name, unknown) {
                    Some(mistyped) => format!("; did you mean it by {mistyped}?"),
                    None => String::new(),
                };
                self.problem(resource.key, &format!("function {id} has no {name}{hint}"));
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
            let place = self.template.source.line(resource.key);
            return self.plan.lose(place, shown(resource), why);
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
        function.place = self.template.source.line(resource.key);
        for (key, node) in &properties {
            let member = match key.as_str() {
                "DeadLetterQueue" => "DeadLetterConfig",
                "AutoPublishAlias" => "Aliases",
                key => key,
            };
            let place = self.template.source.line(node);
            function.places.insert(member.to_owned(), place);
            self.property(&mut function, id, key, node);
        }
        if let Some(name) = function.alias.clone() {
            function.aliases.push(Alias {
                name,
                ..Alias::default()
            });
        }
        if let Some(node) = find("ProvisionedConcurrencyConfig") {
            let what = format!("{id}: ProvisionedConcurrencyConfig");
            match function.aliases.first_mut() {
                Some(alias) => alias.provisioned = self.provisioned(node, &what),
                None => self.leave_out(node, what, NO_ALIAS),
            }
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
            None => {
                let place = self.template.source.line(resource.key);
                let what = format!("{id}: Handler");
                self.plan.warn_unexported(place, what, &function);
            }
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
        let find = |name: &str| named(properties, name);
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

    fn property(&mut self, function: &mut Function, id: &str, key: &str, node: &Node) {
        let what = format!("{id}: {key}");
        if self.is_mistyped(node, &what, key, known::FUNCTION) {
            return;
        }
        if let Some(members) = known::members(key) {
            self.check_members(node, &what, members);
        }
        match key {
            "FunctionName"
            | "Runtime"
            | "Handler"
            | "CodeUri"
            | "Code"
            | "InlineCode"
            | "PackageType"
            | "ProvisionedConcurrencyConfig" => {}
            // So it is here in any case.
            "AutoPublishAliasAllProperties" => {}
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
                    self.leave_out(node, what, NO_EFFECT);
                }
            }
            "FunctionUrlConfig" => function.url = self.json(node, &what),
            "EventInvokeConfig" => {
                function.queued = self.queued(node.entries().iter(), &what, &function.name);
            }
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
                self.leave_out(node, what, NO_IAM);
            }
            "VersionDescription" => function.version.description = self.text(node, &what),
            "RecursiveLoop"
            | "RuntimeManagementConfig"
            | "AutoPublishCodeSha256"
            | "VersionDeletionPolicy" => self.leave_out(node, what, "it would have no effect here"),
            "DeploymentPreference" => self.leave_out(
                node,
                what,
                "there is no CodeDeploy here; `lambic function alias set` shifts weights",
            ),
            _ => self.leave_out(node, what, NOT_HERE),
        }
    }

    fn variable(&mut self, function: &mut Function, id: &str, name: &str, value: &Node) {
        match self.template.text(value) {
            Ok(text) => {
                function.environment.insert(name.to_owned(), text);
            }
            Err(Missing::NoValue) => {}
            Err(Missing::Unknown(why)) => {
                let why = function.keep_variable(name, &why);
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
            } else if let Some(id) = referred(item)
                && resource.is_none()
                && !self.template.has_parameter(&id)
            {
                // CloudFormation refuses it, and without its layer the function would not work.
                let message = format!("the template has no layer and no parameter `{id}`");
                self.problem(item, &message);
            } else if let Some(arn) = self.text(item, what) {
                function.layers.push(LayerUse::Arn(arn));
            }
        }
    }

    /// SAM has a map, CloudFormation a list of `Key` and `Value`.
    fn tags(&mut self, node: &Node, what: &str) -> BTreeMap<String, String> {
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

    /// Of the function `name`.
    pub(super) fn queued<'n>(
        &mut self,
        config: impl Iterator<Item = &'n (Node, Node)>,
        what: &str,
        name: &str,
    ) -> Option<Value> {
        let mut body = Map::new();
        for (key, value) in config {
            let key = key.text().unwrap_or_default();
            match key {
                "MaximumEventAgeInSeconds" | "MaximumRetryAttempts" => {
                    if let Some(number) = self.number(value, what) {
                        body.insert(key.to_owned(), json!(number));
                    }
                }
                "DestinationConfig" => {
                    let what = format!("{what}.{key}");
                    if let Some(destinations) = self.destinations(value, &what, name) {
                        body.insert(key.to_owned(), destinations);
                    }
                }
                // It was told that they do not exist.
                _ => {}
            }
        }
        (!body.is_empty()).then_some(Value::Object(body))
    }

    /// Those of them that are functions or streams of this server, in the form in which the API gives them back.
    fn destinations(&mut self, node: &Node, what: &str, name: &str) -> Option<Value> {
        let mut found = json!({ "OnSuccess": {}, "OnFailure": {} });
        let mut is_any = false;
        for (key, value) in node.entries() {
            let key = key.text().unwrap_or_default();
            let what = format!("{what}.{key}");
            if self.is_mistyped(value, &what, key, &["OnSuccess", "OnFailure"]) {
                continue;
            }
            let arn = value.get("Destination");
            let arn = arn.and_then(|arn| self.template.text(arn).ok());
            match arn.as_deref().and_then(Destination::parse) {
                Some(Destination::Function(to)) if to.split(':').next() == Some(name) => {
                    self.leave_out(value, what, "a function is no destination for itself");
                }
                Some(_) => {
                    found[key] = json!({ "Destination": arn });
                    is_any = true;
                }
                None => self.leave_out(value, what, NO_DESTINATION),
            }
        }
        is_any.then_some(found)
    }
}

fn named<'p>(properties: &'p [(String, Node)], name: &str) -> Option<&'p Node> {
    let mut all = properties.iter();
    all.find(|(key, _)| key == name).map(|(_, node)| node)
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
