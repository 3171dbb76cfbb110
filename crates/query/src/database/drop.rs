//! `DROP STREAM` and `DROP MATERIALIZED VIEW`.

use super::{Database, done};
use crate::{Catalog, Error, Outcome, error::undefined_table, sqlstate};

impl Database {
    pub(super) async fn drop_streams(
        &self,
        names: &[String],
        if_exists: bool,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let _one = self.0.changing.lock().await;
        let lifecycle = self.lifecycle()?;
        for name in names {
            let Some(stream) = self.stream(name) else {
                if self.0.sources.catalog().view(name).is_some() {
                    return Err(Error::new(
                        sqlstate::WRONG_OBJECT_TYPE,
                        format!("\"{name}\" is a view"),
                    )
                    .with_hint("DROP MATERIALIZED VIEW drops it"));
                }
                if if_exists {
                    continue;
                }
                return Err(undefined_table(name, sql, &self.names()));
            };
            if Catalog::is_system(&stream) {
                return Err(Error::new(
                    sqlstate::INSUFFICIENT_PRIVILEGE,
                    format!("\"{name}\" is the system's own"),
                ));
            }
            let views = self.0.sources.serving.views();
            let views = views
                .iter()
                .filter(|view| view.plan().inputs.iter().any(|input| input.id == stream.id));
            let views: Vec<String> = views
                .map(|view| format!("view {}", view.definition().name))
                .collect();
            let functions = lifecycle
                .functions_of(name)
                .into_iter()
                .map(|function| format!("function {function}"));
            let dependents: Vec<String> = views.into_iter().chain(functions).collect();
            if !dependents.is_empty() {
                let message = format!(
                    "stream \"{name}\" cannot be dropped: {} depend on it",
                    dependents.join(", ")
                );
                return Err(
                    Error::new(sqlstate::DEPENDENT_OBJECTS, message).with_hint("drop those first")
                );
            }
            self.change(|catalog| catalog.remove_stream(name))?;
            lifecycle.remove_stream(stream).await?;
        }
        Ok(done("DROP STREAM"))
    }

    pub(super) async fn drop_views(
        &self,
        names: &[String],
        if_exists: bool,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let _one = self.0.changing.lock().await;
        for name in names {
            let definition = match self.existing_view(name, sql) {
                Ok(definition) => definition,
                Err(error) if if_exists && error.sqlstate == sqlstate::UNDEFINED_TABLE => continue,
                Err(error) => return Err(error),
            };
            self.change(|catalog| catalog.remove_view(name))?;
            self.0.sources.serving.remove(name);
            self.lifecycle()?.drop_view(&definition).await?;
        }
        Ok(done("DROP MATERIALIZED VIEW"))
    }
}
