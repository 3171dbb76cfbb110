//! `lambic dev`: a server on a project folder that follows every change of its files.

use super::serve::{data_folder, settings_of};
use crate::{
    cli,
    exit::refusal,
    output::counted,
    project::{Problems, Project, apply::Applier, watch::Watch},
    server::{self, Addresses, Doors},
    settings::Settings,
};

pub async fn run(args: cli::Dev) -> anyhow::Result<()> {
    let project = Project::read(&args.project);
    // A mistake is no reason not to start: it is shown, and the next save may mend it.
    let mut settings = match &project {
        Ok(project) => settings_of(Some(project))?,
        Err(problems) if args.project.is_dir() => {
            say(problems);
            Settings::default()
        }
        Err(problems) => return Err(refusal(anyhow::anyhow!("{problems}"))),
    };
    if let Some(file) = args.traces {
        settings.traces.file = file;
    }
    let data = data_folder(args.data, Some(&args.project));
    let addresses = Addresses {
        http: args.http.unwrap_or(settings.server.http),
        pg: args.pg.unwrap_or(settings.server.pg),
    };
    let traces = settings.traces.file.clone();
    let engine = server::open(data.clone(), settings).await?;
    let mut applier = Applier::open(&data).map_err(refusal)?;
    // Before the first round, so that no change falls between.
    let mut watch = Watch::start(&args.project, &data, &traces)?;
    if let Ok(project) = &project {
        round(&mut applier, &engine, project).await;
    }
    let doors = match Doors::open(&engine, addresses).await {
        Ok(doors) => doors,
        Err(error) => {
            engine.close().await;
            return Err(error);
        }
    };
    let mut stop = std::pin::pin!(server::stop_signal()?);
    doors.say_ready();
    eprintln!("watching {}", args.project.display());
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = watch.changed() => match Project::read(&args.project) {
                Ok(project) => round(&mut applier, &engine, &project).await,
                Err(problems) => say(&problems),
            },
        }
    }
    doors.close(&engine).await;
    engine.close().await;
    Ok(())
}

async fn round(applier: &mut Applier, engine: &crate::engine::Engine, project: &Project) {
    let round = applier.apply(engine, project).await;
    for line in round.changes.iter().chain(&round.orphans) {
        eprintln!("{line}");
    }
    let changes = counted(round.changes.len() as u64, "change");
    if round.problems.0.is_empty() {
        eprintln!("project applied: {changes}");
    } else if round.changes.is_empty() {
        say(&round.problems);
    } else {
        eprintln!("{}", round.problems);
        eprintln!(
            "project applied in part: {changes} made, {}; what was running there goes on",
            counted(round.problems.0.len() as u64, "mistake")
        );
    }
}

fn say(problems: &Problems) {
    eprintln!("{problems}");
    eprintln!("not applied; what was running goes on");
}
