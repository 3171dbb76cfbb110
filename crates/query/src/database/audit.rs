//! `AUDIT MATERIALIZED VIEW name`, `AUDIT ALL`.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use super::{Database, rows};
use crate::{AuditResult, Error, Outcome};

impl Database {
    pub(super) async fn audit(&self, name: Option<&str>, sql: &str) -> Result<Outcome, Error> {
        let names = match name {
            Some(name) => vec![self.existing_view(name, sql)?.name.to_string()],
            None => self
                .definitions()
                .into_iter()
                .map(|view| view.name.to_string())
                .collect(),
        };
        let lifecycle = self.lifecycle()?;
        let mut results = Vec::with_capacity(names.len());
        for name in names {
            results.push(lifecycle.audit_view(&name).await?);
        }
        let text = |of: &dyn Fn(&AuditResult) -> String| -> ArrayRef {
            Arc::new(
                results
                    .iter()
                    .map(|result| Some(of(result)))
                    .collect::<StringArray>(),
            )
        };
        let number = |of: &dyn Fn(&AuditResult) -> u64| -> ArrayRef {
            Arc::new(
                results
                    .iter()
                    .map(|r| Some(of(r) as i64))
                    .collect::<Int64Array>(),
            )
        };
        let agrees = results
            .iter()
            .map(|result| Some(result.agrees))
            .collect::<BooleanArray>();
        let columns = vec![
            text(&|r| r.view.clone()),
            Arc::new(agrees) as ArrayRef,
            number(&|r| r.rows),
            number(&|r| r.differences),
            text(&|r| r.detail.clone()),
            text(&|r| r.frontier.clone()),
        ];
        rows(schema(), columns)
    }
}

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("view", DataType::Utf8, false),
        Field::new("agrees", DataType::Boolean, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("differences", DataType::Int64, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("frontier", DataType::Utf8, false),
    ]))
}
