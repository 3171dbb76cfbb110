//! What a feed follows, as it is at one look.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    dataframe::DataFrame,
    execution::{SendableRecordBatchStream, SessionState},
    physical_plan::execute_stream,
    sql::sqlparser::ast,
};
use futures::TryStreamExt;
use lambic_model::{Frontiers, Stream};
use lambic_serving::{Served, ServedView};
use lambic_view::Exactness;
use sha2::{Digest, Sha256};

use super::Followed;
use crate::{
    Database, Error, as_of, database::names_system_column, names, pinned::Pinned,
    provider::view_table, sqlstate,
};

/// Bytes of a mark; two definitions with the same one would have to be looked for.
const MARK_BYTES: usize = 8;

/// How changes of it are found.
pub enum Kind {
    /// Its new records are what changes.
    Stream(Arc<Stream>),
    /// By states of new records.
    States(Arc<ServedView>),
    /// By comparison of all rows.
    Rows(Rows),
}

pub enum Rows {
    View(Served),
    Select,
}

pub struct Target {
    pub kind: Kind,
    pub schema: SchemaRef,
    pub streams: Vec<Arc<Stream>>,
    /// Of the definitions and the erasures that its rows are made with.
    pub mark: String,
    /// Where it stands now, in those streams.
    pub heads: Frontiers,
    /// Where those streams end, which is further than what is served as of its last batch.
    pub log_heads: Frontiers,
    /// Whether the same frontier gives the same rows, bit for bit.
    pub is_exact: bool,
    /// At `heads`.
    pub pinned: Arc<Pinned>,
}

impl Target {
    /// What is followed as it is now; `None` if it is not there.
    pub async fn now(database: &Database, followed: &Followed) -> Result<Option<Target>, Error> {
        let pinned = Arc::new(Pinned::take(database.sources()));
        match followed {
            Followed::Named(name) => match pinned.views.get(name).cloned() {
                Some(served) => Ok(Some(Target::of_view(served, &pinned))),
                None => match database.stream(name) {
                    Some(stream) => Ok(Some(Target::of_stream(stream, pinned))),
                    None => match database.sources().broken().get(name) {
                        Some(reason) => Err(Error::broken_view(name, reason)),
                        None => Ok(None),
                    },
                },
            },
            Followed::Select(ast, sql) => {
                let target = Target::of_select(database, ast, sql, pinned).await;
                target.map(Some)
            }
        }
    }

    fn of_view(served: Served, pinned: &Arc<Pinned>) -> Target {
        let source = served.as_source();
        let seen = pinned.seen_by(&served);
        let heads = within(&seen.heads(), served.streams());
        let log_heads = within(&pinned.heads(), served.streams());
        // Views that it selects from are seen at the same frontier, which is what a message stands for.
        let pinned = match shows_batches(&seen, served.views_read()) {
            true => Arc::new(seen.back_to(heads.clone())),
            false => seen,
        };
        let is_exact = (source.exactness.iter()).all(|exactness| *exactness == Exactness::Exact);
        let mut definitions = BTreeSet::new();
        add_definition(&served, &pinned, &mut definitions);
        let kind = match &served {
            Served::Kept(view) if is_exact => Kind::States(Arc::clone(view)),
            _ => Kind::Rows(Rows::View(served)),
        };
        Target {
            kind,
            mark: mark(&definitions, &source.schema, &source.streams, &pinned),
            log_heads,
            schema: source.schema,
            streams: source.streams,
            heads,
            is_exact,
            pinned,
        }
    }

    fn of_stream(stream: Arc<Stream>, pinned: Arc<Pinned>) -> Target {
        let streams = vec![Arc::clone(&stream)];
        let heads = within(&pinned.heads(), &streams);
        Target {
            schema: Arc::clone(&stream.schema),
            // What was erased is not taken back: it was new once.
            mark: hash(&format!("stream {}", stream.id.0)),
            log_heads: heads.clone(),
            heads,
            kind: Kind::Stream(stream),
            streams,
            is_exact: true,
            pinned,
        }
    }

