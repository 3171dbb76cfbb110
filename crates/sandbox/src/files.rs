//! Who may do what with a file.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::Error;

pub fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::io("set the permissions of", path))
}
