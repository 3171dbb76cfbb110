//! Rows of Arrow batches as Postgres's data rows, in text and binary.
//!
//! The everyday types are written here, digit for digit as Postgres writes them; lists, records,
//! times and intervals go through `arrow-pg`.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{
        DataType, Date32Type, Date64Type, Decimal128Type, Decimal256Type, Field, Float32Type,
        Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit,
        TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
    error::ArrowError,
    temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime},
    util::display::{ArrayFormatter, FormatOptions as DisplayOptions},
};
use arrow_pg::{datatypes::field_into_pg_type, encoder::encode_value};
use bytes::{BufMut, BytesMut};
use pgwire::{
    api::{
        Type,
        portal::Format,
        results::{DataRowEncoder, FieldFormat, FieldInfo},
    },
    error::{PgWireError, PgWireResult},
    messages::data::DataRow,
};

use super::parameter::{DAYS_1970_TO_2000, MICROSECONDS_1970_TO_2000};

/// The columns of an answer as the client is told of them.
pub fn fields(schema: &Schema, format: &Format) -> PgWireResult<Vec<FieldInfo>> {
    let count = match format {
        Format::Individual(formats) => formats.len(),
        _ => schema.fields().len(),
    };
    if count != schema.fields().len() {
        return Err(super::error::wire(
            "08P01",
            format!(
                "bind asks for the formats of {count} columns, but there are {}",
                schema.fields().len()
            ),
        ));
    }
    let fields = schema.fields().iter().enumerate().map(|(index, field)| {
        let datatype = pg_type(field);
        FieldInfo::new(
            field.name().clone(),
            None,
            None,
            datatype.clone(),
            format.format_for(index),
        )
        .with_type_size(type_size(&datatype))
        .with_type_modifier(type_modifier(field.data_type()))
    });
    Ok(fields.collect())
}

/// What Postgres would call the type of `field`; types that it has no word for are shown as text.
pub fn pg_type(field: &Arc<Field>) -> Type {
    match field.data_type() {
        DataType::Null => Type::TEXT,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal256(..) => {
            Type::NUMERIC
        }
        DataType::Dictionary(_, value) => pg_type(&Arc::new(
            field
                .as_ref()
                .clone()
                .with_data_type(value.as_ref().clone()),
        )),
        _ => field_into_pg_type(field).unwrap_or(Type::TEXT),
    }
}

fn type_size(datatype: &Type) -> i16 {
    match *datatype {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4
        | Type::FLOAT4
        | Type::DATE
        | Type::OID
        | Type::REGCLASS
        | Type::REGTYPE
        | Type::REGNAMESPACE
        | Type::REGPROC => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

/// `numeric(p, s)` packs both; -1 is "none".
fn type_modifier(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale)
            if *scale >= 0 =>
        {
            ((i32::from(*precision) << 16) | i32::from(*scale)) + 4
        }
        _ => -1,
    }
}

/// Writes the rows of one answer.
pub struct Encoder {
    fields: Arc<Vec<FieldInfo>>,
    bytea_as_escape: bool,
    other: DataRowEncoder,
}

impl Encoder {
    pub fn new(fields: Arc<Vec<FieldInfo>>, bytea_as_escape: bool) -> Encoder {
        Encoder {
            other: DataRowEncoder::new(Arc::clone(&fields)),
            fields,
            bytea_as_escape,
        }
    }

    pub fn rows(&mut self, batch: &RecordBatch) -> PgWireResult<Vec<DataRow>> {
        if batch.num_columns() != self.fields.len() {
            return Err(super::error::wire(
                "XX000",
                "the answer has other columns than were announced",
            ));
        }
        let columns: Vec<ArrayRef> = batch
            .columns()
            .iter()
            .map(simplified)
            .collect::<Result<_, _>>()
            .map_err(arrow_error)?;
        let schema = batch.schema();
        let arrow_fields: Vec<Field> = schema
            .fields()
            .iter()
            .zip(&columns)
            .map(|(field, column)| {
                field
                    .as_ref()
                    .clone()
                    .with_data_type(column.data_type().clone())
            })
            .collect();
        let count = i16::try_from(columns.len())
            .map_err(|_| super::error::wire("54011", "an answer can have at most 32767 columns"))?;
        let mut rows = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let mut out = BytesMut::with_capacity(columns.len() * 16);
            for (index, column) in columns.iter().enumerate() {
                self.value(column, row, &arrow_fields[index], index, &mut out)?;
            }
            rows.push(DataRow::new(out, count));
        }
        Ok(rows)
    }

    fn value(
        &mut self,
        column: &ArrayRef,
        row: usize,
        arrow_field: &Field,
        index: usize,
        out: &mut BytesMut,
    ) -> PgWireResult<()> {
        if column.is_null(row) || column.data_type() == &DataType::Null {
            out.put_i32(-1);
            return Ok(());
        }
        let info = &self.fields[index];
        let length_at = out.len();
        out.put_i32(0);
        let written = match info.format() {
            FieldFormat::Binary => write_binary(column, row, info.datatype(), out),
            FieldFormat::Text => {
                write_text(column, row, info.datatype(), self.bytea_as_escape, out)
            }
        };
        if written {
            let length = (out.len() - length_at - 4) as i32;
            out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
            return Ok(());
        }
        out.truncate(length_at);
        encode_value(&mut self.other, column, row, arrow_field, info)?;
        out.extend_from_slice(&self.other.take_row().data);
        Ok(())
    }
}

