//! Plans of statements, kept from one execution to the next.
//!
//! A kept plan has *places* where its tables stand and parameters that are not bound: it holds no frontier, no rows and
//! no value. Each execution puts the tables of its own frontier into the places. It is used only as long as every
//! name means the same version of the same stream or view, with the same code of functions; otherwise the statement is
//! planned anew. Time stands in no kept plan: one that asks for it is optimised at each execution.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{
        Result, TableReference, internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::{TableType, provider_as_source, source_as_provider},
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableSource, Volatility},
    physical_plan::ExecutionPlan,
    scalar::ScalarValue,
};
use lambic_view::session;

use crate::{
    database::{Open, apart},
    provider::{Identity, identity},
};

/// Plans of texts that are kept at one time, beside those of prepared statements.
const TEXTS_MAX: usize = 256;
/// Longer texts are seldom sent again.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Texts that were seen once, by their hashes.
const SEEN_MAX: usize = 4_096;

/// A table that a plan reads, as it was when that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    pub name: String,
    pub identity: Identity,
    pub schema: SchemaRef,
}

/// The tables to be read now, by name.
pub type Tables = HashMap<String, Arc<dyn TableSource>>;

/// For what a plan takes its parameters.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// What they stand beside.
    pub told: Vec<Option<DataType>>,
    /// Those of other types.
    pub kept: apart::Kept,
    /// Those whose types the client may choose.
    pub open: Vec<Open>,
    /// True if some have types of their values: the plan is for these alone.
    pub of_values: bool,
}

/// A plan without its tables.
#[derive(Debug)]
pub struct KeptPlan {
    pub places: Vec<Place>,
    /// Of the code of functions, when it was made.
    pub functions: u64,
    /// The types of `$1`, `$2`, …; `None` where the statement does not tell.
    pub types: Vec<Option<DataType>>,
    taken: Taken,
    /// Of the answer.
    pub columns: SchemaRef,
    /// As it was planned.
    plan: LogicalPlan,
    /// True if optimising it would bind it to a moment, or if the type of a parameter is not known.
    is_open: bool,
    optimised: Mutex<Option<LogicalPlan>>,
}

impl KeptPlan {
    /// `None` if it reads what is not known to be the same the next time.
    pub fn new(
        plan: &LogicalPlan,
        types: Vec<Option<DataType>>,
        taken: Taken,
        columns: SchemaRef,
        functions: u64,
    ) -> Option<KeptPlan> {
        if matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_)) {
            return None;
        }
        let places = places(plan)?;
        let is_open = types.iter().any(Option::is_none) || asks_for_time(plan).unwrap_or(true);
        Some(KeptPlan {
            plan: emptied(plan).ok()?,
            places,
            functions,
            types,
            taken,
            columns,
            is_open,
            optimised: Mutex::default(),
        })
    }

    /// Whether a client that declares these types would get the same plan.
    pub fn is_for(&self, declared: &[Option<DataType>]) -> bool {
        let Taken {
            told, kept, open, ..
        } = &self.taken;
        let mut open = open.iter();
        open.all(|open| open.is_as_chosen(&self.types, declared))
            && apart::kept(told, declared) == *kept
    }

    /// False if it would round a decimal.
    pub fn takes(&self, parameters: &[ScalarValue]) -> bool {
        let mut each = self.types.iter().zip(parameters);
        !each.any(|(planned, value)| apart::is_other_decimal(planned.as_ref(), value))
    }

    /// The plan over `tables` with these parameters, and whether it is optimised.
    pub fn ready(
        &self,
        tables: &Tables,
        parameters: Vec<ScalarValue>,
        state: &SessionState,
    ) -> Result<(LogicalPlan, bool)> {
        let fits = |(value, planned): (&ScalarValue, &Option<DataType>)| {
            planned
                .as_ref()
                .is_some_and(|planned| value.data_type() == *planned)
        };
        let is_fit =
            parameters.len() >= self.types.len() && parameters.iter().zip(&self.types).all(fits);
        let plan = match self.is_open || !is_fit {
            true => filled(self.plan.clone(), tables)?,
            false => {
                let kept = self.optimised().clone();
                match kept {
                    Some(plan) => filled(plan, tables)?,
                    None => {
                        let plan = state.optimize(&filled(self.plan.clone(), tables)?)?;
                        *self.optimised() = emptied(&plan).ok();
                        plan
                    }
                }
            }
        };
        let plan = crate::database::with_parameters(plan, parameters)?;
        Ok((plan, !self.is_open && is_fit))
    }

    fn optimised(&self) -> MutexGuard<'_, Option<LogicalPlan>> {
        self.optimised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tables that a plan reads; `None` if one of them is not a stream, a view or a table of the system's.
