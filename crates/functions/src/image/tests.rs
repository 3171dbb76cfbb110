//! Images as builders make them, and as somebody makes them who wishes ill.

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use serde_json::{Value, json};
use tar::EntryType;

use super::*;

/// One entry of a layer.
#[derive(Clone, Copy)]
enum Item<'a> {
    Folder,
    File(&'a str),
    /// With these rights.
    Mode(u32),
    Symlink(&'a str),
    Hardlink(&'a str),
    Device,
}
use Item::{Device, File, Folder, Hardlink, Mode, Symlink};

fn layer(entries: &[(&str, Item<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, item) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        let mut content = "";
        let mut link = "";
        let kind = match *item {
            Folder => EntryType::Directory,
            File(text) => {
                content = text;
                EntryType::Regular
            }
            Mode(mode) => {
                header.set_mode(mode);
                EntryType::Regular
            }
            Symlink(to) => {
                link = to;
                EntryType::Symlink
            }
            Hardlink(to) => {
                link = to;
                EntryType::Link
            }
            Device => EntryType::Block,
        };
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        // The crate refuses the names that matter here.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The parts of an image by their digests, its manifest last.
struct Made {
    parts: BTreeMap<Digest, Vec<u8>>,
    manifest: Digest,
}

fn made(layers: &[Vec<u8>], run: Value) -> Made {
    let mut parts = BTreeMap::new();
    let mut put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        parts.insert(digest.clone(), bytes.to_vec());
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let described: Vec<Value> = layers
        .iter()
        .map(|layer| put(manifest::LAYER_TAR, layer))
        .collect();
    let ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let config = put(manifest::CONFIG_OCI, config.to_string().as_bytes());
    let document = json!({ "schemaVersion": 2, "config": config, "layers": described });
    let document = document.to_string().into_bytes();
    let digest = Digest::of(&document);
    parts.insert(digest.clone(), document);
    Made {
        parts,
        manifest: digest,
    }
}

impl Made {
    /// As a folder in the OCI's layout.
    fn write(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.parts {
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        }
        let size = self.parts[&self.manifest].len();
        let manifest =
            json!({ "mediaType": manifest::MANIFEST_OCI, "digest": self.manifest, "size": size });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    }
}

/// A place for images, and a layout to take them from.
struct House {
    dir: tempfile::TempDir,
    images: Images,
    stop: watch::Sender<bool>,
}

impl House {
    fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        let images = Images {
            bounds: Bounds {
                bytes: 1 << 20,
                files: 200,
            },
            ..Images::look(dir.path())
        };
        std::fs::create_dir_all(dir.path().join("images/blobs")).unwrap();
        House {
            dir,
            images,
            stop: watch::Sender::new(false),
        }
    }

    async fn pull(&self, image: &Made) -> Result<Pulled, Error> {
        let layout = self.dir.path().join("layout");
        image.write(&layout);
        let source = ImageSource {
            uri: format!("oci-layout:{}", layout.display()),
            by_operator: true,
        };
        let pulled = self.images.pull(&source, self.stop.subscribe()).await;
        std::fs::remove_dir_all(&layout).unwrap();
        pulled
    }

    async fn root(&self, layers: &[Vec<u8>]) -> PathBuf {
        let pulled = self.pull(&made(layers, json!({}))).await.unwrap();
        self.images.dir.join(pulled.digest).join("root")
    }

    async fn refusal(&self, image: &Made) -> String {
        let error = self.pull(image).await.unwrap_err();
        // Nothing is left of what could not be used but its manifest.
        let left = std::fs::read_dir(&self.images.dir).unwrap().count();
        assert_eq!(left, 1, "{error}");
        error.to_string()
    }
}

/// All that is below it, with what files have in them.
fn shown(root: &Path) -> Vec<String> {
    let mut shown = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_symlink() {
                let to = std::fs::read_link(&path).unwrap();
                shown.push(format!("{name} -> {}", to.display()));
            } else if path.is_dir() {
                left.push(path);
            } else if !name.starts_with("etc/") {
                shown.push(format!(
                    "{name}={}",
                    std::fs::read_to_string(&path).unwrap()
                ));
            }
        }
    }
    shown.sort();
    shown
}

#[tokio::test]
async fn later_layers_hide_what_earlier_ones_have() {
    let house = House::new();
    let root = house
        .root(&[
            layer(&[
                ("./", Folder),
                ("usr/", Folder),
                ("usr/bin/tool", File("1")),
                ("usr/gone", File("1")),
                ("lib", Symlink("usr/lib")),
                ("usr/lib/so", File("1")),
                ("opaque/one", File("1")),
                ("opaque/inner/two", File("1")),
                ("folder/file", File("1")),
                ("file", File("1")),
                ("alone/x", File("1")),
            ]),
            layer(&[
                ("/usr/.wh.gone", File("")),
                // What the layer itself has is not hidden, in whichever order.
                ("opaque/inner/three", File("2")),
                ("opaque/.wh..wh..opq", File("")),
                ("opaque/four", File("2")),
                ("usr/bin/.wh.tool", File("")),
                ("usr/bin/tool", File("2")),
                ("lib/more", File("2")),
                ("folder", File("2")),
                ("file", Folder),
                ("file/x", File("2")),
                (".wh.nothing", File("")),
                (".wh.alone", File("")),
                ("none/.wh.x", File("")),
                (".wh..wh.plnk", Folder),
                ("again", Hardlink("usr/lib/so")),
                ("last", Hardlink("lib/more")),
            ]),
            layer(&[("usr/lib/so", File("3"))]),
        ])
        .await;
    assert_eq!(
        shown(&root),
        [
            "again=1",
            "file/x=2",
            "folder=2",
            "last=2",
            "lib -> usr/lib",
            "opaque/four=2",
            "opaque/inner/three=2",
            "usr/bin/tool=2",
            "usr/lib/more=2",
            "usr/lib/so=3",
        ]
    );
    assert!(!root.join("none").exists() && !root.join("alone").exists());
}

#[tokio::test]
async fn only_what_a_program_needs_is_taken() {
    let house = House::new();
    let root = house
        .root(&[
            layer(&[
                ("su", Mode(0o4755)),
                ("data", Mode(0o600)),
                ("disk", File("x")),
                ("etc/hosts", File("")),
            ]),
            layer(&[("disk", Device), ("dev/sda", Device)]),
        ])
        .await;
    let mode = |name: &str| root.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode("su"), mode("data"), mode("etc")),
        (0o755, 0o644, 0o755)
    );
    assert_eq!(root.join("su").metadata().unwrap().mtime(), 1_000_000_000);
    assert!(!root.join("disk").exists() && !root.join("dev/sda").exists());
    let hosts = std::fs::read_to_string(root.join("etc/hosts")).unwrap();
    assert!(hosts.contains("127.0.0.1 localhost"));
    assert!(root.join("etc/resolv.conf").is_file());
}

