//! Compiled components on disk, so that a restart does not compile again.
//!
//! The key has the code's digest and everything of the engine that compiled code depends on. A file that does not
//! have the SHA-256 beside it (torn, swapped, rotted) is compiled again, and so is one that another user could have
//! written: loading compiled code trusts it as much as the program itself.
//!
//! Programs of the server's own user can write here, as they can write the log, the catalog and the server's program.
//! Functions are not among them: a server that was started as root gives processes another user, and one without root
//! covers this folder in their mount namespace. Where the machine allows neither, a function that is a process can
//! place code here, and nothing in this folder could tell: a key would have to be kept where the function can read
//! it, or be forgotten at each stop together with the cache. The server warns of that when it starts the first one.

use std::{
    fs::{self, File, Metadata},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::unistd::Uid;
use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

use super::{
    compile::{Compiler, compile},
    hex,
};
use crate::{Error, files::set_mode};

/// Makes the folder, for this user alone.
pub fn open(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    set_mode(dir, 0o700)
}

pub fn component(
    engine: &Engine,
    compiler: Option<&Compiler>,
    dir: &Path,
    digest: &str,
    code: &[u8],
) -> Result<Component, Error> {
    // `DefaultHasher::new` has fixed keys: the same engine gives the same number in every run.
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let name = format!("{digest}-{:016x}", hasher.finish());
    let (path, path_sum) = (
        dir.join(format!("{name}.cwasm")),
        dir.join(format!("{name}.sha256")),
    );
    if let (Ok(compiled), Ok(sum)) = (read(dir, &path), fs::read_to_string(&path_sum))
        && sum == hex(&Sha256::digest(&compiled))
        && let Some(component) = deserialize(engine, &compiled)
    {
        return Ok(component);
    }
    let compiled = compile(engine, compiler, code)?;
    let component = deserialize(engine, &compiled).ok_or_else(|| Error::Engine {
        reason: "code compiled just now does not load".to_owned(),
    })?;
    lambic_base::file::write_atomically(&path, &compiled).map_err(Error::io("write", &path))?;
    set_mode(&path, 0o600)?;
    lambic_base::file::write_atomically(&path_sum, hex(&Sha256::digest(&compiled)).as_bytes())
        .map_err(Error::io("write", &path_sum))?;
    Ok(component)
}

/// Of a file that nobody but this user can have written.
fn read(dir: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    // Of the open file: the name may stand for another one at the next look.
    for (place, metadata) in [(dir, fs::metadata(dir)?), (path, file.metadata()?)] {
        if !is_ours_alone(&metadata) {
            tracing::warn!(path = %place.display(),
                "others can write this; the component is compiled again, since compiled code is trusted");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    let mut compiled = Vec::new();
    file.read_to_end(&mut compiled)?;
    Ok(compiled)
}

fn is_ours_alone(metadata: &Metadata) -> bool {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    metadata.uid() == Uid::effective().as_raw() && metadata.mode() & WRITABLE_BY_OTHERS == 0
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, compiled: &[u8]) -> Option<Component> {
    // SAFETY: the bytes must come from `precompile_component` unchanged, here or in a child that is the same program.
    // They do as far as programs of the server's
    // own user are trusted, see above: only that user can write the file, of those programs this module alone does,
    // the file's SHA-256 was compared on these very bytes, and they are in memory, so nobody can change them
    // afterwards. Safe code would have to compile at every start: seconds for a large component.
    let component = unsafe { Component::deserialize(engine, compiled) };
    component
        .inspect_err(|error| tracing::warn!(%error, "a compiled component does not load; compiling it again"))
        .ok()
}
