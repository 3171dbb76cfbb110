//! How far what an approximate view serves is from its `SELECT`, key by key.
//!
//! Pure.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, NullArray, StringArray},
    compute::{cast, concat_batches},
    datatypes::{DataType, Field, Float64Type, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
    row::{RowConverter, Rows, SortField},
    util::display::{ArrayFormatter, FormatOptions},
};

/// Keys that are shown; all are measured.
const SHOWN_MAX: usize = 20;

/// What was measured.
#[derive(Debug, Default)]
pub struct Drift {
    /// Keys that are served.
    pub rows: u64,
    equal: u64,
    different: u64,
    /// Keys that the `SELECT` has and that are not served.
    missing: u64,
    extra: u64,
    columns: Vec<Measured>,
    /// Of the keys that differ, those that differ most; then some that only one side has.
    shown: Vec<Shown>,
}

/// Over all keys that both have, of one column of numbers.
#[derive(Debug)]
struct Measured {
    name: String,
    keys: u64,
    worst: f64,
    worst_at: Option<Shown>,
    sum: f64,
    /// To the exact value, or 1 where that is 0.
    relative_worst: f64,
    relative_worst_at: Option<Shown>,
    relative_sum: f64,
}

#[derive(Debug, Clone)]
struct Shown {
    what: &'static str,
    relative: f64,
    key: String,
    served: Option<String>,
    exact: Option<String>,
}

/// Measure, column, value, and the key that it is of.
type Line = (String, Option<String>, Option<f64>, Option<Shown>);

/// The columns of the figures.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("measure", DataType::Utf8, false),
        Field::new("column", DataType::Utf8, true),
        Field::new("value", DataType::Float64, true),
        Field::new("key", DataType::Utf8, true),
        Field::new("served", DataType::Utf8, true),
        Field::new("exact", DataType::Utf8, true),
    ]))
}

impl Drift {
    /// Of rows with these columns, told apart by those in `key`; the error of a key that stands twice names it.
    pub fn between(
        schema: &SchemaRef,
        key: &[String],
        served: &[RecordBatch],
        exact: &[RecordBatch],
    ) -> Result<Result<Drift, String>, ArrowError> {
        let served = Side::of(schema, key, served)?;
        let exact = Side::of(schema, key, exact)?;
        let (served_by_key, exact_by_key) = match (served.by_key()?, exact.by_key()?) {
            (Ok(served), Ok(exact)) => (served, exact),
            (Err(twice), _) | (_, Err(twice)) => return Ok(Err(twice)),
        };
        let mut drift = Drift {
            rows: served.batch.num_rows() as u64,
            ..Drift::default()
        };
        let numbers = served.numbers(schema, key)?.into_iter();
        let numbers: Vec<_> = numbers.zip(exact.numbers(schema, key)?).collect();
        for ((name, _), _) in &numbers {
            drift.columns.push(Measured {
                name: name.clone(),
                keys: 0,
                worst: 0.0,
                worst_at: None,
                sum: 0.0,
                relative_worst: 0.0,
                relative_worst_at: None,
                relative_sum: 0.0,
            });
        }
        for row in 0..exact.batch.num_rows() {
            let Some(&other) = served_by_key.get(exact.keys.row(row).data()) else {
                drift.missing += 1;
                if drift.missing <= SHOWN_MAX as u64 {
                    drift.shown.push(Shown {
                        what: "key missing",
                        relative: 0.0,
                        key: exact.text(&exact.key_columns, row)?,
                        served: None,
                        exact: Some(exact.text(&exact.value_columns, row)?),
                    });
                }
                continue;
            };
            let is_equal = served.values.row(other) == exact.values.row(row);
            drift.equal += u64::from(is_equal);
            drift.different += u64::from(!is_equal);
            let mut relative_worst: f64 = 0.0;
            for (measured, ((_, mine), (_, theirs))) in drift.columns.iter_mut().zip(&numbers) {
                if mine.is_null(other) || theirs.is_null(row) {
                    continue;
                }
                let (mine, theirs) = (mine.value(other), theirs.value(row));
                let apart = match mine == theirs || (mine.is_nan() && theirs.is_nan()) {
                    true => 0.0,
                    false => (mine - theirs).abs(),
                };
                let relative = match (apart == 0.0, theirs == 0.0) {
                    (true, _) => 0.0,
                    (_, true) => 1.0,
                    _ => apart / theirs.abs(),
                };
                relative_worst = relative_worst.max(relative);
                measured.keys += 1;
                measured.sum += apart;
                measured.relative_sum += relative;
                let shown = || {
                    Ok::<_, ArrowError>(Some(Shown {
                        what: "",
                        relative,
                        key: exact.text(&exact.key_columns, row)?,
                        served: Some(mine.to_string()),
                        exact: Some(theirs.to_string()),
                    }))
                };
                if apart > measured.worst {
                    measured.worst = apart;
                    measured.worst_at = shown()?;
                }
                if relative > measured.relative_worst {
                    measured.relative_worst = relative;
                    measured.relative_worst_at = shown()?;
                }
            }
            if !is_equal {
                drift.show_different(relative_worst, || {
                    Ok(Shown {
                        what: "key different",
                        relative: relative_worst,
                        key: exact.text(&exact.key_columns, row)?,
                        served: Some(served.text(&served.value_columns, other)?),
                        exact: Some(exact.text(&exact.value_columns, row)?),
                    })
                })?;
            }
        }
        for row in 0..served.batch.num_rows() {
            if exact_by_key.contains_key(served.keys.row(row).data()) {
                continue;
            }
            drift.extra += 1;
            if drift.extra <= SHOWN_MAX as u64 {
                drift.shown.push(Shown {
                    what: "key extra",
                    relative: 0.0,
                    key: served.text(&served.key_columns, row)?,
                    served: Some(served.text(&served.value_columns, row)?),
                    exact: None,
                });
            }
        }
        Ok(Ok(drift))
    }

