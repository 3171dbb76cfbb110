//! What the commands ask of AWS's API: paths, pages, waiting until a change is done, suggestions for wrong names.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use serde_json::{Value, json};

use super::super::Global;
use crate::{
    client::{Client, Failure, segment},
    toml_source::closest,
};

const FUNCTIONS: &str = "/2015-03-31/functions";
/// A large image or component takes its time; a server that never gets done is not waited for.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub struct Api {
    pub client: Client,
}

impl Api {
    pub fn new(global: &Global) -> anyhow::Result<Api> {
        let client = global.client()?;
        Ok(Api { client })
    }

    /// A function's description, or `None` if there is no such function.
    pub fn find(&self, name: &str, qualifier: Option<&str>) -> anyhow::Result<Option<Value>> {
        found(self.client.get(&of(name, "/configuration", qualifier)))
    }

    /// A function's description; the error suggests what could have been meant.
    pub fn configuration(&self, name: &str, qualifier: Option<&str>) -> anyhow::Result<Value> {
        let answer = self.client.get(&of(name, "/configuration", qualifier));
        answer.map_err(|error| self.suggesting(error, name))
    }

    /// The members of a list, page by page.
    pub fn all(&self, path: &str, member: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut marker = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = match marker.as_str() {
                "" => self.client.get(path)?,
                marker => {
                    let path = format!("{path}{joint}Marker={}", segment(marker));
                    self.client.get(&path)?
                }
            };
            items.extend(page[member].as_array().cloned().unwrap_or_default());
            match page["NextMarker"].as_str() {
                Some(next) if !next.is_empty() && next != marker => next.clone_into(&mut marker),
                _ => return Ok(items),
            }
        }
    }

    pub fn functions(&self) -> anyhow::Result<Vec<Value>> {
        self.all(&format!("{FUNCTIONS}/"), "Functions")
    }

    /// An error that a function is not there also says which one may have been meant.
    pub fn suggesting(&self, error: anyhow::Error, name: &str) -> anyhow::Error {
        let is_missing = |failure: &Failure| {
            failure.kind.as_deref() == Some("ResourceNotFoundException")
                && failure.message.starts_with("Function not found")
        };
        match error.downcast::<Failure>() {
            Ok(mut failure) if is_missing(&failure) => {
                let name = name.split(':').next().unwrap_or(name);
                let all = self.functions().unwrap_or_default();
                let names = all.iter().filter_map(|one| one["FunctionName"].as_str());
                failure.hint = Some(match closest(name, names) {
                    // Its version or alias is what is missing.
                    Some(best) if best == name => self.qualifier_meant(name, &failure.message),
                    Some(best) => format!("did you mean {best}?"),
                    None => "`lambic function list` shows what there is".to_owned(),
                });
                anyhow::Error::new(failure)
            }
            Ok(failure) => anyhow::Error::new(failure),
            Err(error) => error,
        }
    }

    /// What to do about a version or alias that is not there; AWS's message ends with its ARN.
    fn qualifier_meant(&self, name: &str, message: &str) -> String {
        let asked = message.rsplit(':').next().unwrap_or_default();
        let aliases = self.all(&of(name, "/aliases", None), "Aliases");
        let aliases = aliases.unwrap_or_default();
        let names = aliases.iter().filter_map(|alias| alias["Name"].as_str());
        match closest(asked, names) {
            Some(best) => format!("did you mean the alias {best}?"),
            None => format!(
                "`lambic function versions {name}` and `lambic function alias list {name}` show what there is"
            ),
        }
    }

    pub fn create(&self, body: &Value) -> anyhow::Result<Value> {
        self.client.post_json(FUNCTIONS, body)
    }

    pub fn update_code(&self, name: &str, zip: &str) -> anyhow::Result<Value> {
        self.client
            .put_json(&of(name, "/code", None), &json!({ "ZipFile": zip }))
    }

    pub fn update_settings(&self, name: &str, settings: &Value) -> anyhow::Result<Value> {
        self.client
            .put_json(&of(name, "/configuration", None), settings)
    }

    pub fn delete(&self, name: &str, qualifier: Option<&str>) -> anyhow::Result<()> {
        self.client.delete(&of(name, "", qualifier))
    }

    /// Waits until the last change of a function is done; an error says why it was not.
    pub fn settled(&self, name: &str) -> anyhow::Result<Value> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let function = self.configuration(name, None)?;
            match standing(&function) {
                Standing::Done => return Ok(function),
                Standing::Failed(reason) => bail!("function {name} cannot run: {reason}"),
                Standing::Working if Instant::now() > give_up => bail!(
                    "function {name} is still not ready; `lambic function show {name}` tells when it is"
                ),
                Standing::Working => thread::sleep(LOOK_EVERY),
            }
        }
    }

    pub fn concurrency(&self, name: &str) -> anyhow::Result<Option<u64>> {
        let path = format!("/2019-09-30/functions/{}/concurrency", segment(name));
        let answer = self.client.get(&path);
        let answer = answer.map_err(|error| self.suggesting(error, name))?;
        Ok(answer["ReservedConcurrentExecutions"].as_u64())
    }

    /// `None` reserves nothing.
    pub fn reserve(&self, name: &str, count: Option<u32>) -> anyhow::Result<()> {
        let path = format!("/2017-10-31/functions/{}/concurrency", segment(name));
        let done = match count {
            Some(count) => {
                let body = json!({ "ReservedConcurrentExecutions": count });
                self.client.put_json(&path, &body).map(drop)
            }
            None => self.client.delete(&path),
        };
        done.map_err(|error| self.suggesting(error, name))
    }

    /// Environments that are kept ready for a version or alias, by its name.
    pub fn provisioned(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("{}?List=ALL", provisioned_path(name));
        self.all(&path, "ProvisionedConcurrencyConfigs")
    }

    pub fn provision(&self, name: &str, qualifier: &str, count: u32) -> anyhow::Result<()> {
        let path = format!(
            "{}?Qualifier={}",
            provisioned_path(name),
            segment(qualifier)
        );
        let body = json!({ "ProvisionedConcurrentExecutions": count });
        self.client.put_json(&path, &body).map(drop)
    }

    pub fn unprovision(&self, name: &str, qualifier: &str) -> anyhow::Result<()> {
        let path = format!(
            "{}?Qualifier={}",
            provisioned_path(name),
            segment(qualifier)
        );
        self.client.delete(&path)
    }

    pub fn publish(&self, name: &str, description: Option<&str>) -> anyhow::Result<Value> {
        let body = match description {
            Some(text) => json!({ "Description": text }),
            None => json!({}),
        };
        let answer = self.client.post_json(&of(name, "/versions", None), &body);
        answer.map_err(|error| self.suggesting(error, name))
    }

    pub fn versions(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let versions = self.all(&of(name, "/versions", None), "Versions");
        versions.map_err(|error| self.suggesting(error, name))
    }

    pub fn aliases(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let aliases = self.all(&of(name, "/aliases", None), "Aliases");
        aliases.map_err(|error| self.suggesting(error, name))
    }

    /// What invokes a function or one of its aliases.
    pub fn mappings(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("{MAPPINGS}/?FunctionName={}", segment(name));
        self.all(&path, "EventSourceMappings")
    }
}

