//! A stream read as one table: the files of the dataset, then the tail of the log, exact to the head.
//!
//! A [`Pin`] fixes one frontier over all streams. The log is looked at first and the manifests after
//! it: whatever was trimmed from the log before is then surely in a manifest, and what stands in both
//! is told apart by its offsets. What was erased is left out by the pin's own set, whether the files that it
//! reads still hold it or not.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use arrow::{
    array::{AsArray, BooleanArray},
    datatypes::{DataType, Fields, Int32Type, Int64Type, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Result as PlanResult, stats::Precision},
    datasource::{
        TableType,
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        physical_plan::{FileGroup, FileGroupPartitioner, FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
    },
    error::DataFusionError,
    execution::{object_store::ObjectStoreUrl, runtime_env::RuntimeEnv},
    logical_expr::{
        ColumnarValue, Expr, Operator, ScalarUDF, TableProviderFilterPushDown, Volatility,
        create_udf,
    },
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr, conjunction,
        expressions::{BinaryExpr, Column, lit},
    },
    physical_plan::{ExecutionPlan, filter::FilterExecBuilder, union::UnionExec},
};
use lambic_log::{Log, Snapshot};
use lambic_model::{
    Erased, Fit, Frontier, Frontiers, Offset, PartitionId, SchemaVersion, Stream, StreamId,
    StreamSchema, SystemColumn, fit::stored_schema,
};
use object_store::ObjectStore;

use crate::{
    DataFile, Dataset, Error, Manifest,
    dataset::{Manifests, manifest_in, stored_under},
    fit::FitExec,
};

/// Files smaller than this together are not worth a second thread.
const PARALLEL_BYTES_MIN: usize = 1 << 20;

/// Reads streams across dataset and log.
#[derive(Clone)]
pub struct Reader {
    dataset: Dataset,
    log: Log,
    url: ObjectStoreUrl,
}

/// One frontier over all streams, and what is needed to read up to it: files that it may read stay until it is gone,
/// whatever replaces them.
#[derive(Clone)]
pub struct Pin {
    log: Snapshot,
    heads: Frontiers,
    manifests: Manifests,
    reader: Reader,
}

impl Reader {
    /// Registers the dataset's object store with `runtime`, so that plans can scan its files.
    pub fn new(dataset: Dataset, log: Log, runtime: &RuntimeEnv) -> Result<Reader, Error> {
        let url = ObjectStoreUrl::parse("lambic://data").expect("a valid URL");
        runtime.register_object_store(url.as_ref(), dataset.store());
        Ok(Reader { dataset, log, url })
    }

    /// Lets plans of `runtime` read the dataset's files through `store`, which has the same objects.
    pub fn read_through(&self, runtime: &RuntimeEnv, store: Arc<dyn ObjectStore>) {
        runtime.register_object_store(self.url.as_ref(), store);
    }

    pub fn pin(&self) -> Pin {
        loop {
            let log = self.log.snapshot();
            let manifests = self.dataset.manifests();
            // Files that lack more than the snapshot knows of would be half of one moment and half of another.
            if self.log.snapshot().erasures() == log.erasures() {
                return Pin {
                    heads: log.heads(),
                    log,
                    manifests,
                    reader: self.clone(),
                };
            }
        }
    }

    /// From here on a pin has every append that was taken at `at_us` or before, and none gets that time any more;
    /// [`Error::NotYet`] if that time has not come.
    pub async fn settle(&self, at_us: i64) -> Result<(), Error> {
        match self.log.settle(at_us).await {
            Err(lambic_log::Error::NotYet { at_us, now_us }) => {
                Err(Error::NotYet { at_us, now_us })
            }
            settled => Ok(settled?),
        }
    }

    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The number of the log's last commit; changes with every group of them.
    pub fn commits(&self) -> tokio::sync::watch::Receiver<u64> {
        self.log.commits()
    }
}

impl Pin {
    /// The frontier: where every stream ends for this pin.
    pub fn heads(&self) -> &Frontiers {
        &self.heads
    }

