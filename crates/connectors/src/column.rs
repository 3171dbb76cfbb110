//! Columns in the making: values arrive as text or JSON, one record at a time, and a bad record is taken back.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, BinaryArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray},
    buffer::{Buffer, NullBuffer, OffsetBuffer},
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type,
        Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use lambic_model::{Constant, Named, Stream};

use crate::{
    Error,
    error::{Mismatch, shown},
    text::{TimeError, parse_bool, parse_bytes, parse_date, parse_decimal, parse_timestamp},
};

/// A batch ends after this many records …
const BATCH_ROWS: usize = 65_536;
/// … or when its texts are this long together.
const BATCH_TEXT_BYTES: usize = 256 << 20;

/// One JSON value, as far as a column can take it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// As written; grammatically a JSON number.
    Number(&'a str),
    Text(Cow<'a, str>),
    Array,
    Object,
}

impl Scalar<'_> {
    fn shown(&self) -> String {
        match self {
            Scalar::Null => "null".to_owned(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Number(text) => {
                let shown = shown(text);
                format!("the number {}", shown.trim_matches('"'))
            }
            Scalar::Text(text) => format!("the string {}", shown(text)),
            Scalar::Array => "an array".to_owned(),
            Scalar::Object => "an object".to_owned(),
        }
    }
}

enum Values {
    Bool(Vec<bool>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    Text(Spans),
    Bytes(Spans),
}

/// Texts or byte strings, end to end.
struct Spans {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Spans {
    fn new() -> Spans {
        Spans {
            offsets: vec![0],
            bytes: Vec::new(),
        }
    }

    fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.offsets.push(self.bytes.len() as i32);
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        let end = *self
            .offsets
            .last()
            .expect("the first offset is always there");
        self.bytes.truncate(end as usize);
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let spans = std::mem::replace(self, Spans::new());
        (
            OffsetBuffer::new(spans.offsets.into()),
            Buffer::from_vec(spans.bytes),
        )
    }
}

/// Runs `$body` with `$values` bound to the vector of any fixed-width kind.
macro_rules! each_vector {
    ($self:expr, $values:ident => $body:expr, $spans:ident => $spans_body:expr) => {
        match $self {
            Values::Bool($values) => $body,
            Values::I8($values) => $body,
            Values::I16($values) => $body,
            Values::I32($values) => $body,
            Values::I64($values) => $body,
            Values::U8($values) => $body,
            Values::U16($values) => $body,
            Values::U32($values) => $body,
            Values::U64($values) => $body,
            Values::F32($values) => $body,
            Values::F64($values) => $body,
            Values::Decimal($values, _, _) => $body,
            Values::Date($values) => $body,
            Values::Timestamp($values) => $body,
            Values::Text($spans) | Values::Bytes($spans) => $spans_body,
        }
    };
}

struct Column {
    field: Arc<Field>,
    default: Option<Constant>,
    /// How the default is written, for [`Column::push_text`].
    default_text: String,
    values: Values,
    valid: Vec<bool>,
}

impl Column {
    fn new(field: &Arc<Field>, default: Option<Constant>) -> Result<Column, Error> {
        let values = match field.data_type() {
            DataType::Boolean => Values::Bool(Vec::new()),
            DataType::Int8 => Values::I8(Vec::new()),
            DataType::Int16 => Values::I16(Vec::new()),
            DataType::Int32 => Values::I32(Vec::new()),
            DataType::Int64 => Values::I64(Vec::new()),
            DataType::UInt8 => Values::U8(Vec::new()),
            DataType::UInt16 => Values::U16(Vec::new()),
            DataType::UInt32 => Values::U32(Vec::new()),
            DataType::UInt64 => Values::U64(Vec::new()),
            DataType::Float32 => Values::F32(Vec::new()),
            DataType::Float64 => Values::F64(Vec::new()),
            DataType::Decimal128(precision, scale) => {
                Values::Decimal(Vec::new(), *precision, *scale)
            }
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Values::Timestamp(Vec::new()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Values::Text(Spans::new()),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                Values::Bytes(Spans::new())
            }
            other => {
                return Err(Error::UnsupportedColumn {
                    column: field.name().clone(),
                    data_type: other.clone(),
                });
            }
        };
        Ok(Column {
            field: field.clone(),
            default_text: default.as_ref().map_or_else(String::new, written),
            default,
            values,
            valid: Vec::new(),
        })
    }

    fn push_null(&mut self, found: &str) -> Result<(), Mismatch> {
        if !self.field.is_nullable() {
            return Err(Mismatch::new("a value (the column is NOT NULL)", found));
        }
        each_vector!(&mut self.values, values => values.push(Default::default()), spans => spans.push(b""));
        self.valid.push(false);
        Ok(())
    }

    /// For a record that does not name the column.
    fn push_default(&mut self) -> Result<(), Mismatch> {
        if self.default.is_none() {
            return self.push_null("nothing");
        }
        let text = std::mem::take(&mut self.default_text);
        let pushed = self.push_text(&text);
        self.default_text = text;
        pushed
    }

    /// A field of CSV. Around everything but text, spaces do not count.
    fn push_text(&mut self, text: &str) -> Result<(), Mismatch> {
        let trimmed = text.trim_ascii();
        let pushed = match &mut self.values {
            Values::Text(spans) => {
                spans.push(text.as_bytes());
                Ok(())
            }
            Values::Bool(values) => parse_bool(trimmed)
                .map(|value| values.push(value))
                .ok_or(None),
            values => push_number(values, trimmed).unwrap_or_else(|| push_quoted(values, trimmed)),
        };
        self.pushed(pushed, || shown(text))
    }

    fn push_scalar(&mut self, scalar: &Scalar<'_>) -> Result<(), Mismatch> {
        if let Scalar::Null = scalar {
            return self.push_null("null");
        }
        let pushed = match (&mut self.values, scalar) {
            (Values::Text(spans), Scalar::Text(text)) => {
                spans.push(text.as_bytes());
                Ok(())
            }
            (Values::Bool(values), Scalar::Bool(value)) => {
                values.push(*value);
                Ok(())
            }
            (values, Scalar::Number(text)) => push_number(values, text).unwrap_or(Err(
                matches!(values, Values::Timestamp(_) | Values::Date(_)).then_some(
                    "a number does not say its unit; send text, or convert with to_timestamp_micros() in an INSERT",
                ),
            )),
            (values, Scalar::Text(text)) => push_quoted(values, text),
            _ => Err(None),
        };
        self.pushed(pushed, || scalar.shown())
    }

    fn pushed(
        &mut self,
        pushed: Result<(), Hint>,
        found: impl FnOnce() -> String,
    ) -> Result<(), Mismatch> {
        match pushed {
            Ok(()) => {
                self.valid.push(true);
                Ok(())
            }
            Err(hint) => {
                let mismatch = Mismatch::new(self.expected(), found());
                Err(match hint {
                    Some(hint) => mismatch.hint(hint),
                    None => mismatch,
                })
            }
        }
    }

    fn expected(&self) -> String {
        fn integer(least: impl ToString, greatest: impl ToString) -> String {
            format!(
                "an integer from {} to {}",
                least.to_string(),
                greatest.to_string()
            )
        }
        match &self.values {
            Values::Bool(_) => "true or false".to_owned(),
            Values::I8(_) => integer(i8::MIN, i8::MAX),
            Values::I16(_) => integer(i16::MIN, i16::MAX),
            Values::I32(_) => integer(i32::MIN, i32::MAX),
            Values::I64(_) => integer(i64::MIN, i64::MAX),
            Values::U8(_) => integer(0, u8::MAX),
            Values::U16(_) => integer(0, u16::MAX),
            Values::U32(_) => integer(0, u32::MAX),
            Values::U64(_) => integer(0, u64::MAX),
            Values::F32(_) => "a number that a 4-byte float can hold".to_owned(),
            Values::F64(_) => "a number that an 8-byte float can hold".to_owned(),
            Values::Decimal(_, precision, scale) => format!(
                "a number with at most {} digits before and {scale} after the point",
                i16::from(*precision) - i16::from(*scale)
            ),
            Values::Date(_) => "a date such as \"2026-01-31\"".to_owned(),
            Values::Timestamp(_) => match self.field.data_type() {
                DataType::Timestamp(_, Some(_)) => {
                    "a time such as \"2026-01-31T08:30:00Z\"".to_owned()
                }
                _ => "a time such as \"2026-01-31 08:30:00\"".to_owned(),
            },
            Values::Text(_) => "a string".to_owned(),
            Values::Bytes(_) => "bytes in hex such as \"\\x00ff\"".to_owned(),
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.valid.truncate(rows);
        each_vector!(&mut self.values, values => values.truncate(rows), spans => spans.truncate(rows));
    }

    fn text_bytes(&self) -> usize {
        match &self.values {
            Values::Text(spans) | Values::Bytes(spans) => spans.bytes.len(),
            _ => 0,
        }
    }

    fn finish(&mut self) -> ArrayRef {
        fn primitive<T: ArrowPrimitiveType>(
            values: &mut Vec<T::Native>,
            nulls: Option<NullBuffer>,
        ) -> PrimitiveArray<T> {
            PrimitiveArray::new(std::mem::take(values).into(), nulls)
        }
        let valid = std::mem::take(&mut self.valid);
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        let data_type = self.field.data_type();
        let array: ArrayRef = match &mut self.values {
            Values::Bool(values) => {
                Arc::new(BooleanArray::new(std::mem::take(values).into(), nulls))
            }
            Values::I8(values) => Arc::new(primitive::<Int8Type>(values, nulls)),
            Values::I16(values) => Arc::new(primitive::<Int16Type>(values, nulls)),
            Values::I32(values) => Arc::new(primitive::<Int32Type>(values, nulls)),
            Values::I64(values) => Arc::new(primitive::<Int64Type>(values, nulls)),
            Values::U8(values) => Arc::new(primitive::<UInt8Type>(values, nulls)),
            Values::U16(values) => Arc::new(primitive::<UInt16Type>(values, nulls)),
            Values::U32(values) => Arc::new(primitive::<UInt32Type>(values, nulls)),
            Values::U64(values) => Arc::new(primitive::<UInt64Type>(values, nulls)),
            Values::F32(values) => Arc::new(primitive::<Float32Type>(values, nulls)),
            Values::F64(values) => Arc::new(primitive::<Float64Type>(values, nulls)),
            Values::Decimal(values, _, _) => Arc::new(
                primitive::<Decimal128Type>(values, nulls).with_data_type(data_type.clone()),
            ),
            Values::Date(values) => Arc::new(primitive::<Date32Type>(values, nulls)),
            Values::Timestamp(values) => Arc::new(
                primitive::<TimestampMicrosecondType>(values, nulls)
                    .with_data_type(data_type.clone()),
            ),
            Values::Text(spans) => {
                let (offsets, bytes) = spans.take();
                Arc::new(StringArray::new(offsets, bytes, nulls))
            }
            Values::Bytes(spans) => {
                let (offsets, bytes) = spans.take();
                Arc::new(BinaryArray::new(offsets, bytes, nulls))
            }
        };
        if array.data_type() == data_type {
            return array;
        }
        arrow::compute::cast(&array, data_type)
            .expect("texts and bytes of all widths cast to each other")
    }
}

/// The value as a field of CSV says it.
fn written(default: &Constant) -> String {
    match default.value().data_type() {
        DataType::Binary => format!("\\x{}", default.text()),
        _ => default.text(),
    }
}

/// What might help with a value that does not fit.
type Hint = Option<&'static str>;
const UNFIT: Hint = None;

/// Digits into a numeric column; `None` if the column is not numeric. The inner error may carry a hint.
fn push_number(values: &mut Values, text: &str) -> Option<Result<(), Hint>> {
    fn integer<T: std::str::FromStr>(values: &mut Vec<T>, text: &str) -> Result<(), Hint> {
        values.push(text.parse().map_err(|_| UNFIT)?);
        Ok(())
    }
    // A finite number that becomes infinite was too large.
    let infinite_is_meant = text.bytes().all(|byte| !byte.is_ascii_digit());
    Some(match values {
        Values::I8(values) => integer(values, text),
        Values::I16(values) => integer(values, text),
        Values::I32(values) => integer(values, text),
        Values::I64(values) => integer(values, text),
        Values::U8(values) => integer(values, text),
        Values::U16(values) => integer(values, text),
        Values::U32(values) => integer(values, text),
        Values::U64(values) => integer(values, text),
        Values::F32(values) => match text.parse::<f32>() {
            Ok(value) if value.is_finite() || infinite_is_meant => {
                values.push(value);
                Ok(())
            }
            _ => Err(None),
        },
        Values::F64(values) => match text.parse::<f64>() {
            Ok(value) if value.is_finite() || infinite_is_meant => {
                values.push(value);
                Ok(())
            }
            _ => Err(None),
        },
        Values::Decimal(values, precision, scale) => {
            match parse_decimal(text, *precision, *scale) {
                Some(value) => {
                    values.push(value);
                    Ok(())
                }
                None => Err(None),
            }
        }
        _ => return None,
    })
}

/// Text into a column whose values JSON can only say as strings.
fn push_quoted(values: &mut Values, text: &str) -> Result<(), Hint> {
    const TOO_FINE: &str = "times are kept to the microsecond; cut the digits behind it";
    match values {
        Values::Date(values) => values.push(parse_date(text).map_err(|_| UNFIT)?),
        Values::Timestamp(values) => values.push(
            parse_timestamp(text)
                .map_err(|error| matches!(error, TimeError::TooFine).then_some(TOO_FINE))?,
        ),
        Values::Bytes(spans) => spans.push(&parse_bytes(text).ok_or(UNFIT)?),
        // Decimals are often sent as strings because readers of JSON numbers round them.
        Values::Decimal(values, precision, scale) => {
            values.push(parse_decimal(text, *precision, *scale).ok_or(UNFIT)?);
        }
        Values::F32(values) => values.push(special(text).ok_or(UNFIT)? as f32),
        Values::F64(values) => values.push(special(text).ok_or(UNFIT)?),
        _ => return Err(None),
    }
    Ok(())
}

/// The floats that JSON has no numbers for, in Postgres's words.
fn special(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// What a name in a record means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Column(usize),
    /// A column that was dropped: its values are passed over.
    Dropped,
}

/// All columns of a stream. A record is begun, given its values, and then finished or abandoned.
pub(crate) struct Columns {
    stream: Stream,
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Finished records since the last batch.
    rows: usize,
    /// The column that the next value probably belongs to: records mostly keep the order of the one before.
    likely: usize,
}

impl Columns {
    pub fn new(stream: &Stream) -> Result<Columns, Error> {
        let fields = stream.schema.fields().iter();
        let columns = fields
            .zip(stream.defaults())
            .map(|(field, default)| Column::new(field, default));
        Ok(Columns {
            stream: stream.clone(),
            schema: stream.schema.clone(),
            columns: columns.collect::<Result<_, _>>()?,
            rows: 0,
            likely: 0,
        })
    }

    /// The place of a column, or what is wrong with its name.
    pub fn place(&mut self, name: &str) -> Result<Place, Mismatch> {
        let count = self.columns.len();
        let found = (0..count)
            .map(|step| (self.likely + step) % count)
            .find(|&index| self.columns[index].field.name() == name);
        match found {
            Some(index) => {
                self.likely = (index + 1) % count;
                Ok(Place::Column(index))
            }
            None => match self.stream.named(name) {
                Named::Column(index) => Ok(Place::Column(index)),
                Named::Dropped => Ok(Place::Dropped),
                Named::Unknown => Err(unknown_column(&self.schema, name)),
            },
        }
    }

    pub fn name(&self, index: usize) -> &str {
        self.columns[index].field.name()
    }

    pub fn set_scalar(&mut self, index: usize, scalar: &Scalar<'_>) -> Result<(), Mismatch> {
        self.set(index, |column| column.push_scalar(scalar))
    }

    /// `None` is NULL.
    pub fn set_text(&mut self, index: usize, text: Option<&str>) -> Result<(), Mismatch> {
        self.set(index, |column| match text {
            Some(text) => column.push_text(text),
            None => column.push_null("an empty field, which is NULL"),
        })
    }

    fn set(
        &mut self,
        index: usize,
        push: impl FnOnce(&mut Column) -> Result<(), Mismatch>,
    ) -> Result<(), Mismatch> {
        let column = &mut self.columns[index];
        let result = if column.valid.len() > self.rows {
            Err(Mismatch::new("each column once", "it twice"))
        } else {
            push(column)
        };
        result.map_err(|mismatch| mismatch.column(self.columns[index].field.name()))
    }

    /// Completes the record: columns without a value get their defaults, or become NULL. Returns a batch when enough records are together.
    pub fn finish_record(&mut self) -> Result<Option<RecordBatch>, Mismatch> {
        let rows = self.rows;
        for column in &mut self.columns {
            if column.valid.len() == rows {
                column
                    .push_default()
                    .map_err(|mismatch| mismatch.column(column.field.name()))?;
            }
        }
        self.rows += 1;
        let full = self.rows >= BATCH_ROWS
            || self
                .columns
                .iter()
                .any(|column| column.text_bytes() >= BATCH_TEXT_BYTES);
        Ok(if full { self.finish() } else { None })
    }

    /// Takes back the values of a record that is not finished.
    pub fn abandon_record(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.rows);
        }
    }

    /// The finished records since the last batch.
    pub fn finish(&mut self) -> Option<RecordBatch> {
        if self.rows == 0 {
            return None;
        }
        self.rows = 0;
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        Some(
            RecordBatch::try_new(self.schema.clone(), arrays)
                .expect("every column has a value for every record, and NULLs only where allowed"),
        )
    }
}

/// Says that the stream has no such column, and which one may have been meant.
pub(crate) fn unknown_column(schema: &SchemaRef, name: &str) -> Mismatch {
    let lower = name.to_lowercase();
    let closest = schema
        .fields()
        .iter()
        .map(|field| {
            (
                strsim::damerau_levenshtein(field.name(), &lower),
                field.name(),
            )
        })
        .filter(|(distance, field)| *distance <= 1 + field.chars().count() / 3)
        .min();
    let names: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let mismatch = Mismatch::new("a column of the stream", format!("`{name}`"));
    match closest {
        Some((_, field)) => mismatch.hint(format!("did you mean `{field}`?")),
        None => mismatch.hint(format!("its columns are {}", names.join(", "))),
    }
    .column(name)
}
