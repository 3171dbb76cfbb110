//! `CREATE MATERIALIZED VIEW`, which also makes new versions.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use datafusion::sql::sqlparser::ast::CreateView;
use lambic_view::{Definition, ViewVersion};

use super::{Database, done, exists};
use crate::{Error, Outcome, create, error::find_word};

impl Database {
    pub(super) async fn create_view(&self, view: &CreateView, sql: &str) -> Result<Outcome, Error> {
        let _one = self.0.changing.lock().await;
        let declared = create::view(view, sql)?;
        let name = declared.name.as_str();
        let former = self.0.sources.catalog().view(name).cloned();
        if self.names().iter().any(|known| known == name) {
            match &former {
                Some(_) if view.or_replace => {}
                Some(_) if view.if_not_exists => return Ok(done("CREATE MATERIALIZED VIEW")),
                _ => return Err(exists(name, sql)),
            }
        }
        let at = sql
            .find(&declared.query)
            .map(|byte| sql[..byte].chars().count())
            .unwrap_or(0);
        let plan = self
            .plan_view(&declared.query, &[])
            .await
            .map_err(|mut error| {
                error.position = error.position.map(|position| position + at);
                error
            })?;
        let definition = Definition {
            name: declared.name.clone(),
            version: ViewVersion(former.as_ref().map_or(1, |former| former.version.0 + 1)),
            functions: self.functions_in(&declared.query),
            sql: declared.query,
            batch_every: declared.batch_every,
        };
        if let Some(former) = &former
            && former.sql == definition.sql
            && former.batch_every == definition.batch_every
            && former.functions == definition.functions
        {
            return Ok(done("CREATE MATERIALIZED VIEW"));
        }
        let lifecycle = self.lifecycle()?;
        let plan = Arc::new(plan);
        let built = lifecycle.build_view(&definition, plan).await?;
        self.change(|catalog| catalog.put_view(definition.clone()))?;
        built.serve();
        if let Some(former) = former {
            lifecycle.drop_view(&former).await?;
        }
        Ok(done("CREATE MATERIALIZED VIEW"))
    }

    /// The functions that `sql` calls, with the digest of their code.
    fn functions_in(&self, sql: &str) -> BTreeMap<String, String> {
        let functions = self
            .0
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let called = functions
            .values()
            .filter(|function| find_word(sql, function.name()).is_some());
        called
            .map(|function| (function.name().to_owned(), function.digest().to_owned()))
            .collect()
    }
}
