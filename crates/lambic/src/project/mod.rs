//! A project folder: `lambic.toml`, `streams/*.sql`, `functions/<name>/`, `views/*.sql`.
//!
//! Reading it is apart from applying it: a folder with a mistake is refused whole, with all of its
//! mistakes, before anything is changed.

pub mod apply;
pub mod manifest;
mod order;
pub mod statement;
pub mod watch;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use manifest::Manifest;
use statement::Statement;

/// A project as it was read.
#[derive(Debug, Clone)]
pub struct Project {
    pub folder: PathBuf,
    pub manifest: Manifest,
    /// In the order of the files' names, and within a file as written.
    pub streams: Vec<Statement>,
    /// The same, but each behind the views that it selects from.
    pub views: Vec<Statement>,
}

/// Mistakes to show to the user, each with its place.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

impl Project {
    pub fn read(folder: &Path) -> Result<Project, Problems> {
        let mut problems = Vec::new();
        if !folder.is_dir() {
            return Err(Problems(vec![format!(
                "there is no project folder {}",
                folder.display()
            )]));
        }
        let path = folder.join("lambic.toml");
        let manifest = match fs::read_to_string(&path) {
            Ok(text) => Manifest::parse(&path, &text).unwrap_or_else(|error| {
                problems.push(format!("{error:#}"));
                Manifest::default()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Manifest::default(),
            Err(error) => {
                problems.push(format!("cannot read {}: {error}", path.display()));
                Manifest::default()
            }
        };
        for (name, function) in &manifest.functions {
            let code = function.folder(folder, name);
            if !code.exists() {
                problems.push(format!(
                    "{}: function `{name}` has no code: {} does not exist",
                    path.display(),
                    code.display()
                ));
            }
        }
        let streams = read_sql(&folder.join("streams"), &mut problems);
        let views = order::by_dependency(read_sql(&folder.join("views"), &mut problems));
        if manifest == Manifest::default()
            && streams.is_empty()
            && views.is_empty()
            && problems.is_empty()
        {
            problems.push(format!(
                "{} is not a project: it has no lambic.toml, no streams/*.sql and no views/*.sql",
                folder.display()
            ));
        }
        if problems.is_empty() {
            Ok(Project {
                folder: folder.to_owned(),
                manifest,
                streams,
                views,
            })
        } else {
            Err(Problems(problems))
        }
    }
}

fn read_sql(folder: &Path, problems: &mut Vec<String>) -> Vec<Statement> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(format!("cannot read {}: {error}", folder.display()));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    paths.sort();
    let mut statements = Vec::new();
    for path in paths {
        match fs::read_to_string(&path) {
            Ok(text) => statements.extend(statement::split(&path, &text)),
            Err(error) => problems.push(format!("cannot read {}: {error}", path.display())),
        }
    }
    statements
}
