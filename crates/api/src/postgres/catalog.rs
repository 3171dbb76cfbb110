//! What Postgres's tools ask of `pg_catalog`: `\d`, drivers' type lookups, SQLAlchemy's reflection.
//!
//! `datafusion-pg-catalog` brings the tables and rewrites the tools' SQL into what DataFusion plans.
//! Here stands what it does not know: functions that the tools call in passing, and, in `relations`, `routines` and
//! `information_schema`, what there is besides tables and how large it is.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, StringArray, new_empty_array},
    datatypes::{DataType, FieldRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{SchemaProvider, TableProvider, streaming::StreamingTable},
    error::{DataFusionError, Result},
    execution::SessionStateBuilder,
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
        Volatility, planner::TypePlanner,
    },
    physical_plan::streaming::PartitionStream,
    scalar::ScalarValue,
    sql::sqlparser::ast::DataType as SqlType,
};
use datafusion_pg_catalog::pg_catalog::{
    PgCatalogSchemaProvider, PgCatalogStaticTables, PgCatalogTable, context::EmptyContextProvider,
    oid_type_planner::PgOidTypePlanner, setup_pg_catalog,
};
use lambic_query::Database;

use super::{
    information_schema::InformationSchema,
    relations::{self, Relation, Relations},
    routines::{self, Routine, Routines},
    settings::{self, SERVER_VERSION},
};

pub const PG_CATALOG: &str = "pg_catalog";
const INFORMATION_SCHEMA: &str = "information_schema";

/// The types of SQL and those of the catalog, such as `regclass`.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        match PgOidTypePlanner.plan_type_field(sql_type)? {
            Some(of_catalog) => Ok(Some(of_catalog)),
            None => lambic_query::SqlTypes.plan_type_field(sql_type),
        }
    }
}

/// Adds `pg_catalog`, `information_schema` and Postgres's functions to the database's context.
pub fn install(database: &Database) -> Result<()> {
    let context = database.context();
    setup_pg_catalog(context, super::DATABASE, EmptyContextProvider).map_err(|error| *error)?;
    // It has put its own planner of types in the place of ours.
    let state = context.state();
    let state = SessionStateBuilder::new_from_existing(state).with_type_planner(Arc::new(Types));
    *context.state_ref().write() = state.build();
    context
        .state_ref()
        .write()
        .config_mut()
        .options_mut()
        .catalog
        .information_schema = false;
    let tables = Arc::new(PgCatalogStaticTables::try_new()?);
    let catalog_list = Arc::clone(context.state().catalog_list());
    let inner = PgCatalogSchemaProvider::try_new(catalog_list, tables, EmptyContextProvider)?;
    let relations = Relations::default();
    let routines = Routines::default();
    let catalog = context
        .catalog(super::DATABASE)
        .ok_or_else(|| DataFusionError::Configuration("there is no catalog `lambic`".to_owned()))?;
    catalog.register_schema(
        PG_CATALOG,
        Arc::new(Catalog {
            inner,
            database: database.clone(),
            relations: Arc::clone(&relations),
            routines: Arc::clone(&routines),
        }),
    )?;
    // DataFusion's own of that name is switched off above: it would hide this one.
    catalog.register_schema(
        INFORMATION_SCHEMA,
        Arc::new(InformationSchema::new(Arc::clone(
            context.state().catalog_list(),
        ))),
    )?;
    for function in functions(database, &relations, &routines) {
        context.register_udf(function);
    }
    Ok(())
}

type Inner = PgCatalogSchemaProvider<
    Arc<dyn datafusion::catalog::CatalogProviderList>,
    EmptyContextProvider,
>;

struct Catalog {
    inner: Inner,
    database: Database,
    relations: Relations,
    routines: Routines,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").finish_non_exhaustive()
    }
}

#[async_trait]
impl SchemaProvider for Catalog {
    fn table_names(&self) -> Vec<String> {
        self.inner.table_names()
    }

