//! Functions' own URLs by their ids, with everything that answering at one needs: nobody looks through all functions for
//! it, or copies one.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use lambic_model::FunctionName;

use crate::{Function, Policy, Qualifier, Url};

/// What is found under an id. It never changes: a function that changes has new ones.
#[derive(Debug)]
pub struct Endpoint {
    pub name: FunctionName,
    pub qualifier: Qualifier,
    pub url: Url,
    pub policy: Option<Policy>,
    is_open: OnceLock<bool>,
}

impl Endpoint {
    pub fn new(
        name: FunctionName,
        qualifier: Qualifier,
        url: Url,
        policy: Option<Policy>,
    ) -> Endpoint {
        Endpoint {
            name,
            qualifier,
            url,
            policy,
            is_open: OnceLock::new(),
        }
    }

    /// Whether it lets everybody in: decided once, by the first one who asks.
    pub fn is_open(&self, decide: impl FnOnce(&Endpoint) -> bool) -> bool {
        *self.is_open.get_or_init(|| decide(self))
    }
}

#[derive(Default)]
pub struct Endpoints(HashMap<String, Arc<Endpoint>>);

impl Endpoints {
    pub fn get(&self, id: &str) -> Option<Arc<Endpoint>> {
        self.0.get(id).cloned()
    }

    pub fn put(&mut self, function: &Function) {
        for (qualifier, url) in &function.urls {
            let endpoint = Endpoint::new(
                function.info.name.clone(),
                qualifier.clone(),
                url.clone(),
                function.policies.get(qualifier).cloned(),
            );
            self.0.insert(url.id.clone(), Arc::new(endpoint));
        }
    }

    pub fn forget(&mut self, function: &Function) {
        for url in function.urls.values() {
            self.0.remove(&url.id);
        }
    }
}
