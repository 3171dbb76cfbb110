//! Whether what is deployed is whole, without running any of it.

use std::path::{Path, PathBuf};

use crate::{Error, Runtime, code, image::Images, registry::Registry};

/// A function on disk.
#[derive(Debug)]
pub struct Inspected {
    pub path: PathBuf,
    /// What is wrong with its description or its code.
    pub trouble: Option<Error>,
}

/// Looks at everything that is deployed in `dir`, the folder of a stopped server.
pub fn inspect(dir: &Path) -> Result<Vec<Inspected>, Error> {
    let (registry, images) = (Registry::look(dir), Images::look(dir));
    let each = registry.each()?.into_iter().map(|(path, stored)| {
        let whole = stored.and_then(|function| {
            let mut infos = function.versions.values().chain([&function.info]);
            infos.try_for_each(|info| {
                if info.runtime == Runtime::Image {
                    return images.verify(&info.digest);
                }
                code::verify(&registry.code_dir(&info.digest), info.runtime, &info.digest)?;
                let mut layers = info.layer_digests();
                layers.try_for_each(|digest| {
                    code::verify(&registry.code_dir(digest), Runtime::Bootstrap, digest)
                })
            })
        });
        Inspected {
            path,
            trouble: whole.err(),
        }
    });
    Ok(each.collect())
}
