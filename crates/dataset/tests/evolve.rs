//! A stream whose columns change while it is appended to, sealed, trimmed, erased from and opened again: every read
//! is what a list of records says.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Field, Schema},
    util::display::array_value_to_string,
};
use datafusion::prelude::SessionContext;
use lambic_dataset::{Dataset, LocalStore, Options, Reader};
use lambic_log::Log;
use lambic_model::{
    Append, Column, ColumnId, Constant, Erased, Frontiers, Offset, OffsetRange, OffsetSet,
    PartitionId, SchemaVersion, Stream, StreamId, StreamName, SystemColumn, Write,
};
use proptest::prelude::*;

const STREAM: StreamId = StreamId(100);
const PARTITION: PartitionId = PartitionId(0);

fn declared() -> Stream {
    Stream {
        id: STREAM,
        name: StreamName::new("visits").unwrap(),
        schema: Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int16, true),
            Field::new("b", DataType::Utf8, true),
        ])),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// By a producer that knows the version so many before the present; so many records.
    Append {
        behind: u32,
        records: usize,
        says: bool,
    },
    /// With this name, and with a default if there is a number.
    Add {
        name: usize,
        text: bool,
        default: Option<u16>,
    },
    Rename {
        column: usize,
        name: usize,
    },
    Drop(usize),
    Widen(usize),
    Default(usize, u16),
    /// If no record that is there has NULL.
    NotNull(usize),
    Seal,
    Trim,
    Erase(u64),
    Rewrite,
    Open,
}

/// Few, so that they are taken again.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    prop_oneof![
        6 => (0u32..4, 1usize..5, any::<bool>())
            .prop_map(|(behind, records, says)| Step::Append { behind, records, says }),
        3 => (name(), any::<bool>(), proptest::option::of(any::<u16>()))
            .prop_map(|(name, text, default)| Step::Add { name, text, default }),
        3 => (name(), name()).prop_map(|(column, name)| Step::Rename { column, name }),
        2 => name().prop_map(Step::Drop),
        2 => name().prop_map(Step::Widen),
        1 => (name(), any::<u16>()).prop_map(|(column, value)| Step::Default(column, value)),
        1 => name().prop_map(Step::NotNull),
        3 => Just(Step::Seal),
        1 => Just(Step::Trim),
        1 => (0u64..30).prop_map(Step::Erase),
        1 => Just(Step::Rewrite),
        2 => Just(Step::Open),
    ]
}

/// What a record holds, by column, as text.
type Record = BTreeMap<ColumnId, Option<String>>;

struct World<'a> {
    dir: &'a Path,
    stream: Arc<Stream>,
    log: Log,
    dataset: Dataset,
    erased: Erased,
    records: Vec<Record>,
    next: i64,
}

async fn opened(dir: &Path, stream: &Arc<Stream>) -> (Log, Dataset) {
    let store = Arc::new(LocalStore::open(dir).unwrap());
    let options = Options {
        file_rows_max: 4,
        ..Options::default()
    };
    let dataset = Dataset::open(store, options).await.unwrap();
    dataset.add_stream(Arc::clone(stream)).await.unwrap();
    let mut sealed = Frontiers::default();
    sealed.set(STREAM, dataset.manifest(STREAM).frontier.clone());
    let options = lambic_log::Options {
        segment_bytes: 1,
        ..lambic_log::Options::new(dir.join("log"))
    };
    let log = Log::open_after(options, std::slice::from_ref(stream), sealed).unwrap();
    (log, dataset)
}

