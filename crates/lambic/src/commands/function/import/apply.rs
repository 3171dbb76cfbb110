//! Makes what a plan wants: looks at what there is, decides what differs, does that and nothing else.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};

use super::{
    super::{
        api::{Api, MAPPINGS, found},
        list::qualifier_of,
        url, versions,
    },
    changes::{Changes, Present, decide},
    plan::{Function, Layer, LayerUse, Plan},
    stays::staying,
};
use crate::client::segment;

/// The member that may name another function of the plan.
const DEAD_LETTER: &str = "DeadLetterConfig";
/// Stands where the ARN of a layer's version would, as long as that is not published.
pub const NEW_VERSION: &str = "new";

/// What came of one entry of a plan, or would come.
pub struct Outcome {
    pub name: String,
    /// `created`, `unchanged`, or what changed.
    pub change: String,
    pub url: Option<String>,
    pub error: Option<anyhow::Error>,
    /// What a function has, and the plan has not.
    pub stays: Vec<String>,
}

/// Every layer, then every function; one that fails does not stop the others. All functions are made before what may name
/// another one, and all aliases before what may name one: the server takes no destinations that are not there.
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
            stays: Vec::new(),
        });
    }
    let functions = plan.functions.iter();
    let made: Vec<_> = functions
        .map(|function| make(api, function, &arns))
        .collect();
    let functions = plan.functions.iter().zip(made);
    let finished: Vec<anyhow::Result<(Changes, Present)>> = functions
        .map(|(function, made)| {
            let (changes, present) = made?;
            finish(api, function, &changes, &present)?;
            Ok((changes, present))
        })
        .collect();
    for (function, finished) in plan.functions.iter().zip(finished) {
        let surrounded = finished.and_then(|(changes, present)| {
            let url = surround(api, function, &changes)?;
            let stays = staying(function, &changes, &present);
            Ok((changes, url, stays))
        });
        let outcome = match surrounded {
            Ok((changes, url, stays)) => Outcome {
                name: function.name.clone(),
                change: changes.shown("created"),
                url,
                error: None,
                stays,
            },
            Err(error) => Outcome {
                name: function.name.clone(),
                change: "failed".to_owned(),
                url: None,
                error: Some(error),
                stays: Vec::new(),
            },
        };
        outcomes.push(outcome);
    }
    outcomes
}

/// The layers of a plan as far as they are there. One that cannot be looked at is told when its turn comes.
pub fn layers_there<'a>(api: &Api, plan: &'a Plan) -> Vec<(&'a str, String)> {
    let layers = plan.layers.iter();
    let there = layers.map(|layer| {
        let there = same_layer(api, layer).ok().flatten();
        (layer.name.as_str(), there.unwrap_or_else(new_version))
    });
    there.collect()
}

/// Instead of an ARN: a version that is not there yet is none that a function has.
fn new_version() -> String {
    NEW_VERSION.to_owned()
}

/// What of a function would be changed.
pub fn changes(api: &Api, function: &Function, arns: &[(&str, String)]) -> anyhow::Result<Changes> {
    let layers = layers(function, arns)?;
    let present = look(api, function)?;
    Ok(decide(function, &layers, &present))
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
        arns.push((layer.name.as_str(), there.unwrap_or_else(new_version)));
        outcomes.push(Outcome {
            name: layer.name.clone(),
            change: change.to_owned(),
            url: None,
            error: None,
            stays: Vec::new(),
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
            stays: staying(function, &changes, &present),
        });
    }
    Ok(outcomes)
}

fn look(api: &Api, function: &Function) -> anyhow::Result<Present> {
    let name = function.name.as_str();
    let Some(there) = api.find(name, None)? else {
        return Ok(Present::default());
    };
    let alias = function.alias.as_deref();
    let qualified = qualified(function);
    let aliases = api.aliases(name)?;
    let version = match function.version.is_wanted {
        true => newest(&api.versions(name)?),
        false => None,
    };
    let mut provisioned = BTreeMap::new();
    for one in api.provisioned(name)? {
        let count = one["RequestedProvisionedConcurrentExecutions"].as_u64();
        if let (Some(qualifier), Some(count)) = (qualifier_of(&one), count) {
            provisioned.insert(qualifier.to_owned(), count);
        }
    }
    let arn = there["FunctionArn"].as_str().unwrap_or_default();
    let tags = api.client.get(&tags_path(arn))?["Tags"].clone();
    let path = |date: &str, rest: &str| format!("/{date}/functions/{}/{rest}", segment(name));
    // The API lists only what invokes exactly what is named.
    let mut all_mappings = api.mappings(name)?;
    for alias in aliases.iter().filter_map(|alias| alias["Name"].as_str()) {
        all_mappings.extend(api.mappings(&format!("{name}:{alias}"))?);
    }
    Ok(Present {
        concurrency: api.concurrency(name)?,
        url: url::find(api, name, alias)?,
        mappings: api.mappings(&qualified)?,
        queued: found(api.client.get(&queued_path(function)))?,
        urls: api.all(&path("2021-10-31", "urls"), "FunctionUrlConfigs")?,
        all_mappings,
        all_queued: api.all(
            &path("2019-09-25", "event-invoke-config/list"),
            "FunctionEventInvokeConfigs",
        )?,
        tags,
        aliases,
        version,
        provisioned,
        function: Some(there),
    })
}

