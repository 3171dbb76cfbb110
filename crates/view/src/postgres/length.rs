//! `repeat`, `lpad` and `rpad`, whose few arguments ask for results of any length: they have a bound.
//!
//! What a function makes of a batch of rows is in memory before any operator can count it.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    common::Result,
    functions::{string, unicode},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature},
};

use super::ValueError;

/// Of one batch of rows.
const BYTES_MAX: u64 = 256 << 20;

pub fn functions() -> Vec<ScalarUDF> {
    [string::repeat(), unicode::lpad(), unicode::rpad()]
        .map(|unbounded| {
            ScalarUDF::from(Bounded {
                signature: unbounded.signature().clone(),
                unbounded,
            })
        })
        .into()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bounded {
    signature: Signature,
    unbounded: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.unbounded.name()
    }

    fn aliases(&self) -> &[String] {
        self.unbounded.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.unbounded.return_type(arguments)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let repeats = self.name() == "repeat";
        if let [text, length, ..] = arguments.args.as_slice() {
            let scalars = [text, length]
                .iter()
                .all(|value| matches!(value, ColumnarValue::Scalar(_)));
            let rows = if scalars { 1 } else { arguments.number_rows };
            let bytes = bytes(&text.to_array(rows)?, &length.to_array(rows)?, repeats)?;
            if bytes > BYTES_MAX {
                return Err(ValueError::new("54000", "requested length too large")
                    .with_hint(format!(
                        "{} may make {} MB of a batch of rows",
                        self.name(),
                        BYTES_MAX >> 20
                    ))
                    .into());
            }
        }
        self.unbounded.invoke_with_args(arguments)
    }
}

/// How long the results can become: texts repeated, or padded to as many characters.
fn bytes(texts: &ArrayRef, lengths: &ArrayRef, repeats: bool) -> Result<u64> {
    const CHAR_BYTES_MAX: u64 = 4;
    let texts = cast(texts, &DataType::Utf8)?;
    let lengths = cast(lengths, &DataType::Int64)?;
    let (texts, lengths) = (
        texts.as_string::<i32>(),
        lengths.as_primitive::<Int64Type>(),
    );
    let rows = (0..texts.len()).filter(|row| texts.is_valid(*row) && lengths.is_valid(*row));
    Ok(rows
        .map(|row| {
            let each = match repeats {
                true => texts.value(row).len() as u64,
                false => CHAR_BYTES_MAX,
            };
            each.saturating_mul(lengths.value(row).max(0) as u64)
        })
        .fold(0, u64::saturating_add))
}
