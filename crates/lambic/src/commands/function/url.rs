//! `lambic function url`: a function's own URL, made, changed, shown, taken away.

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    super::{Global, stream::said},
    api::{Api, found, of},
};
use crate::{
    cli::{self, UrlAuth},
    client::{Failure, segment},
    output,
};

/// AWS SAM's name of the statement that lets everybody call.
const STATEMENT: &str = "FunctionURLAllowPublicAccess";

pub fn run(global: &Global, args: &cli::FunctionUrl) -> anyhow::Result<()> {
    let api = Api::new(global)?;
    let (name, alias) = (&args.name, args.qualifier.as_deref());
    if args.delete {
        api.configuration(name, alias)?;
        if find(&api, name, alias)?.is_none() {
            bail!(none(name));
        }
        delete(&api, name, alias)?;
        return said(Some(format!("the URL of {name} is gone")), global.json);
    }
    let url = match args.create {
        true => ensure(&api, name, alias, &wanted(args))?,
        false => {
            api.configuration(name, alias)?;
            find(&api, name, alias)?.ok_or_else(|| {
                anyhow::anyhow!(
                    "{}; make one: lambic function url {name} --create",
                    none(name)
                )
            })?
        }
    };
    if global.json {
        return output::print_json(&url);
    }
    let address = url["FunctionUrl"].as_str().unwrap_or_default();
    output::print(&format!("{address}\n"))
}

fn none(name: &str) -> String {
    format!("function {name} has no URL")
}

/// What is named; the rest is left to [`ensure`].
fn wanted(args: &cli::FunctionUrl) -> Value {
    let mut body = json!({});
    if let Some(auth) = args.auth {
        body["AuthType"] = json!(match auth {
            UrlAuth::None => "NONE",
            UrlAuth::Iam => "AWS_IAM",
        });
    }
    if !args.cors_origins.is_empty() {
        body["Cors"] = json!({
            "AllowOrigins": args.cors_origins,
            "AllowMethods": ["*"],
            "AllowHeaders": ["*"],
        });
    }
    if args.stream {
        body["InvokeMode"] = json!("RESPONSE_STREAM");
    }
    body
}

pub fn find(api: &Api, name: &str, alias: Option<&str>) -> anyhow::Result<Option<Value>> {
    found(api.client.get(&path(name, alias)))
}

fn path(name: &str, alias: Option<&str>) -> String {
    let question = match alias {
        Some(alias) => format!("?Qualifier={}", segment(alias)),
        None => String::new(),
    };
    format!("/2021-10-31/functions/{}/url{question}", segment(name))
}

/// Makes the URL, or changes what is named of it. One that anybody may call gets the statement that says so, as
/// AWS's own tools add it; one for signed requests loses it.
pub fn ensure(api: &Api, name: &str, alias: Option<&str>, wanted: &Value) -> anyhow::Result<Value> {
    let path = path(name, alias);
    let url = match find(api, name, alias)? {
        Some(present) if holds(&present, wanted) => present,
        Some(_) => api.client.put_json(&path, wanted)?,
        None => {
            api.configuration(name, alias)?;
            let mut body = wanted.clone();
            if body["AuthType"].is_null() {
                body["AuthType"] = json!("NONE");
            }
            api.client.post_json(&path, &body)?
        }
    };
    match url["AuthType"] == "NONE" {
        true => permit(api, name, alias)?,
        false => forbid(api, name, alias)?,
    }
    Ok(url)
}

/// Whether a URL is already as it is wanted.
pub fn holds(present: &Value, wanted: &Value) -> bool {
    let members = wanted.as_object().into_iter().flatten();
    members
        .into_iter()
        .all(|(name, value)| present[name] == *value)
}

pub fn delete(api: &Api, name: &str, alias: Option<&str>) -> anyhow::Result<()> {
    api.client.delete(&path(name, alias))?;
    forbid(api, name, alias)
}

fn permit(api: &Api, name: &str, alias: Option<&str>) -> anyhow::Result<()> {
    let body = json!({
        "StatementId": STATEMENT,
        "Action": "lambda:InvokeFunctionUrl",
        "Principal": "*",
        "FunctionUrlAuthType": "NONE",
    });
    let added = api.client.post_json(&of(name, "/policy", alias), &body);
    unless(added.map(drop), 409)
}

fn forbid(api: &Api, name: &str, alias: Option<&str>) -> anyhow::Result<()> {
    let path = of(name, &format!("/policy/{STATEMENT}"), alias);
    unless(api.client.delete(&path), 404)
}

/// An answer with this status means that it is so already.
fn unless(done: anyhow::Result<()>, status: u16) -> anyhow::Result<()> {
    match done {
        Err(error) => match error.downcast_ref::<Failure>() {
            Some(failure) if failure.status == status => Ok(()),
            _ => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_changed() {
        let args = cli::FunctionUrl {
            name: "f".to_owned(),
            create: true,
            delete: false,
            auth: Some(UrlAuth::Iam),
            cors_origins: vec!["https://a.example".to_owned()],
            stream: false,
            qualifier: None,
        };
        let body = wanted(&args);
        assert_eq!(
            body,
            json!({
                "AuthType": "AWS_IAM",
                "Cors": {
                    "AllowOrigins": ["https://a.example"], "AllowMethods": ["*"], "AllowHeaders": ["*"],
                },
            })
        );
        let present = json!({ "AuthType": "NONE", "InvokeMode": "BUFFERED" });
        assert!(!holds(&present, &body));
        assert!(holds(&present, &json!({ "AuthType": "NONE" })));
        assert!(holds(&present, &json!({})));
    }
}
