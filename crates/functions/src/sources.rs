//! Event source mappings that were made one by one, by AWS's API; those of a deployment are its triggers.
//!
//! Each has a UUID and a place of its own in the log. It belongs to a function, and may run a version or alias of it.

use std::{collections::BTreeMap, sync::Arc};

use lambic_model::{Append, Cursor, FunctionName, Stream, StreamName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, Function, FunctionInfo, Functions, Inner, Qualifier, Trigger, blocking,
    check::{check_trigger, check_trigger_of},
    deploy::to_the_end,
    mapping,
    registry::Mapping,
    rules::Rules,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventSource {
    pub trigger: Trigger,
    pub(crate) mapping: Mapping,
    pub qualifier: Option<Qualifier>,
    pub is_enabled: bool,
    /// How often a failed batch is tried again; `None`: for ever, AWS's default.
    pub retries: Option<u32>,
    #[serde(
        default = "Rules::of_triggers",
        skip_serializing_if = "Rules::are_of_triggers"
    )]
    pub rules: Rules,
    /// Members of AWS's that are given back and change nothing here.
    pub kept: BTreeMap<String, Value>,
    pub changed_at_us: i64,
}

/// A mapping that is to be made.
#[derive(Debug, Clone)]
pub struct NewSource {
    pub trigger: Trigger,
    pub qualifier: Option<Qualifier>,
    pub is_enabled: bool,
    pub retries: Option<u32>,
    pub rules: Rules,
    pub kept: BTreeMap<String, Value>,
}

impl EventSource {
    /// What it invokes: `f` or `f:live`.
    pub(crate) fn target(&self, function: &FunctionName) -> String {
        match &self.qualifier {
            Some(qualifier) => format!("{function}:{qualifier}"),
            None => function.to_string(),
        }
    }
}

/// `f:$LATEST` is `f`.
fn is_no_latest(qualifier: &Qualifier) -> bool {
    *qualifier != Qualifier::LATEST
}

/// Whether the stream invokes that version or alias already, by another mapping than `uuid` or by a deployment's trigger.
fn is_fed(
    function: &Function,
    uuid: Option<&str>,
    trigger: &Trigger,
    qualifier: Option<&Qualifier>,
) -> bool {
    let mut sources = function.sources.iter();
    let mut triggers = function.info.triggers.iter();
    sources.any(|(id, source)| {
        Some(id.as_str()) != uuid
            && source.trigger.stream == trigger.stream
            && source.qualifier.as_ref() == qualifier
    }) || qualifier.is_none() && triggers.any(|other| other.stream == trigger.stream)
}

fn fed(name: &FunctionName, trigger: &Trigger) -> Error {
    Error::Conflict {
        reason: format!(
            "An event source mapping with stream {} and function {name} already exists. Please update or delete the existing mapping",
            trigger.stream
        ),
    }
}

/// Another stream of that name has other records.
const STREAM_GONE: &str =
    "PROBLEM: the stream does not exist any more; delete the mapping and make it again";

impl Functions {
    /// All of them by function and UUID.
    pub fn sources(&self) -> Vec<(FunctionName, String, EventSource)> {
        let of = |function: &Arc<Function>| {
            let name = function.info.name.clone();
            let sources = function.sources.clone().into_iter();
            sources.map(move |(uuid, source)| (name.clone(), uuid, source))
        };
        self.functions().iter().flat_map(of).collect()
    }

    /// How its last batch went since the server started, in AWS's words, and how many records no filter let through.
    pub fn processed(&self, source: &EventSource) -> String {
        let (stream, id) = (&source.mapping.stream, source.mapping.stream_id);
        if (self.0.options.lookup)(stream.as_str()).is_none_or(|there| there.id != id) {
            return STREAM_GONE.to_owned();
        }
        let processed = self.0.processed.lock().expect("held shortly");
        let processed = processed.get(&source.mapping.cursor).copied();
        let processed = processed.unwrap_or_default();
        let last = processed.last.unwrap_or("No records processed");
        match processed.filtered {
            0 => last.to_owned(),
            filtered => format!("{last} ({filtered} filtered out)"),
        }
    }

    /// What [`Functions::create_source`] would refuse once the function and the version or alias are there. That there is
    /// such a mapping already is none of it.
    pub fn check_source(
        &self,
        name: &FunctionName,
        qualifier: Option<&Qualifier>,
        trigger: &Trigger,
        rules: &Rules,
    ) -> Result<(), Error> {
        let former = self.0.existing(name).ok();
        let info = former.as_ref().map(|former| &former.info);
        let is_latest = qualifier.is_none_or(|qualifier| !is_no_latest(qualifier));
        let mut triggers = info.into_iter().flat_map(|info| &info.triggers);
        if is_latest && triggers.any(|other| other.stream == trigger.stream) {
            return Err(fed(name, trigger));
        }
        let output = info.and_then(|info| info.output.as_ref());
        self.0
            .check_new_source(name, output, trigger, rules)
            .map(drop)
    }

    /// What [`Functions::update_source`] would refuse of a mapping that became `source`, as long as it stays where it is.
    pub fn check_changed_source(
        &self,
        name: &FunctionName,
        source: &EventSource,
    ) -> Result<(), Error> {
        let function = self.0.existing(name)?;
        self.0.check_changed(&function.info, source)
    }

