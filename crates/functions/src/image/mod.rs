//! Container images: brought here, unpacked by their content, and ready to run.
//!
//! ```text
//! images/blobs/<sha256>          manifests, configurations, packed layers, as they came
//! images/<sha256>/root/          the files of the image whose manifest has this digest
//! images/<sha256>/listing.json   what was unpacked there
//! ```
//!
//! An image is brought here once, however many functions use it. Its files are made from the blobs, and made again where
//! they are not what was unpacked: so a backup has the blobs alone. What no function uses any more is removed when the
//! server starts, because until then environments of it may live.

mod blobs;
mod files;
mod layer;
mod listing;
mod manifest;
mod reference;
mod registry;
mod tree;
mod unpack;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lambic_sandbox::process;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

pub use self::reference::{local_path, seen_from};
use self::{
    blobs::Blobs,
    listing::Listing,
    manifest::{Config, Digest, Document, Manifest, Run},
    reference::{Places, Reach, Reference},
};
use crate::{Error, Options, function::is_default};

/// At one time; others wait.
const PULLS_MAX: usize = 4;
/// Of one image over the network.
const PULL_TIME_MAX: Duration = Duration::from_secs(15 * 60);
const LISTING: &str = "listing.json";
const TEMPORARY: &str = ".tmp";

/// What an image may unpack to, all its layers together.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    bytes: u64,
    /// Files and folders.
    files: u64,
}

/// Of bytes, AWS's: 10 GB.
const BOUNDS: Bounds = Bounds {
    bytes: 10 << 30,
    files: 500_000,
};

/// An image that a function is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// `registry.example.com/team/app:1`, `oci-layout:/folder:1`, `oci-archive:/file.tar`, `docker-archive:/file.tar`.
    pub uri: String,
    /// Who runs the server names it: it may come from anywhere. Others are bound to [`Options::images`].
    pub by_operator: bool,
}

/// The image that a function runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// As it was named.
    pub uri: String,
    /// With its digest: the same image for ever.
    pub resolved: String,
}

/// What a function sets in the place of what its image says; what is empty is the image's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(default, skip_serializing_if = "is_default")]
    pub entry_point: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub working_dir: String,
}

/// An image that is here.
#[derive(Debug, Clone)]
pub struct Pulled {
    pub(crate) image: ImageUse,
    /// Of its manifest, hex.
    pub(crate) digest: String,
}

/// Whom an image that cannot be used is to be blamed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageTrouble {
    Missing,
    Unsupported,
    Bad,
    /// The registry cannot be reached, or does not answer as one.
    Outside,
}

/// Why an image cannot be used, for the user.
#[derive(Debug)]
enum Problem {
    Missing(String),
    /// Of a kind that is not known here.
    Unsupported(String),
    Bad(String),
    Outside(String),
    /// Not the image's fault.
    Ours(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Ours(error)
    }
}

impl Problem {
    fn of(self, uri: &str) -> Error {
        let (trouble, reason) = match self {
            Problem::Missing(reason) => (ImageTrouble::Missing, reason),
            Problem::Unsupported(reason) => (ImageTrouble::Unsupported, reason),
            Problem::Bad(reason) => (ImageTrouble::Bad, reason),
            Problem::Outside(reason) => (ImageTrouble::Outside, reason),
            Problem::Ours(error) => return error,
        };
        Error::Image {
            uri: uri.to_owned(),
            trouble,
            reason,
        }
    }
}

/// AWS's words, and the reason.
pub fn told(uri: &str, trouble: ImageTrouble, reason: &str) -> String {
    match trouble {
        ImageTrouble::Missing => {
            format!("Source image {uri} does not exist. Provide a valid source image. ({reason})")
        }
        ImageTrouble::Unsupported => format!(
            "The image manifest, config or layer media type for the source image {uri} is not supported. ({reason})"
        ),
        ImageTrouble::Bad => {
            format!("Source image {uri} is not valid. Provide a valid source image. ({reason})")
        }
        ImageTrouble::Outside => format!("Source image {uri} cannot be had now: {reason}"),
    }
}

/// How an image is unpacked and run.
#[derive(Debug, Clone)]
struct Recipe {
    manifest: Manifest,
    config: Config,
}

impl Recipe {
    fn run(&self) -> Run {
        self.config.config.clone().unwrap_or_default()
    }

    /// From its root.
    fn working_dir(&self) -> String {
        let said = self.run().working_dir.unwrap_or_default();
        format!("/{}", said.trim_start_matches('/'))
    }
}

/// An image whose files are there.
#[derive(Debug, Clone)]
pub struct Ready {
    root: PathBuf,
    recipe: Recipe,
}

