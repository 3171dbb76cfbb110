//! Makes what a plan wants: looks at what there is, decides what differs, does that and nothing else.

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::{
    super::{
        api::{Api, MAPPINGS, found},
        url, versions,
    },
    plan::{Function, Layer, LayerUse, Plan, differing},
};
use crate::client::segment;

/// The member that may name another function of the plan.
const DEAD_LETTER: &str = "DeadLetterConfig";

/// What came of one entry of a plan, or would come.
pub struct Outcome {
    pub name: String,
    /// `created`, `unchanged`, or what changed.
    pub change: String,
    pub url: Option<String>,
    pub error: Option<anyhow::Error>,
}

/// What there is of a function.
#[derive(Debug, Default)]
struct Present {
    /// `None` if there is no such function.
    function: Option<Value>,
    concurrency: Option<u64>,
    url: Option<Value>,
    mappings: Vec<Value>,
    queued: Option<Value>,
    tags: Value,
    alias: Option<Value>,
}

/// What differs from what is wanted.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    is_new: bool,
    code: bool,
    settings: Map<String, Value>,
    concurrency: bool,
    url: bool,
    /// Those to create, and those to change with their ids.
    new_mappings: Vec<Value>,
    mappings: Vec<(String, Value)>,
    queued: bool,
    tags: bool,
    alias: bool,
}

/// Every layer, then every function; one that fails does not stop the others. All functions are made before what may name
/// another one: the server takes no destinations that are not there.
pub fn apply(api: &Api, plan: &Plan) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut arns = Vec::new();
    for layer in &plan.layers {
        let published = publish(api, layer);
        let (change, error) = match published {
            Ok((arn, is_new)) => {
                arns.push((layer.name.as_str(), arn));
                (if is_new { "published" } else { "unchanged" }, None)
            }
            Err(error) => ("failed", Some(error)),
        };
        outcomes.push(Outcome {
            name: layer.name.clone(),
            change: change.to_owned(),
            url: None,
            error,
        });
    }
    let functions = plan.functions.iter();
    let made: Vec<_> = functions
        .map(|function| make(api, function, &arns))
        .collect();
    for (function, made) in plan.functions.iter().zip(made) {
        let finished = made.and_then(|changes| {
            let url = finish(api, function, &changes)?;
            Ok((changes, url))
        });
        let outcome = match finished {
            Ok((changes, url)) => Outcome {
                name: function.name.clone(),
                change: changes.shown("created"),
                url,
                error: None,
            },
            Err(error) => Outcome {
                name: function.name.clone(),
                change: "failed".to_owned(),
                url: None,
                error: Some(error),
            },
        };
        outcomes.push(outcome);
    }
    outcomes
}

/// What [`apply`] would do.
pub fn compare(api: &Api, plan: &Plan) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut arns = Vec::new();
    for layer in &plan.layers {
        let there = same_layer(api, layer)?;
        let change = if there.is_some() {
            "unchanged"
        } else {
            "publish"
        };
        // A version that is not there yet is none that a function has.
        arns.push((
            layer.name.as_str(),
            there.unwrap_or_else(|| "new".to_owned()),
        ));
        outcomes.push(Outcome {
            name: layer.name.clone(),
            change: change.to_owned(),
            url: None,
            error: None,
        });
    }
    for function in &plan.functions {
        let present = look(api, function)?;
        let layers = layers(function, &arns)?;
        let changes = decide(function, &layers, &present);
        let url = present
            .url
            .as_ref()
            .and_then(|url| url["FunctionUrl"].as_str());
        outcomes.push(Outcome {
            name: function.name.clone(),
            change: changes.shown("create"),
            url: url.map(str::to_owned),
            error: None,
        });
    }
    Ok(outcomes)
}

impl Changes {
    fn shown(&self, new: &str) -> String {
        if self.is_new {
            return new.to_owned();
        }
        let mut shown: Vec<String> = Vec::new();
        let mut add = |is: bool, what: &str| {
            if is {
                shown.push(what.to_owned());
            }
        };
        add(self.code, "code");
        for name in self.settings.keys() {
            add(true, name);
        }
        add(self.concurrency, "concurrency");
        add(self.url, "url");
        add(
            !self.new_mappings.is_empty() || !self.mappings.is_empty(),
            "mappings",
        );
        add(self.queued, "event invoke config");
        add(self.tags, "tags");
        add(self.alias, "alias");
        match shown.as_slice() {
            [] => "unchanged".to_owned(),
            shown => shown.join(", "),
        }
    }
}