impl<'a> World<'a> {
    async fn new(dir: &'a Path) -> World<'a> {
        let stream = Arc::new(declared());
        let (log, dataset) = opened(dir, &stream).await;
        World {
            dir,
            stream,
            log,
            dataset,
            erased: Erased::default(),
            records: Vec::new(),
            next: 0,
        }
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Append {
                behind,
                records,
                says,
            } => self.append(*behind, *records, *says).await,
            Step::Add {
                name,
                text,
                default,
            } => {
                let name = NAMES[*name];
                if self.stream.schema.index_of(name).is_err() {
                    let mut columns = self.stream.columns();
                    columns.push(self.column(name, *text, *default));
                    self.alter(columns).await;
                }
            }
            Step::Rename { column, name } => {
                let name = NAMES[*name];
                let mut columns = self.stream.columns();
                if let Some(column) = columns.get_mut(*column)
                    && self.stream.schema.index_of(name).is_err()
                {
                    column.name = name.to_owned();
                    self.alter(columns).await;
                }
            }
            Step::Drop(column) => {
                let mut columns = self.stream.columns();
                if columns.len() > 1 && *column < columns.len() {
                    columns.remove(*column);
                    self.alter(columns).await;
                }
            }
            Step::Widen(column) => {
                let mut columns = self.stream.columns();
                if let Some(column) = columns.get_mut(*column) {
                    column.data_type = wider(&column.data_type);
                    let cast = |constant: &Option<Constant>| {
                        constant
                            .as_ref()
                            .map(|c| c.cast(&column.data_type).unwrap())
                    };
                    (column.missing, column.default) =
                        (cast(&column.missing), cast(&column.default));
                    self.alter(columns).await;
                }
            }
            Step::Default(column, value) => {
                let mut columns = self.stream.columns();
                if let Some(column) = columns.get_mut(*column) {
                    let value = (value % 1_000).to_string();
                    column.default = Constant::of_text(&column.data_type, &value);
                    self.alter(columns).await;
                }
            }
            Step::NotNull(column) => {
                let mut columns = self.stream.columns();
                if let Some(column) = columns.get_mut(*column) {
                    let records = (0..).zip(&self.records);
                    let mut there =
                        records.filter(|(offset, _)| !self.erased.contains(PARTITION, *offset));
                    // New records have a value then.
                    if column.default.is_some()
                        && there.all(|(_, record)| record[&column.id].is_some())
                    {
                        column.nullable = false;
                        self.alter(columns).await;
                    }
                }
            }
            Step::Seal => {
                let snapshot = self.log.snapshot();
                self.dataset.seal(STREAM, &snapshot).await.unwrap();
            }
            Step::Trim => {
                let mut keep = Frontiers::default();
                keep.set(STREAM, self.dataset.manifest(STREAM).frontier.clone());
                self.log.trim(&keep).unwrap();
            }
            Step::Erase(offset) => {
                if *offset < self.records.len() as u64 && !self.erased.contains(PARTITION, *offset)
                {
                    let mut offsets = OffsetSet::default();
                    offsets.add(OffsetRange {
                        partition: PARTITION,
                        first: Offset(*offset),
                        end: Offset(offset + 1),
                    });
                    self.erased.number += 1;
                    self.erased
                        .sets
                        .push((self.erased.number, Arc::new(offsets)));
                    self.log.set_erased(STREAM, self.erased.clone());
                }
            }
            Step::Rewrite => {
                while self
                    .dataset
                    .rewrite_next(STREAM, &self.erased)
                    .await
                    .unwrap()
                {}
                self.dataset.remove_replaced(STREAM).await.unwrap();
            }
            Step::Open => {
                self.log.clone().close().await;
                (self.log, self.dataset) = opened(self.dir, &self.stream).await;
                self.log.set_erased(STREAM, self.erased.clone());
            }
        }
    }

    fn column(&self, name: &str, text: bool, default: Option<u16>) -> Column {
        let data_type = match text {
            true => DataType::Utf8,
            false => DataType::Int16,
        };
        let value = default.map(|value| (value % 1_000).to_string());
        let value = value.and_then(|value| Constant::of_text(&data_type, &value));
        Column {
            id: self.stream.next_column(),
            name: name.to_owned(),
            nullable: value.is_none(),
            data_type,
            missing: value.clone(),
            default: value,
        }
    }

    async fn alter(&mut self, columns: Vec<Column>) {
        let missing: Vec<(ColumnId, Option<String>)> = columns
            .iter()
            .filter(|column| column.id >= self.stream.next_column())
            .map(|column| (column.id, column.missing.as_ref().map(Constant::text)))
            .collect();
        for record in &mut self.records {
            record.extend(missing.iter().cloned());
        }
        self.stream = Arc::new(self.stream.evolved(columns));
        let held = self.log.hold_appends().await;
        self.dataset.change_stream(Arc::clone(&self.stream));
        self.log.change_stream(Arc::clone(&self.stream), &held);
    }

    async fn append(&mut self, behind: u32, records: usize, says: bool) {
        let version = self.stream.schema_version().0.saturating_sub(behind).max(1);
        let version = SchemaVersion(version);
        let former = self.stream.schema_of(version).unwrap();
        // Whoever does not say the version is taken for the newest that has these columns.
        let alike = |schema: &&lambic_model::StreamSchema| {
            let columns = schema.columns.iter().map(|c| (&c.name, &c.data_type));
            columns.eq(former.columns.iter().map(|c| (&c.name, &c.data_type)))
        };
        let schemas = self.stream.schemas();
        let taken_for = schemas.iter().rev().find(alike).unwrap();
        let understood = if says { &former } else { taken_for };
        let mut values: Vec<Vec<Option<String>>> = Vec::new();
        for _ in 0..records {
            let mut row = Vec::new();
            for column in &former.columns {
                self.next += 1;
                let now = understood.columns[row.len()].id;
                let now = self.stream.columns().into_iter().find(|c| c.id == now);
                let null = column.nullable && now.is_none_or(|now| now.nullable);
                row.push((!(null && self.next % 3 == 0)).then(|| (self.next % 30_000).to_string()));
            }
            values.push(row);
        }
        let columns = former.columns.iter().enumerate().map(|(index, column)| {
            let texts: ArrayRef = Arc::new(StringArray::from_iter(
                values.iter().map(|row| row[index].clone()),
            ));
            cast(&texts, &column.data_type).unwrap()
        });
        let batch = RecordBatch::try_new(former.arrow(), columns.collect()).unwrap();
        let write = Write {
            stream: STREAM,
            partition: None,
            batch,
            schema: says.then_some(version),
        };
        let append = Append {
            writes: vec![write],
            ..Append::default()
        };
        self.log.append(append).await.unwrap();
        for row in values {
            let mut record = Record::new();
            for column in self.stream.columns() {
                let place = understood.columns.iter().position(|c| c.id == column.id);
                let value = match place {
                    Some(index) => row[index].clone(),
                    None => column.default.as_ref().map(Constant::text),
                };
                record.insert(column.id, value);
            }
            self.records.push(record);
        }
    }

