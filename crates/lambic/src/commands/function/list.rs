//! `lambic function list` and `show`.

use serde_json::{Value, json};

use super::{
    super::{Global, stream::show},
    api::Api,
};
use crate::{
    client::segment,
    output::{self, Rows},
};

const LATEST: &str = "$LATEST";

/// What a list shows of each function.
const COLUMNS: [(&str, &str); 7] = [
    ("name", "FunctionName"),
    ("runtime", "Runtime"),
    ("handler", "Handler"),
    ("timeout_s", "Timeout"),
    ("memory_mb", "MemorySize"),
    ("code_bytes", "CodeSize"),
    ("modified", "LastModified"),
];

pub fn all(global: &Global) -> anyhow::Result<()> {
    let functions = Api::new(global)?.functions()?;
    if global.json {
        return output::print_json(&Value::Array(functions));
    }
    output::print_rows(&rows(&functions, &COLUMNS), false)
}

/// Members of objects as columns.
pub fn rows(objects: &[Value], columns: &[(&str, &str)]) -> Rows {
    let row = |object: &Value| {
        columns
            .iter()
            .map(|(_, name)| object[*name].clone())
            .collect()
    };
    Rows {
        columns: columns
            .iter()
            .map(|(shown, _)| (*shown).to_owned())
            .collect(),
        rows: objects.iter().map(row).collect(),
        ..Rows::default()
    }
}

pub fn one(global: &Global, name: &str, qualifier: Option<&str>) -> anyhow::Result<()> {
    let api = Api::new(global)?;
    let function = api.configuration(name, qualifier)?;
    let plain = function["FunctionName"].as_str().unwrap_or(name).to_owned();
    let around = Around::read(&api, &function, &plain)?;
    let around = match qualifier.or(qualifier_in(name)) {
        Some(qualifier) => around.of(qualifier),
        None => around,
    };
    if global.json {
        return output::print_json(&around.with(function));
    }
    show(&described(&function, &around), false)
}

/// Of `NAME:QUALIFIER`, or of a whole ARN, which has six colons without one.
fn qualifier_in(name: &str) -> Option<&str> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [_, qualifier] | [_, _, _, _, _, _, _, qualifier] => Some(*qualifier),
        _ => None,
    }
}

/// What AWS's description does not hold: what belongs to a function or to one of its versions or aliases.
#[derive(Debug, Default)]
struct Around {
    concurrency: Option<u64>,
    aliases: Vec<Value>,
    provisioned: Vec<Value>,
    urls: Vec<Value>,
    mappings: Vec<Value>,
    /// How queued events are tried, and where their results go.
    queued: Vec<Value>,
    tags: Value,
}

impl Around {
    fn read(api: &Api, function: &Value, name: &str) -> anyhow::Result<Around> {
        let aliases = api.aliases(name)?;
        // The API lists only what invokes exactly what is named.
        let mut mappings = api.mappings(name)?;
        for alias in aliases.iter().filter_map(|alias| alias["Name"].as_str()) {
            mappings.extend(api.mappings(&format!("{name}:{alias}"))?);
        }
        let path = |date: &str, rest: &str| format!("/{date}/functions/{}/{rest}", segment(name));
        let queued = path("2019-09-25", "event-invoke-config/list");
        // Tags are the function's, whatever its description is of.
        let arn = function["FunctionArn"].as_str().unwrap_or_default();
        let arn: Vec<&str> = arn.splitn(8, ':').take(7).collect();
        let tags = format!("/2017-03-31/tags/{}", segment(&arn.join(":")));
        Ok(Around {
            concurrency: api.concurrency(name)?,
            provisioned: api.provisioned(name)?,
            urls: api.all(&path("2021-10-31", "urls"), "FunctionUrlConfigs")?,
            queued: api.all(&queued, "FunctionEventInvokeConfigs")?,
            tags: api.client.get(&tags)?["Tags"].clone(),
            aliases,
            mappings,
        })
    }

