//! Recursion and runtime management: settings that are kept and given back. A loop of functions is not looked for
//! here, and a runtime is what the machine has.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{Error, Function, FunctionInfo, FunctionVersion, Qualifier};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::Shared,
    answer::{self, Answer},
    check::Violations,
    error::AwsError,
    names::Target,
    request::{self, REQUEST_BYTES_MAX},
};

const RECURSION: &str = "RecursiveLoop";
const RUNTIME: &str = "RuntimeManagementConfig";
const RUNTIME_MODES: [&str; 3] = ["Auto", "Manual", "FunctionUpdate"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    recursive_loop: Option<String>,
    update_runtime_on: Option<String>,
    runtime_version_arn: Option<String>,
}

pub async fn put_recursion(
    State(app): Shared,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "PutFunctionRecursionConfig";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    let mut violations = Violations::default();
    violations.required("recursiveLoop", &members.recursive_loop);
    let given = members.recursive_loop.as_deref();
    violations.one_of("recursiveLoop", given, &["Allow", "Terminate"]);
    violations.end()?;
    target.unqualified()?;
    let value = Value::from(members.recursive_loop);
    let body = json!({ RECURSION: value });
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            let kept = &mut function.info.settings.kept;
            kept.insert(RECURSION.to_owned(), value);
            Ok(())
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::json(StatusCode::OK, &body))
}

pub async fn recursion(State(app): Shared, target: Target) -> Answer {
    target.unqualified()?;
    let function = target.function(&app)?;
    let kept = function.info.settings.kept.get(RECURSION).cloned();
    let value = kept.unwrap_or_else(|| Value::from("Terminate"));
    Ok(answer::json(StatusCode::OK, &json!({ RECURSION: value })))
}

pub async fn put_runtime(
    State(app): Shared,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "PutRuntimeManagementConfig";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    let config = members.runtime()?;
    let (key, setting) = (target.key(), config.clone());
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            let info = info_mut(function, &key)?;
            info.settings.kept.insert(RUNTIME.to_owned(), setting);
            Ok(())
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::json(StatusCode::OK, &with_arn(&target, config)))
}

pub async fn runtime(State(app): Shared, target: Target) -> Answer {
    let function = target.function(&app)?;
    let info = target.info(&function)?;
    let kept = info.settings.kept.get(RUNTIME).cloned();
    let config = kept.unwrap_or_else(|| json!({ "UpdateRuntimeOn": RUNTIME_MODES[0] }));
    Ok(answer::json(StatusCode::OK, &with_arn(&target, config)))
}

impl Members {
    fn runtime(&self) -> Result<Value, AwsError> {
        let mut violations = Violations::default();
        violations.required("updateRuntimeOn", &self.update_runtime_on);
        violations.one_of(
            "updateRuntimeOn",
            self.update_runtime_on.as_deref(),
            &RUNTIME_MODES,
        );
        violations.length(
            "runtimeVersionArn",
            self.runtime_version_arn.as_deref(),
            26,
            2048,
        );
        violations.end()?;
        let mode = self.update_runtime_on.as_deref().unwrap_or_default();
        match (mode, &self.runtime_version_arn) {
            ("Manual", None) => Err(AwsError::invalid(
                "You must specify a runtime version ARN when UpdateRuntimeOn is Manual.",
            )),
            ("Manual", Some(arn)) => {
                Ok(json!({ "UpdateRuntimeOn": mode, "RuntimeVersionArn": arn }))
            }
            (_, Some(_)) => Err(AwsError::invalid(
                "You can only specify a runtime version ARN when UpdateRuntimeOn is Manual.",
            )),
            (_, None) => Ok(json!({ "UpdateRuntimeOn": mode })),
        }
    }
}

fn with_arn(target: &Target, mut config: Value) -> Value {
    config["FunctionArn"] = Value::from(target.place.qualified(&target.name, target.key()));
    config
}

/// The version that is meant, to be changed; an alias is the version it points to.
fn info_mut<'a>(
    function: &'a mut Function,
    qualifier: &Qualifier,
) -> Result<&'a mut FunctionInfo, Error> {
    match function.at(Some(qualifier))?.version {
        FunctionVersion::Latest => Ok(&mut function.info),
        FunctionVersion::Number(number) => {
            let name = format!("{}:{number}", function.info.name);
            function
                .versions
                .get_mut(&number)
                .ok_or(Error::Missing { name })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_for_the_manual_mode_only() {
        let arn = "arn:aws:lambda:us-east-1::runtime:0";
        let read = |value| serde_json::from_value::<Members>(value).unwrap().runtime();
        assert!(read(json!({ "UpdateRuntimeOn": "Auto" })).is_ok());
        assert!(read(json!({ "UpdateRuntimeOn": "Manual", "RuntimeVersionArn": arn })).is_ok());
        for value in [
            json!({}),
            json!({ "UpdateRuntimeOn": "Never" }),
            json!({ "UpdateRuntimeOn": "Manual" }),
            json!({ "UpdateRuntimeOn": "Auto", "RuntimeVersionArn": arn }),
        ] {
            assert!(read(value.clone()).is_err(), "{value}");
        }
    }
}
