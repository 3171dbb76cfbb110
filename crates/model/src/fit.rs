//! Records written under one version of a stream's schema, as another version shows them.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, UInt64Array, make_array, new_null_array},
    compute::take,
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};

use crate::{Constant, Stream, StreamSchema, SystemColumn, evolution::cast_exactly};

/// What a record shows in a column that it was written without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// What records show that were there before the column was.
    Missing,
    /// What a new record gets.
    Default,
}

/// The way from stored columns to those of a stream; columns find each other by id.
#[derive(Debug, Clone)]
pub struct Fit {
    sources: Vec<usize>,
    steps: Vec<Step>,
    schema: SchemaRef,
}

#[derive(Debug, Clone)]
enum Step {
    /// Of the sources, perhaps in another type.
    Take(usize, DataType),
    Fill(Option<Constant>, DataType, bool),
}

impl Fit {
    /// To the user's columns of `target`, for records that are not in the log yet.
    pub fn appended(stored: &StreamSchema, target: &Stream) -> Fit {
        let all: Vec<usize> = (0..target.schema.fields().len()).collect();
        let schema = target.schema_with_system();
        Fit::new(stored, target, &schema, &all, Absent::Default)
    }

    /// To `projection` of the columns of `target` with system columns, which follow those of `stored` too.
    pub fn read(stored: &StreamSchema, target: &Stream, projection: &[usize]) -> Fit {
        let schema = target.schema_with_system();
        Fit::new(stored, target, &schema, projection, Absent::Missing)
    }

    /// The same in the types of `schema`, which has the columns of `target` with system columns.
    pub fn read_in(
        stored: &StreamSchema,
        target: &Stream,
        schema: &SchemaRef,
        projection: &[usize],
    ) -> Fit {
        Fit::new(stored, target, schema, projection, Absent::Missing)
    }

    /// To all columns of `target` with system columns, for records that are not in the log yet.
    pub fn pending(stored: &StreamSchema, target: &Stream) -> Fit {
        let schema = target.schema_with_system();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        Fit::new(stored, target, &schema, &all, Absent::Default)
    }

    fn new(
        stored: &StreamSchema,
        target: &Stream,
        with_system: &SchemaRef,
        projection: &[usize],
        absent: Absent,
    ) -> Fit {
        let columns = target.columns();
        let mut sources: Vec<usize> = Vec::new();
        let mut source = |index: usize| {
            sources.push(index);
            sources.len() - 1
        };
        let step = |&index: &usize| {
            let field = with_system.field(index);
            let data_type = field.data_type().clone();
            let Some(column) = columns.get(index) else {
                let system = index - columns.len();
                return Step::Take(source(stored.columns.len() + system), data_type);
            };
            let known = stored.columns.iter();
            match known.into_iter().position(|known| known.id == column.id) {
                Some(found) => Step::Take(source(found), data_type),
                None => {
                    let value = match absent {
                        Absent::Missing => &column.missing,
                        Absent::Default => &column.default,
                    };
                    Step::Fill(value.clone(), data_type, field.is_nullable())
                }
            }
        };
        let steps = projection.iter().map(step).collect();
        let schema = with_system
            .project(projection)
            .expect("projections are of the stream's own columns");
        Fit {
            sources,
            steps,
            schema: Arc::new(schema),
        }
    }