fn arrow_error(error: ArrowError) -> PgWireError {
    super::error::wire("XX000", error.to_string())
}

/// The same values in one of the types that the writers below know.
fn simplified(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let to = match column.data_type() {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::RunEndEncoded(_, value) => value.data_type().clone(),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Timestamp(unit, zone) if *unit != TimeUnit::Microsecond => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::ListView(field) | DataType::LargeListView(field) => {
            DataType::List(Arc::clone(field))
        }
        _ => return Ok(Arc::clone(column)),
    };
    cast(column, &to)
}

/// False if the type is not known here: nothing was written.
fn write_text(
    column: &ArrayRef,
    row: usize,
    datatype: &Type,
    bytea_as_escape: bool,
    out: &mut BytesMut,
) -> bool {
    macro_rules! number {
        ($t:ty) => {
            out.put_slice(
                column
                    .as_primitive::<$t>()
                    .value(row)
                    .to_string()
                    .as_bytes(),
            )
        };
    }
    match column.data_type() {
        DataType::Boolean => out.put_u8(if column.as_boolean().value(row) {
            b't'
        } else {
            b'f'
        }),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            out.put_slice(float_text(f64::from(value), &format!("{value:e}"), 6).as_bytes());
        }
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(row);
            out.put_slice(float_text(value, &format!("{value:e}"), 15).as_bytes());
        }
        DataType::Decimal128(_, scale) => {
            let digits = column
                .as_primitive::<Decimal128Type>()
                .value(row)
                .to_string();
            out.put_slice(decimal_text(&digits, *scale).as_bytes());
        }
        DataType::Decimal256(_, scale) => {
            let digits = column
                .as_primitive::<Decimal256Type>()
                .value(row)
                .to_string();
            out.put_slice(decimal_text(&digits, *scale).as_bytes());
        }
        DataType::Utf8 => out.put_slice(column.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => bytea_text(column.as_binary::<i32>().value(row), bytea_as_escape, out),
        DataType::Date32 => {
            match date32_to_datetime(column.as_primitive::<Date32Type>().value(row)) {
                Some(date) => out.put_slice(date.date().to_string().as_bytes()),
                None => return false,
            }
        }
        DataType::Date64 => {
            let days = column
                .as_primitive::<Date64Type>()
                .value(row)
                .div_euclid(86_400_000);
            match i32::try_from(days).ok().and_then(date32_to_datetime) {
                Some(date) => out.put_slice(date.date().to_string().as_bytes()),
                None => return false,
            }
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let value = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let Some(time) = timestamp_us_to_datetime(value) else {
                return false;
            };
            let text = time.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
            out.put_slice(text.trim_end_matches('0').trim_end_matches('.').as_bytes());
            if zone.is_some() {
                out.put_slice(b"+00");
            }
        }
        _ if *datatype == Type::TEXT => return write_display(column, row, out),
        _ => return false,
    }
    true
}

