//! `ALTER MATERIALIZED VIEW name AS SELECT …`: a new version with the options of the present one.

use datafusion::sql::sqlparser::ast::CreateView;

use super::Database;
use crate::{Error, Outcome, create, statement::name_of};

impl Database {
    pub(super) async fn alter_view(&self, view: &CreateView, sql: &str) -> Result<Outcome, Error> {
        let name = name_of(&view.name)?;
        let reserved = self.0.building.reserve(&name)?;
        let present = self.existing_view(&name, sql)?;
        let declared = create::altered(view, &present, sql)?;
        let notice = self
            .new_version(declared, Some(present), reserved, sql)
            .await?;
        Ok(Outcome::Done {
            tag: "ALTER MATERIALIZED VIEW".to_owned(),
            notice,
        })
    }
}
