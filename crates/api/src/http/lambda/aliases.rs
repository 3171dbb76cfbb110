//! CreateAlias, UpdateAlias, GetAlias, ListAliases, DeleteAlias.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, request::Parts},
};
use lambic_functions::{Alias, Error, FunctionVersion};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::Shared,
    answer::{self, Answer},
    check::{ALIAS, VERSION, VERSION_SHIFTED, Violations},
    error::AwsError,
    names::{Target, path},
    page::Asked,
    request::{self, Questions, REQUEST_BYTES_MAX},
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    name: Option<String>,
    function_version: Option<String>,
    description: Option<String>,
    routing_config: Option<RoutingConfig>,
    revision_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RoutingConfig {
    additional_version_weights: Option<BTreeMap<String, f64>>,
}

type Shifted = Option<(FunctionVersion, f64)>;

/// An alias's name, from the path.
#[derive(Debug, Deserialize)]
pub struct Named {
    alias: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = AwsError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named, AwsError> {
        path(parts, state).await.map(|path| path.0)
    }
}

pub async fn create(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, "CreateAlias").await?;
    let mut violations = Violations::default();
    violations.required("name", &members.name);
    violations.required("functionVersion", &members.function_version);
    members.check(&mut violations);
    violations.end()?;
    target.unqualified()?;
    let (version, shifted) = (members.version()?, members.shifted()?);
    let version = version.unwrap_or_default();
    let name = members.name.unwrap_or_default();
    let arn = target.place.qualified(&target.name, &name);
    let (adding, exists) = (name.clone(), format!("Alias already exists: {arn}"));
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            if function.aliases.contains_key(&adding) {
                return Err(Error::Conflict { reason: exists });
            }
            let description = members.description.unwrap_or_default();
            let alias = function.create_alias(&adding, version, description, shifted.flatten())?;
            Ok(alias.clone())
        })
        .await;
    let alias = changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::json(
        StatusCode::CREATED,
        &describe(arn, &name, &alias),
    ))
}

pub async fn update(
    State(app): Shared,
    target: Target,
    Named { alias: name }: Named,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, "UpdateAlias").await?;
    let mut violations = Violations::default();
    violations.pattern("name", Some(&name), &ALIAS);
    members.check(&mut violations);
    violations.end()?;
    target.unqualified()?;
    let arn = there(&app, &target, &name)?;
    let (version, shifted) = (members.version()?, members.shifted()?);
    let updating = name.clone();
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            let revision = members.revision_id.as_deref();
            let description = members.description;
            let alias =
                function.update_alias(&updating, version, description, shifted, revision)?;
            Ok(alias.clone())
        })
        .await;
    let alias = changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::json(StatusCode::OK, &describe(arn, &name, &alias)))
}

pub async fn one(State(app): Shared, target: Target, Named { alias: name }: Named) -> Answer {
    target.unqualified()?;
    let arn = there(&app, &target, &name)?;
    let function = target.function(&app)?;
    let alias = function.alias(&name)?;
    Ok(answer::json(StatusCode::OK, &describe(arn, &name, alias)))
}

pub async fn list(State(app): Shared, target: Target, questions: Questions) -> Answer {
    let version = questions.get("FunctionVersion");
    let mut violations = Violations::default();
    violations.pattern("functionVersion", version, &VERSION);
    violations.end()?;
    let asked = Asked::of(&questions, 10_000)?;
    let function = target.function(&app)?;
    let is_asked =
        |alias: &Alias| version.is_none_or(|version| version == alias.version.to_string());
    let aliases = function.aliases.iter().filter(|(_, alias)| is_asked(alias));
    let items = aliases.map(|(name, alias)| (name.clone(), (name, alias)));
    let page = asked
        .page(items)
        .map(|(name, alias)| describe(target.place.qualified(&target.name, name), name, alias));
    Ok(page.answer("Aliases"))
}

