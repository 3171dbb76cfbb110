//! Settings of a function as its creation and its changes send them.

use anyhow::bail;
use lambic_functions::HOSTS_VARIABLE;
use serde_json::{Map, Value, json};

use crate::cli::FunctionSettings;

/// There is no IAM here, but AWS's API wants a role.
pub const ROLE: &str = "arn:aws:iam::000000000000:role/lambic";

/// What AWS's API takes at a creation, but for name and code.
pub fn new(settings: &FunctionSettings, runtime: &str, handler: &str) -> Value {
    let mut body = common(settings);
    body.insert("Role".to_owned(), json!(ROLE));
    body.insert("Runtime".to_owned(), json!(runtime));
    body.insert("Handler".to_owned(), json!(handler));
    let variables: Map<String, Value> = variables(settings).collect();
    if !variables.is_empty() {
        body.insert("Environment".to_owned(), json!({ "Variables": variables }));
    }
    Value::Object(body)
}

/// What to send to change `function` (as AWS describes it); `None` if no setting is named.
pub fn changes(
    settings: &FunctionSettings,
    unset: &[String],
    no_layers: bool,
    function: &Value,
) -> anyhow::Result<Option<Value>> {
    let mut body = common(settings);
    if let Some(handler) = &settings.handler {
        body.insert("Handler".to_owned(), json!(handler));
    }
    if no_layers {
        body.insert("Layers".to_owned(), json!([]));
    }
    let named: Map<String, Value> = variables(settings).collect();
    if !named.is_empty() || !unset.is_empty() {
        // AWS's API replaces all variables by those that are sent.
        let present = function["Environment"]["Variables"].as_object();
        let mut all = present.cloned().unwrap_or_default();
        for name in unset {
            if all.remove(name).is_none() {
                bail!("there is no environment variable {name} to take away");
            }
        }
        all.extend(named);
        body.insert("Environment".to_owned(), json!({ "Variables": all }));
    }
    Ok((!body.is_empty()).then_some(Value::Object(body)))
}

/// Members that are sent whenever they are named.
fn common(settings: &FunctionSettings) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("Timeout", settings.timeout.map(Value::from));
    put("MemorySize", settings.memory.map(Value::from));
    put(
        "EphemeralStorage",
        settings.tmp.map(|mb| json!({ "Size": mb })),
    );
    put(
        "Description",
        settings.description.as_ref().map(|text| json!(text)),
    );
    let layers = &settings.layers;
    put("Layers", (!layers.is_empty()).then(|| json!(layers)));
    body
}

/// AWS's API has no hosts: they are a variable as well.
fn variables(settings: &FunctionSettings) -> impl Iterator<Item = (String, Value)> {
    let variables = settings.environment.iter();
    let variables = variables.map(|(name, value)| (name.clone(), json!(value)));
    let hosts = settings.hosts.iter();
    variables.chain(hosts.map(|hosts| (HOSTS_VARIABLE.to_owned(), json!(hosts))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> FunctionSettings {
        FunctionSettings {
            timeout: Some(30),
            environment: vec![("A".to_owned(), "1".to_owned())],
            ..FunctionSettings::default()
        }
    }

    #[test]
    fn variables_that_are_not_named_stay() {
        let function = json!({ "Environment": { "Variables": { "A": "0", "B": "2", "C": "3" } } });
        let unset = ["C".to_owned()];
        let body = changes(&settings(), &unset, true, &function).unwrap();
        assert_eq!(
            body,
            Some(json!({
                "Timeout": 30, "Layers": [], "Environment": { "Variables": { "A": "1", "B": "2" } },
            }))
        );
        let none = changes(&FunctionSettings::default(), &[], false, &function).unwrap();
        assert_eq!(none, None);
        assert!(changes(&settings(), &["X".to_owned()], false, &function).is_err());
    }

    #[test]
    fn hosts_are_a_variable_and_the_others_stay() {
        let hosts = |hosts: &str| FunctionSettings {
            hosts: Some(hosts.to_owned()),
            ..FunctionSettings::default()
        };
        let body = new(&hosts("api.example.com"), "wasm", "f.wasm");
        let variables = json!({ "LAMBIC_HOSTS": "api.example.com" });
        assert_eq!(body["Environment"]["Variables"], variables);
        let function = json!({ "Environment": { "Variables": { "A": "0", "LAMBIC_HOSTS": "b.example.com" } } });
        let body = changes(&hosts(""), &[], false, &function).unwrap();
        let variables = json!({ "A": "0", "LAMBIC_HOSTS": "" });
        assert_eq!(body.unwrap()["Environment"]["Variables"], variables);
    }

    #[test]
    fn a_creation_says_what_is_named() {
        assert_eq!(
            new(&settings(), "wasm", "f.wasm"),
            json!({
                "Role": ROLE, "Runtime": "wasm", "Handler": "f.wasm", "Timeout": 30,
                "Environment": { "Variables": { "A": "1" } },
            })
        );
    }
}