    /// The same pin with other, earlier ends: what stood then is read again, without what was erased since. None may
    /// lie past the log's.
    pub fn at(&self, heads: Frontiers) -> Pin {
        Pin {
            heads,
            ..self.clone()
        }
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    pub fn log(&self) -> &Snapshot {
        &self.log
    }

    pub fn manifest(&self, stream: StreamId) -> Arc<Manifest> {
        manifest_in(&self.manifests, stream)
    }

    /// The stream up to this pin.
    pub fn table(&self, stream: &Arc<Stream>) -> StreamTable {
        StreamTable {
            log: Some(self.log.clone()),
            to: self.heads.of(stream.id),
            ..self.sealed(stream)
        }
    }

    /// The stream's records from `from` on, up to this pin.
    pub fn table_since(&self, stream: &Arc<Stream>, from: Frontier) -> StreamTable {
        StreamTable {
            begin: from,
            ..self.table(stream)
        }
    }

    /// The stream's sealed records only.
    pub fn sealed(&self, stream: &Arc<Stream>) -> StreamTable {
        let manifest = self.manifest(stream.id);
        StreamTable {
            stream: Arc::clone(stream),
            schema: stream.schema_with_system(),
            reader: self.reader.clone(),
            files: manifest.files.clone(),
            log: None,
            begin: Frontier::default(),
            from: manifest.frontier.clone(),
            to: manifest.frontier.clone(),
            erased: self.log.erased(stream.id),
            manifest,
        }
    }

    /// The sealed records from `from` to `to`, which may lie within files.
    pub fn sealed_between(
        &self,
        stream: &Arc<Stream>,
        from: Frontier,
        to: Frontier,
    ) -> StreamTable {
        StreamTable {
            begin: from,
            to,
            ..self.sealed(stream)
        }
    }

    /// The sealed records from `from` on; `None` if a file holds records of both sides.
    pub fn sealed_since(&self, stream: &Arc<Stream>, from: &Frontier) -> Option<StreamTable> {
        let table = self.sealed(stream);
        let new = |file: &&DataFile| file.range.end > from.offset(file.range.partition);
        let files: Vec<DataFile> = table.files.iter().filter(new).cloned().collect();
        let whole = files
            .iter()
            .all(|file| file.range.first >= from.offset(file.range.partition));
        whole.then(|| StreamTable { files, ..table })
    }
}

/// A stream's records with system columns.
#[derive(Clone)]
pub struct StreamTable {
    stream: Arc<Stream>,
    schema: SchemaRef,
    reader: Reader,
    files: Vec<DataFile>,
    log: Option<Snapshot>,
    /// Where the table begins.
    begin: Frontier,
    /// Where the files end and the log takes over.
    from: Frontier,
    /// Where the table ends.
    to: Frontier,
    /// What is left out, though it may still be in files.
    erased: Erased,
    /// Held so that its files stay.
    manifest: Arc<Manifest>,
}

impl std::fmt::Debug for StreamTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamTable")
            .field("stream", &self.stream.name)
            .field("from", &self.from)
            .finish()
    }
}

impl StreamTable {
    /// A table of sealed records that gives these columns, which are texts, as `Utf8View`.
    pub fn with_text_views(self, columns: &[String]) -> StreamTable {
        if self.log.is_some() || columns.is_empty() {
            return self;
        }
        let fields = self.schema.fields().iter().map(|field| {
            let as_view = columns.contains(field.name()) && *field.data_type() == DataType::Utf8;
            match as_view {
                true => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
                false => Arc::clone(field),
            }
        });
        let schema = Arc::new(Schema::new(fields.collect::<Fields>()));
        StreamTable { schema, ..self }
    }

    fn tail(&self) -> PlanResult<Vec<RecordBatch>> {
        let Some(log) = &self.log else {
            return Ok(Vec::new());
        };
        let mut batches = Vec::new();
        for range in self.to.ranges_since(&self.from.max(&self.begin)) {
            let read = log.read_as(&self.stream, range);
            batches.extend(read.map_err(|error| DataFusionError::External(Box::new(error)))?);
        }
        Ok(batches)
    }