/// Of a function's versions, `$LATEST` among them.
fn newest(versions: &[Value]) -> Option<u64> {
    let numbers = versions.iter().filter_map(|one| one["Version"].as_str());
    numbers.filter_map(|number| number.parse().ok()).max()
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

/// The function itself: its code and its settings, but for where its dead letters go. What there was goes along.
fn make(
    api: &Api,
    function: &Function,
    arns: &[(&str, String)],
) -> anyhow::Result<(Changes, Present)> {
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
    Ok((changes, present))
}

/// What a version has of a function that is made, and the version with its aliases.
fn finish(
    api: &Api,
    function: &Function,
    changes: &Changes,
    present: &Present,
) -> anyhow::Result<()> {
    let name = function.name.as_str();
    if let Some(dead_letter) = changes.settings.get(DEAD_LETTER) {
        api.update_settings(name, &json!({ DEAD_LETTER: dead_letter }))?;
        api.settled(name)?;
    }
    if changes.concurrency {
        api.reserve(name, function.concurrency)?;
    }
    if changes.published.is_some() {
        publish_version(api, function, present)?;
    }
    Ok(())
}

/// What stands around a function that has its aliases; gives its URL.
fn surround(api: &Api, function: &Function, changes: &Changes) -> anyhow::Result<Option<String>> {
    let name = function.name.as_str();
    for (alias, count) in &changes.provisioned {
        let qualifier = match alias {
            Some(alias) => alias.clone(),
            None => {
                let newest = newest(&api.versions(name)?);
                newest.context("no version was published")?.to_string()
            }
        };
        let done = api.provision(name, &qualifier, *count);
        done.with_context(|| format!("provisioned concurrency of {qualifier}"))?;
    }
    let alias = function.alias.as_deref();
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
    for one in &changes.mappings {
        let path = format!("{MAPPINGS}/{}", segment(&one.id));
        api.client.put_json(&path, &one.settings)?;
    }
    if let Some(body) = function.queued.as_ref().filter(|_| changes.queued) {
        api.client.put_json(&queued_path(function), body)?;
    }
    Ok(url)
}

/// Freezes what there is now, and lets all aliases follow.
fn publish_version(api: &Api, function: &Function, present: &Present) -> anyhow::Result<()> {
    let name = function.name.as_str();
    let published = api.publish(name, function.version.description.as_deref())?;
    let version = published["Version"].as_str().unwrap_or_default();
    for alias in &function.aliases {
        let description = alias.description.as_deref();
        versions::set(api, name, &alias.name, version, None, description)?;
    }
    // Environments of the version before would be kept for ever, and nobody would call them.
    let former = present.version.map(|number| number.to_string());
    let former = former.filter(|former| {
        let is_ours = function.version.provisioned.is_some();
        is_ours && former != version && present.provisioned.contains_key(former)
    });
    match former {
        Some(former) => api.unprovision(name, &former),
        None => Ok(()),
    }
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
    use super::{super::plan::tests::function, *};

    #[test]
    fn the_newest_version_has_the_highest_number() {
        let versions = ["$LATEST", "9", "10"].map(|number| json!({ "Version": number }));
        assert_eq!(newest(&versions), Some(10));
        assert_eq!(newest(&versions[..1]), None);
    }

    #[test]
    fn layers_of_the_plan_have_its_arns() {
        let mut function = function(&[("app.py", "")]);
        function.layers = vec![
            LayerUse::Local("l".to_owned()),
            LayerUse::Arn("m:1".to_owned()),
        ];
        let arns = [("l", "l:2".to_owned())];
        assert_eq!(layers(&function, &arns).unwrap(), ["l:2", "m:1"]);
        assert!(layers(&function, &[]).is_err());
    }
}
