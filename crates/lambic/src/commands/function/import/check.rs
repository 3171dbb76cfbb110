//! Asks the server what it would refuse of a plan, before anything of a function is changed.
//!
//! Importing goes in steps, and a step that is refused would leave what the steps before it changed.

use serde_json::{Map, Value, json};

use super::{
    super::api::Api,
    apply,
    changes::Changes,
    plan::{Function, Plan},
};
use crate::client::{Failure, segment};

/// AWS's, of a function.
const LAYERS_MAX: usize = 5;

/// What the server would not take.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of the plan.
    pub function: usize,
    /// `template.yaml:12: `, if that is known.
    place: String,
    /// Of the function; empty where it is about all of it.
    member: String,
    message: String,
}

impl Refused {
    /// `name` is the function's.
    pub fn shown(&self, name: &str) -> String {
        format!("{}{name}: {}", self.place, self.reason())
    }

    /// Where the function's name stands before it already.
    pub fn told(&self) -> String {
        format!("{}{}", self.place, self.reason())
    }

    fn reason(&self) -> String {
        match self.member.as_str() {
            "" => self.message.clone(),
            member => format!("{member}: {}", self.message),
        }
    }
}

/// Empty if all can be imported, or the server cannot tell.
pub fn refused(api: &Api, plan: &Plan) -> anyhow::Result<Vec<Refused>> {
    let layers = apply::layers_there(api, plan);
    let mut all = Vec::new();
    for (at, function) in plan.functions.iter().enumerate() {
        match ask(api, plan, at, &layers) {
            Ok(refused) => all.extend(refused),
            Err(error) => match error.downcast::<Failure>() {
                Ok(failure) if failure.kind.is_some() && [400, 404].contains(&failure.status) => {
                    all.push(of(at, function, "", &failure.message));
                }
                // An older server, or a key of another account: it is told when its turn comes.
                Ok(failure) if [403, 404, 405].contains(&failure.status) => return Ok(Vec::new()),
                Ok(failure) => return Err(anyhow::Error::new(failure)),
                Err(error) => return Err(error),
            },
        }
    }
    Ok(all)
}

/// About the function at this place of the plan; what stays as it is may have what would be refused by now.
fn ask(
    api: &Api,
    plan: &Plan,
    at: usize,
    layers: &[(&str, String)],
) -> anyhow::Result<Vec<Refused>> {
    let function = &plan.functions[at];
    let changes = apply::changes(api, function, layers)?;
    if changes == Changes::default() {
        return Ok(Vec::new());
    }
    let path = format!("/v1/functions/{}/check", segment(&function.name));
    let answer = api.client.post_json(&path, &question(plan, at, &changes))?;
    let mut refused = read(at, function, &answer);
    refused.extend(too_many_layers(at, function, &changes));
    Ok(refused)
}

/// The server is not asked about layers that are yet to be published, so it does not count them.
fn too_many_layers(at: usize, function: &Function, changes: &Changes) -> Option<Refused> {
    let layers = changes.settings.get("Layers")?.as_array()?;
    let is_told = layers_there(layers).count() > LAYERS_MAX;
    let is_over = layers.len() > LAYERS_MAX && !is_told;
    let message = format!("it has more than {LAYERS_MAX} layers");
    is_over.then(|| of(at, function, "Layers", &message))
}

/// Those that are there.
fn layers_there(layers: &[Value]) -> impl Iterator<Item = &Value> {
    layers.iter().filter(|arn| **arn != apply::NEW_VERSION)
}

