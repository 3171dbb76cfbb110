//! What differs between two results of a view, key by key where both have the same key.
//!
//! Pure. Values are compared bit for bit, in the columns that both results have under the same name and type.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, NullArray, StringArray},
    compute::concat_batches,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
    row::{OwnedRow, RowConverter, Rows, SortField},
    util::display::{ArrayFormatter, FormatOptions},
};

use crate::types;

/// Differences that are shown; all are counted.
const SHOWN_MAX: usize = 100;

/// One result.
pub struct Side {
    pub schema: SchemaRef,
    pub rows: Vec<RecordBatch>,
    /// Names of the columns that together are the key, sorted; empty without one.
    pub key: Vec<String>,
    /// By column: true if its values are random within an error, so that they differ from run to run.
    pub randomised: Vec<bool>,
}

/// The differences, counted and some of them shown.
#[derive(Debug, Default)]
pub struct Differences {
    equal: u64,
    added: u64,
    removed: u64,
    /// `None` if rows cannot be told apart by a key.
    changed: Option<u64>,
    shown: Vec<Shown>,
}

#[derive(Debug)]
struct Shown {
    change: &'static str,
    key: Option<String>,
    old: Option<String>,
    new: Option<String>,
}

/// The columns of the answer.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("change", DataType::Utf8, false),
        Field::new("rows", DataType::Int64, true),
        Field::new("key", DataType::Utf8, true),
        Field::new("old", DataType::Utf8, true),
        Field::new("new", DataType::Utf8, true),
    ]))
}

impl Differences {
    pub fn between(old: &Side, new: &Side) -> Result<Differences, ArrowError> {
        let mut found = Differences::default();
        let shared = found.columns(old, new);
        let keyed = !old.key.is_empty()
            && old.key == new.key
            && old.key.iter().all(|name| shared.contains(name));
        found.changed = keyed.then_some(0);
        let (old, new) = (Table::of(old, &shared)?, Table::of(new, &shared)?);
        match keyed {
            true => found.by_key(&old, &new)?,
            false => found.by_row(&old, &new)?,
        }
        Ok(found)
    }

    /// Notes the columns that only one side has; returns those that are compared.
    fn columns(&mut self, old: &Side, new: &Side) -> Vec<String> {
        let described =
            |field: &Field| format!("{} {}", field.name(), types::sql_name(field.data_type()));
        let mut shared = Vec::new();
        for (field, random) in old.schema.fields().iter().zip(&old.randomised) {
            let other = new.schema.column_with_name(field.name());
            match other.filter(|(_, other)| other.data_type() == field.data_type()) {
                Some((index, _)) if *random || new.randomised[index] => self.shown.push(Shown {
                    change: "column not compared",
                    key: Some("its values are estimates that differ from run to run".to_owned()),
                    old: Some(described(field)),
                    new: Some(described(field)),
                }),
                Some(_) => shared.push(field.name().clone()),
                None => self.shown.push(Shown {
                    change: "column removed",
                    key: None,
                    old: Some(described(field)),
                    new: None,
                }),
            }
        }
        for field in new.schema.fields() {
            let other = old.schema.column_with_name(field.name());
            if other.is_none_or(|(_, other)| other.data_type() != field.data_type()) {
                self.shown.push(Shown {
                    change: "column added",
                    key: None,
                    old: None,
                    new: Some(described(field)),
                });
            }
        }
        shared
    }

    fn by_key(&mut self, old: &Table, new: &Table) -> Result<(), ArrowError> {
        let mut olds: BTreeMap<OwnedRow, usize> = BTreeMap::new();
        for row in 0..old.batch.num_rows() {
            olds.insert(old.keys.row(row).owned(), row);
        }
        let mut changed = 0;
        for row in 0..new.batch.num_rows() {
            match olds.remove(&new.keys.row(row).owned()) {
                None => {
                    self.added += 1;
                    self.show("added", None, Some((new, row)))?;
                }
                Some(former) if old.values.row(former) == new.values.row(row) => self.equal += 1,
                Some(former) => {
                    changed += 1;
                    self.show("changed", Some((old, former)), Some((new, row)))?;
                }
            }
        }
        self.changed = Some(changed);
        for row in olds.into_values() {
            self.removed += 1;
            self.show("removed", Some((old, row)), None)?;
        }
        Ok(())
    }

