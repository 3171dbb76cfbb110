//! Plans `TUMBLE` and `HOP` as row work, and `SESSION` as window functions.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, Schema},
};
use datafusion::{
    common::{Column, DFSchema, NullHandling, Result, Span, UnnestOptions, tree_node::TreeNode},
    execution::context::ExecutionProps,
    functions_aggregate::{
        min_max::{max_udaf, min_udaf},
        sum::sum_udaf,
    },
    functions_window::lead_lag::lag_udwf,
    logical_expr::{
        Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast,
        expr::{Sort, WindowFunction},
        physical_planning_context::PhysicalPlanningContext,
        planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
    },
    physical_expr::create_physical_expr,
    sql::sqlparser::ast::{self, TableFactor},
};

use super::{
    Kind,
    bounds::Bound,
    call::{Arguments, Call, at, place_of},
};
use crate::postgres::{
    ValueError,
    stride::{self, Stride},
    time::timestamp,
    type_name,
};

const START: &str = "window_start";
const END: &str = "window_end";
/// Columns between the steps of a session's plan; no SQL can name them.
const FORMER: &str = "\u{2063}former";
const BEGINS: &str = "\u{2063}begins";
const SESSION: &str = "\u{2063}session";
const LAST: &str = "\u{2063}last";

/// Windows that a record may be put into: every one is a row of its own while it is worked on.
const WINDOWS_MAX: i64 = 1_440;

/// Plans calls of window functions in `FROM`.
#[derive(Debug)]
pub struct Windows;

impl RelationPlanner for Windows {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let whole = place_of(&relation);
        match relation {
            TableFactor::Function {
                name, args, alias, ..
            } if let Some(kind) = Kind::named(&name) => {
                let call = Call::new(kind, args, place_of(&name).or(whole))?;
                let plan = Planning { kind, context }.plan(call, place_of(&name).or(whole))?;
                let planned = PlannedRelation::new(plan, alias);
                Ok(RelationPlanning::Planned(Box::new(planned)))
            }
            other => Ok(RelationPlanning::Original(Box::new(other))),
        }
    }
}

struct Planning<'a> {
    kind: Kind,
    context: &'a mut dyn RelationPlannerContext,
}

