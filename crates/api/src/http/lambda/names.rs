//! What things are called: names and ARNs of functions and layers, as they come in and go out.
//!
//! A function is named `name`, `name:qualifier`, `account:function:name` or by its ARN. There is one place only, so
//! the region and account of an ARN that comes in are read and not compared; those that go out are the caller's.

use std::{convert::Infallible, fmt::Display, sync::Arc};

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use lambic_functions::{ACCOUNT, Error, Function, FunctionInfo, Qualifier, REGION};
use lambic_model::FunctionName;
use serde::Deserialize;

use super::{
    super::App,
    check::{QUALIFIER, Violations},
    error::AwsError,
    request::Questions,
};

/// AWS's, of a whole name or ARN, and of the name in it.
const GIVEN_CHARS_MAX: usize = 256;
const NAME_CHARS_MAX: usize = 64;
const NAME_PATTERN: &str = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?";
const LAYER_PATTERN: &str = r"(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]{1,140}|[a-zA-Z0-9-_]{1,140})";
pub const LAYER_VERSION_PATTERN: &str = r"((arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+))";
const TAGGABLE_PATTERN: &str = r"arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|(capacity-provider|network-connector):[a-zA-Z0-9-_]{1,64})";

/// Where a caller believes to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub region: String,
    pub account: String,
}

impl Default for Place {
    fn default() -> Place {
        Place {
            region: REGION.to_owned(),
            account: ACCOUNT.to_owned(),
        }
    }
}

impl Place {
    fn arn(&self, resource: impl Display) -> String {
        format!("arn:aws:lambda:{}:{}:{resource}", self.region, self.account)
    }

    /// Of a name, or of a name with a qualifier behind it.
    pub fn function(&self, name: impl Display) -> String {
        self.arn(format_args!("function:{name}"))
    }

    pub fn qualified(&self, name: &FunctionName, qualifier: impl Display) -> String {
        self.arn(format_args!("function:{name}:{qualifier}"))
    }

    pub fn layer(&self, name: &str) -> String {
        self.arn(format_args!("layer:{name}"))
    }

    pub fn layer_version(&self, name: &str, number: u64) -> String {
        self.arn(format_args!("layer:{name}:{number}"))
    }

    pub fn mapping(&self, uuid: &str) -> String {
        self.arn(format_args!("event-source-mapping:{uuid}"))
    }

    /// An error of the functions' room, with the ARN of what is missing.
    pub fn refuse(&self, error: Error) -> AwsError {
        match error {
            Error::NotFound { name } | Error::Missing { name } => {
                AwsError::not_found(format!("Function not found: {}", self.function(name)))
            }
            error => AwsError::from(error),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Place, Infallible> {
        Ok(parts.extensions.get::<Place>().cloned().unwrap_or_default())
    }
}

/// The function that a request is about, from its path and `?Qualifier=`.
#[derive(Debug, Clone)]
pub struct Target {
    pub place: Place,
    pub name: FunctionName,
    pub qualifier: Option<Qualifier>,
}

impl Target {
    /// As it was asked for.
    pub fn arn(&self) -> String {
        match &self.qualifier {
            Some(qualifier) => self.place.qualified(&self.name, qualifier),
            None => self.place.function(&self.name),
        }
    }

    /// The qualifier under which things are kept.
    pub fn key(&self) -> Qualifier {
        self.qualifier.clone().unwrap_or(Qualifier::LATEST)
    }

    pub fn missing(&self) -> AwsError {
        AwsError::not_found(format!("Function not found: {}", self.arn()))
    }

    pub fn function(&self, app: &App) -> Result<Arc<Function>, AwsError> {
        let found = app.services.functions.function(self.name.as_str());
        found.map_err(|error| match error {
            Error::NotFound { .. } => self.missing(),
            error => AwsError::from(error),
        })
    }

    /// The version that is meant, of a function that is there.
    pub fn info<'a>(&self, function: &'a Function) -> Result<&'a FunctionInfo, AwsError> {
        let found = function.at(self.qualifier.as_ref());
        found.map_err(|_| self.missing())
    }

    /// Refuses an alias that is not there, in AWS's words where one is set something for.
    pub fn alias_of(&self, function: &Function) -> Result<(), AwsError> {
        match &self.qualifier {
            Some(Qualifier::Alias(alias)) if !function.aliases.contains_key(alias) => Err(
                AwsError::not_found(format!("Cannot find alias arn: {}", self.arn())),
            ),
            _ => Ok(()),
        }
    }

    /// For operations on a function as a whole.
    pub fn unqualified(&self) -> Result<(), AwsError> {
        match &self.qualifier {
            None | Some(Qualifier::LATEST) => Ok(()),
            Some(_) => Err(AwsError::invalid(
                "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please specify either a function name or an unqualified function ARN.",
            )),
        }
    }
}

