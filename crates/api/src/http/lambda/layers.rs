//! PublishLayerVersion, GetLayerVersion, GetLayerVersionByArn, ListLayers, ListLayerVersions, DeleteLayerVersion.

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, request::Parts},
};
use lambic_functions::{Error, Layer, LayerSettings, LayerVersion};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{App, Shared},
    answer::{self, Answer, modified},
    check::Violations,
    configuration::sha256_base64,
    create::zip,
    error::AwsError,
    names::{self, LAYER_VERSION_PATTERN, Place, path},
    page::Asked,
    request::{self, Base, CODE_REQUEST_BYTES_MAX, Questions},
    runtimes::RUNTIMES,
    settings::{ARCHITECTURES, CodeMembers},
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    description: Option<String>,
    content: Option<CodeMembers>,
    compatible_architectures: Option<Vec<String>>,
    compatible_runtimes: Option<Vec<String>>,
    license_info: Option<String>,
}

#[derive(Deserialize)]
struct InPath {
    layer: String,
    number: Option<String>,
}

/// The layer in the path, by name or ARN.
#[derive(Debug)]
pub struct Named(String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = AwsError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named, AwsError> {
        let InPath { layer, .. } = path(parts, state).await?.0;
        names::layer_name(&layer).map(|name| Named(name.to_owned()))
    }
}

/// A version of a layer, from the path.
#[derive(Debug, Clone)]
pub struct Numbered {
    pub name: String,
    pub number: u64,
}

impl<S: Send + Sync> FromRequestParts<S> for Numbered {
    type Rejection = AwsError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Numbered, AwsError> {
        let InPath { layer, number } = path(parts, state).await?.0;
        let text = number.unwrap_or_default();
        let number = text.parse().unwrap_or_default();
        if number == 0 {
            return Err(nought());
        }
        let name = names::layer_name(&layer)?.to_owned();
        Ok(Numbered { name, number })
    }
}

fn nought() -> AwsError {
    AwsError::invalid("Layer Version Cannot be less than 1")
}

pub async fn publish(
    State(app): Shared,
    place: Place,
    base: Base,
    Named(name): Named,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "PublishLayerVersion";
    let members: Members =
        request::read(&app, &headers, body, CODE_REQUEST_BYTES_MAX, operation).await?;
    members.check()?;
    let zip = zip(members.content.unwrap_or_default())?;
    let settings = LayerSettings {
        description: members.description.unwrap_or_default(),
        license: members.license_info.unwrap_or_default(),
        runtimes: members.compatible_runtimes.unwrap_or_default(),
        architectures: members.compatible_architectures.unwrap_or_default(),
    };
    let version = app
        .services
        .functions
        .publish_layer(&name, zip, settings)
        .await?;
    let body = describe(&place, &base, &name, &version);
    Ok(answer::json(StatusCode::CREATED, &body))
}

impl Members {
    fn check(&self) -> Result<(), AwsError> {
        let mut v = Violations::default();
        v.required("content", &self.content);
        v.length("description", self.description.as_deref(), 0, 256);
        v.length("licenseInfo", self.license_info.as_deref(), 0, 512);
        let runtimes = self.compatible_runtimes.as_deref();
        v.count("compatibleRuntimes", runtimes, 0, 15);
        v.each_of("compatibleRuntimes", runtimes, &RUNTIMES);
        let architectures = self.compatible_architectures.as_deref();
        v.count("compatibleArchitectures", architectures, 0, 2);
        v.each_of("compatibleArchitectures", architectures, &ARCHITECTURES);
        v.end()
    }
}

pub async fn one(
    State(app): Shared,
    place: Place,
    base: Base,
    Numbered { name, number }: Numbered,
) -> Answer {
    found(&app, &place, &base, &name, number)
}

fn found(app: &App, place: &Place, base: &Base, name: &str, number: u64) -> Answer {
    let layer = app.services.functions.layer(name)?;
    let version = layer.version(number)?;
    Ok(answer::json(
        StatusCode::OK,
        &describe(place, base, name, version),
    ))
}

/// ListLayers; with `?find=LayerVersion&Arn=…` GetLayerVersionByArn, which has the same path.
pub async fn list(State(app): Shared, place: Place, base: Base, questions: Questions) -> Answer {
    if questions.get("find") == Some("LayerVersion") {
        return by_arn(&app, &place, &base, &questions);
    }
    let filter = Filter::of(&questions)?;
    let asked = Asked::of(&questions, 50)?;
    let layers = app.services.functions.layers();
    let matching = layers.iter().filter_map(|layer| {
        let mut versions = layer.versions.values().rev();
        let latest = versions.find(|version| filter.fits(version))?;
        Some((layer.name.clone(), (layer.as_ref(), latest)))
    });
    let page = asked.page(matching).map(|(layer, latest)| {
        json!({
            "LayerName": layer.name,
            "LayerArn": place.layer(&layer.name),
            "LatestMatchingVersion": listed(&place, &layer.name, latest),
        })
    });
    Ok(page.answer("Layers"))
}

fn by_arn(app: &App, place: &Place, base: &Base, questions: &Questions) -> Answer {
    let arn = questions.get("Arn");
    let mut violations = Violations::default();
    violations.required("arn", &arn);
    let named = names::layer_version(arn.unwrap_or_default());
    if let (Some(arn), None) = (arn, named) {
        violations.add(
            "arn",
            arn,
            format_args!("Member must satisfy regular expression pattern: {LAYER_VERSION_PATTERN}"),
        );
    }
    violations.end()?;
    let (name, number) = named.ok_or_else(AwsError::no_resource)?;
    if number == 0 {
        return Err(nought());
    }
    found(app, place, base, name, number)
}

