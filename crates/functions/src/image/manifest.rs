//! What describes an image: digests, manifests, indexes of manifests, and its configuration, as the OCI and Docker write
//! them.
//!
//! Pure: bytes in, decisions out. Whoever reads the bytes has bounded them and checked them against their digest.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Problem;
use crate::code::hex;

/// Docker's, of one image.
const LAYERS_MAX: usize = 127;
/// Indexes that name indexes.
pub const INDEXES_MAX: usize = 3;
/// Of a manifest, an index or a configuration.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

pub const MANIFEST_OCI: &str = "application/vnd.oci.image.manifest.v1+json";
pub const MANIFEST_DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const INDEX_OCI: &str = "application/vnd.oci.image.index.v1+json";
pub const INDEX_DOCKER: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const CONFIG_OCI: &str = "application/vnd.oci.image.config.v1+json";
const CONFIG_DOCKER: &str = "application/vnd.docker.container.image.v1+json";
pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// How they are packed is seen from their first bytes.
const LAYERS: [&str; 6] = [
    LAYER_TAR,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
const NAME: &str = "org.opencontainers.image.ref.name";
/// The same, with the repository.
const NAME_WHOLE: &str = "io.containerd.image.name";

/// A SHA-256, written `sha256:` and hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(hex(&Sha256::digest(bytes)))
    }

    pub fn of_hash(hash: Sha256) -> Digest {
        Digest(hex(&hash.finalize()))
    }

    pub fn from_hex(text: &str) -> Option<Digest> {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let is_hex = text.len() == 64 && text.bytes().all(is_digit);
        is_hex.then(|| Digest(text.to_owned()))
    }

    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Digest, String> {
        let digest = text.strip_prefix("sha256:").and_then(Digest::from_hex);
        digest.ok_or_else(|| format!("`{text}` is not a digest; it is `sha256:` and 64 hex digits"))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Digest, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
}

impl Platform {
    /// This machine's.
    fn ours() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
        }
    }

    fn check(&self) -> Result<(), Problem> {
        let ours = Platform::ours();
        match *self == ours {
            true => Ok(()),
            false => Err(Problem::Bad(format!(
                "it is for {self}, and this machine is {ours}"
            ))),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Debug, PartialEq)]
pub enum Document {
    Index(Index),
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Result<Document, Problem> {
        let outline: Outline = json("manifest", bytes)?;
        let has = (outline.manifests.is_some(), outline.layers.is_some());
        match (outline.schema_version, outline.media_type.as_str(), has) {
            (2, "" | INDEX_OCI | INDEX_DOCKER, (true, false)) => {
                json("index", bytes).map(Document::Index)
            }
            (2, "" | MANIFEST_OCI | MANIFEST_DOCKER, (false, true)) => {
                let manifest: Manifest = json("manifest", bytes)?;
                manifest.check()?;
                Ok(Document::Manifest(manifest))
            }
            (version, kind, _) => Err(Problem::Unsupported(format!(
                "its manifest is of the kind `{kind}`, version {version}"
            ))),
        }
    }
}

fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::Bad(format!("its {what} cannot be read: {error}")))
}

impl Manifest {
    fn check(&self) -> Result<(), Problem> {
        let unsupported = |what: String| Err(Problem::Unsupported(what));
        let kind = self.config.media_type.as_str();
        if ![CONFIG_OCI, CONFIG_DOCKER].contains(&kind) {
            return unsupported(format!("its configuration is of the kind `{kind}`"));
        }
        let mut kinds = self.layers.iter().map(|layer| layer.media_type.as_str());
        if let Some(kind) = kinds.find(|kind| !LAYERS.contains(kind)) {
            return unsupported(format!("a layer of it is of the kind `{kind}`"));
        }
        match self.layers.len() {
            0 => Err(Problem::Bad("it has no layers".to_owned())),
            1..=LAYERS_MAX => Ok(()),
            count => Err(Problem::Bad(format!(
                "it has {count} layers, over the limit of {LAYERS_MAX}"
            ))),
        }
    }

    /// Of all that it is made of, packed.
    pub fn check_bytes(&self, bytes_max: u64) -> Result<(), Problem> {
        if self.config.size > DOCUMENT_BYTES_MAX {
            return Err(Problem::Bad(format!(
                "its configuration has {} bytes, over the limit of {DOCUMENT_BYTES_MAX}",
                self.config.size
            )));
        }
        let sizes = self.layers.iter().map(|layer| layer.size);
        let bytes = sizes.fold(0, u64::saturating_add);
        if bytes > bytes_max {
            return Err(Problem::Bad(format!(
                "its layers have {bytes} bytes, over the limit of {bytes_max}"
            )));
        }
        Ok(())
    }
}

