//! A stream's `CREATE STREAM` that was edited: what of it can be carried out on the stream that is there.

use std::sync::Arc;

use lambic_model::{Column, Stream};

use super::{Database, exists};
use crate::{
    Catalog, Error, Session, create,
    error::{find_word, undefined_table},
    evolve::Change,
    sqlstate,
    statement::{self, Statement},
    types,
};

impl Database {
    /// Gives a stream that there is the columns that `sql`, a `CREATE STREAM` of it, declares: adds columns, widens
    /// types, sets defaults and `NOT NULL`. Returns what was changed, nothing if only the text is another. A column
    /// that is gone from the text is an error: nothing tells whether it was renamed or is to be dropped.
    pub async fn evolve_stream(&self, sql: &str) -> Result<Vec<String>, Error> {
        let parsed = statement::parse(&Session::default(), sql)?;
        let [parsed] = parsed.as_slice() else {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                "one CREATE STREAM is expected",
            ));
        };
        let Statement::CreateStream(table) = &parsed.statement else {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                "CREATE STREAM is expected",
            ));
        };
        let name = statement::name_of(&table.name)?;
        let id = self.stream(&name).map(|stream| stream.id);
        let id = id.unwrap_or_else(|| self.0.sources.catalog().next_stream());
        let (wanted, defaults) = create::stream(table, sql, id)?;
        let wanted = self.with_defaults(wanted, &defaults, sql).await?;
        let (database, sql) = (self.clone(), sql.to_owned());
        Database::to_the_end(async move {
            let _one = database.0.changing.lock().await;
            let Some(stream) = database.stream(&name) else {
                return Err(undefined_table(&name, &sql, &database.names()));
            };
            if Catalog::is_system(&stream) {
                return Err(exists(&name, &sql));
            }
            let (changes, told) = difference(&stream, &wanted, &sql)?;
            database.change_columns(&stream, &changes, &sql).await?;
            Ok(told)
        })
        .await
    }
}

/// What makes `stream` what is wanted, and in words.
fn difference(
    stream: &Arc<Stream>,
    wanted: &Stream,
    sql: &str,
) -> Result<(Vec<Change>, Vec<String>), Error> {
    check_options(stream, wanted, sql)?;
    let (there, wanted) = (stream.columns(), wanted.columns());
    let lacks = |columns: &[Column], name: &str| columns.iter().all(|known| known.name != name);
    if let Some(gone) = there.iter().find(|column| lacks(&wanted, &column.name)) {
        return Err(is_gone(stream, gone, &there, &wanted, sql));
    }
    let (mut changes, mut told) = (Vec::new(), Vec::new());
    for now in &wanted {
        let name = now.name.clone();
        let value = |column: &Column| {
            column
                .default
                .as_ref()
                .map(|value| Arc::clone(value.value()))
        };
        let Some(then) = there.iter().find(|column| column.name == now.name) else {
            told.push(format!("column {name} added"));
            changes.push(Change::Add {
                name,
                data_type: now.data_type.clone(),
                nullable: now.nullable,
                default: value(now),
                if_not_exists: false,
            });
            continue;
        };
        if then.data_type != now.data_type {
            told.push(format!(
                "column {name} is {} now",
                types::sql_name(&now.data_type)
            ));
            changes.push(Change::Type {
                name: name.clone(),
                data_type: now.data_type.clone(),
            });
        }
        let default = then
            .default
            .as_ref()
            .and_then(|value| value.cast(&now.data_type));
        if default != now.default {
            told.push(match &now.default {
                Some(value) => format!("column {name} has the default {}", value.text()),
                None => format!("column {name} has no default any more"),
            });
            changes.push(Change::Default {
                name: name.clone(),
                value: value(now),
            });
        }
        if then.nullable != now.nullable {
            told.push(match now.nullable {
                true => format!("column {name} may be NULL"),
                false => format!("column {name} is NOT NULL now"),
            });
            changes.push(Change::Nullable {
                name,
                nullable: now.nullable,
            });
        }
    }
    Ok((changes, told))
}

fn check_options(stream: &Stream, wanted: &Stream, sql: &str) -> Result<(), Error> {
    let differs = [
        ("partitions", stream.partitions != wanted.partitions),
        ("event_time", stream.event_time != wanted.event_time),
        ("record_id", stream.record_id != wanted.record_id),
        ("partition_by", stream.partition_by != wanted.partition_by),
    ];
    let Some((option, _)) = differs.into_iter().find(|(_, differs)| *differs) else {
        return Ok(());
    };
    let message = format!(
        "stream {} exists with another {option}, and what was appended does not change",
        stream.name
    );
    let at = find_word(sql, option).or_else(|| find_word(sql, stream.name.as_str()));
    Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
        .with_position(at)
        .with_hint("give the new stream another name, or drop this one with its records: lambic stream drop"))
}

fn is_gone(
    stream: &Stream,
    gone: &Column,
    there: &[Column],
    wanted: &[Column],
    sql: &str,
) -> Error {
    let (name, column) = (&stream.name, &gone.name);
    let new = wanted.iter().find(|now| {
        now.data_type == gone.data_type && there.iter().all(|then| then.name != now.name)
    });
    let rename = match new {
        Some(new) => format!(
            "if it is called {} now: ALTER STREAM {name} RENAME COLUMN {column} TO {}; ",
            new.name, new.name
        ),
        None => String::new(),
    };
    let message = format!(
        "stream {name} has a column {column}, which is not declared any more; what was appended does not change by itself"
    );
    Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
        .with_position(find_word(sql, name.as_str()))
        .with_hint(format!(
            "{rename}if it is to go: ALTER STREAM {name} DROP COLUMN {column}; or declare it again"
        ))
}
