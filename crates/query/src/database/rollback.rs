//! `ALTER MATERIALIZED VIEW name ROLLBACK [TO VERSION n]`: a former version is served again.

use lambic_model::ScalarFunction;
use lambic_view::Definition;
use std::sync::Arc;

use super::{Database, done};
use crate::{Error, Outcome, sqlstate};

impl Database {
    pub(super) async fn rollback_view(
        &self,
        name: &str,
        version: Option<u32>,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let reserved = self.0.building.reserve(name)?;
        self.existing_view(name, sql)?;
        let definition = self.former_version(name, version)?;
        let lifecycle = self.lifecycle()?;
        let functions: Vec<Arc<dyn ScalarFunction>> = lifecycle.functions_of_view(&definition)?;
        let planned = self.plan_definition(&definition, &functions).await?;
        self.reserve_inputs(&reserved, &planned, sql)?;
        self.check_columns_there(&definition, &planned).await?;
        self.check_readers(name, &planned)?;
        // What is kept of it is brought up to the head before it takes over.
        let over = self.planned_over(&definition, &planned).await?;
        let built = lifecycle.reopen_view(&definition, planned).await?;
        self.switch(definition, built, reserved, over).await?;
        Ok(done("ALTER MATERIALIZED VIEW"))
    }

    pub(super) fn former_version(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Definition, Error> {
        let catalog = self.0.sources.catalog();
        let former = catalog.former_versions(name);
        let found = match version {
            None => former.last(),
            Some(version) => former.iter().find(|kept| kept.version.0 == version),
        };
        if let Some(found) = found {
            return Ok(found.clone());
        }
        let kept: Vec<String> = former.iter().map(|kept| kept.version.to_string()).collect();
        let message = match version {
            None => format!("view \"{name}\" has no former version"),
            Some(version) => format!("view \"{name}\" has no former version {version}"),
        };
        let hint = match kept.is_empty() {
            true => {
                "CREATE OR REPLACE MATERIALIZED VIEW makes a new version and keeps the one before"
                    .to_owned()
            }
            false => format!("versions kept: {}", kept.join(", ")),
        };
        Err(Error::new(sqlstate::INVALID_PARAMETER, message).with_hint(hint))
    }
}
