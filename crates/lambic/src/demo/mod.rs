//! `lambic demo`: the flights example, embedded, on a real engine with real doors.
//!
//! History is appended, the rest follows as a live stream in time-lapse with a batch run in the
//! middle, and at the end every view is recomputed from scratch and compared with what is served.

mod display;
mod frame;
mod plain;
mod replay;
pub mod source;
mod summary;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::sync::watch;

use crate::{
    engine::Engine,
    output,
    project::{Project, apply::Applier},
    server,
    settings::Settings,
};

use frame::{Frame, Phase};

/// How long the replay takes when nobody says.
const REPLAY: Duration = Duration::from_secs(60);

pub struct Options {
    pub duration: Option<Duration>,
    pub data: Option<PathBuf>,
}

/// What the actors of a demo tell each other.
pub struct Stage {
    pub engine: Engine,
    pub started: Instant,
    pub phase: Mutex<Phase>,
    /// Lines that tell what happened, oldest first.
    pub events: Mutex<Vec<String>>,
    /// Turns true when the viewer wants to leave or the process is told to stop.
    pub stop: watch::Sender<bool>,
}

impl Stage {
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().expect("no holder of the phase panics") = phase;
    }

    pub fn tell(&self, event: String) {
        let seconds = self.started.elapsed().as_secs_f64();
        let line = format!("{seconds:6.1} s  {event}");
        self.events
            .lock()
            .expect("no holder of the events panics")
            .push(line);
    }

    pub fn stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let started = Instant::now();
    // Dropped at the end, which removes a temporary folder.
    let temporary;
    let data = match options.data {
        Some(data) => data,
        None => {
            temporary = tempfile::Builder::new()
                .prefix("lambic-demo-")
                .tempdir()
                .context("cannot make a temporary folder")?;
            temporary.path().to_owned()
        }
    };
    let settings = Settings::default();
    let project = source::project(&data)?;
    let engine = server::open(data.clone(), settings.clone()).await?;
    let doors = server::Doors::open_or_free(&engine, &settings.server).await?;
    let addresses = doors.addresses();
    let stage = Arc::new(Stage {
        engine,
        started,
        phase: Mutex::new(Phase::Starting),
        events: Mutex::default(),
        stop: watch::Sender::new(false),
    });
    let stopped = server::stop_signal()?;
    eprintln!("ready http={} pg={}", addresses.http, addresses.pg);

    let signals = tokio::spawn({
        let stage = Arc::clone(&stage);
        async move {
            stopped.await;
            stage.stop.send_replace(true);
        }
    });
    let (frames, seen) = watch::channel(Frame::default());
    let sampler = tokio::spawn(frame::sample(Arc::clone(&stage), frames));
    let on_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let viewer = if on_terminal {
        display::start(Arc::clone(&stage), seen.clone(), addresses)?
    } else {
        plain::start(Arc::clone(&stage), seen.clone())
    };

    let played = play(&stage, &project, &data, options.duration, started).await;
    if let (Ok(result), None) = (&played, options.duration) {
        if on_terminal {
            stage.tell(format!("{}; press q to leave", result.verdict()));
        } else {
            output::print(&summary::text(result, &addresses))?;
        }
        stage.enter(Phase::Serving);
        let mut stop = stage.stop.subscribe();
        // The sender lives in the stage, which we hold.
        let _ = stop.wait_for(|stop| *stop).await;
    }
    stage.enter(Phase::Done);
    viewer.end().await?;
    sampler.abort();
    signals.abort();
    let _ = sampler.await;
    let _ = signals.await;

    if let Ok(result) = &played
        && (on_terminal || options.duration.is_some())
    {
        output::print(&summary::text(result, &addresses))?;
    }
    doors.close(&stage.engine).await;
    let stage =
        Arc::into_inner(stage).context("the demo's tasks have ended, so nobody holds the stage")?;
    stage.engine.close().await;
    let result = played?;
    if result.agreed() {
        Ok(())
    } else {
        anyhow::bail!("not every audit agreed with what was served")
    }
}

/// Appends, replays and audits; what came out is for the summary.
async fn play(
    stage: &Stage,
    project: &Project,
    data: &Path,
    duration: Option<Duration>,
    started: Instant,
) -> anyhow::Result<summary::Result> {
    let mut applier = Applier::open(data)?;
    let changes = applier.apply(&stage.engine, project).await.whole()?;
    for change in changes {
        stage.tell(change);
    }
    let input = source::read(&stage.engine)?;
    let history = replay::history(stage, &input).await?;
    stage.tell(format!(
        "{} flights of history and {} airports appended, {} rows/s",
        frame::grouped(input.history_rows()),
        frame::grouped(input.airports.num_rows() as u64),
        frame::grouped((input.history_rows() as f64 / history.as_secs_f64()) as u64),
    ));
    // The audit at the end takes its share of what was promised.
    let time_left = duration
        .unwrap_or(REPLAY + started.elapsed())
        .saturating_sub(started.elapsed());
    let replayed = replay::live(stage, &input, time_left.mul_f64(0.75)).await?;
    stage.tell(format!(
        "{} flights replayed",
        frame::grouped(replayed.rows)
    ));
    replay::settle(stage).await?;
    stage.enter(Phase::Auditing);
    let audits = replay::audit(stage).await?;
    summary::gather(stage, input.history_rows(), history, replayed, audits).await
}
