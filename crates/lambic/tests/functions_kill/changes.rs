//! Functions that are deployed and changed meanwhile: what was acknowledged is there, what was not is there or is not.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Load, pause};
use crate::common::aws::{Api, FUNCTIONS, ROLE, base64, sha256, zipped};

const CHANGING: &str = "kill-changing";

/// What may be read at a place: the path that is asked, and where in the answer; `null` stands for what is not there.
pub type Model = BTreeMap<(String, &'static str), Vec<Value>>;

fn code(k: u64) -> Vec<u8> {
    zipped(&[(
        "app.py",
        &format!("def handler(event, context):\n    return {k}\n"),
    )])
}

fn function(name: &str, k: u64) -> Value {
    json!({
        "FunctionName": name, "Runtime": "python3.11", "Role": ROLE, "Handler": "app.handler",
        "Code": {"ZipFile": base64(&code(k))}, "Timeout": 30,
    })
}

pub fn declare(api: &Api) {
    api.ok("POST", FUNCTIONS, &function(CHANGING, 0));
    api.ok(
        "POST",
        &format!("{FUNCTIONS}/{CHANGING}/versions"),
        &json!({}),
    );
    let alias = json!({"Name": "live", "FunctionVersion": "1"});
    api.ok("POST", &format!("{FUNCTIONS}/{CHANGING}/aliases"), &alias);
}

struct Changes<'a> {
    load: &'a Load,
    model: Model,
    /// Published versions and the number that their code answers.
    versions: Vec<(String, u64)>,
}

pub fn make(load: &Load) -> Model {
    let mut changes = Changes {
        load,
        model: first(),
        versions: vec![("1".to_owned(), 0)],
    };
    while let Some(k) = load.changes.next() {
        match k % 8 {
            0 => changes.create(k),
            1 => changes.publish(k),
            2 => changes.move_alias(),
            3 => changes.publish_layer(k),
            4 => changes.configure(k),
            5 => changes.settle(k),
            6 => changes.map(k),
            _ => changes.remove(k),
        }
    }
    // Versions answer what they answered.
    let Changes {
        mut model,
        versions,
        ..
    } = changes;
    for (version, k) in &versions {
        let path = format!("{FUNCTIONS}/{CHANGING}/configuration?Qualifier={version}");
        model.insert((path, "/CodeSha256"), vec![Value::from(sha256(&code(*k)))]);
    }
    for (version, k) in versions.iter().rev().take(3) {
        let path = format!("{FUNCTIONS}/{CHANGING}/invocations?Qualifier={version}");
        model.insert((path, ""), vec![Value::from(*k)]);
    }
    model
}

/// What is there of the function that is changed before anything is.
fn first() -> Model {
    let of = |path: &str, pointer, value| {
        (
            (format!("{FUNCTIONS}/{CHANGING}/{path}"), pointer),
            vec![value],
        )
    };
    Model::from([
        of("configuration", "/CodeSha256", json!(sha256(&code(0)))),
        of("configuration", "/Description", json!("")),
        of("configuration", "/MemorySize", json!(128)),
        of("aliases/live", "/FunctionVersion", json!("1")),
    ])
}

