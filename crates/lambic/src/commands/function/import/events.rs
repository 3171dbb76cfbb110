//! What invokes a function where it comes from, and what does so here: a URL in the place of an HTTP API, a mapping of
//! one of our streams. Everything else is left out, with what could be done instead.

use serde_json::{Value, json};

use super::{
    cloudformation::{Missing, referred},
    plan::{Function, NOT_HERE},
    sam::Reader,
};
use crate::yaml_source::Node;

/// Where our streams' ARNs begin.
pub const STREAM_ARN: &str = "arn:aws:lambic:";

const URL_INSTEAD: &str =
    "its URL stands for it: that takes every path and method, and has no path parameters";
const URL_OF_OLDER_FORMAT: &str = "its URL stands for it: that takes every path and method, and its events have payload format 2.0 \
     (requestContext.http.method and rawPath in the place of httpMethod and path)";
const AUTHORISED: &str = "it has an authorizer, and its URL would have none; `lambic function url NAME --create --auth iam` makes one for signed requests";

/// Why an event of a kind cannot invoke a function here.
pub fn why_not(kind: &str) -> &'static str {
    match kind.to_ascii_lowercase().as_str() {
        "schedule" | "schedulev2" | "cloudwatchevent" => {
            "there are no schedules yet; cron can run `lambic function invoke`"
        }
        "kinesis" | "dynamodb" | "msk" | "selfmanagedkafka" | "stream" | "kafka" => {
            "it reads a source of AWS; let it read a stream of this server: arn:aws:lambic:us-east-1:000000000000:stream/NAME"
        }
        "sqs" | "sns" | "s3" | "mq" | "eventbridgerule" | "eventbridge" => {
            "there is no such source here; append its records to a stream that invokes the function"
        }
        _ => NOT_HERE,
    }
}

/// The body of a function's URL that anybody may call.
pub fn open_url() -> Value {
    json!({ "AuthType": "NONE" })
}

/// Gives a function the URL that stands for an HTTP API, and tells how that differs.
pub fn url_instead(function: &mut Function, is_of_older_format: bool) -> &'static str {
    function.url.get_or_insert_with(open_url);
    match is_of_older_format {
        true => URL_OF_OLDER_FORMAT,
        false => URL_INSTEAD,
    }
}

/// An entry of `Events` of a function in a SAM template.
pub fn of_sam(reader: &mut Reader<'_, '_>, function: &mut Function, what: &str, event: &Node) {
    let kind = event.get("Type").and_then(Node::text).unwrap_or_default();
    let what = format!("{what} ({kind})");
    let properties = event.get("Properties");
    match kind {
        "HttpApi" | "Api" => {
            if is_authorised(reader, properties, kind) {
                return reader.leave_out(event, what, AUTHORISED);
            }
            let why = url_instead(function, kind == "Api");
            reader.leave_out(event, what, why);
        }
        "Kinesis" => {
            let stream = properties.and_then(|all| all.get("Stream"));
            let arn = stream.map(|node| reader.template.text(node));
            match (arn, properties) {
                (Some(Ok(arn)), Some(properties)) if arn.starts_with(STREAM_ARN) => {
                    let rest = properties.entries().iter();
                    let rest = rest.filter(|(key, _)| key.text() != Some("Stream"));
                    let mapping = mapping(reader, &what, &arn, rest);
                    let place = reader.template.source.line(event);
                    function.places.insert(arn, place);
                    function.mappings.push(mapping);
                }
                _ => reader.leave_out(event, what, why_not(kind)),
            }
        }
        _ => reader.leave_out(event, what, why_not(kind)),
    }
}

/// What asks for more than the URL does must not become open to all.
fn is_authorised(reader: &Reader<'_, '_>, properties: Option<&Node>, kind: &str) -> bool {
    if properties.is_some_and(|all| all.get("Auth").is_some()) {
        return true;
    }
    let of_api = |api: &Node| api.get("Auth").is_some();
    let id = properties.and_then(|all| all.get("ApiId").or(all.get("RestApiId")));
    let resource = id
        .and_then(referred)
        .and_then(|id| reader.template.resource(&id));
    if let Some(resource) = resource {
        return resource.node.get("Properties").is_some_and(of_api);
    }
    let globals = reader.template.source.root.get("Globals");
    globals
        .and_then(|globals| globals.get(kind))
        .is_some_and(of_api)
}

/// The body of a mapping: templates' properties have AWS's own names.
pub fn mapping<'n>(
    reader: &mut Reader<'_, '_>,
    what: &str,
    arn: &str,
    properties: impl Iterator<Item = &'n (Node, Node)>,
) -> Value {
    let mut body = json!({ "EventSourceArn": arn, "StartingPosition": "LATEST" });
    for (key, node) in properties {
        let key = key.text().unwrap_or_default();
        match reader.template.json(node) {
            Ok(value) => body[key] = value,
            Err(Missing::NoValue) => {}
            Err(Missing::Unknown(why)) => reader.leave_out(node, format!("{what}: {key}"), why),
        }
    }
    body
}