#[derive(Deserialize)]
struct InPath {
    name: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = AwsError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Target, AwsError> {
        let Ok(place) = Place::from_request_parts(parts, state).await;
        let Path(InPath { name }) = path(parts, state).await?;
        let qualifier = Questions::of(&parts.uri).take("Qualifier");
        target(place, &name, qualifier.as_deref())
    }
}

/// The members of a path; the error says that they are no text.
pub async fn path<T, S>(parts: &mut Parts, state: &S) -> Result<Path<T>, AwsError>
where
    T: serde::de::DeserializeOwned + Send,
    S: Send + Sync,
{
    let members = Path::<T>::from_request_parts(parts, state).await;
    members.map_err(|rejection| AwsError::validation(rejection.body_text()))
}

/// `asked` is what stands in the query.
pub fn target(place: Place, given: &str, asked: Option<&str>) -> Result<Target, AwsError> {
    let mut violations = Violations::default();
    violations.length("functionName", Some(given), 1, GIVEN_CHARS_MAX);
    let parsed = parse(given);
    match &parsed {
        None => violations.add(
            "functionName",
            given,
            format_args!("Member must satisfy regular expression pattern: {NAME_PATTERN}"),
        ),
        Some((name, _)) => violations.length("functionName", Some(name), 1, NAME_CHARS_MAX),
    }
    violations.length("qualifier", asked, 1, 128);
    violations.pattern("qualifier", asked, &QUALIFIER);
    violations.end()?;
    let (name, within) = parsed.unwrap_or_default();
    let text = match (within, asked) {
        (Some(within), Some(asked)) if within != asked => {
            return Err(AwsError::invalid(
                "The derived qualifier from the function name does not match the specified qualifier.",
            ));
        }
        (within, asked) => within.or(asked),
    };
    // A name that no function can have, such as one with a dot, and a number that no version can have, are not there.
    let missing = || {
        let text = text.map_or_else(String::new, |text| format!(":{text}"));
        AwsError::not_found(format!(
            "Function not found: {}",
            place.function(format_args!("{name}{text}"))
        ))
    };
    let function = FunctionName::new(name).map_err(|_| missing())?;
    let qualifier = match text {
        Some(text) => Some(text.parse::<Qualifier>().map_err(|_| missing())?),
        None => None,
    };
    Ok(Target {
        place,
        name: function,
        qualifier,
    })
}

/// A function's name and what stands behind it. `None`: it is neither a name nor an ARN.
fn parse(given: &str) -> Option<(&str, Option<&str>)> {
    let mut parts = given.split(':').peekable();
    if parts.next_if_eq(&"arn").is_some() {
        parts
            .next()
            .filter(|partition| partition.starts_with("aws"))?;
        parts.next_if_eq(&"lambda")?;
        parts.next_if(|part| is_region(part))?;
        parts.next_if(|part| is_account(part))?;
        parts.next_if_eq(&"function")?;
        return name_and_qualifier(parts);
    }
    // A part is what it looks like only if something follows it: `function` is a fine name.
    let count = given.split(':').count();
    let mut taken = 0;
    const LOOKS: [fn(&str) -> bool; 3] = [is_region, is_account, |part| part == "function"];
    for looks in LOOKS {
        if taken + 1 < count && parts.next_if(|part| looks(part)).is_some() {
            taken += 1;
        }
    }
    name_and_qualifier(parts)
}

