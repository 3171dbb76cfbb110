//! Takes the row work of a join apart: the sides, each over one stream, the work above them, and the equal columns
//! that tie the sides to one another.
//!
//! It is done on the optimised plan, where filters have gone down to the sides, conditions have become keys of joins,
//! and no column is left that nobody needs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{
    common::{
        Column, DFSchema, JoinType, NullEquality, Result as PlanResult,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::{provider_as_source, source_as_provider},
    execution::SessionState,
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, Operator,
        TableScan, utils::split_conjunction,
    },
};
use lambic_model::{Stream, SystemColumn};

use super::stand_in::{self, SideTable};
use crate::{Error, postgres::float, slot::SlotTable};

/// Names of the columns with a row's place; no SQL can name them.
pub const PLACE: [&str; 2] = ["\u{2063}partition", "\u{2063}offset"];

/// A join taken apart.
#[derive(Debug)]
pub struct Apart {
    pub sides: Vec<SidePlan>,
    /// What is done with the rows of the sides, over [`SideTable`]s.
    pub core: LogicalPlan,
    pub ties: Vec<Tie>,
}

/// One side: filters and projections over one stream.
#[derive(Debug, Clone)]
pub struct SidePlan {
    pub stream: Arc<Stream>,
    /// Its columns are `c0`, `c1`, … and the place of the record that each row comes from.
    pub plan: LogicalPlan,
}

/// Rows of two sides can be joined only if these are equal: expressions over the columns of each side.
#[derive(Debug, Clone)]
pub struct Tie {
    pub sides: (usize, usize),
    pub keys: Vec<(Expr, Expr)>,
}

/// By column of a node: the side that it comes from alone, and the expression over that side's columns.
type Origins = Vec<Option<(usize, Expr)>>;

/// True if records of several streams, or several of one, make up a row.
pub fn joins(row_work: &LogicalPlan) -> PlanResult<bool> {
    row_work.exists(|node| match node {
        LogicalPlan::Join(join) => Ok(scans(&join.left)? > 0 && scans(&join.right)? > 0),
        _ => Ok(false),
    })
}

/// `row_work` is analysed; refuses what is no inner join of sides that are tied to one another.
pub fn take_apart(row_work: &LogicalPlan, state: &SessionState) -> Result<Apart, Error> {
    let optimised = state.optimize(row_work)?;
    if scans(&optimised)? < 2 {
        return Err(Error::not_incremental(
            "it joins under a condition that never holds",
            "leave the join out",
        ));
    }
    let mut work = Work::default();
    let (core, _) = work.take(&optimised)?;
    check_tied(work.sides.len(), &work.ties)?;
    Ok(Apart {
        sides: work.sides,
        core,
        ties: work.ties,
    })
}

#[derive(Default)]
struct Work {
    sides: Vec<SidePlan>,
    ties: Vec<Tie>,
}

