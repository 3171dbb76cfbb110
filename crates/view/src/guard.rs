//! Conditions before which another stands: `a <> 0 AND 10 / a > 2`.
//!
//! DataFusion computes both sides of `AND` and `OR` for all rows of a batch, unless the left side decides nearly all of
//! them. In Postgres a row that the left side decides never meets the right side, and so no error in it. Here it is the
//! same for right sides that divide, or make something of texts.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch},
    compute::kernels::boolean::{and_kleene, or_kleene},
    datatypes::{DataType, Schema},
};
use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{ColumnarValue, Operator},
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{BinaryExpr, CastExpr},
    },
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        filter::{FilterExec, FilterExecBuilder},
        projection::{ProjectionExec, ProjectionExpr},
    },
};

/// Functions of [`crate::postgres`] that fail for some values.
const FALLIBLE: [&str; 3] = ["checked_divide", "decimal_divide", "postgres_cast"];

/// Puts [`Guarded`] in the place of `AND` and `OR`.
#[derive(Debug)]
pub(crate) struct DecideInOrder;

impl PhysicalOptimizerRule for DecideInOrder {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|node| {
            if let Some(filter) = node.downcast_ref::<FilterExec>() {
                let guarded = guarded(filter.predicate(), &filter.input().schema())?;
                if guarded.transformed {
                    let filter = FilterExecBuilder::from(filter).with_predicate(guarded.data);
                    return Ok(Transformed::yes(Arc::new(filter.build()?)));
                }
            } else if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
                let mut changed = false;
                let mut columns = Vec::with_capacity(projection.expr().len());
                for column in projection.expr() {
                    let guarded = guarded(&column.expr, &projection.input().schema())?;
                    changed |= guarded.transformed;
                    columns.push(ProjectionExpr {
                        expr: guarded.data,
                        alias: column.alias.clone(),
                    });
                }
                if changed {
                    let input = Arc::clone(projection.input());
                    let schema = projection.schema();
                    let projection =
                        ProjectionExec::try_new_with_schema_metadata(columns, input, &schema)?;
                    return Ok(Transformed::yes(Arc::new(projection)));
                }
            }
            Ok(Transformed::no(node))
        });
        Ok(plan?.data)
    }

    fn name(&self) -> &str {
        "decide_in_order"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn guarded(
    expr: &Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Result<Transformed<Arc<dyn PhysicalExpr>>> {
    Arc::clone(expr).transform_up(|expr| {
        let Some(binary) = expr.downcast_ref::<BinaryExpr>() else {
            return Ok(Transformed::no(expr));
        };
        let is_logic = matches!(binary.op(), Operator::And | Operator::Or);
        if !is_logic || !may_fail(binary.right(), schema)? {
            return Ok(Transformed::no(expr));
        }
        Ok(Transformed::yes(Arc::new(Guarded {
            is_and: *binary.op() == Operator::And,
            left: Arc::clone(binary.left()),
            right: Arc::clone(binary.right()),
        })))
    })
}

fn may_fail(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<bool> {
    let mut may_fail = false;
    expr.apply(|part| {
        may_fail = if let Some(call) = part.downcast_ref::<ScalarFunctionExpr>() {
            FALLIBLE.contains(&call.fun().name())
        } else if let Some(binary) = part.downcast_ref::<BinaryExpr>() {
            matches!(binary.op(), Operator::Divide | Operator::Modulo)
        } else if let Some(cast) = part.downcast_ref::<CastExpr>() {
            cast.expr().data_type(schema)?.is_string() && !cast.cast_type().is_string()
        } else {
            false
        };
        Ok(match may_fail {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(may_fail)
}

/// `left AND right`, or `left OR right`, whose right side is computed only for rows that the left side leaves open.
#[derive(Debug, Eq)]
struct Guarded {
    is_and: bool,
    left: Arc<dyn PhysicalExpr>,
    right: Arc<dyn PhysicalExpr>,
}

// Derived ones would move out of the references (rust-lang/rust issue 78808).
impl PartialEq for Guarded {
    fn eq(&self, other: &Guarded) -> bool {
        self.is_and == other.is_and && self.left.eq(&other.left) && self.right.eq(&other.right)
    }
}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.is_and.hash(state);
        self.left.hash(state);
        self.right.hash(state);
    }
}

impl Guarded {
    fn operator(&self) -> &'static str {
        if self.is_and { "AND" } else { "OR" }
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} {}", self.left, self.operator(), self.right)
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        Ok(self.left.nullable(schema)? || self.right.nullable(schema)?)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let left = self.left.evaluate(batch)?.into_array(rows)?;
        let left = left.as_boolean();
        // False decides AND, and true decides OR.
        let decided = |row| left.is_valid(row) && left.value(row) != self.is_and;
        let open: BooleanArray = (0..rows).map(|row| Some(!decided(row))).collect();
        if !open.has_true() {
            return Ok(ColumnarValue::Array(Arc::new(left.clone())));
        }
        let right = self.right.evaluate_selection(batch, &open)?;
        let right = right.into_array(rows)?;
        let right = right.as_boolean();
        let both = match self.is_and {
            true => and_kleene(left, right)?,
            false => or_kleene(left, right)?,
        };
        Ok(ColumnarValue::Array(Arc::new(both)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let Ok([left, right]) = <[_; 2]>::try_from(children) else {
            return internal_err!("two sides are expected");
        };
        Ok(Arc::new(Guarded {
            is_and: self.is_and,
            left,
            right,
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(")?;
        self.left.fmt_sql(f)?;
        write!(f, " {} ", self.operator())?;
        self.right.fmt_sql(f)?;
        write!(f, ")")
    }
}
