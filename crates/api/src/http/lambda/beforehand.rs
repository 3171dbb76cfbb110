//! `POST /v1/functions/{name}/check`: what would be refused of a function that is to be made or changed, and of what is
//! to stand around it.
//!
//! For tools that do so in several steps: a step that is refused leaves what the steps before it did. The operations
//! themselves are asked, and nothing is changed.

use std::collections::{BTreeMap, HashMap, HashSet};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{Destination, Runtime, check_tags};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{App, Shared},
    aliases,
    answer::{self, Answer},
    asynchronous,
    check::VARIABLE,
    concurrency,
    create::check_architecture,
    error::AwsError,
    names::{self, Target},
    provisioned,
    request::{self, REQUEST_BYTES_MAX},
    settings::Members,
    sources, tags, update, urls, versions,
};

/// All of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    /// CreateFunction's body without its code; layers that are not there yet are left out. Of a function that is there, what
    /// changes; without it, neither code nor settings do.
    configuration: Option<Value>,
    tags: Option<BTreeMap<String, String>>,
    /// Of the version that is to be published.
    version_description: Option<String>,
    /// The alias that mappings, URL and destinations belong to.
    qualifier: Option<String>,
    /// Bodies of AWS's operations; a mapping that is there has its `UUID`.
    aliases: Vec<Value>,
    event_source_mappings: Vec<Value>,
    event_invoke_config: Option<Value>,
    function_url_config: Option<Value>,
    reserved_concurrency: Option<i64>,
    /// What other functions will have reserved by then; those that are not named keep what they have.
    reserved_beside: HashMap<String, u32>,
    provisioned_concurrency: Vec<i64>,
    /// Functions and aliases, `f` and `f:live`, that will be there when the target of its dead letters is set.
    before: HashSet<String>,
    /// The same, when all else of it is set.
    beside: HashSet<String>,
}

/// What it is about, in AWS's words, and why it is refused.
#[derive(Debug, Default)]
struct Problems(Vec<Value>);

impl Problems {
    fn add(&mut self, member: &str, checked: Result<(), AwsError>) {
        if let Err(error) = checked {
            self.tell(member, &error.message);
        }
    }

    fn tell(&mut self, member: &str, message: &str) {
        self.0.push(json!({ "member": member, "message": message }));
    }
}

pub async fn beforehand(
    State(app): Shared,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "CheckFunction";
    let wanted: Wanted = request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    target.unqualified()?;
    let problems = problems(&app, &target, wanted);
    Ok(answer::json(
        StatusCode::OK,
        &json!({ "problems": problems.0 }),
    ))
}