/// The latest first, as AWS lists them; none if there is no such layer.
pub async fn versions(
    State(app): Shared,
    place: Place,
    Named(name): Named,
    questions: Questions,
) -> Answer {
    let filter = Filter::of(&questions)?;
    let asked = Asked::of(&questions, 50)?;
    let layer = app.services.functions.layer(&name).ok();
    let versions = layer.iter().flat_map(|layer| latest_first(layer));
    let matching = versions.filter(|(_, version)| filter.fits(version));
    let page = asked.page(matching);
    Ok(page
        .map(|version| listed(&place, &name, version))
        .answer("LayerVersions"))
}

/// With keys in this order.
fn latest_first(layer: &Layer) -> impl Iterator<Item = (String, &LayerVersion)> {
    let versions = layer.versions.iter().rev();
    versions.map(|(number, version)| (format!("{:020}", u64::MAX - number), version))
}

/// Also if there is none, as AWS does.
pub async fn remove(State(app): Shared, Numbered { name, number }: Numbered) -> Answer {
    let functions = &app.services.functions;
    let changed = functions
        .change_layer(&name, move |layer| {
            layer.versions.remove(&number);
            Ok(())
        })
        .await;
    match changed {
        Ok(()) | Err(Error::Missing { .. }) => Ok(answer::empty(StatusCode::NO_CONTENT)),
        Err(error) => Err(error.into()),
    }
}

/// What a list is narrowed to.
struct Filter {
    runtime: Option<String>,
    architecture: Option<String>,
}

impl Filter {
    fn of(questions: &Questions) -> Result<Filter, AwsError> {
        let runtime = questions.get("CompatibleRuntime");
        let architecture = questions.get("CompatibleArchitecture");
        let mut violations = Violations::default();
        violations.one_of("compatibleRuntime", runtime, &RUNTIMES);
        violations.one_of("compatibleArchitecture", architecture, &ARCHITECTURES);
        violations.end()?;
        Ok(Filter {
            runtime: runtime.map(str::to_owned),
            architecture: architecture.map(str::to_owned),
        })
    }

    fn fits(&self, version: &LayerVersion) -> bool {
        let has = |wanted: &Option<String>, list: &[String]| {
            wanted.as_ref().is_none_or(|wanted| list.contains(wanted))
        };
        has(&self.runtime, &version.settings.runtimes)
            && has(&self.architecture, &version.settings.architectures)
    }
}

fn describe(place: &Place, base: &Base, name: &str, version: &LayerVersion) -> Value {
    let mut body = listed(place, name, version);
    body["LayerArn"] = Value::from(place.layer(name));
    body["Content"] = json!({
        "Location": base.code(&version.sha256),
        "CodeSha256": sha256_base64(&version.sha256),
        "CodeSize": version.bytes,
    });
    body
}

fn listed(place: &Place, name: &str, version: &LayerVersion) -> Value {
    let settings = &version.settings;
    let mut body = json!({
        "LayerVersionArn": place.layer_version(name, version.number),
        "Version": version.number,
        "Description": settings.description,
        "CreatedDate": modified(version.created_at_us),
    });
    if !settings.runtimes.is_empty() {
        body["CompatibleRuntimes"] = json!(settings.runtimes);
    }
    if !settings.architectures.is_empty() {
        body["CompatibleArchitectures"] = json!(settings.architectures);
    }
    if !settings.license.is_empty() {
        body["LicenseInfo"] = json!(settings.license);
    }
    body
}

#[cfg(test)]
mod tests {
    use lambic_functions::Policy;

    use super::*;

    fn version(number: u64) -> LayerVersion {
        LayerVersion {
            number,
            settings: LayerSettings {
                runtimes: vec!["python3.11".to_owned()],
                ..LayerSettings::default()
            },
            digest: String::new(),
            sha256: "00ff".to_owned(),
            bytes: 3,
            created_at_us: 0,
            policy: Policy::default(),
        }
    }

    #[test]
    fn a_version_shows_what_it_is() {
        let base = Base("http://localhost".to_owned());
        let body = describe(&Place::default(), &base, "l", &version(2));
        assert_eq!(
            body["LayerVersionArn"],
            "arn:aws:lambda:us-east-1:000000000000:layer:l:2"
        );
        assert_eq!(
            body["Content"]["Location"],
            "http://localhost/v1/code/00ff.zip"
        );
        assert_eq!(body["CompatibleRuntimes"], json!(["python3.11"]));
        assert!(body.get("LicenseInfo").is_none());
    }

    #[test]
    fn lists_are_narrowed() {
        let filter =
            |query: &str| Filter::of(&Questions::of(&format!("/x?{query}").parse().unwrap()));
        let fits = |query: &str| filter(query).unwrap().fits(&version(1));
        assert!(fits(""));
        assert!(fits("CompatibleRuntime=python3.11"));
        assert!(!fits("CompatibleRuntime=nodejs20.x"));
        assert!(!fits("CompatibleArchitecture=arm64"));
        assert!(filter("CompatibleRuntime=cobol").is_err());
    }

    #[test]
    fn the_latest_version_is_first() {
        let versions = [1, 2, 10].map(|number| (number, version(number)));
        let layer = Layer {
            name: "l".to_owned(),
            published: 10,
            versions: versions.into_iter().collect(),
        };
        let listed: Vec<_> = latest_first(&layer).collect();
        let numbers: Vec<u64> = listed.iter().map(|(_, version)| version.number).collect();
        assert_eq!(numbers, [10, 2, 1]);
        assert!(listed.iter().map(|(key, _)| key).is_sorted());
    }
}
