//! One side of a join: how its rows come from a stream, and the index in which the other sides find them.

use std::{collections::HashSet, sync::Arc};

use arrow::{array::Array, datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::hash_utils::{QualityRandomState, create_hashes},
    execution::{SendableRecordBatchStream, SessionState, TaskContext},
    logical_expr::{Expr, LogicalPlan, physical_planning_context::PhysicalPlanningContext},
    physical_expr::{PhysicalExpr, create_physical_expr},
    physical_plan::{EmptyRecordBatchStream, ExecutionPlan, execute_stream},
};
use futures::TryStreamExt;
use lambic_model::{Frontier, Stream};
use tokio::sync::RwLock;

use super::{
    History,
    apart::SidePlan,
    index::{Hashes, Index, bytes_of},
    memory::{Held, IndexMemory},
};
use crate::{Error, plan::with_schema, slot};

/// Keys of all sides are hashed alike.
const HASH_SEED: u64 = 0;

#[derive(Debug)]
pub struct Side {
    pub stream: Arc<Stream>,
    /// Over the stream's slot; its last columns are the place.
    pub plan: LogicalPlan,
    pub schema: SchemaRef,
    template: Arc<dyn ExecutionPlan>,
    /// The ways to look up its rows.
    pub lookups: Vec<Lookup>,
    kept: RwLock<Kept>,
}

/// Finds rows of one side by those of another.
#[derive(Debug)]
pub struct Lookup {
    /// The other side.
    pub by: usize,
    /// Over the columns of the other side.
    pub by_keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Over its own.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
}

#[derive(Debug)]
enum Kept {
    /// No record of another side has asked for it yet.
    Nothing,
    Index(Box<Indexed>),
    /// The index would hold more than it may. Of a stream with fewer records it is tried again.
    TooLarge {
        erasure: u64,
    },
}

#[derive(Debug)]
struct Indexed {
    index: Index,
    /// The newest erasure from the stream that it knows of.
    erasure: u64,
    /// Up to where it has all rows.
    covered: Frontier,
    held: Held,
}

/// How the index of a side stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub stream: String,
    pub index: IndexStanding,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexStanding {
    /// It is built when a record of another side asks for it.
    NotAsked,
    /// It is being built or extended.
    Busy,
    Kept {
        rows: usize,
        bytes: usize,
    },
    TooLarge,
}

impl Indexed {
    /// Adds rows; false if the index would hold too much, and then it is of no use any more.
    fn add(&mut self, side: &Side, rows: &RecordBatch) -> Result<bool, Error> {
        let hashes: Vec<Hashes> = (side.lookups.iter())
            .map(|lookup| hashes(&lookup.keys, rows))
            .collect::<Result<_, _>>()?;
        Ok(self.index.add(rows, &hashes)? && self.held.resize(self.index.bytes()))
    }

