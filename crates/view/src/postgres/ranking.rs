//! `row_number`, `rank`, `dense_rank` and `ntile` as `bigint`, which they are in Postgres.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::ArrayRef,
    compute::{SortOptions, cast},
    datatypes::{DataType, Field, FieldRef},
};
use datafusion::{
    common::Result,
    functions_window::{ntile::ntile_udwf, rank, row_number::row_number_udwf},
    logical_expr::{
        Documentation, LimitEffect, PartitionEvaluator, ReversedUDWF, Signature, WindowUDF,
        WindowUDFImpl,
        function::{ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs},
        window_state::WindowAggState,
    },
    physical_expr::PhysicalExpr,
    scalar::ScalarValue,
};

pub fn functions() -> Vec<WindowUDF> {
    [
        row_number_udwf(),
        rank::rank_udwf(),
        rank::dense_rank_udwf(),
        ntile_udwf(),
    ]
    .map(|counted| WindowUDF::from(Signed(counted)))
    .into()
}

/// DataFusion's function, whose numbers are unsigned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Signed(Arc<WindowUDF>);

impl WindowUDFImpl for Signed {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.0.expressions(args)
    }

    fn partition_evaluator(
        &self,
        args: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Evaluator(
            self.0.partition_evaluator_factory(args)?,
        )))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let unsigned = self.0.field(args)?;
        Ok(Arc::new(Field::new(
            unsigned.name(),
            DataType::Int64,
            unsigned.is_nullable(),
        )))
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.0.sort_options()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arguments)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.0.reverse_expr() {
            ReversedUDWF::Identical => ReversedUDWF::Identical,
            _ => ReversedUDWF::NotSupported,
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.0.inner().limit_effect(args)
    }
}

#[derive(Debug)]
struct Evaluator(Box<dyn PartitionEvaluator>);

impl PartitionEvaluator for Evaluator {
    fn memoize(&mut self, state: &mut WindowAggState) -> Result<()> {
        self.0.memoize(state)
    }

    fn get_range(&self, index: usize, rows: usize) -> Result<Range<usize>> {
        self.0.get_range(index, rows)
    }

    fn is_causal(&self) -> bool {
        self.0.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        Ok(cast(&self.0.evaluate_all(values, rows)?, &DataType::Int64)?)
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        self.0.evaluate(values, range)?.cast_to(&DataType::Int64)
    }

    fn evaluate_all_with_rank(&self, rows: usize, ranks: &[Range<usize>]) -> Result<ArrayRef> {
        let unsigned = self.0.evaluate_all_with_rank(rows, ranks)?;
        Ok(cast(&unsigned, &DataType::Int64)?)
    }

    fn supports_bounded_execution(&self) -> bool {
        self.0.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.0.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.0.include_rank()
    }
}
