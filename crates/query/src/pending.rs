//! Records that a transaction has inserted and not committed: how they are kept, and how its own statements read
//! them.
//!
//! To those statements they follow the head of their stream's first partition. Where they will really stand is
//! decided when they are committed, so their system columns are provisional until then.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int32Array, Int64Array, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::SchemaRef,
    error::ArrowError,
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::Result,
    datasource::{TableType, memory::MemorySourceConfig},
    execution::TaskContext,
    logical_expr::Expr,
    physical_plan::{ExecutionPlan, union::UnionExec},
};
use lambic_dataset::StreamTable;
use lambic_model::{Fit, Frontiers, Offset, PartitionId, Stream, StreamId, StreamSchema, Write};
use lambic_view::{Error, Run, ViewPlan, plan::Records, tail::TailSource};

/// Where uncommitted records seem to stand.
const PARTITION: PartitionId = PartitionId(0);
/// Batches of this many rows are not merged any more.
const MERGED_ROWS_MAX: usize = 8_192;

/// By stream, in the order in which they were first inserted into; clones share the records.
#[derive(Debug, Clone, Default)]
pub struct Pending(Vec<Inserted>);

#[derive(Debug, Clone)]
struct Inserted {
    stream: Arc<Stream>,
    /// In the order of insertion, few: small ones are merged.
    batches: Vec<RecordBatch>,
}

/// How far the batches of each stream went at a savepoint.
#[derive(Debug, Clone, Default)]
pub struct Mark(Vec<usize>);

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&self) -> usize {
        let batches = self.0.iter().flat_map(|inserted| &inserted.batches);
        batches.map(RecordBatch::get_array_memory_size).sum()
    }

    pub fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.0.iter().map(|inserted| &inserted.stream)
    }

    pub fn has(&self, stream: StreamId) -> bool {
        self.of(stream).is_some()
    }

    fn of(&self, stream: StreamId) -> Option<&Inserted> {
        let mut all = self.0.iter();
        all.find(|inserted| inserted.stream.id == stream)
    }

    /// Batches before `mark` stay as they are, so that it can be gone back to.
    pub fn add(&mut self, stream: &Arc<Stream>, batches: Vec<RecordBatch>, mark: &Mark) {
        let known = self.0.iter();
        let index = known.take_while(|inserted| inserted.stream.id != stream.id);
        let index = index.count();
        if index == self.0.len() {
            self.0.push(Inserted {
                stream: Arc::clone(stream),
                batches: Vec::new(),
            });
        }
        // The stream may have other columns by now.
        self.0[index].follow(stream);
        let kept = mark.0.get(index).copied().unwrap_or(0);
        for batch in batches {
            self.0[index].add(batch, kept);
        }
    }

    pub fn mark(&self) -> Mark {
        let lengths = self.0.iter().map(|inserted| inserted.batches.len());
        Mark(lengths.collect())
    }

    /// Forgets what came after `mark`.
    pub fn cut(&mut self, mark: &Mark) {
        self.0.truncate(mark.0.len());
        for (inserted, length) in self.0.iter_mut().zip(&mark.0) {
            inserted.batches.truncate(*length);
        }
    }

    /// One write for each stream.
    pub fn into_writes(self) -> Result<Vec<Write>, ArrowError> {
        let written = self.0.into_iter();
        let written = written.filter(|inserted| !inserted.batches.is_empty());
        let writes = written.map(|inserted| {
            Ok(Write {
                stream: inserted.stream.id,
                partition: None,
                batch: concat_batches(&inserted.stream.schema, &inserted.batches)?,
                schema: Some(inserted.stream.schema_version()),
            })
        });
        writes.collect()
    }
}

impl Inserted {
    /// Brings what was inserted before into the columns that the stream has now.
    fn follow(&mut self, stream: &Arc<Stream>) {
        if stream.schema_version() <= self.stream.schema_version() {
            return;
        }
        if let Some(batches) = self.batches_as(stream, Fit::appended) {
            self.batches = batches;
            self.stream = Arc::clone(stream);
        }
    }

    fn batches_as(
        &self,
        stream: &Stream,
        fit: fn(&StreamSchema, &Stream) -> Fit,
    ) -> Option<Vec<RecordBatch>> {
        let stored = self.stream.schema_of(self.stream.schema_version())?;
        let fit = fit(&stored, stream);
        let fitted = self.batches.iter().map(|batch| fit.apply_to_all(batch));
        fitted.collect::<Result<_, _>>().ok()
    }

