//! What a function has and its source has not: an import takes none of it away, and tells it. Pure.
//!
//! Whether an import made it before, and its source has lost it since, or somebody set it by hand, nobody knows.

use serde_json::{Value, json};

use super::{
    super::list::qualifier_of,
    changes::{Changes, Present},
    plan::{Function, named},
};

/// Settings that stay where the source does not name them: a member of theirs, and what it is if they are set.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("SnapStart", "ApplyOn", "PublishedVersions"),
    ("TracingConfig", "Mode", "Active"),
    ("LoggingConfig", "LogFormat", "JSON"),
];

/// Members of a URL and of a mapping of a stream, and what they are unless something else is asked for. Nothing is as good as
/// the default: AWS leaves some members out.
const OF_URLS: [(&str, &str); 2] = [("Cors", "{}"), ("InvokeMode", "\"BUFFERED\"")];
const OF_MAPPINGS: [(&str, &str); 10] = [
    ("BatchSize", "100"),
    ("BisectBatchOnFunctionError", "false"),
    ("DestinationConfig", "{\"OnFailure\":{}}"),
    ("FilterCriteria", "{\"Filters\":[]}"),
    ("FunctionResponseTypes", "[]"),
    ("MaximumBatchingWindowInSeconds", "0"),
    ("MaximumRecordAgeInSeconds", "-1"),
    ("MaximumRetryAttempts", "-1"),
    ("ParallelizationFactor", "1"),
    ("TumblingWindowInSeconds", "0"),
];

pub fn staying(function: &Function, changes: &Changes, present: &Present) -> Vec<String> {
    let mut stays = settings(function, present);
    if let (None, Some(count)) = (function.concurrency, present.concurrency) {
        stays.push(format!("reserved concurrency of {count}"));
    }
    let alias = function.alias.as_deref();
    for there in &present.aliases {
        let name = there["Name"].as_str().unwrap_or_default();
        if !function.aliases.iter().any(|alias| alias.name == name) {
            stays.push(format!("alias {name}"));
        }
    }
    for qualifier in present.provisioned.keys() {
        let mut aliases = function.aliases.iter();
        let of_alias = aliases.any(|alias| alias.name == *qualifier && alias.provisioned.is_some());
        // That of the version before goes when the next one has its own.
        let is_number = qualifier.bytes().all(|byte| byte.is_ascii_digit());
        let goes = is_number && function.version.provisioned.is_some();
        if !of_alias && !goes {
            stays.push(format!("provisioned concurrency of {qualifier}"));
        }
    }
    for url in &present.urls {
        let qualifier = qualifier_of(url);
        match &function.url {
            Some(wanted) if qualifier == alias => {
                let members = members(&OF_URLS, wanted, url);
                stays.extend(members.map(|member| format!("{member} of the URL")));
            }
            _ => stays.push(of("URL", qualifier)),
        }
    }
    for mapping in &present.all_mappings {
        stays.extend(of_mapping(function, mapping));
    }
    for queued in &present.all_queued {
        let qualifier = qualifier_of(queued);
        match &function.queued {
            Some(wanted) if qualifier == alias => {
                // One that changes is put as a whole.
                if !changes.queued {
                    stays.extend(of_queued(wanted, queued));
                }
            }
            _ => stays.push(of("event invoke config", qualifier)),
        }
    }
    let tags = present.tags.as_object().into_iter().flatten();
    let tags = tags.filter(|(name, _)| !function.tags.contains_key(*name));
    stays.extend(tags.map(|(name, _)| format!("tag {name}")));
    stays
}

fn of(what: &str, qualifier: Option<&str>) -> String {
    match qualifier {
        Some(qualifier) => format!("{what} of {qualifier}"),
        None => what.to_owned(),
    }
}

fn settings(function: &Function, present: &Present) -> Vec<String> {
    let Some(there) = &present.function else {
        return Vec::new();
    };
    let kept = &function.settings.kept;
    let mut stays = Vec::new();
    let target = there["DeadLetterConfig"]["TargetArn"].as_str();
    if let Some(target) = target.filter(|target| !target.is_empty())
        && !kept.contains_key("DeadLetterConfig")
    {
        stays.push(format!("dead letters to {target}"));
    }
    for (name, member, value) in SETTINGS {
        if there[name][member] == value && !kept.contains_key(name) {
            stays.push(name.to_owned());
        }
    }
    stays
}

/// Those that are not the default there, and not wanted.
fn members<'a>(
    known: &'a [(&'a str, &'a str)],
    wanted: &'a Value,
    there: &'a Value,
) -> impl Iterator<Item = &'a str> {
    let is_set = |name: &str, default: &str| {
        let default: Value = serde_json::from_str(default).expect("the tables have JSON");
        let there = &there[name];
        !there.is_null() && *there != json!({}) && *there != default
    };
    let stays =
        move |(name, default): &&(&str, &str)| wanted[*name].is_null() && is_set(name, default);
    known.iter().filter(stays).map(|(name, _)| *name)
}

