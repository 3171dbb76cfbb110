//! What Postgres's tools ask of `pg_catalog`: `\d`, drivers' type lookups, SQLAlchemy's reflection.
//!
//! `datafusion-pg-catalog` brings the tables and rewrites the tools' SQL into what DataFusion plans.
//! Here stands what it does not know: functions that the tools call in passing, and, in `relations`, `routines` and
//! `information_schema`, what there is besides tables and how large it is.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, LazyLock, PoisonError, RwLock},
};

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, StringArray, new_empty_array},
    datatypes::DataType,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{SchemaProvider, TableProvider, streaming::StreamingTable},
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
        Volatility,
    },
    physical_plan::streaming::PartitionStream,
    scalar::ScalarValue,
    sql::sqlparser::{
        ast::{
            BinaryOperator, Expr, FunctionArguments, Ident, Query, SelectItem, SetExpr, Statement,
            TableFactor, Visit, VisitMut, Visitor, VisitorMut,
        },
        parser::{Parser, ParserError},
    },
};
use datafusion_pg_catalog::{
    pg_catalog::{
        PG_CATALOG_TABLES, PgCatalogSchemaProvider, PgCatalogStaticTables, PgCatalogTable,
        context::EmptyContextProvider, setup_pg_catalog,
    },
    sql::{
        PostgresCompatibilityParser,
        rules::{
            CurrentUserVariableToSessionUserFunctionCall, FixArrayLiteral, FixVersionColumnName,
            PrependUnqualifiedPgTableName, RewriteArrayAnyAllOperation, RewritePgCatalogOperator,
            RewriteRegCastToSubquery, SqlStatementRewriteRule, StripCallableQualifier,
            StripCollate,
        },
    },
};
use lambic_query::{Database, Postgres, SqlParser, check_size, memberships};

use super::{
    calls,
    information_schema::InformationSchema,
    relations::{self, Relation, Relations},
    routines::{self, Routine, Routines},
    settings::{self, SERVER_VERSION},
};

const PG_CATALOG: &str = "pg_catalog";
const INFORMATION_SCHEMA: &str = "information_schema";

/// Adds `pg_catalog`, `information_schema` and Postgres's functions to the database's context.
pub fn install(database: &Database) -> Result<()> {
    let context = database.context();
    setup_pg_catalog(context, super::DATABASE, EmptyContextProvider).map_err(|error| *error)?;
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

/// How deep calls may stand in one another where a question is read by the catalog's own parser, which takes twice the
/// time with each level.
const CALLS_MAX: usize = 10;

/// Parses what Postgres's clients send.
///
/// Questions to the catalog alone are rewritten, and what cannot be planned in them is answered with
/// NULL; statements about the user's own data keep their tokens, so that errors can point into them,
/// and get only rewrites that do not change what they mean.
pub struct CatalogParser {
    catalog: PostgresCompatibilityParser,
}

impl Default for CatalogParser {
    fn default() -> CatalogParser {
        CatalogParser::new()
    }
}

impl CatalogParser {
    pub fn new() -> CatalogParser {
        CatalogParser {
            catalog: PostgresCompatibilityParser::new(),
        }
    }
}

impl SqlParser for CatalogParser {
    fn parse(&self, sql: &str) -> std::result::Result<Vec<Statement>, ParserError> {
        let mut statements = Parser::parse_sql(&Postgres, sql)?;
        if statements
            .iter()
            .any(|statement| check_size(statement).is_err())
        {
            // It is refused as it is; the rules would make it larger.
            return Ok(statements);
        }
        let is_catalog = match statements.as_slice() {
            [Statement::Query(query)] => asks_catalog_only(query),
            _ => false,
        };
        if is_catalog {
            if let Some(nothing) = of_no_constraint(&statements)? {
                return Ok(nothing);
            }
            if calls::nested(&statements) > CALLS_MAX {
                return Err(ParserError::RecursionLimitExceeded);
            }
            let mut statements = self.catalog.parse(&rewritten(sql))?;
            // Nothing breaks off the visit.
            let _ = VisitMut::visit(&mut statements, &mut Unplannable);
            return Ok(statements);
        }
        // The rules would take `= ANY (SELECT …)` for a question about an array.
        statements.iter_mut().for_each(memberships);
        let kept = |statement| match statement {
            Statement::Query(_) => MEANING_KEPT
                .iter()
                .chain(MEANING_KEPT_OF_QUERIES.iter())
                .fold(statement, |statement, rule| rule.rewrite(statement)),
            _ => MEANING_KEPT
                .iter()
                .fold(statement, |statement, rule| rule.rewrite(statement)),
        };
        Ok(statements.into_iter().map(kept).collect())
    }
}

/// The columns of constraints and indexes are listed with set-returning functions that DataFusion does
/// not plan in a projection. There are no constraints and no indexes: the answer has its columns and no row.
fn of_no_constraint(
    statements: &[Statement],
) -> std::result::Result<Option<Vec<Statement>>, ParserError> {
    let [statement @ Statement::Query(query)] = statements else {
        return Ok(None);
    };
    let lower = statement.to_string().to_ascii_lowercase();
    let about = lower.contains("pg_constraint") || lower.contains("pg_index");
    if !about || !lower.contains("generate_subscripts") {
        return Ok(None);
    }
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Ok(None);
    };
    let columns: Vec<String> = select
        .projection
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let name = match item {
                SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
                SelectItem::UnnamedExpr(Expr::Identifier(name)) => name.value.clone(),
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(names)) => names
                    .last()
                    .map(|name| name.value.clone())
                    .unwrap_or_default(),
                _ => format!("column{}", index + 1),
            };
            format!("CAST(NULL AS TEXT) AS \"{}\"", name.replace('"', "\"\""))
        })
        .collect();
    let nothing = format!("SELECT {} WHERE false", columns.join(", "));
    Parser::parse_sql(&Postgres, &nothing).map(Some)
}