    /// The worst come first and stay.
    fn show_different(
        &mut self,
        relative: f64,
        shown: impl FnOnce() -> Result<Shown, ArrowError>,
    ) -> Result<(), ArrowError> {
        let is_different = |shown: &&Shown| shown.what == "key different";
        let count = self.shown.iter().filter(is_different).count();
        let worse = |shown: &Shown| shown.what == "key different" && shown.relative >= relative;
        let place = self
            .shown
            .iter()
            .take(count)
            .take_while(|shown| worse(shown))
            .count();
        if place == SHOWN_MAX {
            return Ok(());
        }
        self.shown.insert(place, shown()?);
        if count == SHOWN_MAX {
            self.shown.remove(SHOWN_MAX);
        }
        Ok(())
    }

    pub fn differences(&self) -> u64 {
        self.different + self.missing + self.extra
    }

    /// One line.
    pub fn summary(&self) -> String {
        if self.differences() == 0 {
            return "drift: none".to_owned();
        }
        let keys = format!(
            "drift: of {} keys {} differ, {} are missing, {} are extra",
            self.equal + self.different + self.missing,
            self.different,
            self.missing,
            self.extra
        );
        let columns = self.columns.iter().filter(|column| column.worst > 0.0);
        let columns = columns.map(|column| {
            format!(
                "{}: worst {} ({:.2} %){}, mean {} ({:.2} %)",
                column.name,
                column.worst,
                column.relative_worst * 100.0,
                column
                    .worst_at
                    .as_ref()
                    .map(|at| format!(" at {}", at.key))
                    .unwrap_or_default(),
                column.mean(),
                column.relative_mean() * 100.0
            )
        });
        std::iter::once(keys)
            .chain(columns)
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// All figures: counts of keys, then of each column, then the keys that differ most.
    pub fn into_columns(self) -> Vec<ArrayRef> {
        let mut lines: Vec<Line> = Vec::new();
        for (measure, count) in [
            ("keys equal", self.equal),
            ("keys different", self.different),
            ("keys missing", self.missing),
            ("keys extra", self.extra),
        ] {
            lines.push((measure.to_owned(), None, Some(count as f64), None));
        }
        for column in &self.columns {
            for (measure, value, at) in [
                ("difference, worst", column.worst, column.worst_at.clone()),
                ("difference, mean", column.mean(), None),
                (
                    "relative difference, worst",
                    column.relative_worst,
                    column.relative_worst_at.clone(),
                ),
                ("relative difference, mean", column.relative_mean(), None),
            ] {
                lines.push((
                    measure.to_owned(),
                    Some(column.name.clone()),
                    Some(value),
                    at,
                ));
            }
        }
        for shown in self.shown {
            let value = (shown.what == "key different").then_some(shown.relative);
            lines.push((shown.what.to_owned(), None, value, Some(shown)));
        }
        let shown = |of: fn(&Shown) -> Option<&str>| -> ArrayRef {
            let texts = lines.iter().map(|(.., shown)| shown.as_ref().and_then(of));
            Arc::new(texts.collect::<StringArray>())
        };
        let measures = lines.iter().map(|(measure, ..)| Some(measure.as_str()));
        let columns = lines.iter().map(|(_, column, ..)| column.as_deref());
        let values = lines.iter().map(|(_, _, value, _)| *value);
        vec![
            Arc::new(measures.collect::<StringArray>()),
            Arc::new(columns.collect::<StringArray>()),
            Arc::new(values.collect::<Float64Array>()),
            shown(|shown| Some(&shown.key)),
            shown(|shown| shown.served.as_deref()),
            shown(|shown| shown.exact.as_deref()),
        ]
    }
}

impl Measured {
    fn mean(&self) -> f64 {
        self.sum / self.keys.max(1) as f64
    }

