//! Applies a project to a running engine: streams, then functions, then views.
//!
//! Applying again changes only what changed. What was applied is remembered beside the data
//! (`project.json`), because `CREATE … IF NOT EXISTS` alone would keep an old definition in silence.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use lambic_functions::{Code, Deployment, ImageSource};
use lambic_model::{FunctionName, StreamName};
use lambic_query::Session;

use super::{
    Problems, Project,
    manifest::{Function, Runtime, Start},
    statement::{Creates, Statement},
};
use crate::engine::Engine;

/// Applies projects to one engine.
pub struct Applier {
    memory: PathBuf,
    /// What created each stream and view, as text; for a function only that the project deployed it.
    applied: BTreeMap<String, String>,
    /// What each function was deployed from in this run of the program.
    functions: HashMap<String, (Function, Fingerprint)>,
    orphans_told: BTreeSet<String>,
}

/// Names, sizes and times of a folder's files.
type Fingerprint = BTreeSet<(PathBuf, u64, SystemTime)>;

/// What came of a round of applying, for the user to read.
#[derive(Debug, Default)]
pub struct Round {
    pub changes: Vec<String>,
    /// What was applied before, is in the project no longer, and goes on; each told once.
    pub orphans: Vec<String>,
    /// What stays as it was.
    pub problems: Problems,
}

impl Round {
    /// The changes, if everything went as it should.
    pub fn whole(self) -> Result<Vec<String>, Problems> {
        if self.problems.0.is_empty() {
            Ok(self.changes)
        } else {
            Err(self.problems)
        }
    }
}

