//! CreateFunction.

use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{
    Code, Deployment, Functions, ImageSource, Runtime, Settings, TMP_MB_DEFAULT,
};
use lambic_model::FunctionName;
use serde_json::Value;
use tracing::{Instrument, info_span};

use super::{
    super::{App, Shared},
    answer::{self, Answer, to_the_end},
    check::Violations,
    configuration::{self, Phase},
    error::AwsError,
    names::{self, Place},
    request::{self, CODE_REQUEST_BYTES_MAX},
    runtimes,
    settings::{CodeMembers, Members},
};

/// AWS's, of a zip that is sent along.
const ZIP_BYTES_MAX: usize = 52_428_800;

pub async fn create(State(app): Shared, place: Place, headers: HeaderMap, body: Body) -> Answer {
    let bytes_max = CODE_REQUEST_BYTES_MAX;
    let members: Members = request::read(&app, &headers, body, bytes_max, "CreateFunction").await?;
    let is_published = members.publish.unwrap_or(false);
    let name = members.function_name.clone().unwrap_or_default();
    let deployment = match deployment(members, &place, &app.services.functions) {
        Ok(deployment) => deployment,
        refused => match names::target(place.clone(), &name, None) {
            Ok(target) => noted(&app, &target.name, refused).await?,
            Err(_) => refused?,
        },
    };
    let span = info_span!("create", function = %deployment.name);
    let refusing = place.clone();
    let services = app.services.clone();
    let work = async move {
        let name = deployment.name.clone();
        let functions = &services.functions;
        let created = functions.create(deployment).await;
        let created = created.map_err(|error| refusing.refuse(error))?;
        services.database.set_functions(functions.scalars());
        if !is_published {
            return Ok(created);
        }
        let published = functions
            .change(&name, |function| function.publish(None))
            .await;
        published.map_err(|error| refusing.refuse(error))
    };
    let info = to_the_end(work.instrument(span)).await?;
    // AWS names the function here, although the answer is about a version.
    let body = configuration::of(&app, &place, &info, None, Phase::Created);
    Ok(answer::json(StatusCode::CREATED, &body))
}

/// Tells in the function's log why something was refused before anything looked at the function.
pub async fn noted<T>(
    app: &App,
    name: &FunctionName,
    checked: Result<T, AwsError>,
) -> Result<T, AwsError> {
    let reason = checked.as_ref().err().map(|error| error.message.clone());
    if let Some(reason) = reason {
        app.services.functions.note_refusal(name, &reason).await;
    }
    checked
}

/// What is to be deployed, if AWS would take it and this server can run it.
fn deployment(
    members: Members,
    place: &Place,
    functions: &Functions,
) -> Result<Deployment, AwsError> {
    let mut violations = Violations::default();
    violations.required("functionName", &members.function_name);
    violations.required("role", &members.role);
    violations.required("code", &members.code);
    members.check(functions.timeout_max(), &mut violations);
    violations.end()?;
    let name = members.function_name.as_deref().unwrap_or_default();
    check_length(name)?;
    let target = names::target(place.clone(), name, None)?;
    target.unqualified()?;
    members.check_available()?;
    if let Some(to) = members.check_dead_letter(&target.name)? {
        let checked = functions.check_destination(&to);
        checked.map_err(|error| place.refuse(error))?;
    }
    let is_image = members.package_type.as_deref() == Some("Image");
    members.check_kind(is_image)?;
    let (runtime, runtime_name, handler) = match (is_image, &members.runtime, &members.handler) {
        (true, _, _) => (Runtime::Image, String::new(), None),
        (false, Some(name), Some(handler)) => (
            runtimes::resolve(name)?,
            name.clone(),
            Some(handler.clone()),
        ),
        (false, _, _) => {
            return Err(AwsError::invalid(
                "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
            ));
        }
    };
    check_architecture(runtime, members.architectures.as_deref())?;
    let mut kept = members.kept();
    kept.retain(|_, value| *value != Value::Null);
    let settings = Settings {
        description: members.description.clone().unwrap_or_default(),
        role: members.role.clone().unwrap_or_default(),
        runtime_name,
        layers: members.layers(functions)?.unwrap_or_default(),
        tmp_mb: tmp_mb(&members).unwrap_or(TMP_MB_DEFAULT),
        image: members.image().unwrap_or_default(),
        kept,
        ..Settings::default()
    };
    let environment = members.variables()?.unwrap_or_default();
    let (timeout, memory_mb) = (timeout(&members), memory_mb(&members));
    let tags = members.tags.unwrap_or_default();
    let code = members.code.unwrap_or_default();
    let code = match is_image {
        true => Code::Image(image(
            code,
            "Please provide ImageUri when creating a function with packageType Image.",
        )?),
        false => Code::Zip(zip(code)?),
    };
    let default = Deployment::new(target.name, runtime, code);
    Ok(Deployment {
        handler,
        timeout: timeout.unwrap_or(default.timeout),
        memory_mb: memory_mb.unwrap_or(default.memory_mb),
        environment,
        trial: false,
        settings,
        tags,
        ..default
    })
}