    /// The records of `files` before offset `end`, without what was erased and is still in the files, in the columns of
    /// the table.
    async fn files_filtered(
        &self,
        files: &[&DataFile],
        cut: Option<Range<Offset>>,
        state: &dyn Session,
        projection: &[usize],
    ) -> PlanResult<Vec<Arc<dyn ExecutionPlan>>> {
        let mut plans: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        for files in by_version(files).into_values() {
            let Some(stored) = self.other_columns(files[0])? else {
                let schema = &self.schema;
                plans.push(
                    self.filtered(&files, schema, cut.clone(), state, projection)
                        .await?,
                );
                continue;
            };
            let fit = Fit::read_in(&stored, &self.stream, &self.schema, projection);
            let schema = stored_schema(&stored);
            // What was erased goes first: it need not fit.
            let records = self
                .filtered(&files, &schema, cut.clone(), state, fit.sources())
                .await?;
            plans.push(Arc::new(FitExec::new(fit, records)));
        }
        Ok(plans)
    }

    /// The columns of a file, if they are not those of the table.
    fn other_columns(&self, file: &DataFile) -> PlanResult<Option<StreamSchema>> {
        if self.stream.reads_as_is(file.schema) {
            return Ok(None);
        }
        let newest = self.reader.dataset.stream(self.stream.id);
        let newest = newest.as_ref().unwrap_or(&self.stream);
        let stored = stored_under(newest, file);
        let stored = stored.map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok((!self.stream.shows(&stored)).then_some(stored))
    }

    /// The records of files that all have the columns of `schema`.
    async fn scanned(
        &self,
        files: &[&DataFile],
        schema: &SchemaRef,
        state: &dyn Session,
        projection: &[usize],
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        for file in files {
            let verified = self.reader.dataset.verify_once(file).await;
            verified.map_err(|error| DataFusionError::External(Box::new(error)))?;
        }
        let source = ParquetSource::new(Arc::clone(schema))
            .with_table_parquet_options(parquet_options(state));
        let rows: u64 = files.iter().map(|file| file.records()).sum();
        // With each goes the manifest: a plan that may still open the file keeps it from being deleted.
        let files = files.iter().map(|file| {
            let listed = PartitionedFile::new(file.path.clone(), file.bytes);
            listed.with_extension(Arc::clone(&self.manifest))
        });
        let mut statistics = datafusion::common::Statistics::new_unknown(schema);
        statistics.num_rows = Precision::Inexact(rows as usize);
        let whole = vec![FileGroup::new(files.collect())];
        let groups = FileGroupPartitioner::new()
            .with_target_partitions(state.config().target_partitions())
            .with_repartition_file_min_size(PARALLEL_BYTES_MIN)
            .repartition_file_groups(&whole)
            .unwrap_or(whole);
        let config = FileScanConfigBuilder::new(self.reader.url.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(Some(projection.to_vec()))?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// The same of files that all have the columns of `schema`, in which `projection` is.
    async fn filtered(
        &self,
        files: &[&DataFile],
        schema: &SchemaRef,
        cut: Option<Range<Offset>>,
        state: &dyn Session,
        projection: &[usize],
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let hold_erased = files.iter().any(|file| file.holds(&self.erased) > 0);
        if cut.is_none() && !hold_erased {
            return self.scanned(files, schema, state, projection).await;
        }
        let mut scanned = projection.to_vec();
        let mut place = |column: SystemColumn| -> PlanResult<Arc<dyn PhysicalExpr>> {
            let index = schema.index_of(column.name())?;
            let at = scanned.iter().position(|&one| one == index);
            let at = at.unwrap_or_else(|| {
                scanned.push(index);
                scanned.len() - 1
            });
            Ok(Arc::new(Column::new(column.name(), at)))
        };
        let partition = place(SystemColumn::Partition)?;
        let offset = place(SystemColumn::Offset)?;
        let records = self.scanned(files, schema, state, &scanned).await?;
        let mut conditions: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        if let Some(cut) = cut {
            for (operator, end) in [(Operator::GtEq, cut.start), (Operator::Lt, cut.end)] {
                let end = lit(end.0.cast_signed());
                conditions.push(Arc::new(BinaryExpr::new(
                    Arc::clone(&offset),
                    operator,
                    end,
                )));
            }
        }
        if hold_erased {
            let options = Arc::new(state.config_options().clone());
            let kept = not_erased(self.erased.clone());
            let places = vec![partition, offset];
            let kept = ScalarFunctionExpr::try_new(kept, places, &records.schema(), options)?;
            conditions.push(Arc::new(kept));
        }
        let filtered = FilterExecBuilder::new(conjunction(conditions), records)
            .apply_projection(Some((0..projection.len()).collect()))?;
        Ok(Arc::new(filtered.build()?))
    }

    /// The files' records from the begin to the end of the table. A file that reaches past an end is filtered: it was
    /// sealed after the pin, or the pin looks back, or not the whole stream is read.
    async fn files_within(
        &self,
        state: &dyn Session,
        projection: &[usize],
    ) -> PlanResult<Vec<Arc<dyn ExecutionPlan>>> {
        let (whole, cut): (Vec<&DataFile>, Vec<&DataFile>) = self.begun().partition(|file| {
            self.start(file) <= file.range.first && file.range.end <= self.end(file)
        });
        let mut plans = Vec::new();
        plans.extend(self.files_filtered(&whole, None, state, projection).await?);
        for file in cut {
            let cut = Some(self.start(file)..self.end(file));
            plans.extend(self.files_filtered(&[file], cut, state, projection).await?);
        }
        Ok(plans)
    }

    /// The files that have records of the table.
    fn begun(&self) -> impl Iterator<Item = &DataFile> {
        let files = self.files.iter();
        files.filter(move |file| {
            file.range.first < self.end(file) && self.start(file) < file.range.end
        })
    }

    /// Where the table begins in the file's partition.
    fn start(&self, file: &DataFile) -> Offset {
        self.begin.offset(file.range.partition)
    }

    /// Where the table ends in the file's partition.
    fn end(&self, file: &DataFile) -> Offset {
        self.to.offset(file.range.partition)
    }

    /// How many records the whole table of a pin that does not look back has.
    pub fn records(&self) -> u64 {
        let sealed = self.begun().map(|file| {
            // What was sealed after the pin was appended after all erasures that the pin knows.
            let past = file.range.end.0.saturating_sub(self.end(file).0);
            file.records()
                .saturating_sub(file.holds(&self.erased) + past)
        });
        let tail = self.to.ranges_since(&self.from);
        let tail = tail.map(|range| range.records() - self.erased.count_within(range));
        sealed.sum::<u64>() + tail.sum::<u64>()
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let projection = projection
            .cloned()
            .unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let mut plans = self.files_within(state, &projection).await?;
        let tail = self.tail()?;
        if !tail.is_empty() || plans.is_empty() {
            let schema = Arc::clone(&self.schema);
            plans.push(MemorySourceConfig::try_new_exec(
                &[tail],
                schema,
                Some(projection),
            )?);
        }
        match plans.len() {
            1 => Ok(plans.swap_remove(0)),
            _ => Ok(UnionExec::try_new(plans)?),
        }
    }
}

/// Files of one version of the stream's columns together.
fn by_version<'a>(files: &[&'a DataFile]) -> BTreeMap<SchemaVersion, Vec<&'a DataFile>> {
    let mut versions: BTreeMap<SchemaVersion, Vec<&DataFile>> = BTreeMap::new();
    for file in files {
        versions.entry(file.schema).or_default().push(file);
    }
    versions
}