/// Parts of tools' questions that DataFusion has no plan for, and that ask for what there is none of here.
struct Unplannable;

impl VisitorMut for Unplannable {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let none = match expr {
            // `ARRAY(SELECT …)`: lists of roles, options, privileges.
            Expr::Function(function) if matches!(function.args, FunctionArguments::Subquery(_)) => {
                Some("CAST(NULL AS TEXT[])".to_owned())
            }
            // Lists of privileges, of which there are none.
            Expr::Function(function) if is_list_of_privileges(&function.to_string()) => {
                Some("CAST(NULL AS TEXT)".to_owned())
            }
            Expr::BinaryOp {
                op: BinaryOperator::StringConcat,
                right,
                ..
            } if right.to_string().starts_with("CAST(NULL AS TEXT[]") => {
                Some("CAST(NULL AS TEXT[])".to_owned())
            }
            Expr::Subquery(query) => subquery(&query.to_string()).map(str::to_owned),
            // Only the backslash escapes in DataFusion.
            Expr::Like {
                escape_char: Some(escape),
                pattern,
                ..
            } => {
                let escape = escape.to_string();
                if escape != "'\\'" {
                    let sql = format!("replace({pattern}, {escape}, '\\')");
                    if let Some(escaped) = parsed(&sql) {
                        **pattern = escaped;
                    }
                }
                None
            }
            _ => None,
        };
        if let Expr::Like { escape_char, .. } = expr {
            *escape_char = None;
        }
        if let Some(none) = none.and_then(|sql| parsed(&sql)) {
            *expr = none;
        }
        ControlFlow::Continue(())
    }
}

/// `array_to_string(p.proacl, …)`, as psql shows privileges.
fn is_list_of_privileges(call: &str) -> bool {
    let call = call.to_ascii_lowercase();
    let Some((_, arguments)) = call.split_once("array_to_string(") else {
        return false;
    };
    let first = arguments.split(',').next().unwrap_or_default();
    first.trim_end().ends_with("acl")
}

/// What stands for a scalar subquery of a tool's question.
fn subquery(sql: &str) -> Option<&'static str> {
    if sql.contains("relkind = 'c'") {
        // "Is it a composite type?"
        Some("false")
    } else if sql.contains("json_build_object") || sql.contains("pg_attrdef") {
        // Identity options, collations, defaults.
        Some("CAST(NULL AS TEXT)")
    } else if sql.contains("typcollation") {
        Some("CAST(NULL AS INT)")
    } else {
        None
    }
}

fn parsed(expression: &str) -> Option<Expr> {
    let parser = Parser::new(&Postgres).try_with_sql(expression);
    parser.and_then(|mut parser| parser.parse_expr()).ok()
}

static MEANING_KEPT: LazyLock<Vec<Box<dyn SqlStatementRewriteRule>>> = LazyLock::new(|| {
    vec![
        Box::new(RewriteArrayAnyAllOperation),
        Box::new(FixArrayLiteral),
        Box::new(StripCallableQualifier),
        Box::new(CurrentUserVariableToSessionUserFunctionCall),
        Box::new(StripCollate),
    ]
});

/// How queries of own data name things of the catalog in passing: `pg_class`, `'s'::regclass`.
static MEANING_KEPT_OF_QUERIES: LazyLock<Vec<Box<dyn SqlStatementRewriteRule>>> =
    LazyLock::new(|| {
        vec![
            Box::new(PrependUnqualifiedPgTableName),
            Box::new(RewritePgCatalogOperator),
            Box::new(RewriteRegCastToSubquery::new()),
            Box::new(FixVersionColumnName),
        ]
    });

/// Whether a query reads tables of the catalog and no others: then nobody's records are in its answer.
fn asks_catalog_only(query: &Query) -> bool {
    let mut tables = Tables::default();
    // Nothing breaks off the visit.
    let _ = query.visit(&mut tables);
    tables.of_catalog && !tables.of_others
}

