//! What a `CREATE` declares, checked.

use std::{ops::Range, sync::Arc, time::Duration};

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::{
    common::config::ConfigOptions,
    logical_expr::planner::TypePlanner,
    sql::{
        planner::{ContextProvider, SqlToRel},
        sqlparser::ast::{
            CharacterLength, ColumnDef, ColumnOption, CreateTable, CreateTableOptions, CreateView,
            DataType as SqlType, Expr, Ident, SqlOption, Value,
        },
    },
};
use lambic_model::{Stream, StreamId, StreamName, SystemColumn, ViewName};
use lambic_view::{Definition, Freshness, SpeedAs, aggregate::FloatSums, definition::NEVER};

use crate::{
    Error, Retention, closest,
    error::find_word,
    retention, sqlstate,
    statement::{name_of, tokens},
    types,
};

pub const BATCH_EVERY: Duration = Duration::from_secs(3600);
const BATCH_EVERY_MIN: Duration = Duration::from_secs(1);
const PARTITIONS_MAX: u32 = 1024;

const STREAM_OPTIONS: [&str; 6] = [
    "event_time",
    "record_id",
    "partition_by",
    "partitions",
    retention::AGE,
    retention::BYTES,
];
const VIEW_OPTIONS: [&str; 7] = [
    "batch_every",
    "batch_memory",
    "expect",
    "float_sums",
    "freshness",
    "speed_as",
    "speed_key",
];
/// Less is not enough to work with.
const BATCH_MEMORY_MIN: u64 = 1 << 20;

/// Translates declared types; it knows no tables.
struct Types(ConfigOptions);

impl ContextProvider for Types {
    fn get_table_source(
        &self,
        name: datafusion::common::TableReference,
    ) -> datafusion::common::Result<Arc<dyn datafusion::logical_expr::TableSource>> {
        datafusion::common::plan_err!("table '{name}' not found")
    }
    fn get_function_meta(&self, _: &str) -> Option<Arc<datafusion::logical_expr::ScalarUDF>> {
        None
    }
    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<datafusion::logical_expr::AggregateUDF>> {
        None
    }
    fn get_window_meta(&self, _: &str) -> Option<Arc<datafusion::logical_expr::WindowUDF>> {
        None
    }
    fn get_higher_order_meta(
        &self,
        _: &str,
    ) -> Option<Arc<datafusion::logical_expr::HigherOrderUDF>> {
        None
    }
    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }
    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(lambic_view::postgres::Types))
    }
    fn options(&self) -> &ConfigOptions {
        &self.0
    }
    fn udf_names(&self) -> Vec<String> {
        Vec::new()
    }
    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }
    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }
    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A column as a statement declares it.
pub struct Declared {
    pub name: String,
    /// Where it stands in the statement.
    pub at: Option<usize>,
    pub data_type: DataType,
    pub nullable: bool,
    pub default: Option<Expr>,
}

pub fn declared(column: &ColumnDef, sql: &str) -> Result<Declared, Error> {
    let name = folded(&column.name);
    let at = find_word(sql, &column.name.value);
    check_column_name(&name, at)?;
    let data_type = data_type(&column.data_type, &name, sql, at)?;
    let (mut nullable, mut default) = (true, None);
    for option in &column.options {
        match &option.option {
            ColumnOption::NotNull => nullable = false,
            ColumnOption::Default(value) => default = Some(value.clone()),
            ColumnOption::Null | ColumnOption::Comment(_) => {}
            other => {
                return Err(Error::new(
                    sqlstate::FEATURE_NOT_SUPPORTED,
                    format!("column option {other} is not supported"),
                )
                .with_position(at)
                .with_hint("WITH (record_id = 'column') makes a column unique"));
            }
        }
    }
    Ok(Declared {
        name,
        at,
        data_type,
        nullable,
        default,
    })
}

/// A name as Postgres folds it.
pub fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

pub fn check_column_name(name: &str, at: Option<usize>) -> Result<(), Error> {
    if name.is_empty() {
        let message = "a column has a name of at least one character";
        return Err(Error::new(sqlstate::INVALID_NAME, message).with_position(at));
    }
    if SystemColumn::is_reserved(name) {
        return Err(Error::new(
            sqlstate::INVALID_NAME,
            format!("every stream has a column {name} already"),
        )
        .with_position(at));
    }
    Ok(())
}

