//! Versions of views that a statement names with `VERSION`.

use std::{collections::BTreeMap, sync::Arc};

use lambic_view::{Definition, Planned};

use super::Database;
use crate::{
    Error,
    provider::Versions,
    sqlstate,
    version::{self, Named},
};

impl Database {
    /// Plans what a statement names; the version that is served is read as it is served where it still is.
    pub(super) async fn versions(&self, named: &[Named]) -> Result<Versions, Error> {
        let mut versions = BTreeMap::new();
        for one in named {
            let planned = self.planned_version(&one.view, one.version).await;
            let planned = planned.map_err(|error| Error {
                position: Some(one.position),
                ..error
            })?;
            versions.insert(version::table_name(&one.view, one.version), planned);
        }
        Ok(Arc::new(versions))
    }

    /// A version of a view that is served or kept for a way back.
    pub(super) async fn planned_version(&self, view: &str, number: u32) -> Result<Planned, Error> {
        let definition = self.existing_view(view, "")?;
        if definition.version.0 == number {
            return Ok(self.served(view, "")?.planned());
        }
        let former = {
            let catalog = self.0.sources.catalog();
            let mut former = catalog.former_versions(view).iter();
            former.find(|kept| kept.version.0 == number).cloned()
        };
        let Some(former) = former else {
            return Err(self.no_version(&definition, number));
        };
        let planned = self.planned_again(&former).await;
        planned.map_err(|error| Error {
            message: format!("version {number} of view \"{view}\" cannot be read: {error}"),
            ..error
        })
    }

    /// A version that is not served, with the code of functions that it was created with.
    pub(super) async fn planned_again(&self, definition: &Definition) -> Result<Planned, Error> {
        let functions = self.lifecycle()?.functions_of_view(definition)?;
        self.plan_definition(definition, &functions).await
    }

    fn no_version(&self, served: &Definition, number: u32) -> Error {
        let (view, now) = (&served.name, served.version);
        let built = self.0.building.version(view.as_str());
        if let Some((_, progress)) = built.as_ref().filter(|(built, _)| *built == number) {
            return Error::new(
                sqlstate::NOT_IN_PREREQUISITE_STATE,
                format!("version {number} of view \"{view}\" is still being built: {progress}"),
            )
            .with_hint(format!(
                "it is served when it has caught up; until then version {now} is"
            ));
        }
        let catalog = self.0.sources.catalog();
        let former = catalog.former_versions(view.as_str()).iter();
        let mut known: Vec<(u32, String)> = former
            .map(|kept| (kept.version.0, kept.version.to_string()))
            .collect();
        known.push((now.0, format!("{now} (served)")));
        known.extend(built.map(|(built, _)| (built, format!("{built} (being built)"))));
        known.sort();
        let known: Vec<String> = known.into_iter().map(|(_, shown)| shown).collect();
        Error::new(
            sqlstate::INVALID_PARAMETER,
            format!("view \"{view}\" has no version {number}"),
        )
        .with_hint(format!("there are: {}", known.join(", ")))
    }
}