fn of_mapping(function: &Function, there: &Value) -> Vec<String> {
    let arn = &there["EventSourceArn"];
    let mapping = format!("mapping of {}", named(arn));
    let qualifier = qualifier_of(there);
    let mut mappings = function.mappings.iter();
    let wanted = mappings
        .find(|wanted| wanted["EventSourceArn"] == *arn && qualifier == function.alias.as_deref());
    let Some(wanted) = wanted else {
        return vec![of(&mapping, qualifier)];
    };
    let members = members(&OF_MAPPINGS, wanted, there);
    let mut stays: Vec<_> = members
        .map(|member| format!("{member} of the {mapping}"))
        .collect();
    if there["State"] == "Disabled" && wanted["Enabled"].is_null() {
        stays.push(format!("the {mapping} is disabled"));
    }
    stays
}

fn of_queued(wanted: &Value, there: &Value) -> Vec<String> {
    let mut stays = Vec::new();
    for member in ["OnSuccess", "OnFailure"] {
        if there["DestinationConfig"][member]["Destination"].is_string()
            && wanted["DestinationConfig"].is_null()
        {
            stays.push(format!("{member} of the event invoke config"));
        }
    }
    for member in ["MaximumRetryAttempts", "MaximumEventAgeInSeconds"] {
        if !there[member].is_null() && wanted[member].is_null() {
            stays.push(format!("{member} of the event invoke config"));
        }
    }
    stays
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::plan::{Alias, tests::function},
        *,
    };

    fn arn(qualifier: &str) -> String {
        format!("arn:aws:lambda:us-east-1:000000000000:function:f{qualifier}")
    }

    fn present() -> Present {
        let stream = "arn:aws:lambic:us-east-1:000000000000:stream/s";
        let mut present = Present {
            function: Some(json!({
                "DeadLetterConfig": { "TargetArn": arn("x") },
                "SnapStart": { "ApplyOn": "None" },
                "TracingConfig": { "Mode": "Active" },
            })),
            concurrency: Some(5),
            tags: json!({ "team": "a" }),
            aliases: vec![json!({ "Name": "live" })],
            urls: vec![json!({
                "FunctionArn": arn(":live"),
                "AuthType": "NONE",
                "Cors": { "MaxAge": 1 },
                "InvokeMode": "BUFFERED",
            })],
            all_mappings: vec![json!({
                "FunctionArn": arn(":live"),
                "EventSourceArn": stream,
                "BatchSize": 20,
                "MaximumRetryAttempts": -1,
                "FunctionResponseTypes": [],
                "State": "Disabled",
                "FilterCriteria": { "Filters": [{ "Pattern": "{}" }] },
                "DestinationConfig": { "OnFailure": { "Destination": arn("y") } },
            })],
            all_queued: vec![json!({
                "FunctionArn": arn(":live"),
                "MaximumRetryAttempts": 0,
                "DestinationConfig": { "OnSuccess": {}, "OnFailure": { "Destination": arn("y") } },
            })],
            ..Present::default()
        };
        present.provisioned.insert("live".to_owned(), 1);
        present.provisioned.insert("3".to_owned(), 1);
        present
    }

    #[test]
    fn what_the_source_has_no_more_is_told() {
        let stays = staying(
            &function(&[("app.py", "")]),
            &Changes::default(),
            &present(),
        );
        assert_eq!(
            stays,
            [
                format!("dead letters to {}", arn("x")).as_str(),
                "TracingConfig",
                "reserved concurrency of 5",
                "alias live",
                "provisioned concurrency of 3",
                "provisioned concurrency of live",
                "URL of live",
                "mapping of stream s of live",
                "event invoke config of live",
                "tag team",
            ]
        );
        let new = staying(
            &function(&[("app.py", "")]),
            &Changes::default(),
            &Present::default(),
        );
        assert!(new.is_empty(), "{new:?}");
    }

    #[test]
    fn what_the_source_has_is_not_told() {
        let mut wanted = function(&[("app.py", "")]);
        for name in ["DeadLetterConfig", "TracingConfig"] {
            wanted.settings.kept.insert(name.to_owned(), json!({}));
        }
        wanted.concurrency = Some(1);
        wanted.alias = Some("live".to_owned());
        wanted.aliases = vec![Alias {
            name: "live".to_owned(),
            provisioned: Some(2),
            ..Alias::default()
        }];
        wanted.version.provisioned = Some(1);
        wanted.url = Some(json!({}));
        wanted.mappings =
            vec![json!({ "EventSourceArn": "arn:aws:lambic:us-east-1:000000000000:stream/s" })];
        wanted.queued = Some(json!({ "MaximumRetryAttempts": 0 }));
        wanted.tags.insert("team".to_owned(), "b".to_owned());
        let stays = staying(&wanted, &Changes::default(), &present());
        assert_eq!(
            stays,
            [
                "Cors of the URL",
                "BatchSize of the mapping of stream s",
                "DestinationConfig of the mapping of stream s",
                "FilterCriteria of the mapping of stream s",
                "the mapping of stream s is disabled",
                "OnFailure of the event invoke config",
            ]
        );
        // What is put as a whole leaves nothing of what there was.
        let changes = Changes {
            queued: true,
            ..Changes::default()
        };
        wanted.url = Some(json!({ "Cors": {} }));
        let members = [
            "FilterCriteria",
            "DestinationConfig",
            "BatchSize",
            "Enabled",
        ];
        for member in members {
            wanted.mappings[0][member] = json!({});
        }
        let stays = staying(&wanted, &changes, &present());
        assert!(stays.is_empty(), "{stays:?}");
    }
}
