//! Where functions that are processes may connect to: everywhere, nowhere, or to hosts that they name.

mod common;

use common::House;
use serde_json::{Value, json};

/// Asks the way out for a connection, and tells what that says.
const ASKS: &str = "import http.client, os, urllib.parse\n\
    def handler(event, context):\n\
    \x20   if 'HTTPS_PROXY' not in os.environ:\n\
    \x20       return 'no way out'\n\
    \x20   at = urllib.parse.urlsplit(os.environ['HTTPS_PROXY'])\n\
    \x20   connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)\n\
    \x20   connection.request('CONNECT', event + ':443')\n\
    \x20   return connection.getresponse().status\n";

async fn told(house: &House, hosts: Option<&[&str]>, host: &str) -> Value {
    let mut deployment = house.python("asks", ASKS).await;
    deployment.settings.hosts =
        hosts.map(|hosts| hosts.iter().map(|host| (*host).to_owned()).collect());
    house.functions.deploy(deployment).await.unwrap();
    let result = house.invoke("asks", &json!(host).to_string()).await;
    assert!(result.is_success(), "{}", result.log_tail);
    serde_json::from_slice(result.payload()).unwrap()
}

/// No name ends so, and so none is found: what is allowed fails later than what is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_reaches_what_its_deployment_lists() {
    let house = House::open().await;
    for (hosts, host, is_allowed) in [
        (None, "any.invalid", true),
        (Some(["listed.invalid"].as_slice()), "listed.invalid", true),
        (Some(["*.in.invalid"].as_slice()), "a.in.invalid", true),
        (Some(["*"].as_slice()), "any.invalid", true),
        (Some(["listed.invalid"].as_slice()), "any.invalid", false),
        (Some(["*.in.invalid"].as_slice()), "in.invalid", false),
    ] {
        let status = told(&house, hosts, host).await;
        assert_eq!(status != 403, is_allowed, "{hosts:?} {host}: {status}");
    }
    assert_eq!(told(&house, Some(&[]), "any.invalid").await, "no way out");
    // It is said again after a restart.
    let house = house.restart().await;
    let result = house.invoke("asks", "\"any.invalid\"").await;
    assert_eq!(result.payload(), b"\"no way out\"");
    house.close().await;
}
