//! System tables: what streams and views there are and how they stand, what was erased and backed up, how batches get on.

use std::sync::{Arc, atomic::Ordering};

use arrow::{
    array::{ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::Result,
    datasource::{TableType, memory::MemorySourceConfig},
    logical_expr::Expr,
    physical_plan::ExecutionPlan,
};
use lambic_base::{Clock, SystemClock};
use lambic_dataset::Pin;
use lambic_model::{Column, Constant, Frontier, Frontiers, SchemaVersion, Stream, StreamId};
use lambic_serving::Served;
use lambic_view::{
    Definition, Freshness,
    join::{IndexStanding, Join},
};

use crate::{
    BackupInfo, BatchInfo, Catalog, ErasureInfo, Retention, ViewInfo, provider::Sources,
    replay::Running, types,
};

/// In UTC.
const INSTANT: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

#[derive(Clone)]
pub struct SystemTable {
    which: Which,
    sources: Sources,
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Streams,
    Columns,
    Views,
    Erasures,
    Backups,
    Replays,
    Batches,
}

impl std::fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.which.fmt(f)
    }
}

impl SystemTable {
    pub const NAMES: [&'static str; 7] = [
        "lambic_streams",
        "lambic_columns",
        "lambic_views",
        "lambic_erasures",
        "lambic_backups",
        "lambic_replays",
        "lambic_batches",
    ];

    pub fn named(name: &str, sources: &Sources) -> Option<SystemTable> {
        let which = match name {
            "lambic_streams" => Which::Streams,
            "lambic_columns" => Which::Columns,
            "lambic_views" => Which::Views,
            "lambic_erasures" => Which::Erasures,
            "lambic_backups" => Which::Backups,
            "lambic_replays" => Which::Replays,
            "lambic_batches" => Which::Batches,
            _ => return None,
        };
        Some(SystemTable {
            which,
            sources: sources.clone(),
        })
    }