fn decide(function: &Function, layers: &[String], present: &Present) -> Changes {
    let there = present.function.as_ref();
    let wanted = function.configuration(layers, there);
    let mut changes = Changes {
        is_new: there.is_none(),
        code: there.is_some_and(|there| there["CodeSha256"] != json!(function.package.sha256())),
        settings: there.map_or_else(|| wanted.clone(), |there| differing(&wanted, there)),
        concurrency: function.concurrency.is_some()
            && function.concurrency.map(u64::from) != present.concurrency,
        queued: function.queued.as_ref().is_some_and(|wanted| {
            !present
                .queued
                .as_ref()
                .is_some_and(|there| url::holds(there, wanted))
        }),
        ..Changes::default()
    };
    changes.url = function.url.as_ref().is_some_and(|wanted| {
        !present
            .url
            .as_ref()
            .is_some_and(|there| url::holds(there, wanted))
    });
    changes.tags = function
        .tags
        .iter()
        .any(|(name, value)| present.tags[name] != json!(value));
    changes.alias = function.alias.is_some()
        && (present.alias.is_none() || changes.code || !changes.settings.is_empty());
    for wanted in &function.mappings {
        let mut mappings = present.mappings.iter();
        let there = mappings.find(|there| there["EventSourceArn"] == wanted["EventSourceArn"]);
        let Some(there) = there else {
            changes.new_mappings.push(wanted.clone());
            continue;
        };
        // Where it began to read cannot be changed any more.
        let mut settings = wanted.clone();
        for name in ["EventSourceArn", "StartingPosition"] {
            settings.as_object_mut().map(|members| members.remove(name));
        }
        // The API speaks of states where it is told of switches.
        let is_enabled = json!(there["State"] != "Disabled");
        let holds = settings
            .as_object()
            .into_iter()
            .flatten()
            .all(|(name, value)| match name.as_str() {
                "Enabled" => is_enabled == *value,
                name => there[name] == *value,
            });
        if !holds {
            let id = there["UUID"].as_str().unwrap_or_default();
            changes.mappings.push((id.to_owned(), settings));
        }
    }
    changes
}

fn look(api: &Api, function: &Function) -> anyhow::Result<Present> {
    let name = function.name.as_str();
    let Some(there) = api.find(name, None)? else {
        return Ok(Present::default());
    };
    let alias = function.alias.as_deref();
    let qualified = qualified(function);
    let aliases = match alias {
        Some(_) => api.aliases(name)?,
        None => Vec::new(),
    };
    let arn = there["FunctionArn"].as_str().unwrap_or_default();
    let tags = match function.tags.is_empty() {
        true => Value::Null,
        false => api.client.get(&tags_path(arn))?["Tags"].clone(),
    };
    Ok(Present {
        concurrency: api.concurrency(name)?,
        url: url::find(api, name, alias)?,
        mappings: api.mappings(&qualified)?,
        queued: found(api.client.get(&queued_path(function)))?,
        tags,
        alias: aliases
            .into_iter()
            .find(|one| one["Name"].as_str() == alias),
        function: Some(there),
    })
}

/// What URL and mappings belong to.
fn qualified(function: &Function) -> String {
    match &function.alias {
        Some(alias) => format!("{}:{alias}", function.name),
        None => function.name.clone(),
    }
}

fn tags_path(arn: &str) -> String {
    format!("/2017-03-31/tags/{}", segment(arn))
}

fn queued_path(function: &Function) -> String {
    let question = match &function.alias {
        Some(alias) => format!("?Qualifier={}", segment(alias)),
        None => String::new(),
    };
    format!(
        "/2019-09-25/functions/{}/event-invoke-config{question}",
        segment(&function.name)
    )
}

/// The ARNs of a function's layers.
fn layers(function: &Function, arns: &[(&str, String)]) -> anyhow::Result<Vec<String>> {
    let each = function.layers.iter().map(|layer| match layer {
        LayerUse::Arn(arn) => Ok(arn.clone()),
        LayerUse::Local(name) => {
            let mut made = arns.iter();
            let found = made.find(|(layer, _)| layer == name);
            let (_, arn) =
                found.with_context(|| format!("its layer {name} could not be published"))?;
            Ok(arn.clone())
        }
    });
    each.collect()
}