    fn relative_mean(&self) -> f64 {
        self.relative_sum / self.keys.max(1) as f64
    }
}

/// Rows, encoded so that equal bytes are equal values.
struct Side {
    batch: RecordBatch,
    key_columns: Vec<usize>,
    value_columns: Vec<usize>,
    keys: Rows,
    values: Rows,
}

impl Side {
    fn of(schema: &SchemaRef, key: &[String], rows: &[RecordBatch]) -> Result<Side, ArrowError> {
        let batch = concat_batches(schema, rows)?;
        let key_columns = key.iter().map(|name| schema.index_of(name));
        let key_columns = key_columns.collect::<Result<Vec<_>, _>>()?;
        let value_columns = (0..schema.fields().len()).filter(|index| !key_columns.contains(index));
        let value_columns: Vec<usize> = value_columns.collect();
        Ok(Side {
            keys: encoded(&batch, &key_columns)?,
            values: encoded(&batch, &value_columns)?,
            batch,
            key_columns,
            value_columns,
        })
    }

    /// The row of each key; an error that names one which stands twice.
    fn by_key(&self) -> Result<Result<HashMap<&[u8], usize>, String>, ArrowError> {
        let mut rows = HashMap::with_capacity(self.batch.num_rows());
        for row in 0..self.batch.num_rows() {
            if rows.insert(self.keys.row(row).data(), row).is_some() {
                return Ok(Err(self.text(&self.key_columns, row)?));
            }
        }
        Ok(Ok(rows))
    }

    /// The columns of numbers that are not of the key, as doubles.
    fn numbers(
        &self,
        schema: &SchemaRef,
        key: &[String],
    ) -> Result<Vec<(String, Float64Array)>, ArrowError> {
        let fields = schema.fields().iter().enumerate();
        let numbers = fields
            .filter(|(_, field)| field.data_type().is_numeric() && !key.contains(field.name()));
        let numbers = numbers.map(|(index, field)| {
            let values = cast(self.batch.column(index), &DataType::Float64)?;
            Ok((
                field.name().clone(),
                values.as_primitive::<Float64Type>().clone(),
            ))
        });
        numbers.collect()
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
    let mut columns: Vec<ArrayRef> = columns.iter().map(|&c| batch.column(c).clone()).collect();
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
mod tests {
    use arrow::array::Int64Array;
    use expect_test::{Expect, expect};

    use super::*;

    type Row<'a> = (&'a str, Option<f64>, i64);

    fn rows(rows: &[Row<'_>]) -> (SchemaRef, Vec<RecordBatch>) {
        let schema = Arc::new(Schema::new(vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("x", DataType::Float64, true),
            Field::new("n", DataType::Int64, true),
        ]));
        let keys: StringArray = rows.iter().map(|row| Some(row.0)).collect();
        let xs: Float64Array = rows.iter().map(|row| row.1).collect();
        let ns: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(xs), Arc::new(ns)];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        (schema, vec![batch])
    }

