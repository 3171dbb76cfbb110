//! What `ALTER STREAM` makes of a stream's columns; pure.
//!
//! Nothing that is at rest changes, so only such changes are taken as every record can follow: none loses a value.

use std::collections::BTreeSet;

use arrow::{
    array::{Array, ArrayRef},
    compute::{CastOptions, cast_with_options},
    datatypes::DataType,
};
use lambic_model::{Column, ColumnId, Constant, Stream};

use crate::{Error, closest, error::find_word, sqlstate, types};

/// One change of a column. Values are those of constant expressions, one row each.
#[derive(Debug, Clone)]
pub enum Change {
    Add {
        name: String,
        data_type: DataType,
        nullable: bool,
        default: Option<ArrayRef>,
        if_not_exists: bool,
    },
    Rename {
        from: String,
        to: String,
    },
    Drop {
        name: String,
        if_exists: bool,
    },
    Type {
        name: String,
        data_type: DataType,
    },
    /// `None`: no default any more.
    Default {
        name: String,
        value: Option<ArrayRef>,
    },
    Nullable {
        name: String,
        nullable: bool,
    },
}

/// A stream after its changes, and what has to be seen to before they take effect.
#[derive(Debug)]
pub struct Evolved {
    pub stream: Stream,
    /// Columns that may not be NULL any more: no record may have one.
    pub not_null: Vec<ColumnId>,
    /// Columns without a default that may not be NULL: there may be no records.
    pub without_value: Vec<String>,
    /// By their former names.
    pub dropped: Vec<String>,
    /// Columns in another type.
    pub widened: BTreeSet<ColumnId>,
    /// Columns that may be NULL from now on.
    pub loosened: BTreeSet<ColumnId>,
}

/// `None` if the changes change nothing.
pub fn evolve(stream: &Stream, changes: &[Change], sql: &str) -> Result<Option<Evolved>, Error> {
    let before = stream.columns();
    let mut columns = before.clone();
    let mut next = stream.next_column().0;
    for change in changes {
        match change {
            Change::Add {
                name,
                data_type,
                nullable,
                default,
                if_not_exists,
            } => {
                if columns.iter().any(|column| column.name == *name) {
                    if *if_not_exists {
                        continue;
                    }
                    return Err(taken(stream, name, sql));
                }
                let default = constant(default.as_ref(), data_type, name, sql)?;
                columns.push(Column {
                    id: ColumnId(next),
                    name: name.clone(),
                    data_type: data_type.clone(),
                    nullable: *nullable,
                    missing: default.clone(),
                    default,
                });
                next += 1;
            }
            Change::Rename { from, to } => {
                let index = position(&columns, stream, from, sql)?;
                if from != to && columns.iter().any(|column| column.name == *to) {
                    return Err(taken(stream, to, sql));
                }
                columns[index].name = to.clone();
            }
            Change::Drop { name, if_exists } => {
                let index = match position(&columns, stream, name, sql) {
                    Err(_) if *if_exists => continue,
                    found => found?,
                };
                check_no_key(stream, &before, columns[index].id, sql, name, "dropped")?;
                columns.remove(index);
            }
            Change::Type { name, data_type } => {
                let index = position(&columns, stream, name, sql)?;
                let column = &mut columns[index];
                if column.data_type == *data_type {
                    continue;
                }
                if !widens(&column.data_type, data_type) {
                    return Err(narrower(column, data_type, sql));
                }
                check_no_key(stream, &before, column.id, sql, name, "given another type")?;
                let cast = |value: &Option<Constant>| value.as_ref()?.cast(data_type);
                (column.missing, column.default) = (cast(&column.missing), cast(&column.default));
                column.data_type = data_type.clone();
            }
            Change::Default { name, value } => {
                let index = position(&columns, stream, name, sql)?;
                let data_type = columns[index].data_type.clone();
                columns[index].default = constant(value.as_ref(), &data_type, name, sql)?;
            }
            Change::Nullable { name, nullable } => {
                let index = position(&columns, stream, name, sql)?;
                let is_record_id = key(stream, &before, columns[index].id, &stream.record_id);
                if *nullable && is_record_id {
                    return Err(Error::new(
                        "42P16",
                        format!("column \"{name}\" is the record id: it tells which record one is, and cannot be NULL"),
                    )
                    .with_position(find_word(sql, name)));
                }
                columns[index].nullable = *nullable;
            }
        }
    }
    if columns == before {
        return Ok(None);
    }
    if columns.is_empty() {
        return Err(Error::new(
            "42P16",
            format!("stream \"{}\" would be left without columns", stream.name),
        )
        .with_hint(format!(
            "keep one, or DROP STREAM {} with its records",
            stream.name
        )));
    }
    Ok(Some(compared(stream, &before, columns)))
}