    /// Reads all columns, and some, and what views see that were planned over each version.
    async fn check(&self) {
        let context = SessionContext::new();
        let reader = Reader::new(
            self.dataset.clone(),
            self.log.clone(),
            &context.runtime_env(),
        );
        let pin = reader.unwrap().pin();
        let now = self.stream.columns();
        for version in 1..=self.stream.schema_version().0 {
            let shown = Arc::new(self.stream.as_of(SchemaVersion(version)).unwrap());
            let columns = shown.columns();
            // What was dropped is not asked for.
            let there: Vec<usize> = (0..columns.len())
                .filter(|index| now.iter().any(|column| column.id == columns[*index].id))
                .collect();
            let every: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
            let sealed = pin.manifest(STREAM).frontier.offset(PARTITION).0;
            // The last as batch runs read texts.
            let reads = [
                (0, pin.table(&shown), u64::MAX),
                (1, pin.table(&shown), u64::MAX),
                (0, pin.sealed(&shown).with_text_views(&every), sealed),
            ];
            for (skipped, table, end) in reads {
                let asked: Vec<usize> = there.iter().copied().skip(skipped).collect();
                let mut names: Vec<&str> = vec![SystemColumn::Offset.name()];
                names.extend(asked.iter().map(|index| columns[*index].name.as_str()));
                let table = context.read_table(Arc::new(table)).unwrap();
                let names: Vec<_> = names
                    .iter()
                    .map(|name| datafusion::prelude::ident(*name))
                    .collect();
                let read = table.select(names).unwrap().collect().await.unwrap();
                let mut found: BTreeMap<u64, Vec<Option<String>>> = BTreeMap::new();
                for batch in &read {
                    for row in 0..batch.num_rows() {
                        let cell = |column: &ArrayRef| {
                            let text = || array_value_to_string(column, row).unwrap();
                            column.is_valid(row).then(text)
                        };
                        let mut cells = batch.columns().iter().map(cell);
                        let offset = cells.next().unwrap().unwrap().parse().unwrap();
                        found.insert(offset, cells.collect());
                    }
                }
                let expected: BTreeMap<u64, Vec<Option<String>>> = (0..)
                    .zip(&self.records)
                    .filter(|(offset, _)| *offset < end)
                    .filter(|(offset, _)| !self.erased.contains(PARTITION, *offset))
                    .map(|(offset, record)| {
                        let cells = asked
                            .iter()
                            .map(|index| record[&columns[*index].id].clone());
                        (offset, cells.collect())
                    })
                    .collect();
                assert_eq!(found, expected, "columns of version {version}");
            }
        }
    }
}

/// One step; the widest stays.
fn wider(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Int16 => DataType::Int32,
        DataType::Int32 => DataType::Int64,
        DataType::Int64 => DataType::Decimal128(19, 0),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn every_read_is_what_the_records_say(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut world = World::new(dir.path()).await;
            for (number, step) in steps.iter().enumerate() {
                world.take(step).await;
                if number % 4 == 3 {
                    world.check().await;
                }
            }
            world.check().await;
            world.take(&Step::Seal).await;
            world.check().await;
            world.log.close().await;
        });
    }
}

/// What was erased need not have a value, though its file is still to be written anew.
#[tokio::test]
async fn erased_records_do_not_count_for_not_null() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path()).await;
    let append = Step::Append {
        behind: 0,
        records: 6,
        says: true,
    };
    for step in [Step::Default(0, 5), append, Step::Seal] {
        world.take(&step).await;
    }
    let id = world.stream.columns()[0].id;
    let records = (0..).zip(world.records.clone());
    let without: Vec<u64> = records
        .filter(|(_, record)| record[&id].is_none())
        .map(|(offset, _)| offset)
        .collect();
    assert!(!without.is_empty());
    for offset in without {
        world.take(&Step::Erase(offset)).await;
    }
    world.take(&Step::NotNull(0)).await;
    assert!(!world.stream.schema.field(0).is_nullable());
    world.check().await;
    world.take(&Step::Rewrite).await;
    world.check().await;
    world.log.close().await;
}
