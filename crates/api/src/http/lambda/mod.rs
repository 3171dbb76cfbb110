//! AWS Lambda's API, so that its clients and tools work against this server.
//!
//! One file per group of operations; what they share is in [`names`] (names and ARNs), [`check`] (constraints),
//! [`request`] and [`page`] (what comes in), [`answer`] and [`error`] (what goes out), [`configuration`] (how a
//! function is described). Constraints, defaults and words are those of AWS's model (botocore's
//! `lambda/2015-03-31/service-2.json`); `docs/lambda-api.md` says what differs. This door keeps nothing: all state is
//! the functions' room's.

mod account;
mod actions;
mod aliases;
mod answer;
mod asynchronous;
mod auth;
mod beforehand;
mod check;
mod code;
mod concurrency;
mod configuration;
mod cors;
mod create;
mod environment;
mod error;
mod invoke;
mod invoke_streamed;
mod layer_policies;
mod layers;
mod management;
mod names;
mod page;
mod permissions;
mod policy;
mod provisioned;
mod read;
mod remove;
mod request;
mod runtimes;
mod settings;
pub mod sigv4;
mod sources;
mod tags;
mod update;
mod url_answer;
mod url_auth;
mod url_body;
mod url_door;
mod url_event;
mod url_http;
mod url_stream;
mod urls;
mod versions;

use std::sync::Arc;

use axum::{
    Router,
    http::StatusCode,
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::{any, delete, get, post, put},
};

use super::App;
pub use actions::{authorize, not_ours};
pub use answer::now_us;
pub use beforehand::beforehand;
pub use error::AwsError;
pub use url_door::is_function_url;

/// All paths of AWS's API that are answered, the code that it hands out, and functions' own URLs.
pub fn routes() -> Router<Arc<App>> {
    functions()
        .merge(of_functions())
        .merge(layers())
        .merge(sources())
        .route_layer(from_fn(auth::identify))
        .merge(outside())
}

fn functions() -> Router<Arc<App>> {
    const FUNCTIONS: &str = "/2015-03-31/functions";
    let all = || get(read::list).post(create::create);
    Router::new()
        .route(FUNCTIONS, all())
        // Older clients have the slash.
        .route(&format!("{FUNCTIONS}/"), all())
        .route(
            &format!("{FUNCTIONS}/{{name}}"),
            get(read::one).delete(remove::remove),
        )
        .route(
            &format!("{FUNCTIONS}/{{name}}/configuration"),
            get(read::configuration).put(update::configuration),
        )
        .route(&format!("{FUNCTIONS}/{{name}}/code"), put(update::code))
        .route(
            &format!("{FUNCTIONS}/{{name}}/invocations"),
            post(invoke::invoke),
        )
        .route(
            &format!("{FUNCTIONS}/{{name}}/versions"),
            get(read::versions).post(versions::publish),
        )
        .route(
            &format!("{FUNCTIONS}/{{name}}/aliases"),
            get(aliases::list).post(aliases::create),
        )
        .route(
            &format!("{FUNCTIONS}/{{name}}/aliases/{{alias}}"),
            get(aliases::one)
                .put(aliases::update)
                .delete(aliases::remove),
        )
        .route(
            &format!("{FUNCTIONS}/{{name}}/policy"),
            get(permissions::one).post(permissions::add),
        )
        .route(
            &format!("{FUNCTIONS}/{{name}}/policy/{{statement}}"),
            delete(permissions::remove),
        )
}

/// Operations that came later, each under the date of its API.
fn of_functions() -> Router<Arc<App>> {
    let queue = || post(invoke::invoke_async);
    let settings = || get(account::settings);
    Router::new()
        .route("/2014-11-13/functions/{name}/invoke-async", queue())
        .route("/2014-11-13/functions/{name}/invoke-async/", queue())
        .route("/2016-08-19/account-settings", settings())
        .route("/2016-08-19/account-settings/", settings())
        .route(
            "/2017-03-31/tags/{resource}",
            get(tags::list).post(tags::add).delete(tags::remove),
        )
        .route(
            "/2017-10-31/functions/{name}/concurrency",
            put(concurrency::put).delete(concurrency::remove),
        )
        .route(
            "/2019-09-30/functions/{name}/concurrency",
            get(concurrency::one),
        )
        .route(
            "/2019-09-30/functions/{name}/provisioned-concurrency",
            get(provisioned::get)
                .put(provisioned::put)
                .delete(provisioned::remove),
        )
        .route(
            "/2019-09-25/functions/{name}/event-invoke-config",
            get(asynchronous::one)
                .put(asynchronous::put)
                .post(asynchronous::update)
                .delete(asynchronous::remove),
        )
        .route(
            "/2019-09-25/functions/{name}/event-invoke-config/list",
            get(asynchronous::list),
        )
        .route(
            "/2020-06-30/functions/{name}/code-signing-config",
            get(account::code_signing),
        )
        .route(
            "/2021-07-20/functions/{name}/runtime-management-config",
            get(management::runtime).put(management::put_runtime),
        )
        .route(
            "/2021-10-31/functions/{name}/url",
            get(urls::one)
                .post(urls::create)
                .put(urls::update)
                .delete(urls::remove),
        )
        .route("/2021-10-31/functions/{name}/urls", get(urls::list))
        .route(
            "/2021-11-15/functions/{name}/response-streaming-invocations",
            post(invoke_streamed::invoke),
        )
        .route(
            "/2024-08-31/functions/{name}/recursion-config",
            get(management::recursion).put(management::put_recursion),
        )
}