fn compared(stream: &Stream, before: &[Column], columns: Vec<Column>) -> Evolved {
    let former = |id: ColumnId| before.iter().find(|column| column.id == id);
    let kept = || {
        columns
            .iter()
            .filter_map(|now| Some((former(now.id)?, now)))
    };
    let ids = |chosen: fn(&Column, &Column) -> bool| {
        kept()
            .filter(|(then, now)| chosen(then, now))
            .map(|(_, now)| now.id)
            .collect::<BTreeSet<ColumnId>>()
    };
    let gone = before
        .iter()
        .filter(|then| columns.iter().all(|now| now.id != then.id));
    let new = columns.iter().filter(|now| former(now.id).is_none());
    Evolved {
        not_null: ids(|then, now| then.nullable && !now.nullable)
            .into_iter()
            .collect(),
        without_value: new
            .filter(|column| !column.nullable && column.default.is_none())
            .map(|column| column.name.clone())
            .collect(),
        dropped: gone.map(|column| column.name.clone()).collect(),
        widened: ids(|then, now| then.data_type != now.data_type),
        loosened: ids(|then, now| !then.nullable && now.nullable),
        stream: stream.evolved(columns),
    }
}

fn position(columns: &[Column], stream: &Stream, name: &str, sql: &str) -> Result<usize, Error> {
    if let Some(index) = columns.iter().position(|column| column.name == name) {
        return Ok(index);
    }
    let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
    let missing = Error::new(
        sqlstate::UNDEFINED_COLUMN,
        format!(
            "column \"{name}\" of stream \"{}\" does not exist",
            stream.name
        ),
    )
    .with_position(find_word(sql, name));
    Err(match closest(name, &names) {
        Some(best) => missing.with_hint(format!("did you mean \"{best}\"?")),
        None => missing.with_hint(crate::error::there_are(&names)),
    })
}

fn taken(stream: &Stream, name: &str, sql: &str) -> Error {
    Error::new(
        sqlstate::DUPLICATE_COLUMN,
        format!(
            "column \"{name}\" of stream \"{}\" exists already",
            stream.name
        ),
    )
    .with_position(find_word(sql, name))
}

/// True if the column is the one that `option` of the stream names.
fn key(_stream: &Stream, before: &[Column], id: ColumnId, option: &Option<String>) -> bool {
    let column = before.iter().find(|column| column.id == id);
    column.is_some_and(|column| option.as_ref() == Some(&column.name))
}

fn check_no_key(
    stream: &Stream,
    before: &[Column],
    id: ColumnId,
    sql: &str,
    name: &str,
    what: &str,
) -> Result<(), Error> {
    let mut keys = vec![
        ("record id", &stream.record_id),
        ("partition key", &stream.partition_by),
    ];
    // A time in a wider type is the same time.
    if what == "dropped" {
        keys.push(("event time", &stream.event_time));
    }
    let Some((role, _)) = keys
        .into_iter()
        .find(|(_, option)| key(stream, before, id, option))
    else {
        return Ok(());
    };
    let message = format!(
        "column \"{name}\" cannot be {what}: it is the {role} of stream \"{}\"",
        stream.name
    );
    Err(Error::new(sqlstate::DEPENDENT_OBJECTS, message)
        .with_position(find_word(sql, name))
        .with_hint(format!(
            "a stream keeps its {role}; create another stream, then INSERT INTO it SELECT … FROM {}",
            stream.name
        )))
}