    fn columns(&self) -> &'static [(&'static str, DataType)] {
        match self.which {
            Which::Streams => &[
                ("name", DataType::Utf8),
                ("columns", DataType::Utf8),
                ("partitions", DataType::Int64),
                ("records", DataType::Int64),
                ("frontier", DataType::Utf8),
                ("sealed_frontier", DataType::Utf8),
                ("sealed_files", DataType::Int64),
                ("sealed_bytes", DataType::Int64),
                ("event_time", DataType::Utf8),
                ("record_id", DataType::Utf8),
                ("is_system", DataType::Boolean),
                ("small_files", DataType::Int64),
                ("retention", DataType::Utf8),
                ("retention_bytes", DataType::Int64),
                ("start", DataType::Utf8),
            ],
            Which::Columns => &[
                ("stream", DataType::Utf8),
                ("version", DataType::Int64),
                ("is_newest", DataType::Boolean),
                ("column_id", DataType::Int64),
                ("name", DataType::Utf8),
                ("type", DataType::Utf8),
                ("not_null", DataType::Boolean),
                ("column_default", DataType::Utf8),
                ("older_records_show", DataType::Utf8),
            ],
            Which::Views => &[
                ("name", DataType::Utf8),
                ("version", DataType::Int64),
                ("class", DataType::Utf8),
                ("key", DataType::Utf8),
                ("batch_every", DataType::Utf8),
                ("freshness", DataType::Utf8),
                ("age_ms", DataType::Int64),
                ("batch_runs", DataType::Int64),
                ("batch_frontier", DataType::Utf8),
                ("speed_frontier", DataType::Utf8),
                ("lag_records", DataType::Int64),
                ("state_rows", DataType::Int64),
                ("state_bytes", DataType::Int64),
                ("sql", DataType::Utf8),
                ("index_bytes", DataType::Int64),
                ("reason", DataType::Utf8),
            ],
            Which::Erasures => &[
                ("erasure", DataType::Int64),
                ("at", INSTANT),
                ("by", DataType::Utf8),
                ("stream", DataType::Utf8),
                ("predicate", DataType::Utf8),
                ("predicate_salt", DataType::Utf8),
                ("predicate_sha256", DataType::Utf8),
                ("records", DataType::Int64),
                ("frontier", DataType::Utf8),
                ("state", DataType::Utf8),
                ("files_rewritten", DataType::Int64),
                ("files_left", DataType::Int64),
                ("finished_at", INSTANT),
                ("sha256", DataType::Utf8),
            ],
            Which::Backups => &[
                ("backup", DataType::Utf8),
                ("target", DataType::Utf8),
                ("started_at", INSTANT),
                ("finished_at", INSTANT),
                ("state", DataType::Utf8),
                ("files", DataType::Int64),
                ("files_total", DataType::Int64),
                ("bytes", DataType::Int64),
                ("bytes_total", DataType::Int64),
                ("bytes_copied", DataType::Int64),
                ("frontier", DataType::Utf8),
            ],
            Which::Replays => &[
                ("replay", DataType::Int64),
                ("label", DataType::Utf8),
                ("view", DataType::Utf8),
                ("through", DataType::Utf8),
                ("started_at", INSTANT),
                ("frontier_from", DataType::Utf8),
                ("frontier_to", DataType::Utf8),
                ("steps", DataType::Int64),
                ("steps_total", DataType::Int64),
                ("records", DataType::Int64),
                ("records_total", DataType::Int64),
            ],
            Which::Batches => &[
                ("batch", DataType::Int64),
                ("view", DataType::Utf8),
                ("version", DataType::Int64),
                ("part", DataType::Int64),
                ("kind", DataType::Utf8),
                ("state", DataType::Utf8),
                ("records", DataType::Int64),
                ("records_total", DataType::Int64),
                ("slices", DataType::Int64),
                ("slices_total", DataType::Int64),
                ("slices_resumed", DataType::Int64),
                ("bytes_spilled", DataType::Int64),
                ("started_at", INSTANT),
                ("finished_at", INSTANT),
                ("eta", INSTANT),
            ],
        }
    }

    fn batch(&self) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = match self.which {
            Which::Streams => self.streams(),
            Which::Columns => self.columns_of_streams(),
            Which::Views => self.views(),
            Which::Erasures => self.erasures(),
            Which::Backups => self.backups(),
            Which::Replays => self.replays(),
            Which::Batches => self.batches(),
        };
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }

    fn streams(&self) -> Vec<ArrayRef> {
        let pin = self.sources.reader.pin();
        let streams: Vec<_> = self.sources.catalog().streams().cloned().collect();
        let manifests: Vec<_> = streams.iter().map(|s| pin.manifest(s.id)).collect();
        let heads: Vec<Frontier> = streams.iter().map(|s| pin.log().head(s.id)).collect();
        let dataset = self.sources.reader.dataset();
        let retentions: Vec<Retention> = {
            let catalog = self.sources.catalog();
            streams
                .iter()
                .map(|s| catalog.retention(s.name.as_str()))
                .collect()
        };
        let described = streams.iter().map(|stream| {
            let columns = stream.schema.fields().iter().map(|field| {
                let not_null = if field.is_nullable() { "" } else { " not null" };
                format!(
                    "{} {}{not_null}",
                    field.name(),
                    types::sql_name(field.data_type())
                )
            });
            Some(columns.collect::<Vec<_>>().join(", "))
        });
        vec![
            texts(streams.iter().map(|s| Some(s.name.to_string()))),
            texts(described),
            numbers(streams.iter().map(|s| u64::from(s.partitions))),
            numbers(streams.iter().map(|s| pin.table(s).records())),
            texts(heads.iter().map(|head| Some(head.to_string()))),
            texts(manifests.iter().map(|m| Some(m.frontier.to_string()))),
            numbers(manifests.iter().map(|m| m.files.len() as u64)),
            numbers(manifests.iter().map(|m| m.bytes())),
            texts(streams.iter().map(|s| s.event_time.clone())),
            texts(streams.iter().map(|s| s.record_id.clone())),
            Arc::new(
                streams
                    .iter()
                    .map(|s| Some(Catalog::is_system(s)))
                    .collect::<BooleanArray>(),
            ),
            numbers(manifests.iter().map(|m| {
                let files = m.files.iter();
                files.filter(|file| dataset.is_small(file)).count() as u64
            })),
            texts(retentions.iter().map(Retention::age_shown)),
            Arc::new(
                retentions
                    .iter()
                    .map(|r| r.bytes.map(u64::cast_signed))
                    .collect::<Int64Array>(),
            ),
            texts(streams.iter().map(|s| {
                let start = self.sources.start_of(s.id);
                Some(start.max(&Frontier::zero(s.partitions)).to_string())
            })),
        ]
    }

    /// Of every version of every stream.
    fn columns_of_streams(&self) -> Vec<ArrayRef> {
        let streams: Vec<_> = self.sources.catalog().streams().cloned().collect();
        let mut rows: Vec<(String, SchemaVersion, bool, Column)> = Vec::new();
        for stream in streams {
            for schema in stream.schemas() {
                let is_newest = schema.version == stream.schema_version();
                let columns = schema.columns.into_iter();
                rows.extend(
                    columns
                        .map(|column| (stream.name.to_string(), schema.version, is_newest, column)),
                );
            }
        }
        let flags = |values: &mut dyn Iterator<Item = bool>| -> ArrayRef {
            Arc::new(values.map(Some).collect::<BooleanArray>())
        };
        let text = |value: &Option<Constant>| value.as_ref().map(Constant::text);
        let columns = || rows.iter().map(|(.., column)| column);
        vec![
            texts(rows.iter().map(|(stream, ..)| Some(stream.clone()))),
            numbers(rows.iter().map(|(_, version, ..)| u64::from(version.0))),
            flags(&mut rows.iter().map(|(_, _, is_newest, _)| *is_newest)),
            numbers(columns().map(|column| u64::from(column.id.0))),
            texts(columns().map(|column| Some(column.name.clone()))),
            texts(columns().map(|column| Some(types::sql_name(&column.data_type)))),
            flags(&mut columns().map(|column| !column.nullable)),
            texts(columns().map(|column| text(&column.default))),
            texts(columns().map(|column| text(&column.missing))),
        ]
    }

    fn erasures(&self) -> Vec<ArrayRef> {
        let all = self.sources.erasures();
        let text = |of: fn(&ErasureInfo) -> &String| texts(all.iter().map(|e| Some(of(e).clone())));
        let number = |of: fn(&ErasureInfo) -> u64| numbers(all.iter().map(of));
        vec![
            number(|e| e.number),
            instants(all.iter().map(|e| Some(e.at_us))),
            text(|e| &e.by),
            text(|e| &e.stream),
            text(|e| &e.predicate),
            text(|e| &e.predicate_salt),
            text(|e| &e.predicate_sha256),
            number(|e| e.records),
            text(|e| &e.frontier),
            text(|e| &e.state),
            number(|e| e.files_rewritten),
            number(|e| e.files_left),
            instants(all.iter().map(|e| e.finished_at_us)),
            text(|e| &e.sha256),
        ]
    }

    fn backups(&self) -> Vec<ArrayRef> {
        let all = self.sources.backups();
        let text = |of: fn(&BackupInfo) -> &String| {
            texts(
                all.iter()
                    .map(|b| Some(of(b).clone()).filter(|text| !text.is_empty())),
            )
        };
        let number = |of: fn(&BackupInfo) -> u64| numbers(all.iter().map(of));
        vec![
            text(|b| &b.backup),
            text(|b| &b.target),
            instants(all.iter().map(|b| Some(b.started_at_us))),
            instants(all.iter().map(|b| b.finished_at_us)),
            text(|b| &b.state),
            number(|b| b.files),
            number(|b| b.files_total),
            number(|b| b.bytes),
            number(|b| b.bytes_total),
            number(|b| b.bytes_copied),
            text(|b| &b.frontier),
        ]
    }

    /// Those that run.
    fn replays(&self) -> Vec<ArrayRef> {
        let all = self.sources.replays.list();
        let text = |of: fn(&Running) -> &String| texts(all.iter().map(|r| Some(of(r).clone())));
        let number = |of: fn(&Running) -> u64| numbers(all.iter().map(|r| of(r)));
        vec![
            number(|r| r.number),
            texts(all.iter().map(|r| r.label.clone())),
            text(|r| &r.view),
            text(|r| &r.through),
            instants(all.iter().map(|r| Some(r.started_us))),
            text(|r| &r.from),
            text(|r| &r.to),
            number(|r| r.steps_done.load(Ordering::Relaxed)),
            number(|r| r.steps),
            number(|r| r.records.load(Ordering::Relaxed)),
            number(|r| r.records_total),
        ]
    }

    fn batches(&self) -> Vec<ArrayRef> {
        let all = self.sources.batches();
        let text = |of: fn(&BatchInfo) -> &String| texts(all.iter().map(|b| Some(of(b).clone())));
        let number = |of: fn(&BatchInfo) -> u64| numbers(all.iter().map(of));
        let parts = all.iter().map(|b| b.part.map(u64::cast_signed));
        vec![
            number(|b| b.batch),
            text(|b| &b.view),
            number(|b| u64::from(b.version)),
            Arc::new(parts.collect::<Int64Array>()),
            text(|b| &b.kind),
            text(|b| &b.state),
            number(|b| b.records),
            number(|b| b.records_total),
            number(|b| b.slices),
            number(|b| b.slices_total),
            number(|b| b.slices_resumed),
            number(|b| b.bytes_spilled),
            instants(all.iter().map(|b| Some(b.started_at_us))),
            instants(all.iter().map(|b| b.finished_at_us)),
            instants(all.iter().map(|b| b.eta_us)),
        ]
    }

    fn views(&self) -> Vec<ArrayRef> {
        let views = views(&self.sources);
        vec![
            texts(views.iter().map(|v| Some(v.name.clone()))),
            numbers(views.iter().map(|v| u64::from(v.version))),
            texts(views.iter().map(|v| Some(v.class.clone()))),
            texts(
                views
                    .iter()
                    .map(|v| (!v.key.is_empty()).then(|| v.key.join(", "))),
            ),
            texts(views.iter().map(|v| v.batch_every.clone())),
            texts(views.iter().map(|v| Some(v.freshness.clone()))),
            Arc::new(
                views
                    .iter()
                    .map(|v| v.age_ms.map(u64::cast_signed))
                    .collect::<Int64Array>(),
            ),
            numbers(views.iter().map(|v| v.batch_runs)),
            texts(views.iter().map(|v| Some(v.batch_frontier.clone()))),
            texts(views.iter().map(|v| Some(v.speed_frontier.clone()))),
            numbers(views.iter().map(|v| v.lag_records)),
            numbers(views.iter().map(|v| v.state_rows)),
            numbers(views.iter().map(|v| v.state_bytes)),
            texts(views.iter().map(|v| Some(v.sql.clone()))),
            Arc::new(
                views
                    .iter()
                    .map(|v| v.index_bytes.map(u64::cast_signed))
                    .collect::<Int64Array>(),
            ),
            texts(views.iter().map(|v| v.reason.clone())),
        ]
    }
}

fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn numbers(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(
        values
            .map(|value| Some(value as i64))
            .collect::<Int64Array>(),
    )
}

fn instants(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>())
}

/// How all views stand: those that are served, and those that cannot be.
pub fn views(sources: &Sources) -> Vec<ViewInfo> {
    let served = sources.serving.views();
    let pin = sources.reader.pin();
    let each = served.values().map(|view| info(view, &pin));
    let mut views: Vec<ViewInfo> = each.collect();
    let broken = sources.broken();
    let catalog = sources.catalog();
    views.extend(
        catalog
            .views()
            .filter(|view| broken.contains_key(view.name.as_str()))
            .map(broken_info),
    );
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

/// How a view stands at `pin`.
pub fn info(view: &Served, pin: &Pin) -> ViewInfo {
    let heads = pin.heads();
    let shown = |frontiers: &dyn Fn(StreamId) -> Frontier| {
        let each = view
            .streams()
            .iter()
            .map(|stream| format!("{}@{}", stream.name, frontiers(stream.id)));
        each.collect::<Vec<_>>().join(" ")
    };
    let info = ViewInfo {
        class: view.class().name().to_owned(),
        ..broken_info(view.definition())
    };
    match view {
        Served::Kept(view) => {
            let runs = view.runs();
            let batch = runs.batch_frontier();
            ViewInfo {
                key: view.key_names().unwrap_or_default(),
                batch_frontier: shown(&|stream| batch.of(stream)),
                speed_frontier: shown(&|stream| runs.covered.of(stream)),
                lag_records: view.lag(heads),
                age_ms: age_ms(view.definition(), &view.plan().inputs, &batch, pin),
                batch_runs: runs.batches,
                state_rows: runs.state_rows() as u64,
                state_bytes: runs.bytes() as u64,
                index_bytes: view.plan().join().map(index_bytes),
                reason: view.plan().join().and_then(why_scanned),
                ..info
            }
        }
        Served::Recomputed(view) => {
            let (rows, bytes) = view.kept();
            let batch = view.batch_frontier();
            let age =
                batch.and_then(|batch| age_ms(view.definition(), &view.plan().streams, batch, pin));
            let batch_frontier = batch.map(|batch| shown(&|stream| batch.of(stream)));
            let behind = |stream: &Arc<Stream>| {
                let batch = batch.map_or_else(|| heads.of(stream.id), |batch| batch.of(stream.id));
                heads.of(stream.id).since(&batch)
            };
            let parts: Vec<_> = view.parts().iter().map(|part| part.runs()).collect();
            ViewInfo {
                batch_runs: parts.iter().map(|runs| runs.batches).sum(),
                state_rows: (rows + parts.iter().map(|p| p.state_rows()).sum::<usize>()) as u64,
                state_bytes: (bytes + parts.iter().map(|p| p.bytes()).sum::<usize>()) as u64,
                speed_frontier: shown(&|stream| heads.of(stream)),
                batch_frontier: batch_frontier.unwrap_or_default(),
                lag_records: view.plan().streams.iter().map(behind).sum(),
                age_ms: age,
                reason: Some(view.plan().reason.clone()),
                ..info
            }
        }
    }
}

/// How long the oldest record past `frontier` has waited to be served; `None` if the log has let it go, which it does
/// where batches fail.
fn age_ms(
    definition: &Definition,
    streams: &[Arc<Stream>],
    frontier: &Frontiers,
    pin: &Pin,
) -> Option<u64> {
    if definition.freshness == Freshness::Now {
        return None;
    }
    let now_us = SystemClock.now_us();
    let mut age_ms = 0;
    for stream in streams {
        let (head, shown) = (pin.heads().of(stream.id), frontier.of(stream.id));
        for missing in head.ranges_since(&shown) {
            let (partition, first) = (missing.partition, missing.first);
            let appended_us = pin.log().appended_at(stream.id, partition, first)?;
            let waited_us = (now_us - appended_us).max(0).cast_unsigned();
            age_ms = age_ms.max(waited_us / 1000);
        }
    }
    Some(age_ms)
}

/// What the catalog alone tells.
fn broken_info(definition: &Definition) -> ViewInfo {
    ViewInfo {
        name: definition.name.to_string(),
        version: definition.version.0,
        class: "broken".to_owned(),
        sql: definition.sql.clone(),
        batch_every: Some(definition.batch_every_text()),
        freshness: match definition.speed_as {
            Some(_) => "approximate".to_owned(),
            None => definition.freshness.name().to_owned(),
        },
        age_ms: None,
        key: Vec::new(),
        batch_frontier: String::new(),
        speed_frontier: String::new(),
        lag_records: 0,
        batch_runs: 0,
        state_rows: 0,
        state_bytes: 0,
        index_bytes: None,
        reason: None,
    }
}

fn index_bytes(join: &Join) -> u64 {
    let standings = join.standings();
    let bytes = standings.iter().map(|side| match side.index {
        IndexStanding::Kept { bytes, .. } => bytes as u64,
        _ => 0,
    });
    bytes.sum()
}

/// Why new states of a join are computed by reading streams from their beginning.
fn why_scanned(join: &Join) -> Option<String> {
    let standings = join.standings();
    let too_large = standings
        .iter()
        .filter(|side| side.index == IndexStanding::TooLarge);
    let mut names: Vec<&str> = too_large.map(|side| side.stream.as_str()).collect();
    names.dedup();
    let names = names.join(", ");
    (!names.is_empty()).then(|| format!("the index of {names} {INDEX_TOO_LARGE}"))
}

pub const INDEX_TOO_LARGE: &str = "would not fit into memory.join_index_bytes_max: it is read from its beginning for what is new on another side";

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        let fields = self
            .columns()
            .iter()
            .map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batch = self.batch()?;
        Ok(MemorySourceConfig::try_new_exec(
            &[vec![batch]],
            self.schema(),
            projection.cloned(),
        )?)
    }
}
