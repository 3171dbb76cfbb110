//! `CREATE STREAM`.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::CreateTable;

use super::{Database, done, exists};
use crate::{Error, Outcome, create, statement::name_of};

impl Database {
    pub(super) async fn create_stream(
        &self,
        table: &CreateTable,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let _one = self.0.changing.lock().await;
        let name = name_of(&table.name)?;
        let _reserved = self.0.building.reserve(&name)?;
        if self.names().contains(&name) {
            if table.if_not_exists && self.stream(&name).is_some() {
                return Ok(done("CREATE STREAM"));
            }
            return Err(exists(&name, sql));
        }
        let id = self.0.sources.catalog().next_stream();
        let (stream, defaults) = create::stream(table, sql, id)?;
        let stream = Arc::new(self.with_defaults(stream, &defaults, sql).await?);
        let retention = create::retention(table, sql)?;
        let lifecycle = self.lifecycle()?;
        // Ready before it is in the catalog: a stream that can be named takes records.
        lifecycle.add_stream(Arc::clone(&stream)).await?;
        let added = self.change(|catalog| catalog.add_stream_with(Arc::clone(&stream), retention));
        if let Err(error) = added {
            lifecycle.remove_stream(stream).await?;
            return Err(error);
        }
        Ok(done("CREATE STREAM"))
    }
}