/// The function itself: its code and its settings, but for where its dead letters go.
fn make(api: &Api, function: &Function, arns: &[(&str, String)]) -> anyhow::Result<Changes> {
    let name = function.name.as_str();
    let layers = layers(function, arns)?;
    let present = look(api, function)?;
    let changes = decide(function, &layers, &present);
    let mut settings = changes.settings.clone();
    settings.remove(DEAD_LETTER);
    if changes.is_new {
        let mut body = settings;
        body.insert("FunctionName".to_owned(), json!(name));
        body.insert("Role".to_owned(), json!(super::super::settings::ROLE));
        body.insert(
            "Code".to_owned(),
            json!({ "ZipFile": function.package.base64() }),
        );
        if !function.tags.is_empty() {
            body.insert("Tags".to_owned(), json!(function.tags));
        }
        api.create(&Value::Object(body))?;
        api.settled(name)?;
    } else {
        if changes.code {
            api.update_code(name, &function.package.base64())?;
            api.settled(name)?;
        }
        if !settings.is_empty() {
            api.update_settings(name, &Value::Object(settings))?;
            api.settled(name)?;
        }
        let arn = present
            .function
            .as_ref()
            .and_then(|there| there["FunctionArn"].as_str());
        if changes.tags
            && let Some(arn) = arn
        {
            let body = json!({ "Tags": function.tags });
            api.client.post_json(&tags_path(arn), &body)?;
        }
    }
    Ok(changes)
}

/// What belongs to a function that is made; gives its URL.
fn finish(api: &Api, function: &Function, changes: &Changes) -> anyhow::Result<Option<String>> {
    let name = function.name.as_str();
    if let Some(dead_letter) = changes.settings.get(DEAD_LETTER) {
        api.update_settings(name, &json!({ DEAD_LETTER: dead_letter }))?;
        api.settled(name)?;
    }
    if changes.concurrency {
        api.reserve(name, function.concurrency)?;
    }
    let alias = function.alias.as_deref();
    if let Some(alias) = alias.filter(|_| changes.alias) {
        let published = api.publish(name, None)?;
        let version = published["Version"].as_str().unwrap_or_default();
        versions::set(api, name, alias, version, None, None)?;
    }
    let url = match &function.url {
        Some(wanted) => url::ensure(api, name, alias, wanted)?["FunctionUrl"]
            .as_str()
            .map(str::to_owned),
        None => None,
    };
    for mapping in &changes.new_mappings {
        let mut body = mapping.clone();
        body["FunctionName"] = json!(qualified(function));
        let made = api.client.post_json(&format!("{MAPPINGS}/"), &body);
        made.with_context(|| format!("{} cannot invoke it", body["EventSourceArn"]))?;
    }
    for (id, settings) in &changes.mappings {
        api.client
            .put_json(&format!("{MAPPINGS}/{}", segment(id)), settings)?;
    }
    if let Some(body) = function.queued.as_ref().filter(|_| changes.queued) {
        api.client.put_json(&queued_path(function), body)?;
    }
    Ok(url)
}

/// The ARN of a layer's version with this content, and whether it had to be published.
fn publish(api: &Api, layer: &Layer) -> anyhow::Result<(String, bool)> {
    if let Some(arn) = same_layer(api, layer)? {
        return Ok((arn, false));
    }
    let mut body = json!({
        "Content": { "ZipFile": layer.package.base64() },
        "Description": layer.description,
    });
    if !layer.runtimes.is_empty() {
        body["CompatibleRuntimes"] = json!(layer.runtimes);
    }
    if !layer.license.is_empty() {
        body["LicenseInfo"] = json!(layer.license);
    }
    let published = api.client.post_json(&layer_path(layer), &body)?;
    let arn = published["LayerVersionArn"].as_str();
    let arn = arn.context("the server published a layer without an ARN")?;
    Ok((arn.to_owned(), true))
}

fn layer_path(layer: &Layer) -> String {
    format!("/2018-10-31/layers/{}/versions", segment(&layer.name))
}