pub const MAPPINGS: &str = "/2015-03-31/event-source-mappings";

/// A path of a function.
pub fn of(name: &str, rest: &str, qualifier: Option<&str>) -> String {
    let question = match qualifier {
        Some(qualifier) => format!("?Qualifier={}", segment(qualifier)),
        None => String::new(),
    };
    format!("{FUNCTIONS}/{}{rest}{question}", segment(name))
}

fn provisioned_path(name: &str) -> String {
    format!(
        "/2019-09-30/functions/{}/provisioned-concurrency",
        segment(name)
    )
}

/// `None` for what is not there.
pub fn found(answer: anyhow::Result<Value>) -> anyhow::Result<Option<Value>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.downcast_ref::<Failure>() {
            Some(failure) if failure.status == 404 => Ok(None),
            _ => Err(error),
        },
    }
}

/// How far the last change of a function is.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Done,
    Working,
    Failed(String),
}

fn standing(function: &Value) -> Standing {
    let reason = |member: &str| {
        let reason = function[member].as_str();
        Standing::Failed(reason.unwrap_or("the server does not say why").to_owned())
    };
    let state = function["State"].as_str();
    let update = function["LastUpdateStatus"].as_str();
    match (state, update) {
        (Some("Failed"), _) => reason("StateReason"),
        (_, Some("Failed")) => reason("LastUpdateStatusReason"),
        (Some("Pending"), _) | (_, Some("InProgress")) => Standing::Working,
        _ => Standing::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_done_working_or_failed() {
        let check = |function: Value, expected: Standing| {
            assert_eq!(standing(&function), expected, "{function}");
        };
        check(json!({ "State": "Pending" }), Standing::Working);
        check(
            json!({ "State": "Active", "LastUpdateStatus": "InProgress" }),
            Standing::Working,
        );
        check(
            json!({ "State": "Active", "LastUpdateStatus": "Successful" }),
            Standing::Done,
        );
        check(json!({}), Standing::Done);
        check(
            json!({ "State": "Failed", "StateReason": "no code" }),
            Standing::Failed("no code".to_owned()),
        );
        let update = json!({
            "State": "Active", "LastUpdateStatus": "Failed", "LastUpdateStatusReason": "no image",
        });
        check(update, Standing::Failed("no image".to_owned()));
    }

    #[test]
    fn names_stay_one_segment() {
        assert_eq!(
            of("a/b", "/code", Some("$LATEST")),
            "/2015-03-31/functions/a%2Fb/code?Qualifier=%24LATEST"
        );
    }
}
