//! Components that export plain functions: what SQL calls, of the code of today and of before.

use std::sync::Arc;

use lambic_model::ScalarFunction;
use lambic_sandbox::wasm;

use crate::{Functions, code, program::Program, wasm_limits};

impl Functions {
    /// The SQL function `name` of the code with this digest, whether it is deployed now or was before.
    pub fn scalar_of(&self, name: &str, digest: &str) -> Option<Arc<dyn ScalarFunction>> {
        let is_it =
            |scalar: &Arc<dyn ScalarFunction>| scalar.name() == name && scalar.digest() == digest;
        self.scalars().into_iter().find(is_it).or_else(|| {
            self.module_of(digest)?
                .scalars()
                .find(|scalar| scalar.name() == name)
        })
    }

    /// All SQL functions that are deployed now.
    pub fn scalars(&self) -> Vec<Arc<dyn ScalarFunction>> {
        let slots = self.0.slots.read().expect("held shortly");
        slots
            .all_latest()
            .filter_map(|entry| match entry.program() {
                Some(Program::Wasm { module, .. }) => Some(module.scalars()),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Code that was deployed, with the limits that it had.
    fn module_of(&self, digest: &str) -> Option<wasm::Module> {
        if !code::is_digest(digest) {
            return None;
        }
        let inner = &self.0;
        let limits = inner.registry.limits(digest);
        let limits = wasm_limits(
            limits.timeout_ms,
            limits.memory_mb,
            inner.options.log_bytes_max,
        );
        let dir = inner.registry.code_dir(digest);
        if !dir.exists() {
            return None;
        }
        code::read_component(&dir, digest)
            .and_then(|code| Ok(inner.wasm.load(&code, limits)?))
            .inspect_err(|error| tracing::error!(digest, %error, "former code does not load"))
            .ok()
    }
}
