//! `lambic function versions`, `publish` and `alias`: numbers for what was frozen, and names for numbers.

use anyhow::bail;
use serde_json::{Map, Value, json};

use super::{
    super::{Global, stream::said},
    api::{Api, found, of},
    list::{rows, weights},
};
use crate::{
    cli::FunctionAlias,
    client::segment,
    output::{self, Rows},
    toml_source::closest,
};

const COLUMNS: [(&str, &str); 6] = [
    ("version", "Version"),
    ("runtime", "Runtime"),
    ("handler", "Handler"),
    ("code_bytes", "CodeSize"),
    ("modified", "LastModified"),
    ("description", "Description"),
];

pub fn list(global: &Global, name: &str) -> anyhow::Result<()> {
    let versions = Api::new(global)?.versions(name)?;
    if global.json {
        return output::print_json(&Value::Array(versions));
    }
    output::print_rows(&rows(&versions, &COLUMNS), false)
}

pub fn publish(global: &Global, name: &str, description: Option<&str>) -> anyhow::Result<()> {
    let published = Api::new(global)?.publish(name, description)?;
    if global.json {
        return output::print_json(&published);
    }
    let version = published["Version"].as_str().unwrap_or_default();
    output::print(&format!("{version}\n"))
}

pub fn alias(global: &Global, command: &FunctionAlias) -> anyhow::Result<()> {
    let api = Api::new(global)?;
    match command {
        FunctionAlias::List { name } => {
            let aliases = api.aliases(name)?;
            if global.json {
                return output::print_json(&Value::Array(aliases));
            }
            output::print_rows(&shown(&aliases), false)
        }
        FunctionAlias::Set {
            name,
            alias,
            version,
            weight,
            description,
        } => {
            let weight = weight
                .as_ref()
                .map(|(version, share)| (version.as_str(), *share));
            let made = set(&api, name, alias, version, weight, description.as_deref())?;
            if global.json {
                return output::print_json(&made);
            }
            let shared = match weight {
                Some((other, share)) => {
                    format!(", and version {other} for {share} of the invocations")
                }
                None => String::new(),
            };
            eprintln!("{name}:{alias} is version {version}{shared}");
            Ok(())
        }
        FunctionAlias::Delete { name, alias } => {
            // AWS's API answers the same whether or not it was there.
            if found(api.client.get(&path(name, alias)))?.is_none() {
                bail!(no_alias(&api.aliases(name)?, name, alias));
            }
            api.client.delete(&path(name, alias))?;
            said(Some(format!("alias {name}:{alias} deleted")), global.json)
        }
    }
}

fn no_alias(aliases: &[Value], name: &str, alias: &str) -> String {
    let names = aliases.iter().filter_map(|alias| alias["Name"].as_str());
    let hint = match closest(alias, names) {
        Some(best) => format!("did you mean {best}?"),
        None => format!("`lambic function alias list {name}` shows what there is"),
    };
    format!("function {name} does not have an alias {alias}\n  {hint}")
}

fn path(name: &str, alias: &str) -> String {
    of(name, &format!("/aliases/{}", segment(alias)), None)
}

/// Makes an alias, or lets it name another version. Without a weight all invocations go to that one.
pub fn set(
    api: &Api,
    name: &str,
    alias: &str,
    version: &str,
    weight: Option<(&str, f64)>,
    description: Option<&str>,
) -> anyhow::Result<Value> {
    let weights: Map<String, Value> = weight
        .iter()
        .map(|(version, share)| ((*version).to_owned(), json!(share)))
        .collect();
    let mut body = json!({
        "FunctionVersion": version,
        "RoutingConfig": { "AdditionalVersionWeights": weights },
    });
    if let Some(text) = description {
        body["Description"] = json!(text);
    }
    let made = match found(api.client.get(&path(name, alias)))? {
        Some(_) => api.client.put_json(&path(name, alias), &body),
        None => {
            body["Name"] = json!(alias);
            api.client.post_json(&of(name, "/aliases", None), &body)
        }
    };
    made.map_err(|error| api.suggesting(error, name))
}

fn shown(aliases: &[Value]) -> Rows {
    let rows = aliases.iter().map(|alias| {
        vec![
            alias["Name"].clone(),
            alias["FunctionVersion"].clone(),
            Value::from(weights(alias)),
            alias["Description"].clone(),
        ]
    });
    Rows {
        columns: ["alias", "version", "weights", "description"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
        ..Rows::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_that_is_not_there_is_told_with_the_one_that_was_meant() {
        let aliases = [json!({ "Name": "live" }), json!({ "Name": "test" })];
        assert!(no_alias(&aliases, "f", "liv").ends_with("did you mean live?"));
        assert!(no_alias(&aliases, "f", "x").contains("alias list f"));
    }

    #[test]
    fn weights_are_shown_with_their_versions() {
        let alias = json!({
            "Name": "live", "FunctionVersion": "3", "Description": "",
            "RoutingConfig": { "AdditionalVersionWeights": { "4": 0.1 } },
        });
        let plain = json!({ "Name": "next", "FunctionVersion": "4", "Description": "soon" });
        expect_test::expect![[r#"
            alias  version  weights  description
            ─────  ───────  ───────  ───────────
            live   3        4=0.1
            next   4                 soon
        "#]]
        .assert_eq(&shown(&[alias, plain]).table());
    }
}
