//! The five operations on function URLs. [`super::url_door`] answers at those URLs.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{Error, Qualifier, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{App, Shared},
    answer::{self, Answer, formatted, now_us},
    check::{URL_QUALIFIER, Violations},
    cors::Cors,
    error::AwsError,
    names::Target,
    page::Asked,
    policy::AUTH_TYPES,
    provisioned::key,
    request::{self, Base, Questions, REQUEST_BYTES_MAX},
};

/// Where URLs begin on this server.
pub const PATH: &str = "/lambda-url";
const STREAMED: &str = "RESPONSE_STREAM";
const BUFFERED: &str = "BUFFERED";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    auth_type: Option<String>,
    cors: Option<Cors>,
    invoke_mode: Option<String>,
}

impl Members {
    fn check(&self, target: &Target, violations: &mut Violations) {
        let qualifier = target.qualifier.as_ref().map(Qualifier::to_string);
        violations.pattern("qualifier", qualifier.as_deref(), &URL_QUALIFIER);
        violations.one_of("authType", self.auth_type.as_deref(), &AUTH_TYPES);
        violations.one_of(
            "invokeMode",
            self.invoke_mode.as_deref(),
            &[BUFFERED, STREAMED],
        );
        if let Some(cors) = &self.cors {
            cors.check(violations);
        }
    }

    /// Sets what is given.
    fn apply(self, url: &mut Url) {
        if let Some(auth_type) = self.auth_type {
            url.is_public = auth_type == AUTH_TYPES[0];
        }
        if let Some(cors) = self.cors {
            url.cors = cors.to_value();
        }
        if let Some(mode) = self.invoke_mode {
            url.is_streamed = mode == STREAMED;
        }
    }
}

pub async fn create(
    State(app): Shared,
    target: Target,
    base: Base,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "CreateFunctionUrlConfig";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    let mut violations = Violations::default();
    violations.required("authType", &members.auth_type);
    members.check(&target, &mut violations);
    violations.end()?;
    check_target(&app, &target)?;
    let (key, arn) = (target.key(), target.arn());
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            if function.urls.contains_key(&key) {
                return Err(Error::Conflict {
                    reason: format!(
                        "Failed to create function url config for [functionArn = {arn}]. Error message:  FunctionUrlConfig exists for this Lambda function"
                    ),
                });
            }
            let now = now_us();
            let mut url = Url {
                id: new_id(),
                is_public: false,
                cors: None,
                is_streamed: false,
                created_at_us: now,
                changed_at_us: now,
            };
            members.apply(&mut url);
            function.urls.insert(key, url.clone());
            Ok(url)
        })
        .await;
    let url = changed.map_err(|error| target.place.refuse(error))?;
    let mut body = describe(&base, target.arn(), &url);
    if let Some(body) = body.as_object_mut() {
        body.remove("LastModifiedTime");
    }
    Ok(answer::json(StatusCode::CREATED, &body))
}

/// What CreateFunctionUrlConfig would refuse of its body.
pub fn beforehand(target: &Target, body: Value) -> Result<(), AwsError> {
    let members: Members = request::of_value(body)?;
    let mut violations = Violations::default();
    violations.required("authType", &members.auth_type);
    members.check(target, &mut violations);
    violations.end()
}

/// As long as AWS's, of letters and digits.
fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// URLs belong to functions and aliases.
fn check_target(app: &App, target: &Target) -> Result<(), AwsError> {
    let missing = || AwsError::not_found("Function does not exist");
    let function = target.function(app).map_err(|_| missing())?;
    target.info(&function).map(drop).map_err(|_| missing())
}

pub async fn update(
    State(app): Shared,
    target: Target,
    base: Base,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "UpdateFunctionUrlConfig";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    let mut violations = Violations::default();
    members.check(&target, &mut violations);
    violations.end()?;
    check_target(&app, &target)?;
    find(&app, &target)?;
    let key = target.key();
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            let name = key.to_string();
            let url = function.urls.get_mut(&key).ok_or(Error::Missing { name })?;
            members.apply(url);
            url.changed_at_us = now_us();
            Ok(url.clone())
        })
        .await;
    let url = changed?;
    Ok(answer::json(
        StatusCode::OK,
        &describe(&base, target.arn(), &url),
    ))
}

