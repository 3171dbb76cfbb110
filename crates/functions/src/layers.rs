//! Layers: folders that functions find in `/opt`, published under a name and numbered from 1.
//!
//! Kept as functions are: the files under their digest in `code/`, the zip in `zips/`, what is known of them in
//! `layers/<name>.json`. A version that was deleted gets no new users; those that it has keep it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, Functions, LayerUse, Policy, blocking, code, function::check_description};

/// AWS's.
const NAME_CHARS_MAX: usize = 64;

/// A layer with its versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    pub name: String,
    /// The highest number that was ever given.
    pub published: u64,
    /// Those that were not deleted.
    pub versions: BTreeMap<u64, LayerVersion>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerVersion {
    pub number: u64,
    pub settings: LayerSettings,
    /// Of its files, hex.
    pub digest: String,
    /// SHA-256 of its zip, hex, and that zip's size.
    pub sha256: String,
    pub bytes: u64,
    pub created_at_us: i64,
    pub policy: Policy,
}

/// What its publisher says about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerSettings {
    pub description: String,
    pub license: String,
    /// AWS's names, such as `python3.11`.
    pub runtimes: Vec<String>,
    pub architectures: Vec<String>,
}

impl Layer {
    pub fn version(&self, number: u64) -> Result<&LayerVersion, Error> {
        self.versions.get(&number).ok_or_else(|| Error::Missing {
            name: format!("{}:{number}", self.name),
        })
    }
}

impl Functions {
    /// By name.
    pub fn layers(&self) -> Vec<Arc<Layer>> {
        let layers = self.0.layers.read().expect("held shortly");
        layers.values().cloned().collect()
    }

    pub fn layer(&self, name: &str) -> Result<Arc<Layer>, Error> {
        let layers = self.0.layers.read().expect("held shortly");
        layers.get(name).cloned().ok_or_else(|| Error::Missing {
            name: name.to_owned(),
        })
    }

    /// For a function that is to use it.
    pub fn layer_use(&self, name: &str, number: u64) -> Result<LayerUse, Error> {
        let layer = self.layer(name)?;
        let version = layer.version(number)?;
        Ok(LayerUse {
            name: name.to_owned(),
            number,
            digest: version.digest.clone(),
            bytes: version.bytes,
        })
    }

    /// Keeps the zip's files durably as the next version.
    pub async fn publish_layer(
        &self,
        name: &str,
        zip: Vec<u8>,
        settings: LayerSettings,
    ) -> Result<LayerVersion, Error> {
        check_name(name)?;
        check_description(&settings.description)?;
        let inner = self.0.clone();
        let name = name.to_owned();
        crate::deploy::to_the_end(async move {
            let _one = inner.deploying.lock().await;
            inner.check_open()?;
            let registry = inner.registry.clone();
            let owner = name.clone();
            let (digest, upload) = blocking(move || {
                let files = code::read_layer(&owner, &zip)?;
                registry.store_code(&files)?;
                let upload = registry.keep_zip(&zip)?;
                Ok((files.digest, upload))
            })
            .await?;
            let mut layer = match inner.layers.read().expect("held shortly").get(&name) {
                Some(layer) => Layer::clone(layer),
                None => Layer {
                    name: name.clone(),
                    published: 0,
                    versions: BTreeMap::new(),
                },
            };
            layer.published += 1;
            let version = LayerVersion {
                number: layer.published,
                settings,
                digest,
                sha256: upload.sha256,
                bytes: upload.bytes,
                created_at_us: inner.options.clock.now_us(),
                policy: Policy::default(),
            };
            layer.versions.insert(version.number, version.clone());
            inner.keep_layer(layer).await?;
            Ok(version)
        })
        .await
    }

    /// Changes a layer durably; after an error it is as it was.
    pub async fn change_layer<T: Send + 'static>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Layer) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (functions, name) = (self.clone(), name.to_owned());
        crate::deploy::to_the_end(async move {
            let _one = functions.0.deploying.lock().await;
            functions.0.check_open()?;
            let mut layer = Layer::clone(&*functions.layer(&name)?);
            let done = change(&mut layer)?;
            functions.0.keep_layer(layer).await?;
            Ok(done)
        })
        .await
    }
}

impl crate::Inner {
    async fn keep_layer(&self, layer: Layer) -> Result<(), Error> {
        let (registry, layer) = (self.registry.clone(), Arc::new(layer));
        let kept = layer.clone();
        blocking(move || registry.save_layer(&kept)).await?;
        let mut layers = self.layers.write().expect("held shortly");
        layers.insert(layer.name.clone(), layer);
        self.changed();
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let is_name = (1..=NAME_CHARS_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match is_name {
        true => Ok(()),
        false => Err(Error::BadValue {
            reason: format!(
                "`{name}` is not the name of a layer: use letters, digits, `-` and `_`, at most {NAME_CHARS_MAX}"
            ),
        }),
    }
}
