//! Images as builders make them, and as somebody makes them who wishes ill.

mod kept;
mod layers;
mod sources;

use std::collections::BTreeMap;

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
    let same: Vec<_> = layers
        .iter()
        .map(|layer| (layer.clone(), layer.clone()))
        .collect();
    made_of(&same, run)
}

/// Of layers as they are packed, and as they are unpacked.
fn made_of(layers: &[(Vec<u8>, Vec<u8>)], run: Value) -> Made {
    let mut parts = BTreeMap::new();
    let mut put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        parts.insert(digest.clone(), bytes.to_vec());
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let described: Vec<Value> = layers
        .iter()
        .map(|(packed, _)| put(manifest::LAYER_TAR, packed))
        .collect();
    let ids: Vec<Digest> = layers.iter().map(|(_, plain)| Digest::of(plain)).collect();
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
