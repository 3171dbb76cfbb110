//! What invokes a function of a service: its URL, and the entries of its `events`.

use serde_json::{Map, Value, json};

use super::{
    super::{
        events::{STREAM_ARN, open_url, url_instead, why_not},
        plan::{Function, NOT_HERE},
    },
    Reader,
};
use crate::yaml_source::Node;

const AUTHORISED: &str = "it has an authorizer, and its URL would have none";
const URL_AUTHORISED: &str = "its authorizer is not aws_iam, and without it the URL would be open to all; `lambic function url NAME --create --auth iam` makes one for signed requests";

impl Reader<'_, '_> {
    /// `url: true`, or with settings.
    pub(super) fn url(&mut self, function: &mut Function, node: &Node, what: &str) {
        // What it holds may be what closes it.
        let Some(found) = self.resolved(node, what) else {
            return;
        };
        if found.boolean() == Some(false) {
            return;
        }
        let node = &found;
        let mut body = open_url();
        for (key, value) in node.entries() {
            let name = key.text().unwrap_or_default();
            match name {
                "authorizer" => match self.text(value, what).as_deref() {
                    Some("aws_iam") => body["AuthType"] = json!("AWS_IAM"),
                    // A URL without it would be open to all.
                    _ => return self.leave_out(node, what, URL_AUTHORISED),
                },
                "invokeMode" => {
                    if let Some(mode) = self.text(value, what) {
                        body["InvokeMode"] = json!(mode);
                    }
                }
                "cors" => {
                    if let Some(cors) = self.cors(value, &format!("{what}.cors")) {
                        body["Cors"] = cors;
                    }
                }
                _ => self.leave_out(value, format!("{what}.{name}"), NOT_HERE),
            }
        }
        function.url = Some(body);
    }

    /// `cors: true`, or with settings in Serverless's names.
    fn cors(&mut self, node: &Node, what: &str) -> Option<Value> {
        match node.boolean() {
            Some(false) => return None,
            Some(true) => {
                return Some(json!({
                    "AllowOrigins": ["*"], "AllowHeaders": ["*"], "AllowMethods": ["*"],
                }));
            }
            None => {}
        }
        let mut body = Map::new();
        for (key, value) in node.entries() {
            let name = key.text().unwrap_or_default();
            let member = match name {
                "allowedOrigins" => "AllowOrigins",
                "allowedHeaders" => "AllowHeaders",
                "allowedMethods" => "AllowMethods",
                "exposedResponseHeaders" => "ExposeHeaders",
                "allowCredentials" => "AllowCredentials",
                "maxAge" => "MaxAge",
                _ => {
                    self.leave_out(value, format!("{what}.{name}"), NOT_HERE);
                    continue;
                }
            };
            let value = value.to_json();
            // One origin may stand without a list.
            let value = if value.is_string() {
                json!([value])
            } else {
                value
            };
            body.insert(member.to_owned(), value);
        }
        Some(Value::Object(body))
    }

    pub(super) fn event(&mut self, function: &mut Function, id: &str, event: &Node) {
        // `- httpApi: '*'`, or only `- alexaSkill`
        let (kind, node) = match event.entries().first() {
            Some((key, node)) => (key.text().unwrap_or_default(), node),
            None => (event.text().unwrap_or_default(), event),
        };
        let what = format!("{id}: events.{kind}");
        match kind {
            "httpApi" | "http" => {
                let is_authorised =
                    node.get("authorizer").is_some() || node.get("private").is_some();
                if is_authorised {
                    return self.leave_out(event, what, AUTHORISED);
                }
                let why = url_instead(function, kind == "http");
                self.leave_out(event, what, why);
            }
            "stream" => {
                let arn = node.get("arn").unwrap_or(node);
                match self.variables.text(arn) {
                    Ok(arn) if arn.starts_with(STREAM_ARN) => {
                        let mapping = self.mapping(&what, &arn, node);
                        function.mappings.push(mapping);
                        function.places.insert(arn, self.source.line(event));
                    }
                    _ => self.leave_out(event, what, why_not(kind)),
                }
            }
            _ => self.leave_out(event, what, why_not(kind)),
        }
    }

    fn mapping(&mut self, what: &str, arn: &str, node: &Node) -> Value {
        let mut body = json!({ "EventSourceArn": arn, "StartingPosition": "LATEST" });
        for (key, value) in node.entries() {
            let name = key.text().unwrap_or_default();
            let member = match name {
                "arn" | "type" => continue,
                "batchSize" => "BatchSize",
                "startingPosition" => "StartingPosition",
                "enabled" => "Enabled",
                "batchWindow" => "MaximumBatchingWindowInSeconds",
                "maximumRetryAttempts" => "MaximumRetryAttempts",
                "maximumRecordAgeInSeconds" => "MaximumRecordAgeInSeconds",
                "parallelizationFactor" => "ParallelizationFactor",
                "bisectBatchOnFunctionError" => "BisectBatchOnFunctionError",
                _ => {
                    self.leave_out(
                        value,
                        format!("{what}.{name}"),
                        "it is not taken over; set it by AWS's API",
                    );
                    continue;
                }
            };
            if let Some(value) = self.resolved(value, what) {
                body[member] = value.to_json();
            }
        }
        body
    }
}