    /// Batches grow geometrically from new to old, so a row is copied O(log n) times.
    fn add(&mut self, batch: RecordBatch, kept: usize) {
        let mut rows = batch.num_rows();
        let mut from = self.batches.len();
        self.batches.push(batch);
        while from > kept
            && self.batches[from - 1].num_rows() <= 2 * rows
            && rows + self.batches[from - 1].num_rows() <= MERGED_ROWS_MAX
        {
            from -= 1;
            rows += self.batches[from].num_rows();
        }
        if from + 1 < self.batches.len()
            && let Ok(merged) = concat_batches(&self.stream.schema, &self.batches[from..])
        {
            self.batches.truncate(from);
            self.batches.push(merged);
        }
    }

    fn rows(&self) -> u64 {
        let rows = self.batches.iter().map(|batch| batch.num_rows() as u64);
        rows.sum()
    }
}

/// A transaction's own records as one of its statements sees them.
#[derive(Debug)]
pub struct Own {
    pending: Pending,
    /// The heads that they seem to follow.
    heads: Frontiers,
    now_us: i64,
}

impl Own {
    pub fn new(pending: Pending, heads: Frontiers, now_us: i64) -> Own {
        Own {
            pending,
            heads,
            now_us,
        }
    }

    pub fn has(&self, stream: StreamId) -> bool {
        self.pending.has(stream)
    }

    /// The heads with the own records behind them.
    pub fn heads(&self) -> Frontiers {
        let mut heads = self.heads.clone();
        for inserted in &self.pending.0 {
            let mut head = heads.of(inserted.stream.id);
            let end = head.offset(PARTITION).0 + inserted.rows();
            head.set(PARTITION, Offset(end));
            heads.set(inserted.stream.id, head);
        }
        heads
    }

    /// The stream's own records in its columns, with system columns.
    fn records(&self, stream: &Stream) -> Result<Vec<RecordBatch>, ArrowError> {
        let Some(inserted) = self.pending.of(stream.id) else {
            return Ok(Vec::new());
        };
        let version = inserted.stream.schema_version();
        let stored = inserted.stream.schema_of(version);
        let stored = stored.filter(|_| !stream.reads_as_is(version));
        let fit = stored.map(|stored| Fit::pending(&stored, stream));
        let schema = inserted.stream.schema_with_system();
        let mut next = self.heads.of(stream.id).offset(PARTITION).0.cast_signed();
        let batches = inserted.batches.iter().map(|batch| {
            let first = next;
            next += batch.num_rows() as i64;
            let own = self.with_system(batch, &schema, first)?;
            match &fit {
                Some(fit) => fit.apply_to_all(&own),
                None => Ok(own),
            }
        });
        batches.collect()
    }

    fn with_system(
        &self,
        batch: &RecordBatch,
        schema: &SchemaRef,
        first: i64,
    ) -> Result<RecordBatch, ArrowError> {
        let rows = batch.num_rows();
        let offsets = first..first + rows as i64;
        let now = TimestampMicrosecondArray::from_value(self.now_us, rows).with_timezone("UTC");
        let system: [ArrayRef; 3] = [
            Arc::new(Int32Array::from_value(PARTITION.0.cast_signed(), rows)),
            Arc::new(Int64Array::from_iter_values(offsets)),
            Arc::new(now),
        ];
        let columns = batch.columns().iter().cloned().chain(system);
        RecordBatch::try_new(Arc::clone(schema), columns.collect())
    }

    /// The stream up to the pin, and the own records.
    pub fn table(&self, table: StreamTable, stream: &Stream) -> Result<Arc<dyn TableProvider>> {
        let own = self.records(stream)?;
        Ok(match own.is_empty() {
            true => Arc::new(table),
            false => Arc::new(WithOwn { table, own }),
        })
    }
}

#[derive(Debug)]
struct WithOwn {
    table: StreamTable,
    own: Vec<RecordBatch>,
}