/// The type that column `name` is declared with.
pub fn data_type(
    declared: &SqlType,
    name: &str,
    sql: &str,
    at: Option<usize>,
) -> Result<DataType, Error> {
    if let Some(length) = length_of(declared) {
        return Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            format!("column \"{name}\": texts have no limit of {length} characters here"),
        )
        .with_position(at)
        .with_hint("declare it as text; a view may select what is too long: WHERE length(x) > n"));
    }
    let mut config = ConfigOptions::new();
    config.sql_parser.map_string_types_to_utf8view = false;
    config.execution.time_zone = Some("UTC".to_owned());
    let provider = Types(config);
    let column = ColumnDef {
        name: Ident::with_quote('"', name),
        data_type: declared.clone(),
        options: Vec::new(),
    };
    let planned = SqlToRel::new(&provider)
        .build_schema(vec![column])
        .map_err(|error| Error::from_datafusion(error, sql, &[]).with_position(at))?;
    types::of_declared(planned.field(0).data_type()).ok_or_else(|| {
        let message = format!("a stream cannot hold columns of type {declared}");
        Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message).with_position(at).with_hint(
            "smallint, integer, bigint, real, double precision, numeric(p, s), boolean, text, date, timestamp, \
             timestamptz and bytea are there",
        )
    })
}

/// How long the stream that `CREATE STREAM` declares keeps its records.
pub fn retention(table: &CreateTable, sql: &str) -> Result<Retention, Error> {
    let mut retention = Retention::default();
    for (key, value) in settings(options_of(table), sql, &STREAM_OPTIONS)? {
        retention.set(&key, Some(&value), sql)?;
    }
    Ok(retention)
}

fn options_of(table: &CreateTable) -> &[SqlOption] {
    match &table.table_options {
        CreateTableOptions::With(options) | CreateTableOptions::Options(options) => options,
        _ => &[],
    }
}

/// The stream that `CREATE STREAM` declares, and the default of each of its columns.
pub fn stream(
    table: &CreateTable,
    sql: &str,
    id: StreamId,
) -> Result<(Stream, Vec<Option<Expr>>), Error> {
    let name = name_of(&table.name)?;
    let name = StreamName::new(&name).map_err(|error| {
        Error::new(sqlstate::INVALID_NAME, error.to_string()).with_position(find_word(sql, &name))
    })?;
    if name.as_str().starts_with("lambic_") {
        return Err(Error::new(
            sqlstate::INVALID_NAME,
            "names that start with `lambic_` are the system's own",
        )
        .with_position(find_word(sql, name.as_str())));
    }
    if table.query.is_some() {
        return Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            "CREATE STREAM … AS SELECT is not supported",
        )
        .with_hint("create the stream, then INSERT INTO it … SELECT"));
    }
    if table.columns.is_empty() {
        return Err(
            Error::new(sqlstate::SYNTAX_ERROR, "a stream needs at least one column")
                .with_hint("CREATE STREAM name (column type, …)"),
        );
    }
    if let Some(constraint) = table.constraints.first() {
        return Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            format!("constraint {constraint} is not supported"),
        )
        .with_hint("WITH (record_id = 'column') makes a column unique"));
    }
    let mut columns: Vec<Declared> = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let next = declared(column, sql)?;
        if columns.iter().any(|known| known.name == next.name) {
            return Err(Error::new(
                sqlstate::DUPLICATE_COLUMN,
                format!("column \"{}\" is declared twice", next.name),
            )
            .with_position(next.at));
        }
        columns.push(next);
    }
    let fields = columns.iter().map(|column| {
        let data_type = column.data_type.clone();
        Field::new(&column.name, data_type, column.nullable)
    });
    let fields: Vec<Field> = fields.collect();
    let defaults = columns.into_iter().map(|column| column.default).collect();
    let mut stream = Stream {
        id,
        name,
        schema: Arc::new(Schema::new(fields)),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    };
    for (key, value) in settings(options_of(table), sql, &STREAM_OPTIONS)? {
        match key.as_str() {
            retention::AGE | retention::BYTES => {}
            "event_time" => stream.event_time = Some(column(&stream, &value, sql)?),
            "record_id" => stream.record_id = Some(column(&stream, &value, sql)?),
            "partition_by" => stream.partition_by = Some(column(&stream, &value, sql)?),
            _ => {
                let count = value
                    .parse()
                    .ok()
                    .filter(|count| (1..=PARTITIONS_MAX).contains(count));
                stream.partitions = count.ok_or_else(|| {
                    let message = format!(
                        "partitions must be a number from 1 to {PARTITIONS_MAX}, not '{value}'"
                    );
                    Error::new(sqlstate::INVALID_PARAMETER, message)
                        .with_position(find_word(sql, "partitions"))
                })?;
            }
        }
    }
    if let Some(id) = &stream.record_id {
        // As a primary key's: what says which record it is must be there.
        let fields = stream.schema.fields().iter();
        let fields = fields.map(|field| match field.name() == id {
            true => field.as_ref().clone().with_nullable(false),
            false => field.as_ref().clone(),
        });
        stream.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    }
    if let Some(event_time) = &stream.event_time {
        let field = stream
            .schema
            .field_with_name(event_time)
            .expect("checked above");
        if !matches!(
            field.data_type(),
            DataType::Timestamp(..) | DataType::Date32
        ) {
            let message = format!(
                "event_time column \"{event_time}\" must be a timestamp, not {}",
                types::sql_name(field.data_type())
            );
            return Err(Error::new(sqlstate::DATATYPE_MISMATCH, message)
                .with_position(find_word(sql, event_time)));
        }
    }
    Ok((stream, defaults))
}

