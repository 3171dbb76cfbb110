//! A stream read as one table: the files of the dataset, then the tail of the log, exact to the head.
//!
//! A [`Pin`] fixes one frontier over all streams. The log is looked at first and the manifests after
//! it: whatever was trimmed from the log before is then surely in a manifest, and what stands in both
//! is told apart by its offsets.

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
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
    logical_expr::{Expr, Operator, TableProviderFilterPushDown},
    physical_expr::expressions::{BinaryExpr, Column, lit},
    physical_plan::{ExecutionPlan, filter::FilterExecBuilder, union::UnionExec},
};
use lambic_log::{Log, Snapshot};
use lambic_model::{Frontier, Frontiers, Stream, SystemColumn};

use crate::{DataFile, Dataset, Error, Manifest};

/// Files smaller than this together are not worth a second thread.
const PARALLEL_BYTES_MIN: usize = 1 << 20;

/// Reads streams across dataset and log.
#[derive(Clone)]
pub struct Reader {
    dataset: Dataset,
    log: Log,
    url: ObjectStoreUrl,
}

/// One frontier over all streams, and what is needed to read up to it.
#[derive(Clone)]
pub struct Pin {
    log: Snapshot,
    heads: Frontiers,
    reader: Reader,
}

impl Reader {
    /// Registers the dataset's object store with `runtime`, so that plans can scan its files.
    pub fn new(dataset: Dataset, log: Log, runtime: &RuntimeEnv) -> Result<Reader, Error> {
        let url = ObjectStoreUrl::parse("lambic://data").expect("a valid URL");
        runtime.register_object_store(url.as_ref(), dataset.store());
        Ok(Reader { dataset, log, url })
    }

    pub fn pin(&self) -> Pin {
        let log = self.log.snapshot();
        Pin {
            heads: log.heads(),
            log,
            reader: self.clone(),
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

    /// The stream's sealed records only.
    pub fn sealed(&self, stream: &Arc<Stream>, manifest: &Manifest) -> StreamTable {
        StreamTable {
            stream: Arc::clone(stream),
            schema: stream.schema_with_system(),
            reader: self.clone(),
            files: manifest.files.clone(),
            log: None,
            from: manifest.frontier.clone(),
            to: manifest.frontier.clone(),
        }
    }
}

impl Reader {
    /// The sealed records from `from` on; `None` if a file holds records of both sides.
    pub fn sealed_since(
        &self,
        stream: &Arc<Stream>,
        manifest: &Manifest,
        from: &Frontier,
    ) -> Option<StreamTable> {
        let new = |file: &&DataFile| file.range.end > from.offset(file.range.partition);
        let files: Vec<DataFile> = manifest.files.iter().filter(new).cloned().collect();
        let whole = files
            .iter()
            .all(|file| file.range.first >= from.offset(file.range.partition));
        whole.then(|| StreamTable {
            files,
            ..self.sealed(stream, manifest)
        })
    }
}

impl Pin {
    /// The frontier: where every stream ends for this pin.
    pub fn heads(&self) -> &Frontiers {
        &self.heads
    }

    /// The same pin with other, earlier ends: what stood then is read again. None may lie past the log's.
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

    /// The stream up to this pin.
    pub fn table(&self, stream: &Arc<Stream>) -> StreamTable {
        let manifest = self.reader.dataset.manifest(stream.id);
        StreamTable {
            log: Some(self.log.clone()),
            to: self.heads.of(stream.id),
            ..self.reader.sealed(stream, &manifest)
        }
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
    /// Where the files end and the log takes over.
    from: Frontier,
    /// Where the table ends.
    to: Frontier,
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
    fn tail(&self) -> PlanResult<Vec<RecordBatch>> {
        let Some(log) = &self.log else {
            return Ok(Vec::new());
        };
        let mut batches = Vec::new();
        for range in self.to.ranges_since(&self.from) {
            let read = log.read(self.stream.id, range);
            batches.extend(read.map_err(|error| DataFusionError::External(Box::new(error)))?);
        }
        Ok(batches)
    }

    async fn files(
        &self,
        files: &[&DataFile],
        state: &dyn Session,
        projection: &[usize],
    ) -> PlanResult<Option<Arc<dyn ExecutionPlan>>> {
        if files.is_empty() {
            return Ok(None);
        }
        for file in files {
            let verified = self.reader.dataset.verify_once(file).await;
            verified.map_err(|error| DataFusionError::External(Box::new(error)))?;
        }
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(parquet_options(state));
        let rows: u64 = files.iter().map(|file| file.range.records()).sum();
        let files = files
            .iter()
            .map(|file| PartitionedFile::new(file.path.clone(), file.bytes));
        let mut statistics = datafusion::common::Statistics::new_unknown(&self.schema);
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
        Ok(Some(DataSourceExec::from_data_source(config)))
    }

    /// The files' records up to the end of the table. A file that reaches past it is filtered: it was sealed after
    /// the pin, or the pin looks back.
    async fn files_upto_end(
        &self,
        state: &dyn Session,
        projection: &[usize],
    ) -> PlanResult<Vec<Arc<dyn ExecutionPlan>>> {
        let end = |file: &DataFile| self.to.offset(file.range.partition);
        let begun = self
            .files
            .iter()
            .filter(|file| file.range.first < end(file));
        let (whole, cut): (Vec<&DataFile>, Vec<&DataFile>) =
            begun.partition(|file| file.range.end <= end(file));
        let mut plans = Vec::new();
        plans.extend(self.files(&whole, state, projection).await?);
        let offset = self.schema.index_of(SystemColumn::Offset.name())?;
        for file in cut {
            let mut columns = projection.to_vec();
            let at = columns.iter().position(|column| *column == offset);
            let at = at.unwrap_or_else(|| {
                columns.push(offset);
                columns.len() - 1
            });
            if let Some(records) = self.files(&[file], state, &columns).await? {
                let end = lit(end(file).0.cast_signed());
                let offset = Arc::new(Column::new(SystemColumn::Offset.name(), at));
                let before = Arc::new(BinaryExpr::new(offset, Operator::Lt, end));
                let filtered = FilterExecBuilder::new(before, records)
                    .apply_projection(Some((0..projection.len()).collect()))?;
                plans.push(Arc::new(filtered.build()?));
            }
        }
        Ok(plans)
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
        let mut plans = self.files_upto_end(state, &projection).await?;
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

fn parquet_options(state: &dyn Session) -> datafusion::config::TableParquetOptions {
    datafusion::config::TableParquetOptions {
        global: state.config_options().execution.parquet.clone(),
        ..Default::default()
    }
}