fn narrower(column: &Column, data_type: &DataType, sql: &str) -> Error {
    let (from, to) = (
        types::sql_name(&column.data_type),
        types::sql_name(data_type),
    );
    let name = &column.name;
    Error::new(
        sqlstate::DATATYPE_MISMATCH,
        format!(
            "column \"{name}\" cannot become {to}: not every {from} has a value of that type, and no record may lose its own"
        ),
    )
    .with_position(find_word(sql, name))
    .with_hint(format!(
        "{}; for another type add a column, and let a view select coalesce(new_column, {name}::{to})",
        wider_types(&column.data_type)
    ))
}

fn wider_types(from: &DataType) -> String {
    let wider = match from {
        DataType::Int16 => {
            "smallint may become integer, bigint, real, double precision, or numeric with 5 digits before the point"
        }
        DataType::Int32 => {
            "integer may become bigint, double precision, or numeric with 10 digits before the point"
        }
        DataType::Int64 => "bigint may become numeric with 19 digits before the point",
        DataType::Float32 => "real may become double precision",
        DataType::Decimal128(..) => {
            "numeric may get more digits, as long as none before or behind the point are lost"
        }
        DataType::Date32 => "date may become timestamp",
        other => return format!("{} has no wider type", types::sql_name(other)),
    };
    wider.to_owned()
}

/// True if every value of `from` has one and the same value in `to`.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Decimal128, Float32, Float64, Int16, Int32, Int64, Timestamp};
    let digits = |precision: u8, scale: i8| i16::from(precision) - i16::from(scale);
    match (from, to) {
        (Int16, Int32 | Int64 | Float32 | Float64) | (Int32, Int64 | Float64) => true,
        (Float32, Float64) => true,
        (Int16, Decimal128(precision, scale)) => digits(*precision, *scale) >= 5,
        (Int32, Decimal128(precision, scale)) => digits(*precision, *scale) >= 10,
        (Int64, Decimal128(precision, scale)) => digits(*precision, *scale) >= 19,
        (Decimal128(precision, scale), Decimal128(wider, finer)) => {
            finer >= scale && digits(*wider, *finer) >= digits(*precision, *scale)
        }
        (Date32, Timestamp(_, zone)) => zone.is_none(),
        _ => false,
    }
}

/// The value of a constant expression as the column has it; `None` if that is NULL.
pub fn constant(
    value: Option<&ArrayRef>,
    data_type: &DataType,
    name: &str,
    sql: &str,
) -> Result<Option<Constant>, Error> {
    // An untyped NULL has no bitmap that says so.
    let value = value.filter(|value| value.is_valid(0) && !value.data_type().is_null());
    let Some(value) = value else {
        return Ok(None);
    };
    let wrong = |why: String| {
        Error::new(
            sqlstate::DATATYPE_MISMATCH,
            format!(
                "the default of column \"{name}\" is no {}: {why}",
                types::sql_name(data_type)
            ),
        )
        .with_position(find_word(sql, "default"))
    };
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let cast = cast_with_options(value, data_type, &strict);
    let cast = cast.map_err(|error| wrong(error.to_string()))?;
    let rounds = matches!(
        data_type,
        DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Decimal128(..)
            | DataType::Date32
    );
    if rounds && !matches!(value.data_type(), DataType::Utf8 | DataType::Utf8View) {
        let back = cast_with_options(&cast, value.data_type(), &strict);
        if back.ok().as_ref() != Some(value) {
            let shown = arrow::util::display::array_value_to_string(value, 0).unwrap_or_default();
            return Err(wrong(format!("{shown} would be rounded")));
        }
    }
    Ok(Constant::new(cast))
}