/// What kinds of tables a query reads.
#[derive(Default)]
struct Tables {
    of_catalog: bool,
    of_others: bool,
    /// Names that `WITH` gives, for each query around the present place.
    with: Vec<Vec<String>>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = with.map(|table| folded(&table.alias.name));
        self.with.push(names.collect());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.with.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<()> {
        // With arguments it is a function, which reads no table by itself.
        let TableFactor::Table {
            name, args: None, ..
        } = table
        else {
            return ControlFlow::Continue(());
        };
        let parts: Vec<String> = name
            .0
            .iter()
            .filter_map(|part| part.as_ident())
            .map(folded)
            .collect();
        let of_catalog = match parts.as_slice() {
            [name] if self.with.iter().flatten().any(|with| with == name) => {
                return ControlFlow::Continue(());
            }
            // As in Postgres, where the catalog is searched first.
            [name] => PG_CATALOG_TABLES.contains(&name.as_str()),
            [.., schema, _] => schema == PG_CATALOG || schema == "information_schema",
            [] => false,
        };
        self.of_catalog |= of_catalog;
        self.of_others |= !of_catalog;
        ControlFlow::Continue(())
    }
}

/// A name as Postgres folds it.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

/// Whole questions of one client that DataFusion has no plan for, put another way.
fn rewritten(sql: &str) -> String {
    if sql.contains("typeinfo_tree") {
        return ASYNCPG_TYPES.to_owned();
    }
    sql.to_owned()
}

/// asyncpg asks for a type and all that it is made of, recursively. Our types are made of nothing
/// but elements, which it knows.
const ASYNCPG_TYPES: &str = "SELECT t.oid, 'pg_catalog' AS ns, t.typname AS name, \
    CASE WHEN t.typtype = 'c' THEN 'c' ELSE 'b' END AS kind, \
    CAST(NULL AS INT) AS basetype, \
    CASE WHEN t.typelem <> 0 AND t.typlen = -1 THEN t.typelem ELSE NULL END AS elemtype, \
    ',' AS elemdelim, CAST(NULL AS INT) AS range_subtype, CAST(NULL AS TEXT) AS attrtypoids, \
    CAST(NULL AS TEXT) AS attrnames, 0 AS depth, CAST(NULL AS TEXT) AS basetype_name, \
    e.typname AS elemtype_name, CAST(NULL AS TEXT) AS range_subtype_name \
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem \
    WHERE array_has($1, t.oid)";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sql: &str) -> String {
        let statements = CatalogParser::new().parse(sql).unwrap();
        statements
            .iter()
            .map(Statement::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn statements_about_own_data_keep_their_meaning() {
        for sql in [
            "SELECT a, (SELECT max(b) FROM u) AS m FROM t WHERE c LIKE 'x%'",
            "INSERT INTO t (a) VALUES ('pg_class')",
            "CREATE TABLE pg_things (a INT)",
            "SELECT ARRAY(SELECT a FROM s) FROM s WHERE b LIKE '%pg_x%'",
            "SELECT version() AS v, (SELECT max(b) FROM u WHERE u.a = t.a) AS m FROM t",
            "SELECT ARRAY(SELECT 1), pg_backend_pid(), current_schema()",
            "SELECT b FROM t WHERE b LIKE 'pg/_%' ESCAPE '/'",
            "WITH pg_class AS (SELECT * FROM t) SELECT ARRAY(SELECT a FROM t) FROM pg_things",
            "SELECT ARRAY(SELECT a FROM t) FROM t JOIN pg_catalog.pg_class AS c ON c.relname = t.a",
        ] {
            assert_eq!(parse(sql), sql);
        }
    }

    #[test]
    fn statements_about_own_data_can_name_the_catalog() {
        assert_eq!(
            parse("SELECT pg_catalog.version(), a FROM t, pg_class"),
            "SELECT version() AS version, a FROM t, pg_catalog.pg_class"
        );
        assert_eq!(parse("SELECT version()"), "SELECT version() AS version");
        let id = parse("SELECT a, 't'::regclass FROM t");
        assert!(id.contains("pg_catalog.pg_class"), "{id}");
    }

    #[test]
    fn questions_that_would_be_read_for_minutes_are_refused() {
        let nested = |levels| {
            let (open, close) = ("md5(".repeat(levels), ")".repeat(levels));
            CatalogParser::new().parse(&format!("SELECT {open}relname{close} FROM pg_class"))
        };
        assert!(nested(CALLS_MAX).is_ok());
        let refused = nested(CALLS_MAX + 1).expect_err("it is too deep");
        assert_eq!(refused, ParserError::RecursionLimitExceeded);
    }

    #[test]
    fn questions_to_the_catalog_become_plannable() {
        let no_arrays = parse("SELECT ARRAY(SELECT rolname FROM pg_catalog.pg_roles) AS roles");
        assert!(!no_arrays.contains("ARRAY("), "{no_arrays}");
        let like = parse(
            "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg/_%' ESCAPE '/'",
        );
        assert!(
            like.contains("replace(") && !like.contains("ESCAPE"),
            "{like}"
        );
        assert_eq!(
            parse(
                "SELECT c.conrelid, min(x) AS lowest FROM (SELECT conrelid, generate_subscripts(conkey, 1) AS x FROM pg_catalog.pg_constraint) AS c GROUP BY 1"
            ),
            "SELECT CAST(NULL AS TEXT) AS \"conrelid\", CAST(NULL AS TEXT) AS \"lowest\" WHERE false"
        );
    }
}
