//! `CREATE MATERIALIZED VIEW`, and how new versions are made.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Instant,
};

use datafusion::sql::sqlparser::ast::CreateView;
use lambic_model::{ColumnId, ScalarFunction, SchemaVersion, Stream, StreamId};
use lambic_view::{Definition, Freshness, Planned, SpeedAs};
use metrics::histogram;

use super::{Database, building::Reserved, done, exists, speed};
use crate::{
    BuiltView, Error, Outcome, create,
    error::{find_word, undefined_table},
    sqlstate,
    types::sql_name,
};

const CREATED: &str = "CREATE MATERIALIZED VIEW";

/// Streams as a view was planned over them, each with the columns that it uses.
#[derive(Debug)]
pub(super) struct PlannedOver(Vec<(Arc<Stream>, BTreeSet<ColumnId>)>);

impl Database {
    pub(super) async fn create_view(&self, view: &CreateView, sql: &str) -> Result<Outcome, Error> {
        let declared = create::view(view, sql)?;
        let name = declared.name.as_str();
        let reserved = self.0.building.reserve(name)?;
        let former = self.0.sources.catalog().view(name).cloned();
        if self.names().iter().any(|known| known == name) {
            match &former {
                Some(_) if view.or_replace => {}
                Some(_) if view.if_not_exists => return Ok(done(CREATED)),
                _ => return Err(exists(name, sql)),
            }
        }
        let notice = self.new_version(declared, former, reserved, sql).await?;
        Ok(Outcome::Done {
            tag: CREATED.to_owned(),
            notice,
        })
    }

