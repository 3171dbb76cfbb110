//! What serves: of every function its latest deployment, and the published versions that were invoked.

use std::{collections::BTreeMap, sync::Arc};

use lambic_model::FunctionName;

use crate::{
    Error, Function, FunctionVersion, Options, Qualifier, entry::Entry, turns::Turns, version,
};

#[derive(Default)]
pub struct Slots(BTreeMap<FunctionName, Slot>);

struct Slot {
    function: Arc<Function>,
    latest: Arc<Entry>,
    turns: Arc<Turns>,
    /// Their code stays ready while others are deployed.
    versions: BTreeMap<u64, Arc<Entry>>,
}

impl Slot {
    fn entry(&mut self, version: FunctionVersion, options: &Options) -> Result<Arc<Entry>, Error> {
        let FunctionVersion::Number(number) = version else {
            return Ok(self.latest.clone());
        };
        if let Some(entry) = self.versions.get(&number) {
            return Ok(entry.clone());
        }
        let info = self.function.version(version)?.clone();
        let entry = Arc::new(Entry::new(info, None, self.turns.clone(), options));
        self.versions.insert(number, entry.clone());
        Ok(entry)
    }
}

impl Slots {
    /// In the order of their names.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<Function>> {
        self.0.values().map(|slot| &slot.function)
    }

    pub fn function(&self, name: &str) -> Option<Arc<Function>> {
        Some(self.0.get(name)?.function.clone())
    }

    pub fn latest(&self, name: &str) -> Option<Arc<Entry>> {
        Some(self.0.get(name)?.latest.clone())
    }

    /// Of all functions.
    pub fn all_latest(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.values().map(|slot| &slot.latest)
    }

    /// Everything that may have environments.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let each = self.0.values();
        each.flat_map(|slot| slot.versions.values().chain([&slot.latest]))
    }

    /// What `name` or `name:qualifier` runs this time; `share` is drawn from 0 to 1.
    pub fn chosen(
        &mut self,
        name: &str,
        share: f64,
        options: &Options,
    ) -> Result<Arc<Entry>, Error> {
        let (name, qualifier) = version::split(name);
        self.chosen_of(name, qualifier.as_ref(), share, options)
    }

    pub fn chosen_of(
        &mut self,
        name: &str,
        qualifier: Option<&Qualifier>,
        share: f64,
        options: &Options,
    ) -> Result<Arc<Entry>, Error> {
        let slot = self.0.get_mut(name).ok_or_else(|| Error::NotFound {
            name: name.to_owned(),
        })?;
        let version = slot.function.chosen(qualifier, share)?;
        slot.entry(version, options)
    }

    /// The turns of a function, shared by all its versions and deployments.
    pub fn turns(&self, function: &Function, options: &Options) -> Arc<Turns> {
        let limit = function.info.concurrency.unwrap_or(options.concurrency);
        match self.0.get(function.info.name.as_str()) {
            Some(slot) => slot.turns.clone(),
            None => Arc::new(Turns::new(limit)),
        }
    }

    /// Lets a deployment take over. Published versions go on.
    pub fn put(
        &mut self,
        function: Arc<Function>,
        latest: Arc<Entry>,
        turns: Arc<Turns>,
        options: &Options,
    ) {
        turns.set_limit(function.info.concurrency.unwrap_or(options.concurrency));
        let name = function.info.name.clone();
        let versions = self.0.remove(name.as_str()).map(|slot| slot.versions);
        let slot = Slot {
            function,
            latest,
            turns,
            versions: versions.unwrap_or_default(),
        };
        self.0.insert(name, slot);
    }

    /// What is known of a function has changed, its code has not.
    pub fn change(&mut self, function: Arc<Function>, options: &Options) {
        let Some(slot) = self.0.get_mut(function.info.name.as_str()) else {
            return;
        };
        slot.turns
            .set_limit(function.info.concurrency.unwrap_or(options.concurrency));
        slot.versions
            .retain(|number, _| function.versions.contains_key(number));
        slot.function = function;
    }

    pub fn remove(&mut self, name: &FunctionName) {
        self.0.remove(name);
    }
}
