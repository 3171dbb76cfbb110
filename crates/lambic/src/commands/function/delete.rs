//! `lambic function delete`: asks where there is a terminal, and deletes.

use std::io::{self, IsTerminal, Write};

use anyhow::bail;

use super::{
    super::{Global, stream::said},
    api::Api,
};
use crate::{cli, output::counted};

pub fn run(global: &Global, args: &cli::FunctionDelete) -> anyhow::Result<()> {
    let api = Api::new(global)?;
    let name = &args.name;
    let version = args.version.map(|number| number.to_string());
    let what = match &version {
        Some(number) => format!("version {number} of function {name}"),
        None => format!("function {name}"),
    };
    if !args.yes && io::stdin().is_terminal() {
        let more = match &version {
            Some(_) => String::new(),
            None => along(&api, name)?,
        };
        confirm(name, &format!("{what}{more}"))?;
    }
    let deleted = api.delete(name, version.as_deref());
    deleted.map_err(|error| api.suggesting(error, name))?;
    said(Some(format!("{what} deleted")), global.json)
}

/// What goes with it.
fn along(api: &Api, name: &str) -> anyhow::Result<String> {
    // `$LATEST` is not a version that is lost, but the function.
    let versions = api.versions(name)?.len().saturating_sub(1) as u64;
    let aliases = api.aliases(name)?.len() as u64;
    Ok(match (versions, aliases) {
        (0, 0) => String::new(),
        (_, 0) => format!(" with {}", counted(versions, "version")),
        (0, 1) => " with 1 alias".to_owned(),
        (0, _) => format!(" with {aliases} aliases"),
        (_, 1) => format!(" with {} and 1 alias", counted(versions, "version")),
        _ => format!(
            " with {} and {aliases} aliases",
            counted(versions, "version")
        ),
    })
}

/// Nothing brings it back, so the name is to be typed.
fn confirm(name: &str, what: &str) -> anyhow::Result<()> {
    eprint!("{what} is deleted for ever. Type the function's name to go on: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() != name {
        bail!("nothing was deleted");
    }
    Ok(())
}
