//! Whether what is deployed is whole, without running any of it.

use std::path::{Path, PathBuf};

use crate::{Error, code, registry::Registry};

/// A function on disk.
#[derive(Debug)]
pub struct Inspected {
    pub path: PathBuf,
    /// What is wrong with its description or its code.
    pub trouble: Option<Error>,
}

/// Looks at everything that is deployed in `dir`, the folder of a stopped server.
pub fn inspect(dir: &Path) -> Result<Vec<Inspected>, Error> {
    let registry = Registry::look(dir);
    let each = registry.each()?.into_iter().map(|(path, stored)| {
        let whole = stored.and_then(|stored| {
            let info = stored.info;
            code::verify(&registry.code_dir(&info.digest), info.runtime, &info.digest)
        });
        Inspected {
            path,
            trouble: whole.err(),
        }
    });
    Ok(each.collect())
}