impl Applier {
    pub fn open(data: &Path) -> anyhow::Result<Applier> {
        let memory = data.join("project.json");
        let applied = match fs::read(&memory) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is damaged; remove it to apply everything again",
                    memory.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", memory.display()));
            }
        };
        Ok(Applier {
            memory,
            applied,
            functions: HashMap::new(),
            orphans_told: BTreeSet::new(),
        })
    }

    /// Stops at the first group (streams, functions, views) with mistakes, because later groups stand
    /// on earlier ones; what was applied before stays.
    pub async fn apply(&mut self, engine: &Engine, project: &Project) -> Round {
        let mut round = Round::default();
        for statement in &project.streams {
            self.statement(engine, statement, &mut round).await;
        }
        if round.problems.0.is_empty() {
            for (name, function) in &project.manifest.functions {
                match self.function(engine, project, name, function).await {
                    Ok(true) => round.changes.push(format!("function {name} deployed")),
                    Ok(false) => {}
                    Err(error) => round.problems.0.push(format!(
                        "{}: function `{name}`: {error:#}",
                        project.folder.join("lambic.toml").display()
                    )),
                }
            }
        }
        if round.problems.0.is_empty() {
            for statement in &project.views {
                self.statement(engine, statement, &mut round).await;
            }
        }
        self.orphans(engine, project, &mut round);
        if let Err(error) = self.remember() {
            round.problems.0.push(format!("{error:#}"));
        }
        round
    }

    /// Nothing is dropped because a file is gone: that would take records along. But it is said.
    fn orphans(&mut self, engine: &Engine, project: &Project, round: &mut Round) {
        let statements = project.streams.iter().chain(&project.views);
        let mut named: BTreeSet<String> = statements
            .filter_map(|statement| statement.creates())
            .map(|creates| creates.key())
            .collect();
        let functions = project.manifest.functions.keys();
        named.extend(functions.map(|name| format!("function {name}")));
        let views = engine.database.views();
        self.applied.retain(|key, _| {
            named.contains(key)
                || match key.split_once(' ') {
                    Some(("stream", name)) => engine.database.stream(name).is_some(),
                    Some(("view", name)) => views.iter().any(|view| view.name == name),
                    Some(("function", name)) => engine.functions.get(name).is_some(),
                    _ => false,
                }
        });
        let orphans: BTreeSet<String> = orphans(&self.applied, &named);
        round.orphans = orphans
            .difference(&self.orphans_told)
            .map(|key| {
                let (kind, name) = key.split_once(' ').unwrap_or_default();
                let verb = if kind == "function" { "delete" } else { "drop" };
                format!(
                    "{key} is no longer in the project and goes on; to end it: lambic {kind} {verb} {name}"
                )
            })
            .collect();
        self.orphans_told = orphans;
    }

    async fn statement(&mut self, engine: &Engine, statement: &Statement, round: &mut Round) {
        let creates = statement.creates();
        let (key, exists) = match &creates {
            Some(creates @ Creates::Stream(name)) => {
                (creates.key(), engine.database.stream(name).is_some())
            }
            Some(creates @ Creates::View(name)) => (
                creates.key(),
                engine
                    .database
                    .views()
                    .iter()
                    .any(|view| view.name == *name),
            ),
            None => {
                round.problems.0.push(statement.place(None).render(
                    "a project's files hold CREATE STREAM and CREATE MATERIALIZED VIEW only",
                    Some("run other statements with `lambic query -f FILE`"),
                ));
                return;
            }
        };
        let applied = self.applied.get(&key).map(String::as_str);
        // A view that calls code which was deployed anew is another view, though its text is the same.
        let applied = match &creates {
            Some(Creates::View(name)) if engine.database.calls_former_code(name) => None,
            _ => applied,
        };
        match decide(&statement.sql, exists, applied, &creates) {
            Decision::Keep => {}
            // Remembered before it runs: a kill right after it must not look like a stream that others created.
            Decision::Run if matches!(creates, Some(Creates::Stream(_))) && !exists => {
                let before = self.applied.insert(key.clone(), statement.sql.clone());
                if let Err(error) = self.remember() {
                    round.problems.0.push(format!("{error:#}"));
                    return;
                }
                let ran = engine
                    .database
                    .execute(&Session::default(), &statement.sql)
                    .await;
                if ran.is_err() {
                    match before {
                        Some(before) => self.applied.insert(key.clone(), before),
                        None => self.applied.remove(&key),
                    };
                }
                self.ran(
                    ran.err(),
                    |position| position,
                    statement,
                    key,
                    "created",
                    round,
                );
            }
            Decision::Evolve => match engine.database.evolve_stream(&statement.sql).await {
                Ok(changes) => {
                    let changes = changes.into_iter();
                    round
                        .changes
                        .extend(changes.map(|change| format!("{key}: {change}")));
                    self.applied.insert(key, statement.sql.clone());
                    if let Err(error) = self.remember() {
                        round.problems.0.push(format!("{error:#}"));
                    }
                }
                Err(error) => {
                    self.ran(Some(error), |position| position, statement, key, "", round);
                }
            },
            Decision::Run => {
                let ran = engine
                    .database
                    .execute(&Session::default(), &statement.sql)
                    .await;
                self.ran(
                    ran.err(),
                    |position| position,
                    statement,
                    key,
                    "created",
                    round,
                );
            }
            Decision::Replace => {
                let (sql, back) = statement.replacing();
                let ran = engine.database.execute(&Session::default(), &sql).await;
                self.ran(ran.err(), back, statement, key, "replaced", round);
            }
        }
    }

    fn ran(
        &mut self,
        error: Option<lambic_query::Error>,
        back: impl Fn(usize) -> usize,
        statement: &Statement,
        key: String,
        done: &str,
        round: &mut Round,
    ) {
        match error {
            None => {
                round.changes.push(format!("{key} {done}"));
                self.applied.insert(key, statement.sql.clone());
                if let Err(error) = self.remember() {
                    round.problems.0.push(format!("{error:#}"));
                }
            }
            Some(error) => {
                let hint = [error.detail, error.hint]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join("\n  ");
                round.problems.0.push(
                    statement
                        .place(error.position.map(back))
                        .render(&error.message, (!hint.is_empty()).then_some(hint.as_str())),
                );
            }
        }
    }

    /// True if the function was deployed, false if nothing about it changed.
    async fn function(
        &mut self,
        engine: &Engine,
        project: &Project,
        name: &str,
        function: &Function,
    ) -> anyhow::Result<bool> {
        let folder = function.folder(&project.folder, name);
        let image = function.image(&project.folder);
        let print = match &image {
            Some(image) => image_fingerprint(image)?,
            None => fingerprint(&folder)?,
        };
        self.applied.entry(format!("function {name}")).or_default();
        if self.functions.get(name) == Some(&(function.clone(), print.clone())) {
            return Ok(false);
        }
        engine
            .functions
            .deploy(deployment(name, function, &folder, image)?)
            .await?;
        engine.database.set_functions(engine.functions.scalars());
        self.functions
            .insert(name.to_owned(), (function.clone(), print));
        Ok(true)
    }

    fn remember(&self) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.applied)?;
        lambic_base::file::write_atomically(&self.memory, &bytes)
            .with_context(|| format!("cannot write {}", self.memory.display()))
    }
}

