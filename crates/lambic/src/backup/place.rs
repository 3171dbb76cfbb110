//! What a user names as the target of backups: a folder, or a place in an object store.

use std::{
    fs,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use object_store::{ObjectStore, ObjectStoreScheme, path::Path};

use super::Error;

pub enum Place {
    Folder(PathBuf),
    Store {
        store: Arc<dyn ObjectStore>,
        /// Below which everything is.
        prefix: Path,
    },
}

impl Place {
    pub fn named(text: &str) -> Result<Place, Error> {
        let folder = match text.split_once("://") {
            None => PathBuf::from(text),
            Some(("file", _)) => parsed(text)?.to_file_path().map_err(|()| {
                Error::Refused(format!(
                    "`{text}` names no folder of this machine; write file:///folder"
                ))
            })?,
            Some(_) => return Place::in_store(text),
        };
        match folder.is_absolute() {
            true => Ok(Place::Folder(folder)),
            false => Err(Error::Refused(format!(
                "`{text}` is neither a path from the root nor a URL such as file:///backups or s3://bucket/backups"
            ))),
        }
    }

    fn in_store(text: &str) -> Result<Place, Error> {
        let url = parsed(text)?;
        let scheme = ObjectStoreScheme::parse(&url)
            .ok()
            .map(|(scheme, _)| scheme);
        let Some(variables) = scheme.as_ref().and_then(variables) else {
            return Err(Error::Refused(format!(
                "lambic cannot write to `{text}`; it can to folders, file://, s3://, gs:// and azure://"
            )));
        };
        let (store, prefix) =
            object_store::parse_url_opts(&url, settings(variables)).map_err(|error| {
                Error::Refused(format!(
                    "`{text}` cannot be used with what {variables}* in the environment say: {error}"
                ))
            })?;
        Ok(Place::Store {
            store: Arc::from(store),
            prefix,
        })
    }
}

/// With what the environment variables begin that the tools of a kind of store read.
fn variables(scheme: &ObjectStoreScheme) -> Option<&'static str> {
    match scheme {
        ObjectStoreScheme::AmazonS3 => Some("AWS_"),
        ObjectStoreScheme::GoogleCloudStorage => Some("GOOGLE_"),
        ObjectStoreScheme::MicrosoftAzure => Some("AZURE_"),
        _ => None,
    }
}

/// Credentials, regions and endpoints, from the variables with this beginning.
fn settings(beginning: &str) -> Vec<(String, String)> {
    let given = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let name = name
            .starts_with(beginning)
            .then(|| name.to_ascii_lowercase());
        Some((name?, value))
    });
    let mut settings: Vec<(String, String)> = given.collect();
    // Whoever names such an endpoint means it, as for AWS's own tools.
    let is_plain = |(name, value): &(String, String)| {
        name.contains("endpoint") && value.starts_with("http://")
    };
    if settings.iter().any(is_plain) {
        settings.push((
            format!("{}allow_http", beginning.to_ascii_lowercase()),
            "true".to_owned(),
        ));
    }
    settings
}

/// A backup in the data folder is of no use, and the other way round it would be lost with it.
pub fn outside(folder: &FsPath, data: &FsPath) -> Result<(), Error> {
    let data = fs::canonicalize(data).map_err(Error::io("look at", data))?;
    let mut there = folder;
    while !there.exists() {
        let Some(above) = there.parent() else { break };
        there = above;
    }
    let resolved = fs::canonicalize(there).map_err(Error::io("look at", there))?;
    let rest = folder.strip_prefix(there).unwrap_or(FsPath::new(""));
    let resolved = resolved.join(rest);
    if resolved.starts_with(&data) || data.starts_with(&resolved) {
        return Err(Error::Refused(format!(
            "`{}` and the data folder `{}` lie in each other: back up to another place, best to another disk",
            folder.display(),
            data.display()
        )));
    }
    Ok(())
}

fn parsed(text: &str) -> Result<url::Url, Error> {
    url::Url::parse(text).map_err(|error| Error::Refused(format!("`{text}` is no URL: {error}")))
}