impl Work {
    /// The node with sides in place of what reads streams.
    fn take(&mut self, node: &LogicalPlan) -> Result<(LogicalPlan, Origins), Error> {
        if scans(node)? < 2 {
            return self.side(node);
        }
        match node {
            LogicalPlan::Join(join) if scans(&join.left)? == 0 || scans(&join.right)? == 0 => {
                self.constant_join(node, join)
            }
            LogicalPlan::Join(join) => self.join(node, join),
            LogicalPlan::Filter(filter) => {
                let (input, origins) = self.take(&filter.input)?;
                for equal in split_conjunction(&filter.predicate) {
                    self.tie_equal(equal, filter.input.schema(), &origins);
                }
                Ok((above(node, vec![input])?, origins))
            }
            LogicalPlan::Projection(projection) => {
                let (input, origins) = self.take(&projection.input)?;
                let schema = projection.input.schema();
                let exprs = projection.expr.iter();
                let origins = exprs.map(|expr| origin(expr, schema, &origins)).collect();
                Ok((above(node, vec![input])?, origins))
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let (input, origins) = self.take(&alias.input)?;
                Ok((above(node, vec![input])?, origins))
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.take(&sort.input),
            LogicalPlan::Unnest(unnest) => {
                let (input, _) = self.take(&unnest.input)?;
                let origins = vec![None; unnest.schema.fields().len()];
                Ok((above(node, vec![input])?, origins))
            }
            LogicalPlan::Union(_) => Err(Error::not_incremental(
                "it joins a UNION",
                "create a view for each branch",
            )),
            _ => Err(Error::not_incremental(
                "it joins, and does more with the rows than filter and project",
                "create a view of the inner SELECT, and join it when you read it",
            )),
        }
    }

    fn join(&mut self, node: &LogicalPlan, join: &Join) -> Result<(LogicalPlan, Origins), Error> {
        if join.join_type != JoinType::Inner {
            return Err(other_join(join.join_type));
        }
        let (left, left_origins) = self.take(&join.left)?;
        let (right, right_origins) = self.take(&join.right)?;
        if join.null_equality == NullEquality::NullEqualsNothing {
            for (a, b) in &join.on {
                let a = origin(a, join.left.schema(), &left_origins);
                let b = origin(b, join.right.schema(), &right_origins);
                self.tie(a, b);
            }
        }
        let origins: Origins = left_origins.into_iter().chain(right_origins).collect();
        for equal in join.filter.iter().flat_map(split_conjunction) {
            self.tie_equal(equal, &join.schema, &origins);
        }
        Ok((above(node, vec![left, right])?, origins))
    }

    /// A join of rows with constants is work on each row.
    fn constant_join(
        &mut self,
        node: &LogicalPlan,
        join: &Join,
    ) -> Result<(LogicalPlan, Origins), Error> {
        let left_reads = scans(&join.left)? > 0;
        let (records, constant) = match left_reads {
            true => (&join.left, &join.right),
            false => (&join.right, &join.left),
        };
        let (records, mut origins) = self.take(records)?;
        let constant = constant.as_ref().clone();
        let more = node.schema().fields().len() - origins.len();
        let nothing = std::iter::repeat_n(None, more);
        let inputs = match left_reads {
            true => {
                origins.extend(nothing);
                vec![records, constant]
            }
            false => {
                origins.splice(0..0, nothing);
                vec![constant, records]
            }
        };
        Ok((above(node, inputs)?, origins))
    }

    fn side(&mut self, node: &LogicalPlan) -> Result<(LogicalPlan, Origins), Error> {
        let index = self.sides.len();
        let own = node.schema().iter().enumerate();
        let (columns, shown): (Vec<Expr>, Vec<Expr>) = own
            .map(|(column, (qualifier, field))| {
                let name = format!("c{column}");
                let there = Expr::Column((qualifier, field).into());
                let here = Expr::Column(Column::new(Some(stand_in::name(index)), &name));
                let shown = here.alias_qualified(qualifier.cloned(), field.name());
                (there.alias(name), shown)
            })
            .unzip();
        let carried = carry_place(node)?;
        let places = place_columns(carried.schema()).into_iter().map(|column| {
            let name = column.name.clone();
            Expr::Column(column).alias(name)
        });
        let stream = stream_of(node)?;
        let columns: Vec<Expr> = columns.into_iter().chain(places).collect();
        let plan = LogicalPlanBuilder::from(carried)
            .project(columns)?
            .build()?;
        let fields = plan.schema().fields().iter().take(shown.len());
        let schema: SchemaRef = Arc::new(Schema::new(
            fields
                .map(|field| field.as_ref().clone())
                .collect::<Vec<Field>>(),
        ));
        let table = SideTable {
            index,
            schema: Arc::clone(&schema),
        };
        let source = provider_as_source(Arc::new(table));
        let stand_in = LogicalPlanBuilder::scan(stand_in::name(index), source, None)?
            .project(shown)?
            .build()?;
        let columns = 0..schema.fields().len();
        let origins = columns
            .map(|column| {
                let own = Column::new_unqualified(format!("c{column}"));
                Some((index, Expr::Column(own)))
            })
            .collect();
        self.sides.push(SidePlan { stream, plan });
        Ok((stand_in, origins))
    }

    fn tie_equal(&mut self, equal: &Expr, schema: &DFSchema, origins: &Origins) {
        if let Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) = equal
        {
            self.tie(
                origin(left, schema, origins),
                origin(right, schema, origins),
            );
        }
    }

    fn tie(&mut self, a: Option<(usize, Expr)>, b: Option<(usize, Expr)>) {
        let (Some((a, a_key)), Some((b, b_key))) = (a, b) else {
            return;
        };
        let (Some(a_key), Some(b_key)) = (self.key(a, a_key), self.key(b, b_key)) else {
            return;
        };
        if a == b || a_key.1 != b_key.1 {
            return;
        }
        let ((a, a_key), (b, b_key)) = match a < b {
            true => ((a, a_key), (b, b_key)),
            false => ((b, b_key), (a, a_key)),
        };
        let keys = (a_key.0, b_key.0);
        match self.ties.iter_mut().find(|tie| tie.sides == (a, b)) {
            Some(tie) if tie.keys.contains(&keys) => {}
            Some(tie) => tie.keys.push(keys),
            None => self.ties.push(Tie {
                sides: (a, b),
                keys: vec![keys],
            }),
        }
    }

    /// What is hashed, and its type; `None` if equal values of it could have different hashes.
    fn key(&self, side: usize, expr: Expr) -> Option<(Expr, DataType)> {
        let data_type = expr.get_type(self.sides[side].plan.schema()).ok()?;
        match data_type {
            _ if float::is_float(&data_type) => Some((float::Canonical::of(expr), data_type)),
            DataType::Dictionary(..) | DataType::Interval(_) => None,
            _ if data_type.is_nested() => None,
            _ => Some((expr, data_type)),
        }
    }
}

