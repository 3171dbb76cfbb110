//! Texts that a view groups by and does nothing else with.
//!
//! They pass through to the keys unchanged, so whether a batch run reads them as texts side by side or as views of
//! the bytes in the file is all the same to the states; the second spares a copy of each.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use datafusion::{
    common::Column,
    datasource::source_as_provider,
    logical_expr::{Aggregate, Expr, LogicalPlan},
};

use crate::slot::SlotTable;

/// The columns, by name, of the one stream that `aggregate` reads; none if it reads it through more than filters
/// and a choice of columns.
pub fn only_grouped_by(aggregate: &Aggregate) -> Vec<String> {
    let mut used: HashSet<&Column> = HashSet::new();
    let mut input = aggregate.input.as_ref();
    let scan = loop {
        match input {
            LogicalPlan::SubqueryAlias(alias) => input = &alias.input,
            LogicalPlan::Filter(filter) => {
                used.extend(filter.predicate.column_refs());
                input = &filter.input;
            }
            LogicalPlan::Projection(chosen) if chosen.expr.iter().all(is_column) => {
                input = &chosen.input;
            }
            LogicalPlan::TableScan(scan) => break scan,
            _ => return Vec::new(),
        }
    };
    let is_slot = source_as_provider(&scan.source)
        .is_ok_and(|provider| provider.downcast_ref::<SlotTable>().is_some());
    if !is_slot || !scan.filters.is_empty() {
        return Vec::new();
    }
    let mut keys: Vec<&Column> = Vec::new();
    for group in &aggregate.group_expr {
        match group {
            Expr::Column(column) => keys.push(column),
            other => used.extend(other.column_refs()),
        }
    }
    for aggregate in &aggregate.aggr_expr {
        used.extend(aggregate.column_refs());
    }
    let used: HashSet<&str> = used.into_iter().map(Column::name).collect();
    let is_text = |name: &&str| {
        let field = scan.projected_schema.field_with_unqualified_name(name);
        field.is_ok_and(|field| *field.data_type() == DataType::Utf8)
    };
    let keys = keys.into_iter().map(Column::name);
    keys.filter(|name| !used.contains(name))
        .filter(is_text)
        .map(str::to_owned)
        .collect()
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(_))
}