    fn extend(&mut self, side: &Side, batches: Vec<RecordBatch>) -> Result<bool, Error> {
        for rows in batches.into_iter().filter(|rows| rows.num_rows() > 0) {
            if !self.add(side, &with_schema(rows, &side.schema)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Side {
    pub async fn new(plan: SidePlan, state: &SessionState) -> Result<Side, Error> {
        let template = state.create_physical_plan(&plan.plan).await?;
        Ok(Side {
            stream: plan.stream,
            schema: Arc::new(plan.plan.schema().as_arrow().clone()),
            template,
            plan: plan.plan,
            lookups: Vec::new(),
            kept: RwLock::new(Kept::Nothing),
        })
    }

    pub fn template(&self) -> &Arc<dyn ExecutionPlan> {
        &self.template
    }

    /// `exprs` over its columns, to be evaluated.
    pub fn physical(
        &self,
        exprs: impl IntoIterator<Item = Expr>,
        state: &SessionState,
    ) -> Result<Vec<Arc<dyn PhysicalExpr>>, Error> {
        let context = PhysicalPlanningContext::default();
        let props = state.execution_props();
        let schema = self.plan.schema();
        let each = exprs.into_iter();
        let each = each.map(|expr| create_physical_expr(&expr, schema, props, &context));
        Ok(each.collect::<Result<_, _>>()?)
    }

    /// The side's rows of the records in `from..to`.
    pub async fn rows(
        &self,
        history: &dyn History,
        from: &Frontier,
        to: &Frontier,
        task: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream, Error> {
        let Some(columns) = slot::columns_of(&self.template) else {
            return Ok(Box::pin(EmptyRecordBatchStream::new(Arc::clone(
                &self.schema,
            ))));
        };
        let table = history.records(&self.stream, from, to)?;
        let records = table
            .scan(history.state(), Some(&columns), &[], None)
            .await?;
        let plan = slot::fill_one(&self.template, &records)?;
        Ok(execute_stream(plan, task)?)
    }

    /// Of the side's rows of records before `end`, at least those that one of `hashes` finds by lookup `lookup`; `None`
    /// if the index cannot tell.
    pub async fn matching(
        &self,
        lookup: usize,
        hashes: &HashSet<u64>,
        end: &Frontier,
        history: &dyn History,
        task: &Arc<TaskContext>,
    ) -> Result<Option<Vec<RecordBatch>>, Error> {
        let erasure = history.erasures().of(self.stream.id);
        match &*self.kept.read().await {
            Kept::Index(kept) if kept.erasure == erasure && kept.covered.covers(end) => {
                return Ok(Some(kept.index.matching(lookup, hashes, end)?));
            }
            Kept::Index(kept) if kept.erasure > erasure => return Ok(None),
            Kept::TooLarge { erasure: of } if *of >= erasure => return Ok(None),
            _ => {}
        }
        let mut kept = self.kept.write().await;
        self.bring_up(&mut kept, erasure, end, history, task)
            .await?;
        match &*kept {
            Kept::Index(kept) if kept.erasure == erasure => {
                Ok(Some(kept.index.matching(lookup, hashes, end)?))
            }
            _ => Ok(None),
        }
    }

    /// Makes the index anew, or extends it up to `end`. What is cut off in the middle leaves what there was.
    async fn bring_up(
        &self,
        kept: &mut Kept,
        erasure: u64,
        end: &Frontier,
        history: &dyn History,
        task: &Arc<TaskContext>,
    ) -> Result<(), Error> {
        match kept {
            // Somebody else may have been faster.
            Kept::TooLarge { erasure: of } if *of >= erasure => return Ok(()),
            Kept::Index(newer) if newer.erasure > erasure => return Ok(()),
            Kept::Index(same) if same.erasure == erasure => {
                let to = same.covered.max(end);
                if to == same.covered {
                    return Ok(());
                }
                let from = same.covered.clone();
                let mut rows = self.rows(history, &from, &to, Arc::clone(task)).await?;
                let (mut new, mut bytes) = (Vec::new(), 0);
                while let Some(rows) = rows.try_next().await? {
                    bytes += bytes_of(&rows)?;
                    if bytes > same.held.room() {
                        *kept = Kept::TooLarge { erasure };
                        return Ok(());
                    }
                    new.push(rows);
                }
                match same.extend(self, new) {
                    Ok(true) => same.covered = to,
                    Ok(false) => *kept = Kept::TooLarge { erasure },
                    Err(error) => {
                        // It may have some of the rows already.
                        *kept = Kept::Nothing;
                        return Err(error);
                    }
                }
                return Ok(());
            }
            // Rows that were erased are not told apart from others: it is made anew without them.
            _ => *kept = Kept::Nothing,
        }
        let memory = task.session_config().get_extension::<IndexMemory>();
        let mut made = Indexed {
            index: Index::new(Arc::clone(&self.schema), self.lookups.len()),
            erasure,
            covered: end.clone(),
            held: Held::none(memory.unwrap_or_default()),
        };
        let all = Frontier::default();
        let mut rows = self.rows(history, &all, end, Arc::clone(task)).await?;
        while let Some(rows) = rows.try_next().await? {
            if rows.num_rows() > 0 && !made.add(self, &with_schema(rows, &self.schema)?)? {
                *kept = Kept::TooLarge { erasure };
                return Ok(());
            }
        }
        *kept = Kept::Index(Box::new(made));
        Ok(())
    }

    pub fn standing(&self) -> Standing {
        let index = match self.kept.try_read().as_deref() {
            Ok(Kept::Nothing) => IndexStanding::NotAsked,
            Ok(Kept::Index(kept)) => IndexStanding::Kept {
                rows: kept.index.rows(),
                bytes: kept.index.bytes(),
            },
            Ok(Kept::TooLarge { .. }) => IndexStanding::TooLarge,
            Err(_) => IndexStanding::Busy,
        };
        Standing {
            stream: self.stream.name.to_string(),
            index,
        }
    }
}

/// The hash of the keys of every row.
pub fn hashes(keys: &[Arc<dyn PhysicalExpr>], rows: &RecordBatch) -> Result<Hashes, Error> {
    let count = rows.num_rows();
    let columns = keys.iter().map(|key| key.evaluate(rows)?.into_array(count));
    let columns = columns.collect::<datafusion::common::Result<Vec<_>>>()?;
    let mut hashes = vec![0; count];
    create_hashes(
        &columns,
        &QualityRandomState::with_seed(HASH_SEED),
        &mut hashes,
    )?;
    let equals_something = |row: usize| columns.iter().all(|column| column.is_valid(row));
    Ok((hashes.into_iter().enumerate())
        .map(|(row, hash)| equals_something(row).then_some(hash))
        .collect())
}
