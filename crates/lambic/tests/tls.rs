//! Encrypted doors, as clients meet them: curl, psql, boto3 and the CLI, unmodified; and that nothing starts where what
//! passes could be read.

mod common;

use std::{
    fs::{self, Permissions},
    net::{IpAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use common::{Server, eventually, json, refused, shown, text};
use tempfile::TempDir;

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// Certificates of `localhost` and 127.0.0.1, and who signed them.
fn fixture(name: &str) -> PathBuf {
    common::root().join("crates/api/src/tests/tls").join(name)
}

fn authority() -> String {
    shown(&fixture("authority.pem")).to_owned()
}

fn write(path: &Path, content: &str, mode: u32) {
    fs::write(path, content).expect("it is written");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

/// Puts the pair of this name where the settings look for it.
fn put(folder: &Path, pair: &str) {
    for (from, to, mode) in [("pem", "cert.pem", 0o644), ("key", "key.pem", 0o600)] {
        let content = fs::read_to_string(fixture(&format!("{pair}.{from}"))).expect("it is there");
        write(&folder.join(to), &content, mode);
    }
}

const OWN: &str = "[tls]\ncert_file = \"cert.pem\"\nkey_file = \"key.pem\"\n";

/// A folder with settings that have a key, and these.
fn settings(more: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("settings.toml");
    let key = format!("[[auth.keys]]\nid = \"{KEY}\"\nsecret = \"{SECRET}\"\n");
    write(&path, &format!("{more}{key}"), 0o600);
    put(folder.path(), "server");
    (folder, path)
}

/// A server at free ports of this address.
fn start(folder: &Path, settings: &Path, address: &str) -> Server {
    let data = folder.join("data");
    loop {
        let (http, pg) = common::free_ports();
        let mut run = common::lambic();
        run.arg("serve");
        let doors = [format!("{address}:{http}"), format!("{address}:{pg}")];
        let extra = ["--config", shown(settings)];
        match Server::start_at(run, None, &data, [&doors[0], &doors[1]], &extra) {
            Ok(mut server) => {
                server.url = format!("https://localhost:{http}");
                return server;
            }
            Err(said) if said.join("\n").contains("Address already in use") => {}
            Err(said) => panic!("the server did not start:\n{}", said.join("\n")),
        }
    }
}

/// A server that should not come up.
fn does_not_start(folder: &Path, settings: &Path, address: &str, said: &[&str]) {
    let mut run = common::lambic();
    run.args(["serve", "--data", shown(&folder.join("data"))]);
    run.args(["--config", shown(settings)]);
    run.args(["--http", address, "--pg", "127.0.0.1:0"]);
    let output = run.output().expect("the binary is there");
    refused(&output, 78, said);
    let told = text(&output.stderr);
    assert!(
        !told.contains(SECRET) && !told.contains("PRIVATE KEY-----\nM"),
        "{told}"
    );
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("it has a port").1
}

fn curl(arguments: &[&str]) -> Output {
    let mut run = Command::new("curl");
    run.args([
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "60",
    ]);
    run.args(arguments).output().expect("curl is there")
}

/// One statement by psql, with these settings of the connection.
fn psql(server: &Server, connection: &str, sql: &str) -> Output {
    let port = port(&server.pg);
    let connection =
        format!("port={port} user={KEY} dbname=lambic connect_timeout=60 {connection}");
    let mut run = Command::new("psql");
    run.args(["-XAtw", "-d", &connection, "-c", sql]);
    run.env("PGPASSWORD", SECRET);
    run.output().expect("psql is there")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

#[test]
fn other_addresses_than_loopback_need_tls() {
    let (folder, path) = settings("");
    let wanted = [
        "not a loopback address",
        "[tls]",
        "by_proxy",
        "docs/security.md",
    ];
    does_not_start(folder.path(), &path, "0.0.0.0:0", &wanted);
    let (folder, path) = settings("[tls]\nby_proxy = true\n");
    let mut server = start(folder.path(), &path, "0.0.0.0");
    assert!(
        server.said().contains("ready http=0.0.0.0:"),
        "{}",
        server.said()
    );
    assert!(server.terminate().success(), "{}", server.said());
}

#[test]
fn what_does_not_serve_for_tls_is_told_at_the_start() {
    let (folder, path) = settings(OWN);
    let folder = folder.path();
    let at = |name: &str| folder.join(name);
    let copy = |from: &str, to: &str, mode| {
        let content = fs::read_to_string(fixture(from)).expect("it is there");
        write(&at(to), &content, mode);
    };
    let fails = |said: &[&str]| {
        does_not_start(folder, &path, "127.0.0.1:0", said);
        put(folder, "server");
    };
    fs::remove_file(at("cert.pem")).expect("it is there");
    fails(&["cannot read", "cert.pem", "[tls]"]);
    fs::remove_file(at("key.pem")).expect("it is there");
    fails(&["cannot read", "key.pem", "[tls]"]);
    write(&at("cert.pem"), "nothing\n", 0o644);
    fails(&["cert.pem", "there is no certificate"]);
    write(&at("key.pem"), "nothing\n", 0o600);
    fails(&["key.pem", "there is no private key"]);
    copy("server.key", "key.pem", 0o644);
    fails(&["key.pem", "mode is 644", "chmod 600"]);
    copy("renewed.key", "key.pem", 0o600);
    fails(&["not that of the first certificate"]);
    copy("encrypted.key", "key.pem", 0o600);
    fails(&["the key is encrypted"]);
    for (wrong, wanted) in [
        ("[tls]\ncert_file = \"cert.pem\"\n", "needs its `key_file`"),
        (
            "[tls]\ncertfile = \"cert.pem\"\n",
            "did you mean `cert_file`?",
        ),
        (&format!("{OWN}by_proxy = true\n"), "`by_proxy`"),
    ] {
        let (folder, path) = settings(wrong);
        does_not_start(folder.path(), &path, "127.0.0.1:0", &[wanted]);
    }
}

#[test]
fn an_expired_certificate_is_warned_of() {
    let (folder, path) = settings(OWN);
    put(folder.path(), "expired");
    let mut server = start(folder.path(), &path, "127.0.0.1");
    let told = server.said();
    assert!(
        told.contains("clients will refuse the certificate"),
        "{told}"
    );
    assert!(told.contains("expired at 2021-01-01"), "{told}");
    assert!(server.terminate().success(), "{}", server.said());
}

#[test]
fn clients_verify_the_server() {
    let (folder, path) = settings(OWN);
    let mut server = start(folder.path(), &path, "127.0.0.1");
    assert!(
        server.said().contains("ready https=127.0.0.1:"),
        "{}",
        server.said()
    );
    let (authority, health) = (authority(), format!("{}/health", server.url));

    let version = [
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_version} %{http_code}",
    ];
    let trusted = ["--cacert", authority.as_str(), "--ipv4", &health];
    assert_eq!(said(&curl(&[&version[..], &trusted].concat())), "1.1 200");
    assert_eq!(curl(&["--ipv4", &health]).status.code(), Some(60));
    let sql = format!("{}/v1/sql", server.url);
    let key = format!("{KEY}:{SECRET}");
    let asked = curl(&[
        "--cacert",
        &authority,
        "--ipv4",
        "-u",
        &key,
        "-d",
        "SELECT 1 AS one",
        &sql,
    ]);
    assert_eq!(json(&said(&asked))["rows"][0][0], 1);
    // On this machine the doors take what is not encrypted as well.
    let plain = health.replace("https://localhost", "http://127.0.0.1");
    assert!(said(&curl(&[&plain])).contains("ok"));

    let full = format!("sslmode=verify-full sslrootcert={authority}");
    let local = format!("host=localhost hostaddr=127.0.0.1 {full}");
    for connection in [
        local.clone(),
        format!("{local} channel_binding=require"),
        format!("{local} channel_binding=disable"),
        "host=127.0.0.1 sslmode=prefer".to_owned(),
        "host=127.0.0.1 sslmode=disable".to_owned(),
    ] {
        let asked = psql(&server, &connection, "SELECT 'ü', 1 + 1");
        assert_eq!(said(&asked), "ü|2", "{connection}");
    }
    let other = format!("host=other.example hostaddr=127.0.0.1 {full}");
    refused(&psql(&server, &other, "SELECT 1"), 2, &["other.example"]);
    let many = psql(
        &server,
        &local,
        "SELECT value, repeat('x', 1000) FROM generate_series(1, 5000)",
    );
    assert_eq!(said(&many).lines().count(), 5_000);

    assert!(server.terminate().success(), "{}", server.said());
    assert!(!server.said().contains(SECRET), "a secret is in the log");
}

#[test]
fn the_cli_speaks_https() {
    let (folder, path) = settings(OWN);
    let server = start(folder.path(), &path, "127.0.0.1");
    let authority = authority();
    let cli = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut run = common::lambic();
        run.env("LAMBIC_URL", &server.url)
            .env("NO_PROXY", "localhost");
        run.env("LAMBIC_ACCESS_KEY_ID", KEY)
            .env("LAMBIC_SECRET_ACCESS_KEY", SECRET);
        run.envs(variables.iter().copied()).args(arguments);
        run.output().expect("the binary is there")
    };
    let query = ["query", "--json", "SELECT 'ü' AS text"];
    let by_option = [&["--ca-file", authority.as_str()], &query[..]].concat();
    for (variables, arguments) in [
        (&[][..], &by_option[..]),
        (&[("LAMBIC_CA_FILE", authority.as_str())], &query),
        (&[("AWS_CA_BUNDLE", authority.as_str())], &query),
        (&[("SSL_CERT_FILE", authority.as_str())], &query),
    ] {
        let output = cli(variables, arguments);
        assert_eq!(json(&said(&output))[0]["text"], "ü", "{variables:?}");
    }
    let other = fixture("expired.pem");
    let unknown = [("LAMBIC_CA_FILE", shown(&other))];
    refused(
        &cli(&unknown, &query),
        1,
        &["has signed the server's certificate", "--ca-file"],
    );
    let missing = [("LAMBIC_CA_FILE", "/no/such/file")];
    refused(
        &cli(&missing, &query),
        1,
        &["/no/such/file", "LAMBIC_CA_FILE"],
    );
    let plain = Server::start(&folder.path().join("plain"));
    let wrong = plain.url.replace("http://", "https://");
    let trusted = [
        ("LAMBIC_CA_FILE", authority.as_str()),
        ("LAMBIC_URL", wrong.as_str()),
    ];
    refused(&cli(&trusted, &query), 1, &["the connection to https://"]);
    let ftp = [("LAMBIC_URL", "ftp://localhost")];
    refused(&cli(&ftp, &query), 1, &["http:// or https://"]);
}

#[test]
fn boto3_verifies_the_server() {
    let (folder, path) = settings(OWN);
    let server = start(folder.path(), &path, "127.0.0.1");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws");
    let interpreter = common::python_with(&scripts.join("requirements.txt"));
    let mut run = Command::new(interpreter);
    run.arg(scripts.join("secured.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("AWS_CA_BUNDLE");
    common::run_client_with(&mut run, &[&authority()], server);
}

/// Of this machine, as others see it; nothing is sent to find it out.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn elsewhere_than_on_loopback_what_is_not_encrypted_is_refused() {
    let Some(address) = own_address() else {
        eprintln!("this machine has no other address than loopback: nothing to look at");
        return;
    };
    let (folder, path) = settings(OWN);
    let mut server = start(folder.path(), &path, "0.0.0.0");
    let at = format!("{address}:{}/health", port(&server.url));
    let code = ["--write-out", "\n%{http_code}"];
    let plain = format!("http://{at}");
    let told = said(&curl(&[&code[..], &[&plain]].concat()));
    assert!(told.ends_with("\n400"), "{told}");
    assert!(
        told.contains("not_encrypted") && told.contains("https://"),
        "{told}"
    );
    let secured = format!("https://{at}");
    let told = said(&curl(&[&code[..], &["--insecure", &secured]].concat()));
    assert!(told.ends_with("\n200"), "{told}");
    let plain = format!("host={address} sslmode=disable");
    let wanted = ["encrypted connections only", "sslmode=verify-full"];
    refused(&psql(&server, &plain, "SELECT 1"), 2, &wanted);
    let secured = format!("host={address} sslmode=require");
    assert_eq!(said(&psql(&server, &secured, "SELECT 1")), "1");
    assert!(server.terminate().success(), "{}", server.said());
}

/// The certificate that the HTTP door shows, as PEM.
fn shown_certificate(server: &Server) -> String {
    let get = "import ssl, sys; print(ssl.get_server_certificate(('127.0.0.1', int(sys.argv[1]))))";
    let mut run = Command::new("python3");
    run.args(["-c", get, port(&server.url)]);
    said(&run.output().expect("python3 is there"))
}

#[test]
fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
    let (folder, path) = settings(OWN);
    let mut server = start(folder.path(), &path, "127.0.0.1");
    let shows = |server: &Server, pair: &str| {
        let wanted = fs::read_to_string(fixture(&format!("{pair}.pem"))).expect("it is there");
        shown_certificate(server).trim() == wanted.trim()
    };
    assert!(shows(&server, "server"));
    put(folder.path(), "renewed");
    eventually("the new certificate is shown", || shows(&server, "renewed"));
    let local = format!(
        "host=localhost hostaddr=127.0.0.1 sslmode=verify-full channel_binding=require sslrootcert={}",
        authority()
    );
    assert_eq!(said(&psql(&server, &local, "SELECT 1")), "1");

    const WARNING: &str = "the new certificate cannot be used";
    write(&folder.path().join("key.pem"), "nothing\n", 0o600);
    let heard = server.hear(|line| line.contains(WARNING));
    assert!(heard.is_some(), "{}", server.said());
    assert!(shows(&server, "renewed"));
    assert_eq!(said(&psql(&server, &local, "SELECT 1")), "1");
    put(folder.path(), "server");
    eventually("the certificate after the broken one is shown", || {
        shows(&server, "server")
    });
    // Once, however often the files were looked at.
    let told = server.said();
    assert_eq!(told.matches(WARNING).count(), 1, "{told}");
    assert!(server.terminate().success(), "{}", server.said());
}