impl Changes<'_> {
    /// Asks for a change after which each `place` has its value. Gives the answer if there was one.
    fn change(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        places: &[(String, &'static str, Value)],
    ) -> Option<Value> {
        let answer = self.load.api.call(method, path, body);
        let is_done = match &answer {
            Some((status, _)) if (200..300).contains(status) => true,
            // The server was told to stop, or what the change builds on was never kept.
            Some((status, _)) if *status >= 500 || *status == 404 || *status == 409 => false,
            // For mappings AWS says it in another way.
            Some((400, said)) if said["message"] == "Function does not exist" => false,
            Some((status, said)) => {
                self.load
                    .refuse(format!("{method} {path}: {status} {said}"));
                false
            }
            None => false,
        };
        for (path, pointer, value) in places {
            let allowed = self.model.entry((path.clone(), pointer));
            match is_done {
                true => *allowed.or_default() = vec![value.clone()],
                false => allowed
                    .or_insert_with(|| vec![Value::Null])
                    .push(value.clone()),
            }
        }
        if !is_done {
            pause();
        }
        answer.filter(|_| is_done).map(|(_, body)| body)
    }

    fn create(&mut self, k: u64) {
        let name = format!("kill-made-{k}");
        let place = (
            format!("{FUNCTIONS}/{name}/configuration"),
            "/CodeSha256",
            Value::from(sha256(&code(k))),
        );
        self.change("POST", FUNCTIONS, Some(&function(&name, k)), &[place]);
    }

    fn publish(&mut self, k: u64) {
        let path = format!("{FUNCTIONS}/{CHANGING}/code");
        let body = json!({"ZipFile": base64(&code(k)), "Publish": true});
        let place = (
            format!("{FUNCTIONS}/{CHANGING}/configuration"),
            "/CodeSha256",
            Value::from(sha256(&code(k))),
        );
        if let Some(answer) = self.change("PUT", &path, Some(&body), &[place]) {
            let version = answer["Version"].as_str().expect("it was published");
            self.versions.push((version.to_owned(), k));
        }
    }

    fn move_alias(&mut self) {
        let (version, _) = self.versions.last().expect("the first is there").clone();
        let path = format!("{FUNCTIONS}/{CHANGING}/aliases/live");
        let place = (path.clone(), "/FunctionVersion", json!(version));
        let body = json!({"FunctionVersion": version});
        self.change("PUT", &path, Some(&body), &[place]);
    }

    fn publish_layer(&mut self, k: u64) {
        let zip = code(k);
        let path = "/2018-10-31/layers/kill-layer/versions";
        let body = json!({"Content": {"ZipFile": base64(&zip)}});
        if let Some(answer) = self.change("POST", path, Some(&body), &[]) {
            let place = (
                format!("{path}/{}", answer["Version"]),
                "/Content/CodeSha256",
            );
            self.model.insert(place, vec![Value::from(sha256(&zip))]);
        }
    }

    fn configure(&mut self, k: u64) {
        let path = format!("{FUNCTIONS}/{CHANGING}/configuration");
        let body = json!({"Description": format!("change {k}"), "MemorySize": 128 + k % 1_000});
        let places = [
            (path.clone(), "/Description", body["Description"].clone()),
            (path.clone(), "/MemorySize", body["MemorySize"].clone()),
        ];
        self.change("PUT", &path, Some(&body), &places);
    }

    /// A URL and settings of the function that was made last.
    fn settle(&mut self, k: u64) {
        let name = format!("kill-made-{}", k - 5);
        let path = format!("/2021-10-31/functions/{name}/url");
        let place = (path.clone(), "/AuthType", json!("NONE"));
        let body = json!({"AuthType": "NONE"});
        self.change("POST", &path, Some(&body), &[place]);
        let path = format!("/2019-09-25/functions/{name}/event-invoke-config");
        let place = (
            path.clone(),
            "/MaximumEventAgeInSeconds",
            json!(60 + k % 1_000),
        );
        let body = json!({"MaximumEventAgeInSeconds": 60 + k % 1_000});
        self.change("PUT", &path, Some(&body), &[place]);
        let path = format!("/2017-10-31/functions/{name}/concurrency");
        let place = (
            format!("/2019-09-30/functions/{name}/concurrency"),
            "/ReservedConcurrentExecutions",
            json!(1),
        );
        let body = json!({"ReservedConcurrentExecutions": 1});
        if k % 16 == 5 {
            self.change("PUT", &path, Some(&body), &[place]);
        }
    }

    fn map(&mut self, k: u64) {
        let name = format!("kill-made-{}", k - 6);
        let path = "/2015-03-31/event-source-mappings";
        let body = json!({
            "FunctionName": name, "StartingPosition": "LATEST", "BatchSize": 1 + k % 100, "Enabled": false,
            "EventSourceArn": "arn:aws:lambic:us-east-1:000000000000:stream/kill_orders",
        });
        if let Some(answer) = self.change("POST", path, Some(&body), &[]) {
            let uuid = answer["UUID"].as_str().expect("it has one");
            let place = (format!("{path}/{uuid}"), "/BatchSize");
            self.model.insert(place, vec![body["BatchSize"].clone()]);
        }
    }

    /// A function without mappings.
    fn remove(&mut self, k: u64) {
        let name = format!("kill-gone-{k}");
        let path = format!("{FUNCTIONS}/{name}");
        let place = format!("{path}/configuration");
        let hash = Value::from(sha256(&code(k)));
        let made = [(place.clone(), "/CodeSha256", hash)];
        self.change("POST", FUNCTIONS, Some(&function(&name, k)), &made);
        let gone = [(place, "/CodeSha256", Value::Null)];
        self.change("DELETE", &path, None, &gone);
    }
}

pub fn check(api: &Api, model: &Model) -> String {
    let mut wrong = Vec::new();
    for ((path, pointer), allowed) in model {
        let method = match pointer.is_empty() {
            true => "POST",
            false => "GET",
        };
        let body = json!({});
        let body = Some(&body).filter(|_| method == "POST");
        let (status, answer) = api.call(method, path, body).expect("it answers");
        let has = match status {
            200 => answer.pointer(pointer).cloned().unwrap_or_default(),
            404 => Value::Null,
            _ => answer,
        };
        if !allowed.contains(&has) {
            wrong.push(format!("{path} {pointer}: {has}, not one of {allowed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!model.is_empty(), "nothing was changed, so nothing shown");
    format!("{} facts of functions are as acknowledged", model.len())
}
