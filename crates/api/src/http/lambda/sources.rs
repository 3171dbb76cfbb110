//! The five operations on event source mappings: streams whose records invoke a function.
//!
//! A stream's ARN is `arn:aws:lambic:<region>:<account>:stream/<name>`; no other sources are read here.

mod describe;
mod members;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{Destination, Error, EventSource, NewSource, Qualifier, Rules, Trigger};
use lambic_model::StreamName;
use serde_json::Value;

use self::{
    describe::{describe, source_arn_of, state},
    members::{Members, change},
};
use super::{
    super::{App, Shared},
    answer::{self, Answer},
    error::AwsError,
    names::{self, Place, Target},
    page::Asked,
    request::{self, Questions, REQUEST_BYTES_MAX},
};

/// The stream that an ARN names.
fn stream_of(arn: &str) -> Option<StreamName> {
    let mut parts = arn.splitn(6, ':');
    let is_ours = parts.next() == Some("arn")
        && parts
            .next()
            .is_some_and(|partition| partition.starts_with("aws"))
        && parts.next() == Some("lambic");
    let resource = parts.nth(2).filter(|_| is_ours)?;
    StreamName::new(resource.strip_prefix("stream/")?).ok()
}

pub async fn create(State(app): Shared, place: Place, headers: HeaderMap, body: Body) -> Answer {
    let operation = "CreateEventSourceMapping";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    members.check(true)?;
    let target = names::target(
        place,
        members.function_name.as_deref().unwrap_or_default(),
        None,
    )?;
    let new = new_source(&members, target.qualifier.clone())?;
    let no_function = |_| AwsError::invalid("Function does not exist");
    target
        .function(&app)
        .and_then(|function| target.info(&function).map(drop))
        .map_err(no_function)?;
    check_destination(&app, &target.place, &members)?;
    let stream_name = new.trigger.stream.clone();
    let arn = members.event_source_arn.as_deref().unwrap_or_default();
    let made = app
        .services
        .functions
        .create_source(&target.name, new)
        .await;
    let (uuid, source) = made.map_err(|error| match error {
        Error::UnknownStream { .. } => AwsError::invalid(format!("Stream not found: {arn}")),
        Error::TriggerLoop { .. }
            if app.services.database.stream(stream_name.as_str()).is_none() =>
        {
            AwsError::invalid(format!("Stream not found: {arn}"))
        }
        error => target.place.refuse(error),
    })?;
    let state = match source.is_enabled {
        true => "Creating",
        false => "Disabled",
    };
    let body = describe(&app, &target.place, &target.name, &uuid, &source, state);
    Ok(answer::json(StatusCode::ACCEPTED, &body))
}

/// What CreateEventSourceMapping would refuse of its body, once its function is there, or UpdateEventSourceMapping where it
/// has the `UUID` of one; gives its destination, which has to be there too.
pub fn beforehand(
    app: &App,
    target: &Target,
    body: Value,
) -> Result<Option<Destination>, AwsError> {
    let uuid = body["UUID"].as_str().map(str::to_owned);
    let members: Members = request::of_value(body)?;
    members.check(false)?;
    let functions = &app.services.functions;
    let there = uuid.and_then(|uuid| {
        let function = functions.function(target.name.as_str()).ok()?;
        function.sources.get(&uuid).cloned()
    });
    let checked = match there {
        Some(mut source) => {
            members.change(&mut source);
            functions.check_changed_source(&target.name, &source)
        }
        None => {
            let new = new_source(&members, None)?;
            let stream = new.trigger.stream.as_str();
            if app.services.database.stream(stream).is_none() {
                let arn = members.event_source_arn.as_deref().unwrap_or_default();
                return Err(AwsError::invalid(format!("Stream not found: {arn}")));
            }
            let qualifier = target.qualifier.as_ref();
            functions.check_source(&target.name, qualifier, &new.trigger, &new.rules)
        }
    };
    checked.map_err(|error| target.place.refuse(error))?;
    Ok(members.on_failure().and_then(Destination::parse))
}

/// The mapping that is asked for, of the stream that its ARN names.
fn new_source(members: &Members, qualifier: Option<Qualifier>) -> Result<NewSource, AwsError> {
    let Some(arn) = &members.event_source_arn else {
        return Err(AwsError::invalid("Unrecognized event source."));
    };
    let Some(stream) = stream_of(arn) else {
        return Err(AwsError::invalid(
            "Unrecognized event source. A stream's ARN is arn:aws:lambic:<region>:<account>:stream/<name>.",
        ));
    };
    let mut new = NewSource {
        trigger: Trigger {
            start: members.start()?,
            ..Trigger::new(stream)
        },
        qualifier,
        is_enabled: true,
        retries: None,
        rules: Rules::default(),
        kept: [("EventSourceArn".to_owned(), Value::from(arn.as_str()))].into(),
    };
    change(
        members,
        &mut new.trigger,
        &mut new.is_enabled,
        &mut new.retries,
        &mut new.rules,
    );
    new.kept.extend(members.kept());
    Ok(new)
}