/// Here AWS's bounds are others than where a function is looked up, and so is one of its errors.
fn check_length(name: &str) -> Result<(), AwsError> {
    let max = match name.starts_with("arn:") {
        true => 140,
        false => 64,
    };
    let mut violations = Violations::default();
    violations.length("functionName", Some(name), 1, max);
    violations.end().map_err(|error| match max {
        64 => AwsError::invalid(error.message),
        _ => error,
    })
}

pub fn timeout(members: &Members) -> Option<Duration> {
    let seconds = u64::try_from(members.timeout?).ok()?;
    Some(Duration::from_secs(seconds))
}

pub fn memory_mb(members: &Members) -> Option<u32> {
    u32::try_from(members.memory_size?).ok()
}

pub fn tmp_mb(members: &Members) -> Option<u32> {
    let storage = members.ephemeral_storage.as_ref()?;
    u32::try_from(storage.size?).ok()
}

/// The image that is named, and nothing else; `otherwise` says so.
pub fn image(code: CodeMembers, otherwise: &str) -> Result<ImageSource, AwsError> {
    let is_alone = code.zip_file.is_none() && code.s3_bucket.is_none() && code.s3_key.is_none();
    match code.image_uri {
        Some(uri) if is_alone => Ok(ImageSource {
            uri,
            by_operator: false,
        }),
        _ => Err(AwsError::invalid(otherwise)),
    }
}

/// The code, which must come along: there is no S3 here.
pub fn zip(code: CodeMembers) -> Result<Vec<u8>, AwsError> {
    if code.image_uri.is_some() {
        return Err(AwsError::invalid(
            "Please provide a source for function code.",
        ));
    }
    if code.s3_bucket.is_some() || code.s3_key.is_some() {
        return Err(AwsError::invalid(
            "This server has no S3 to read code from; send it as ZipFile",
        ));
    }
    let Some(zip) = code.zip_file else {
        return Err(AwsError::invalid(
            "Please provide a source for function code.",
        ));
    };
    match zip.0.len() {
        0 => Err(AwsError::invalid("Uploaded file must be a non-empty zip")),
        bytes if bytes > ZIP_BYTES_MAX => Err(AwsError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLargeException",
            format!("Zipped size must be smaller than {ZIP_BYTES_MAX} bytes"),
        )),
        _ => Ok(zip.0),
    }
}

/// Programs are compiled for one machine; what is interpreted runs on both.
pub fn check_architecture(
    runtime: Runtime,
    architectures: Option<&[String]>,
) -> Result<(), AwsError> {
    let ours = runtimes::architecture();
    let other = architectures
        .unwrap_or_default()
        .iter()
        .find(|name| *name != ours);
    match (runtime, other) {
        (Runtime::Bootstrap | Runtime::Image, Some(other)) => Err(AwsError::invalid(format!(
            "This server is {ours} and cannot run a program for {other}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn code_must_come_along_as_a_zip() {
        let read = |value| zip(serde_json::from_value(value).unwrap());
        assert_eq!(read(json!({ "ZipFile": "UEs=" })).unwrap(), b"PK");
        for (value, part) in [
            (json!({}), "provide a source"),
            (json!({ "ZipFile": "" }), "non-empty"),
            (json!({ "S3Bucket": "b", "S3Key": "k" }), "no S3"),
            (json!({ "ImageUri": "i" }), "provide a source"),
        ] {
            let message = read(value).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_image_is_named_alone() {
        let read = |value| image(serde_json::from_value(value).unwrap(), "name one");
        assert_eq!(read(json!({ "ImageUri": "i" })).unwrap().uri, "i");
        for value in [
            json!({}),
            json!({ "ZipFile": "UEs=" }),
            json!({ "ImageUri": "i", "ZipFile": "UEs=" }),
            json!({ "ImageUri": "i", "S3Bucket": "b", "S3Key": "k" }),
        ] {
            assert_eq!(read(value).unwrap_err().message, "name one");
        }
    }

    #[test]
    fn programs_of_other_machines_are_refused() {
        let other = match runtimes::architecture() {
            "arm64" => ["x86_64".to_owned()],
            _ => ["arm64".to_owned()],
        };
        assert!(check_architecture(Runtime::Bootstrap, Some(&other)).is_err());
        assert!(check_architecture(Runtime::Image, Some(&other)).is_err());
        assert!(check_architecture(Runtime::Python, Some(&other)).is_ok());
        assert!(check_architecture(Runtime::Bootstrap, None).is_ok());
    }
}