/// True where a record, given by partition and offset, is not in `erased`.
fn not_erased(erased: Erased) -> Arc<ScalarUDF> {
    let evaluate = move |places: &[ColumnarValue]| -> PlanResult<ColumnarValue> {
        let places = ColumnarValue::values_to_arrays(places)?;
        let partitions = places[0].as_primitive::<Int32Type>().values().iter();
        let offsets = places[1].as_primitive::<Int64Type>().values().iter();
        let kept = partitions.zip(offsets).map(|(partition, offset)| {
            let partition = PartitionId(partition.cast_unsigned());
            Some(!erased.contains(partition, offset.cast_unsigned()))
        });
        Ok(ColumnarValue::Array(Arc::new(
            kept.collect::<BooleanArray>(),
        )))
    };
    let place = vec![DataType::Int32, DataType::Int64];
    // Volatile: it is no filter of the user's, and is not to be moved.
    let udf = create_udf(
        "not_erased",
        place,
        DataType::Boolean,
        Volatility::Volatile,
        Arc::new(evaluate),
    );
    Arc::new(udf)
}

fn parquet_options(state: &dyn Session) -> datafusion::config::TableParquetOptions {
    datafusion::config::TableParquetOptions {
        global: state.config_options().execution.parquet.clone(),
        ..Default::default()
    }
}