/// What would be changed of the function at this place of the plan. Others of the plan are there by the time that it names
/// them: all of them when its dead letters are set, with the aliases of those before it, and later with all aliases.
fn question(plan: &Plan, at: usize, changes: &Changes) -> Value {
    let function = &plan.functions[at];
    let is_set = changes.is_new || changes.code || !changes.settings.is_empty();
    let names = plan.functions.iter().map(|one| one.name.clone());
    let names: Vec<String> = names.collect();
    let with = |functions: &[Function]| {
        let aliases = functions.iter().flat_map(|one| {
            let aliases = one.aliases.iter();
            aliases.map(move |alias| format!("{}:{}", one.name, alias.name))
        });
        let all = names.iter().cloned().chain(aliases);
        all.collect::<Vec<String>>()
    };
    let is_published = changes.published.is_some();
    let aliases = function.aliases.iter().filter(|_| is_published);
    let aliases =
        aliases.map(|alias| json!({ "Name": alias.name, "Description": alias.description }));
    let others = plan.functions.iter().enumerate();
    let others = others.filter(|(other, _)| *other != at);
    let reserved = others.filter_map(|(_, one)| Some((one.name.clone(), json!(one.concurrency?))));
    let ready = changes.provisioned.iter().map(|(_, count)| *count);
    json!({
        "configuration": is_set.then(|| configuration(changes)),
        "tags": (changes.is_new || changes.tags).then_some(&function.tags),
        "qualifier": function.alias,
        "aliases": aliases.collect::<Value>(),
        "version_description": function.version.description.as_ref().filter(|_| is_published),
        "event_source_mappings": mappings(changes),
        "event_invoke_config": function.queued.as_ref().filter(|_| changes.queued),
        "function_url_config": function.url.as_ref().filter(|_| changes.url),
        "reserved_concurrency": function.concurrency.filter(|_| changes.concurrency),
        "reserved_beside": reserved.collect::<Map<String, Value>>(),
        "provisioned_concurrency": ready.collect::<Vec<u32>>(),
        "before": with(&plan.functions[..at]),
        "beside": with(&plan.functions),
    })
}

/// Settings that change; layers only as far as they are there.
fn configuration(changes: &Changes) -> Map<String, Value> {
    let mut settings = changes.settings.clone();
    if let Some(Value::Array(layers)) = changes.settings.get("Layers") {
        let there: Value = layers_there(layers).cloned().collect();
        settings.insert("Layers".to_owned(), there);
    }
    settings
}

/// Those to make, and those to change, by their UUIDs.
fn mappings(changes: &Changes) -> Vec<Value> {
    let changed = changes.mappings.iter().map(|one| {
        let mut body = one.settings.clone();
        body["UUID"] = json!(one.id);
        body["EventSourceArn"] = one.stream.clone();
        body
    });
    changes
        .new_mappings
        .iter()
        .cloned()
        .chain(changed)
        .collect()
}