    fn table_exist(&self, name: &str) -> bool {
        self.inner.table_exist(name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match name {
            "pg_class" => {
                let Some(PgCatalogTable::Dynamic(inner)) = self.inner.build_table_by_name(name)?
                else {
                    return self.inner.table(name).await;
                };
                let classes = relations::Classes::new(inner, &self.database, &self.relations);
                streaming(classes).map(Some)
            }
            "pg_proc" => {
                let (
                    Some(PgCatalogTable::Static(builtin)),
                    Some(PgCatalogTable::Dynamic(namespaces)),
                ) = (
                    self.inner.build_table_by_name(name)?,
                    self.inner.build_table_by_name("pg_namespace")?,
                )
                else {
                    return self.inner.table(name).await;
                };
                let builtin = (builtin.schema(), builtin.data());
                let procedures =
                    routines::Procedures::new(builtin, namespaces, &self.database, &self.routines);
                streaming(procedures).map(Some)
            }
            "pg_matviews" => {
                let views = relations::materialized_views(&self.database)?;
                Ok(Some(Arc::new(views)))
            }
            _ => self.inner.table(name).await,
        }
    }
}

/// A table that is made when it is read. Not before: `pg_class` and others ask for tables while they hold the lock of
/// object ids, which making a table may need too.
fn streaming(table: impl PartitionStream + 'static) -> Result<Arc<dyn TableProvider>> {
    let schema = Arc::clone(table.schema());
    Ok(Arc::new(StreamingTable::try_new(
        schema,
        vec![Arc::new(table)],
    )?))
}

/// A function by its rows of arguments; tools call these with whatever types they like.
type Body = Arc<dyn Fn(&[ArrayRef], usize) -> Result<ArrayRef> + Send + Sync>;

struct Function {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    body: Body,
}

impl Function {
    fn udf(
        name: &'static str,
        returns: DataType,
        body: impl Fn(&[ArrayRef], usize) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> ScalarUDF {
        let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        ScalarUDF::new_from_impl(Function {
            name,
            // Stable: the answer may change from statement to statement, so it is not kept in plans.
            signature: Signature::one_of(any, Volatility::Stable),
            returns,
            body: Arc::new(body),
        })
    }

    fn constant(name: &'static str, value: ScalarValue) -> ScalarUDF {
        Function::udf(name, value.data_type(), move |_, rows| {
            value.to_array_of_size(rows)
        })
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Function) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl std::hash::Hash for Function {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let columns: Vec<ArrayRef> = arguments
            .args
            .iter()
            .map(|argument| argument.to_array(rows))
            .collect::<Result<_>>()?;
        Ok(ColumnarValue::Array((self.body)(&columns, rows)?))
    }
}

fn functions(database: &Database, relations: &Relations, routines: &Routines) -> Vec<ScalarUDF> {
    let text = |value: &str| ScalarValue::Utf8(Some(value.to_owned()));
    let version = format!(
        "PostgreSQL {SERVER_VERSION} (Lambic {}) on {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let no_text = ScalarValue::Utf8(None);
    let yes = ScalarValue::Boolean(Some(true));
    let mut functions = vec![
        Function::constant("version", text(&version)),
        Function::constant("pg_is_in_recovery", ScalarValue::Boolean(Some(false))),
        Function::constant("pg_advisory_unlock_all", no_text.clone()),
        Function::constant("pg_advisory_lock", no_text.clone()),
        Function::constant("pg_try_advisory_lock", yes.clone()),
        Function::constant("pg_advisory_unlock", yes.clone()),
        Function::constant("txid_current", ScalarValue::Int64(Some(1))),
        Function::udf("current_setting", DataType::Utf8, |arguments, rows| {
            let names = texts(arguments.first(), rows)?;
            let values = names
                .into_iter()
                .map(|name| name.and_then(|name| settings::default_of(&name)));
            Ok(Arc::new(values.collect::<StringArray>()))
        }),
        Function::udf("to_regtype", DataType::Int32, |arguments, rows| {
            let names = texts(arguments.first(), rows)?;
            let ids = names.into_iter().map(|name| type_id(&name?));
            Ok(Arc::new(ids.collect::<Int32Array>()))
        }),
        Function::udf("set_config", DataType::Utf8, |arguments, rows| {
            let values = texts(arguments.get(1), rows)?;
            Ok(Arc::new(values.into_iter().collect::<StringArray>()))
        }),
        Function::udf("pg_size_pretty", DataType::Utf8, |arguments, rows| {
            let sizes = texts(arguments.first(), rows)?;
            let sizes = sizes
                .into_iter()
                .map(|size| size?.parse().ok().map(relations::pretty_size));
            Ok(Arc::new(sizes.collect::<StringArray>()))
        }),
    ];
    functions.extend(of_objects(
        relations,
        |relation: &Relation| {
            let sql = relation.sql.as_ref();
            ScalarValue::Utf8(sql.map(|sql| format!("{sql};")))
        },
        &["pg_get_viewdef"],
        DataType::Utf8,
    ));
    functions.extend(of_objects(
        relations,
        |relation: &Relation| ScalarValue::Int64(relation.bytes),
        &[
            "pg_table_size",
            "pg_relation_size",
            "pg_total_relation_size",
        ],
        DataType::Int64,
    ));
    functions.extend(of_objects(
        routines,
        |routine: &Routine| ScalarValue::Utf8(Some(routine.result.clone())),
        &["pg_get_function_result"],
        DataType::Utf8,
    ));
    functions.extend(of_objects(
        routines,
        |routine: &Routine| ScalarValue::Utf8(Some(routine.arguments.clone())),
        &[
            "pg_get_function_arguments",
            "pg_get_function_identity_arguments",
        ],
        DataType::Utf8,
    ));
    // Questions about things that there are none of.
    for name in [
        "obj_description",
        "col_description",
        "shobj_description",
        "pg_get_indexdef",
        "pg_get_ruledef",
        "pg_get_triggerdef",
        "pg_get_serial_sequence",
        "pg_get_functiondef",
        "pg_get_function_sqlbody",
        "pg_get_statisticsobjdef",
        "pg_tablespace_location",
        "inet_server_addr",
        "inet_client_addr",
        "pg_get_partition_constraintdef",
    ] {
        functions.push(Function::constant(name, no_text.clone()));
    }
    let all = database.clone();
    functions.push(Function::udf(
        "pg_database_size",
        DataType::Int64,
        move |_, rows| {
            let bytes: u64 = all.relation_bytes().values().sum();
            ScalarValue::Int64(i64::try_from(bytes).ok()).to_array_of_size(rows)
        },
    ));
    functions.push(Function::constant(
        "pg_indexes_size",
        ScalarValue::Int64(Some(0)),
    ));
    for name in [
        "pg_function_is_visible",
        "pg_type_is_visible",
        "pg_operator_is_visible",
        "pg_collation_is_visible",
        "pg_opclass_is_visible",
        "has_column_privilege",
        "has_function_privilege",
        "has_sequence_privilege",
        "has_type_privilege",
    ] {
        functions.push(Function::constant(name, yes.clone()));
    }
    functions
}

/// Functions of an object id, answered from what was known of it when its table was read; NULL if that is nothing.
fn of_objects<T: Send + Sync + 'static>(
    known: &Arc<RwLock<HashMap<i32, T>>>,
    of: impl Fn(&T) -> ScalarValue + Send + Sync + Copy + 'static,
    names: &[&'static str],
    returns: DataType,
) -> Vec<ScalarUDF> {
    let named = |name: &&'static str| {
        let (known, none) = (Arc::clone(known), ScalarValue::try_from(&returns));
        Function::udf(name, returns.clone(), move |arguments, rows| {
            let none = none.as_ref().expect("text and numbers have NULL");
            let ids = texts(arguments.first(), rows)?;
            let known = known.read().unwrap_or_else(PoisonError::into_inner);
            let values: Vec<ScalarValue> = ids
                .into_iter()
                .map(|id| {
                    let found = id.and_then(|id| known.get(&id.parse().ok()?));
                    found.map_or_else(|| none.clone(), of)
                })
                .collect();
            match values.is_empty() {
                true => Ok(new_empty_array(&none.data_type())),
                false => ScalarValue::iter_to_array(values),
            }
        })
    };
    names.iter().map(named).collect()
}

/// The object id of a type that columns can have here, by its usual names.
fn type_id(name: &str) -> Option<i32> {
    use pgwire::api::Type;
    let name = name.trim().to_ascii_lowercase();
    let found = match name.strip_prefix("pg_catalog.").unwrap_or(&name) {
        "bool" | "boolean" => Type::BOOL,
        "int2" | "smallint" => Type::INT2,
        "int4" | "int" | "integer" => Type::INT4,
        "int8" | "bigint" => Type::INT8,
        "float4" | "real" => Type::FLOAT4,
        "float8" | "double precision" => Type::FLOAT8,
        "numeric" | "decimal" => Type::NUMERIC,
        "text" => Type::TEXT,
        "varchar" | "character varying" => Type::VARCHAR,
        "bytea" => Type::BYTEA,
        "date" => Type::DATE,
        "timestamp" | "timestamp without time zone" => Type::TIMESTAMP,
        "timestamptz" | "timestamp with time zone" => Type::TIMESTAMPTZ,
        "interval" => Type::INTERVAL,
        "time" => Type::TIME,
        "oid" => Type::OID,
        _ => return None,
    };
    i32::try_from(found.oid()).ok()
}

/// One argument of every row as text.
fn texts(argument: Option<&ArrayRef>, rows: usize) -> Result<Vec<Option<String>>> {
    let Some(argument) = argument else {
        return Ok(vec![None; rows]);
    };
    let column = arrow::compute::cast(argument, &DataType::Utf8)?;
    Ok(column
        .as_string::<i32>()
        .iter()
        .map(|text| text.map(str::to_owned))
        .collect())
}