    /// Builds what is declared and serves it in place of the `former` version, unless that is the same. Gives what the
    /// user should know.
    pub(super) async fn new_version(
        &self,
        declared: create::ViewDeclaration,
        former: Option<Definition>,
        reserved: Reserved,
        sql: &str,
    ) -> Result<Option<String>, Error> {
        let name = declared.name.as_str();
        let at = sql
            .find(&declared.query)
            .map(|byte| sql[..byte].chars().count())
            .unwrap_or(0);
        let speed_sql = declared.speed_as.as_ref().map(|speed| speed.sql.as_str());
        let all_sql = format!("{}\n{}", declared.query, speed_sql.unwrap_or_default());
        let functions = self.functions_in(&all_sql);
        let planned = self
            .plan_view(&declared.query, &functions, declared.float_sums)
            .await;
        let planned = planned.map_err(|mut error| {
            error.position = error.position.map(|position| position + at);
            error
        })?;
        let (planned, speed_as) = self
            .declared_speed(planned, &declared, &functions, sql)
            .await?;
        let digests = |functions: &[Arc<dyn ScalarFunction>]| {
            let each = functions.iter();
            each.map(|function| (function.name().to_owned(), function.digest().to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let functions_now = digests(&self.functions_in(&all_sql));
        if functions_now != digests(&functions) {
            let message = "a function that the view calls was deployed meanwhile";
            return Err(Error::new(sqlstate::SERIALIZATION_FAILURE, message).with_hint("try again"));
        }
        let definition = Definition {
            name: declared.name.clone(),
            version: self.0.sources.catalog().next_version(name),
            functions: functions_now,
            sql: declared.query,
            batch_every: declared.batch_every,
            batch_memory: declared.batch_memory,
            expects_no_rows: declared.expects_no_rows,
            float_sums: declared.float_sums,
            freshness: declared.freshness,
            speed_as,
            schemas: schemas_of(&planned),
            part: None,
        };
        let broken = self.0.sources.broken().contains_key(name);
        if let Some(former) = &former
            && former.sql == definition.sql
            && former.batch_every == definition.batch_every
            && former.batch_memory == definition.batch_memory
            && former.expects_no_rows == definition.expects_no_rows
            && former.float_sums == definition.float_sums
            && former.freshness == definition.freshness
            && former.speed_as == definition.speed_as
            && former.functions == definition.functions
            && self.means_the_same(former, &definition, &planned)
            && !broken
        {
            return Ok(None);
        }
        self.reserve_inputs(&reserved, &planned, sql)?;
        self.check_readers(name, &planned)?;
        let over = self.planned_over(&definition, &planned).await?;
        let notice = recomputed(&definition, &planned);
        reserved.builds(definition.version, self.records_of(planned.streams()));
        let built = self.lifecycle()?.build_view(&definition, planned).await?;
        self.switch(definition, built, reserved, over).await?;
        Ok(notice)
    }

    /// The plan with that of `speed_as`, whose key is known from here on.
    async fn declared_speed(
        &self,
        planned: Planned,
        declared: &create::ViewDeclaration,
        functions: &[Arc<dyn ScalarFunction>],
        sql: &str,
    ) -> Result<(Planned, Option<SpeedAs>), Error> {
        let Some(speed_as) = &declared.speed_as else {
            return Ok((planned, None));
        };
        let option = find_word(sql, "speed_as");
        let at = sql.find(&speed_as.sql);
        let at = at.map(|byte| sql[..byte].chars().count());
        let (name, float_sums) = (declared.name.as_str(), declared.float_sums);
        let streams = self.streams();
        let planned = self.with_speed(
            planned,
            name,
            Some(speed_as),
            functions,
            float_sums,
            &streams,
        );
        let planned = planned.await.map_err(|error| Error {
            position: error
                .position
                .zip(at)
                .map(|(position, at)| position + at)
                .or(option),
            ..error
        })?;
        let key = speed::key(&planned, speed_as);
        let key =
            key.map_err(|error| error.with_position(find_word(sql, "speed_key").or(option)))?;
        let speed_as = SpeedAs {
            key,
            ..speed_as.clone()
        };
        Ok((planned, Some(speed_as)))
    }

    /// True if the same text over the streams of today says what it said over those that `former` knows.
    fn means_the_same(&self, former: &Definition, now: &Definition, planned: &Planned) -> bool {
        if former.schemas == now.schemas {
            return true;
        }
        let served = self.0.sources.serving.view(former.name.as_str());
        served.is_some_and(|served| {
            let before = served.planned();
            before.schema() == planned.schema() && before.described() == planned.described()
        })
    }

    /// How many records the streams have together.
    pub(super) fn records_of(&self, streams: &[Arc<Stream>]) -> u64 {
        let pin = self.0.sources.reader.pin();
        streams
            .iter()
            .map(|stream| pin.table(stream).records())
            .sum()
    }

    /// Makes what was built the view of its name, with the catalog, and keeps the former version.
    pub(super) async fn switch(
        &self,
        definition: Definition,
        built: Box<dyn BuiltView>,
        reserved: Reserved,
        over: PlannedOver,
    ) -> Result<(), Error> {
        let database = self.clone();
        Database::to_the_end(async move {
            let _one = database.0.changing.lock().await;
            // A change of the streams may have begun before the view said what it reads.
            database.check_still_there(&over)?;
            let lifecycle = database.lifecycle()?;
            let name = definition.name.to_string();
            let mut outdated = Vec::new();
            let began = Instant::now();
            database.change(|catalog| {
                outdated = catalog.put_view(definition)?;
                Ok(())
            })?;
            built.serve();
            histogram!("lambic_view_switch_seconds").record(began.elapsed().as_secs_f64());
            database.mend(&name);
            drop(reserved);
            for version in outdated {
                lifecycle.drop_view(&version).await?;
            }
            Ok(())
        })
        .await
    }

    /// What the view reads may not be dropped or get other columns from here on, and did not before.
    pub(super) fn reserve_inputs(
        &self,
        reserved: &Reserved,
        planned: &Planned,
        sql: &str,
    ) -> Result<(), Error> {
        let views: &[String] = match planned {
            Planned::Kept(_) => &[],
            Planned::Recomputed(plan) => &plan.views,
        };
        reserved.reads(planned.streams(), views);
        for stream in planned.streams_read() {
            let now = self.stream(stream.name.as_str());
            if now.is_some_and(|now| now.id == stream.id && was_altered(&stream, &now)) {
                return Err(changed_meanwhile(&stream));
            }
        }
        for stream in planned.streams() {
            if self
                .stream(stream.name.as_str())
                .is_none_or(|now| now.id != stream.id)
            {
                return Err(undefined_table(stream.name.as_str(), sql, &self.names()));
            }
        }
        for name in views {
            self.served(name, sql)?;
            if *name != reserved.name() {
                self.0.building.check_at_rest(name)?;
            }
        }
        Ok(())
    }

    /// The streams that a view reads, with the columns that it uses.
    pub(super) async fn planned_over(
        &self,
        definition: &Definition,
        planned: &Planned,
    ) -> Result<PlannedOver, Error> {
        let mut streams = Vec::new();
        for stream in planned.streams_read() {
            let now = self.stream(stream.name.as_str());
            let now = now.filter(|now| now.id == stream.id);
            let known = now.as_ref().unwrap_or(&stream);
            let columns = self.columns_of(definition, planned, known).await?;
            streams.push((stream, columns));
        }
        Ok(PlannedOver(streams))
    }

    fn check_still_there(&self, over: &PlannedOver) -> Result<(), Error> {
        for (stream, used) in &over.0 {
            let now = self.stream(stream.name.as_str());
            let Some(now) = now.filter(|now| now.id == stream.id) else {
                let message = format!("stream \"{}\" was dropped meanwhile", stream.name);
                return Err(Error::new(sqlstate::UNDEFINED_TABLE, message));
            };
            let there: BTreeSet<ColumnId> =
                now.columns().into_iter().map(|column| column.id).collect();
            if was_altered(stream, &now) || !used.is_subset(&there) {
                return Err(changed_meanwhile(stream));
            }
        }
        Ok(())
    }

    /// Views that select from this one must find the columns that they were planned with. Comes after
    /// [`Database::reserve_inputs`], so that of two statements at one time each sees what the other reads.
    pub(super) fn check_readers(&self, name: &str, planned: &Planned) -> Result<(), Error> {
        let reads_itself = match planned {
            Planned::Kept(_) => false,
            Planned::Recomputed(plan) => self.reaches(&plan.views, name),
        };
        if reads_itself {
            let message = format!("view \"{name}\" would select from itself");
            return Err(Error::new(sqlstate::INVALID_RECURSION, message)
                .with_hint("WITH RECURSIVE is for queries that select from themselves"));
        }
        let views = self.0.sources.serving.views();
        let Some(former) = views.get(name) else {
            return Ok(());
        };
        let readers = views
            .values()
            .filter(|view| view.views_read().iter().any(|read| read == name))
            .map(|view| view.definition().name.to_string());
        let readers: BTreeSet<String> = readers.chain(self.0.building.readers(name)).collect();
        if readers.is_empty() {
            return Ok(());
        }
        let former = former.as_source().schema;
        let (old, new) = (former.fields(), planned.schema().fields());
        let same = |a: &arrow::datatypes::FieldRef, b: &arrow::datatypes::FieldRef| {
            a.name() == b.name() && a.data_type() == b.data_type()
        };
        if old.len() == new.len() && old.iter().zip(new).all(|(a, b)| same(a, b)) {
            return Ok(());
        }
        let first = old.iter().zip(new).find(|(a, b)| !same(a, b));
        let what = match first {
            Some((a, b)) if a.name() == b.name() => format!(
                "column \"{}\" would become {} (it is {})",
                a.name(),
                sql_name(b.data_type()),
                sql_name(a.data_type())
            ),
            Some((a, b)) => format!(
                "\"{}\" would stand where column \"{}\" is",
                b.name(),
                a.name()
            ),
            None => format!(
                "it would have {} columns instead of {}",
                new.len(),
                old.len()
            ),
        };
        let message = format!(
            "view \"{name}\" is read by {}, which could not follow: {what}",
            readers.into_iter().collect::<Vec<_>>().join(", ")
        );
        Err(Error::new(sqlstate::DEPENDENT_OBJECTS, message)
            .with_hint("keep the columns as they are, or drop those views first"))
    }

    /// True if one of the views `from` is `name` or selects from it, however far, now or once what is being built
    /// is served.
    fn reaches(&self, from: &[String], name: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut next: Vec<String> = from.to_vec();
        while let Some(view) = next.pop() {
            if view == name {
                return true;
            }
            if let Some(served) = self.0.sources.serving.view(&view) {
                next.extend_from_slice(served.views_read());
            }
            next.extend(self.0.building.read_by(&view));
            next.retain(|view| !seen.contains(view));
            seen.insert(view);
        }
        false
    }

    /// The functions that `sql` calls.
    pub(super) fn functions_in(&self, sql: &str) -> Vec<Arc<dyn ScalarFunction>> {
        let functions = self
            .0
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let called = functions
            .values()
            .filter(|function| find_word(sql, function.name()).is_some());
        called.map(Arc::clone).collect()
    }
}

/// Told of a view that has no incremental form.
fn recomputed(definition: &Definition, planned: &Planned) -> Option<String> {
    let Planned::Recomputed(plan) = planned else {
        return None;
    };
    let when = match definition.freshness {
        Freshness::Now => "when it is read, if an input has changed",
        _ => "by its batches",
    };
    Some(format!(
        "view \"{}\" is recomputed {when}: {}",
        definition.name, plan.reason
    ))
}

fn changed_meanwhile(stream: &Stream) -> Error {
    let message = format!(
        "the columns of stream \"{}\" were changed meanwhile",
        stream.name
    );
    Error::new(sqlstate::SERIALIZATION_FAILURE, message).with_hint("try again")
}

/// The versions of the streams' columns that a view is planned over; the first is not named.
pub(super) fn schemas_of(planned: &Planned) -> BTreeMap<StreamId, SchemaVersion> {
    let streams = planned.streams_read();
    let versions = streams
        .iter()
        .map(|stream| (stream.id, stream.schema_version()));
    versions
        .filter(|(_, version)| !version.is_first())
        .collect()
}

/// True if a plan over `planned` could not read what `now` takes.
fn was_altered(planned: &Stream, now: &Stream) -> bool {
    let Some(shown) = now.as_of(planned.schema_version()) else {
        return true;
    };
    let columns = planned.columns().into_iter().zip(shown.columns());
    let there = now.columns();
    let mut left = columns.filter(|(then, _)| there.iter().any(|column| column.id == then.id));
    left.any(|(then, now)| then.data_type != now.data_type || (!then.nullable && now.nullable))
}
