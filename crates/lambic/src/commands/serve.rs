//! `lambic serve`: a server in the foreground.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::wait;
use crate::{
    cli,
    exit::refusal,
    output,
    project::{Project, apply::Applier},
    server::{self, Addresses, Doors},
    settings::{self, Settings},
    tls::Tls,
};

pub fn run(args: cli::Serve) -> anyhow::Result<()> {
    if args.print_defaults {
        return output::print(settings::DEFAULTS);
    }
    wait(|| serve(args))
}

async fn serve(args: cli::Serve) -> anyhow::Result<()> {
    let project = match &args.project {
        Some(folder) => Some(Project::read(folder).map_err(refusal)?),
        None => None,
    };
    let mut settings = match &args.config {
        Some(path) => Settings::from_file(path)?,
        None => settings_of(project.as_ref())?,
    };
    if let Some(file) = args.traces {
        settings.traces.file = file;
    }
    let data = data_folder(args.data, args.project.as_deref());
    let addresses = Addresses {
        http: args.http.unwrap_or(settings.server.http),
        pg: args.pg.unwrap_or(settings.server.pg),
    };
    // Doors that cannot open must not leave a new folder behind.
    if !data.exists() {
        // Whoever encrypts, the doors may open elsewhere than on loopback.
        let tls = match settings.tls == Tls::default() {
            true => lambic_api::Tls::Off,
            false => lambic_api::Tls::ByProxy,
        };
        let options = lambic_api::Options {
            http: addresses.http,
            pg: addresses.pg,
            keys: settings.auth.keys(),
            tls,
            ..lambic_api::Options::default()
        };
        let free = lambic_api::check_free(&options).await;
        free.map_err(refusal)?;
    }
    let engine = server::open(data.clone(), settings).await?;
    if let Some(project) = &project {
        let applied = match Applier::open(&data) {
            Ok(mut applier) => {
                let round = applier.apply(&engine, project).await;
                for orphan in &round.orphans {
                    eprintln!("{orphan}");
                }
                round.whole().map_err(anyhow::Error::new)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = applied {
            engine.close().await;
            return Err(refusal(error));
        }
    }
    let doors = match Doors::open(&engine, addresses).await {
        Ok(doors) => doors,
        Err(error) => {
            engine.close().await;
            return Err(error);
        }
    };
    let stopped = server::stop_signal()?;
    doors.say_ready();
    stopped.await;
    doors.close(&engine).await;
    engine.close().await;
    Ok(())
}

/// The settings that a project lays over the defaults.
pub fn settings_of(project: Option<&Project>) -> anyhow::Result<Settings> {
    match project {
        Some(project) => {
            let file = project.folder.join("lambic.toml");
            let about = || format!("the settings in {}", file.display());
            let settings = Settings::overlaid(&project.manifest.settings).with_context(about);
            let mut settings = settings.map_err(refusal)?;
            settings.stand_in(&file).map_err(refusal)?;
            Ok(settings)
        }
        None => Ok(Settings::default()),
    }
}

pub fn data_folder(said: Option<PathBuf>, project: Option<&Path>) -> PathBuf {
    said.unwrap_or_else(|| match project {
        Some(project) => project.join(".lambic"),
        None => PathBuf::from("lambic-data"),
    })
}
