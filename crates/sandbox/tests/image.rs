//! Container images: their files are the whole root, their entry point speaks AWS's Runtime API.

mod common;

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use common::{LONG, answer, copy_libraries, error, failed_start, invocation, spec, start, texts};
use lambic_sandbox::process::{Image, Launch, Spec};
use serde_json::json;

/// The Runtime API in nothing but bash, which is all that the image has. Evaluates its events.
const RUN: &str = r#"#!/bin/bash
export LC_ALL=C
ask() {
    local line length=0
    exec 3<>"/dev/tcp/${AWS_LAMBDA_RUNTIME_API%:*}/${AWS_LAMBDA_RUNTIME_API##*:}"
    printf '%s %s HTTP/1.1\r\nHost: lambda\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
        "$1" "$2" "$4" "${#3}" "$3" >&3
    while IFS= read -r line <&3; do
        line=${line%$'\r'}
        [ -n "$line" ] || break
        case ${line,,} in
            content-length:*) length=${line#*: } ;;
            lambda-runtime-aws-request-id:*) id=${line#*: } ;;
            lambda-extension-identifier:*) extension=${line#*: } ;;
        esac
    done
    body=
    if [ "$length" -gt 0 ]; then IFS= read -r -N "$length" body <&3; fi
    exec 3<&- 3>&-
}
if [ "${0##*/}" = watch ]; then
    ask POST /2020-01-01/extension/register '{"events": ["INVOKE"]}' $'Lambda-Extension-Name: watch\r\n'
    while true; do
        ask GET /2020-01-01/extension/event/next '' "Lambda-Extension-Identifier: $extension"$'\r\n'
        echo "heard of it"
    done
