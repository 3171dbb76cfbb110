//! What stands in a template as a resource of its own and belongs to a function: versions, aliases, URLs, mappings, how
//! queued events are tried.

use serde_json::{Map, json};

use super::{
    super::{
        cloudformation::{Resource, referred},
        events::{self, STREAM_ARN, why_not},
        known,
        plan::{Alias, NOT_HERE},
    },
    PERMISSION, Reader, shown,
};
use crate::yaml_source::Node;

pub const VERSION: &str = "AWS::Lambda::Version";
pub const ALIAS: &str = "AWS::Lambda::Alias";
pub const URL: &str = "AWS::Lambda::Url";
pub const QUEUED: &str = "AWS::Lambda::EventInvokeConfig";
pub const MAPPING: &str = "AWS::Lambda::EventSourceMapping";
/// In the order in which they are read: a URL may be an alias's.
pub const KINDS: [&str; 5] = [VERSION, ALIAS, URL, QUEUED, MAPPING];

const NO_FUNCTION: &str = "its function is not taken over";
const ELSEWHERE: &str = "what the function has of this belongs to itself or to another alias, and an import makes one of them only; set it by AWS's API";
const NUMBERED: &str = "it names a version by its number, and versions have numbers of their own here; `lambic function alias set` names one";
const CLOSED: &str = "no AWS::Lambda::Permission of the template lets everybody call it, and it would be open to all here; `lambic function url NAME --create` makes one";

/// `NAME` or `NAME:QUALIFIER`, of a name or an ARN.
fn parted(text: &str) -> (&str, Option<&str>) {
    let target = match text.split_once(":function:") {
        Some((_, target)) => target,
        None => text,
    };
    match target.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (target, None),
    }
}

impl Reader<'_, '_> {
    pub(super) fn around(&mut self, resource: Resource<'_>) {
        let all = resource.node.get("Properties");
        let find = |name: &str| all.and_then(|all| all.get(name));
        let named = find("FunctionName").or(find("TargetFunctionArn"));
        let target = named.and_then(|node| self.template.text(node).ok());
        let (name, qualifier) = parted(target.as_deref().unwrap_or_default());
        let mut functions = self.plan.functions.iter();
        let Some(at) = functions.position(|function| function.name == name) else {
            return self.leave_out(resource.key, shown(resource), NO_FUNCTION);
        };
        let own = find("Qualifier").and_then(|node| self.template.text(node).ok());
        let qualifier = own.as_deref().or(qualifier);
        let properties = all.map_or(&[][..], Node::entries);
        for (key, node) in properties {
            let name = key.text().unwrap_or_default();
            let known = known::around(resource.kind);
            self.is_mistyped(node, &format!("{}: {name}", resource.id), name, known);
        }
        match resource.kind {
            VERSION => self.version(at, resource, properties),
            ALIAS => self.alias(at, resource, properties),
            _ if !self.plan.functions[at].belongs_to(qualifier) => {
                self.leave_out(resource.key, shown(resource), ELSEWHERE);
            }
            URL => self.url(at, resource, properties),
            QUEUED => self.queued_of(at, resource, properties),
            _ => self.mapping(at, resource, properties),
        }
    }

    fn version(&mut self, at: usize, resource: Resource<'_>, properties: &[(Node, Node)]) {
        let mut version = self.plan.functions[at].version.clone();
        version.is_wanted = true;
        for (key, node) in properties {
            let key = key.text().unwrap_or_default();
            let what = format!("{}: {key}", resource.id);
            match key {
                "FunctionName" | "CodeSha256" => {}
                "Description" => version.description = self.text(node, &what),
                "ProvisionedConcurrencyConfig" => {
                    version.provisioned = self.provisioned(node, &what);
                }
                _ => self.unless_mistyped(resource, node, key),
            }
        }
        self.plan.functions[at].version = version;
    }

    fn alias(&mut self, at: usize, resource: Resource<'_>, properties: &[(Node, Node)]) {
        let mut alias = Alias::default();
        for (key, node) in properties {
            let key = key.text().unwrap_or_default();
            let what = format!("{}: {key}", resource.id);
            match key {
                "FunctionName" => {}
                // A version of the template is the newest one whenever the template was imported.
                "FunctionVersion" => {
                    let kind = referred(node).and_then(|id| self.template.resource(&id));
                    if !kind.is_some_and(|of| of.kind == VERSION || super::is_function(of)) {
                        return self.leave_out(node, what, NUMBERED);
                    }
                }
                "Name" => alias.name = self.text(node, &what).unwrap_or_default(),
                "Description" => alias.description = self.text(node, &what),
                "RoutingConfig" => self.leave_out(node, what, NUMBERED),
                "ProvisionedConcurrencyConfig" => {
                    alias.provisioned = self.provisioned(node, &what);
                }
                _ => self.unless_mistyped(resource, node, key),
            }
        }
        if alias.name.is_empty() {
            let message = format!("alias {} has no Name", resource.id);
            return self.problem(resource.key, &message);
        }
        let aliases = &mut self.plan.functions[at].aliases;
        match aliases.iter_mut().find(|one| one.name == alias.name) {
            Some(one) => *one = alias,
            None => aliases.push(alias),
        }
    }

