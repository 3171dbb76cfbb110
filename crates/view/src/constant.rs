//! Joins that are row work: of a stream's records with constants.
//!
//! A side that reads no table is the same for every record, so that each record becomes rows by itself: `CROSS JOIN
//! (VALUES …)` multiplies records, a join with `VALUES` looks them up.

use datafusion::{
    common::{JoinType, Result, tree_node::TreeNodeRecursion},
    logical_expr::{Join, LogicalPlan},
};

/// The side of the records, if the other one is constant and every row comes from one record.
pub(crate) fn side_of_records(join: &Join) -> Result<Option<&LogicalPlan>> {
    let (left, right) = (join.left.as_ref(), join.right.as_ref());
    let (left_may, right_may) = match join.join_type {
        JoinType::Inner => (true, true),
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
            (true, false)
        }
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
            (false, true)
        }
        // A constant that no record matches is a row until one does.
        JoinType::Full => (false, false),
    };
    if left_may && is_constant(right)? {
        return Ok(Some(left));
    }
    if right_may && is_constant(left)? {
        return Ok(Some(right));
    }
    Ok(None)
}

fn is_constant(plan: &LogicalPlan) -> Result<bool> {
    let mut constant = true;
    plan.apply_with_subqueries(|node| {
        constant &= !matches!(
            node,
            LogicalPlan::TableScan(_) | LogicalPlan::RecursiveQuery(_) | LogicalPlan::Extension(_)
        );
        Ok(match constant {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(constant)
}
