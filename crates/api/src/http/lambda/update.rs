//! UpdateFunctionCode and UpdateFunctionConfiguration.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{
    Changes, Code, FunctionInfo, Functions, Qualifier, Runtime, Upload, check_revision,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tracing::{Instrument, info_span};

use super::{
    super::Shared,
    answer::{self, Answer, to_the_end},
    check::Violations,
    configuration::{self, Phase},
    create::{check_architecture, image, memory_mb, noted, timeout, tmp_mb, zip},
    error::AwsError,
    names::Target,
    request::{self, CODE_REQUEST_BYTES_MAX, REQUEST_BYTES_MAX},
    runtimes,
    settings::{ARCHITECTURES, CodeMembers, Members},
};

pub async fn code(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let bytes_max = CODE_REQUEST_BYTES_MAX;
    let members: CodeMembers =
        request::read(&app, &headers, body, bytes_max, "UpdateFunctionCode").await?;
    let mut violations = Violations::default();
    violations.count("architectures", members.architectures.as_deref(), 1, 1);
    violations.each_of(
        "architectures",
        members.architectures.as_deref(),
        &ARCHITECTURES,
    );
    violations.end()?;
    target.unqualified()?;
    let function = target.function(&app)?;
    let architecture = check_architecture(function.info.runtime, members.architectures.as_deref());
    noted(&app, &target.name, architecture).await?;
    let (is_published, is_dry) = (members.publish == Some(true), members.dry_run == Some(true));
    let revision = members.revision_id.clone();
    let architectures = members.architectures.clone();
    let code = noted(&app, &target.name, code_of(&function.info, members)).await?;
    if is_dry {
        check_revision(
            &configuration::revision(&function.info),
            revision.as_deref(),
        )?;
        let info = with_code(&function.info, &code);
        let body = configuration::of(&app, &target.place, &info, None, Phase::Settled);
        return Ok(answer::json(StatusCode::OK, &body));
    }
    let span = info_span!("update", function = %target.name);
    let (services, updating) = (app.services.clone(), target.clone());
    let work = async move {
        let (functions, name) = (&services.functions, &updating.name);
        let refuse = |error| updating.place.refuse(error);
        let updated = functions.update_code(name, code, revision).await;
        let mut info = updated.map_err(refuse)?;
        services.database.set_functions(functions.scalars());
        if let Some(architectures) = architectures {
            let mut changes = Changes::default();
            let value = Value::from(architectures);
            changes.kept.insert("Architectures".to_owned(), value);
            let changed = functions.update_settings(name, changes).await;
            info = changed.map_err(refuse)?;
        }
        if is_published {
            let published = functions
                .change(name, |function| function.publish(None))
                .await;
            info = published.map_err(refuse)?;
        }
        Ok(info)
    };
    let info = to_the_end(work.instrument(span)).await?;
    let qualifier = is_published.then_some(Qualifier::Version(info.version));
    let body = configuration::of(
        &app,
        &target.place,
        &info,
        qualifier.as_ref(),
        Phase::Updated,
    );
    Ok(answer::json(StatusCode::OK, &body))
}

/// Of the kind that the function has.
fn code_of(info: &FunctionInfo, members: CodeMembers) -> Result<Code, AwsError> {
    if info.runtime == Runtime::Image {
        let otherwise = "Please provide ImageUri when updating a function with packageType Image.";
        return image(members, otherwise).map(Code::Image);
    }
    if members.image_uri.is_some() {
        return Err(AwsError::invalid(
            "Please don't provide ImageUri when updating a function with packageType Zip.",
        ));
    }
    zip(members).map(Code::Zip)
}

/// What a function would be with other code; an image is not looked for.
fn with_code(info: &FunctionInfo, code: &Code) -> FunctionInfo {
    let Code::Zip(zip) = code else {
        return info.clone();
    };
    FunctionInfo {
        upload: Some(Upload {
            sha256: configuration::hex(&Sha256::digest(zip)),
            bytes: zip.len() as u64,
        }),
        ..info.clone()
    }
}

pub async fn configuration(
    State(app): Shared,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "UpdateFunctionConfiguration";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    target.unqualified()?;
    let changes = changes(&members, &app.services.functions);
    let changes = noted(&app, &target.name, changes).await?;
    let dead_letter = members.check_dead_letter(&target.name);
    if let Some(to) = noted(&app, &target.name, dead_letter).await? {
        let checked = app.services.functions.check_destination(&to);
        let checked = checked.map_err(|error| target.place.refuse(error));
        noted(&app, &target.name, checked).await?;
    }
    let is_image = target.function(&app)?.info.runtime == Runtime::Image;
    noted(&app, &target.name, members.check_kind(is_image)).await?;
    let services = app.services.clone();
    let (place, name) = (target.place.clone(), target.name.clone());
    let span = info_span!("update", function = %name);
    let work = async move {
        let functions = &services.functions;
        let updated = functions.update_settings(&name, changes).await;
        let info = updated.map_err(|error| place.refuse(error))?;
        services.database.set_functions(functions.scalars());
        Ok(info)
    };
    let info = to_the_end(work.instrument(span)).await?;
    let body = configuration::of(&app, &target.place, &info, None, Phase::Updated);
    Ok(answer::json(StatusCode::OK, &body))
}

/// What is to be changed, if AWS would take it.
pub fn changes(members: &Members, functions: &Functions) -> Result<Changes, AwsError> {
    let mut violations = Violations::default();
    members.check(functions.timeout_max(), &mut violations);
    violations.end()?;
    members.check_available()?;
    let runtime = match &members.runtime {
        Some(name) => Some((runtimes::resolve(name)?, name.clone())),
        None => None,
    };
    Ok(Changes {
        handler: members.handler.clone(),
        timeout: timeout(members),
        memory_mb: memory_mb(members),
        environment: members.variables()?,
        description: members.description.clone(),
        role: members.role.clone(),
        runtime,
        layers: members.layers(functions)?,
        tmp_mb: tmp_mb(members),
        image: members.image(),
        kept: members.kept(),
        revision: members.revision_id.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dry_run_shows_the_code_that_would_be() {
        let code = Code::Zip(b"abc".to_vec());
        let info = with_code(&configuration::tests::sample(), &code);
        let upload = info.upload.unwrap();
        assert_eq!(upload.bytes, 3);
        assert!(upload.sha256.starts_with("ba7816bf"));
    }

    #[test]
    fn code_is_of_the_functions_kind() {
        let read = |info: &FunctionInfo, value: Value| {
            let code = code_of(info, serde_json::from_value(value).unwrap());
            code.map_err(|error| error.message)
        };
        let zip = configuration::tests::sample();
        let image = FunctionInfo {
            runtime: Runtime::Image,
            ..zip.clone()
        };
        let uri = || json!({ "ImageUri": "i" });
        let file = || json!({ "ZipFile": "UEs=" });
        assert!(matches!(read(&zip, file()), Ok(Code::Zip(_))));
        assert!(matches!(read(&image, uri()), Ok(Code::Image(_))));
        assert!(read(&zip, uri()).unwrap_err().contains("packageType Zip"));
        assert!(
            read(&image, file())
                .unwrap_err()
                .contains("packageType Image")
        );
    }
}
