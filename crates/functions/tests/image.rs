//! Functions that are container images: from a folder, from a registry, and from nowhere they should be.

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use common::{BOUND, House, name};
use lambic_functions::{
    Changes, Code, Deployment, Error, FunctionVersion, ImageConfig, ImageSource, ImageTrouble,
    Runtime,
};
use lambic_model::Outcome;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// AWS's Runtime API in nothing but bash: the image has nothing else. Answers with what it finds.
const RUN: &str = r#"#!/bin/bash
export LC_ALL=C
ask() {
    local line length=0
    exec 3<>"/dev/tcp/${AWS_LAMBDA_RUNTIME_API%:*}/${AWS_LAMBDA_RUNTIME_API##*:}"
    printf '%s /2018-06-01/runtime/%s HTTP/1.1\r\nHost: lambda\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
        "$1" "$2" "${#3}" "$3" >&3
    while IFS= read -r line <&3; do
        line=${line%$'\r'}
        [ -n "$line" ] || break
        case ${line,,} in
            content-length:*) length=${line#*: } ;;
            lambda-runtime-aws-request-id:*) id=${line#*: } ;;
        esac
    done
    body=
    if [ "$length" -gt 0 ]; then IFS= read -r -N "$length" body <&3; fi
    exec 3<&- 3>&-
}
while true; do
    ask GET invocation/next
    echo "running $1 in $PWD"
    ask POST "invocation/$id/response" \
        "{\"event\": $body, \"argument\": \"$1\", \"folder\": \"$PWD\", \"shape\": \"$SHAPE\", \"srv\": \"$(echo /srv/*)\"}"
done
"#;

fn hex(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of a layer, packed.
fn layer(files: &[(&str, &[u8])]) -> (Vec<u8>, String) {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        let path = path.trim_start_matches('/');
        builder.append_data(&mut header, path, *content).unwrap();
    }
    let plain = builder.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    (gzip.finish().unwrap(), hex(&plain))
}

/// Bash and its libraries, and what a later layer takes away.
fn base() -> (Vec<u8>, String) {
    let said = Command::new("ldd").arg("/bin/bash").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let mut files = vec![("/bin/bash".to_owned(), std::fs::read("/bin/bash").unwrap())];
    for path in said.split_whitespace().filter(|word| word.starts_with('/')) {
        files.push((path.to_owned(), std::fs::read(path).unwrap()));
    }
    files.push(("/srv/gone".to_owned(), b"1".to_vec()));
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, content)| (path.as_str(), content.as_slice()))
        .collect();
    layer(&files)
}

/// An image by its parts, as `sha256:…`; its tags are parts too.
#[derive(Clone, Default)]
struct Image {
    parts: BTreeMap<String, Vec<u8>>,
    manifest: String,
    last_layer: String,
}

