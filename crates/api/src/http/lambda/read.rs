//! GetFunction, GetFunctionConfiguration, ListFunctions, ListVersionsByFunction.

use axum::{extract::State, http::StatusCode};
use lambic_functions::{Function, FunctionVersion, Qualifier};
use serde_json::{Value, json};

use super::{
    super::{App, Shared},
    answer::{self, Answer},
    check::Violations,
    configuration::{self, Phase},
    names::{Place, Target},
    page::{Asked, key},
    request::{Base, Questions},
};

/// AWS's, of these lists.
const MAX_ITEMS_MAX: i64 = 10_000;

pub async fn one(State(app): Shared, target: Target, base: Base) -> Answer {
    let function = target.function(&app)?;
    let info = target.info(&function)?;
    let qualifier = target.qualifier.as_ref();
    let mut code = match &info.image {
        Some(image) => json!({
            "RepositoryType": "ECR", "ImageUri": image.uri, "ResolvedImageUri": image.resolved,
        }),
        None => json!({ "RepositoryType": "S3" }),
    };
    // Code that did not come as a zip is not kept as one.
    if let Some(upload) = &info.upload {
        code["Location"] = Value::from(base.code(&upload.sha256));
    }
    let mut body = json!({
        "Configuration": configuration::of(&app, &target.place, info, qualifier, Phase::Settled),
        "Code": code,
    });
    if !function.tags.is_empty() {
        body["Tags"] = json!(function.tags);
    }
    if let Some(reserved) = function.info.concurrency {
        body["Concurrency"] = json!({ "ReservedConcurrentExecutions": reserved });
    }
    Ok(answer::json(StatusCode::OK, &body))
}

pub async fn configuration(State(app): Shared, target: Target) -> Answer {
    let function = target.function(&app)?;
    let info = target.info(&function)?;
    let qualifier = target.qualifier.as_ref();
    let body = configuration::of(&app, &target.place, info, qualifier, Phase::Settled);
    Ok(answer::json(StatusCode::OK, &body))
}

pub async fn list(State(app): Shared, place: Place, questions: Questions) -> Answer {
    let with_versions = questions.get("FunctionVersion");
    let mut violations = Violations::default();
    violations.one_of("functionVersion", with_versions, &["ALL"]);
    violations.end()?;
    let asked = Asked::of(&questions, MAX_ITEMS_MAX)?;
    let is_all = with_versions.is_some();
    let functions = app.services.functions.functions();
    let items = functions.iter().flat_map(|function| {
        let versions = versions_of(function).filter(move |version| {
            // Without `ALL` a function stands for itself.
            is_all || *version == FunctionVersion::Latest
        });
        versions.map(move |version| {
            let key = key(function.info.name.as_str(), version);
            (key, (function.as_ref(), version))
        })
    });
    let page = asked.page(items).map(|(function, version)| {
        let qualifier = is_all.then_some(Qualifier::Version(version));
        listed(&app, &place, function, version, qualifier.as_ref())
    });
    Ok(page.answer("Functions"))
}

pub async fn versions(State(app): Shared, target: Target, questions: Questions) -> Answer {
    let asked = Asked::of(&questions, MAX_ITEMS_MAX)?;
    let function = target.function(&app)?;
    let items = versions_of(&function);
    let items = items.map(|version| (key(target.name.as_str(), version), version));
    let page = asked.page(items).map(|version| {
        let qualifier = Qualifier::Version(version);
        listed(&app, &target.place, &function, version, Some(&qualifier))
    });
    Ok(page.answer("Versions"))
}

/// In their order.
fn versions_of(function: &Function) -> impl Iterator<Item = FunctionVersion> {
    let numbers = function.versions.keys().copied();
    std::iter::once(FunctionVersion::Latest).chain(numbers.map(FunctionVersion::Number))
}

fn listed(
    app: &App,
    place: &Place,
    function: &Function,
    version: FunctionVersion,
    qualifier: Option<&Qualifier>,
) -> Value {
    let info = function.version(version).unwrap_or(&function.info);
    configuration::of(app, place, info, qualifier, Phase::Listed)
}