    /// The stored columns that it needs, in the order in which it takes them.
    pub fn sources(&self) -> &[usize] {
        &self.sources
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// `batch` has the columns of [`Fit::sources`].
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let rows = batch.num_rows();
        let column = |step: &Step| match step {
            Step::Take(index, data_type) => {
                let column = batch.column(*index);
                match column.data_type() == data_type {
                    true => Ok(Arc::clone(column)),
                    false => cast_exactly(column, data_type),
                }
            }
            Step::Fill(value, data_type, nullable) => {
                filled(value.as_ref(), data_type, *nullable, rows)
            }
        };
        let columns = self.steps.iter().map(column);
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    /// The same for a batch of all stored columns.
    pub fn apply_to_all(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        self.apply(&batch.project(&self.sources)?)
    }
}

fn filled(
    value: Option<&Constant>,
    data_type: &DataType,
    nullable: bool,
    rows: usize,
) -> Result<ArrayRef, ArrowError> {
    if let Some(value) = value.and_then(|value| value.cast(data_type)) {
        return take(value.value(), &UInt64Array::from(vec![0; rows]), None);
    }
    let nulls = new_null_array(data_type, rows);
    match nullable {
        true => Ok(nulls),
        // Only a plan from before the column was dropped asks for it, and none that uses it is left.
        false => Ok(make_array(
            nulls.to_data().into_builder().nulls(None).build()?,
        )),
    }
}

impl Stream {
    /// True if records written under `stored` are already as this stream shows them.
    pub fn shows(&self, stored: &StreamSchema) -> bool {
        let same = self
            .columns()
            .iter()
            .map(|column| column.id)
            .eq(stored.columns.iter().map(|column| column.id));
        same && *self.schema == *stored.arrow()
    }
}

/// The columns of records at rest, in the order of `stored`.
pub fn stored_schema(stored: &StreamSchema) -> SchemaRef {
    let fields = stored.columns.iter().map(|column| column.field());
    let system = SystemColumn::ALL.map(SystemColumn::field);
    Arc::new(arrow::datatypes::Schema::new(
        fields.chain(system).collect::<Vec<_>>(),
    ))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray},
        datatypes::{Field, Int64Type, Schema},
    };

    use super::*;
    use crate::{Column, ColumnId, Evolution, StreamId, StreamName};

    fn stream() -> Stream {
        Stream {
            id: StreamId(100),
            name: StreamName::new("s").unwrap(),
            schema: Arc::new(Schema::new(vec![
                Field::new("a", DataType::Int32, false),
                Field::new("b", DataType::Utf8, true),
            ])),
            partitions: 1,
            event_time: None,
            record_id: None,
            partition_by: None,
            evolution: Evolution::default(),
        }
    }

    fn stored() -> RecordBatch {
        let schema = stored_schema(&StreamSchema::first(&stream().schema));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![1, 2])),
            Arc::new(StringArray::from(vec![Some("x"), None])),
            Arc::new(Int32Array::from(vec![0, 0])),
            Arc::new(Int64Array::from(vec![7, 8])),
            Arc::new(TimestampMicrosecondArray::from(vec![5, 5]).with_timezone("UTC")),
        ];
        RecordBatch::try_new(schema, columns).unwrap()
    }

    fn text(value: &str) -> Option<Constant> {
        Constant::of_text(&DataType::Utf8, value)
    }

    #[test]
    fn columns_find_each_other_by_id() {
        let first = stream();
        let mut columns = first.columns();
        columns[0].name = "n".to_owned();
        columns[0].data_type = DataType::Int64;
        // `b` goes and another `b` comes.
        columns[1] = Column {
            id: ColumnId(2),
            name: "b".to_owned(),
            data_type: DataType::Utf8,
            nullable: false,
            missing: text("before"),
            default: text("now"),
        };
        let now = first.evolved(columns);
        let before = now.schema_of(crate::SchemaVersion::FIRST).unwrap();
        assert!(!now.shows(&before));
        assert!(first.shows(&before));
        let all: Vec<usize> = (0..5).collect();
        let read = Fit::read(&before, &now, &all)
            .apply_to_all(&stored())
            .unwrap();
        assert_eq!(read.schema(), now.schema_with_system());
        assert_eq!(read.column(0).as_primitive::<Int64Type>().values(), &[1, 2]);
        let b: Vec<_> = read.column(1).as_string::<i32>().iter().flatten().collect();
        assert_eq!(b, ["before", "before"]);
        let few = Fit::read(&before, &now, &[3, 1]);
        assert_eq!(few.sources(), [3]);
        let few = few.apply_to_all(&stored()).unwrap();
        assert_eq!(few.column(0).as_primitive::<Int64Type>().values(), &[7, 8]);
        let none = Fit::read(&before, &now, &[])
            .apply_to_all(&stored())
            .unwrap();
        assert_eq!(none.num_rows(), 2);
        let user = stored().project(&[0, 1]).unwrap();
        let appended = Fit::appended(&before, &now).apply_to_all(&user).unwrap();
        assert_eq!(appended.schema(), now.schema);
        let b = appended.column(1).as_string::<i32>();
        assert_eq!(b.value(0), "now");
    }

    #[test]
    fn a_value_is_never_cut_to_fit() {
        let first = stream();
        let mut columns = first.columns();
        columns[0].data_type = DataType::Int16;
        let narrow = first.evolved(columns);
        let before = first.schema_of(crate::SchemaVersion::FIRST).unwrap();
        let fit = Fit::read(&before, &narrow, &[0]);
        let large: ArrayRef = Arc::new(Int32Array::from(vec![70_000]));
        let schema = Schema::new(vec![Field::new("a", DataType::Int32, false)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![large]).unwrap();
        assert!(fit.apply(&batch).is_err());
    }
}