fn write_binary(column: &ArrayRef, row: usize, datatype: &Type, out: &mut BytesMut) -> bool {
    match column.data_type() {
        DataType::Boolean => out.put_u8(u8::from(column.as_boolean().value(row))),
        DataType::Int8 => out.put_i16(column.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => out.put_i16(column.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => out.put_i32(column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => out.put_i64(column.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => out.put_i16(column.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => out.put_i32(column.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => out.put_i64(column.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => {
            numeric_binary(
                &column.as_primitive::<UInt64Type>().value(row).to_string(),
                0,
                out,
            );
        }
        DataType::Float32 => out.put_f32(column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => out.put_f64(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => {
            numeric_binary(
                &column
                    .as_primitive::<Decimal128Type>()
                    .value(row)
                    .to_string(),
                *scale,
                out,
            );
        }
        DataType::Decimal256(_, scale) => {
            numeric_binary(
                &column
                    .as_primitive::<Decimal256Type>()
                    .value(row)
                    .to_string(),
                *scale,
                out,
            );
        }
        DataType::Utf8 if *datatype == Type::CHAR => {
            out.put_u8(
                column
                    .as_string::<i32>()
                    .value(row)
                    .bytes()
                    .next()
                    .unwrap_or_default(),
            );
        }
        DataType::Utf8 => out.put_slice(column.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => out.put_slice(column.as_binary::<i32>().value(row)),
        DataType::Date32 => {
            out.put_i32(
                column
                    .as_primitive::<Date32Type>()
                    .value(row)
                    .saturating_sub(DAYS_1970_TO_2000),
            );
        }
        DataType::Date64 => {
            let days = column
                .as_primitive::<Date64Type>()
                .value(row)
                .div_euclid(86_400_000);
            let Ok(days) = i32::try_from(days) else {
                return false;
            };
            out.put_i32(days.saturating_sub(DAYS_1970_TO_2000));
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let value = column.as_primitive::<TimestampMicrosecondType>().value(row);
            out.put_i64(value.saturating_sub(MICROSECONDS_1970_TO_2000));
        }
        _ if *datatype == Type::TEXT => return write_display(column, row, out),
        _ => return false,
    }
    true
}

/// Maps, unions and whatever else Postgres has no type for.
fn write_display(column: &ArrayRef, row: usize, out: &mut BytesMut) -> bool {
    let options = DisplayOptions::default();
    match ArrayFormatter::try_new(column.as_ref(), &options) {
        Ok(formatter) => {
            out.put_slice(formatter.value(row).to_string().as_bytes());
            true
        }
        Err(_) => false,
    }
}

/// Postgres writes the shortest digits that read back as the same number, in scientific form below
/// 1e-4 and from 1e15 (1e6 for `real`). `scientific` are those digits as Rust writes them: `1.5e-7`.
fn float_text(value: f64, scientific: &str, digits_max: i32) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    if exponent < -4 || exponent >= digits_max {
        let (direction, exponent) = if exponent < 0 {
            ('-', -exponent)
        } else {
            ('+', exponent)
        };
        return format!("{sign}{mantissa}e{direction}{exponent:02}");
    }
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let point = exponent + 1;
    if point <= 0 {
        let zeros = "0".repeat(point.unsigned_abs() as usize);
        format!("{sign}0.{zeros}{digits}")
    } else if digits.len() <= point as usize {
        let zeros = "0".repeat(point as usize - digits.len());
        format!("{sign}{digits}{zeros}")
    } else {
        let (whole, fraction) = digits.split_at(point as usize);
        format!("{sign}{whole}.{fraction}")
    }
}

/// `digits` are those of the unscaled integer, with its sign.
fn decimal_text(digits: &str, scale: i8) -> String {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits),
    };
    match usize::try_from(scale) {
        Ok(0) => format!("{sign}{digits}"),
        Ok(scale) => {
            let padded = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = padded.split_at(padded.len() - scale);
            format!("{sign}{whole}.{fraction}")
        }
        Err(_) if digits == "0" => "0".to_owned(),
        Err(_) => format!("{sign}{digits}{}", "0".repeat(scale.unsigned_abs().into())),
    }
}

/// Postgres's numeric on the wire: base-10000 digits, the weight of the first, sign, and scale.
fn numeric_binary(digits: &str, scale: i8, out: &mut BytesMut) {
    let text = decimal_text(digits, scale);
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (0x4000u16, text),
        None => (0, text.as_str()),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.trim_start_matches('0');
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let padded = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let mut weight = (whole.len() / 4) as i16 - 1;
    let all = whole + &padded;
    let mut groups: Vec<u16> = all
        .as_bytes()
        .chunks(4)
        .map(|chunk| {
            chunk
                .iter()
                .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
        })
        .collect();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    weight -= leading as i16;
    if groups.is_empty() {
        weight = 0;
    }
    out.put_i16(groups.len() as i16);
    out.put_i16(weight);
    out.put_u16(sign);
    out.put_u16(fraction.len() as u16);
    for group in groups {
        out.put_u16(group);
    }
}

fn bytea_text(bytes: &[u8], as_escape: bool, out: &mut BytesMut) {
    if as_escape {
        for byte in bytes {
            match byte {
                b'\\' => out.put_slice(b"\\\\"),
                0x20..=0x7e => out.put_u8(*byte),
                other => out.put_slice(format!("\\{other:03o}").as_bytes()),
            }
        }
        return;
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.put_slice(b"\\x");
    for byte in bytes {
        out.put_u8(HEX[usize::from(byte >> 4)]);
        out.put_u8(HEX[usize::from(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, Float64Array, Int8Array,
        IntervalMonthDayNanoArray, ListArray, StringArray, TimestampMicrosecondArray, UInt64Array,
    };
    use arrow::datatypes::Int32Type as Int32;

    use super::*;
    use crate::postgres::parameter;

    fn encoded(array: ArrayRef, format: Format) -> Vec<Option<Vec<u8>>> {
        let schema = Arc::new(Schema::new(vec![Field::new(
            "c",
            array.data_type().clone(),
            true,
        )]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![array]).unwrap();
        let fields = Arc::new(fields(&schema, &format).unwrap());
        let rows = Encoder::new(fields, false).rows(&batch).unwrap();
        rows.into_iter()
            .map(|row| {
                let length = i32::from_be_bytes(row.data[..4].try_into().unwrap());
                (length >= 0).then(|| {
                    assert_eq!(row.data.len(), 4 + length as usize);
                    row.data[4..].to_vec()
                })
            })
            .collect()
    }

    fn texts(array: ArrayRef) -> Vec<String> {
        encoded(array, Format::UnifiedText)
            .into_iter()
            .map(|value| value.map_or("null".to_owned(), |value| String::from_utf8(value).unwrap()))
            .collect()
    }

    #[test]
    fn floats_are_written_as_postgres_writes_them() {
        let values = [
            1.0,
            -0.5,
            0.1,
            1e15,
            123456789012345.0,
            1e-5,
            0.0001,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -0.0,
            1.7976931348623157e308,
            5e-324,
        ];
        assert_eq!(
            texts(Arc::new(Float64Array::from(values.to_vec()))),
            [
                "1",
                "-0.5",
                "0.1",
                "1e+15",
                "123456789012345",
                "1e-05",
                "0.0001",
                "NaN",
                "Infinity",
                "-Infinity",
                "-0",
                "1.7976931348623157e+308",
                "5e-324"
            ]
        );
    }

    #[test]
    fn decimals_of_any_size() {
        let values = Decimal128Array::from(vec![
            Some(0),
            Some(5),
            Some(-5),
            Some(1_234_500),
            Some(99_999_999_999_999_999_999_999_999_999_999_999_999),
            None,
        ])
        .with_precision_and_scale(38, 4)
        .unwrap();
        assert_eq!(
            texts(Arc::new(values.clone())),
            [
                "0.0000",
                "0.0005",
                "-0.0005",
                "123.4500",
                "9999999999999999999999999999999999.9999",
                "null"
            ]
        );
        for (binary, text) in encoded(Arc::new(values.clone()), Format::UnifiedBinary)
            .into_iter()
            .zip(texts(Arc::new(values)))
        {
            let back = binary.map_or("null".to_owned(), |binary| {
                parameter::numeric_text(&binary).unwrap()
            });
            assert_eq!(back, text);
        }
        assert_eq!(
            texts(Arc::new(UInt64Array::from(vec![u64::MAX]))),
            ["18446744073709551615"]
        );
    }

    #[test]
    fn the_other_types() {
        assert_eq!(
            texts(Arc::new(BooleanArray::from(vec![
                Some(true),
                Some(false),
                None
            ]))),
            ["t", "f", "null"]
        );
        assert_eq!(
            texts(Arc::new(BinaryArray::from_vec(vec![b"\x00\xff"]))),
            ["\\x00ff"]
        );
        assert_eq!(texts(Arc::new(Int8Array::from(vec![-7]))), ["-7"]);
        assert_eq!(
            encoded(Arc::new(Int8Array::from(vec![-7])), Format::UnifiedBinary),
            [Some((-7i16).to_be_bytes().to_vec())]
        );
        let dictionary: DictionaryArray<Int32> = vec!["a", "b", "a"].into_iter().collect();
        assert_eq!(texts(Arc::new(dictionary)), ["a", "b", "a"]);
        let times = TimestampMicrosecondArray::from(vec![0, 1_500_000, -1]);
        assert_eq!(
            texts(Arc::new(times.clone())),
            [
                "1970-01-01 00:00:00",
                "1970-01-01 00:00:01.5",
                "1969-12-31 23:59:59.999999"
            ]
        );
        assert_eq!(
            texts(Arc::new(times.with_timezone("UTC")))[0],
            "1970-01-01 00:00:00+00"
        );
        let lists =
            ListArray::from_iter_primitive::<Int32, _, _>(vec![Some(vec![Some(1), None]), None]);
        assert_eq!(texts(Arc::new(lists)), ["{1,NULL}", "null"]);
        assert_eq!(
            texts(Arc::new(IntervalMonthDayNanoArray::from(vec![None])))[0],
            "null"
        );
        assert_eq!(texts(Arc::new(StringArray::from(vec!["é"]))), ["é"]);
    }
}
