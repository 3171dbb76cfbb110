//! How a stream's columns came to be what they are: every version of its schema, with columns known by identity.
//!
//! A column keeps its id through renames and wider types; one that is dropped takes its id along, so a later column
//! of the same name is another. Records say the version that they were written under, and stay as they were written.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, StringArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, Schema, SchemaRef},
    util::display::array_value_to_string,
};
use serde::{Deserialize, Serialize};

use crate::Stream;

/// Counts the schemas that a stream has had, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SchemaVersion(pub u32);

impl SchemaVersion {
    pub const FIRST: SchemaVersion = SchemaVersion(1);

    pub fn is_first(&self) -> bool {
        *self == SchemaVersion::FIRST
    }
}

impl Default for SchemaVersion {
    fn default() -> SchemaVersion {
        SchemaVersion::FIRST
    }
}

impl std::fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a column among all that its stream has ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ColumnId(pub u32);

/// One value, not NULL.
#[derive(Debug, Clone)]
pub struct Constant(ArrayRef);

impl Constant {
    /// `value` has one row; `None` if that is NULL.
    pub fn new(value: ArrayRef) -> Option<Constant> {
        (value.len() == 1 && value.is_valid(0)).then_some(Constant(value))
    }

    pub fn value(&self) -> &ArrayRef {
        &self.0
    }

    /// The value as a column of another type has it; `None` if that cannot hold it.
    pub fn cast(&self, data_type: &DataType) -> Option<Constant> {
        Constant::new(cast_exactly(&self.0, data_type).ok()?)
    }

    /// What [`Constant::of_text`] reads.
    pub fn text(&self) -> String {
        if let Some(bytes) = self.0.as_binary_opt::<i32>() {
            let hex = bytes.value(0).iter().map(|byte| format!("{byte:02x}"));
            return hex.collect();
        }
        array_value_to_string(&self.0, 0).unwrap_or_default()
    }

    pub fn of_text(data_type: &DataType, text: &str) -> Option<Constant> {
        if *data_type == DataType::Binary {
            let pairs = text.as_bytes().chunks(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let bytes: Vec<u8> = pairs.map(byte).collect::<Option<_>>()?;
            return Constant::new(Arc::new(BinaryArray::from(vec![bytes.as_slice()])));
        }
        let text: ArrayRef = Arc::new(StringArray::from(vec![text]));
        Constant::new(cast_exactly(&text, data_type).ok()?)
    }
}

impl PartialEq for Constant {
    fn eq(&self, other: &Constant) -> bool {
        self.0.data_type() == other.0.data_type() && self.text() == other.text()
    }
}

impl Eq for Constant {}

/// A value that does not fit is an error.
pub(crate) fn cast_exactly(
    array: &ArrayRef,
    data_type: &DataType,
) -> Result<ArrayRef, arrow::error::ArrowError> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, data_type, &strict)
}

/// A column in one version of its stream's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub id: ColumnId,
    pub name: String,
    pub data_type: DataType,
    pub nullable: bool,
    /// What records show that were written before the column was there; NULL without one.
    pub missing: Option<Constant>,
    /// What a new record gets that does not name the column; NULL without one.
    pub default: Option<Constant>,
}

impl Column {
    pub fn field(&self) -> Field {
        Field::new(&self.name, self.data_type.clone(), self.nullable)
    }
}

/// One version of a stream's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSchema {
    pub version: SchemaVersion,
    pub columns: Vec<Column>,
}

impl StreamSchema {
    /// That of a stream as it was declared.
    pub fn first(schema: &Schema) -> StreamSchema {
        let columns = (0..).zip(schema.fields()).map(|(id, field)| Column {
            id: ColumnId(id),
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            missing: None,
            default: None,
        });
        StreamSchema {
            version: SchemaVersion::FIRST,
            columns: columns.collect(),
        }
    }

    pub fn arrow(&self) -> SchemaRef {
        let fields = self.columns.iter().map(Column::field);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub fn by_id(&self, id: ColumnId) -> Option<&Column> {
        self.columns.iter().find(|column| column.id == id)
    }
}

/// All versions of a stream's schema. The default is that of a stream that is as it was declared, without defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evolution {
    /// The oldest first.
    versions: Option<Arc<Vec<StreamSchema>>>,
    /// Set if the stream is shown with the columns of a former version.
    shown: Option<SchemaVersion>,
}

/// The column that a name means to whoever appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// The column at this index, by its present name or a former one.
    Column(usize),
    /// One that was dropped.
    Dropped,
    Unknown,
}

