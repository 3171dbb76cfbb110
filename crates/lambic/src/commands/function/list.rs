//! `lambic function list` and `show`.

use serde_json::{Value, json};

use super::{
    super::{Global, stream::show},
    api::Api,
    url,
};
use crate::output::{self, Rows};

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
    if global.json {
        return output::print_json(&function);
    }
    let name = function["FunctionName"].as_str().unwrap_or(name);
    let around = match qualifier {
        // What belongs to the function as a whole.
        None => Around {
            concurrency: api.concurrency(name)?,
            url: url::find(&api, name, None)?,
            mappings: api.mappings(name)?,
            aliases: api.aliases(name)?,
        },
        Some(_) => Around::default(),
    };
    show(&described(&function, &around), false)
}

/// What AWS's description does not hold.
#[derive(Debug, Default)]
struct Around {
    concurrency: Option<u64>,
    url: Option<Value>,
    mappings: Vec<Value>,
    aliases: Vec<Value>,
}

/// The lines of `show`, in the order of their interest; what is not set is left out.
fn described(function: &Value, around: &Around) -> Value {
    let list = |values: &[Value], of: &dyn Fn(&Value) -> Option<String>| match values {
        [] => Value::Null,
        values => Value::from(values.iter().filter_map(of).collect::<Vec<_>>().join(", ")),
    };
    let text = |value: &Value, member: &str| value[member].as_str().map(str::to_owned);
    let layers = function["Layers"].as_array().cloned().unwrap_or_default();
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
        "layers": list(&layers, &|layer| text(layer, "Arn")),
        "aliases": list(&around.aliases, &|alias| {
            Some(format!("{} → {}", text(alias, "Name")?, text(alias, "FunctionVersion")?))
        }),
        "invoked by": list(&around.mappings, &|mapping| text(mapping, "EventSourceArn")),
        "url": around.url.as_ref().map(|url| url["FunctionUrl"].clone()),
    });
    if let Some(description) = text(function, "Description").filter(|text| !text.is_empty()) {
        shown["description"] = Value::from(description);
    }
    if let Some(variables) = function["Environment"]["Variables"].as_object() {
        let lines = variables
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
        // A text of several lines stands below the others.
        let lines = lines.collect::<Vec<_>>().join("\n");
        shown["environment"] = Value::from(lines + "\n");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_shown_with_what_belongs_to_it() {
        let function = json!({
            "FunctionName": "f", "Runtime": "python3.11", "Timeout": 3, "Description": "",
            "Environment": { "Variables": { "A": "b", "C": "d" } },
            "Layers": [{ "Arn": "l:1" }, { "Arn": "m:2" }],
        });
        let around = Around {
            concurrency: Some(5),
            url: Some(json!({ "FunctionUrl": "http://x/" })),
            mappings: vec![json!({ "EventSourceArn": "s" })],
            aliases: vec![json!({ "Name": "live", "FunctionVersion": "3" })],
        };
        let shown = described(&function, &around);
        for (member, expected) in [
            ("layers", json!("l:1, m:2")),
            ("aliases", json!("live → 3")),
            ("invoked by", json!("s")),
            ("url", json!("http://x/")),
            ("concurrency", json!(5)),
            ("environment", json!("A=b\nC=d\n")),
            ("description", Value::Null),
        ] {
            assert_eq!(shown[member], expected, "{member}");
        }
    }
}
