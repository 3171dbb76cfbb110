//! Compiled components on disk, so that a restart does not compile again.
//!
//! The key has the code's digest and everything of the engine that compiled code depends on. A file that does not
//! have the SHA-256 beside it (torn, swapped, rotted) is compiled again.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

use super::hex;
use crate::Error;

pub fn component(
    engine: &Engine,
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
    if let (Ok(compiled), Ok(sum)) = (std::fs::read(&path), std::fs::read_to_string(&path_sum))
        && sum == hex(&Sha256::digest(&compiled))
        && let Some(component) = deserialize(engine, &compiled)
    {
        return Ok(component);
    }
    let compiled = engine
        .precompile_component(code)
        .map_err(|error| Error::NotAComponent {
            reason: format!("{error:#}"),
        })?;
    lambic_base::file::write_atomically(&path, &compiled).map_err(Error::io("write", &path))?;
    lambic_base::file::write_atomically(&path_sum, hex(&Sha256::digest(&compiled)).as_bytes())
        .map_err(Error::io("write", &path_sum))?;
    deserialize(engine, &compiled).ok_or_else(|| Error::Engine {
        reason: "code compiled just now does not load".to_owned(),
    })
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, compiled: &[u8]) -> Option<Component> {
    // SAFETY: the bytes must come from `precompile_component` unchanged. They do: this module alone writes the
    // folder, the file's SHA-256 was compared on these very bytes, and they are in memory, so nobody can change
    // them afterwards. Safe code would have to compile at every start: seconds for a large component.
    let component = unsafe { Component::deserialize(engine, compiled) };
    component
        .inspect_err(|error| tracing::warn!(%error, "a compiled component does not load; compiling it again"))
        .ok()
}