/// What was applied and is not named any more.
fn orphans(applied: &BTreeMap<String, String>, named: &BTreeSet<String>) -> BTreeSet<String> {
    let keys = applied.keys().filter(|key| !named.contains(*key));
    keys.cloned().collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Keep,
    Run,
    Replace,
    /// The stream gets the columns that it is declared with now, as far as no record loses a value.
    Evolve,
}

/// What to do with a statement, given what exists and what created it.
fn decide(sql: &str, exists: bool, applied: Option<&str>, creates: &Option<Creates>) -> Decision {
    match (exists, creates) {
        (false, _) => Decision::Run,
        (true, _) if applied == Some(sql) => Decision::Keep,
        (true, Some(Creates::View(_))) => Decision::Replace,
        // It was created by other means; `IF NOT EXISTS` says that this is fine.
        (true, _) if applied.is_none() => Decision::Run,
        (true, _) => Decision::Evolve,
    }
}

fn deployment(
    name: &str,
    function: &Function,
    folder: &Path,
    image: Option<String>,
) -> anyhow::Result<Deployment> {
    let runtime = match function.runtime {
        Runtime::Wasm => lambic_functions::Runtime::Wasm,
        Runtime::Python => lambic_functions::Runtime::Python,
        Runtime::Node => lambic_functions::Runtime::Node,
        Runtime::Bootstrap => lambic_functions::Runtime::Bootstrap,
        Runtime::Image => lambic_functions::Runtime::Image,
    };
    let code = match image {
        // Whoever starts the server on the project has written it.
        Some(uri) => Code::Image(ImageSource {
            uri,
            by_operator: true,
        }),
        None => Code::Folder(folder.to_owned()),
    };
    let mut deployment = Deployment::new(FunctionName::new(name)?, runtime, code);
    deployment.handler = function.handler.clone();
    deployment.timeout = Duration::from_secs_f64(function.timeout_s);
    deployment.memory_mb = function.memory_mb;
    deployment.environment = function.environment.clone();
    if let Some(trigger) = &function.trigger {
        deployment.triggers.push(lambic_functions::Trigger {
            batch_size: trigger.batch as usize,
            window_ms: trigger.window_ms,
            start: match trigger.start {
                Start::Latest => lambic_functions::Start::Latest,
                Start::Earliest => lambic_functions::Start::Earliest,
            },
            rules: trigger.rules(),
            ..lambic_functions::Trigger::new(StreamName::new(&trigger.stream)?)
        });
    }
    let stream = |name: &Option<String>| name.as_ref().map(StreamName::new).transpose();
    deployment.output = stream(&function.output)?;
    deployment.dead_letter = stream(&function.dead_letter)?;
    if let Some(retries) = function.retries {
        deployment.retries = retries;
    }
    deployment.concurrency = function.concurrency;
    deployment.settings.hosts = function.hosts.clone();
    Ok(deployment)
}

/// Of a file or a folder of this machine. A folder's index changes with its image; what a registry has is not known here.
fn image_fingerprint(image: &str) -> anyhow::Result<Fingerprint> {
    let Some(path) = lambic_functions::image_path(image) else {
        return Ok(Fingerprint::new());
    };
    let file = match path.is_dir() {
        true => path.join("index.json"),
        false => path,
    };
    let about = fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let modified = about.modified()?;
    Ok(Fingerprint::from([(file, about.len(), modified)]))
}

fn fingerprint(folder: &Path) -> anyhow::Result<Fingerprint> {
    let mut print = Fingerprint::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_dir() {
                folders.push(entry.path());
            } else {
                print.insert((entry.path(), about.len(), about.modified()?));
            }
        }
    }
    Ok(print)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_applied() {
        let view = Some(Creates::View("v".into()));
        let stream = Some(Creates::Stream("s".into()));
        for (exists, applied, creates, decision) in [
            (false, None, &view, Decision::Run),
            (false, Some("old"), &view, Decision::Run),
            (true, Some("sql"), &view, Decision::Keep),
            (true, Some("old"), &view, Decision::Replace),
            (true, None, &view, Decision::Replace),
            (true, Some("sql"), &stream, Decision::Keep),
            (true, Some("old"), &stream, Decision::Evolve),
            (true, None, &stream, Decision::Run),
        ] {
            assert_eq!(decide("sql", exists, applied, creates), decision);
        }
    }
}