pub async fn remove(State(app): Shared, target: Target, Named { alias: name }: Named) -> Answer {
    target.unqualified()?;
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.remove_alias(&name);
            Ok(())
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// What CreateAlias would refuse of its body, whatever version it names.
pub fn beforehand(body: Value) -> Result<(), AwsError> {
    let members: Members = request::of_value(body)?;
    let mut violations = Violations::default();
    violations.required("name", &members.name);
    members.check(&mut violations);
    violations.end()
}

/// The ARN of an alias that exists.
fn there(app: &super::super::App, target: &Target, name: &str) -> Result<String, AwsError> {
    let function = target.function(app)?;
    let arn = target.place.qualified(&target.name, name);
    match function.aliases.contains_key(name) {
        true => Ok(arn),
        false => Err(AwsError::not_found(format!("Cannot find alias arn: {arn}"))),
    }
}

impl Members {
    fn check(&self, violations: &mut Violations) {
        violations.length("name", self.name.as_deref(), 1, 128);
        violations.pattern("name", self.name.as_deref(), &ALIAS);
        violations.pattern(
            "functionVersion",
            self.function_version.as_deref(),
            &VERSION,
        );
        violations.length("description", self.description.as_deref(), 0, 256);
        if let Some(weights) = self.weights() {
            let member = "routingConfig.additionalVersionWeights";
            violations.keys(member, weights.keys(), &VERSION_SHIFTED);
            if weights.values().any(|weight| !(0.0..=1.0).contains(weight)) {
                let given = weights
                    .iter()
                    .map(|(version, weight)| format!("{version}={weight:?}"));
                let given: Vec<String> = given.collect();
                violations.add(
                    member,
                    format_args!("{{{}}}", given.join(", ")),
                    "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, Member must not be null]",
                );
            }
        }
    }

    fn weights(&self) -> Option<&BTreeMap<String, f64>> {
        self.routing_config
            .as_ref()?
            .additional_version_weights
            .as_ref()
    }

    fn version(&self) -> Result<Option<FunctionVersion>, AwsError> {
        let version = self.function_version.as_deref().map(parse_version);
        version.transpose()
    }

    /// `Some(None)` takes the other version away; `None` leaves it.
    fn shifted(&self) -> Result<Option<Shifted>, AwsError> {
        let Some(_given) = &self.routing_config else {
            return Ok(None);
        };
        let mut weights = self.weights().into_iter().flatten();
        match (weights.next(), weights.next()) {
            (None, _) => Ok(Some(None)),
            (Some((version, weight)), None) => Ok(Some(Some((parse_version(version)?, *weight)))),
            (Some(_), Some(_)) => Err(AwsError::invalid(
                "Number of items in AdditionalVersionWeights cannot be greater than 1",
            )),
        }
    }
}

/// One that looks like a version.
fn parse_version(text: &str) -> Result<FunctionVersion, AwsError> {
    let version = text.parse();
    version.map_err(|_| AwsError::not_found(format!("Function not found: version {text}")))
}

fn describe(arn: String, name: &str, alias: &Alias) -> Value {
    let mut body = json!({
        "AliasArn": arn,
        "Name": name,
        "FunctionVersion": alias.version.to_string(),
        "Description": alias.description,
        "RevisionId": alias.revision,
    });
    if let Some((version, weight)) = alias.shifted {
        let weights = json!({ version.to_string(): weight });
        body["RoutingConfig"] = json!({ "AdditionalVersionWeights": weights });
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(value: Value) -> Members {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn weights_are_read() {
        let shifted = |value| members(value).shifted();
        let weights = |weights| json!({ "RoutingConfig": { "AdditionalVersionWeights": weights } });
        assert_eq!(shifted(json!({})).unwrap(), None);
        assert_eq!(shifted(json!({ "RoutingConfig": {} })).unwrap(), Some(None));
        assert_eq!(
            shifted(weights(json!({ "2": 0.25 }))).unwrap(),
            Some(Some((FunctionVersion::Number(2), 0.25)))
        );
        let error = shifted(weights(json!({ "2": 0.25, "3": 0.1 }))).unwrap_err();
        assert!(
            error.message.contains("greater than 1"),
            "{}",
            error.message
        );
    }

    #[test]
    fn names_are_no_numbers() {
        for (name, expected) in [("live", true), ("12", false), ("a b", false), ("", false)] {
            let mut violations = Violations::default();
            members(json!({ "Name": name })).check(&mut violations);
            assert_eq!(violations.end().is_ok(), expected, "{name}");
        }
    }

    #[test]
    fn an_alias_shows_where_it_points() {
        let mut alias = Alias {
            version: FunctionVersion::Number(1),
            description: String::new(),
            shifted: None,
            revision: "r".to_owned(),
        };
        let body = describe("arn".to_owned(), "live", &alias);
        assert_eq!(body["FunctionVersion"], "1");
        assert!(body.get("RoutingConfig").is_none());
        alias.shifted = Some((FunctionVersion::Number(2), 0.5));
        let body = describe("arn".to_owned(), "live", &alias);
        assert_eq!(body["RoutingConfig"]["AdditionalVersionWeights"]["2"], 0.5);
    }
}
