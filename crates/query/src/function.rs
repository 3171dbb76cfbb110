//! A function of the functions room as SQL calls it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    error::DataFusionError,
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};
use lambic_model::ScalarFunction;

/// A function as SQL sees it.
#[derive(Debug)]
struct Udf {
    function: Arc<dyn ScalarFunction>,
    signature: Signature,
}

impl PartialEq for Udf {
    fn eq(&self, other: &Udf) -> bool {
        self.function.name() == other.function.name()
            && self.function.digest() == other.function.digest()
    }
}

impl Eq for Udf {}

impl std::hash::Hash for Udf {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.function.name().hash(state);
        self.function.digest().hash(state);
    }
}

pub fn udf(function: Arc<dyn ScalarFunction>) -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::from(Udf {
        function,
        signature,
    })
}

impl ScalarUDFImpl for Udf {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(self.function.returns().clone())
    }

    /// Numbers are cast to the declared width (a value that does not fit fails when it runs).
    fn coerce_types(&self, given: &[DataType]) -> datafusion::common::Result<Vec<DataType>> {
        let declared = self.function.arguments();
        let text = |data_type: &DataType| data_type.is_string();
        let fits = |(given, declared): (&DataType, &DataType)| {
            given == declared
                || given.is_null()
                || (given.is_numeric() && declared.is_numeric())
                || (text(given) && text(declared))
        };
        if given.len() != declared.len() || !given.iter().zip(declared).all(fits) {
            let list = |types: &[DataType]| {
                types
                    .iter()
                    .map(crate::types::sql_name)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            return datafusion::common::plan_err!(
                "No function matches: {}({}) is called as ({}); cast the arguments",
                self.function.name(),
                list(declared),
                list(given)
            );
        }
        Ok(declared.to_vec())
    }

    fn invoke_with_args(
        &self,
        args: ScalarFunctionArgs,
    ) -> datafusion::common::Result<ColumnarValue> {
        let columns = args
            .args
            .into_iter()
            .map(|value| value.into_array(args.number_rows));
        let columns = columns.collect::<datafusion::common::Result<Vec<_>>>()?;
        let answer = self.function.call(&columns, args.number_rows);
        Ok(ColumnarValue::Array(
            answer.map_err(DataFusionError::Execution)?,
        ))
    }
}
