//! Aggregates that give sketches as values: `bytea` in the binary formats of Apache DataSketches, so that
//! other engines read them and theirs can be read.
//!
//! They have the names of DataSketches' own extension for Postgres.

use arrow::datatypes::{DataType, FieldRef};
use datafusion::{
    common::{Result, not_impl_err, plan_err},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature,
        Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
};

use super::{
    accumulate::{Grouped, Single},
    kind::Kind,
};

/// What becomes a sketch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Of {
    Values,
    /// Sketches, of which one is made that has what any of them has.
    Sketches,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sketch {
    Hll(Of),
    Theta(Of),
    /// What all sketches have.
    ThetaCommon,
    Kll(Of),
}

/// In the order of [`NAMES`].
const SKETCHES: [Sketch; 7] = [
    Sketch::Hll(Of::Values),
    Sketch::Hll(Of::Sketches),
    Sketch::Theta(Of::Values),
    Sketch::Theta(Of::Sketches),
    Sketch::ThetaCommon,
    Sketch::Kll(Of::Values),
    Sketch::Kll(Of::Sketches),
];

pub const NAMES: [&str; 7] = [
    "hll_sketch_build",
    "hll_sketch_union",
    "theta_sketch_build",
    "theta_sketch_union",
    "theta_sketch_intersection",
    "kll_double_sketch_build",
    "kll_double_sketch_merge",
];

pub fn functions() -> impl Iterator<Item = AggregateUDF> {
    NAMES.into_iter().zip(SKETCHES).map(|(name, sketch)| {
        AggregateUDF::from(Sketching {
            name,
            sketch,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    })
}

/// True if two sketches of the same values may differ: those of KLL are random.
pub fn is_random(function: &AggregateUDF) -> bool {
    let sketching = function.inner().downcast_ref::<Sketching>();
    sketching.is_some_and(|sketching| matches!(sketching.sketch, Sketch::Kll(_)))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sketching {
    name: &'static str,
    sketch: Sketch,
    signature: Signature,
}

impl Sketching {
    fn kind(&self) -> Kind {
        Kind::Sketch(self.sketch)
    }
}

impl AggregateUDFImpl for Sketching {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.kind().answer_type())
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [argument] = arguments else {
            return plan_err!(
                "No function matches: {} takes 1 argument, not {}",
                self.name,
                arguments.len()
            );
        };
        let coerced = match self.sketch {
            Sketch::Hll(Of::Values) | Sketch::Theta(Of::Values) => Some(argument.clone()),
            Sketch::Kll(Of::Values) => {
                (argument.is_numeric() || argument.is_null()).then_some(DataType::Float64)
            }
            _ => (argument.is_binary() || argument.is_null()).then_some(DataType::Binary),
        };
        match coerced {
            Some(coerced) => Ok(vec![coerced]),
            None => plan_err!(
                "No function matches: {} takes {}, not {argument}",
                self.name,
                match self.sketch {
                    Sketch::Kll(Of::Values) => "numbers",
                    _ => "sketches, which are bytea",
                }
            ),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct && matches!(self.sketch, Sketch::Kll(_)) {
            return not_impl_err!("{}(DISTINCT …) is not supported", self.name);
        }
        let kind = self.kind();
        let summary = kind.empty();
        Ok(Box::new(Single { kind, summary }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(self.kind().state_fields(args.name))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        // The one for no groups refuses it.
        !(args.is_distinct && matches!(self.sketch, Sketch::Kll(_)))
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Grouped {
            kind: self.kind(),
            groups: Vec::new(),
        }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}