    fn between(served: &[Row<'_>], exact: &[Row<'_>]) -> Result<Drift, String> {
        let (schema, served) = rows(served);
        let (_, exact) = rows(exact);
        Drift::between(&schema, &["k".to_owned()], &served, &exact).unwrap()
    }

    fn check(served: &[Row<'_>], exact: &[Row<'_>], summary: Expect, figures: Expect) {
        let drift = between(served, exact).unwrap();
        summary.assert_eq(&drift.summary());
        let batch = RecordBatch::try_new(schema(), drift.into_columns()).unwrap();
        figures.assert_eq(&crate::diff::tests::shown(batch));
    }

    #[test]
    fn drift_is_measured_key_by_key() {
        check(
            &[
                ("a", Some(11.0), 5),
                ("b", Some(2.0), 7),
                ("c", None, 1),
                ("z", Some(0.5), 1),
            ],
            &[
                ("a", Some(10.0), 5),
                ("b", Some(2.0), 7),
                ("c", Some(3.0), 0),
                ("d", Some(1.0), 1),
            ],
            expect![
                "drift: of 4 keys 2 differ, 1 are missing, 1 are extra; x: worst 1 (10.00 %) at k=a, mean 0.5 (5.00 %); n: worst 1 (100.00 %) at k=c, mean 0.3333333333333333 (33.33 %)"
            ],
            expect![[r#"
                |keys equal||1.0||||
                |keys different||2.0||||
                |keys missing||1.0||||
                |keys extra||1.0||||
                |difference, worst|x|1.0|k=a|11|10|
                |difference, mean|x|0.5||||
                |relative difference, worst|x|0.1|k=a|11|10|
                |relative difference, mean|x|0.05||||
                |difference, worst|n|1.0|k=c|1|0|
                |difference, mean|n|0.3333333333333333||||
                |relative difference, worst|n|1.0|k=c|1|0|
                |relative difference, mean|n|0.3333333333333333||||
                |key different||1.0|k=c|x=NULL n=1|x=3.0 n=0|
                |key different||0.1|k=a|x=11.0 n=5|x=10.0 n=5|
                |key missing|||k=d||x=1.0 n=1|
                |key extra|||k=z|x=0.5 n=1||"#]],
        );
    }

    #[test]
    fn equal_rows_have_no_drift() {
        let same = [("a", Some(f64::NAN), 1), ("b", None, 2)];
        let drift = between(&same, &same).unwrap();
        assert_eq!(
            (drift.summary().as_str(), drift.differences()),
            ("drift: none", 0)
        );
        let none = between(&[], &[]).unwrap();
        assert_eq!(none.differences(), 0);
    }

    #[test]
    fn a_key_that_stands_twice_is_named() {
        let twice = [("a", Some(1.0), 1), ("a", Some(2.0), 2)];
        assert_eq!(between(&twice, &[]).unwrap_err(), "k=a");
        assert_eq!(between(&[], &twice).unwrap_err(), "k=a");
    }

    #[test]
    fn the_worst_keys_are_shown_and_all_are_measured() {
        let names: Vec<String> = (0..100).map(|key| format!("k{key:02}")).collect();
        let served: Vec<Row<'_>> = (0..100)
            .map(|key| (&*names[key], Some(key as f64 + 1.0), 0))
            .collect();
        let exact: Vec<Row<'_>> = (0..100).map(|key| (&*names[key], Some(1.0), 0)).collect();
        let drift = between(&served, &exact).unwrap();
        let shown: Vec<&str> = drift.shown.iter().map(|shown| shown.key.as_str()).collect();
        assert_eq!((drift.different, shown.len()), (99, SHOWN_MAX));
        assert_eq!((shown[0], shown[SHOWN_MAX - 1]), ("k=k99", "k=k80"));
        assert_eq!(
            (drift.columns[0].worst, drift.columns[0].mean()),
            (99.0, 49.5)
        );
    }
}