    /// Rows as they are, each as often as it stands there.
    fn by_row(&mut self, old: &Table, new: &Table) -> Result<(), ArrowError> {
        let mut olds: BTreeMap<OwnedRow, Vec<usize>> = BTreeMap::new();
        for row in 0..old.batch.num_rows() {
            olds.entry(old.values.row(row).owned())
                .or_default()
                .push(row);
        }
        for row in 0..new.batch.num_rows() {
            let former = olds.get_mut(&new.values.row(row).owned());
            match former.and_then(Vec::pop) {
                Some(_) => self.equal += 1,
                None => {
                    self.added += 1;
                    self.show("added", None, Some((new, row)))?;
                }
            }
        }
        for row in olds.into_values().flatten() {
            self.removed += 1;
            self.show("removed", Some((old, row)), None)?;
        }
        Ok(())
    }

    fn show(
        &mut self,
        change: &'static str,
        old: Option<(&Table, usize)>,
        new: Option<(&Table, usize)>,
    ) -> Result<(), ArrowError> {
        if self.shown.len() >= SHOWN_MAX {
            return Ok(());
        }
        let text = |of: Option<(&Table, usize)>, columns: fn(&Table) -> &[usize]| {
            of.filter(|(table, _)| !columns(table).is_empty())
                .map(|(table, row)| table.text(columns(table), row))
                .transpose()
        };
        self.shown.push(Shown {
            change,
            key: text(new.or(old), |table| &table.key_columns)?,
            old: text(old, |table| &table.value_columns)?,
            new: text(new, |table| &table.value_columns)?,
        });
        Ok(())
    }

    /// The counts, then what is shown.
    pub fn into_columns(self) -> Vec<ArrayRef> {
        let counts = [
            ("equal", Some(self.equal)),
            ("added", Some(self.added)),
            ("removed", Some(self.removed)),
            ("changed", self.changed),
        ];
        let counts = counts
            .into_iter()
            .filter_map(|(change, rows)| Some((change, rows?)));
        let (mut changes, mut rows): (Vec<&str>, Vec<Option<i64>>) = counts
            .map(|(change, rows)| (change, Some(rows.cast_signed())))
            .unzip();
        let before = changes.len();
        changes.extend(self.shown.iter().map(|shown| shown.change));
        rows.resize(changes.len(), None);
        let texts = |of: fn(&Shown) -> Option<&str>| -> ArrayRef {
            let none = std::iter::repeat_n(None, before);
            Arc::new(
                none.chain(self.shown.iter().map(of))
                    .collect::<StringArray>(),
            )
        };
        vec![
            Arc::new(StringArray::from(changes)),
            Arc::new(Int64Array::from(rows)),
            texts(|shown| shown.key.as_deref()),
            texts(|shown| shown.old.as_deref()),
            texts(|shown| shown.new.as_deref()),
        ]
    }
}

/// The rows of one side, encoded so that equal bytes are equal values.
struct Table {
    batch: RecordBatch,
    key_columns: Vec<usize>,
    /// The shared columns that are not of the key.
    value_columns: Vec<usize>,
    keys: Rows,
    values: Rows,
}

impl Table {
    fn of(side: &Side, shared: &[String]) -> Result<Table, ArrowError> {
        let batch = concat_batches(&side.schema, &side.rows)?;
        let of_key = |name: &&String| side.key.contains(*name);
        let (key, values): (Vec<_>, Vec<_>) = shared.iter().partition(of_key);
        let places = |names: Vec<&String>| -> Result<Vec<usize>, ArrowError> {
            names
                .into_iter()
                .map(|name| side.schema.index_of(name))
                .collect()
        };
        let (key_columns, value_columns) = (places(key)?, places(values)?);
        Ok(Table {
            keys: encoded(&batch, &key_columns)?,
            values: encoded(&batch, &value_columns)?,
            batch,
            key_columns,
            value_columns,
        })
    }

