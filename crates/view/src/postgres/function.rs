//! The shape of the functions that stand in for operators and casts.
//!
//! They are not registered: no statement can call them. Their name in schemas is that of what they
//! stand in for, so that columns keep their names.

use std::{
    fmt::Debug,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::{
    common::Result,
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility,
    },
};

/// What one of them does.
pub trait Meaning: Debug + Clone + PartialEq + Eq + Hash + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn returns(&self, arguments: &[DataType]) -> Result<DataType>;

    fn compute(&self, arguments: &[ColumnarValue], rows: usize) -> Result<ColumnarValue>;

    /// Whether it may be NULL though no argument is.
    fn makes_null(&self) -> bool {
        false
    }

    /// What it stands in for, if it takes over its name.
    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr>;

    /// Its name as a column, if that is known without what it stands in for.
    fn named(&self, _arguments: &[Expr]) -> Option<String> {
        None
    }

    /// The types that arguments are cast to.
    fn coerce(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }
}

/// Calls `meaning`.
pub fn call<M: Meaning>(meaning: M, arguments: Vec<Expr>) -> Expr {
    ScalarUDF::from(Function {
        meaning,
        signature: Signature::user_defined(Volatility::Immutable),
    })
    .call(arguments)
}

/// The meaning, if `expr` calls one of this kind.
pub fn called<M: Meaning>(expr: &Expr) -> Option<(&M, &[Expr])> {
    let Expr::ScalarFunction(call) = expr else {
        return None;
    };
    let function = call.func.inner().downcast_ref::<Function<M>>()?;
    Some((&function.meaning, &call.args))
}

#[derive(Debug, Clone)]
pub struct Function<M> {
    meaning: M,
    signature: Signature,
}

impl<M: Meaning> PartialEq for Function<M> {
    fn eq(&self, other: &Self) -> bool {
        self.meaning == other.meaning
    }
}

impl<M: Meaning> Eq for Function<M> {}

impl<M: Meaning> Hash for Function<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.meaning.hash(state);
    }
}

impl<M: Meaning> ScalarUDFImpl for Function<M> {
    fn name(&self) -> &str {
        self.meaning.name()
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        if let Some(name) = self.meaning.named(arguments) {
            return Ok(name);
        }
        Ok(match self.meaning.stands_for(arguments) {
            Some(expr) => expr.schema_name().to_string(),
            None => {
                let arguments: Vec<String> = arguments
                    .iter()
                    .map(|argument| argument.schema_name().to_string())
                    .collect();
                format!("{}({})", self.meaning.name(), arguments.join(", "))
            }
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.meaning.returns(arguments)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = arguments
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let of_argument = arguments.arg_fields.iter().any(|field| field.is_nullable());
        let nullable = of_argument || self.meaning.makes_null();
        let data_type = self.meaning.returns(&types)?;
        Ok(Arc::new(Field::new(self.name(), data_type, nullable)))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.meaning.coerce(arguments)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.meaning.compute(&arguments.args, arguments.number_rows)
    }
}