fn image(layers: &[(Vec<u8>, String)], run: Value) -> Image {
    let mut image = Image::default();
    let described: Vec<Value> = layers
        .iter()
        .map(|(packed, _)| image.put("application/vnd.oci.image.layer.v1.tar+gzip", packed))
        .collect();
    image.last_layer = described.last().unwrap()["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let ids = layers.iter().map(|(_, plain)| format!("sha256:{plain}"));
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": ids.collect::<Vec<_>>() },
    });
    let config = image.put(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": described });
    let manifest = image.put(MANIFEST, manifest.to_string().as_bytes());
    image.manifest = manifest["digest"].as_str().unwrap().to_owned();
    image
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image {
    fn put(&mut self, kind: &str, bytes: &[u8]) -> Value {
        let digest = format!("sha256:{}", hex(bytes));
        self.parts.insert(digest.clone(), bytes.to_vec());
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    /// As a folder in the OCI's layout.
    fn write(&self, dir: &Path) -> String {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.parts {
            std::fs::write(blobs.join(&digest[7..]), bytes).unwrap();
        }
        let size = self.parts[&self.manifest].len();
        let index = json!({ "schemaVersion": 2, "manifests": [
            { "mediaType": MANIFEST, "digest": self.manifest, "size": size },
        ]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        format!("oci-layout:{}", dir.display())
    }

    /// Behind an index, where others are for other machines.
    fn tagged(mut self, tag: &str) -> Image {
        let other = format!("sha256:{}", "0".repeat(64));
        let of = |digest: &str, architecture: &str| {
            json!({ "mediaType": MANIFEST, "digest": digest, "size": 1,
                "platform": { "os": "linux", "architecture": architecture } })
        };
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [of(&other, "s390x"), of(&self.manifest, architecture())],
        });
        self.parts
            .insert(tag.to_owned(), index.to_string().into_bytes());
        self
    }
}

fn hello() -> Image {
    let app = layer(&[
        ("/app/run", RUN.as_bytes()),
        ("/srv/here", b"1"),
        ("/srv/.wh.gone", b""),
    ]);
    let run = json!({
        "Entrypoint": ["./run"], "Cmd": ["handler"], "WorkingDir": "/app", "Env": ["SHAPE=round"],
    });
    image(&[base(), app], run)
}

fn deployment(function: &str, uri: &str, by_operator: bool) -> Deployment {
    let source = ImageSource {
        uri: uri.to_owned(),
        by_operator,
    };
    let mut deployment = Deployment::new(name(function), Runtime::Image, Code::Image(source));
    deployment.timeout = BOUND;
    deployment
}

async fn answer(house: &House, function: &str) -> Value {
    let result = house.invoke(function, "[7]").await;
    match &result.outcome {
        Outcome::Success(answer) => serde_json::from_slice(answer).unwrap(),
        outcome => panic!("{outcome:?} {}", result.log_tail),
    }
}

fn expected(argument: &str, folder: &str) -> Value {
    json!({ "event": [7], "argument": argument, "folder": folder, "shape": "round", "srv": "/srv/here" })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_function() {
    let house = House::open().await;
    let layout = tempfile::tempdir().unwrap();
    let image = hello();
    let uri = image.write(layout.path());
    let info = house
        .functions
        .deploy(deployment("hello", &uri, true))
        .await
        .unwrap();
    assert_eq!(format!("sha256:{}", info.digest), image.manifest);
    let used = info.image.clone().unwrap();
    assert_eq!(used.uri, uri);
    assert_eq!(used.resolved, format!("{uri}@{}", image.manifest));
    assert_eq!(answer(&house, "hello").await, expected("handler", "/app"));
    let result = house.invoke("hello", "1").await;
    assert!(
        result.log_tail.contains("running handler in /app"),
        "{}",
        result.log_tail
    );

    // Its settings stand above the image's, for the versions that have them.
    let publish = async |house: &House| {
        let hello = name("hello");
        let published = house.functions.change(&hello, |f| f.publish(None));
        published.await.unwrap().version
    };
    assert_eq!(publish(&house).await, FunctionVersion::Number(1));
    let changes = Changes {
        image: Some(ImageConfig {
            entry_point: vec!["/app/run".to_owned()],
            command: vec!["other".to_owned()],
            working_dir: "/srv".to_owned(),
        }),
        ..Changes::default()
    };
    let hello = name("hello");
    let changed = house.functions.update_settings(&hello, changes);
    assert_eq!(changed.await.unwrap().image, Some(used));
    assert_eq!(answer(&house, "hello").await, expected("other", "/srv"));
    assert_eq!(publish(&house).await, FunctionVersion::Number(2));

    // What it came from is not needed any more, nor what it was unpacked to.
    drop(layout);
    let dir = house.close().await;
    let images = dir.path().join("functions/images");
    std::fs::remove_dir_all(images.join(&info.digest)).unwrap();
    assert!(
        lambic_functions::inspect(&dir.path().join("functions"))
            .unwrap()
            .iter()
            .all(|found| found.trouble.is_none())
    );
    let house = House::open_in(dir).await;
    assert_eq!(answer(&house, "hello").await, expected("other", "/srv"));
    house.functions.remove(&name("hello")).await.unwrap();
    let house = house.restart().await;
    assert!(!images.join(&info.digest).exists());
    assert_eq!(std::fs::read_dir(images.join("blobs")).unwrap().count(), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_leaves_the_former_one_serving() {
    let house = House::open().await;
    let layout = tempfile::tempdir().unwrap();
    let uri = hello().write(layout.path());
    house
        .functions
        .deploy(deployment("hello", &uri, true))
        .await
        .unwrap();
    let refused = async |image: &Image| {
        let layout = tempfile::tempdir().unwrap();
        let uri = image.write(layout.path());
        let refused = house
            .functions
            .deploy(deployment("hello", &uri, true))
            .await;
        refused.unwrap_err()
    };
    // A layer that no other image has brought here before.
    let own = layer(&[("/app/run", RUN.as_bytes()), ("/own", b"")]);
    let mut missing = image(&[base(), own], json!({ "Cmd": ["/app/run"] }));
    missing.parts.remove(&missing.last_layer);
    let error = refused(&missing).await;
    assert!(
        matches!(
            &error,
            Error::Image {
                trouble: ImageTrouble::Bad,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains(&missing.last_layer[7..]),
        "{error}"
    );
    let empty = layer(&[("/x", b"")]);
    let slip = layer(&[("/app/run", RUN.as_bytes())]);
    for (image, part) in [
        (
            image(std::slice::from_ref(&empty), json!({})),
            "has no entry point",
        ),
        (
            image(&[empty], json!({ "Cmd": ["/nothing"] })),
            "Runtime.InvalidEntrypoint",
        ),
        // Bash is not in it.
        (
            image(&[slip], json!({ "Cmd": ["/app/run"] })),
            "Runtime.InvalidEntrypoint",
        ),
    ] {
        let error = refused(&image).await;
        assert!(matches!(error, Error::BadStart { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let source = ImageSource {
        uri: uri.clone(),
        by_operator: true,
    };
    for deployment in [
        Deployment::new(name("hello"), Runtime::Python, Code::Image(source)),
        Deployment::new(name("hello"), Runtime::Image, Code::Bytes(b"x".to_vec())),
    ] {
        let error = house.functions.deploy(deployment).await.unwrap_err();
        assert!(matches!(error, Error::BadDeployment { .. }), "{error}");
    }
    assert_eq!(answer(&house, "hello").await, expected("handler", "/app"));
}

#[tokio::test(flavor = "multi_thread")]
async fn others_name_only_what_the_operator_allows() {
    let layout = tempfile::tempdir().unwrap();
    let uri = hello().write(&layout.path().join("hello"));
    let refused = async |house: &House, uri: &str| {
        let refused = house
            .functions
            .create(deployment("hello", uri, false))
            .await;
        refused.unwrap_err().to_string()
    };
    let house = House::open().await;
    for uri in [
        uri.as_str(),
        "oci-archive:/etc/shadow",
        "localhost:5000/app",
        "app",
    ] {
        let told = refused(&house, uri).await;
        assert!(told.contains("functions.images"), "{told}");
    }
    let allowed = layout.path().display().to_string();
    let house = House::open_in_with(house.close().await, |options| {
        options.images = vec![allowed];
    })
    .await;
    house
        .functions
        .create(deployment("hello", &uri, false))
        .await
        .unwrap();
    assert_eq!(answer(&house, "hello").await, expected("handler", "/app"));
    // Before anything is fetched.
    let told = refused(&house, "oci-layout:/nothing").await;
    assert!(told.contains("already exist"), "{told}");
}

/// Gives out an image to those who have a token, its layers from another path.
struct Registry {
    address: String,
    image: Arc<Mutex<Image>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Registry {
            address: listener.local_addr().unwrap().to_string(),
            image: Arc::default(),
            asked: Arc::default(),
        };
        let (image, asked) = (registry.image.clone(), registry.asked.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let image = image.lock().unwrap().clone();
                // Who goes away does so on purpose.
                let _ = serve(connection, &image, &asked);
            }
        });
        registry
    }
}

fn serve(
    mut connection: TcpStream,
    image: &Image,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let address = connection.local_addr()?;
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut account = String::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("authorization: ") {
            account = value.to_owned();
        }
    }
    asked.lock().unwrap().push(format!("{path} {account}"));
    let (status, headers, body) = match path.as_str() {
        path if path.starts_with("/token?") => (
            "200 OK",
            String::new(),
            json!({ "token": "opens" }).to_string().into_bytes(),
        ),
        path if !path.starts_with("/elsewhere/") && account != "Bearer opens" => (
            "401 Unauthorized",
            format!(
                "WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"test\",scope=\"repository:team/app:pull\"\r\n"
            ),
            Vec::new(),
        ),
        path => {
            let part = path.rsplit('/').next().unwrap_or_default();
            match image.parts.get(part) {
                None => ("404 Not Found", String::new(), Vec::new()),
                Some(_) if path.starts_with("/v2/team/app/blobs/") => (
                    "307 Temporary Redirect",
                    format!("Location: http://{address}/elsewhere/{part}\r\n"),
                    Vec::new(),
                ),
                Some(bytes) => ("200 OK", String::new(), bytes.clone()),
            }
        }
    };
    write!(
        connection,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    connection.write_all(&body)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_from_a_registry() {
    let registry = Registry::start();
    let image = hello().tagged("1");
    *registry.image.lock().unwrap() = image.clone();
    let dir = tempfile::tempdir().unwrap();
    let accounts = dir.path().join("accounts.json");
    let kept = json!({ "auths": { registry.address.clone(): { "auth": "bWU6c2VjcmV0" } } });
    std::fs::write(&accounts, kept.to_string()).unwrap();
    let address = registry.address.clone();
    let house = House::open_in_with(dir, |options| {
        options.images = vec![format!("{address}/team")];
        options.registry_accounts = Some(accounts);
    })
    .await;
    let uri = format!("{}/team/app:1", registry.address);
    let info = house
        .functions
        .create(deployment("hello", &uri, false))
        .await
        .unwrap();
    assert_eq!(
        info.image.unwrap().resolved,
        format!("{}/team/app@{}", registry.address, image.manifest)
    );
    assert_eq!(answer(&house, "hello").await, expected("handler", "/app"));
    let asked = std::mem::take(&mut *registry.asked.lock().unwrap());
    let token = "/token?service=test&scope=repository%3Ateam%2Fapp%3Apull Basic bWU6c2VjcmV0";
    assert_eq!(
        asked.iter().filter(|line| line.as_str() == token).count(),
        1,
        "{asked:?}"
    );
    assert!(
        asked.iter().any(|line| line.starts_with("/elsewhere/")),
        "{asked:?}"
    );

    // What is here already is not asked for again.
    let update = async |uri: String| {
        let source = ImageSource {
            uri,
            by_operator: false,
        };
        house
            .functions
            .update_code(&name("hello"), Code::Image(source), None)
            .await
    };
    let pinned = format!("{}/team/app@{}", registry.address, image.manifest);
    update(pinned.clone()).await.unwrap();
    let asked = std::mem::take(&mut *registry.asked.lock().unwrap());
    assert!(
        !asked.iter().any(|line| line.contains("/blobs/")),
        "{asked:?}"
    );

    // A part that is missing, another one than was asked for, no such image, nobody there.
    let other = {
        let app = layer(&[("/app/run", RUN.as_bytes()), ("/other", b"")]);
        plain_image(&[base(), app])
    };
    let mut broken = other.clone().tagged("2");
    broken.parts.remove(&broken.last_layer);
    *registry.image.lock().unwrap() = broken.clone();
    let refused = |error: Error| match error {
        Error::Image {
            trouble, reason, ..
        } => (trouble, reason),
        other => panic!("{other}"),
    };
    let uri = |tag: &str| format!("{}/team/app{tag}", registry.address);
    let (trouble, reason) = refused(update(uri(":2")).await.unwrap_err());
    assert_eq!(trouble, ImageTrouble::Bad);
    assert!(
        reason.contains(&format!("{} is missing in the registry", broken.last_layer)),
        "{reason}"
    );
    let (trouble, _) = refused(update(uri(":3")).await.unwrap_err());
    assert_eq!(trouble, ImageTrouble::Missing);
    let mut lies = other.clone();
    let manifest = lies.parts[&lies.manifest].clone();
    lies.parts.insert(image.manifest.clone(), manifest);
    *registry.image.lock().unwrap() = lies;
    let (trouble, reason) = refused(update(pinned).await.unwrap_err());
    assert_eq!(trouble, ImageTrouble::Bad);
    assert!(reason.contains("another content"), "{reason}");
    let (trouble, reason) = refused(
        update(format!("{}/other:1", registry.address))
            .await
            .unwrap_err(),
    );
    assert_eq!(trouble, ImageTrouble::Bad);
    assert!(reason.contains("functions.images"), "{reason}");
    assert_eq!(answer(&house, "hello").await, expected("handler", "/app"));
}

fn plain_image(layers: &[(Vec<u8>, String)]) -> Image {
    image(layers, json!({ "Cmd": ["/app/run"] }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_is_told() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let house = House::open_in_with(tempfile::tempdir().unwrap(), |options| {
        options.images = vec![free.to_string()];
    })
    .await;
    let uri = format!("{free}/app");
    let error = house
        .functions
        .create(deployment("hello", &uri, false))
        .await;
    let error = error.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Image {
                trouble: ImageTrouble::Outside,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("refused"), "{error}");
}
