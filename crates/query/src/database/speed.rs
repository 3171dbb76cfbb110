//! `speed_as`: an approximate way from the rows of a view's last batch to the head, for a `SELECT` that has no
//! incremental form.

use std::sync::Arc;

use lambic_model::{ScalarFunction, Stream};
use lambic_view::{Exactness, Planned, RecomputePlan, SpeedAs, ViewSource, aggregate::FloatSums};

use super::Database;
use crate::{Error, error::there_are, sqlstate, types};

impl Database {
    /// The plan of a view with that of its `speed_as`, if it has one. Positions of mistakes are those in that `SELECT`.
    pub(super) async fn with_speed(
        &self,
        planned: Planned,
        name: &str,
        speed_as: Option<&SpeedAs>,
        functions: &[Arc<dyn ScalarFunction>],
        float_sums: FloatSums,
        streams: &[Arc<Stream>],
    ) -> Result<Planned, Error> {
        let Some(speed_as) = speed_as else {
            return Ok(planned);
        };
        let plan = match &planned {
            Planned::Recomputed(plan) => plan,
            Planned::Kept(plan) => {
                let message = format!(
                    "view \"{name}\" needs no speed_as: its class is {}, so that it is exact up to the head, and kept so",
                    plan.class.name()
                );
                return Err(Error::new(sqlstate::INVALID_PARAMETER, message)
                    .with_hint("leave speed_as out"));
            }
        };
        let own = ViewSource {
            name: name.to_owned(),
            schema: Arc::clone(&plan.schema),
            streams: plan.streams.clone(),
            exactness: vec![Exactness::Exact; plan.schema.fields().len()],
        };
        let views = [own];
        let speed = self.plan_over(&speed_as.sql, functions, float_sums, streams, &views);
        let speed = speed.await.map_err(|error| match error.sqlstate {
            sqlstate::UNDEFINED_TABLE => error.with_hint(format!(
                "speed_as reads \"{name}\", which is the rows of its last batch, and streams, which are the records after it"
            )),
            _ => error,
        })?;
        check_columns(plan, &speed)?;
        check_streams(plan, &speed)?;
        let plan = plan.as_ref().clone().with_speed(speed);
        Ok(Planned::Recomputed(Arc::new(plan)))
    }
}

/// What tells the rows of the view apart: the columns that were named, or those that its rows are grouped by.
pub(super) fn key(planned: &Planned, speed_as: &SpeedAs) -> Result<Vec<String>, Error> {
    let columns = planned.schema().fields().iter();
    let columns: Vec<String> = columns.map(|field| field.name().clone()).collect();
    if let Some(unknown) = speed_as.key.iter().find(|name| !columns.contains(name)) {
        let message = format!("speed_key names \"{unknown}\", which is no column of the view");
        return Err(Error::new(sqlstate::UNDEFINED_COLUMN, message).with_hint(there_are(&columns)));
    }
    let key = match (planned, speed_as.key.is_empty()) {
        (Planned::Recomputed(plan), true) => plan.group_key(),
        _ => speed_as.key.clone(),
    };
    match key.is_empty() {
        true => Err(Error::new(
            sqlstate::INVALID_PARAMETER,
            "the view does not show by which columns its rows are told apart, which its drift is measured by",
        )
        .with_hint("name them: WITH (speed_as = …, speed_key = 'a, b')")),
        false => Ok(key),
    }
}

fn check_columns(plan: &RecomputePlan, speed: &Planned) -> Result<(), Error> {
    let described = |schema: &arrow::datatypes::Schema| {
        let fields = schema.fields().iter();
        let columns = fields.map(|field| {
            let sql_type = types::sql_name(field.data_type());
            format!("{} {sql_type}", field.name())
        });
        columns.collect::<Vec<_>>().join(", ")
    };
    let (wanted, found) = (described(&plan.schema), described(speed.schema()));
    match wanted == found {
        true => Ok(()),
        false => Err(Error::new(
            sqlstate::DATATYPE_MISMATCH,
            format!("speed_as gives other columns than the view: {found}; not: {wanted}"),
        )
        .with_position(Some(1))
        .with_hint("give the same names and types in the same order; value::type casts")),
    }
}

/// Of other streams it is not known where the last batch stands.
fn check_streams(plan: &RecomputePlan, speed: &Planned) -> Result<(), Error> {
    let known = |stream: &&Arc<Stream>| plan.streams.iter().any(|known| known.id == stream.id);
    match speed.streams().iter().find(|stream| !known(stream)) {
        None => Ok(()),
        Some(other) => Err(Error::new(
            sqlstate::INVALID_PARAMETER,
            format!(
                "speed_as reads stream \"{}\", which the view's SELECT does not read",
                other.name
            ),
        )
        .with_position(Some(1))
        .with_hint("it can read the streams of the view, and the view's own rows")),
    }
}