    /// Of one version or alias; an alias also stands with the versions that it names.
    fn of(mut self, qualifier: &str) -> Around {
        let lists = [
            &mut self.provisioned,
            &mut self.urls,
            &mut self.mappings,
            &mut self.queued,
        ];
        let wanted = Some(qualifier).filter(|qualifier| *qualifier != LATEST);
        for list in lists {
            list.retain(|one| qualifier_of(one) == wanted);
        }
        self.aliases.retain(|alias| {
            let weights = alias["RoutingConfig"]["AdditionalVersionWeights"].as_object();
            alias["Name"] == qualifier
                || alias["FunctionVersion"] == qualifier
                || weights.is_some_and(|weights| weights.contains_key(qualifier))
        });
        self
    }

    /// The description with the rest beside it, under the names that AWS's API has for it.
    fn with(self, mut function: Value) -> Value {
        function["Concurrency"] = match self.concurrency {
            Some(count) => json!({ "ReservedConcurrentExecutions": count }),
            None => Value::Null,
        };
        for (member, list) in [
            ("Aliases", self.aliases),
            ("ProvisionedConcurrencyConfigs", self.provisioned),
            ("FunctionUrlConfigs", self.urls),
            ("EventSourceMappings", self.mappings),
            ("FunctionEventInvokeConfigs", self.queued),
        ] {
            function[member] = Value::Array(list);
        }
        function["Tags"] = self.tags;
        function
    }
}

/// Which version or alias of its function something belongs to; `None`: the function itself.
pub fn qualifier_of(one: &Value) -> Option<&str> {
    let arn = one["FunctionArn"].as_str()?;
    arn.split(':').nth(7).filter(|name| *name != LATEST)
}

/// `live: ` before what is an alias's.
fn belonging(one: &Value, shown: &str) -> String {
    match qualifier_of(one) {
        Some(qualifier) => format!("{qualifier}: {shown}"),
        None => shown.to_owned(),
    }
}

/// The lines of `show`; what is not set is left out.
fn described(function: &Value, around: &Around) -> Value {
    let list = |values: &[Value], of: &dyn Fn(&Value) -> Option<String>| {
        let shown: Vec<String> = values.iter().filter_map(of).collect();
        match shown.is_empty() {
            true => Value::Null,
            false => Value::from(shown.join(", ")),
        }
    };
    let layers = function["Layers"].as_array().cloned().unwrap_or_default();
    let unless = |value: &Value, usual: &str| match value == usual {
        true => Value::Null,
        false => value.clone(),
    };
    let mut shown = json!({
        "name": function["FunctionName"],
        "arn": function["FunctionArn"],
        "state": function["State"],
        "reason": function["StateReason"],
        "runtime": function["Runtime"],
        "handler": function["Handler"],
        "timeout_s": function["Timeout"],
        "memory_mb": function["MemorySize"],
        "tmp_mb": function["EphemeralStorage"]["Size"],
        "code_bytes": function["CodeSize"],
        "sha256": function["CodeSha256"],
        "modified": function["LastModified"],
        "version": function["Version"],
        "concurrency": around.concurrency,
        "provisioned": list(&around.provisioned, &provisioned),
        "layers": list(&layers, &|layer| text(layer, "Arn")),
        "aliases": list(&around.aliases, &alias),
        "invoked by": list(&around.mappings, &mapping),
        "queued events": list(&around.queued, &queued),
        "dead letters": function["DeadLetterConfig"]["TargetArn"],
        "url": list(&around.urls, &|url| {
            let address = text(url, "FunctionUrl")?;
            Some(match url["AuthType"] == "AWS_IAM" {
                true => belonging(url, &format!("{address} (signed requests only)")),
                false => belonging(url, &address),
            })
        }),
        "snap start": unless(&function["SnapStart"]["ApplyOn"], "None"),
        "log format": unless(&function["LoggingConfig"]["LogFormat"], "Text"),
    });
    if let Some(description) = text(function, "Description").filter(|text| !text.is_empty()) {
        shown["description"] = Value::from(description);
    }
    // Texts of several lines stand below the others.
    for (member, pairs) in [
        ("tags", &around.tags),
        ("environment", &function["Environment"]["Variables"]),
    ] {
        let pairs = pairs.as_object().filter(|pairs| !pairs.is_empty());
        let Some(pairs) = pairs else { continue };
        let lines = pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
        shown[member] = Value::from(lines.collect::<Vec<_>>().join("\n") + "\n");
    }
    shown
}