/// The length that a type limits its texts to. Appends do not check it, so it must not be promised.
fn length_of(data_type: &SqlType) -> Option<u64> {
    match data_type {
        SqlType::Varchar(Some(CharacterLength::IntegerLength { length, .. }))
        | SqlType::CharacterVarying(Some(CharacterLength::IntegerLength { length, .. }))
        | SqlType::Char(Some(CharacterLength::IntegerLength { length, .. }))
        | SqlType::Character(Some(CharacterLength::IntegerLength { length, .. })) => Some(*length),
        SqlType::Char(None) | SqlType::Character(None) => Some(1),
        _ => None,
    }
}

fn column(stream: &Stream, name: &str, sql: &str) -> Result<String, Error> {
    if stream.schema.field_with_name(name).is_ok() {
        return Ok(name.to_owned());
    }
    let names: Vec<String> = stream
        .schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let missing = Error::new(
        sqlstate::UNDEFINED_COLUMN,
        format!("column \"{name}\" does not exist"),
    )
    .with_position(find_word(sql, name));
    Err(match closest(name, &names) {
        Some(best) => missing.with_hint(format!("did you mean \"{best}\"?")),
        None => missing.with_hint(crate::error::there_are(&names)),
    })
}

/// What `CREATE MATERIALIZED VIEW` declares besides the `SELECT`.
pub struct ViewDeclaration {
    pub name: ViewName,
    pub batch_every: Duration,
    pub batch_memory: Option<u64>,
    pub expects_no_rows: bool,
    pub float_sums: FloatSums,
    pub freshness: Freshness,
    /// With an empty key if none was named.
    pub speed_as: Option<SpeedAs>,
    pub query: String,
}