fn places(plan: &LogicalPlan) -> Option<Vec<Place>> {
    let mut places: Vec<Place> = Vec::new();
    let mut all_known = true;
    let walked = plan.apply_with_subqueries(|node| {
        let (name, source) = match node {
            LogicalPlan::TableScan(scan) => (&scan.table_name, &scan.source),
            LogicalPlan::Dml(dml) => (&dml.table_name, &dml.target),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        let provider = source_as_provider(source)?;
        match (own_name(name), identity(provider.as_ref())) {
            (Some(name), Some(identity)) => {
                let place = Place {
                    name: name.to_owned(),
                    identity,
                    schema: provider.schema(),
                };
                if !places.contains(&place) {
                    places.push(place);
                }
            }
            _ => all_known = false,
        }
        Ok(TreeNodeRecursion::Continue)
    });
    (walked.is_ok() && all_known).then_some(places)
}

/// The name of a table of the schema `public`.
fn own_name(table: &TableReference) -> Option<&str> {
    let is_ours = table
        .schema()
        .is_none_or(|schema| schema == session::SCHEMA)
        && table
            .catalog()
            .is_none_or(|catalog| catalog == session::CATALOG);
    is_ours.then(|| table.table())
}

/// True if a function in it has another value at another moment.
fn asks_for_time(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                let volatility = match part {
                    Expr::ScalarFunction(call) => call.func.signature().volatility,
                    _ => Volatility::Immutable,
                };
                found |= volatility == Volatility::Stable;
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// The plan with places for its tables.
fn emptied(plan: &LogicalPlan) -> Result<LogicalPlan> {
    with_sources(plan.clone(), &|_, source| {
        let provider = source_as_provider(source)?;
        Ok(provider_as_source(Arc::new(EmptyPlace {
            schema: provider.schema(),
            table_type: provider.table_type(),
        })))
    })
}

/// The plan with tables in its places.
fn filled(plan: LogicalPlan, tables: &Tables) -> Result<LogicalPlan> {
    with_sources(plan, &|name, _| match tables.get(name) {
        Some(table) => Ok(Arc::clone(table)),
        None => internal_err!("the plan has no place for \"{name}\""),
    })
}

type SourceOf<'a> = &'a dyn Fn(&str, &Arc<dyn TableSource>) -> Result<Arc<dyn TableSource>>;

fn with_sources(plan: LogicalPlan, source_of: SourceOf<'_>) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::TableScan(mut scan) => {
            scan.source = source_of(scan.table_name.table(), &scan.source)?;
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        }
        LogicalPlan::Dml(mut dml) => {
            dml.target = source_of(dml.table_name.table(), &dml.target)?;
            Ok(Transformed::yes(LogicalPlan::Dml(dml)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

/// Where a table stands in a kept plan.
#[derive(Debug)]
struct EmptyPlace {
    schema: SchemaRef,
    table_type: TableType,
}

#[async_trait]
impl TableProvider for EmptyPlace {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        self.table_type
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![
            TableProviderFilterPushDown::Unsupported;
            filters.len()
        ])
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        internal_err!("a place is filled before its plan runs")
    }
}

/// The plan of one statement, if it is kept.
#[derive(Debug, Default)]
pub struct Slot(Mutex<Option<Arc<KeptPlan>>>);

impl Slot {
    pub fn get(&self) -> Option<Arc<KeptPlan>> {
        self.lock().clone()
    }

    pub fn set(&self, plan: Option<Arc<KeptPlan>>) {
        *self.lock() = plan;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<KeptPlan>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was parsed of texts that come again and again, with their plans; the least recently used ones go.
#[derive(Debug)]
pub struct Texts<T> {
    list: Mutex<List<T>>,
    pub counts: Counts,
}

#[derive(Debug)]
struct List<T> {
    uses: u64,
    known: HashMap<Key, (Arc<T>, u64)>,
    /// Hashes of texts that were seen once.
    seen: HashMap<u64, u64>,
}

/// A text, and who parses it.
pub type Key = (String, usize);

/// How often plans were made and used, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    pub made: AtomicU64,
    pub reused: AtomicU64,
    /// Kept ones that something had changed under.
    pub stale: AtomicU64,
}

impl<T> Default for Texts<T> {
    fn default() -> Texts<T> {
        Texts {
            list: Mutex::new(List {
                uses: 0,
                known: HashMap::new(),
                seen: HashMap::new(),
            }),
            counts: Counts::default(),
        }
    }
}

impl<T> Texts<T> {
    fn lock(&self) -> MutexGuard<'_, List<T>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.lock().known.len()
    }

    pub fn get(&self, text: &str, parser: usize) -> Option<Arc<T>> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let mut list = self.lock();
        list.uses += 1;
        let uses = list.uses;
        let (known, used) = list.known.get_mut(&(text.to_owned(), parser))?;
        *used = uses;
        Some(Arc::clone(known))
    }

    /// Keeps it if the text came before, and says so: most texts come once.
    pub fn put(&self, text: &str, parser: usize, parsed: &Arc<T>) -> bool {
        if text.len() > TEXT_BYTES_MAX {
            return false;
        }
        let hash = hash(text);
        let mut list = self.lock();
        list.uses += 1;
        let uses = list.uses;
        if list.seen.remove(&hash).is_none() {
            drop_oldest(&mut list.seen, SEEN_MAX, |used| *used);
            list.seen.insert(hash, uses);
            return false;
        }
        drop_oldest(&mut list.known, TEXTS_MAX, |(_, used)| *used);
        let key = (text.to_owned(), parser);
        list.known.insert(key, (Arc::clone(parsed), uses));
        true
    }
}

/// Makes room for one more: a quarter goes at a time, so that this is seldom done.
fn drop_oldest<K: Clone + Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    max: usize,
    used: impl Fn(&V) -> u64,
) {
    if map.len() < max {
        return;
    }
    let mut uses: Vec<u64> = map.values().map(&used).collect();
    uses.sort_unstable();
    let from = uses[max / 4];
    map.retain(|_, value| used(value) >= from);
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Counts {
    pub fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_come_again_are_kept_and_there_are_not_too_many() {
        let texts = Texts::<usize>::default();
        let sent = |number: usize| {
            let text = format!("SELECT {number}");
            match texts.get(&text, 0) {
                Some(known) => Some(*known),
                None => {
                    texts.put(&text, 0, &Arc::new(number));
                    None
                }
            }
        };
        assert_eq!((sent(0), sent(0), sent(0)), (None, None, Some(0)));
        assert!(texts.get("SELECT 0", 1).is_none(), "another parser");
        for number in 1..10 * SEEN_MAX {
            assert_eq!(sent(number), None);
        }
        assert_eq!(texts.len(), 1);
        assert!(texts.lock().seen.len() <= SEEN_MAX);
        for number in 1..2 * TEXTS_MAX {
            let _ = (sent(number), sent(number));
            // One that is used is kept.
            assert_eq!(sent(0), Some(0));
        }
        assert!(texts.len() <= TEXTS_MAX);
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        for _ in 0..3 {
            texts.put(&long, 0, &Arc::new(0));
        }
        assert!(texts.get(&long, 0).is_none());
    }
}