fn name_and_qualifier<'a>(
    mut parts: impl Iterator<Item = &'a str>,
) -> Option<(&'a str, Option<&'a str>)> {
    let is_word = |text: &str, more: &[u8]| {
        let mut bytes = text.bytes();
        !text.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    let name = parts.next().filter(|name| is_word(name, b"-_."))?;
    let qualifier = parts.next();
    let is_qualifier = qualifier.is_none_or(|text| text == "$LATEST" || is_word(text, b"-_"));
    (is_qualifier && parts.next().is_none()).then_some((name, qualifier))
}

/// Such as `eu-west-1`, `us-gov-east-1`.
pub fn is_region(text: &str) -> bool {
    let mut words = text.split('-');
    let is_short = |word: &str| word.len() == 2 || word == "eusc";
    let is_letters = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let first = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let Some((number, between)) = rest.split_last() else {
        return false;
    };
    is_short(first)
        && is_letters(first)
        && (1..=3).contains(&between.len())
        && between.iter().all(|word| is_letters(word))
        && number.len() == 1
        && number.bytes().all(|b| b.is_ascii_digit())
}

pub fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// The function whose tags are meant, by its ARN.
pub fn taggable(place: Place, given: &str) -> Result<Target, AwsError> {
    let mut violations = Violations::default();
    let is_arn = given.starts_with("arn:");
    if !is_arn || (given.contains(":function:") && parse(given).is_none()) {
        violations.add(
            "resource",
            given,
            format_args!("Member must satisfy regular expression pattern: {TAGGABLE_PATTERN}"),
        );
    }
    violations.end()?;
    if !given.contains(":function:") {
        return Err(AwsError::no_resource());
    }
    let target = target(place, given, None)?;
    match target.qualifier {
        None => Ok(target),
        Some(_) => Err(AwsError::invalid(
            "Tags on function aliases and versions are not supported. Please specify a function ARN.",
        )),
    }
}

/// A layer's name, from its name or ARN.
pub fn layer_name(given: &str) -> Result<&str, AwsError> {
    let name = match given.split(':').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        ["arn", _, "lambda", region, account, "layer", name]
            if is_region(region) && is_account(account) =>
        {
            *name
        }
        _ => "",
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let mut violations = Violations::default();
    if !(1..=140).contains(&name.len()) || !name.bytes().all(is_name) {
        violations.add(
            "layerName",
            given,
            format_args!("Member must satisfy regular expression pattern: {LAYER_PATTERN}"),
        );
    }
    violations.end().map(|()| name)
}

/// A layer's name and a version's number, from the ARN of that version.
pub fn layer_version(arn: &str) -> Option<(&str, u64)> {
    let (layer, number) = arn.rsplit_once(':')?;
    if !layer.starts_with("arn:") {
        return None;
    }
    let number = number.parse().ok()?;
    Some((layer_name(layer).ok()?, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_in_aws_ways() {
        for (given, expected) in [
            ("f", Some(("f", None))),
            ("f:$LATEST", Some(("f", Some("$LATEST")))),
            ("f:live", Some(("f", Some("live")))),
            ("function", Some(("function", None))),
            ("function:f", Some(("f", None))),
            ("123456789012:function:f", Some(("f", None))),
            ("123456789012:function:f:2", Some(("f", Some("2")))),
            ("123456789012", Some(("123456789012", None))),
            (
                "arn:aws:lambda:eu-west-1:123456789012:function:f:7",
                Some(("f", Some("7"))),
            ),
            (
                "arn:aws-us-gov:lambda:us-gov-east-1:123456789012:function:f",
                Some(("f", None)),
            ),
            ("arn:aws:lambda:eu-west-1:123456789012:layer:f", None),
            ("arn:aws:lambda:eu-west-1:12:function:f", None),
            ("arn:aws:s3:eu-west-1:123456789012:function:f", None),
            ("f:1:2", None),
            ("f:", None),
            ("", None),
            ("f g", None),
            ("größe", None),
        ] {
            assert_eq!(parse(given), expected, "{given}");
        }
    }

    #[test]
    fn a_target_is_read_from_path_and_query() {
        let read = |given: &str, asked| target(Place::default(), given, asked);
        let both = read("f:live", Some("live")).unwrap();
        assert_eq!(
            both.arn(),
            "arn:aws:lambda:us-east-1:000000000000:function:f:live"
        );
        assert_eq!(read("f", Some("7")).unwrap().key().to_string(), "7");
        assert_eq!(read("f", None).unwrap().key(), Qualifier::LATEST);
        for (given, asked, kind) in [
            ("f:live", Some("7"), "InvalidParameterValueException"),
            ("f", Some(""), "ValidationException"),
            ("f", Some("a b"), "ValidationException"),
            ("a b", None, "ValidationException"),
            // More than the number of a version can be.
            (
                "f",
                Some("99999999999999999999999"),
                "ResourceNotFoundException",
            ),
            ("a.b", None, "ResourceNotFoundException"),
        ] {
            assert_eq!(
                read(given, asked).unwrap_err().kind,
                kind,
                "{given} {asked:?}"
            );
        }
        let long = read(&"x".repeat(65), None).unwrap_err().message;
        assert!(long.contains("less than or equal to 64"), "{long}");
    }

    #[test]
    fn layers_are_named_by_name_or_arn() {
        assert_eq!(layer_name("l").unwrap(), "l");
        let arn = "arn:aws:lambda:us-east-1:000000000000:layer:l";
        assert_eq!(layer_name(arn).unwrap(), "l");
        assert!(layer_name("a b").is_err());
        assert!(layer_name(&format!("{arn}:1")).is_err());
        assert_eq!(layer_version(&format!("{arn}:12")), Some(("l", 12)));
        assert_eq!(layer_version(arn), None);
        assert_eq!(layer_version("l:1"), None);
    }

    #[test]
    fn regions_look_like_regions() {
        for region in [
            "us-east-1",
            "us-gov-west-1",
            "eusc-de-east-1",
            "us-iso-east-1",
        ] {
            assert!(is_region(region), "{region}");
        }
        for other in ["", "local", "us-east", "us-east-12", "function", "1"] {
            assert!(!is_region(other), "{other}");
        }
    }

    #[test]
    fn tags_are_those_of_functions() {
        let place = Place::default;
        let arn = place().function("f");
        assert_eq!(taggable(place(), &arn).unwrap().name.as_str(), "f");
        for (given, kind) in [
            ("f".to_owned(), "ValidationException"),
            (format!("{arn}:1"), "InvalidParameterValueException"),
            (
                "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-0".to_owned(),
                "ResourceNotFoundException",
            ),
        ] {
            assert_eq!(taggable(place(), &given).unwrap_err().kind, kind, "{given}");
        }
    }
}
