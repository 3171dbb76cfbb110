//! The DataFusion session that views and queries share: one set of settings and aggregates, so that a
//! view and the same `SELECT` run by hand give the same bits.

use std::sync::Arc;

use datafusion::{
    catalog::MemoryCatalogProviderList,
    execution::{SessionState, SessionStateBuilder, runtime_env::RuntimeEnv},
    logical_expr::registry::FunctionRegistry,
    physical_optimizer::optimizer::PhysicalOptimizer,
    prelude::SessionConfig,
};

use crate::{
    aggregate::{self, FloatSums},
    guard::DecideInOrder,
    names::{self, WhereNamesAreOfOne},
    offset::KeepOffsets,
    patient::LetOthersRun,
    postgres,
};

pub const CATALOG: &str = "lambic";
pub const SCHEMA: &str = "public";

/// Settings of every session. `partitions` is how many threads one statement may use.
pub fn config(partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions.max(1))
        .with_information_schema(true)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    // One layout of text everywhere: states, files and wire agree without casts.
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
    options.sql_parser.parse_float_as_decimal = true;
    // Without it `timestamptz` would be planned as a timestamp without a zone.
    options.execution.time_zone = Some("UTC".to_owned());
    options.execution.parquet.schema_force_view_types = false;
    options.execution.parquet.pushdown_filters = false;
    // What may be NULL is not always the same in both plans; what is read is.
    options.execution.skip_physical_aggregate_schema_check = true;
    // States are merged again before they are kept, so skipping partial aggregation only makes more of them.
    options
        .execution
        .skip_partial_aggregation_probe_ratio_threshold = 1.0;
    config
}

pub fn state(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut rules = PhysicalOptimizer::new().rules;
    for rule in &mut rules {
        if names::goes_by_names(rule.as_ref()) {
            *rule = Arc::new(WhereNamesAreOfOne(Arc::clone(rule)));
        }
    }
    rules.insert(0, Arc::new(KeepOffsets));
    rules.push(Arc::new(DecideInOrder));
    rules.push(Arc::new(LetOthersRun));
    let builder = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rules(rules)
        .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()));
    let mut state = postgres::builder(builder).build();
    postgres::register(&mut state);
    set_float_sums(&mut state, FloatSums::Exact);
    state
}

/// Chooses how statements of `state` sum doubles up.
pub fn set_float_sums(state: &mut SessionState, float_sums: FloatSums) {
    for function in aggregate::all(float_sums) {
        state
            .register_udaf(Arc::new(function))
            .expect("aggregates can always be registered");
    }
}