    fn text(&self, columns: &[usize], row: usize) -> Result<String, ArrowError> {
        let options = FormatOptions::new().with_null("NULL");
        let each = columns.iter().map(|&column| {
            let field = self.batch.schema_ref().field(column).name();
            let cells = ArrayFormatter::try_new(self.batch.column(column), &options)?;
            Ok(format!("{field}={}", cells.value(row)))
        });
        Ok(each.collect::<Result<Vec<_>, ArrowError>>()?.join(" "))
    }
}

fn encoded(batch: &RecordBatch, columns: &[usize]) -> Result<Rows, ArrowError> {
    let mut columns: Vec<ArrayRef> = columns
        .iter()
        .map(|&column| batch.column(column).clone())
        .collect();
    if columns.is_empty() {
        // Rows without columns are all alike.
        columns.push(Arc::new(NullArray::new(batch.num_rows())));
    }
    let fields = columns
        .iter()
        .map(|column| SortField::new(column.data_type().clone()));
    RowConverter::new(fields.collect())?.convert_columns(&columns)
}

#[cfg(test)]
pub(crate) mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn side(columns: &[(&str, &[Option<i64>])], key: &[&str]) -> Side {
        let fields = columns
            .iter()
            .map(|(name, _)| Field::new(*name, DataType::Int64, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let arrays = columns
            .iter()
            .map(|(_, values)| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) });
        let rows = RecordBatch::try_new(Arc::clone(&schema), arrays.collect()).unwrap();
        Side {
            rows: vec![rows],
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            randomised: vec![false; columns.len()],
            schema,
        }
    }

    fn check(old: &Side, new: &Side, expected: Expect) {
        let differences = Differences::between(old, new).unwrap();
        let batch = RecordBatch::try_new(schema(), differences.into_columns()).unwrap();
        expected.assert_eq(&shown(batch));
    }

    /// A line for each row, without a head.
    pub(crate) fn shown(batch: RecordBatch) -> String {
        let table = arrow::util::pretty::pretty_format_batches(&[batch]).unwrap();
        let lines: Vec<String> = table
            .to_string()
            .lines()
            .filter(|line| line.starts_with('|'))
            .skip(1)
            .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join("|"))
            .collect();
        lines.join("\n")
    }

    #[test]
    fn rows_are_told_apart_by_key() {
        check(
            &side(
                &[
                    ("k", &[Some(1), Some(2), None]),
                    ("n", &[Some(5), Some(6), Some(7)]),
                ],
                &["k"],
            ),
            &side(
                &[
                    ("n", &[Some(5), None, Some(8)]),
                    ("k", &[Some(1), Some(2), Some(3)]),
                ],
                &["k"],
            ),
            expect![[r#"
                |equal|1||||
                |added|1||||
                |removed|1||||
                |changed|1||||
                |changed||k=2|n=6|n=NULL|
                |added||k=3||n=8|
                |removed||k=NULL|n=7||"#]],
        );
    }

    #[test]
    fn without_a_key_rows_are_counted() {
        check(
            &side(&[("n", &[Some(1), Some(1), Some(2)])], &[]),
            &side(&[("n", &[Some(1), Some(3)])], &[]),
            expect![[r#"
                |equal|1||||
                |added|1||||
                |removed|2||||
                |added||||n=3|
                |removed|||n=1||
                |removed|||n=2||"#]],
        );
    }

    #[test]
    fn only_columns_that_both_have_are_compared() {
        check(
            &side(&[("k", &[Some(1)]), ("n", &[Some(5)])], &["k"]),
            &side(&[("k", &[Some(1)]), ("m", &[Some(5)])], &["k"]),
            expect![[r#"
                |equal|1||||
                |added|0||||
                |removed|0||||
                |changed|0||||
                |column removed|||n bigint||
                |column added||||m bigint|"#]],
        );
    }

    #[test]
    fn what_is_shown_is_bounded_and_all_is_counted() {
        let many: Vec<Option<i64>> = (0..1000).map(Some).collect();
        let differences =
            Differences::between(&side(&[("n", &many)], &[]), &side(&[("n", &[])], &[]));
        let differences = differences.unwrap();
        assert_eq!(
            (differences.removed, differences.shown.len()),
            (1000, SHOWN_MAX)
        );
    }
}
