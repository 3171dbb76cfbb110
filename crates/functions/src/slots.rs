//! What serves: of every function its latest deployment, and the published versions that were invoked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use lambic_model::FunctionName;

use crate::{
    Endpoint, Error, Function, FunctionVersion, Options, Qualifier,
    burst::Burst,
    endpoint::Endpoints,
    entry::Entry,
    fair::Fair,
    turns::{Turns, unreserved},
};

pub struct Slots {
    by_name: BTreeMap<FunctionName, Slot>,
    endpoints: Endpoints,
    /// How many invocations run at one time of all functions, and what of it no function reserves.
    concurrency: usize,
    shared: Arc<Fair>,
    /// How fast the environments of each may become more.
    starts_at_once: u32,
    start_every: Duration,
    /// Everything that was made ready and may still run, also if something else has taken over.
    made: Vec<Weak<Entry>>,
}

struct Slot {
    function: Arc<Function>,
    latest: Arc<Entry>,
    turns: Arc<Turns>,
    /// Their code stays ready while others are deployed.
    versions: BTreeMap<u64, Arc<Entry>>,
}

impl Slot {
    fn entry(
        &mut self,
        version: FunctionVersion,
        options: &Options,
        made: &mut Vec<Weak<Entry>>,
    ) -> Result<Arc<Entry>, Error> {
        let FunctionVersion::Number(number) = version else {
            return Ok(self.latest.clone());
        };
        if let Some(entry) = self.versions.get(&number) {
            return Ok(entry.clone());
        }
        let info = self.function.version(version)?.clone();
        let entry = Arc::new(Entry::new(info, None, self.turns.clone(), options));
        self.versions.insert(number, entry.clone());
        made.push(Arc::downgrade(&entry));
        Ok(entry)
    }
}

impl Slots {
    pub fn new(options: &Options) -> Slots {
        Slots {
            by_name: BTreeMap::new(),
            endpoints: Endpoints::default(),
            concurrency: options.concurrency,
            shared: Fair::new(options.concurrency as u64),
            starts_at_once: options.starts_at_once,
            start_every: options.start_every,
            made: Vec::new(),
        }
    }

    /// In the order of their names.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<Function>> {
        self.by_name.values().map(|slot| &slot.function)
    }

    pub fn function(&self, name: &str) -> Option<Arc<Function>> {
        Some(self.by_name.get(name)?.function.clone())
    }

    /// By the id of its URL.
    pub fn endpoint(&self, id: &str) -> Option<Arc<Endpoint>> {
        self.endpoints.get(id)
    }

    pub fn latest(&self, name: &str) -> Option<Arc<Entry>> {
        Some(self.by_name.get(name)?.latest.clone())
    }

    /// Of all functions.
    pub fn all_latest(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_name.values().map(|slot| &slot.latest)
    }

    /// A version, made ready to be invoked if it was not.
    pub fn at(
        &mut self,
        name: &str,
        version: FunctionVersion,
        options: &Options,
    ) -> Option<Arc<Entry>> {
        let slot = self.by_name.get_mut(name)?;
        slot.entry(version, options, &mut self.made).ok()
    }

    /// The same, if somebody needed it before.
    pub fn present(&self, name: &str, version: FunctionVersion) -> Option<&Arc<Entry>> {
        let slot = self.by_name.get(name)?;
        match version {
            FunctionVersion::Latest => Some(&slot.latest),
            FunctionVersion::Number(number) => slot.versions.get(&number),
        }
    }

    /// Everything that may have environments.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let each = self.by_name.values();
        each.flat_map(|slot| slot.versions.values().chain([&slot.latest]))
    }

    /// Everything that may still run, also what something else has taken over from.
    pub fn made(&self) -> impl Iterator<Item = Arc<Entry>> {
        self.made.iter().filter_map(Weak::upgrade)
    }

    /// What a function runs this time, if somebody needed that version before; `share` is drawn from 0 to 1.
    pub fn chosen_present(
        &self,
        name: &str,
        qualifier: Option<&Qualifier>,
        share: f64,
    ) -> Result<Option<Arc<Entry>>, Error> {
        let slot = self.by_name.get(name).ok_or_else(|| Error::NotFound {
            name: name.to_owned(),
        })?;
        let version = slot.function.chosen(qualifier, share)?;
        Ok(self.present(name, version).cloned())
    }

    /// The same, made ready to be invoked if it was not.
    pub fn chosen_of(
        &mut self,
        name: &str,
        qualifier: Option<&Qualifier>,
        share: f64,
        options: &Options,
    ) -> Result<Arc<Entry>, Error> {
        let slot = self.by_name.get_mut(name).ok_or_else(|| Error::NotFound {
            name: name.to_owned(),
        })?;
        let version = slot.function.chosen(qualifier, share)?;
        slot.entry(version, options, &mut self.made)
    }

    /// The turns of a function, shared by all its versions and deployments.
    pub fn turns(&self, function: &Function) -> Arc<Turns> {
        let info = &function.info;
        match self.by_name.get(info.name.as_str()) {
            Some(slot) => slot.turns.clone(),
            None => Arc::new(Turns::new(
                info.name.as_str(),
                info.concurrency,
                self.shared.clone(),
                Burst::new(self.starts_at_once, self.start_every, Instant::now()),
            )),
        }
    }

    /// Lets a deployment take over. Published versions go on.
    pub fn put(&mut self, function: Arc<Function>, latest: Arc<Entry>, turns: Arc<Turns>) {
        turns.set_reserved(function.info.concurrency);
        let name = function.info.name.clone();
        self.made.retain(|made| made.strong_count() > 0);
        self.made.push(Arc::downgrade(&latest));
        let former = self.by_name.remove(name.as_str());
        if let Some(former) = &former {
            self.endpoints.forget(&former.function);
        }
        self.endpoints.put(&function);
        let versions = former.map(|slot| slot.versions);
        let slot = Slot {
            function,
            latest,
            turns,
            versions: versions.unwrap_or_default(),
        };
        self.by_name.insert(name, slot);
        self.share();
    }

    /// What is known of a function has changed, its code has not.
    pub fn change(&mut self, function: Arc<Function>) {
        let Some(slot) = self.by_name.get_mut(function.info.name.as_str()) else {
            return;
        };
        slot.turns.set_reserved(function.info.concurrency);
        slot.versions
            .retain(|number, _| function.versions.contains_key(number));
        self.endpoints.forget(&slot.function);
        self.endpoints.put(&function);
        slot.function = function;
        self.share();
    }

    pub fn remove(&mut self, name: &FunctionName) {
        if let Some(slot) = self.by_name.remove(name) {
            self.endpoints.forget(&slot.function);
        }
        self.share();
    }

    /// What is reserved now is nobody else's.
    fn share(&self) {
        let reserved = self
            .functions()
            .filter_map(|function| function.info.concurrency)
            .fold(0_usize, usize::saturating_add);
        self.shared
            .set_limit(unreserved(self.concurrency, reserved) as u64);
    }
}
