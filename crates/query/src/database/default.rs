//! The defaults of columns: constants, evaluated once.

use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    dataframe::DataFrame,
    logical_expr::{Expr, Volatility},
    sql::sqlparser::ast,
};
use lambic_model::{Evolution, Stream};

use super::Database;
use crate::{Error, Session, error::find_word, evolve, sqlstate, statement, statement::Statement};

impl Database {
    /// The value of `expr`, one row.
    pub(super) async fn constant(&self, expr: &ast::Expr, sql: &str) -> Result<ArrayRef, Error> {
        let at = find_word(sql, "default");
        let wrong = |mut error: Error| {
            error.position = at;
            error
        };
        let select = format!("SELECT {expr}");
        let parsed = statement::parse(&Session::default(), &select).map_err(wrong)?;
        let [parsed] = parsed.as_slice() else {
            return Err(not_constant("it is no expression").with_position(at));
        };
        let Statement::Sql(plain) = &parsed.statement else {
            return Err(not_constant("it is no expression").with_position(at));
        };
        let state = self.0.context.state();
        let plan = self.plan(&state, &plain.ast, &select).await;
        let plan = plan.map_err(wrong)?;
        if plan.schema().fields().len() != 1 {
            return Err(not_constant("it is no single value").with_position(at));
        }
        let mut reason = None;
        plan.apply_with_subqueries(|node| {
            for expr in node.expressions() {
                expr.apply(|part| {
                    if let Expr::ScalarFunction(call) = part
                        && call.func.signature().volatility != Volatility::Immutable
                    {
                        reason = Some(format!(
                            "{}() gives another value each time",
                            call.func.name()
                        ));
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
            if matches!(node, datafusion::logical_expr::LogicalPlan::TableScan(_)) {
                reason = Some("it reads a stream or view".to_owned());
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(|error| wrong(Error::from_datafusion(error, &select, &[])))?;
        if let Some(reason) = reason {
            return Err(not_constant(&reason).with_position(at));
        }
        let rows = DataFrame::new(state, plan).collect().await;
        let rows = rows.map_err(|error| wrong(Error::from_datafusion(error, &select, &[])))?;
        match rows.as_slice() {
            [row] if row.num_rows() == 1 => Ok(Arc::clone(row.column(0))),
            _ => Err(not_constant("it is no single value").with_position(at)),
        }
    }

    /// A stream that was just declared, with the defaults of its columns.
    pub(super) async fn with_defaults(
        &self,
        stream: Stream,
        defaults: &[Option<ast::Expr>],
        sql: &str,
    ) -> Result<Stream, Error> {
        if defaults.iter().all(Option::is_none) {
            return Ok(stream);
        }
        let mut schemas = stream.schemas();
        for (column, default) in schemas[0].columns.iter_mut().zip(defaults) {
            if let Some(default) = default {
                let value = self.constant(default, sql).await?;
                column.default =
                    evolve::constant(Some(&value), &column.data_type, &column.name, sql)?;
            }
        }
        let evolution = Evolution::of(schemas);
        Ok(Stream {
            evolution: evolution.unwrap_or_default(),
            ..stream
        })
    }
}

fn not_constant(reason: &str) -> Error {
    Error::new(
        sqlstate::FEATURE_NOT_SUPPORTED,
        format!("a default must be a constant, and here {reason}"),
    )
    .with_hint("when a record was appended, its column _appended_at tells")
}
