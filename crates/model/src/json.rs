//! Records as JSON, the same to clients and to functions.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, AsArray},
    datatypes::{
        ArrowPrimitiveType, DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type,
    },
    error::ArrowError,
    json::{
        Encoder, EncoderFactory, EncoderOptions, WriterBuilder,
        writer::{NullableEncoder, make_encoder},
    },
};

/// JSON as we write it: NULL is there, and so are the floats for which JSON has no number, as the strings that
/// Postgres's `to_json` and our own appends know: `"NaN"`, `"Infinity"`, `"-Infinity"`.
pub fn writer() -> WriterBuilder {
    WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(AllFloats))
}

#[derive(Debug)]
struct AllFloats;

impl EncoderFactory for AllFloats {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        Ok(match array.data_type() {
            DataType::Float16 => float_encoder::<Float16Type>(array, f64::from)?,
            DataType::Float32 => float_encoder::<Float32Type>(array, f64::from)?,
            DataType::Float64 => float_encoder::<Float64Type>(array, f64::from)?,
            _ => None,
        })
    }
}

/// `None` if all values are numbers to JSON.
fn float_encoder<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    wide: fn(T::Native) -> f64,
) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
    let floats = array.as_primitive::<T>();
    let values = floats.values().iter().map(|value| wide(*value));
    if values.clone().all(f64::is_finite) {
        return Ok(None);
    }
    // Finite values are written by Arrow as ever; asking it with the default options does not lead back here.
    static DEFAULTS: LazyLock<EncoderOptions> = LazyLock::new(EncoderOptions::default);
    static FIELD: LazyLock<FieldRef> =
        LazyLock::new(|| Arc::new(Field::new("float", DataType::Float64, true)));
    let encoder = FloatEncoder {
        values: values.collect(),
        finite: make_encoder(&FIELD, array, &DEFAULTS)?,
    };
    Ok(Some(NullableEncoder::new(
        Box::new(encoder),
        array.nulls().cloned(),
    )))
}

struct FloatEncoder<'a> {
    values: Vec<f64>,
    finite: NullableEncoder<'a>,
}

impl Encoder for FloatEncoder<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.values[row];
        if value.is_finite() {
            self.finite.encode(row, out);
        } else if value.is_nan() {
            out.extend_from_slice(b"\"NaN\"");
        } else if value > 0.0 {
            out.extend_from_slice(b"\"Infinity\"");
        } else {
            out.extend_from_slice(b"\"-Infinity\"");
        }
    }
}