pub async fn list(State(app): Shared, place: Place, questions: Questions) -> Answer {
    let asked = Asked::of(&questions, 10_000)?;
    let wanted: Option<Target> = match questions.get("FunctionName") {
        Some(name) => Some(names::target(place.clone(), name, None)?),
        None => None,
    };
    let source_arn = questions.get("EventSourceArn");
    let all = app.services.functions.sources();
    let items = all.iter().filter(|(function, _, source)| {
        let is_function = wanted
            .as_ref()
            .is_none_or(|target| target.name == *function && target.key() == qualifier(source));
        is_function && source_arn.is_none_or(|arn| arn == source_arn_of(source))
    });
    let mut items: Vec<_> = items.map(|item| (item.1.clone(), item)).collect();
    items.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    let page = asked.page(items).map(|(function, uuid, source)| {
        describe(&app, &place, function, uuid, source, state(source))
    });
    Ok(page.answer("EventSourceMappings"))
}

/// Whether there is the destination that is named, if one is; whether it can be one is looked at with the other settings.
fn check_destination(app: &App, place: &Place, members: &Members) -> Result<(), AwsError> {
    match members.on_failure().and_then(Destination::parse) {
        Some(to) => {
            let checked = app.services.functions.check_destination(&to);
            checked.map_err(|error| place.refuse(error))
        }
        None => Ok(()),
    }
}

fn qualifier(source: &EventSource) -> Qualifier {
    source.qualifier.clone().unwrap_or(Qualifier::LATEST)
}

pub async fn one(State(app): Shared, place: Place, Path(uuid): Path<String>) -> Answer {
    let all = app.services.functions.sources();
    let found = all.iter().find(|(_, id, _)| *id == uuid);
    let (function, _, source) = found.ok_or_else(AwsError::no_resource)?;
    let body = describe(&app, &place, function, &uuid, source, state(source));
    Ok(answer::json(StatusCode::OK, &body))
}

pub async fn update(
    State(app): Shared,
    place: Place,
    Path(uuid): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "UpdateEventSourceMapping";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    members.check(false)?;
    let target = match &members.function_name {
        Some(name) => Some(names::target(place.clone(), name, None)?),
        None => None,
    };
    let all = app.services.functions.sources();
    let found = all.iter().find(|(_, id, _)| *id == uuid);
    let (function, _, source) = found.ok_or_else(AwsError::no_resource)?;
    if target
        .as_ref()
        .is_some_and(|target| target.name != *function)
    {
        return Err(AwsError::invalid(
            "An event source mapping stays with its function; delete it and create one for the other function.",
        ));
    }
    check_destination(&app, &place, &members)?;
    let (before, enabled) = (state(source), members.enabled);
    let state = match (before, enabled) {
        ("Enabled", Some(false)) => "Disabling",
        ("Disabled", Some(true)) => "Enabling",
        _ => "Updating",
    };
    let changed = app.services.functions.update_source(&uuid, move |source| {
        members.change(source);
        if let Some(target) = target {
            source.qualifier = target.qualifier;
        }
        Ok(())
    });
    let (function, source) = changed.await.map_err(|error| place.refuse(error))?;
    let body = describe(&app, &place, &function, &uuid, &source, state);
    Ok(answer::json(StatusCode::ACCEPTED, &body))
}

pub async fn remove(State(app): Shared, place: Place, Path(uuid): Path<String>) -> Answer {
    let removed = app.services.functions.remove_source(&uuid).await;
    let (function, source) = removed?;
    let body = describe(&app, &place, &function, &uuid, &source, "Deleting");
    Ok(answer::json(StatusCode::ACCEPTED, &body))
}

#[cfg(test)]
mod tests {
    use super::stream_of;

    #[test]
    fn streams_are_named_by_arns() {
        let name = |arn| stream_of(arn).map(|name| name.to_string());
        assert_eq!(
            name("arn:aws:lambic:us-east-1:000000000000:stream/clicks").as_deref(),
            Some("clicks")
        );
        for arn in [
            "arn:aws:kinesis:us-east-1:000000000000:stream/clicks",
            "arn:aws:lambic:us-east-1:000000000000:view/clicks",
            "arn:aws:lambic:us-east-1:000000000000:stream/No",
            "clicks",
            "",
        ] {
            assert_eq!(name(arn), None, "{arn}");
        }
    }
}
