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
use lambic_functions::{Code, Deployment};
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
    /// What created each stream and view, as text.
    applied: BTreeMap<String, String>,
    /// What each function was deployed from in this run of the program.
    functions: HashMap<String, (Function, Fingerprint)>,
}

/// Names, sizes and times of a folder's files.
type Fingerprint = BTreeSet<(PathBuf, u64, SystemTime)>;

/// What a round of applying changed, for the user to read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<String>);

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
        })
    }

    /// Stops at the first group (streams, functions, views) with mistakes, because later groups stand
    /// on earlier ones; what was applied before stays.
    pub async fn apply(&mut self, engine: &Engine, project: &Project) -> Result<Changes, Problems> {
        let mut changes = Changes::default();
        let mut problems = Problems::default();
        for statement in &project.streams {
            self.statement(engine, statement, &mut changes, &mut problems)
                .await;
        }
        if problems.0.is_empty() {
            for (name, function) in &project.manifest.functions {
                match self.function(engine, project, name, function).await {
                    Ok(true) => changes.0.push(format!("function {name} deployed")),
                    Ok(false) => {}
                    Err(error) => problems.0.push(format!(
                        "{}: function `{name}`: {error:#}",
                        project.folder.join("lambic.toml").display()
                    )),
                }
            }
        }
        if problems.0.is_empty() {
            for statement in &project.views {
                self.statement(engine, statement, &mut changes, &mut problems)
                    .await;
            }
        }
        if let Err(error) = self.remember() {
            problems.0.push(format!("{error:#}"));
        }
        if problems.0.is_empty() {
            Ok(changes)
        } else {
            Err(problems)
        }
    }

    async fn statement(
        &mut self,
        engine: &Engine,
        statement: &Statement,
        changes: &mut Changes,
        problems: &mut Problems,
    ) {
        let creates = statement.creates();
        let (key, exists) = match &creates {
            Some(Creates::Stream(name)) => (
                format!("stream {name}"),
                engine.database.stream(name).is_some(),
            ),
            Some(Creates::View(name)) => (
                format!("view {name}"),
                engine
                    .database
                    .views()
                    .iter()
                    .any(|view| view.name == *name),
            ),
            None => {
                problems.0.push(statement.place(None).render(
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
            Decision::Refuse => problems.0.push(statement.place(None).render(
                &format!("{key} exists with another definition, and what was appended does not change"),
                Some("give the new stream another name, or drop this one with its records: lambic stream drop"),
            )),
            Decision::Run => {
                let ran = engine.database.execute(&Session::default(), &statement.sql).await;
                self.ran(ran.err(), |position| position, statement, key, "created", changes, problems);
            }
            Decision::Replace => {
                let (sql, back) = statement.replacing();
                let ran = engine.database.execute(&Session::default(), &sql).await;
                self.ran(ran.err(), back, statement, key, "replaced", changes, problems);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn ran(
        &mut self,
        error: Option<lambic_query::Error>,
        back: impl Fn(usize) -> usize,
        statement: &Statement,
        key: String,
        done: &str,
        changes: &mut Changes,
        problems: &mut Problems,
    ) {
        match error {
            None => {
                changes.0.push(format!("{key} {done}"));
                self.applied.insert(key, statement.sql.clone());
            }
            Some(error) => {
                let hint = [error.detail, error.hint]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join("\n  ");
                problems.0.push(
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
        let print = fingerprint(&folder)?;
        if self.functions.get(name) == Some(&(function.clone(), print.clone())) {
            return Ok(false);
        }
        engine
            .functions
            .deploy(deployment(name, function, &folder)?)
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

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Keep,
    Run,
    Replace,
    Refuse,
}

/// What to do with a statement, given what exists and what created it.
fn decide(sql: &str, exists: bool, applied: Option<&str>, creates: &Option<Creates>) -> Decision {
    match (exists, creates) {
        (false, _) => Decision::Run,
        (true, _) if applied == Some(sql) => Decision::Keep,
        (true, Some(Creates::View(_))) => Decision::Replace,
        // It was created by other means; `IF NOT EXISTS` says that this is fine.
        (true, _) if applied.is_none() => Decision::Run,
        (true, _) => Decision::Refuse,
    }
}

fn deployment(name: &str, function: &Function, folder: &Path) -> anyhow::Result<Deployment> {
    let runtime = match function.runtime {
        Runtime::Wasm => lambic_functions::Runtime::Wasm,
        Runtime::Python => lambic_functions::Runtime::Python,
    };
    let mut deployment = Deployment::new(
        FunctionName::new(name)?,
        runtime,
        Code::Folder(folder.to_owned()),
    );
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
    Ok(deployment)
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
            (true, Some("old"), &stream, Decision::Refuse),
            (true, None, &stream, Decision::Run),
        ] {
            assert_eq!(decide("sql", exists, applied, creates), decision);
        }
    }
}