fi
while true; do
    ask GET /2018-06-01/runtime/invocation/next
    event=${body#\"} event=${event%\"}
    said=$(eval "$event" 2>&1) said=${said//$'\n'/ }
    ask POST "/2018-06-01/runtime/invocation/$id/response" "\"${said//\"/}\""
done
"#;

/// Files of an image, by their paths: bash with its libraries, and these.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = |path: &str| {
        let path = dir.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    std::fs::copy("/bin/bash", place("/bin/bash")).unwrap();
    symlink("bash", place("/bin/sh")).unwrap();
    copy_libraries(Path::new("/bin/bash"), dir.path());
    for (path, content) in files {
        let path = place(path);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    for entry in ["", "etc", "srv"] {
        let folder = dir.path().join(entry);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    dir
}

async fn image(root: &Path, entry_point: &[&str], working_dir: &str) -> Spec {
    let image = Image {
        root: root.to_owned(),
        entry_point: entry_point.iter().map(|part| (*part).to_owned()).collect(),
        working_dir: working_dir.to_owned(),
        environment: vec![
            ("COLOUR".to_owned(), "blue".to_owned()),
            ("SHAPE".to_owned(), "round".to_owned()),
        ],
    };
    let code = PathBuf::from("/nowhere/code");
    spec(Launch::Image(image), "", &code, "").await
}

#[tokio::test]
async fn an_image_runs_in_its_own_files() {
    let root = root(&[("/srv/run", RUN), ("/etc/name", "the image's")]);
    symlink("/etc/shadow", root.path().join("etc/outside")).unwrap();
    let top = at_the_top(root.path());
    let mut environment = start(image(root.path(), &["./run", "handler"], "/srv").await).await;
    for (event, expected) in [
        ("pwd", "/srv"),
        ("echo $0 $1", "./run handler"),
        // Of the image, and of the function that uses it.
        ("echo $SHAPE $COLOUR", "round amber"),
        (
            "echo $AWS_LAMBDA_FUNCTION_NAME $AWS_REGION ${_HANDLER-none}",
            "probe eu-north-1 none",
        ),
        ("echo /*", top.as_str()),
        ("echo $(</etc/name)", "the image's"),
        // Nothing of the machine, whatever links say.
        (
            "[ -e /etc/outside ] || [ -e /usr/bin/env ] || [ -e /etc/passwd ] || echo nothing",
            "nothing",
        ),
        ("echo x >/dev/null && [ -e /proc/1/stat ] && echo $$", "1"),
        (
            "echo kept >/tmp/mine; echo $(</tmp/mine) $HOME",
            "kept /tmp",
        ),
        ("echo /tmp/*", "/tmp/mine"),
        (
            "[ -w / ] || [ -w /srv ] || [ -w /srv/run ] || echo no",
            "no",
        ),
    ] {
        let event = serde_json::to_vec(event).unwrap();
        let execution = environment.invoke(invocation(&event, LONG)).await;
        assert_eq!(answer(&execution), json!(expected));
        assert!(execution.reusable);
    }
}

/// As a program of the image sees it.
fn at_the_top(root: &Path) -> String {
    let entries = std::fs::read_dir(root).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let ours = ["dev", "proc", "sys", "tmp"].map(str::to_owned);
    let mut paths: Vec<String> = names.chain(ours).map(|name| format!("/{name}")).collect();
    paths.sort();
    paths.join(" ")
}

#[tokio::test]
async fn a_program_is_found_on_the_path_of_the_image() {
    let root = root(&[("/usr/local/bin/run", RUN)]);
    let mut environment = start(image(root.path(), &["run"], "/").await).await;
    let execution = environment.invoke(invocation(b"\"pwd\"", LONG)).await;
    assert_eq!(answer(&execution), json!("/"));
}

#[tokio::test]
async fn extensions_of_the_image_run_beside_it() {
    let root = root(&[("/run", RUN), ("/opt/extensions/watch", RUN)]);
    let mut environment = start(image(root.path(), &["/run"], "/").await).await;
    let execution = environment.invoke(invocation(b"\"pwd\"", LONG)).await;
    assert_eq!(answer(&execution), json!("/"));
    assert_eq!(texts(&execution.lines), ["heard of it"]);
}

#[tokio::test]
async fn an_image_that_cannot_start_says_why() {
    let root = root(&[
        ("/run", RUN),
        ("/other", "\x7fELF of another machine"),
        ("/lost", "#!/no/such/interpreter\n"),
        ("/ends", "#!/bin/bash\necho going\nexit 7\n"),
        ("/etc/file", ""),
    ]);
    symlink("/etc", root.path().join("folder")).unwrap();
    for (entry_point, working_dir, kind, message) in [
        (
            &[][..],
            "/",
            "Runtime.InvalidEntrypoint",
            "the image has no entry point",
        ),
        (
            &["nothing"],
            "/",
            "Runtime.InvalidEntrypoint",
            "fork/exec nothing: No such file or directory",
        ),
        (
            &["/bin/../nothing"],
            "/",
            "Runtime.InvalidEntrypoint",
            "No such file or directory",
        ),
        (
            &["/other"],
            "/",
            "Runtime.InvalidEntrypoint",
            "Exec format error",
        ),
        (
            &["/lost"],
            "/",
            "Runtime.InvalidEntrypoint",
            "No such file or directory",
        ),
        (
            &["/run"],
            "/nothing",
            "Runtime.InvalidWorkingDir",
            "`/nothing` is no folder of the image",
        ),
        (
            &["/run"],
            "/etc/file",
            "Runtime.InvalidWorkingDir",
            "`/etc/file` is no folder",
        ),
        (
            &["/run"],
            "etc",
            "Runtime.InvalidWorkingDir",
            "`etc` is no folder",
        ),
        (
            &["/run\0"],
            "/",
            "Runtime.InvalidEntrypoint",
            "has a zero byte",
        ),
        (
            &["/ends"],
            "/folder",
            "Runtime.ExitError",
            "Runtime exited with error: exit status 7",
        ),
    ] {
        let failed = failed_start(image(root.path(), entry_point, working_dir).await).await;
        let (found, said) = error(&failed.outcome);
        assert_eq!(found, kind, "{entry_point:?} {said}");
        assert!(said.contains(message), "{entry_point:?} {said}");
    }
}