impl Planning<'_> {
    fn plan(mut self, call: Call, whole: Option<Span>) -> Result<LogicalPlan> {
        let source = self.context.plan(TableFactor::Derived {
            lateral: false,
            subquery: call.source,
            alias: None,
            sample: None,
        })?;
        for name in [START, END] {
            if source
                .schema()
                .iter()
                .any(|(_, field)| field.name() == name)
            {
                let message = format!("there is a column \"{name}\" already");
                let hint = "select the columns that are needed in a query, this one under another name: \
                            TUMBLE((SELECT window_start AS earlier, … FROM …), …)";
                return Err(at(ValueError::new("42701", message).with_hint(hint), whole));
            }
        }
        let time = self.time(call.time, &source)?;
        // Without a time a record falls in no window.
        let timed = LogicalPlanBuilder::from(source)
            .filter(time.clone().is_not_null())?
            .build()?;
        match self.kind {
            Kind::Tumble => self.tumble(call.lengths, timed, time),
            Kind::Hop => self.hop(call.lengths, timed, time),
            Kind::Session => self.session(call.lengths, call.keys, timed, time),
        }
    }

    /// The column with the time, in microseconds.
    fn time(&mut self, name: ast::Expr, source: &LogicalPlan) -> Result<Expr> {
        let place = place_of(&name);
        let column = self.context.sql_to_expr(name, source.schema())?;
        match column.get_type(source.schema())? {
            DataType::Timestamp(_, zone) => {
                let micros = timestamp(zone.is_some());
                column.cast_to(&micros, source.schema())
            }
            other => {
                let message = format!("windows are of timestamps, not of {}", type_name(&other));
                let hint =
                    "cast it in a query: TUMBLE((SELECT *, day::timestamp AS at FROM …), at, …)";
                Err(at(ValueError::new("42804", message).with_hint(hint), place))
            }
        }
    }

    fn tumble(
        &mut self,
        mut lengths: Arguments,
        source: LogicalPlan,
        time: Expr,
    ) -> Result<LogicalPlan> {
        let (size, _) = self.stride(&mut lengths, "size")?;
        let origin = self.origin(&mut lengths, size)?;
        let mut begun = columns(source.schema());
        begun.push(Bound::Start { size, origin }.of(vec![time]).alias(START));
        with_end(source, begun, size, 1)
    }

    fn hop(
        &mut self,
        mut lengths: Arguments,
        source: LogicalPlan,
        time: Expr,
    ) -> Result<LogicalPlan> {
        let (slide, slide_place) = self.stride(&mut lengths, "slide")?;
        let (size, size_place) = self.stride(&mut lengths, "size")?;
        let Some(windows) = size.in_strides_of(slide).filter(|windows| *windows > 0) else {
            let message = "the size of the windows must be a multiple of their slide";
            let hint = "like an hour that slides by 5 minutes, or a year by months";
            return Err(at(wrong(message).with_hint(hint), slide_place));
        };
        if windows > WINDOWS_MAX {
            let message = format!(
                "each record would fall in {windows} windows, and {WINDOWS_MAX} are the most"
            );
            return Err(at(
                wrong(&message).with_hint("let them slide by more"),
                size_place,
            ));
        }
        let origin = self.origin(&mut lengths, slide)?;
        let starts = Bound::Starts {
            slide,
            windows,
            origin,
        };
        let mut listed = columns(source.schema());
        listed.push(starts.of(vec![time]).alias(START));
        let source = LogicalPlanBuilder::from(source)
            .project(listed)?
            .unnest_column_with_options(
                Column::from_name(START),
                UnnestOptions {
                    null_handling: NullHandling::Drop,
                    ..UnnestOptions::default()
                },
            )?
            .build()?;
        let columns = columns(source.schema());
        with_end(source, columns, slide, windows)
    }

    /// A record begins a session if the one before it, by time, is more than the gap away. How many begin up
    /// to a record tells its session.
    fn session(
        &mut self,
        mut lengths: Arguments,
        keys: Vec<ast::Expr>,
        source: LogicalPlan,
        time: Expr,
    ) -> Result<LogicalPlan> {
        let gap = match self.stride(&mut lengths, "gap")? {
            (Stride::Micros(gap), _) => gap,
            (Stride::Months(_), place) => {
                let message =
                    "the gap between sessions must not be in months: they differ in length";
                return Err(at(
                    wrong(message).with_hint("take days: INTERVAL '30 days'"),
                    place,
                ));
            }
        };
        let keys = keys.into_iter();
        let keys = keys.map(|key| self.context.sql_to_expr(key, source.schema()));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let of_source = columns(source.schema());
        let by_time = |call: Expr| {
            let order = Sort::new(time.clone(), true, false);
            call.partition_by(keys.clone()).order_by(vec![order])
        };
        let former = by_time(lag_udwf().call(vec![time.clone()])).build()?;
        let begins = Bound::BeginsSession { gap };
        let begins = begins.of(vec![unqualified(FORMER), time.clone()]);
        // Of records at one time the first begins: with the usual frame, all of them count it.
        let sum = WindowFunction::new(sum_udaf(), vec![unqualified(BEGINS)]);
        let session = by_time(Expr::from(sum)).build()?;
        let mut of_session = keys.clone();
        of_session.push(unqualified(SESSION));
        let over_session = |aggregate| {
            let call = WindowFunction::new(aggregate, vec![time.clone()]);
            Expr::from(call).partition_by(of_session.clone()).build()
        };
        let start = over_session(min_udaf())?;
        let last = over_session(max_udaf())?;
        let end = Bound::After {
            stride: Stride::Micros(gap),
            times: 1,
        };
        let mut output = of_source.clone();
        output.push(unqualified(START));
        output.push(end.of(vec![unqualified(LAST)]).alias(END));
        let and = |more: Expr| of_source.iter().cloned().chain([more]);
        LogicalPlanBuilder::from(source)
            .window([former.alias(FORMER)])?
            .project(and(begins.alias(BEGINS)))?
            .window([session.alias(SESSION)])?
            .window([start.alias(START), last.alias(LAST)])?
            .project(output)?
            .build()
    }

    /// The length `name`, and where it stands.
    fn stride(&mut self, lengths: &mut Arguments, name: &str) -> Result<(Stride, Option<Span>)> {
        let (given, place) = lengths.required(name)?;
        let interval = self.interval(given, name, place)?;
        let stride = Stride::new(interval, &format!("the {name} of the windows"));
        Ok((stride.map_err(|error| at(error, place))?, place))
    }

    /// Where a window begins, in microseconds.
    fn origin(&mut self, lengths: &mut Arguments, stride: Stride) -> Result<i64> {
        let Some(given) = lengths.take("offset") else {
            return Ok(0);
        };
        let place = place_of(&given);
        let interval = self.interval(given, "offset", place)?;
        let micros = stride::micros(interval).filter(|_| interval.months == 0);
        match (stride, micros) {
            (Stride::Micros(_), Some(micros)) => Ok(micros),
            (Stride::Micros(_), None) => Err(at(
                wrong("the offset of the windows must be in whole microseconds and no months"),
                place,
            )),
            (Stride::Months(_), _) => Err(at(
                wrong("windows of months begin with the first of a month and take no offset"),
                place,
            )),
        }
    }

    /// The value of a constant, be it `INTERVAL '1' HOUR` or `'1 hour'`.
    fn interval(
        &mut self,
        given: ast::Expr,
        name: &str,
        place: Option<Span>,
    ) -> Result<IntervalMonthDayNano> {
        let no_constant = || {
            let message = format!("{name} must be a constant interval");
            at(
                wrong(&message).with_hint("like INTERVAL '10 minutes'"),
                place,
            )
        };
        let nothing = DFSchema::empty();
        let expr = self.context.sql_to_expr(given, &nothing);
        let expr = expr.map_err(|_| no_constant())?;
        let is_computed = expr.exists(|part| {
            let computed = matches!(part, Expr::ScalarFunction(_) | Expr::Placeholder(_));
            Ok(computed)
        })?;
        if is_computed {
            return Err(no_constant());
        }
        let expr = cast(expr, DataType::Interval(IntervalUnit::MonthDayNano));
        let (props, planning) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let value = create_physical_expr(&expr, &nothing, &props, &planning)
            .and_then(|expr| expr.evaluate(&RecordBatch::new_empty(Arc::new(Schema::empty()))))
            .and_then(|value| value.to_array(1))
            .map_err(|_| no_constant())?;
        let value = value.as_primitive::<IntervalMonthDayNanoType>();
        value.iter().next().flatten().ok_or_else(no_constant)
    }
}

fn wrong(message: &str) -> ValueError {
    ValueError::new("22023", message)
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.columns().into_iter().map(Expr::Column).collect()
}

fn unqualified(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// `source` with `columns`, of which the last is when the window begins, and when it ends.
fn with_end(
    source: LogicalPlan,
    columns: Vec<Expr>,
    stride: Stride,
    times: i64,
) -> Result<LogicalPlan> {
    let end = Bound::After { stride, times };
    let begun = LogicalPlanBuilder::from(source).project(columns)?;
    let mut output = self::columns(begun.schema());
    output.push(end.of(vec![unqualified(START)]).alias(END));
    begun.project(output)?.build()
}