fn sources() -> Router<Arc<App>> {
    const SOURCES: &str = "/2015-03-31/event-source-mappings";
    let all = || get(sources::list).post(sources::create);
    Router::new()
        .route(SOURCES, all())
        .route(&format!("{SOURCES}/"), all())
        .route(
            &format!("{SOURCES}/{{uuid}}"),
            get(sources::one)
                .put(sources::update)
                .delete(sources::remove),
        )
}

fn layers() -> Router<Arc<App>> {
    const VERSIONS: &str = "/2018-10-31/layers/{layer}/versions";
    Router::new()
        .route("/2018-10-31/layers", get(layers::list))
        .route(VERSIONS, get(layers::versions).post(layers::publish))
        .route(
            &format!("{VERSIONS}/{{number}}"),
            get(layers::one).delete(layers::remove),
        )
        .route(
            &format!("{VERSIONS}/{{number}}/policy"),
            get(layer_policies::one).post(layer_policies::add),
        )
        .route(
            &format!("{VERSIONS}/{{number}}/policy/{{statement}}"),
            delete(layer_policies::remove),
        )
}

/// What is not AWS's API: nobody signs requests to these.
fn outside() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/code/{file}", get(code::fetch))
        .route("/lambda-url/{id}", any(url_door::call))
        .route("/lambda-url/{id}/", any(url_door::call))
        .route("/lambda-url/{id}/{*path}", any(url_door::call))
}

/// AWS's paths begin with the date of an API.
pub fn is_aws_path(path: &str) -> bool {
    let date = path.split('/').nth(1).unwrap_or_default();
    date.len() == 10
        && date.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// What a signed request may hold. Those that carry code may be longer than others.
pub fn body_bytes_max(path: &str) -> usize {
    let path = path.trim_end_matches('/');
    let ends = |ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
    if ends(&["/code", "/functions"]) || (path.contains("/layers/") && ends(&["/versions"])) {
        request::CODE_REQUEST_BYTES_MAX
    } else if ends(&["-invocations", "/invocations", "/invoke-async"]) {
        invoke::PAYLOAD_BYTES_MAX
    } else {
        request::REQUEST_BYTES_MAX
    }
}

pub fn unknown(path: &str) -> Response {
    AwsError::new(
        StatusCode::NOT_FOUND,
        "UnknownOperationException",
        format!("Lambic does not have this operation of AWS Lambda yet ({path}); docs/lambda-api.md lists those that it has"),
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_paths_begin_with_a_date() {
        assert!(is_aws_path("/2015-03-31/functions/f/policy"));
        assert!(is_aws_path("/2020-06-30/functions/f/code-signing-config"));
        assert!(!is_aws_path("/v1/streams"));
        assert!(!is_aws_path("/"));
    }

    #[test]
    fn signed_requests_may_be_as_long_as_others() {
        for (path, expected) in [
            ("/2015-03-31/functions", request::CODE_REQUEST_BYTES_MAX),
            ("/2015-03-31/functions/", request::CODE_REQUEST_BYTES_MAX),
            (
                "/2015-03-31/functions/f/code",
                request::CODE_REQUEST_BYTES_MAX,
            ),
            (
                "/2018-10-31/layers/l/versions",
                request::CODE_REQUEST_BYTES_MAX,
            ),
            (
                "/2015-03-31/functions/f/versions",
                request::REQUEST_BYTES_MAX,
            ),
            (
                "/2015-03-31/functions/f/invocations",
                invoke::PAYLOAD_BYTES_MAX,
            ),
            (
                "/2014-11-13/functions/f/invoke-async/",
                invoke::PAYLOAD_BYTES_MAX,
            ),
            ("/2017-03-31/tags/arn", request::REQUEST_BYTES_MAX),
        ] {
            assert_eq!(body_bytes_max(path), expected, "{path}");
        }
    }

    #[test]
    fn no_two_routes_are_in_each_others_way() {
        drop(routes());
    }
}
