//! Whether what is deployed is whole, without running any of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    Error, Function, FunctionInfo, Runtime, code, image::Images, mapping, registry::Registry,
};

/// Something on disk.
#[derive(Debug)]
pub struct Inspected {
    pub path: PathBuf,
    /// What is wrong with it, or with the code that it names.
    pub trouble: Option<Error>,
}

/// Looks at every function that is deployed in `dir`, the folder of a stopped server.
pub fn inspect(dir: &Path) -> Result<Vec<Inspected>, Error> {
    let images = Images::look(dir);
    functions(dir, |digest| images.verify(digest))
}

/// The same of a folder without what can be made again, and of images only whether all parts are there: a part's name
/// says what is in it. Layers that are damaged are told of too.
pub fn inspect_kept(dir: &Path) -> Result<Vec<Inspected>, Error> {
    let images = Images::look(dir);
    let mut all = functions(dir, |digest| images.has_parts(digest))?;
    let layers = Registry::look(dir).each_layer()?.into_iter();
    all.extend(layers.map(|(path, layer)| Inspected {
        path,
        trouble: layer.err(),
    }));
    Ok(all)
}

fn infos(function: &Function) -> impl Iterator<Item = &FunctionInfo> {
    function.versions.values().chain([&function.info])
}

fn functions(
    dir: &Path,
    verify_image: impl Fn(&str) -> Result<(), Error>,
) -> Result<Vec<Inspected>, Error> {
    let registry = Registry::look(dir);
    let each = registry.each()?.into_iter().map(|(path, stored)| {
        let whole = stored.and_then(|function| {
            infos(&function).try_for_each(|info| {
                if info.runtime == Runtime::Image {
                    return verify_image(&info.digest);
                }
                code::verify(&registry.code_dir(&info.digest), info.runtime, &info.digest)?;
                let mut layers = info.layer_digests();
                layers.try_for_each(|digest| verify_layer(&registry, digest))
            })
        });
        Inspected {
            path,
            trouble: whole.err(),
        }
    });
    Ok(each.collect())
}

fn verify_layer(registry: &Registry, digest: &str) -> Result<(), Error> {
    code::verify(&registry.code_dir(digest), Runtime::Bootstrap, digest)
}

/// Looks at layers, at the zips that were uploaded, and at what open windows hold.
pub fn inspect_beside(dir: &Path) -> Result<Vec<Inspected>, Error> {
    let registry = Registry::look(dir);
    // What functions name, whatever else is wrong with them.
    let (mut zips, mut layers) = (BTreeSet::new(), BTreeMap::new());
    for function in registry.each()?.into_iter().flat_map(|(_, stored)| stored) {
        for info in infos(&function) {
            let upload = info.upload.iter();
            zips.extend(upload.map(|upload| upload.sha256.clone()));
            let used = info.settings.layers.iter();
            layers.extend(used.map(|layer| (registry.layer_path(&layer.name), None)));
        }
    }
    for (path, stored) in registry.each_layer()? {
        layers.insert(path, Some(stored));
    }
    let mut found = Vec::new();
    for (path, stored) in layers {
        let whole = match stored {
            None => Err(damaged(&path, "it is missing")),
            Some(stored) => stored.and_then(|layer| {
                let mut versions = layer.versions.values();
                zips.extend(versions.clone().map(|version| version.sha256.clone()));
                versions.try_for_each(|version| verify_layer(&registry, &version.digest))
            }),
        };
        found.push(Inspected {
            path,
            trouble: whole.err(),
        });
    }
    for sha256 in zips {
        let path = registry.zip_path(&sha256);
        found.push(Inspected {
            trouble: verify_zip(&path, &sha256).err(),
            path,
        });
    }
    let windows = mapping::inspect_windows(dir).map_err(Error::io("read", dir))?;
    found.extend(
        windows
            .into_iter()
            .map(|(path, trouble)| Inspected { path, trouble }),
    );
    Ok(found)
}

fn verify_zip(path: &Path, sha256: &str) -> Result<(), Error> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged(path, "it is missing"));
        }
        other => other.map_err(Error::io("read", path))?,
    };
    match code::hex(&Sha256::digest(bytes)) == sha256 {
        true => Ok(()),
        false => Err(damaged(path, "its content is not what its name says")),
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