impl Index {
    /// The image that is meant: by its name if it was given one, and by its digest if that was said.
    pub fn named(&self, name: Option<&str>, digest: Option<&Digest>) -> Result<Index, Problem> {
        let fits = |found: &&Descriptor| {
            let has = |key: &str, name: &str| {
                found
                    .annotations
                    .get(key)
                    .is_some_and(|value| value == name)
            };
            name.is_none_or(|name| has(NAME, name) || has(NAME_WHOLE, name))
                && digest.is_none_or(|digest| found.digest == *digest)
        };
        let manifests: Vec<_> = self.manifests.iter().filter(fits).cloned().collect();
        if manifests.is_empty() {
            let names: Vec<&str> = self.manifests.iter().filter_map(Descriptor::name).collect();
            return Err(Problem::Missing(format!(
                "it has no such image; it has [{}]",
                names.join(", ")
            )));
        }
        Ok(Index { manifests })
    }

    /// The one for this machine. Indexes of layouts often do not say what their images are for.
    pub fn chosen(&self) -> Result<&Descriptor, Problem> {
        let ours = Platform::ours();
        let fits = |found: &&Descriptor| found.platform.as_ref() == Some(&ours);
        if let Some(found) = self.manifests.iter().find(fits) {
            return Ok(found);
        }
        let unsaid: Vec<_> = self
            .manifests
            .iter()
            .filter(|m| m.platform.is_none())
            .collect();
        match unsaid.as_slice() {
            [one] => Ok(*one),
            [] => {
                let platforms = self.manifests.iter().filter_map(|m| m.platform.as_ref());
                let platforms: Vec<String> = platforms.map(Platform::to_string).collect();
                Err(Problem::Bad(format!(
                    "it is for [{}], and this machine is {ours}",
                    platforms.join(", ")
                )))
            }
            several => {
                let names: Vec<&str> = several.iter().filter_map(|found| found.name()).collect();
                Err(Problem::Bad(format!(
                    "it has several images; name one of [{}] behind a colon",
                    names.join(", ")
                )))
            }
        }
    }
}

impl Descriptor {
    fn name(&self) -> Option<&str> {
        let name = self
            .annotations
            .get(NAME)
            .or(self.annotations.get(NAME_WHOLE));
        name.map(String::as_str)
    }
}

