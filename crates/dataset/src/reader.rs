//! A stream read as one table: the files of the dataset, then the tail of the log, exact to the head.
//!
//! A [`Pin`] fixes one frontier over all streams. The log is looked at first and the manifests after
//! it: whatever was trimmed from the log before is then surely in a manifest, and what stands in both
//! is told apart by its offsets.

use std::{collections::HashMap, sync::Arc};

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
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_plan::{ExecutionPlan, union::UnionExec},
};
use lambic_log::{Log, Snapshot};
use lambic_model::{Frontier, Frontiers, Stream};

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
        Pin {
            log: self.log.snapshot(),
            reader: self.clone(),
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
    pub fn heads(&self) -> Frontiers {
        self.log.heads()
    }

    pub fn log(&self) -> &Snapshot {
        &self.log
    }

    /// The stream up to this pin.
    pub fn table(&self, stream: &Arc<Stream>) -> StreamTable {
        let manifest = self.reader.dataset.manifest(stream.id);
        StreamTable {
            log: Some(self.log.clone()),
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
    /// A manifest that was taken after the pin may hold files past it: those records do not count.
    fn beyond_pin(&self) -> HashMap<u32, u64> {
        let Some(log) = &self.log else {
            return HashMap::new();
        };
        let head = log.head(self.stream.id);
        let past = self
            .files
            .iter()
            .filter(|file| file.range.end > head.offset(file.range.partition));
        past.map(|file| (file.range.partition.0, head.offset(file.range.partition).0))
            .collect()
    }

    fn tail(&self) -> PlanResult<Vec<RecordBatch>> {
        let Some(log) = &self.log else {
            return Ok(Vec::new());
        };
        let head = log.head(self.stream.id);
        let mut batches = Vec::new();
        for range in head.ranges_since(&self.from) {
            let read = log.read(self.stream.id, range);
            batches.extend(read.map_err(|error| DataFusionError::External(Box::new(error)))?);
        }
        Ok(batches)
    }

    async fn files(
        &self,
        state: &dyn Session,
        projection: &[usize],
    ) -> PlanResult<Option<Arc<dyn ExecutionPlan>>> {
        if self.files.is_empty() {
            return Ok(None);
        }
        for file in &self.files {
            let verified = self.reader.dataset.verify_once(file).await;
            verified.map_err(|error| DataFusionError::External(Box::new(error)))?;
        }
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(parquet_options(state));
        let rows: u64 = self.files.iter().map(|file| file.range.records()).sum();
        let files = self
            .files
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

    async fn files_upto_pin(
        &self,
        state: &dyn Session,
        projection: &[usize],
    ) -> PlanResult<Option<Arc<dyn ExecutionPlan>>> {
        let beyond = self.beyond_pin();
        if beyond.is_empty() {
            return self.files(state, projection).await;
        }
        // Rare: a seal finished between pin and manifest. Read the files that reach past the pin from
        // the pinned log instead, which still holds them.
        let mut earlier = self.clone();
        earlier.files.retain(|file| {
            beyond
                .get(&file.range.partition.0)
                .is_none_or(|head| file.range.end.0 <= *head)
        });
        earlier.log = None;
        earlier.files(state, projection).await
    }

    /// Where the log takes over when files past the pin were left out.
    fn log_from(&self) -> Frontier {
        let beyond = self.beyond_pin();
        let mut from = self.from.clone();
        for file in &self.files {
            if beyond
                .get(&file.range.partition.0)
                .is_some_and(|head| file.range.end.0 > *head)
            {
                let earliest = from.offset(file.range.partition).min(file.range.first);
                from.set(file.range.partition, earliest);
            }
        }
        from
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
        let files = self.files_upto_pin(state, &projection).await?;
        let tail = StreamTable {
            from: self.log_from(),
            ..self.clone()
        }
        .tail()?;
        if tail.is_empty()
            && let Some(files) = files
        {
            return Ok(files);
        }
        let tail =
            MemorySourceConfig::try_new_exec(&[tail], Arc::clone(&self.schema), Some(projection))?;
        match files {
            Some(files) => Ok(UnionExec::try_new(vec![files, tail])?),
            None => Ok(tail),
        }
    }
}

fn parquet_options(state: &dyn Session) -> datafusion::config::TableParquetOptions {
    datafusion::config::TableParquetOptions {
        global: state.config_options().execution.parquet.clone(),
        ..Default::default()
    }
}