    /// Starts to read where `trigger.start` says, and invokes the function from then on.
    pub async fn create_source(
        &self,
        name: &FunctionName,
        new: NewSource,
    ) -> Result<(String, EventSource), Error> {
        let (inner, name) = (self.0.clone(), name.clone());
        to_the_end(async move {
            let _one = inner.deploying.lock().await;
            inner.check_open()?;
            let former = inner.existing(&name)?;
            let new = NewSource {
                qualifier: new.qualifier.filter(is_no_latest),
                ..new
            };
            if is_fed(&former, None, &new.trigger, new.qualifier.as_ref()) {
                return Err(fed(&name, &new.trigger));
            }
            let output = former.at(new.qualifier.as_ref())?.output.as_ref();
            let stream = inner.check_new_source(&name, output, &new.trigger, &new.rules)?;
            let uuid = uuid::Uuid::now_v7().to_string();
            let _held = inner.starting.keep(vec![stream.id]);
            let snapshot = inner.options.log.snapshot();
            let mapping = Mapping {
                stream: stream.name.clone(),
                stream_id: stream.id,
                cursor: format!("functions/{name}/{}/{uuid}", stream.name),
            };
            let append = Append {
                cursors: vec![Cursor {
                    name: mapping.cursor.clone(),
                    stream: stream.id,
                    frontier: mapping::start_of(&snapshot, &stream, new.trigger.start),
                }],
                ..Append::default()
            };
            inner.options.log.append(append).await?;
            let source = EventSource {
                trigger: new.trigger,
                mapping,
                qualifier: new.qualifier,
                is_enabled: new.is_enabled,
                retries: new.retries,
                rules: new.rules,
                kept: new.kept,
                changed_at_us: inner.options.clock.now_us(),
            };
            let mut function = Function::clone(&former);
            function.sources.insert(uuid.clone(), source.clone());
            inner.keep_sources(function).await?;
            Ok((uuid, source))
        })
        .await
    }

    /// Its stream and its place stay; the rest may change.
    pub async fn update_source(
        &self,
        uuid: &str,
        change: impl FnOnce(&mut EventSource) -> Result<(), Error> + Send + 'static,
    ) -> Result<(FunctionName, EventSource), Error> {
        let (inner, uuid) = (self.0.clone(), uuid.to_owned());
        to_the_end(async move {
            let _one = inner.deploying.lock().await;
            inner.check_open()?;
            let (mut function, former) = inner.with_source(&uuid)?;
            let mut source = former.clone();
            change(&mut source)?;
            source.mapping = former.mapping;
            source.trigger.stream = former.trigger.stream;
            source.changed_at_us = inner.options.clock.now_us();
            if source.qualifier != former.qualifier {
                source.qualifier = source.qualifier.filter(is_no_latest);
                check_trigger(function.at(source.qualifier.as_ref())?, &source.trigger)?;
                let qualifier = source.qualifier.as_ref();
                if is_fed(&function, Some(&uuid), &source.trigger, qualifier) {
                    return Err(Error::Conflict {
                        reason: format!(
                            "stream {} invokes that version or alias already",
                            source.trigger.stream
                        ),
                    });
                }
            }
            inner.check_changed(&function.info, &source)?;
            function.sources.insert(uuid, source.clone());
            let name = function.info.name.clone();
            inner.keep_sources(function).await?;
            Ok((name, source))
        })
        .await
    }

    /// The records that it did not read yet stay unread.
    pub async fn remove_source(&self, uuid: &str) -> Result<(FunctionName, EventSource), Error> {
        let (inner, uuid) = (self.0.clone(), uuid.to_owned());
        to_the_end(async move {
            let _one = inner.deploying.lock().await;
            inner.check_open()?;
            let (mut function, source) = inner.with_source(&uuid)?;
            function.sources.remove(&uuid);
            let name = function.info.name.clone();
            inner.keep_sources(function).await?;
            let former = std::slice::from_ref(&source.mapping);
            inner.drop_cursors(former, &[]).await;
            Ok((name, source))
        })
        .await
    }
}

impl Inner {
    /// Of a mapping that is to be made; gives its stream. `output` is that of what it invokes.
    fn check_new_source(
        &self,
        name: &FunctionName,
        output: Option<&StreamName>,
        trigger: &Trigger,
        rules: &Rules,
    ) -> Result<Arc<Stream>, Error> {
        check_trigger_of(name, output, trigger)?;
        let stream = (self.options.lookup)(trigger.stream.as_str());
        let stream = stream.ok_or_else(|| Error::UnknownStream {
            name: name.to_string(),
            stream: trigger.stream.to_string(),
        })?;
        rules.check(name, &stream)?;
        Ok(stream)
    }

    /// Of a mapping that is there: it may stay when its stream does not.
    fn check_changed(&self, info: &FunctionInfo, source: &EventSource) -> Result<(), Error> {
        check_trigger(info, &source.trigger)?;
        match (self.options.lookup)(source.trigger.stream.as_str()) {
            Some(stream) => source.rules.check(&info.name, &stream),
            None => Ok(()),
        }
    }

    fn with_source(&self, uuid: &str) -> Result<(Function, EventSource), Error> {
        let slots = self.slots.read().expect("held shortly");
        let mut functions = slots.functions();
        let found = functions.find_map(|function| {
            let source = function.sources.get(uuid)?;
            Some((Function::clone(function), source.clone()))
        });
        found.ok_or_else(|| Error::Missing {
            name: format!("event source mapping {uuid}"),
        })
    }

    async fn keep_sources(self: &Arc<Self>, function: Function) -> Result<(), Error> {
        let (registry, kept) = (self.registry.clone(), function.clone());
        blocking(move || registry.save(&kept)).await?;
        self.stop_triggers(&function.info.name).await;
        let function = Arc::new(function);
        {
            let mut slots = self.slots.write().expect("held shortly");
            slots.change(function.clone());
        }
        self.start_triggers(&function);
        Ok(())
    }
}