    async fn of_select(
        database: &Database,
        ast: &ast::Statement,
        sql: &str,
        pinned: Arc<Pinned>,
    ) -> Result<Target, Error> {
        let (streams, views) = database.read_by(ast)?;
        let heads = within(&pinned.heads(), &streams);
        let pinned = Arc::new(pinned.back_to(heads.clone()));
        let state = database.pinned_to(Arc::clone(&pinned), names_system_column(sql));
        let plan = database.plan(&state, ast, sql).await?;
        if streams.is_empty() {
            let message = "a query that reads no stream does not change";
            return Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
                .with_hint("select FROM a stream or a view"));
        }
        let mut definitions = BTreeSet::from([ast.to_string()]);
        let served = views.iter().filter_map(|name| pinned.views.get(name));
        served.for_each(|served| add_definition(served, &pinned, &mut definitions));
        let schema = names::shown_schema(plan.schema().inner());
        Ok(Target {
            kind: Kind::Rows(Rows::Select),
            mark: mark(&definitions, &schema, &streams, &pinned),
            schema,
            streams,
            log_heads: heads.clone(),
            heads,
            is_exact: true,
            pinned,
        })
    }

    /// A frontier of its streams as text, with the mark.
    pub fn text(&self, heads: &Frontiers) -> String {
        as_of::with_mark(&as_of::frontier_text(&self.streams, heads), &self.mark)
    }

    /// Its rows at `pinned`; an error if there are more than `rows_max` of what must be compared as a whole.
    pub async fn rows(
        &self,
        database: &Database,
        followed: &Followed,
        pinned: &Arc<Pinned>,
        rows_max: usize,
    ) -> Result<Vec<RecordBatch>, Error> {
        let wrong = |error| Error::from_datafusion(error, "", &[]);
        let state = database.pinned_to(Arc::clone(pinned), false);
        match (&self.kind, followed) {
            (Kind::States(view), _) => {
                let answer = pinned.read(view, None, &state).await.map_err(wrong)?;
                Ok(answer.batches.as_ref().clone())
            }
            (Kind::Rows(Rows::View(served)), _) => {
                let table = view_table(served, pinned);
                let plan = table.scan(&state, None, &[], None).await.map_err(wrong)?;
                let rows = execute_stream(plan, state.task_ctx()).map_err(wrong)?;
                let name = &served.definition().name;
                let why = match self.is_exact {
                    true => "recomputed when it is read",
                    false => "of estimates",
                };
                bounded(rows, rows_max, &format!("view \"{name}\", which is {why},")).await
            }
            (Kind::Rows(Rows::Select), Followed::Select(ast, sql)) => {
                let state = database.pinned_to(Arc::clone(pinned), names_system_column(sql));
                let plan = database.plan(&state, ast, sql).await?;
                let rows = DataFrame::new(state, plan).execute_stream().await;
                let rows = names::shown(rows.map_err(wrong)?);
                bounded(rows, rows_max, "the query").await
            }
            (Kind::Rows(Rows::Select), Followed::Named(_)) | (Kind::Stream(_), _) => Ok(Vec::new()),
        }
    }

    /// The records of a stream from `from` up to `to`.
    pub async fn records(
        &self,
        stream: &Arc<Stream>,
        from: &Frontiers,
        to: &Frontiers,
        state: &SessionState,
    ) -> Result<Vec<RecordBatch>, Error> {
        let wrong = |error| Error::from_datafusion(error, "", &[]);
        let table = self.pinned.back_to(to.clone()).records_since(stream, from);
        let columns: Vec<usize> = (0..stream.schema.fields().len()).collect();
        let plan = table.scan(state, Some(&columns), &[], None).await;
        let rows = execute_stream(plan.map_err(wrong)?, state.task_ctx()).map_err(wrong)?;
        rows.try_collect().await.map_err(wrong)
    }
}

async fn bounded(
    mut rows: SendableRecordBatchStream,
    rows_max: usize,
    what: &str,
) -> Result<Vec<RecordBatch>, Error> {
    let (mut all, mut count) = (Vec::new(), 0);
    let wrong = |error| Error::from_datafusion(error, "", &[]);
    while let Some(batch) = rows.try_next().await.map_err(wrong)? {
        count += batch.num_rows();
        if count > rows_max {
            let message = format!("{what} has more than {rows_max} rows, too many to be compared");
            return Err(Error::new(sqlstate::LIMIT_EXCEEDED, message)
                .with_hint("follow a view that summarises it or has a filter; EXPLAIN MATERIALIZED VIEW tells which views are kept incrementally, and those may be of any size"));
        }
        if batch.num_rows() > 0 {
            all.push(batch);
        }
    }
    Ok(all)
}

fn within(heads: &Frontiers, streams: &[Arc<Stream>]) -> Frontiers {
    let mut found = Frontiers::default();
    for stream in streams {
        found.set(stream.id, heads.of(stream.id));
    }
    found
}

/// True if one of `views` shows its last batch.
fn shows_batches(pinned: &Arc<Pinned>, views: &[String]) -> bool {
    let mut served = views.iter().filter_map(|name| pinned.views.get(name));
    served.any(|served| {
        !Arc::ptr_eq(&pinned.seen_by(served), pinned) || shows_batches(pinned, served.views_read())
    })
}

/// What its rows are made with, also through views.
fn add_definition(served: &Served, pinned: &Pinned, found: &mut BTreeSet<String>) {
    let definition = served.definition();
    found.insert(format!(
        "view {} {:?} {:?} {}",
        definition.name, definition.float_sums, definition.functions, definition.sql
    ));
    for name in served.views_read() {
        if let Some(served) = pinned.views.get(name) {
            add_definition(served, pinned, found);
        }
    }
}

/// Of what rows depend on beside the records: what is the same for a client that comes back as for one that stayed.
fn mark(
    definitions: &BTreeSet<String>,
    schema: &SchemaRef,
    streams: &[Arc<Stream>],
    pinned: &Pinned,
) -> String {
    let ids = || streams.iter().map(|stream| stream.id);
    let erasures = pinned.erasures().of_streams(ids());
    let ids: BTreeSet<_> = ids().collect();
    let columns = schema.fields().iter();
    let columns: Vec<_> = columns
        .map(|field| (field.name(), field.data_type()))
        .collect();
    hash(&format!("{definitions:?} {columns:?} {ids:?} {erasures:?}"))
}

fn hash(text: &str) -> String {
    let digest = Sha256::digest(text);
    let mut hex = String::new();
    for byte in digest.iter().take(MARK_BYTES) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}
