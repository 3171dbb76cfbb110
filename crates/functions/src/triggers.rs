//! The triggers that run: started with a deployment, stopped before the next one takes over.
//!
//! A trigger's place in the log outlives its deployment, so that the next one goes on where it stopped.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use lambic_base::supervised;
use lambic_model::{Append, Cursor, FunctionName, StreamId};
use tokio::sync::watch;

use crate::{
    Error, Function, FunctionInfo, Inner, Trigger,
    entry::Entry,
    mapping::{self, Cut, Worker},
    pool::Tenant,
    program::Program,
    registry::Mapping,
    rules::Rules,
};

/// Of every function, how to stop its triggers.
#[derive(Default)]
pub struct Triggers(Mutex<BTreeMap<FunctionName, Vec<Running>>>);

/// Streams that the log keeps whole, from before the starts of new triggers are taken until those serve.
#[derive(Default)]
pub struct Starting(Mutex<Vec<StreamId>>);

impl Starting {
    pub fn keep(&self, streams: Vec<StreamId>) -> Held<'_> {
        *self.0.lock().expect("held shortly") = streams;
        Held(self)
    }

    pub fn streams(&self) -> Vec<StreamId> {
        self.0.lock().expect("held shortly").clone()
    }
}

/// Ends what [`Starting`] keeps: there is one deployment at a time.
pub struct Held<'a>(&'a Starting);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.lock().expect("held shortly").clear();
    }
}

struct Running {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Inner {
    /// The places of the triggers in the log: kept for streams that had one, new and durable for others. Nothing
    /// behind the new ones leaves the log while they are held.
    pub(crate) async fn mappings(
        &self,
        info: &FunctionInfo,
        former: Option<&Function>,
    ) -> Result<(Vec<Mapping>, Held<'_>), Error> {
        let mut mappings = Vec::new();
        let mut cursors = Vec::new();
        let find = |trigger: &Trigger| {
            (self.options.lookup)(trigger.stream.as_str()).ok_or_else(|| Error::UnknownStream {
                name: info.name.to_string(),
                stream: trigger.stream.to_string(),
            })
        };
        let streams = info.triggers.iter().map(find);
        let streams = streams.collect::<Result<Vec<_>, _>>()?;
        let held = self
            .starting
            .keep(streams.iter().map(|stream| stream.id).collect());
        let snapshot = self.options.log.snapshot();
        for (trigger, stream) in info.triggers.iter().zip(streams) {
            let kept = former
                .into_iter()
                .flat_map(|former| &former.mappings)
                .find(|mapping| {
                    mapping.stream_id == stream.id
                        // Whatever number of lanes it has.
                        && mapping::position(&self.options.log, &mapping.cursor).is_some()
                });
            if let Some(kept) = kept {
                mappings.push(kept.clone());
                continue;
            }
            let cursor = format!(
                "functions/{}/{}/{}",
                info.name,
                stream.name,
                uuid::Uuid::now_v7()
            );
            cursors.push(Cursor {
                name: cursor.clone(),
                stream: stream.id,
                frontier: mapping::start_of(&snapshot, &stream, trigger.start),
            });
            mappings.push(Mapping {
                stream: stream.name.clone(),
                stream_id: stream.id,
                cursor,
            });
        }
        if !cursors.is_empty() {
            let append = Append {
                cursors,
                ..Append::default()
            };
            self.options.log.append(append).await?;
        }
        Ok((mappings, held))
    }

    /// Lets a deployment take over and starts its triggers where the former ones stopped.
    pub(crate) async fn put(
        self: &Arc<Self>,
        function: Function,
        program: Program,
        warm: Option<Tenant>,
    ) {
        let name = function.info.name.clone();
        self.stop_triggers(&name).await;
        let function = {
            let mut slots = self.slots.write().expect("held shortly");
            let turns = slots.turns(&function);
            let entry = Arc::new(Entry::new(
                function.info.clone(),
                Some(program),
                turns.clone(),
                &self.options,
            ));
            if let Some(tenant) = warm {
                entry.pool.put(tenant);
            }
            let function = Arc::new(function);
            slots.put(function.clone(), entry, turns);
            function
        };
        self.changed();
        self.start_triggers(&function);
    }

    /// Of a function whose triggers are stopped.
    pub(crate) fn start_triggers(self: &Arc<Self>, function: &Function) {
        let name = &function.info.name;
        let of_deployment = function.mappings.iter().map(|mapping| {
            let mut triggers = function.info.triggers.iter();
            let trigger = triggers.find(|trigger| trigger.stream == mapping.stream);
            let rules = trigger.map_or_else(Rules::of_triggers, |trigger| trigger.rules.clone());
            let cut = match rules.bisects {
                true => Cut::AfterRetries,
                false => Cut::Never,
            };
            let tries = (function.info.retries, cut);
            (mapping, trigger, name.to_string(), tries, rules)
        });
        let sources = function.sources.values().filter(|source| source.is_enabled);
        let of_sources = sources.map(|source| {
            let target = source.target(name);
            let cut = match source.rules.bisects {
                true => Cut::AtOnce,
                false => Cut::Never,
            };
            let tries = (source.retries.unwrap_or(u32::MAX), cut);
            let trigger = Some(&source.trigger);
            (
                &source.mapping,
                trigger,
                target,
                tries,
                source.rules.clone(),
            )
        });
        let mut running = Vec::new();
        for (mapping, trigger, target, (retries, cut), rules) in of_deployment.chain(of_sources) {
            let stream = (self.options.lookup)(mapping.stream.as_str())
                .filter(|stream| stream.id == mapping.stream_id);
            let (Some(trigger), Some(stream)) = (trigger, stream) else {
                tracing::warn!(function = %name, stream = %mapping.stream,
                    "a trigger's stream does not exist any more: delete the mapping and make it again, or deploy the function again \
                    if the trigger is a part of its deployment");
                continue;
            };
            let (stop, stopped) = watch::channel(false);
            let worker = Worker {
                inner: self.clone(),
                function: name.clone(),
                target,
                retries,
                cut,
                rules,
                trigger: trigger.clone(),
                mapping: mapping.clone(),
                stream,
                stop: stopped,
            };
            running.push(Running {
                stop,
                task: tokio::spawn(supervised("a trigger", move || worker.clone().run())),
            });
        }
        self.triggers
            .0
            .lock()
            .expect("held shortly")
            .insert(name.clone(), running);
    }

    pub(crate) async fn stop_triggers(&self, name: &FunctionName) {
        let running = self.triggers.0.lock().expect("held shortly").remove(name);
        for Running { stop, task } in running.into_iter().flatten() {
            stop.send_replace(true);
            let _ = task.await;
        }
    }

    pub(crate) async fn drop_cursors(&self, former: &[Mapping], kept: &[Mapping]) {
        for mapping in former.iter().filter(|mapping| !kept.contains(mapping)) {
            for cursor in mapping::cursor_names(&self.options.log, &mapping.cursor) {
                if let Err(error) = self.options.log.drop_cursor(&cursor).await {
                    tracing::warn!(%error, cursor, "a cursor nobody needs was not dropped");
                }
            }
            let mut processed = self.processed.lock().expect("held shortly");
            processed.remove(&mapping.cursor);
            drop(processed);
            mapping::remove_windows(&self.options.dir, &mapping.cursor);
        }
    }
}