pub fn view(view: &CreateView, sql: &str) -> Result<ViewDeclaration, Error> {
    let name = name_of(&view.name)?;
    let name = ViewName::new(&name).map_err(|error| {
        Error::new(sqlstate::INVALID_NAME, error.to_string()).with_position(find_word(sql, &name))
    })?;
    if name.as_str().starts_with("lambic_") {
        return Err(Error::new(
            sqlstate::INVALID_NAME,
            "names that start with `lambic_` are the system's own",
        ));
    }
    if !view.columns.is_empty() {
        return Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            "a column list is not supported",
        )
        .with_hint("name the columns in the SELECT: SELECT count(*) AS flights"));
    }
    let options = match &view.options {
        CreateTableOptions::With(options) | CreateTableOptions::Options(options) => {
            options.as_slice()
        }
        _ => &[],
    };
    let mut batch_every = BATCH_EVERY;
    let mut batch_memory = None;
    let mut expects_no_rows = false;
    let mut float_sums = FloatSums::default();
    let mut freshness = None;
    let (mut speed_as, mut speed_key) = (None, None);
    for (key, value) in settings(options, sql, &VIEW_OPTIONS)? {
        match key.as_str() {
            "batch_every" => batch_every = interval(&value, sql)?,
            "batch_memory" => batch_memory = Some(memory(&value, sql)?),
            "expect" => expects_no_rows = expected(&value, sql)?,
            "float_sums" => float_sums = sums(&value, sql)?,
            "speed_as" => speed_as = Some(value.trim().trim_end_matches(';').to_owned()),
            "speed_key" => speed_key = Some(value),
            _ => freshness = Some(freshness_of(&value, sql)?),
        }
    }
    let speed_as = speed(speed_as, speed_key, freshness, sql)?;
    let freshness = match &speed_as {
        // Its rows are those of the last batch, brought up to the head by another way.
        Some(_) => Freshness::Batch,
        None => freshness.unwrap_or_default(),
    };
    if batch_every == NEVER && speed_as.is_some() {
        return Err(Error::new(
            sqlstate::INVALID_PARAMETER,
            "a view with speed_as needs batches: what it serves goes on from the rows of the last one",
        )
        .with_position(find_word(sql, "batch_every"))
        .with_hint("give batch_every a duration"));
    }
    if batch_every == NEVER && freshness == Freshness::Batch {
        return Err(Error::new(
            sqlstate::INVALID_PARAMETER,
            "a view that is served as of its last batch needs batches",
        )
        .with_position(find_word(sql, "batch_every"))
        .with_hint("leave out freshness = 'batch', or give batch_every a duration"));
    }
    Ok(ViewDeclaration {
        name,
        batch_every,
        batch_memory,
        expects_no_rows,
        float_sums,
        freshness,
        speed_as,
        query: select_text(view, sql),
    })
}

/// What `ALTER MATERIALIZED VIEW … AS SELECT …` declares: the `SELECT`, with the options of the `present` version.
pub fn altered(
    view: &CreateView,
    present: &Definition,
    sql: &str,
) -> Result<ViewDeclaration, Error> {
    let name = &present.name;
    if view.options != CreateTableOptions::None {
        return Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            "ALTER MATERIALIZED VIEW … AS keeps the view's options",
        )
        .with_position(find_word(sql, "with"))
        .with_hint(format!(
            "CREATE OR REPLACE MATERIALIZED VIEW {name} WITH (…) AS SELECT … gives it others"
        )));
    }
    if present.speed_as.is_some() {
        // Kept, it would go on from the rows of the new SELECT in the way of the old one.
        return Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            format!("view \"{name}\" has a speed_as, which is written for its present SELECT"),
        )
        .with_position(find_word(sql, name.as_str()))
        .with_hint(format!(
            "write both: CREATE OR REPLACE MATERIALIZED VIEW {name} WITH (speed_as = $$ SELECT … $$, …) AS SELECT …"
        )));
    }
    Ok(ViewDeclaration {
        batch_every: present.batch_every,
        batch_memory: present.batch_memory,
        expects_no_rows: present.expects_no_rows,
        float_sums: present.float_sums,
        freshness: present.freshness,
        ..self::view(view, sql)?
    })
}

fn speed(
    select: Option<String>,
    key: Option<String>,
    freshness: Option<Freshness>,
    sql: &str,
) -> Result<Option<SpeedAs>, Error> {
    let wrong = |option: &str, message: &str| {
        Error::new(sqlstate::INVALID_PARAMETER, message).with_position(find_word(sql, option))
    };
    match (select, key, freshness) {
        (None, None, _) => Ok(None),
        (None, Some(_), _) => Err(wrong(
            "speed_key",
            "speed_key tells rows apart where speed_as is approximate, and there is no speed_as",
        )),
        (Some(_), _, Some(_)) => Err(wrong(
            "freshness",
            "speed_as and freshness exclude each other: a view with speed_as is served up to the head, approximately",
        )
        .with_hint("leave one of them out")),
        (Some(select), key, None) => {
            let key = key.unwrap_or_default();
            let names = key.split(',').map(str::trim).filter(|name| !name.is_empty());
            Ok(Some(SpeedAs {
                sql: select,
                key: names.map(str::to_owned).collect(),
            }))
        }
    }
}

