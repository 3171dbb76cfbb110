//! Backups in an object store: one that speaks S3's protocol (moto's server, from PyPI).

mod common;

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{Server, eventually, free_port, free_ports, json, lambic, refused, root, shown, text};
use serde_json::Value;

/// Private objects are for those who sign; this server does not look at the signature.
const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=someone/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none";

/// A server of S3, in memory.
struct S3 {
    child: Child,
    url: String,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl S3 {
    fn start() -> S3 {
        let python = common::python_with(&root().join("tests/stores/requirements.txt"));
        let port = free_port();
        let mut run = Command::new(python);
        run.args([
            "-m",
            "moto.server",
            "-H",
            "127.0.0.1",
            "-p",
            &port.to_string(),
        ]);
        run.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let store = S3 {
            child: run.spawn().expect("python runs"),
            url: format!("http://127.0.0.1:{port}"),
        };
        eventually("the object store answers", || {
            ureq::get(format!("{}/moto-api/", store.url)).call().is_ok()
        });
        store
    }

    fn put(&self, path: &str, body: &[u8]) {
        let put = ureq::put(format!("{}/{path}", self.url));
        let put = put.header("authorization", SIGNED).send(body);
        put.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let mut got = ureq::get(format!("{}/{path}", self.url))
            .header("authorization", SIGNED)
            .call()
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let body = got.body_mut().with_config().limit(1 << 30);
        body.read_to_vec().expect("bytes")
    }

    /// The keys in a bucket.
    fn keys(&self, bucket: &str) -> Vec<String> {
        let listed = text(&self.get(&format!("{bucket}?list-type=2&max-keys=1000")));
        let keys = listed.split("<Key>").skip(1);
        keys.filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()))
            .collect()
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_ACCESS_KEY_ID", "someone".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            // Nothing that these mean elsewhere is meant for the store.
            ("ENDPOINT", "http://nowhere.invalid".to_owned()),
            ("TOKEN", "of something else".to_owned()),
        ]
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut run = lambic();
        run.envs(self.environment()).args(args).stdin(Stdio::null());
        run.output().expect("the binary is there")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "lambic {args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, said: &[&str]) {
        refused(&self.run(args), code, said);
    }

    fn serve(&self, data: &Path) -> Server {
        loop {
            let (http, pg) = free_ports();
            let mut run = lambic();
            run.envs(self.environment()).arg("serve");
            match Server::start_by(run, None, data, http, pg, &[]) {
                Ok(server) => return server,
                Err(said) if said.iter().any(|line| line.contains("already in use")) => {}
                Err(said) => panic!("the server did not start:\n{}", said.join("\n")),
            }
        }
    }
}

#[test]
fn a_bucket_takes_backups_and_gives_them_back() {
    let store = S3::start();
    store.put("backups", b"");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = store.serve(&data);
    server.ok(&["query", "CREATE STREAM s (k text, n bigint); CREATE MATERIALIZED VIEW v AS SELECT left(k, 2) AS k, count(*) AS c, sum(n) AS n FROM s GROUP BY 1"]);
    // More than one part of an upload.
    server.ok(&[
        "query",
        "INSERT INTO s SELECT md5(value::text), value FROM generate_series(1, 400000) AS t (value)",
    ]);
    server.ok(&["batch", "run"]);

    let target = "s3://backups/lambic/of-s/";
    let first = json(&server.ok(&["backup", target, "--json"]));
    server.ok(&["query", "INSERT INTO s VALUES ('one more', 1)"]);
    let second = json(&server.ok(&["backup", target, "--json"]));
    let bytes = |told: &Value| told["bytes_copied"].as_u64().expect("a number");
    assert!(bytes(&second) < bytes(&first), "{first} {second}");
    let view = server.sorted("SELECT * FROM v");
    assert!(server.terminate().success());
    store.ok(&["backup", target, "--data", shown(&data)]);
    let listed = json(&store.ok(&["backup", "list", target, "--json"]));
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    store.ok(&["backup", "verify", target]);
    let keys = store.keys("backups");
    assert!(
        keys.iter().all(|key| key.starts_with("lambic/of-s/")),
        "{keys:?}"
    );
    assert!(
        !keys.iter().any(|key| key.contains("/in-progress/")),
        "nobody is at work any more: {keys:?}"
    );

    let restored = folder.path().join("restored");
    store.ok(&["restore", target, shown(&restored)]);
    store.ok(&["doctor", "--data", shown(&restored)]);
    let again = Server::start(&restored);
    assert_eq!(again.sorted("SELECT * FROM v"), view);
    again.ok(&["audit", "--all"]);
    drop(again);

    store.ok(&["backup", "prune", target, "--keep", "1"]);
    store.ok(&["backup", "verify", target]);

    // What does not fit its hash is named, and not restored.
    let keys = store.keys("backups");
    let content = keys.iter().filter(|key| key.contains("/files/"));
    let large = content.max_by_key(|key| store.get(&format!("backups/{key}")).len());
    let large = large.expect("there is content");
    let mut bytes = store.get(&format!("backups/{large}"));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.put(&format!("backups/{large}"), &bytes);
    let hash = large.rsplit('/').next().expect("a name");
    store.refused(&["backup", "verify", target], 1, &["is damaged", hash]);
    let damaged = folder.path().join("damaged");
    store.refused(
        &["restore", target, shown(&damaged)],
        1,
        &["cannot be restored", hash],
    );
}

#[test]
fn what_a_store_refuses_is_said_with_its_name() {
    let store = S3::start();
    store.put("photos", b"");
    store.put("photos/cat.jpg", b"meow");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = store.serve(&data);
    server.ok(&[
        "query",
        "CREATE STREAM s (n bigint); INSERT INTO s VALUES (1)",
    ]);
    refused(
        &server.cli(&["backup", "s3://photos"]),
        1,
        &["`s3://photos` is not empty and holds no backups", "cat.jpg"],
    );
    refused(
        &server.cli(&["backup", "s3://nosuch/x"]),
        1,
        &["/nosuch", "NoSuchBucket"],
    );
    // Beside other things is fine.
    server.ok(&["backup", "s3://photos/backups"]);
    assert!(server.terminate().success());
    store.refused(
        &["backup", "list", "s3://photos"],
        78,
        &["there are no backups in `s3://photos`"],
    );
    store.ok(&["backup", "list", "s3://photos/backups"]);

    // A store that is not there is not waited for without end.
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let started = Instant::now();
    let mut run = lambic();
    run.envs(store.environment())
        .env("AWS_ENDPOINT_URL", &nowhere);
    run.args(["backup", "list", "s3://photos/backups"]);
    let output = run
        .stdin(Stdio::null())
        .output()
        .expect("the binary is there");
    refused(&output, 1, &["/photos/backups", "the target failed"]);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );

    // Nobody answers there; what is said is what to do.
    let mut run = lambic();
    run.env("AWS_METADATA_ENDPOINT", &nowhere)
        .args(["backup", "list", "s3://photos/backups"]);
    let output = run.output().expect("the binary is there");
    refused(
        &output,
        1,
        &["there are no credentials", "AWS_ACCESS_KEY_ID"],
    );

    let unknown = lambic()
        .args(["backup", "list", "s3://"])
        .output()
        .expect("the binary is there");
    refused(&unknown, 78, &["s3://"]);
}
