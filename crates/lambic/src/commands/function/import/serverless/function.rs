//! A function of a service: its settings over the provider's, its code, and what they become here.

use lambic_functions::Destination;
use serde_json::json;

use super::{
    super::{
        super::{guess, package::Package, runtimes::Language},
        known,
        plan::{Alias, Function, LayerUse, NO_DESTINATION, NO_IAM, NO_IMAGES, NOT_HERE},
    },
    NAMES, OF_CLOUDFORMATION, Reader,
};
use crate::yaml_source::Node;

/// The alias that Serverless makes for it.
const PROVISIONED: &str = "provisioned";
/// Settings that the provider may have for all functions.
const COMMON: [&str; 6] = [
    "memorySize",
    "timeout",
    "environment",
    "architecture",
    "tags",
    "layers",
];

impl Reader<'_, '_> {
    pub(super) fn function(&mut self, service: &str, provider: &Node, id: &str, node: &Node) {
        let Some(node) = &self.resolved(node, id) else {
            return;
        };
        let own_or_common = |name: &str| node.get(name).or(provider.get(name));
        if let Some(image) = node.get("image") {
            let place = self.source.line(image);
            return self.plan.lose(place, id, NO_IMAGES);
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
            let why = format!("the runtime {runtime} is not here");
            return self.plan.lose(self.source.line(node), id, why);
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
        function.place = self.source.line(node);
        for name in COMMON {
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
            let name = key.text().unwrap_or_default();
            if !COMMON.contains(&name) {
                self.setting(&mut function, id, name, value);
            }
        }
        match guess::trouble(&function.package, &function.runtime, &function.handler) {
            Some(trouble) if function.layers.is_empty() => {
                return self.problem(node, &format!("function {id}: {trouble}"));
            }
            Some(trouble) => {
                let why = format!("{trouble}; a layer must have it");
                self.leave_out(node, format!("{id}: handler"), why);
            }
            None => {
                let place = self.source.line(node);
                let what = format!("{id}: handler");
                self.plan.warn_unexported(place, what, &function);
            }
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
        if let Some(why) = known::mistyped(key, known::OF_SERVICE) {
            let place = self.source.line(node);
            return self.plan.warn(place, what, why);
        }
        if let Some(member) = api_member(key) {
            let place = self.source.line(node);
            function.places.insert(member.to_owned(), place);
        }
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
            "role" | "iamRoleStatements" => self.leave_out(node, what, NO_IAM),
            "provisionedConcurrency" => {
                let provisioned = self.number(node, &what);
                // None is wanted where a variable says 0.
                if let Some(provisioned) = provisioned.filter(|count| *count > 0) {
                    function.alias = Some(PROVISIONED.to_owned());
                    function.aliases.push(Alias {
                        name: PROVISIONED.to_owned(),
                        provisioned: Some(provisioned),
                        ..Alias::default()
                    });
                }
            }
            "destinations" => self.destinations(function, node, &what),
            "onError" => match self.destination(node) {
                Some(arn) => {
                    let kept = &mut function.settings.kept;
                    kept.insert("DeadLetterConfig".to_owned(), json!({ "TargetArn": arn }));
                }
                None => self.leave_out(node, what, NO_DESTINATION),
            },
            _ => self.leave_out(node, what, NOT_HERE),
        }
    }

    fn destinations(&mut self, function: &mut Function, node: &Node, what: &str) {
        let Some(all) = self.resolved(node, what) else {
            return;
        };
        let mut found = json!({ "OnSuccess": {}, "OnFailure": {} });
        let mut is_any = false;
        for (key, value) in all.entries() {
            let key = key.text().unwrap_or_default();
            let what = format!("{what}.{key}");
            let member = match key {
                "onSuccess" => "OnSuccess",
                "onFailure" => "OnFailure",
                _ => {
                    self.leave_out(value, what, NOT_HERE);
                    continue;
                }
            };
            match self.destination(value) {
                Some(arn) => {
                    found[member] = json!({ "Destination": arn });
                    is_any = true;
                }
                None => self.leave_out(value, what, NO_DESTINATION),
            }
        }
        if is_any {
            function.queued.get_or_insert_with(|| json!({}))["DestinationConfig"] = found;
        }
    }

    /// The ARN of a function or stream of this server: an ARN, `arn: ARN`, or a function by its name in the service.
    fn destination(&mut self, node: &Node) -> Option<String> {
        let node = node.get("arn").unwrap_or(node);
        let text = self.variables.text(node).ok()?;
        if Destination::parse(&text).is_some() {
            return Some(text);
        }
        let mut functions = self.functions().into_iter();
        let (_, function) = functions.find(|(key, _)| key.text() == Some(text.as_str()))?;
        let name = match function.get("name") {
            Some(name) => self.variables.text(name).ok()?,
            None => {
                let service = self.source.root.get("service")?;
                let service = service.get("name").unwrap_or(service);
                let service = self.variables.text(service).ok()?;
                format!("{service}-{}-{text}", self.variables.stage())
            }
        };
        Some(lambic_functions::function_arn(&name))
    }

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
                None => OF_CLOUDFORMATION.to_owned(),
            },
            Ok(_) => OF_CLOUDFORMATION.to_owned(),
            Err(why) => why,
        };
        let why = function.keep_variable(name, &why);
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
}

/// The member of AWS's API that a setting becomes.
fn api_member(key: &str) -> Option<&'static str> {
    Some(match key {
        "architecture" => "Architectures",
        "description" => "Description",
        "destinations" | "maximumEventAge" | "maximumRetryAttempts" => "EventInvokeConfig",
        "environment" => "Environment",
        "ephemeralStorageSize" => "EphemeralStorage",
        "handler" => "Handler",
        "layers" => "Layers",
        "memorySize" => "MemorySize",
        "onError" => "DeadLetterConfig",
        "provisionedConcurrency" => "ProvisionedConcurrencyConfig",
        "reservedConcurrency" => "ReservedConcurrentExecutions",
        "tags" => "Tags",
        "timeout" => "Timeout",
        "url" => "FunctionUrlConfig",
        _ => return None,
    })
}