#[async_trait]
impl TableProvider for WithOwn {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let committed = self.table.scan(state, projection, filters, None).await?;
        let own = std::slice::from_ref(&self.own);
        let own = MemorySourceConfig::try_new_exec(own, self.schema(), projection.cloned())?;
        UnionExec::try_new(vec![committed, own])
    }
}

/// The log's newest records, and behind them the own ones.
pub struct OwnTail {
    pub log: Arc<dyn TailSource>,
    pub own: Arc<Own>,
}

#[async_trait]
impl TailSource for OwnTail {
    async fn run_between(
        &self,
        plan: &ViewPlan,
        from: &Frontiers,
        to: &Frontiers,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error> {
        let mut records = Records::new();
        for stream in plan.inputs.iter().filter(|stream| self.own.has(stream.id)) {
            records.insert(stream.id, self.own.records(stream)?);
        }
        if records.is_empty() {
            return self.log.run_between(plan, from, to, task).await;
        }
        let heads = &self.own.heads;
        let committed = self
            .log
            .run_between(plan, from, heads, Arc::clone(&task))
            .await?;
        let own = plan
            .run_over(&records, heads.clone(), to.clone(), Arc::clone(&task))
            .await?;
        plan.merge(&[Arc::new(committed), Arc::new(own)], task)
            .await
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::AsArray,
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use lambic_model::{Frontier, StreamName};

    use super::*;

    fn stream(id: u32) -> Arc<Stream> {
        Arc::new(Stream {
            id: StreamId(id),
            name: StreamName::new(format!("s{id}")).unwrap(),
            schema: Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)])),
            partitions: 2,
            event_time: None,
            record_id: None,
            partition_by: None,
            evolution: Default::default(),
        })
    }

    fn insert(pending: &mut Pending, stream: &Arc<Stream>, value: i64, mark: &Mark) {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![value]));
        let batch = RecordBatch::try_new(Arc::clone(&stream.schema), vec![column]).unwrap();
        pending.add(stream, vec![batch], mark);
    }

    fn values(batches: &[RecordBatch], column: usize) -> Vec<i64> {
        let values = batches.iter().flat_map(|batch| {
            let column = batch.column(column).as_primitive::<Int64Type>();
            column.values().to_vec()
        });
        values.collect()
    }

    #[test]
    fn many_small_inserts_become_few_batches_in_their_order() {
        let (a, b) = (stream(100), stream(101));
        let mut pending = Pending::default();
        for value in 0..1_000 {
            insert(&mut pending, &a, value, &Mark::default());
            insert(&mut pending, &b, -value, &Mark::default());
        }
        assert!(pending.mark().0.iter().all(|batches| *batches < 12));
        let writes = pending.into_writes().unwrap();
        let streams: Vec<_> = writes.iter().map(|write| write.stream).collect();
        assert_eq!(streams, [a.id, b.id]);
        let written = values(std::slice::from_ref(&writes[0].batch), 0);
        assert_eq!(written, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_mark_can_be_gone_back_to_whatever_came_after() {
        let (a, b) = (stream(100), stream(101));
        let mut pending = Pending::default();
        for value in 0..7 {
            insert(&mut pending, &a, value, &Mark::default());
        }
        let mark = pending.mark();
        for value in 7..50 {
            insert(&mut pending, &a, value, &mark);
            insert(&mut pending, &b, value, &mark);
        }
        pending.cut(&mark);
        assert!(!pending.has(b.id));
        insert(&mut pending, &a, 7, &Mark::default());
        let writes = pending.into_writes().unwrap();
        assert_eq!(
            values(std::slice::from_ref(&writes[0].batch), 0),
            (0..8).collect::<Vec<_>>()
        );
    }

    #[test]
    fn own_records_follow_the_head() {
        let a = stream(100);
        let mut pending = Pending::default();
        for value in [7, 8] {
            insert(&mut pending, &a, value, &Mark::default());
        }
        let mut heads = Frontiers::default();
        heads.set(a.id, Frontier(vec![Offset(5), Offset(9)]));
        let own = Own::new(pending, heads, 1_000);
        assert_eq!(own.heads().of(a.id).to_string(), "0:7,1:9");
        let records = own.records(&a).unwrap();
        assert_eq!(values(&records, 0), [7, 8]);
        assert_eq!(values(&records, 2), [5, 6]);
        assert!(own.records(&stream(7)).unwrap().is_empty());
    }
}
