//! Decides what of a function has to be changed, from what there is and what is wanted. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    super::url,
    plan::{Function, differing},
};

/// What there is of a function.
#[derive(Debug, Default)]
pub struct Present {
    /// `None` if there is no such function.
    pub function: Option<Value>,
    pub concurrency: Option<u64>,
    pub url: Option<Value>,
    pub mappings: Vec<Value>,
    pub queued: Option<Value>,
    pub tags: Value,
    pub aliases: Vec<Value>,
    /// The number of the newest one; looked for only if it is wanted.
    pub version: Option<u64>,
    pub provisioned: BTreeMap<String, u64>,
    /// Those of all of its versions and aliases, also where the plan wants none.
    pub urls: Vec<Value>,
    pub all_mappings: Vec<Value>,
    pub all_queued: Vec<Value>,
}

/// What differs from what is wanted.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    pub is_new: bool,
    pub code: bool,
    pub settings: Map<String, Value>,
    pub concurrency: bool,
    pub url: bool,
    pub new_mappings: Vec<Value>,
    pub mappings: Vec<MappingChange>,
    pub queued: bool,
    pub tags: bool,
    /// A version, and what it is needed for.
    pub published: Option<&'static str>,
    /// Environments to keep for an alias; `None`: for the newest version.
    pub provisioned: Vec<(Option<String>, u32)>,
}

/// Of a mapping that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct MappingChange {
    pub id: String,
    /// Its ARN, which stays.
    pub stream: Value,
    pub settings: Value,
}

impl Changes {
    pub fn shown(&self, new: &str) -> String {
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
        if let Some(what) = self.published {
            add(true, what);
        }
        add(!self.provisioned.is_empty(), "provisioned concurrency");
        match shown.as_slice() {
            [] => "unchanged".to_owned(),
            shown => shown.join(", "),
        }
    }
}

pub fn decide(function: &Function, layers: &[String], present: &Present) -> Changes {
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
    changes.published = published(function, &changes, present);
    changes.provisioned = provisioned(function, &changes, present);
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
            changes.mappings.push(MappingChange {
                id: id.to_owned(),
                stream: wanted["EventSourceArn"].clone(),
                settings,
            });
        }
    }
    changes
}

fn published(function: &Function, changes: &Changes, present: &Present) -> Option<&'static str> {
    let is_changed = changes.code || !changes.settings.is_empty();
    let is_there = |name: &str| present.aliases.iter().any(|there| there["Name"] == name);
    match function.aliases.is_empty() {
        false => {
            let mut names = function.aliases.iter().map(|alias| alias.name.as_str());
            (is_changed || !names.all(is_there)).then_some("alias")
        }
        true => {
            let is_due = is_changed || present.version.is_none();
            (function.version.is_wanted && is_due).then_some("version")
        }
    }
}

fn provisioned(
    function: &Function,
    changes: &Changes,
    present: &Present,
) -> Vec<(Option<String>, u32)> {
    let differs = |name: &str, wanted: u32| {
        let there = present.provisioned.get(name);
        there.is_none_or(|there| *there != u64::from(wanted))
    };
    let of_aliases = function.aliases.iter().filter_map(|alias| {
        let wanted = alias.provisioned?;
        differs(&alias.name, wanted).then(|| (Some(alias.name.clone()), wanted))
    });
    let of_version = function.version.provisioned.filter(|wanted| {
        let newest = present.version.map(|number| number.to_string());
        changes.published.is_some() || newest.is_none_or(|newest| differs(&newest, *wanted))
    });
    of_aliases
        .chain(of_version.map(|wanted| (None, wanted)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::plan::{
            Alias,
            tests::{function, package},
        },
        *,
    };

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
        let plain = function(&[("app.py", "")]);
        let changes = decide(&plain, &[], &there(&plain));
        assert_eq!(changes, Changes::default());
        assert_eq!(changes.shown("created"), "unchanged");
        let new = decide(&plain, &[], &Present::default());
        assert!(new.is_new && !new.code && new.settings["Handler"] == "app.handler");
        assert_eq!(new.shown("create"), "create");
    }

    #[test]
    fn each_difference_is_one_change() {
        let mut wanted = function(&[("app.py", "")]);
        let mut present = there(&wanted);
        wanted.package = package(&[("app.py", "changed")]);
        wanted.settings.timeout = Some(9);
        wanted.concurrency = Some(5);
        wanted.url = Some(json!({ "AuthType": "NONE" }));
        wanted.queued = Some(json!({ "MaximumRetryAttempts": 1 }));
        wanted.tags.insert("team".to_owned(), "a".to_owned());
        wanted.alias = Some("live".to_owned());
        wanted.aliases = vec![Alias {
            name: "live".to_owned(),
            provisioned: Some(2),
            ..Alias::default()
        }];
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
            "code, Timeout, concurrency, url, mappings, event invoke config, tags, alias, provisioned concurrency"
        );
        assert_eq!(changes.new_mappings, [wanted.mappings[1].clone()]);
        assert_eq!(
            changes.mappings,
            [MappingChange {
                id: "2".to_owned(),
                stream: json!("u"),
                settings: json!({ "BatchSize": 7 }),
            }]
        );
        // Once it is all there, nothing is left to do.
        let mut settled = there(&wanted);
        settled.concurrency = Some(5);
        settled.url = Some(json!({ "AuthType": "NONE", "FunctionUrl": "http://x/" }));
        settled.queued = Some(json!({ "MaximumRetryAttempts": 1 }));
        settled.tags = json!({ "team": "a" });
        settled.aliases = vec![json!({ "Name": "live" })];
        settled.provisioned.insert("live".to_owned(), 2);
        settled.mappings = wanted.mappings.clone();
        assert_eq!(decide(&wanted, &[], &settled), Changes::default());
    }

    #[test]
    fn a_version_and_its_environments_follow_the_code() {
        let mut wanted = function(&[("app.py", "")]);
        wanted.version.is_wanted = true;
        wanted.version.provisioned = Some(3);
        let check = |present: &Present, wanted: &Function, expected: &str| {
            let changes = decide(wanted, &[], present);
            assert_eq!(changes.shown("created"), expected);
        };
        let mut present = there(&wanted);
        check(&present, &wanted, "version, provisioned concurrency");
        present.version = Some(4);
        check(&present, &wanted, "provisioned concurrency");
        present.provisioned.insert("4".to_owned(), 3);
        check(&present, &wanted, "unchanged");
        present.provisioned.insert("4".to_owned(), 2);
        check(&present, &wanted, "provisioned concurrency");
        present.provisioned.insert("4".to_owned(), 3);
        wanted.settings.timeout = Some(9);
        check(
            &present,
            &wanted,
            "Timeout, version, provisioned concurrency",
        );
    }
}