fn text(value: &Value, member: &str) -> Option<String> {
    value[member].as_str().map(str::to_owned)
}

/// `live → 3`, and with weights `live → 3 (4=0.1)`, as `alias set --weight` takes them.
fn alias(alias: &Value) -> Option<String> {
    let shown = format!(
        "{} → {}",
        text(alias, "Name")?,
        text(alias, "FunctionVersion")?
    );
    Some(match weights(alias) {
        weights if weights.is_empty() => shown,
        weights => format!("{shown} ({weights})"),
    })
}

/// Of an alias, as `alias set --weight` takes them.
pub fn weights(alias: &Value) -> String {
    let weights = alias["RoutingConfig"]["AdditionalVersionWeights"].as_object();
    let weights = weights.into_iter().flatten();
    let weights = weights.map(|(version, share)| format!("{version}={share}"));
    weights.collect::<Vec<_>>().join(", ")
}

fn provisioned(one: &Value) -> Option<String> {
    let wanted = &one["RequestedProvisionedConcurrentExecutions"];
    let ready = &one["AvailableProvisionedConcurrentExecutions"];
    let mut shown = format!("{ready} of {wanted} ready");
    if let Some(reason) = text(one, "StatusReason") {
        shown += &format!(" ({reason})");
    }
    Some(belonging(one, &shown))
}

fn mapping(mapping: &Value) -> Option<String> {
    let source = text(mapping, "EventSourceArn")?;
    let state = text(mapping, "State").filter(|state| state != "Enabled");
    Some(match state {
        Some(state) => belonging(mapping, &format!("{source} ({state})")),
        None => belonging(mapping, &source),
    })
}