    fn url(&mut self, at: usize, resource: Resource<'_>, properties: &[(Node, Node)]) {
        let mut body = Map::new();
        for (key, node) in properties {
            let key = key.text().unwrap_or_default();
            match key {
                "TargetFunctionArn" | "Qualifier" => {}
                "AuthType" | "Cors" | "InvokeMode" => {
                    if let Some(value) = self.json(node, &format!("{}: {key}", resource.id)) {
                        body.insert(key.to_owned(), value);
                    }
                }
                _ => self.unless_mistyped(resource, node, key),
            }
        }
        // Without an authorisation that is known it must not become open to all.
        if body.get("AuthType") != Some(&json!("AWS_IAM")) && !self.is_open(at) {
            return self.leave_out(resource.key, shown(resource), CLOSED);
        }
        self.stands(at, "FunctionUrlConfig", resource);
        self.plan.functions[at].url = Some(body.into());
    }

    /// Where a member of a function is a resource of its own.
    fn stands(&mut self, at: usize, member: &str, resource: Resource<'_>) {
        let place = self.template.source.line(resource.key);
        let places = &mut self.plan.functions[at].places;
        places.insert(member.to_owned(), place);
    }

    /// Whether everybody may call a function's URL, by the template.
    fn is_open(&self, at: usize) -> bool {
        let name = &self.plan.functions[at].name;
        let mut permissions = self
            .template
            .resources()
            .filter(|one| one.kind == PERMISSION && self.template.is_wanted(*one) == Ok(true));
        permissions.any(|permission| {
            let says = |property: &str| {
                let node = permission.node.get("Properties")?.get(property)?;
                self.template.text(node).ok()
            };
            let action = says("Action").unwrap_or_default();
            let of = says("FunctionName").unwrap_or_default();
            parted(&of).0 == name
                && says("Principal").as_deref() == Some("*")
                && ["lambda:InvokeFunctionUrl", "lambda:*"].contains(&action.as_str())
        })
    }

    fn queued_of(&mut self, at: usize, resource: Resource<'_>, properties: &[(Node, Node)]) {
        let is_of_config = |key: &Node| {
            let key = key.text().unwrap_or_default();
            known::members("EventInvokeConfig").is_some_and(|known| known.contains(&key))
        };
        let config = properties.iter().filter(|(key, _)| is_of_config(key));
        let name = self.plan.functions[at].name.clone();
        let queued = self.queued(config, resource.id, &name);
        self.stands(at, "EventInvokeConfig", resource);
        self.plan.functions[at].queued = queued;
    }

    fn mapping(&mut self, at: usize, resource: Resource<'_>, properties: &[(Node, Node)]) {
        let find = |name: &str| {
            let mut all = properties.iter();
            all.find(|(key, _)| key.text() == Some(name))
        };
        let arn = find("EventSourceArn").and_then(|(_, node)| self.template.text(node).ok());
        let Some(arn) = arn.filter(|arn| arn.starts_with(STREAM_ARN)) else {
            return self.leave_out(resource.key, shown(resource), why_not("stream"));
        };
        let rest = properties.iter().filter(|(key, _)| {
            let key = key.text().unwrap_or_default();
            !["EventSourceArn", "FunctionName"].contains(&key)
        });
        let mapping = events::mapping(self, resource.id, &arn, rest);
        self.stands(at, &arn, resource);
        self.plan.functions[at].mappings.push(mapping);
    }

    /// What is known to AWS only; of what is not even known there it was told.
    fn unless_mistyped(&mut self, resource: Resource<'_>, node: &Node, key: &str) {
        if known::mistyped(key, known::around(resource.kind)).is_none() {
            self.leave_out(node, format!("{}: {key}", resource.id), NOT_HERE);
        }
    }

    pub(super) fn provisioned(&mut self, node: &Node, what: &str) -> Option<u32> {
        let count = node.get("ProvisionedConcurrentExecutions");
        match count {
            Some(count) => self.number(count, what),
            None => {
                self.problem(
                    node,
                    &format!("{what} has no ProvisionedConcurrentExecutions"),
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_seen_in_arns() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
        for (text, expected) in [
            ("f", ("f", None)),
            ("f:live", ("f", Some("live"))),
            (arn, ("f", None)),
            (&*format!("{arn}:live"), ("f", Some("live"))),
            ("", ("", None)),
        ] {
            assert_eq!(parted(text), expected);
        }
    }
}
