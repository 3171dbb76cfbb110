//! One form of bytes for each value, the same for ever: what record ids are known by and partitions chosen by.
//!
//! Not a sort order and not readable back. Arrow's row format would do, but promises no stability between
//! versions.

use arrow::{
    array::{Array, AsArray},
    datatypes::{
        DataType, Date32Type, Date64Type, Decimal128Type, Float32Type, Float64Type, Int8Type,
        Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
};

/// A number for every row, the same for equal values for ever; NULL has that of the empty value. The error is for the user
/// to read.
pub fn hashes(array: &dyn Array) -> Result<Vec<u32>, String> {
    let mut hashes = Vec::with_capacity(array.len());
    visit(array, |_, bytes| {
        hashes.push(crc32c::crc32c(bytes.unwrap_or_default()));
    })?;
    Ok(hashes)
}

/// Calls `each` with every row's bytes, `None` for NULL. The error is for the user to read.
pub(crate) fn visit(
    array: &dyn Array,
    mut each: impl FnMut(usize, Option<&[u8]>),
) -> Result<(), String> {
    macro_rules! values {
        ($array:expr, $bytes:expr) => {{
            let array = $array;
            for row in 0..array.len() {
                match array.is_null(row) {
                    true => each(row, None),
                    false => each(row, Some($bytes(array.value(row)).as_ref())),
                }
            }
        }};
    }
    macro_rules! integers {
        ($type:ty) => {
            values!(
                array.as_primitive::<$type>(),
                |value: <$type as arrow::datatypes::ArrowPrimitiveType>::Native| value
                    .to_be_bytes()
            )
        };
    }
    match array.data_type() {
        DataType::Boolean => values!(array.as_boolean(), |value: bool| [u8::from(value)]),
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Date32 => integers!(Date32Type),
        DataType::Date64 => integers!(Date64Type),
        DataType::Decimal128(..) => integers!(Decimal128Type),
        DataType::Timestamp(TimeUnit::Microsecond, _) => integers!(TimestampMicrosecondType),
        // SQL's equality: 0.0 = -0.0, and any NaN equals any other.
        DataType::Float32 => values!(array.as_primitive::<Float32Type>(), |value: f32| {
            let value = if value.is_nan() {
                f32::NAN
            } else {
                value + 0.0
            };
            value.to_bits().to_be_bytes()
        }),
        DataType::Float64 => values!(array.as_primitive::<Float64Type>(), |value: f64| {
            let value = if value.is_nan() {
                f64::NAN
            } else {
                value + 0.0
            };
            value.to_bits().to_be_bytes()
        }),
        DataType::Utf8 => values!(array.as_string::<i32>(), str::as_bytes),
        DataType::LargeUtf8 => values!(array.as_string::<i64>(), str::as_bytes),
        DataType::Utf8View => values!(array.as_string_view(), str::as_bytes),
        DataType::Binary => values!(array.as_binary::<i32>(), std::convert::identity::<&[u8]>),
        DataType::LargeBinary => values!(array.as_binary::<i64>(), std::convert::identity::<&[u8]>),
        DataType::BinaryView => values!(array.as_binary_view(), std::convert::identity::<&[u8]>),
        other => {
            return Err(format!(
                "columns of type {other} can be neither record id nor partition key"
            ));
        }
    }
    Ok(())
}