fn read(at: usize, function: &Function, answer: &Value) -> Vec<Refused> {
    let problems = answer["problems"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refused = problems.map(|problem| {
        let (member, message) = (text(&problem["member"]), text(&problem["message"]));
        of(at, function, &member, &message)
    });
    refused.collect()
}

fn of(at: usize, function: &Function, member: &str, message: &str) -> Refused {
    let named = named(message);
    let member = match member {
        "" => named.as_deref().unwrap_or_default(),
        member => member,
    };
    let place = function.places.get(member).unwrap_or(&function.place);
    Refused {
        function: at,
        place: place.clone(),
        member: member.to_owned(),
        message: message.to_owned(),
    }
}

/// The member that AWS's error is about: `Value '1000' at 'timeout' failed to satisfy constraint: …`.
fn named(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(" at '")?;
    let (member, _) = rest.split_once(['\'', '.'])?;
    let first = member.chars().next()?.to_ascii_uppercase();
    Some(format!("{first}{}", &member[first.len_utf8()..]))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            changes::{Present, decide},
            plan::{Alias, tests::function},
        },
        *,
    };

    #[test]
    fn functions_of_the_plan_count_as_there_when_they_are() {
        let of = |name: &str| {
            let mut one = function(&[("app.py", "")]);
            one.name = name.to_owned();
            one.alias = Some("live".to_owned());
            one.aliases.push(Alias {
                name: "live".to_owned(),
                provisioned: Some(2),
                ..Alias::default()
            });
            one.tags.insert("a".to_owned(), "b".to_owned());
            one.concurrency = Some(5);
            one
        };
        let plan = Plan {
            functions: vec![of("one"), of("two")],
            ..Plan::default()
        };
        let layers = [apply::NEW_VERSION.to_owned(), "m:1".to_owned()];
        let asked = |at: usize| {
            let changes = decide(&plan.functions[at], &layers, &Present::default());
            question(&plan, at, &changes)
        };
        let (first, second) = (asked(0), asked(1));
        assert_eq!(first["before"], json!(["one", "two"]));
        assert_eq!(second["before"], json!(["one", "two", "one:live"]));
        assert_eq!(first["reserved_beside"], json!({ "two": 5 }));
        assert_eq!(second["reserved_beside"], json!({ "one": 5 }));
        for asked in [first, second] {
            let beside = json!(["one", "two", "one:live", "two:live"]);
            assert_eq!(asked["beside"], beside);
            assert_eq!(asked["configuration"]["Layers"], json!(["m:1"]));
            assert_eq!(asked["configuration"]["Timeout"], 3);
            assert_eq!(asked["tags"], json!({ "a": "b" }));
            assert_eq!(asked["aliases"][0]["Name"], "live");
            assert_eq!(asked["provisioned_concurrency"], json!([2]));
            assert_eq!(asked["qualifier"], "live");
        }
    }

    #[test]
    fn only_what_changes_is_asked() {
        let mut wanted = function(&[("app.py", "")]);
        let mut there = Value::Object(wanted.configuration(&[], None));
        there["CodeSha256"] = json!(wanted.package.sha256());
        let stream = |name: &str| json!({ "EventSourceArn": name, "BatchSize": 10 });
        let mut present = Present {
            function: Some(there),
            concurrency: Some(5),
            ..Present::default()
        };
        present.tags = json!({ "team": "a" });
        present.mappings = ["s", "t"].map(stream).to_vec();
        present.mappings[1]["UUID"] = json!("2");
        wanted.concurrency = Some(5);
        wanted.tags.insert("team".to_owned(), "a".to_owned());
        wanted.mappings = ["s", "t", "u"].map(stream).to_vec();
        wanted.mappings[1]["BatchSize"] = json!(20);
        wanted.queued = Some(json!({ "MaximumRetryAttempts": 1 }));
        present.queued = wanted.queued.clone();
        let asked = |wanted: Function| {
            let changes = decide(&wanted, &[], &present);
            let plan = Plan {
                functions: vec![wanted],
                ..Plan::default()
            };
            question(&plan, 0, &changes)
        };
        let mut slower = function(&[("app.py", "")]);
        slower.settings.timeout = Some(9);
        let slower = asked(slower);
        assert_eq!(slower["configuration"], json!({ "Timeout": 9 }));
        assert_eq!(slower["event_source_mappings"], json!([]));
        let asked = asked(wanted);
        let changed = json!({ "UUID": "2", "EventSourceArn": "t", "BatchSize": 20 });
        assert_eq!(
            asked["event_source_mappings"],
            json!([stream("u"), changed])
        );
        for member in [
            "configuration",
            "tags",
            "event_invoke_config",
            "reserved_concurrency",
        ] {
            assert!(asked[member].is_null(), "{member}: {asked}");
        }
    }

    #[test]
    fn layers_that_are_yet_to_be_published_are_counted() {
        let mut one = function(&[("app.py", "")]);
        let places = &mut one.places;
        places.insert("Layers".to_owned(), "template.yaml:9: ".to_owned());
        let check = |new: usize, there: usize, expected: Option<&str>| {
            let new = (0..new).map(|_| apply::NEW_VERSION.to_owned());
            let there = (0..there).map(|number| format!("l:{number}"));
            let layers: Vec<String> = new.chain(there).collect();
            let changes = decide(&one, &layers, &Present::default());
            let told = too_many_layers(0, &one, &changes);
            let told = told.map(|one| one.shown("f"));
            assert_eq!(told.as_deref(), expected, "{layers:?}");
        };
        check(3, 2, None);
        check(
            3,
            3,
            Some("template.yaml:9: f: Layers: it has more than 5 layers"),
        );
        // The server tells this one.
        check(1, 6, None);
    }

    #[test]
    fn what_is_refused_is_told_with_its_place() {
        let mut one = function(&[("app.py", "")]);
        one.place = "template.yaml:3: ".to_owned();
        let places = &mut one.places;
        places.insert("Timeout".to_owned(), "template.yaml:7: ".to_owned());
        for (member, message, expected) in [
            (
                "",
                "Value '1000' at 'timeout' failed",
                "template.yaml:7: f: Timeout: Value '1000' at 'timeout' failed",
            ),
            (
                "",
                "Value '1' at 'ephemeralStorage.size' failed",
                "template.yaml:3: f: EphemeralStorage: Value '1' at 'ephemeralStorage.size' failed",
            ),
            (
                "DeadLetterConfig",
                "it is not there",
                "template.yaml:3: f: DeadLetterConfig: it is not there",
            ),
            ("", "no", "template.yaml:3: f: no"),
        ] {
            let answer = json!({ "problems": [{ "member": member, "message": message }] });
            let told = read(0, &one, &answer);
            let told: Vec<String> = told.iter().map(|one| one.shown("f")).collect();
            assert_eq!(told, [expected]);
        }
        assert!(read(0, &one, &json!({ "problems": [] })).is_empty());
    }
}