fn queued(one: &Value) -> Option<String> {
    let mut shown = Vec::new();
    if let Some(retries) = one["MaximumRetryAttempts"].as_u64() {
        shown.push(format!("retries {retries}"));
    }
    if let Some(age_s) = one["MaximumEventAgeInSeconds"].as_u64() {
        shown.push(format!("age at most {age_s} s"));
    }
    for (member, on) in [("OnSuccess", "on success"), ("OnFailure", "on failure")] {
        if let Some(to) = text(&one["DestinationConfig"][member], "Destination") {
            shown.push(format!("{on} to {to}"));
        }
    }
    (!shown.is_empty()).then(|| belonging(one, &shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around() -> Around {
        let of = |qualifier: &str| match qualifier {
            "" => json!("arn:aws:lambda:us-east-1:0:function:f"),
            alias => json!(format!("arn:aws:lambda:us-east-1:0:function:f:{alias}")),
        };
        Around {
            concurrency: Some(5),
            aliases: vec![
                json!({
                    "Name": "live", "FunctionVersion": "3",
                    "RoutingConfig": { "AdditionalVersionWeights": { "4": 0.1 } },
                }),
                json!({ "Name": "next", "FunctionVersion": "5" }),
            ],
            provisioned: vec![json!({
                "FunctionArn": of("live"), "RequestedProvisionedConcurrentExecutions": 2,
                "AvailableProvisionedConcurrentExecutions": 1, "StatusReason": "no memory",
            })],
            urls: vec![
                json!({ "FunctionArn": of(""), "FunctionUrl": "http://x/", "AuthType": "NONE" }),
                json!({ "FunctionArn": of("live"), "FunctionUrl": "http://y/", "AuthType": "AWS_IAM" }),
            ],
            mappings: vec![
                json!({ "FunctionArn": of(""), "EventSourceArn": "s", "State": "Enabled" }),
                json!({ "FunctionArn": of("next"), "EventSourceArn": "t", "State": "Disabled" }),
            ],
            queued: vec![json!({
                "FunctionArn": of("$LATEST"), "MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60,
                "DestinationConfig": { "OnSuccess": {}, "OnFailure": { "Destination": "d" } },
            })],
            tags: json!({ "team": "a" }),
        }
    }

    fn function() -> Value {
        json!({
            "FunctionName": "f", "Runtime": "python3.11", "Timeout": 3, "Description": "",
            "Environment": { "Variables": { "A": "b", "C": "d" } },
            "Layers": [{ "Arn": "l:1" }, { "Arn": "m:2" }],
            "SnapStart": { "ApplyOn": "None" },
        })
    }

    #[test]
    fn a_function_is_shown_with_what_belongs_to_it() {
        let shown = described(&function(), &around());
        for (member, expected) in [
            ("layers", json!("l:1, m:2")),
            ("aliases", json!("live → 3 (4=0.1), next → 5")),
            ("provisioned", json!("live: 1 of 2 ready (no memory)")),
            ("invoked by", json!("s, next: t (Disabled)")),
            (
                "url",
                json!("http://x/, live: http://y/ (signed requests only)"),
            ),
            (
                "queued events",
                json!("retries 0, age at most 60 s, on failure to d"),
            ),
            ("concurrency", json!(5)),
            ("tags", json!("team=a\n")),
            ("environment", json!("A=b\nC=d\n")),
            ("description", Value::Null),
            ("snap start", Value::Null),
        ] {
            assert_eq!(shown[member], expected, "{member}");
        }
        let bare = described(&json!({ "FunctionName": "f" }), &Around::default());
        for member in ["layers", "aliases", "url", "provisioned", "tags"] {
            assert_eq!(bare[member], Value::Null, "{member}");
        }
    }

    #[test]
    fn a_version_or_alias_is_shown_with_what_is_its_own() {
        let live = described(&function(), &around().of("live"));
        assert_eq!(live["aliases"], "live → 3 (4=0.1)");
        assert_eq!(live["url"], "live: http://y/ (signed requests only)");
        assert_eq!(live["invoked by"], Value::Null);
        let four = described(&function(), &around().of("4"));
        assert_eq!(four["aliases"], "live → 3 (4=0.1)");
        assert_eq!(four["provisioned"], Value::Null);
    }

    #[test]
    fn programs_get_the_same_under_the_names_of_aws() {
        let whole = around().with(function());
        assert_eq!(whole["Runtime"], "python3.11");
        assert_eq!(whole["Concurrency"]["ReservedConcurrentExecutions"], 5);
        assert_eq!(
            whole["Aliases"][0]["RoutingConfig"]["AdditionalVersionWeights"]["4"],
            0.1
        );
        assert_eq!(
            whole["FunctionUrlConfigs"].as_array().map(Vec::len),
            Some(2)
        );
        assert_eq!(whole["Tags"]["team"], "a");
        let bare = Around::default().with(function());
        assert_eq!(bare["EventSourceMappings"], json!([]));
        assert_eq!(bare["Concurrency"], Value::Null);
    }

    #[test]
    fn qualifiers_are_seen_in_names() {
        assert_eq!(qualifier_in("f"), None);
        assert_eq!(qualifier_in("f:live"), Some("live"));
        let arn = "arn:aws:lambda:us-east-1:0:function:f";
        assert_eq!(qualifier_in(arn), None);
        assert_eq!(qualifier_in(&format!("{arn}:3")), Some("3"));
    }
}
