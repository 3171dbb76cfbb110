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
                .values()
                .filter(|view| view.streams().iter().any(|input| input.id == stream.id));
            let views: Vec<String> = views
                .map(|view| format!("view {}", view.definition().name))
                .collect();
            self.0.building.check_stream(&stream)?;
            let functions = lifecycle
                .functions_of(name)
                .into_iter()
                .map(|function| format!("function {function}"));
            let dependents: Vec<String> = views.into_iter().chain(functions).collect();
            if !dependents.is_empty() {
                return Err(still_read(&format!("stream \"{name}\""), &dependents));
            }
            self.change(|catalog| catalog.remove_stream(name))?;
            let id = stream.id;
            lifecycle.remove_stream(stream).await?;
            self.change(|catalog| catalog.forget_dropped(id))?;
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
        let lifecycle = self.lifecycle()?;
        for name in names {
            match self.existing_view(name, sql) {
                Ok(_) => {}
                Err(error) if if_exists && error.sqlstate == sqlstate::UNDEFINED_TABLE => continue,
                Err(error) => return Err(error),
            }
            self.0.building.check_view(name)?;
            let views = self.0.sources.serving.views();
            let readers: Vec<String> = views
                .values()
                .filter(|view| view.views_read().iter().any(|read| read == name))
                .map(|view| format!("view {}", view.definition().name))
                .collect();
            if !readers.is_empty() {
                return Err(still_read(&format!("view \"{name}\""), &readers));
            }
            let mut versions = Vec::new();
            self.change(|catalog| {
                versions = catalog.remove_view(name)?;
                Ok(())
            })?;
            self.0.sources.serving.remove(name);
            self.mend(name);
            for version in versions {
                lifecycle.drop_view(&version).await?;
            }
        }
        Ok(done("DROP MATERIALIZED VIEW"))
    }
}

fn still_read(what: &str, dependents: &[String]) -> Error {
    let depend = if dependents.len() == 1 {
        "depends"
    } else {
        "depend"
    };
    let message = format!(
        "{what} cannot be dropped: {} {depend} on it",
        dependents.join(", ")
    );
    Error::new(sqlstate::DEPENDENT_OBJECTS, message).with_hint("drop those first")
}
