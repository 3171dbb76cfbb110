//! Joins that compare every pair let others have their turn.
//!
//! A nested loop join compares a whole batch of its right side with all rows of its left side before it gives control
//! back, and a filter above a cross join takes as long. Between two batches nothing can be cancelled, and no other
//! statement runs on the thread. So their right side comes in slices that take a few milliseconds each, and a thread
//! that has worked that long is given back.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        joins::{CrossJoinExec, NestedLoopJoinExec},
        replace_children_if_necessary,
    },
};
use futures::{Stream, StreamExt};

/// Rows of the first slice: few, because nothing is known of the left side.
const ROWS_FIRST: usize = 16;
/// A slice that took less is followed by one of twice as many rows, and one that took more by one of half as many.
const SLICE: Duration = Duration::from_millis(5);

/// Puts [`InSlices`] under the right sides.
#[derive(Debug)]
pub(crate) struct LetOthersRun;

impl PhysicalOptimizerRule for LetOthersRun {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|node| {
            let compares_all = node.downcast_ref::<NestedLoopJoinExec>().is_some()
                || node.downcast_ref::<CrossJoinExec>().is_some();
            if !compares_all {
                return Ok(Transformed::no(node));
            }
            let mut children: Vec<_> = node.children().into_iter().map(Arc::clone).collect();
            if let Some(right) = children.pop() {
                children.push(Arc::new(InSlices(right)));
            }
            replace_children_if_necessary(node, children).map(Transformed::yes)
        });
        Ok(plan?.data)
    }

    fn name(&self) -> &str {
        "let_others_run"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct InSlices(Arc<dyn ExecutionPlan>);

impl DisplayAs for InSlices {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("InSlices")
    }
}

impl ExecutionPlan for InSlices {
    fn name(&self) -> &str {
        "InSlices"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.0]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.0));
        Ok(Arc::new(InSlices(input)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        Ok(Box::pin(Slices {
            input: self.0.execute(partition, context)?,
            rest: None,
            rows: ROWS_FIRST,
            given_at: None,
            turn_began: Instant::now(),
        }))
    }
}

struct Slices {
    input: SendableRecordBatchStream,
    /// What is left of the batch that is being given.
    rest: Option<RecordBatch>,
    /// Of the next slice.
    rows: usize,
    /// When the last slice was given.
    given_at: Option<Instant>,
    /// When the thread was last given to us.
    turn_began: Instant,
}

impl Stream for Slices {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let now = Instant::now();
        if let Some(given_at) = self.given_at.take() {
            self.rows = next_rows(self.rows, now - given_at);
            if now - self.turn_began >= SLICE {
                self.turn_began = now;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        } else {
            self.turn_began = now;
        }
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.input.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(batch))) => batch,
                other => return other,
            },
        };
        let rows = self.rows.min(batch.num_rows());
        if rows < batch.num_rows() {
            self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        self.given_at = Some(Instant::now());
        Poll::Ready(Some(Ok(batch.slice(0, rows))))
    }
}

/// How many rows come next, if the last ones took so long.
fn next_rows(rows: usize, took: Duration) -> usize {
    if took < SLICE / 2 {
        rows.saturating_mul(2)
    } else if took > SLICE * 2 {
        (rows / 2).max(1)
    } else {
        rows
    }
}

impl RecordBatchStream for Slices {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionContext};

    use super::*;
    use crate::session;

    fn context() -> SessionContext {
        let state = session::state(session::config(2), Arc::new(RuntimeEnv::default()));
        SessionContext::new_with_state(state)
    }

    const ENDLESS: [&str; 2] = [
        "SELECT count(*) FROM generate_series(1, 30000) AS a(x), generate_series(1, 300000000) AS b(y) WHERE x + y = 0",
        "SELECT count(*) FROM generate_series(1, 30000) AS a(x) LEFT JOIN generate_series(1, 300000000) AS b(y) ON x * y < 0",
    ];

    /// It would take days. On its one thread nobody else would ever have a turn, so another one waits for the end.
    #[test]
    fn a_join_of_all_pairs_can_be_cancelled_and_lets_others_run() {
        for sql in ENDLESS {
            let (done, ended) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime
                    .expect("a runtime")
                    .block_on(cancelled_beside_others(sql));
                done.send(()).expect("somebody waits");
            });
            let ended = ended.recv_timeout(Duration::from_secs(120));
            assert!(ended.is_ok(), "{sql}: {ended:?}");
        }
    }

    async fn cancelled_beside_others(sql: &str) {
        let query = context().sql(sql).await.expect("it is planned");
        let running = tokio::spawn(query.collect());
        // Each has its turn among the slices of the join.
        for _ in 0..8 {
            let two = context().sql("SELECT 1 + 1").await.expect("it is planned");
            assert_eq!(two.collect().await.expect("it runs").len(), 1);
            tokio::time::sleep(SLICE * 4).await;
        }
        assert!(!running.is_finished(), "{sql}");
        running.abort();
        assert!(running.await.expect_err("it was aborted").is_cancelled());
    }

    #[tokio::test]
    async fn slices_leave_nothing_out() {
        let sql = "SELECT count(*) AS n, sum(x * 7 + y) AS total FROM generate_series(1, 900) AS a(x), generate_series(1, 20000) AS b(y) WHERE x + y > 30";
        let found = context().sql(sql).await.expect("it is planned");
        let found = found.collect().await.expect("it runs");
        let shown = arrow::util::pretty::pretty_format_batches(&found).expect("shown");
        // Without the 435 pairs whose sum is at most 30.
        assert!(
            shown.to_string().contains("| 17999565 | 236771964040 |"),
            "{shown}"
        );
    }

    #[test]
    fn slices_follow_what_they_cost() {
        assert_eq!(next_rows(16, Duration::from_millis(1)), 32);
        assert_eq!(next_rows(16, SLICE), 16);
        assert_eq!(next_rows(16, Duration::from_millis(50)), 8);
        assert_eq!(next_rows(1, Duration::from_secs(1)), 1);
    }
}
