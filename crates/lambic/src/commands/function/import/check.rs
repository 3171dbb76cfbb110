//! Asks the server what it would refuse of a plan, before anything of a function is changed.
//!
//! Importing goes in steps, and a step that is refused would leave what the steps before it changed.

use serde_json::{Value, json};

use super::{
    super::api::Api,
    plan::{Function, LayerUse, Plan},
};
use crate::client::{Failure, segment};

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
    let mut all = Vec::new();
    for (at, function) in plan.functions.iter().enumerate() {
        let path = format!("/v1/functions/{}/check", segment(&function.name));
        match api.client.post_json(&path, &question(plan, at)) {
            Ok(answer) => all.extend(read(at, function, &answer)),
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

/// Of the function at this place of the plan. Others of the plan are there by the time that it names them: all of them
/// when its dead letters are set, with the aliases of those before it, and later with all aliases.
fn question(plan: &Plan, at: usize) -> Value {
    let function = &plan.functions[at];
    let given = function.layers.iter().filter_map(|layer| match layer {
        LayerUse::Arn(arn) => Some(arn.clone()),
        LayerUse::Local(_) => None,
    });
    let given: Vec<String> = given.collect();
    let mut configuration = function.configuration(&given, None);
    configuration.insert("Tags".to_owned(), json!(function.tags));
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
    let aliases = function.aliases.iter();
    let aliases =
        aliases.map(|alias| json!({ "Name": alias.name, "Description": alias.description }));
    let ready = function.aliases.iter().map(|alias| alias.provisioned);
    let ready = ready.chain([function.version.provisioned]).flatten();
    json!({
        "configuration": configuration,
        "qualifier": function.alias,
        "aliases": aliases.collect::<Value>(),
        "event_source_mappings": function.mappings,
        "event_invoke_config": function.queued,
        "function_url_config": function.url,
        "reserved_concurrency": function.concurrency,
        "provisioned_concurrency": ready.collect::<Vec<u32>>(),
        "before": with(&plan.functions[..at]),
        "beside": with(&plan.functions),
    })
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
        super::plan::{Alias, tests::function},
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
            one.layers = vec![
                LayerUse::Local("l".to_owned()),
                LayerUse::Arn("m:1".to_owned()),
            ];
            one.tags.insert("a".to_owned(), "b".to_owned());
            one
        };
        let plan = Plan {
            functions: vec![of("one"), of("two")],
            ..Plan::default()
        };
        let first = question(&plan, 0);
        assert_eq!(first["before"], json!(["one", "two"]));
        let second = question(&plan, 1);
        assert_eq!(second["before"], json!(["one", "two", "one:live"]));
        for asked in [first, second] {
            let beside = json!(["one", "two", "one:live", "two:live"]);
            assert_eq!(asked["beside"], beside);
            assert_eq!(asked["configuration"]["Layers"], json!(["m:1"]));
            assert_eq!(asked["configuration"]["Tags"], json!({ "a": "b" }));
            assert_eq!(asked["provisioned_concurrency"], json!([2]));
            assert_eq!(asked["qualifier"], "live");
        }
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