pub async fn one(State(app): Shared, target: Target, base: Base) -> Answer {
    let mut violations = Violations::default();
    Members::default().check(&target, &mut violations);
    violations.end()?;
    let url = find(&app, &target)?;
    Ok(answer::json(
        StatusCode::OK,
        &describe(&base, target.arn(), &url),
    ))
}

fn find(app: &App, target: &Target) -> Result<Url, AwsError> {
    let function = target.function(app).map_err(|_| AwsError::no_resource())?;
    let url = function.urls.get(&target.key());
    url.cloned().ok_or_else(AwsError::no_resource)
}

pub async fn list(State(app): Shared, target: Target, base: Base, questions: Questions) -> Answer {
    let asked = Asked::of(&questions, 50)?;
    let missing = |_| AwsError::not_found("Function does not exist");
    let function = target.function(&app).map_err(missing)?;
    let items = function.urls.iter().map(|(qualifier, url)| {
        let arn = match qualifier {
            Qualifier::Version(_) => target.place.function(&target.name),
            Qualifier::Alias(alias) => target.place.qualified(&target.name, alias),
        };
        (key(qualifier), (arn, url))
    });
    let page = asked
        .page(items)
        .map(|(arn, url)| describe(&base, arn, url));
    Ok(page.answer("FunctionUrlConfigs"))
}

pub async fn remove(State(app): Shared, target: Target) -> Answer {
    find(&app, &target)?;
    let key = target.key();
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.urls.remove(&key);
            Ok(())
        })
        .await;
    changed?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

fn describe(base: &Base, arn: String, url: &Url) -> Value {
    let time = |us| formatted(us, "%Y-%m-%dT%H:%M:%S%.6fZ");
    let mut body = json!({
        "FunctionUrl": format!("{}{PATH}/{}/", base.0, url.id),
        "FunctionArn": arn,
        "AuthType": if url.is_public { AUTH_TYPES[0] } else { AUTH_TYPES[1] },
        "CreationTime": time(url.created_at_us),
        "LastModifiedTime": time(url.changed_at_us),
        "InvokeMode": if url.is_streamed { STREAMED } else { BUFFERED },
    });
    if let Some(cors) = &url.cors {
        body["Cors"] = cors.clone();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_described_and_changed() {
        let mut url = Url {
            id: new_id(),
            is_public: false,
            cors: None,
            is_streamed: false,
            created_at_us: 1_700_000_000_000_000,
            changed_at_us: 1_700_000_000_000_000,
        };
        let members: Members = serde_json::from_value(json!({
            "AuthType": "NONE", "Cors": { "AllowOrigins": ["*"] },
        }))
        .unwrap();
        members.apply(&mut url);
        Members::default().apply(&mut url);
        let base = Base("http://localhost:7070".to_owned());
        let body = describe(&base, "arn".to_owned(), &url);
        let address = body["FunctionUrl"].as_str().unwrap();
        // AWS's model wants 40 to 100 characters.
        assert!((40..=100).contains(&address.len()), "{address}");
        assert!(address.ends_with('/'), "{address}");
        assert_eq!(body["AuthType"], "NONE");
        assert_eq!(body["InvokeMode"], "BUFFERED");
        assert_eq!(body["Cors"], json!({ "AllowOrigins": ["*"] }));
        assert_eq!(body["CreationTime"], "2023-11-14T22:13:20.000000Z");
    }

    #[test]
    fn versions_have_no_urls() {
        for (name, expected) in [
            ("f", true),
            ("f:live", true),
            ("f:1", false),
            ("f:$LATEST", false),
        ] {
            let target = super::super::names::target(Default::default(), name, None).unwrap();
            let mut violations = Violations::default();
            Members::default().check(&target, &mut violations);
            assert_eq!(violations.end().is_ok(), expected, "{name}");
        }
    }
}
