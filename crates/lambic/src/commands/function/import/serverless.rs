//! Serverless Framework's `serverless.yml`: its functions and layers, and what belongs to them.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    super::{
        guess::{self, Language},
        package::Package,
    },
    Asked,
    events::{self, STREAM_ARN, URL_INSTEAD, URL_OF_OLDER_FORMAT, open_url, why_not},
    plan::{Function, Layer, LayerUse, Plan},
    variables::Variables,
};
use crate::yaml_source::{Node, Source, Yaml};

const NAMES: [&str; 3] = ["serverless.yml", "serverless.yaml", "serverless.json"];

pub fn find(folder: &Path) -> Option<std::path::PathBuf> {
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
                self.leave_out(
                    node,
                    what,
                    "it is a function of CloudFormation, whose value AWS knows only",
                );
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
                "iam" | "iamRoleStatements" | "role" => self.leave_out(
                    node,
                    format!("provider.{name}"),
                    "there is no IAM here; a function reaches what the server lets all reach",
                ),
                _ => self.leave_out(node, format!("provider.{name}"), "Lambic does not have it"),
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
                "resources" => {
                    self.leave_out(key, name, "only functions and layers are taken over")
                }
                _ => self.leave_out(key, name, "Lambic does not have it"),
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

    fn function(&mut self, service: &str, provider: &Node, id: &str, node: &Node) {
        let Some(node) = &self.resolved(node, id) else {
            return;
        };
        let own_or_common = |name: &str| node.get(name).or(provider.get(name));
        if let Some(image) = node.get("image") {
            let why = "it is a container image; only code in files is taken over";
            return self.leave_out(image, id, why);
        }
        let name = match node.get("name") {
            Some(name) => self.text(name, &format!("{id}: name")),
            None => Some(format!("{service}-{}-{id}", self.variables.stage())),
        };
        let Some(handler) = node.get("handler") else {
            return self.problem(node, &format!("function {id} has no handler"));
        };
        let handler = self.text(handler, &format!("{id}: handler"));
        let runtime = match own_or_common("runtime") {
            Some(runtime) => self.text(runtime, &format!("{id}: runtime")),
            None => {
                return self.problem(
                    node,
                    &format!("neither function {id} nor the provider has a runtime"),
                );
            }
        };
        let (Some(name), Some(handler), Some(runtime)) = (name, handler, runtime) else {
            return;
        };
        if Language::is_elsewhere(&runtime) {
            return self.leave_out(node, id, format!("the runtime {runtime} is not here"));
        }
        let runtime = match self.asked.runtime(&runtime) {
            Ok(runtime) => runtime,
            Err(error) => return self.problem(node, &format!("function {id}: {error}")),
        };
        let package = match self.code(node) {
            Ok(package) => package,
            Err(error) => return self.problem(node, &format!("{id}: {error:#}")),
        };
        let mut function = Function::new(name, package, runtime, handler);
        for name in [
            "memorySize",
            "timeout",
            "environment",
            "architecture",
            "tags",
            "layers",
        ] {
            let both = [provider.get(name), node.get(name)];
            // Variables and tags meet name by name; of all else a function's own counts.
            let counting = match name {
                "environment" | "tags" => &both[..],
                _ if both[1].is_some() => &both[1..],
                _ => &both[..1],
            };
            for value in counting.iter().flatten() {
                self.setting(&mut function, id, name, value);
            }
        }
        for (key, value) in node.entries() {
            self.setting(&mut function, id, key.text().unwrap_or_default(), value);
        }
        match guess::trouble(&function.package, &function.runtime, &function.handler) {
            Some(trouble) if function.layers.is_empty() => {
                return self.problem(node, &format!("function {id}: {trouble}"));
            }
            Some(trouble) => {
                let why = format!("{trouble}; a layer must have it");
                self.leave_out(node, format!("{id}: handler"), why);
            }
            None => {}
        }
        self.plan.functions.push(function);
    }

    /// The service's folder, or the artifact that is named; as `package` says.
    fn code(&mut self, node: &Node) -> anyhow::Result<Package> {
        let of_service = self.source.root.get("package");
        let of_function = node.get("package");
        for about in [of_function, of_service].into_iter().flatten() {
            if let Some(artifact) = about.get("artifact") {
                let path = self.variables.text(artifact).map_err(anyhow::Error::msg)?;
                return Package::open(&self.folder.join(path));
            }
        }
        let mut patterns = Vec::new();
        for about in [of_service, of_function].into_iter().flatten() {
            patterns.extend(self.patterns(about));
        }
        // The description itself is none of a function's business.
        patterns.extend(NAMES.iter().map(|name| format!("/{name}")));
        Package::folder(self.folder, &patterns)
    }

    /// Serverless takes what a pattern names and leaves out what one with `!` names; ours are the other way around.
    fn patterns(&mut self, about: &Node) -> Vec<String> {
        let mut patterns = Vec::new();
        let of = |name: &str| about.get(name).map_or(&[][..], Node::items);
        let mut add = |pattern: &str, is_left_out: bool| {
            let pattern = pattern.trim_start_matches("./");
            patterns.push(match is_left_out {
                true => format!("/{pattern}"),
                false => format!("!/{pattern}"),
            });
        };
        for item in of("exclude") {
            let text = item.text().unwrap_or_default();
            match text.strip_prefix('!') {
                Some(text) => add(text, false),
                None => add(text, true),
            }
        }
        for item in of("include").iter().chain(of("patterns")) {
            let text = item.text().unwrap_or_default();
            match text.strip_prefix('!') {
                Some(text) => add(text, true),
                None => add(text, false),
            }
        }
        patterns
    }

    fn setting(&mut self, function: &mut Function, id: &str, key: &str, node: &Node) {
        let what = format!("{id}: {key}");
        match key {
            "handler" | "name" | "runtime" | "package" => {}
            "description" => function.settings.description = self.text(node, &what),
            "memorySize" => function.settings.memory = self.number(node, &what),
            "timeout" => function.settings.timeout = self.number(node, &what),
            "ephemeralStorageSize" => function.settings.tmp = self.number(node, &what),
            "reservedConcurrency" => function.concurrency = self.number(node, &what),
            "architecture" => {
                if let Some(name) = self.text(node, &what) {
                    let kept = &mut function.settings.kept;
                    kept.insert("Architectures".to_owned(), json!([name]));
                }
            }
            "environment" => {
                let variables = self.resolved(node, &what);
                let entries = variables.as_ref().map_or(&[][..], Node::entries);
                for (name, value) in entries {
                    self.variable(function, id, name.text().unwrap_or_default(), value);
                }
            }
            "tags" => {
                let tags = self.resolved(node, &what);
                for (name, value) in tags.as_ref().map_or(&[][..], Node::entries) {
                    if let Some(text) = self.text(value, &what) {
                        function
                            .tags
                            .insert(name.text().unwrap_or_default().to_owned(), text);
                    }
                }
            }
            "layers" => self.layers(function, node, &what),
            "url" => self.url(function, node, &what),
            "maximumRetryAttempts" | "maximumEventAge" => {
                if let Some(number) = self.number(node, &what) {
                    let member = match key {
                        "maximumEventAge" => "MaximumEventAgeInSeconds",
                        _ => "MaximumRetryAttempts",
                    };
                    function.queued.get_or_insert_with(|| json!({}))[member] = json!(number);
                }
            }
            "events" => {
                for event in node.items() {
                    self.event(function, id, event);
                }
            }
            "role" | "iamRoleStatements" => self.leave_out(
                node,
                what,
                "there is no IAM here; a function reaches what the server lets all reach",
            ),
            "provisionedConcurrency" => self.leave_out(
                node,
                what,
                "environments start in milliseconds here; set it by AWS's API if it is wanted",
            ),
            _ => self.leave_out(node, what, "Lambic does not have it"),
        }
    }

    /// A variable whose value is not known keeps the one that it has here.
    fn variable(&mut self, function: &mut Function, id: &str, name: &str, node: &Node) {
        let why = match self.variables.resolve(node) {
            Ok(found) if found.is_null() => return,
            Ok(found) if found.tag.is_none() => match found.text() {
                Some(text) => {
                    function.environment_kept.remove(name);
                    function
                        .environment
                        .insert(name.to_owned(), text.to_owned());
                    return;
                }
                None => "it is a function of CloudFormation, whose value AWS knows only".to_owned(),
            },
            Ok(_) => "it is a function of CloudFormation, whose value AWS knows only".to_owned(),
            Err(why) => why,
        };
        function.environment.remove(name);
        function.environment_kept.insert(name.to_owned());
        let why = format!(
            "{why}; set it with `lambic function update {} --env {name}=…`, and later imports keep it",
            function.name
        );
        self.leave_out(node, format!("{id}: environment.{name}"), why);
    }

    fn layers(&mut self, function: &mut Function, node: &Node, what: &str) {
        function.layers.clear();
        for item in node.items() {
            // `Ref: CommonLambdaLayer` names the layer `common` of this file.
            let reference = match item.tag.as_deref() {
                Some("Ref") => item.text(),
                _ => item.get("Ref").and_then(Node::text),
            };
            let local = reference.and_then(|name| self.layer_of(name));
            if let Some(name) = local {
                function.layers.push(LayerUse::Local(name));
            } else if let Some(arn) = self.text(item, what) {
                function.layers.push(LayerUse::Arn(arn));
            }
        }
    }

    fn layer_of(&self, reference: &str) -> Option<String> {
        let stem = reference.strip_suffix("LambdaLayer")?;
        let layers = self.source.root.get("layers");
        let mut names = layers.map_or(&[][..], Node::entries).iter();
        let found = names.find(|(key, _)| {
            let name: String = key
                .text()
                .unwrap_or_default()
                .replace('-', "Dash")
                .replace('_', "Underscore");
            name.eq_ignore_ascii_case(stem)
        })?;
        let named = found.1.get("name").and_then(Node::text);
        Some(named.or(found.0.text())?.to_owned())
    }

    fn layer(&mut self, id: &str, node: &Node) {
        let artifact = node.get("package").and_then(|all| all.get("artifact"));
        let Some(path) = node.get("path").or(artifact) else {
            return self.problem(node, &format!("layer {id} has no path"));
        };
        let Some(path) = self.text(path, &format!("{id}: path")) else {
            return;
        };
        let package = match Package::open(&self.folder.join(path)) {
            Ok(package) => package,
            Err(error) => return self.problem(node, &format!("{id}: {error:#}")),
        };
        let mut text = |name: &str| {
            let value = node.get(name)?;
            self.text(value, &format!("{id}: {name}"))
        };
        let (name, description, license) = (text("name"), text("description"), text("licenseInfo"));
        let runtimes = node.get("compatibleRuntimes").map_or(&[][..], Node::items);
        let runtimes = runtimes.iter().filter_map(Node::text).map(str::to_owned);
        self.plan.layers.push(Layer {
            name: name.unwrap_or_else(|| id.to_owned()),
            package,
            description: description.unwrap_or_default(),
            runtimes: runtimes.collect(),
            license: license.unwrap_or_default(),
        });
    }

    /// `url: true`, or with settings.
    fn url(&mut self, function: &mut Function, node: &Node, what: &str) {
        if node.boolean() == Some(false) {
            return;
        }
        let mut body = open_url();
        for (key, value) in node.entries() {
            let name = key.text().unwrap_or_default();
            match name {
                "authorizer" => {
                    if self.text(value, what).as_deref() == Some("aws_iam") {
                        body["AuthType"] = json!("AWS_IAM");
                    }
                }
                "invokeMode" => {
                    if let Some(mode) = self.text(value, what) {
                        body["InvokeMode"] = json!(mode);
                    }
                }
                "cors" => {
                    if let Some(cors) = self.cors(value, &format!("{what}.cors")) {
                        body["Cors"] = cors;
                    }
                }
                _ => self.leave_out(value, format!("{what}.{name}"), "Lambic does not have it"),
            }
        }
        function.url = Some(body);
    }

    fn event(&mut self, function: &mut Function, id: &str, event: &Node) {
        // `- httpApi: '*'`, or only `- alexaSkill`
        let (kind, node) = match event.entries().first() {
            Some((key, node)) => (key.text().unwrap_or_default(), node),
            None => (event.text().unwrap_or_default(), event),
        };
        let what = format!("{id}: events.{kind}");
        match kind {
            "httpApi" | "http" => {
                let is_authorised =
                    node.get("authorizer").is_some() || node.get("private").is_some();
                if is_authorised {
                    return self.leave_out(
                        event,
                        what,
                        "it has an authorizer, and its URL would have none",
                    );
                }
                function.url.get_or_insert_with(open_url);
                let why = match kind {
                    "http" => URL_OF_OLDER_FORMAT,
                    _ => URL_INSTEAD,
                };
                self.leave_out(event, what, why);
            }
            "stream" => {
                let arn = node.get("arn").unwrap_or(node);
                match self.variables.text(arn) {
                    Ok(arn) if arn.starts_with(STREAM_ARN) => {
                        let mapping = self.mapping(&what, &arn, node);
                        function.mappings.push(mapping);
                    }
                    _ => self.leave_out(event, what, why_not(kind)),
                }
            }
            _ => self.leave_out(event, what, events::why_not(kind)),
        }
    }

    fn mapping(&mut self, what: &str, arn: &str, node: &Node) -> Value {
        let mut body = json!({ "EventSourceArn": arn, "StartingPosition": "LATEST" });
        for (key, value) in node.entries() {
            let name = key.text().unwrap_or_default();
            let member = match name {
                "arn" | "type" => continue,
                "batchSize" => "BatchSize",
                "startingPosition" => "StartingPosition",
                "enabled" => "Enabled",
                "batchWindow" => "MaximumBatchingWindowInSeconds",
                "maximumRetryAttempts" => "MaximumRetryAttempts",
                "maximumRecordAgeInSeconds" => "MaximumRecordAgeInSeconds",
                "parallelizationFactor" => "ParallelizationFactor",
                "bisectBatchOnFunctionError" => "BisectBatchOnFunctionError",
                _ => {
                    self.leave_out(
                        value,
                        format!("{what}.{name}"),
                        "it is not taken over; set it by AWS's API",
                    );
                    continue;
                }
            };
            if let Some(value) = self.resolved(value, what) {
                body[member] = value.to_json();
            }
        }
        body
    }

    /// `cors: true`, or with settings in Serverless's names.
    fn cors(&mut self, node: &Node, what: &str) -> Option<Value> {
        match node.boolean() {
            Some(false) => return None,
            Some(true) => {
                return Some(json!({
                    "AllowOrigins": ["*"], "AllowHeaders": ["*"], "AllowMethods": ["*"],
                }));
            }
            None => {}
        }
        let mut body = Map::new();
        for (key, value) in node.entries() {
            let name = key.text().unwrap_or_default();
            let member = match name {
                "allowedOrigins" => "AllowOrigins",
                "allowedHeaders" => "AllowHeaders",
                "allowedMethods" => "AllowMethods",
                "exposedResponseHeaders" => "ExposeHeaders",
                "allowCredentials" => "AllowCredentials",
                "maxAge" => "MaxAge",
                _ => {
                    self.leave_out(value, format!("{what}.{name}"), "Lambic does not have it");
                    continue;
                }
            };
            let value = value.to_json();
            // One origin may stand without a list.
            let value = if value.is_string() {
                json!([value])
            } else {
                value
            };
            body.insert(member.to_owned(), value);
        }
        Some(Value::Object(body))
    }
}