impl Evolution {
    /// `versions`, the oldest first; `None` if they do not follow one another from the first.
    pub fn of(versions: Vec<StreamSchema>) -> Option<Evolution> {
        let numbered = (1..).zip(&versions);
        let in_order = numbered.fold(true, |so_far, (number, schema)| {
            so_far && schema.version.0 == number
        });
        (in_order && !versions.is_empty()).then(|| Evolution {
            versions: Some(Arc::new(versions)),
            shown: None,
        })
    }

    /// `None` if the stream is as it was declared, without defaults.
    pub fn versions(&self) -> Option<&[StreamSchema]> {
        self.versions.as_deref().map(Vec::as_slice)
    }
}

impl Stream {
    /// The version whose columns it shows.
    pub fn schema_version(&self) -> SchemaVersion {
        let newest = || Some(self.evolution.versions()?.last()?.version);
        self.evolution.shown.or_else(newest).unwrap_or_default()
    }

    /// True if records written under `version` need no change to be read as this stream.
    pub fn reads_as_is(&self, version: SchemaVersion) -> bool {
        self.evolution.shown.is_none() && self.schema_version() == version
    }

    /// Every version of its schema, the oldest first.
    pub fn schemas(&self) -> Vec<StreamSchema> {
        match self.evolution.versions() {
            Some(versions) => versions.to_vec(),
            None => vec![StreamSchema::first(&self.schema)],
        }
    }

    /// The schema of records written under `version`; `None` if there was no such version.
    pub fn schema_of(&self, version: SchemaVersion) -> Option<StreamSchema> {
        match self.evolution.versions() {
            Some(versions) => versions.get((version.0 as usize).checked_sub(1)?).cloned(),
            None => version
                .is_first()
                .then(|| StreamSchema::first(&self.schema)),
        }
    }

    /// The columns that it shows. Where those are of a former version, their types are those of today.
    pub fn columns(&self) -> Vec<Column> {
        let shown = self.schema_of(self.schema_version());
        let shown = shown.unwrap_or_else(|| StreamSchema::first(&self.schema));
        let fields = shown.columns.into_iter().zip(self.schema.fields());
        let columns = fields.map(|(column, field)| Column {
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            ..column
        });
        columns.collect()
    }

    /// The default of each column, in order.
    pub fn defaults(&self) -> Vec<Option<Constant>> {
        match self.evolution.versions {
            None => vec![None; self.schema.fields().len()],
            Some(_) => (self.columns().into_iter())
                .map(|column| column.default)
                .collect(),
        }
    }

    /// An id that no column of the stream has had.
    pub fn next_column(&self) -> ColumnId {
        let schemas = self.schemas();
        let ids = schemas.iter().flat_map(|schema| &schema.columns);
        ColumnId(ids.map(|column| column.id.0 + 1).max().unwrap_or(0))
    }

    /// The stream with `columns` as its next version; the names of its keys follow their columns.
    pub fn evolved(&self, columns: Vec<Column>) -> Stream {
        let mut versions = self.schemas();
        let version = SchemaVersion(versions.len() as u32 + 1);
        let schema = StreamSchema { version, columns };
        let mut evolved = self.with_keys_of(&schema);
        evolved.schema = schema.arrow();
        versions.push(schema);
        evolved.evolution = Evolution {
            versions: Some(Arc::new(versions)),
            shown: None,
        };
        evolved
    }