fn other_join(join_type: JoinType) -> Error {
    match join_type {
        JoinType::Left | JoinType::Right | JoinType::Full => Error::not_incremental(
            "it has an outer join",
            "a row without a match is gone with the first match; an inner join is kept",
        ),
        _ => Error::not_incremental(
            "it asks whether there is a match",
            "join, and count DISTINCT what must count once",
        ),
    }
}

fn above(node: &LogicalPlan, inputs: Vec<LogicalPlan>) -> PlanResult<LogicalPlan> {
    node.with_new_exprs(node.expressions(), inputs)
}

/// The side that all columns of `expr` come from, and the expression over that side's columns.
fn origin(expr: &Expr, schema: &DFSchema, origins: &Origins) -> Option<(usize, Expr)> {
    let of = |column: &Column| origins[schema.index_of_column(column).ok()?].as_ref();
    let mut side = None;
    for column in expr.column_refs() {
        let (of, _) = of(column)?;
        if *side.get_or_insert(*of) != *of {
            return None;
        }
    }
    let replaced = expr.clone().unalias_nested().data.transform(|part| {
        Ok(match &part {
            Expr::Column(column) => match of(column) {
                Some((_, expr)) => Transformed::new(expr.clone(), true, TreeNodeRecursion::Jump),
                None => Transformed::no(part),
            },
            _ => Transformed::no(part),
        })
    });
    Some((side?, replaced.ok()?.data))
}

/// From every side every other one must be found.
fn check_tied(sides: usize, ties: &[Tie]) -> Result<(), Error> {
    let mut reached = vec![false; sides];
    let mut open = vec![0];
    while let Some(side) = open.pop() {
        if std::mem::replace(&mut reached[side], true) {
            continue;
        }
        for tie in ties {
            match tie.sides {
                (a, b) if a == side => open.push(b),
                (a, b) if b == side => open.push(a),
                _ => {}
            }
        }
    }
    match reached.iter().all(|reached| *reached) {
        true => Ok(()),
        false => Err(Error::not_incremental(
            "it joins without equal columns",
            "tie every side to another one by a condition such as a.k = b.k",
        )),
    }
}

/// How many streams are read, one that is read twice counting twice.
fn scans(plan: &LogicalPlan) -> PlanResult<usize> {
    let mut scans = 0;
    plan.apply(|node| {
        scans += usize::from(matches!(node, LogicalPlan::TableScan(_)));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans)
}

fn stream_of(plan: &LogicalPlan) -> Result<Arc<Stream>, Error> {
    let mut found = None;
    plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(slot) = source_as_provider(&scan.source)?.downcast_ref::<SlotTable>()
        {
            found = Some(Arc::clone(&slot.stream));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    found.ok_or_else(|| {
        Error::not_incremental(
            "it joins what is no stream",
            "select from streams; views over views are not kept",
        )
    })
}

fn place_columns(schema: &DFSchema) -> Vec<Column> {
    let places = schema
        .iter()
        .filter(|(_, field)| PLACE.contains(&field.name().as_str()));
    places.map(Column::from).collect()
}

/// The same work on the records of one stream with each record's place among its columns.
fn carry_place(plan: &LogicalPlan) -> Result<LogicalPlan, Error> {
    if let LogicalPlan::TableScan(scan) = plan {
        return Ok(scan_with_place(scan)?);
    }
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        inputs.push(match scans(input)? {
            0 => input.clone(),
            _ => carry_place(input)?,
        });
    }
    let mut exprs = plan.expressions();
    if let LogicalPlan::Projection(_) = plan {
        exprs.extend(
            place_columns(inputs[0].schema())
                .into_iter()
                .map(Expr::Column),
        );
    }
    Ok(plan.with_new_exprs(exprs, inputs)?)
}

fn scan_with_place(scan: &TableScan) -> PlanResult<LogicalPlan> {
    let provider = source_as_provider(&scan.source)?;
    let Some(slot) = provider.downcast_ref::<SlotTable>() else {
        return datafusion::common::plan_err!("`{}` is not a stream", scan.table_name);
    };
    let table = SlotTable::new(Arc::clone(&slot.stream), true);
    let mut read = scan.projection.clone();
    let read = read.get_or_insert_with(|| (0..slot.schema.fields().len()).collect());
    let places = [SystemColumn::Partition, SystemColumn::Offset];
    for place in places {
        let index = table.schema.index_of(place.name())?;
        if !read.contains(&index) {
            read.push(index);
        }
    }
    let own = scan
        .projected_schema
        .iter()
        .map(|column| Expr::Column(column.into()));
    let places = places.iter().zip(PLACE).map(|(place, name)| {
        let column = Column::new(Some(scan.table_name.clone()), place.name());
        Expr::Column(column).alias(name)
    });
    let exprs: Vec<Expr> = own.chain(places).collect();
    let source = provider_as_source(Arc::new(table));
    LogicalPlanBuilder::scan(scan.table_name.clone(), source, Some(read.clone()))?
        .project(exprs)?
        .build()
}