/// How an image is run, and what its layers must unpack to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    platform: Platform,
    pub config: Option<Run>,
    rootfs: RootFs,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Run {
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    pub working_dir: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

impl Config {
    /// The configuration of an image with this manifest.
    pub fn parse(bytes: &[u8], manifest: &Manifest) -> Result<Config, Problem> {
        let config: Config = json("configuration", bytes)?;
        config.platform.check()?;
        let (said, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        if said != layers {
            return Err(Problem::Bad(format!(
                "its configuration is of {said} layers, and it has {layers}"
            )));
        }
        Ok(config)
    }

    /// Of the layers, unpacked.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.rootfs.diff_ids
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn descriptor(kind: &str, number: u8) -> Value {
        json!({ "mediaType": kind, "digest": digest(number), "size": 7 })
    }

    fn document(value: &Value) -> Result<Document, Problem> {
        Document::parse(value.to_string().as_bytes())
    }

    fn manifest(layers: usize) -> Value {
        let layers: Vec<_> = (0..layers).map(|_| descriptor(LAYERS[1], 2)).collect();
        json!({ "schemaVersion": 2, "mediaType": MANIFEST_OCI, "config": descriptor(CONFIG_OCI, 1), "layers": layers })
    }

    #[test]
    fn digests_are_read_as_they_are_written() {
        let text = digest(1).to_string();
        assert_eq!(text.parse(), Ok(digest(1)));
        for wrong in [
            &text[..70],
            &text.to_uppercase(),
            &text.replace("sha256", "sha512"),
            &text.replace("sha256:", "sha256:../"),
            "",
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        assert!(matches!(document(&manifest(2)), Ok(Document::Manifest(_))));
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor(MANIFEST_OCI, 1)] });
        assert!(matches!(document(&index), Ok(Document::Index(_))));
        let mut docker = manifest(1);
        docker["mediaType"] = json!(MANIFEST_DOCKER);
        docker["config"]["mediaType"] = json!(CONFIG_DOCKER);
        docker["layers"][0]["mediaType"] = json!(LAYERS[4]);
        assert!(document(&docker).is_ok());
    }

    #[test]
    fn what_cannot_be_unpacked_is_refused() {
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut value = manifest(1);
            change(&mut value);
            document(&value).unwrap_err()
        };
        for problem in [
            changed(&|m| m["schemaVersion"] = json!(1)),
            changed(&|m| m["mediaType"] = json!("application/json")),
            // Another one than it says.
            changed(&|m| m["mediaType"] = json!(INDEX_OCI)),
            changed(&|m| m["manifests"] = json!([])),
            changed(&|m| {
                m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
            }),
            changed(&|m| {
                let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
                m["layers"][0]["mediaType"] = json!(foreign);
            }),
        ] {
            assert!(matches!(problem, Problem::Unsupported(_)), "{problem:?}");
        }
        for problem in [
            changed(&|m| m["layers"] = json!([])),
            changed(&|m| m["layers"][0]["digest"] = json!("sha256:../../x")),
            changed(&|m| m["layers"][0]["size"] = json!(-1)),
            document(&manifest(128)).unwrap_err(),
            document(&json!("text")).unwrap_err(),
        ] {
            assert!(matches!(problem, Problem::Bad(_)), "{problem:?}");
        }
        let mut large = manifest(2);
        large["layers"][0]["size"] = json!(u64::MAX);
        let Ok(Document::Manifest(large)) = document(&large) else {
            panic!("it is one")
        };
        assert!(large.check_bytes(1 << 40).is_err());
    }

    #[test]
    fn the_image_for_this_machine_is_chosen() {
        let ours = Platform::ours();
        let other = match ours.architecture.as_str() {
            "arm64" => "amd64",
            _ => "arm64",
        };
        let of = |number, platform: Option<(&str, &str)>, name: &str| {
            let platform = platform.map(|(os, architecture)| Platform {
                architecture: architecture.to_owned(),
                os: os.to_owned(),
            });
            Descriptor {
                media_type: MANIFEST_OCI.to_owned(),
                digest: digest(number),
                size: 1,
                platform,
                annotations: [(NAME.to_owned(), name.to_owned())].into(),
            }
        };
        let chosen = |manifests: &[Descriptor]| {
            let index = Index {
                manifests: manifests.to_vec(),
            };
            index.chosen().map(|found| found.digest.clone())
        };
        let attested = of(1, Some(("unknown", "unknown")), "a");
        let foreign = of(2, Some(("linux", other)), "b");
        let fitting = of(3, Some(("linux", &ours.architecture)), "c");
        let unsaid = of(4, None, "d");
        assert_eq!(
            chosen(&[attested.clone(), foreign.clone(), fitting]).unwrap(),
            digest(3)
        );
        assert_eq!(
            chosen(&[foreign.clone(), unsaid.clone()]).unwrap(),
            digest(4)
        );
        let problem = format!("{:?}", chosen(&[attested, foreign.clone()]).unwrap_err());
        assert!(problem.contains(other), "{problem}");
        let two = Index {
            manifests: vec![unsaid, of(5, None, "e")],
        };
        assert!(format!("{:?}", two.chosen().unwrap_err()).contains("[d, e]"));
        assert_eq!(
            two.named(Some("e"), None).unwrap().manifests[0].digest,
            digest(5)
        );
        assert!(two.named(None, Some(&digest(4))).is_ok());
        assert!(matches!(
            two.named(Some("f"), None),
            Err(Problem::Missing(_))
        ));
    }

    #[test]
    fn a_configuration_fits_its_manifest_and_the_machine() {
        let Ok(Document::Manifest(two)) = document(&manifest(2)) else {
            panic!("it is one")
        };
        let ours = Platform::ours();
        let config = |architecture: &str, layers: u8| {
            let ids: Vec<_> = (0..layers).map(digest).collect();
            let value = json!({
                "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids },
                "config": { "Cmd": ["a"], "Entrypoint": null, "Env": ["A=b"], "User": "x" },
            });
            Config::parse(value.to_string().as_bytes(), &two)
        };
        let read = config(&ours.architecture, 2).unwrap();
        assert_eq!(read.diff_ids(), [digest(0), digest(1)]);
        let run = read.config.unwrap();
        assert_eq!(
            (run.cmd, run.entrypoint),
            (Some(vec!["a".to_owned()]), None)
        );
        assert!(config("s390x", 2).is_err() && config(&ours.architecture, 1).is_err());
    }
}