impl Ready {
    /// What runs, where the function's own settings stand above the image's.
    pub fn program(&self, own: &ImageConfig) -> process::Image {
        let run = self.recipe.run();
        let or = |own: &Vec<String>, said: Option<Vec<String>>| match own.is_empty() {
            true => said.unwrap_or_default(),
            false => own.clone(),
        };
        let mut entry_point = or(&own.entry_point, run.entrypoint);
        entry_point.extend(or(&own.command, run.cmd));
        let environment = run.env.unwrap_or_default();
        let pairs = environment.iter().filter_map(|pair| pair.split_once('='));
        process::Image {
            root: self.root.clone(),
            entry_point,
            working_dir: match own.working_dir.as_str() {
                "" => self.recipe.working_dir(),
                dir => dir.to_owned(),
            },
            environment: pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
    blobs: Blobs,
    places: Places,
    accounts: Option<PathBuf>,
    bounds: Bounds,
    pulls: Arc<Semaphore>,
    unpacking: Arc<Mutex<()>>,
}

impl Images {
    pub fn open(options: &Options) -> Result<Images, Error> {
        let images = Images {
            places: Places::new(&options.images)?,
            accounts: options.registry_accounts.clone(),
            ..Images::look(&options.dir)
        };
        let blobs = images.dir.join("blobs");
        lambic_base::file::create_dirs(&blobs).map_err(Error::io("create", &blobs))?;
        Ok(images)
    }

    /// Of a folder that is only looked at.
    pub fn look(functions: &Path) -> Images {
        let dir = functions.join("images");
        Images {
            blobs: Blobs::in_dir(dir.join("blobs")),
            dir,
            places: Places::default(),
            accounts: None,
            bounds: BOUNDS,
            pulls: Arc::new(Semaphore::new(PULLS_MAX)),
            unpacking: Arc::default(),
        }
    }

    /// Brings an image here and unpacks it.
    pub async fn pull(
        &self,
        source: &ImageSource,
        stop: watch::Receiver<bool>,
    ) -> Result<Pulled, Error> {
        let uri = source.uri.as_str();
        let refuse = |problem: Problem| problem.of(uri);
        let reference = uri.parse::<Reference>().map_err(Problem::Bad);
        let reference = reference.map_err(refuse)?;
        let _one = self.pulls.acquire().await.map_err(|_| Error::Closed)?;
        let mut new = Vec::new();
        let fetched = self.fetch(&reference, source.by_operator, &mut new).await;
        let done = match fetched {
            Ok(digest) => {
                let (images, wanted) = (self.clone(), digest.clone());
                let stop = move || *stop.borrow();
                let work = move || images.unpacked(&wanted, &stop).map(drop);
                on_disk(work).await.map(|()| digest)
            }
            Err(problem) => Err(problem),
        };
        match done {
            Ok(digest) => Ok(Pulled {
                image: ImageUse {
                    uri: uri.to_owned(),
                    resolved: reference.resolved(&digest),
                },
                digest: digest.hex().to_owned(),
            }),
            Err(problem) => {
                // Others that are at it may count on them; then they go at the next start.
                if self.pulls.available_permits() + 1 == PULLS_MAX {
                    new.iter().for_each(|digest| self.blobs.remove(digest));
                }
                Err(refuse(problem))
            }
        }
    }

    async fn fetch(
        &self,
        reference: &Reference,
        by_operator: bool,
        new: &mut Vec<Digest>,
    ) -> Result<Digest, Problem> {
        let bytes_max = self.bounds.bytes;
        match reference.clone() {
            Reference::Local(local) => {
                let images = self.clone();
                let (fetched, brought) = on_disk(move || {
                    let path = match by_operator {
                        true => real(&local.path),
                        false => images.places.folder(&local.path),
                    };
                    let path = path.map_err(Problem::Missing)?;
                    let mut new = Vec::new();
                    let fetched = files::fetch(&local, &path, &images.blobs, bytes_max, &mut new);
                    Ok((fetched, new))
                })
                .await?;
                new.extend(brought);
                fetched
            }
            Reference::Remote(remote) => {
                let reach = match by_operator {
                    true => Reach::Named,
                    false => self.places.registry(&remote).map_err(Problem::Bad)?,
                };
                let accounts = self.accounts.as_deref();
                let fetching =
                    registry::fetch(&remote, reach, accounts, &self.blobs, bytes_max, new);
                match tokio::time::timeout(PULL_TIME_MAX, fetching).await {
                    Ok(fetched) => fetched,
                    Err(_) => Err(Problem::Outside(format!(
                        "it was not here after {} minutes",
                        PULL_TIME_MAX.as_secs() / 60
                    ))),
                }
            }
        }
    }

    /// An image that was brought here before; its files are made again if they are not what they were.
    pub fn ready(
        &self,
        digest: &str,
        image: Option<&ImageUse>,
        stop: &watch::Receiver<bool>,
    ) -> Result<Ready, Error> {
        let uri = image.map_or("", |image| image.uri.as_str());
        let digest = self.digest(digest)?;
        self.unpacked(&digest, &|| *stop.borrow())
            .map_err(|problem| problem.of(uri))
    }

    fn digest(&self, hex: &str) -> Result<Digest, Error> {
        Digest::from_hex(hex).ok_or_else(|| Error::Damaged {
            path: self.dir.join(hex),
            reason: "its name is not a digest".to_owned(),
        })
    }

    fn recipe(&self, digest: &Digest) -> Result<Recipe, Problem> {
        let Document::Manifest(manifest) = Document::parse(&self.blobs.document(digest)?)? else {
            return Err(Problem::Ours(Error::Damaged {
                path: self.blobs.path(digest),
                reason: "it is no manifest of an image".to_owned(),
            }));
        };
        let config = self.blobs.document(&manifest.config.digest)?;
        let config = Config::parse(&config, &manifest)?;
        Ok(Recipe { manifest, config })
    }

    fn unpacked(&self, digest: &Digest, stop: &dyn Fn() -> bool) -> Result<Ready, Problem> {
        let recipe = self.recipe(digest)?;
        let dir = self.dir.join(digest.hex());
        let ready = Ready {
            root: dir.join("root"),
            recipe,
        };
        if is_whole(&dir) {
            return Ok(ready);
        }
        // It holds nothing that could be half done.
        let _one = self
            .unpacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if is_whole(&dir) {
            return Ok(ready);
        }
        let temporary = || {
            self.dir
                .join(format!("{}{TEMPORARY}", uuid::Uuid::now_v7()))
        };
        let made = temporary();
        if let Err(problem) = self.make(&ready.recipe, &made, stop) {
            // A full disk needs the room.
            let _ = std::fs::remove_dir_all(&made);
            return Err(problem);
        }
        let former = temporary();
        match std::fs::rename(&dir, &former) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("move away", &dir)(error).into());
            }
            _ => {}
        }
        std::fs::rename(&made, &dir).map_err(Error::io("create", &dir))?;
        lambic_base::file::sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))?;
        // What is left of it takes room and nothing else.
        let _ = std::fs::remove_dir_all(&former);
        Ok(ready)
    }

    fn make(&self, recipe: &Recipe, dir: &Path, stop: &dyn Fn() -> bool) -> Result<(), Problem> {
        let root = dir.join("root");
        std::fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        unpack::unpack(recipe, &self.blobs, &root, self.bounds, stop)?;
        let listing = listing::of(&root).map_err(Error::io("read", &root))?;
        let bytes = serde_json::to_vec_pretty(&listing).expect("plain data serialises");
        let path = dir.join(LISTING);
        lambic_base::file::write_atomically(&path, &bytes).map_err(Error::io("write", &path))?;
        Ok(())
    }

    /// Removes the images that are not among these digests, and what was left half done. Nothing may run.
    pub fn keep_only(&self, digests: &BTreeSet<String>) -> Result<(), Error> {
        let mut blobs = BTreeSet::new();
        let mut are_known = true;
        for digest in digests.iter().filter_map(|hex| Digest::from_hex(hex)) {
            match self.recipe(&digest) {
                Ok(Recipe { manifest, .. }) => {
                    let parts = manifest.layers.iter().chain([&manifest.config]);
                    blobs.extend(parts.map(|blob| blob.digest.clone()));
                    blobs.insert(digest);
                }
                // Its parts are not to be told from others'.
                Err(_) => are_known = false,
            }
        }
        if are_known {
            self.blobs.keep_only(&blobs)?;
        }
        for entry in std::fs::read_dir(&self.dir).map_err(Error::io("read", &self.dir))? {
            let entry = entry.map_err(Error::io("read", &self.dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "blobs" && !digests.contains(&name) {
                let path = entry.path();
                std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Whether everything is there that it is made from.
    pub fn has_parts(&self, digest: &str) -> Result<(), Error> {
        let digest = self.digest(digest)?;
        let recipe = self.recipe(&digest).map_err(|problem| problem.of(""))?;
        let mut parts = recipe.manifest.layers.iter();
        match parts.find(|part| !self.blobs.has(part)) {
            None => Ok(()),
            Some(part) => Err(Error::Damaged {
                path: self.blobs.path(&part.digest),
                reason: "it is missing or cut".to_owned(),
            }),
        }
    }

    /// Reads all of an image, packed and unpacked.
    pub fn verify(&self, digest: &str) -> Result<(), Error> {
        let digest = self.digest(digest)?;
        let recipe = self.recipe(&digest).map_err(|problem| problem.of(""))?;
        for blob in recipe
            .manifest
            .layers
            .iter()
            .chain([&recipe.manifest.config])
        {
            self.blobs.check(&blob.digest)?;
        }
        let dir = self.dir.join(digest.hex());
        let Some(listing) = listing_of(&dir) else {
            // It is made when it is used.
            return Ok(());
        };
        let root = dir.join("root");
        match listing::of(&root).map_err(Error::io("read", &root))? == listing {
            true => Ok(()),
            false => Err(Error::Damaged {
                path: root,
                reason: "its files are not what was unpacked".to_owned(),
            }),
        }
    }
}

fn listing_of(dir: &Path) -> Option<Listing> {
    let bytes = std::fs::read(dir.join(LISTING)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// By how its files look.
fn is_whole(dir: &Path) -> bool {
    let looks = || listing::looks(&dir.join("root")).ok();
    listing_of(dir).is_some_and(|listing| looks() == Some(listing.looks))
}

fn real(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize()
        .map_err(|error| format!("cannot look at `{}`: {error}", path.display()))
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Problem::Ours(Error::Closed)))
}

#[cfg(test)]
mod tests;
