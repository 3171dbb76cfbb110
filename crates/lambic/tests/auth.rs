//! Keys in the settings: what they open, and that nothing starts where they would not be safe.

mod common;

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Output,
};

use common::{Server, json, refused, shown, text};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn write(path: &Path, content: &str, mode: u32) {
    fs::write(path, content).expect("it is written");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

/// A server that should not come up.
fn serve(data: &Path, arguments: &[&str]) -> Output {
    let mut run = common::lambic();
    run.args(["serve", "--data", shown(data)]).args(arguments);
    run.output().expect("the binary is there")
}

#[test]
fn other_addresses_than_loopback_need_keys() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    for (door, other) in [("--http", "--pg"), ("--pg", "--http")] {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let output = serve(&data, &[door, address, other, "127.0.0.1:0"]);
            refused(
                &output,
                78,
                &[
                    address,
                    "not a loopback address",
                    "[auth]",
                    "docs/security.md",
                ],
            );
        }
    }
}

#[test]
fn doors_that_cannot_open_leave_no_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let free = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = free.local_addr().expect("it has one").to_string();
    let address = address.as_str();
    drop(free);
    let twice = serve(&data, &["--http", address, "--pg", address]);
    refused(&twice, 78, &[address, "choose another address with --pg"]);
    assert!(!data.exists());
    let open = serve(&data, &["--http", "0.0.0.0:0", "--pg", "127.0.0.1:0"]);
    refused(&open, 78, &["not a loopback address"]);
    assert!(!data.exists());
}

#[test]
fn settings_with_keys_are_taken_only_if_they_are_safe() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, settings) = (folder.path().join("data"), folder.path().join("s.toml"));
    let inline = format!("[[auth.keys]]\nid = \"AKID\"\nsecret = \"{SECRET}\"\n");
    let by_file = "[[auth.keys]]\nid = \"AKID\"\nsecret_file = \"secret\"\n";
    for (content, mode, said) in [
        (inline.as_str(), 0o644, &["chmod 600", "mode is 644"][..]),
        (by_file, 0o644, &["cannot read the secret", "AKID"]),
        (
            &inline.replace("id =", "ids ="),
            0o600,
            &["unknown field `ids`", "did you mean `id`?"],
        ),
        (
            &inline.replace("secret =", "secrt ="),
            0o600,
            &["unknown field `secrt`"],
        ),
        (
            &inline.replace(SECRET, "short secret"),
            0o600,
            &["`secret` has 12 characters"],
        ),
        (
            &inline.repeat(2),
            0o600,
            &["key 2", "another with this `id`"],
        ),
        (&inline.replace('=', " "), 0o600, &["s.toml:2"]),
    ] {
        write(&settings, content, mode);
        let output = serve(
            &data,
            &[
                "--config",
                shown(&settings),
                "--http",
                "127.0.0.1:0",
                "--pg",
                "127.0.0.1:0",
            ],
        );
        refused(&output, 78, said);
        let told = text(&output.stderr);
        assert!(
            !told.contains(SECRET) && !told.contains("short secret"),
            "{told}"
        );
    }
    write(&folder.path().join("secret"), SECRET, 0o644);
    write(&settings, by_file, 0o644);
    let output = serve(&data, &["--config", shown(&settings)]);
    refused(&output, 78, &["chmod 600", "secret"]);
    assert!(!text(&output.stderr).contains(SECRET));
}

#[test]
fn the_cli_signs_with_its_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let project = folder.path().join("project");
    fs::create_dir(&project).expect("it is new");
    // A project names the file of its secret; a secret in it would be seen by whoever sees the code.
    write(&project.join("secret"), &format!("{SECRET}\n"), 0o600);
    let manifest = "[[settings.auth.keys]]\nid = \"AKID\"\nsecret_file = \"secret\"\n";
    write(&project.join("lambic.toml"), manifest, 0o644);
    let data = folder.path().join("data");
    let mut server = Server::start_with("serve", Some(&project), &data, &["--log", "debug"]);
    let cli = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut run = common::lambic();
        run.env("LAMBIC_URL", &server.url);
        run.envs(variables.iter().copied()).args(arguments);
        run.output().expect("the binary is there")
    };
    let key = [
        ("LAMBIC_ACCESS_KEY_ID", "AKID"),
        ("LAMBIC_SECRET_ACCESS_KEY", SECRET),
    ];
    let by_aws = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ];
    for variables in [&key, &by_aws] {
        for arguments in [
            &["query", "--json", "SELECT 'ü' AS text"][..],
            &["stream", "list"],
            &["function", "list"],
        ] {
            let output = cli(variables, arguments);
            assert!(
                output.status.success(),
                "{arguments:?}: {}",
                text(&output.stderr)
            );
        }
    }
    let create = ["stream", "create", "visits", "url text"];
    assert!(cli(&key, &create).status.success());
    let records = folder.path().join("visits.ndjson");
    fs::write(&records, "{\"url\": \"/a b\"}\n").expect("it is written");
    let append = ["append", "visits", shown(&records), "--producer", "a b"];
    let output = cli(&key, &append);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = cli(&key, &["query", "--json", "SELECT url FROM visits"]);
    assert_eq!(json(&text(&output.stdout))[0]["url"], "/a b");

    refused(
        &cli(&[], &create),
        1,
        &["with a key only", "LAMBIC_ACCESS_KEY_ID"],
    );
    let wrong = [key[0], ("LAMBIC_SECRET_ACCESS_KEY", "another")];
    refused(&cli(&wrong, &create), 1, &["signature"]);
    // Nothing is wrong with the SQL, nor is it shown.
    for arguments in [&["query", "select 1"][..], &["function", "list"]] {
        for variables in [&wrong[..], &[]] {
            let output = cli(variables, arguments);
            refused(&output, 1, &["LAMBIC_SECRET_ACCESS_KEY"]);
            let told = text(&output.stderr);
            assert!(!told.contains("query:1:1") && !told.contains('^'), "{told}");
        }
    }
    let unknown = [("LAMBIC_ACCESS_KEY_ID", "OTHER"), key[1]];
    refused(&cli(&unknown, &create), 1, &["not known"]);
    refused(&cli(&key[..1], &create), 1, &["belong together"]);
    assert!(server.terminate().success(), "{}", server.said());
    assert!(!server.said().contains(SECRET), "a secret is in the log");
}