fn problems(app: &App, target: &Target, wanted: Wanted) -> Problems {
    let mut problems = Problems::default();
    if let Some(configuration) = wanted.configuration {
        of_configuration(app, target, configuration, &wanted.before, &mut problems);
    }
    if let Some(tags) = &wanted.tags {
        problems.add("Tags", tags::beforehand(tags));
    }
    if let Some(description) = &wanted.version_description {
        problems.add("VersionDescription", versions::beforehand(description));
    }
    for alias in wanted.aliases {
        problems.add("Aliases", aliases::beforehand(alias));
    }
    if let Some(count) = wanted.reserved_concurrency {
        let beside = &wanted.reserved_beside;
        let others = concurrency::reserved(&app.services.functions, |name| {
            *name != target.name && !beside.contains_key(name.as_str())
        });
        let beside = beside
            .iter()
            .filter(|(name, _)| *name != target.name.as_str());
        let beside: usize = beside.map(|(_, count)| *count as usize).sum();
        let checked = concurrency::beforehand(count, others.saturating_add(beside));
        problems.add("ReservedConcurrentExecutions", checked);
    }
    let reserved = match wanted.reserved_concurrency {
        Some(count) => usize::try_from(count).ok(),
        None => {
            let there = app.services.functions.function(target.name.as_str());
            there.ok().and_then(|there| there.info.concurrency)
        }
    };
    for count in wanted.provisioned_concurrency {
        let checked = provisioned::beforehand(count, reserved);
        problems.add("ProvisionedConcurrencyConfig", checked);
    }
    let (place, qualifier) = (target.place.clone(), wanted.qualifier.as_deref());
    let owner = match names::target(place, target.name.as_str(), qualifier) {
        Ok(owner) => owner,
        Err(error) => {
            problems.tell("Aliases", &error.message);
            return problems;
        }
    };
    if let Some(body) = wanted.function_url_config {
        problems.add("FunctionUrlConfig", urls::beforehand(&owner, body));
    }
    for body in wanted.event_source_mappings {
        let arn = body["EventSourceArn"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let checked = sources::beforehand(app, &owner, body);
        let checked = checked
            .and_then(|to| to.map_or(Ok(()), |to| check_there(app, &owner, &to, &wanted.beside)));
        problems.add(&arn, checked);
    }
    if let Some(body) = wanted.event_invoke_config {
        match asynchronous::beforehand(&owner, body) {
            Ok(destinations) => {
                for to in &destinations {
                    let checked = check_there(app, &owner, to, &wanted.beside);
                    problems.add("EventInvokeConfig", checked);
                }
            }
            Err(error) => problems.tell("EventInvokeConfig", &error.message),
        }
    }
    problems
}

fn of_configuration(
    app: &App,
    target: &Target,
    mut configuration: Value,
    before: &HashSet<String>,
    problems: &mut Problems,
) {
    // AWS's error does not say which one it is.
    for name in unusable(&mut configuration) {
        let pattern = VARIABLE.text();
        let why =
            format!("`{name}` cannot be an environment variable: its name must match {pattern}");
        problems.tell("Environment", &why);
    }
    match settings(app, target, configuration) {
        Ok(Some(to)) => {
            let checked = check_there(app, target, &to, before);
            problems.add("DeadLetterConfig", checked);
        }
        Ok(None) => {}
        Err(error) => problems.tell("", &error.message),
    }
}

/// Takes variables away whose names cannot be, and gives these.
fn unusable(configuration: &mut Value) -> Vec<String> {
    let environment = configuration.get_mut("Environment");
    let variables = environment.and_then(|environment| environment.get_mut("Variables"));
    let Some(variables) = variables.and_then(Value::as_object_mut) else {
        return Vec::new();
    };
    let names = variables.keys().filter(|name| !VARIABLE.matches(name));
    let names: Vec<String> = names.cloned().collect();
    for name in &names {
        variables.remove(name);
    }
    names
}

/// Gives where its dead letters go.
fn settings(
    app: &App,
    target: &Target,
    configuration: Value,
) -> Result<Option<Destination>, AwsError> {
    let members: Members = request::of_value(configuration)?;
    let functions = &app.services.functions;
    let changes = update::changes(&members, functions)?;
    let there = functions.function(target.name.as_str()).ok();
    match (&there, &changes.runtime) {
        (Some(there), _) => members.check_kind(there.info.runtime == Runtime::Image)?,
        (None, Some((runtime, _))) => {
            check_architecture(*runtime, members.architectures.as_deref())?;
        }
        (None, None) => {}
    }
    if let Some(tags) = &members.tags {
        check_tags(tags)?;
    }
    let checked = functions.check_settings(&target.name, changes);
    checked.map_err(|error| target.place.refuse(error))?;
    members.check_dead_letter(&target.name)
}

/// `made` will be there by then.
fn check_there(
    app: &App,
    target: &Target,
    to: &Destination,
    made: &HashSet<String>,
) -> Result<(), AwsError> {
    match to {
        Destination::Function(name) if made.contains(name) => Ok(()),
        to => {
            let checked = app.services.functions.check_destination(to);
            checked.map_err(|error| target.place.refuse(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_whose_names_cannot_be_are_named_one_by_one() {
        let mut configuration = json!({
            "Environment": { "Variables": { "1A": "", "A-B": "", "FINE": "" } },
        });
        assert_eq!(unusable(&mut configuration), ["1A", "A-B"]);
        assert_eq!(
            configuration,
            json!({ "Environment": { "Variables": { "FINE": "" } } })
        );
        for mut other in [json!({}), json!({ "Environment": null }), json!(1)] {
            let before = other.clone();
            assert!(unusable(&mut other).is_empty());
            assert_eq!(other, before);
        }
    }

    #[test]
    fn what_does_not_depend_on_what_is_there_is_asked_of_the_operations() {
        let target = names::target(Default::default(), "f", None).unwrap();
        let itself = "arn:aws:lambda:us-east-1:000000000000:function:f";
        let stream = "arn:aws:lambic:us-east-1:000000000000:stream/s";
        let to =
            |arn: &str| json!({ "DestinationConfig": { "OnFailure": { "Destination": arn } } });
        let destinations = asynchronous::beforehand(&target, to(stream)).unwrap();
        assert_eq!(destinations, [Destination::parse(stream).unwrap()]);
        assert!(asynchronous::beforehand(&target, to(itself)).is_err());
        assert!(asynchronous::beforehand(&target, json!([])).is_err());
        let open = json!({ "AuthType": "NONE" });
        assert!(urls::beforehand(&target, open).is_ok());
        assert!(urls::beforehand(&target, json!({ "AuthType": "OPEN" })).is_err());
        assert!(aliases::beforehand(json!({ "Name": "live" })).is_ok());
        assert!(aliases::beforehand(json!({ "Name": "12" })).is_err());
        assert!(versions::beforehand(&"d".repeat(256)).is_ok());
        assert!(versions::beforehand(&"d".repeat(257)).is_err());
        assert!(concurrency::beforehand(0, 1_000).is_ok());
        assert!(concurrency::beforehand(1, 900).is_err());
        assert!(provisioned::beforehand(2, Some(2)).is_ok());
        for (count, reserved) in [(0, None), (3, Some(2)), (1_001, None)] {
            assert!(provisioned::beforehand(count, reserved).is_err());
        }
    }
}