#[tokio::test]
async fn nothing_is_written_outside() {
    let house = House::new();
    let outside = house.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let outside_text = outside.display().to_string();
    for (entries, why) in [
        (vec![("../../outside/x", File("x"))], "leads out of it"),
        (vec![("a/../../../outside/x", File("x"))], "leads out of it"),
        (vec![("x", Hardlink("../../outside/x"))], "leads out of it"),
        (vec![("x", Hardlink("/etc/passwd"))], "is no file of it"),
        (vec![("a/.wh...", File(""))], "hides nothing"),
        (vec![("a/.wh..", File(""))], "hides nothing"),
        (vec![("x", Symlink(""))], "leads nowhere"),
    ] {
        let told = house.refusal(&made(&[layer(&entries)], json!({}))).await;
        assert!(told.contains(why), "{told}");
    }
    // Links lead wherever they like within the image, and only there.
    let root = house
        .root(&[layer(&[
            ("link", Symlink(&outside_text)),
            ("link/x", File("x")),
            ("up", Symlink("../../../../../../outside")),
            ("up/y", File("y")),
            ("up/.wh..wh..opq", File("")),
        ])])
        .await;
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(
        root.join(outside_text.trim_start_matches('/'))
            .join("x")
            .exists()
    );
    assert!(root.join("outside/y").exists());
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let house = House::new();
    let text = "x".repeat(600 << 10);
    let bomb = zstd::encode_all(layer(&[("zeros", File(&text))]).as_slice(), 1).unwrap();
    let mut image = made(&[bomb.clone(), bomb], json!({}));
    // By what it is packed, and by what it is unpacked.
    let told = house.refusal(&image).await;
    assert!(told.contains("that are left"), "{told}");
    let large = "x".repeat(2 << 20);
    let told = house
        .refusal(&made(&[layer(&[("x", File(&large))])], json!({})))
        .await;
    assert!(told.contains("over the limit of 1048576"), "{told}");
    let names: Vec<String> = (0..300).map(|number| format!("f{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), Folder)).collect();
    let told = house.refusal(&made(&[layer(&many)], json!({}))).await;
    assert!(told.contains("more than 200 files"), "{told}");
    // Said to be larger than it is unpacked.
    let mut header = tar::Header::new_gnu();
    header.set_path("x").unwrap();
    header.set_size(11 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    image = made(&[header.as_bytes().to_vec()], json!({}));
    let told = house.refusal(&image).await;
    assert!(told.contains("that are left"), "{told}");
}

#[tokio::test]
async fn parts_are_what_their_digests_say() {
    let house = House::new();
    let image = || {
        made(
            &[layer(&[("a", File("1"))]), layer(&[("b", File("2"))])],
            json!({}),
        )
    };
    let first = Digest::of(&layer(&[("a", File("1"))]));
    let mut missing = image();
    missing.parts.remove(&first);
    let told = house.refusal(&missing).await;
    assert!(
        told.contains(&format!("{}` is missing", first.hex())),
        "{told}"
    );
    let mut other = image();
    other
        .parts
        .insert(first.clone(), layer(&[("a", File("2"))]));
    let told = house.refusal(&other).await;
    assert!(
        told.contains(&format!("{first} has another content")),
        "{told}"
    );
    let mut short = image();
    short.parts.insert(first.clone(), b"x".to_vec());
    let told = house.refusal(&short).await;
    assert!(told.contains(&format!("{first} is shorter")), "{told}");
    let mut manifest = image();
    let changed = manifest.parts[&manifest.manifest].clone();
    let digest = manifest.manifest.clone();
    manifest
        .parts
        .insert(digest, [changed, b" ".to_vec()].concat());
    let told = house.refusal(&manifest).await;
    assert!(told.contains("another content"), "{told}");
    // What is packed is right, and what it unpacks to is not.
    let plain = layer(&[("a", File("1"))]);
    let packed = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let told = house.refusal(&made(&[packed], json!({}))).await;
    assert!(
        told.contains("is not the one that its configuration describes"),
        "{told}"
    );
}

#[tokio::test]
async fn an_image_is_made_again_from_its_parts() {
    let house = House::new();
    let image = made(&[layer(&[("a", File("1")), ("b/c", File("2"))])], json!({}));
    let pulled = house.pull(&image).await.unwrap();
    assert!(
        pulled
            .image
            .resolved
            .ends_with(&format!("@{}", image.manifest))
    );
    let ready = |digest: &str| {
        let image = pulled.image.clone();
        house
            .images
            .ready(digest, Some(&image), &house.stop.subscribe())
    };
    let root = ready(&pulled.digest).unwrap().root;
    let made_at = root.metadata().unwrap().modified().unwrap();
    house.images.verify(&pulled.digest).unwrap();
    assert_eq!(ready(&pulled.digest).unwrap().root, root);
    assert_eq!(root.metadata().unwrap().modified().unwrap(), made_at);
    for damage in [
        &(|| std::fs::write(root.join("a"), "changed").unwrap()) as &dyn Fn(),
        &|| std::fs::remove_file(root.join("b/c")).unwrap(),
        &|| std::fs::remove_dir_all(&root).unwrap(),
        &|| std::fs::write(root.with_file_name(LISTING), "{").unwrap(),
        &|| std::fs::remove_dir_all(root.parent().unwrap()).unwrap(),
    ] {
        damage();
        assert_eq!(ready(&pulled.digest).unwrap().root, root);
        assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_dir(&house.images.dir).unwrap().count(), 2);
    }
    // What looks the same is found by whoever reads it.
    let time = root.join("a").metadata().unwrap().modified().unwrap();
    std::fs::write(root.join("a"), "2").unwrap();
    let file = std::fs::File::options().write(true).open(root.join("a"));
    file.unwrap().set_modified(time).unwrap();
    assert!(matches!(
        house.images.verify(&pulled.digest),
        Err(Error::Damaged { .. })
    ));
    std::fs::remove_dir_all(&root).unwrap();
    // Nor can it be made of what is damaged; then it is brought here again.
    let part = Digest::of(&layer(&[("a", File("1")), ("b/c", File("2"))]));
    let path = house.images.blobs.path(&part);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(
        ready(&pulled.digest),
        Err(Error::Damaged { .. } | Error::Image { .. })
    ));
    house.images.blobs.remove(&part);
    assert!(matches!(ready(&pulled.digest), Err(Error::Damaged { .. })));
    house.pull(&image).await.unwrap();
    assert!(ready(&pulled.digest).is_ok());
    assert!(ready("../../x").is_err());
}

#[tokio::test]
async fn what_no_function_uses_is_removed() {
    let house = House::new();
    let base = layer(&[("base", File("1"))]);
    let one = made(&[base.clone(), layer(&[("one", File("1"))])], json!({}));
    let two = made(&[base.clone(), layer(&[("two", File("1"))])], json!({}));
    for image in [&one, &two] {
        house.pull(image).await.unwrap();
    }
    let blobs = || {
        std::fs::read_dir(house.dir.path().join("images/blobs"))
            .unwrap()
            .count()
    };
    // They share one.
    assert_eq!(blobs(), 7);
    let kept = BTreeSet::from([two.manifest.hex().to_owned()]);
    house.images.keep_only(&kept).unwrap();
    assert_eq!(blobs(), 4);
    house.images.verify(two.manifest.hex()).unwrap();
    assert!(house.images.verify(one.manifest.hex()).is_err());
    house.images.keep_only(&BTreeSet::new()).unwrap();
    assert_eq!(std::fs::read_dir(&house.images.dir).unwrap().count(), 1);
}

#[tokio::test]
async fn a_server_that_stops_does_not_unpack_on() {
    let house = House::new();
    house.stop.send_replace(true);
    let image = made(&[layer(&[("a", File("1"))])], json!({}));
    assert!(matches!(house.pull(&image).await, Err(Error::Closed)));
    assert_eq!(std::fs::read_dir(&house.images.dir).unwrap().count(), 1);
}

#[tokio::test]
async fn a_function_says_what_its_image_does_not() {
    let house = House::new();
    let image = made(
        &[layer(&[("a", File("1"))])],
        json!({
            "Entrypoint": ["/entry"], "Cmd": ["app.handler"], "WorkingDir": "srv/app",
            "Env": ["A=b=c", "PATH=/x", "odd"], "User": "1000",
        }),
    );
    let pulled = house.pull(&image).await.unwrap();
    let ready = house
        .images
        .ready(&pulled.digest, None, &house.stop.subscribe())
        .unwrap();
    let program = ready.program(&ImageConfig::default());
    assert_eq!(program.entry_point, ["/entry", "app.handler"]);
    assert_eq!(program.working_dir, "/srv/app");
    assert!(program.root.join("srv/app").is_dir());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(program.environment, [pair("A", "b=c"), pair("PATH", "/x")]);
    let own = |entry_point: &[&str], command: &[&str], working_dir: &str| {
        let list = |list: &[&str]| list.iter().map(|part| (*part).to_owned()).collect();
        let program = ready.program(&ImageConfig {
            entry_point: list(entry_point),
            command: list(command),
            working_dir: working_dir.to_owned(),
        });
        (program.entry_point.join(" "), program.working_dir)
    };
    assert_eq!(own(&[], &["other", "x"], "/").0, "/entry other x");
    assert_eq!(
        own(&["/own"], &[], "/tmp"),
        ("/own app.handler".to_owned(), "/tmp".to_owned())
    );
}

#[tokio::test]
async fn archives_are_read_as_their_folders() {
    let house = House::new();
    let one = layer(&[("a", File("1"))]);
    let two = layer(&[("b", File("2"))]);
    let image = made(&[one.clone(), two.clone()], json!({ "Cmd": ["/a"] }));
    let layout = house.dir.path().join("layout");
    image.write(&layout);
    let archive = house.dir.path().join("image.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    builder.append_dir_all(".", &layout).unwrap();
    builder.finish().unwrap();
    let pull = async |uri: String| {
        let source = ImageSource {
            uri,
            by_operator: true,
        };
        house.images.pull(&source, house.stop.subscribe()).await
    };
    let of_archive = pull(format!("oci-archive:{}", archive.display()))
        .await
        .unwrap();
    assert_eq!(of_archive.digest, image.manifest.hex());
    let pinned = format!("oci-layout:{}@{}", layout.display(), image.manifest);
    assert_eq!(pull(pinned).await.unwrap().digest, image.manifest.hex());
    // What `docker save` writes, with a layer that is there twice.
    let saved = house.dir.path().join("saved.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&saved).unwrap());
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": { "Cmd": ["/a"] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&one), Digest::of(&two), Digest::of(&one)] },
    });
    let list = json!([
        { "Config": "c.json", "RepoTags": ["team/app:1"], "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"] },
        { "Config": "other.json", "RepoTags": null, "Layers": [] },
    ]);
    for (name, bytes) in [
        ("c.json", config.to_string().into_bytes()),
        ("manifest.json", list.to_string().into_bytes()),
        ("1/layer.tar", one),
        ("2/layer.tar", two),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "3/layer.tar", "../1/layer.tar")
        .unwrap();
    builder.finish().unwrap();
    let uri = |name: &str| format!("docker-archive:{}{name}", saved.display());
    let of_saved = pull(uri(":team/app:1")).await.unwrap();
    let root = house.images.dir.join(of_saved.digest).join("root");
    assert_eq!(shown(&root), ["a=1", "b=2"]);
    for (uri, why) in [
        (uri(""), "several images"),
        (uri(":team/app:2"), "it has [team/app:1]"),
        (
            format!("docker-archive:{}", archive.display()),
            "`manifest.json` is missing",
        ),
        (
            format!("oci-archive:{}", saved.display()),
            "`index.json` is missing",
        ),
        (
            format!("oci-archive:{}", layout.display()),
            "cannot be read as a tar",
        ),
        (
            format!("oci-layout:{}:other", layout.display()),
            "no such image",
        ),
        ("oci-layout:/nothing/at/all".to_owned(), "does not exist"),
        ("a b".to_owned(), "is not valid"),
    ] {
        let told = pull(uri).await.unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    }
    let packed = zstd::encode_all(std::fs::read(&archive).unwrap().as_slice(), 1).unwrap();
    std::fs::write(&archive, packed).unwrap();
    let told = pull(format!("oci-archive:{}", archive.display()))
        .await
        .unwrap_err();
    assert!(told.to_string().contains("packed tar"), "{told}");
}

#[tokio::test]
async fn parts_of_a_folder_do_not_lead_elsewhere() {
    let house = House::new();
    let secret = layer(&[("secret", File("1"))]);
    let image = made(std::slice::from_ref(&secret), json!({}));
    let layout = house.dir.path().join("layout");
    image.write(&layout);
    let elsewhere = house.dir.path().join("elsewhere");
    std::fs::write(&elsewhere, &secret).unwrap();
    let part = layout.join("blobs/sha256").join(Digest::of(&secret).hex());
    std::fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &part).unwrap();
    let source = ImageSource {
        uri: format!("oci-layout:{}", layout.display()),
        by_operator: true,
    };
    let pulled = house.images.pull(&source, house.stop.subscribe()).await;
    assert!(pulled.unwrap_err().to_string().contains("cannot be read"));
    // Nor does somebody else's say name a folder that the operator did not.
    let source = ImageSource {
        by_operator: false,
        ..source
    };
    let pulled = house.images.pull(&source, house.stop.subscribe()).await;
    let told = pulled.unwrap_err().to_string();
    assert!(told.contains("functions.images"), "{told}");
}