fn interval(value: &str, sql: &str) -> Result<Duration, Error> {
    if value.eq_ignore_ascii_case("never") {
        return Ok(NEVER);
    }
    let parsed = humantime::parse_duration(value).ok();
    let parsed = parsed.filter(|every| *every >= BATCH_EVERY_MIN);
    parsed.ok_or_else(|| {
        Error::new(
            sqlstate::INVALID_PARAMETER,
            format!("batch_every must be a duration of at least 1s or 'never', not '{value}'"),
        )
        .with_position(find_word(sql, "batch_every"))
        .with_hint("for example '30s', '15m', '1h' or '1day'")
    })
}

fn memory(value: &str, sql: &str) -> Result<u64, Error> {
    let bytes = lambic_base::bytes::parse(value).filter(|bytes| *bytes >= BATCH_MEMORY_MIN);
    bytes.ok_or_else(|| {
        Error::new(
            sqlstate::INVALID_PARAMETER,
            format!("batch_memory must be a size of at least 1MiB, not '{value}'"),
        )
        .with_position(find_word(sql, "batch_memory"))
        .with_hint(
            "for example '64MB' or '2GiB'; without it the server's setting batch.memory holds",
        )
    })
}

fn expected(value: &str, sql: &str) -> Result<bool, Error> {
    if value.eq_ignore_ascii_case("no rows") {
        return Ok(true);
    }
    Err(Error::new(
        sqlstate::INVALID_PARAMETER,
        format!("expect must be 'no rows', not '{value}'"),
    )
    .with_position(find_word(sql, "expect"))
    .with_hint(
        "let the view select what must not be: every row of it is a mistake that its audit tells",
    ))
}

fn sums(value: &str, sql: &str) -> Result<FloatSums, Error> {
    match value {
        "exact" => Ok(FloatSums::Exact),
        "fast" => Ok(FloatSums::Fast),
        other => Err(Error::new(
            sqlstate::INVALID_PARAMETER,
            format!("float_sums must be 'exact' or 'fast', not '{other}'"),
        )
        .with_position(find_word(sql, "float_sums"))
        .with_hint("'exact' gives the same bits whatever the order; 'fast' is faster, and its last digits depend on it")),
    }
}

fn freshness_of(value: &str, sql: &str) -> Result<Freshness, Error> {
    let known = [Freshness::Now, Freshness::Batch];
    let found = known
        .into_iter()
        .find(|known| known.name() == value.to_ascii_lowercase());
    found.ok_or_else(|| {
        Error::new(
            sqlstate::INVALID_PARAMETER,
            format!("freshness must be 'now' or 'batch', not '{value}'"),
        )
        .with_position(find_word(sql, "freshness"))
        .with_hint("'now' serves every acknowledged record, 'batch' the rows of the last batch until the next one")
    })
}

/// The user's own text of the `SELECT`, so that positions and formatting stay theirs.
fn select_text(view: &CreateView, sql: &str) -> String {
    let tokens = tokens(sql);
    let is = |token: &Range<usize>, word: &str| sql[token.clone()].eq_ignore_ascii_case(word);
    // It starts after the first AS that is followed by one; WITH (…) options come before it.
    let starts = tokens.windows(2).find(|pair| {
        is(&pair[0], "as")
            && ["select", "with", "("]
                .iter()
                .any(|word| is(&pair[1], word))
    });
    match (starts, tokens.last()) {
        (Some(pair), Some(last)) => sql[pair[1].start..last.end].to_owned(),
        _ => view.query.to_string(),
    }
}

/// `WITH (key = 'value')` as pairs; keys must be among `known`.
pub fn settings(
    options: &[SqlOption],
    sql: &str,
    known: &[&str],
) -> Result<Vec<(String, String)>, Error> {
    let mut settings = Vec::new();
    for option in options {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                format!("option {option} is not understood"),
            )
            .with_hint(format!("options are: {}", known.join(", "))));
        };
        let name = key.value.to_ascii_lowercase();
        if !known.contains(&name.as_str()) {
            let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
            let unknown = Error::new(
                sqlstate::INVALID_PARAMETER,
                format!("there is no option \"{name}\""),
            )
            .with_position(find_word(sql, &key.value));
            return Err(match closest(&name, &names) {
                Some(best) => unknown.with_hint(format!("did you mean \"{best}\"?")),
                None => unknown.with_hint(format!("options are: {}", known.join(", "))),
            });
        }
        let text = match value {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => text.clone(),
                Value::DollarQuotedString(text) => text.value.clone(),
                Value::Number(number, _) => number.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        };
        settings.push((name, text));
    }
    Ok(settings)
}