    /// The stream as a view knows it that was planned over `version`: with the columns and names of then, so that
    /// renamed ones are followed and later ones left out, in the types of today. A column that was dropped is NULL in
    /// records appended since.
    pub fn as_of(&self, version: SchemaVersion) -> Option<Stream> {
        if version == self.schema_version() {
            return Some(self.clone());
        }
        let now = self.schemas();
        let then = self.schema_of(version)?;
        let fields = then.columns.iter().map(|column| {
            // The last that was known of it, if it is there no longer.
            let mut known = now.iter().rev();
            let last = known.find_map(|schema| schema.by_id(column.id));
            let is_there = now.last().is_some_and(|now| now.by_id(column.id).is_some());
            let last = last.unwrap_or(column);
            let nullable = column.nullable || last.nullable || !is_there;
            Field::new(&column.name, last.data_type.clone(), nullable)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut shown = self.with_keys_of(&then);
        shown.schema = schema;
        shown.evolution.shown = Some(version);
        Some(shown)
    }

    fn with_keys_of(&self, schema: &StreamSchema) -> Stream {
        let columns = self.columns();
        let renamed = |key: &Option<String>| {
            let key = key.as_ref()?;
            let id = columns.iter().find(|column| column.name == *key)?.id;
            Some(schema.by_id(id)?.name.clone())
        };
        Stream {
            event_time: renamed(&self.event_time),
            record_id: renamed(&self.record_id),
            partition_by: renamed(&self.partition_by),
            ..self.clone()
        }
    }

    /// The column that `name` means in what is appended: producers may go on with a former name of a column, and
    /// with columns that were dropped, until another column takes the name.
    pub fn named(&self, name: &str) -> Named {
        if let Ok(index) = self.schema.index_of(name) {
            return Named::Column(index);
        }
        let schemas = self.evolution.versions().unwrap_or_default();
        let last = schemas.iter().rev().find_map(|schema| schema.column(name));
        let Some(last) = last else {
            return Named::Unknown;
        };
        let mut now = self.columns().into_iter();
        match now.position(|column| column.id == last.id) {
            Some(index) => Named::Column(index),
            None => Named::Dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{
            BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array,
            Int32Array, TimestampMicrosecondArray,
        },
        datatypes::TimeUnit,
    };

    use super::*;
    use crate::{StreamId, StreamName};

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
            record_id: Some("a".to_owned()),
            partition_by: None,
            evolution: Evolution::default(),
        }
    }

    fn renamed(stream: &Stream, from: &str, to: &str) -> Stream {
        let mut columns = stream.columns();
        for column in &mut columns {
            if column.name == from {
                column.name = to.to_owned();
            }
        }
        stream.evolved(columns)
    }

    #[test]
    fn former_names_are_known_until_another_column_takes_them() {
        let stream = renamed(&stream(), "a", "id");
        assert_eq!(stream.record_id.as_deref(), Some("id"));
        assert_eq!(stream.named("a"), Named::Column(0));
        assert_eq!(stream.named("id"), Named::Column(0));
        assert_eq!(stream.named("c"), Named::Unknown);
        let mut columns = stream.columns();
        columns.remove(1);
        let without = stream.evolved(columns);
        assert_eq!(without.named("b"), Named::Dropped);
        let again = renamed(&without, "id", "b");
        assert_eq!(again.named("b"), Named::Column(0));
        assert_eq!(again.named("a"), Named::Column(0));
    }

    #[test]
    fn a_former_version_is_shown_in_the_types_of_today() {
        let first = stream();
        let mut columns = renamed(&first, "a", "id").columns();
        columns[0].data_type = DataType::Int64;
        columns.remove(1);
        let now = renamed(&first, "a", "id").evolved(columns);
        let then = now.as_of(SchemaVersion(1)).unwrap();
        assert_eq!(then.schema_version(), SchemaVersion(1));
        assert_eq!(then.record_id.as_deref(), Some("a"));
        assert_eq!(
            then.schema.as_ref(),
            &Schema::new(vec![
                Field::new("a", DataType::Int64, false),
                Field::new("b", DataType::Utf8, true),
            ])
        );
        assert_eq!(then.columns()[0].id, now.columns()[0].id);
        assert_eq!(now.as_of(SchemaVersion(9)), None);
    }

    #[test]
    fn constants_come_back_from_their_text() {
        let utc = |value| TimestampMicrosecondArray::from(vec![value]).with_timezone("UTC");
        let values: Vec<ArrayRef> = vec![
            Arc::new(BooleanArray::from(vec![true])),
            Arc::new(Int16Array::from(vec![-5])),
            Arc::new(Int32Array::from(vec![i32::MIN])),
            Arc::new(Float32Array::from(vec![0.1])),
            Arc::new(Float64Array::from(vec![f64::NAN])),
            Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])),
            Arc::new(Float64Array::from(vec![1e300])),
            Arc::new(StringArray::from(vec!["it's"])),
            Arc::new(StringArray::from(vec![""])),
            Arc::new(BinaryArray::from(vec![[0u8, 255].as_slice()])),
            Arc::new(Date32Array::from(vec![-700_000])),
            Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_123_456])),
            Arc::new(utc(-1)),
            Arc::new(
                Decimal128Array::from(vec![-150])
                    .with_precision_and_scale(12, 2)
                    .unwrap(),
            ),
        ];
        for value in values {
            let constant = Constant::new(value.clone()).unwrap();
            let back = Constant::of_text(value.data_type(), &constant.text());
            assert_eq!(back, Some(constant), "{:?}", value.data_type());
        }
        let data_type = DataType::Timestamp(TimeUnit::Microsecond, None);
        assert_eq!(Constant::of_text(&data_type, "soon"), None);
        assert_eq!(Constant::of_text(&DataType::Binary, "é"), None);
    }
}