/// The newest version, if it is the same.
fn same_layer(api: &Api, layer: &Layer) -> anyhow::Result<Option<String>> {
    let versions = found(api.client.get(&layer_path(layer)))?.unwrap_or_default();
    let numbers = versions["LayerVersions"].as_array().into_iter().flatten();
    let newest = numbers
        .filter_map(|version| version["Version"].as_u64())
        .max();
    let Some(newest) = newest else {
        return Ok(None);
    };
    let there = api.client.get(&format!("{}/{newest}", layer_path(layer)))?;
    let is_same = there["Content"]["CodeSha256"] == json!(layer.package.sha256())
        && there["Description"].as_str().unwrap_or_default() == layer.description;
    let arn = there["LayerVersionArn"].as_str().map(str::to_owned);
    Ok(arn.filter(|_| is_same))
}

#[cfg(test)]
mod tests {
    use super::{super::plan::tests::package, *};

    fn function() -> Function {
        let package = package(&[("app.py", "def handler(e, c): ...")]);
        Function::new(
            "f".to_owned(),
            package,
            "python3.11".to_owned(),
            "app.handler".to_owned(),
        )
    }

    fn there(function: &Function) -> Present {
        let mut present = Value::Object(function.configuration(&[], None));
        present["CodeSha256"] = json!(function.package.sha256());
        Present {
            function: Some(present),
            ..Present::default()
        }
    }

    #[test]
    fn what_is_there_is_not_made_again() {
        let plain = function();
        let changes = decide(&plain, &[], &there(&plain));
        assert_eq!(changes, Changes::default());
        assert_eq!(changes.shown("created"), "unchanged");
        let new = decide(&plain, &[], &Present::default());
        assert!(new.is_new && !new.code && new.settings["Handler"] == "app.handler");
        assert_eq!(new.shown("create"), "create");
    }

    #[test]
    fn each_difference_is_one_change() {
        let mut wanted = function();
        let mut present = there(&wanted);
        wanted.package = package(&[("app.py", "changed")]);
        wanted.settings.timeout = Some(9);
        wanted.concurrency = Some(5);
        wanted.url = Some(json!({ "AuthType": "NONE" }));
        wanted.queued = Some(json!({ "MaximumRetryAttempts": 1 }));
        wanted.tags.insert("team".to_owned(), "a".to_owned());
        wanted.alias = Some("live".to_owned());
        wanted.mappings = vec![
            json!({ "EventSourceArn": "s", "StartingPosition": "LATEST", "BatchSize": 10, "Enabled": true }),
            json!({ "EventSourceArn": "t", "StartingPosition": "LATEST" }),
            json!({ "EventSourceArn": "u", "StartingPosition": "LATEST", "BatchSize": 7 }),
        ];
        present.mappings = vec![
            json!({ "UUID": "1", "EventSourceArn": "s", "BatchSize": 10, "State": "Enabled" }),
            json!({ "UUID": "2", "EventSourceArn": "u", "BatchSize": 8 }),
        ];
        let changes = decide(&wanted, &[], &present);
        assert_eq!(
            changes.shown("created"),
            "code, Timeout, concurrency, url, mappings, event invoke config, tags, alias"
        );
        assert_eq!(changes.new_mappings, [wanted.mappings[1].clone()]);
        assert_eq!(
            changes.mappings,
            [("2".to_owned(), json!({ "BatchSize": 7 }))]
        );
        // Once it is all there, nothing is left to do.
        let mut settled = there(&wanted);
        settled.concurrency = Some(5);
        settled.url = Some(json!({ "AuthType": "NONE", "FunctionUrl": "http://x/" }));
        settled.queued = Some(json!({ "MaximumRetryAttempts": 1 }));
        settled.tags = json!({ "team": "a" });
        settled.alias = Some(json!({ "Name": "live" }));
        settled.mappings = wanted.mappings.clone();
        assert_eq!(decide(&wanted, &[], &settled), Changes::default());
    }

    #[test]
    fn layers_of_the_plan_have_its_arns() {
        let mut function = function();
        function.layers = vec![
            LayerUse::Local("l".to_owned()),
            LayerUse::Arn("m:1".to_owned()),
        ];
        let arns = [("l", "l:2".to_owned())];
        assert_eq!(layers(&function, &arns).unwrap(), ["l:2", "m:1"]);
        assert!(layers(&function, &[]).is_err());
    }
}
