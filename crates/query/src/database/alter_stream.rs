//! `ALTER STREAM`: a stream gets other columns, and records, views and producers follow.
//!
//! What is at rest stays as it is. The order is the law: views that could not read what comes are planned anew
//! first; then no append is in flight, the catalog says it on disk, views, dataset and log are told, and appends go
//! on. A kill before the catalog was written leaves all as it was.

use std::{collections::BTreeSet, sync::Arc, sync::atomic::Ordering};

use datafusion::{
    logical_expr::{Expr, lit},
    prelude::ident,
    sql::sqlparser::ast::{
        AlterColumnOperation, AlterTable, AlterTableOperation, DropBehavior, Ident,
    },
};
use lambic_model::{ColumnId, Frontier, Stream, SystemColumn};
use lambic_serving::Served;
use lambic_view::{Definition, Planned, ViewSource};

use super::{Database, building::Reserved, done};
use crate::{
    BuiltView, Catalog, Error, Outcome, create,
    error::{find_word, undefined_table},
    evolve::{Change, Evolved, evolve},
    pinned::Pinned,
    sqlstate,
    statement::name_of,
};

/// A view that was planned anew for the stream's columns.
struct Follower {
    definition: Definition,
    /// The version that it takes the place of, if its states could not be kept.
    former: Option<Definition>,
    built: Box<dyn BuiltView>,
    /// Nobody makes another version of it meanwhile.
    _reserved: Reserved,
}

impl Database {
    pub(super) async fn alter_stream(
        &self,
        alter: &AlterTable,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let name = name_of(&alter.name)?;
        let changes = self.changes(&alter.operations, &name, sql).await?;
        let _one = self.0.changing.lock().await;
        if let Some(stream) = self.alterable(&name, alter.if_exists, sql)? {
            self.change_columns(&stream, &changes, sql).await?;
        }
        Ok(done("ALTER STREAM"))
    }

    /// `None` if there is no such stream and that is fine.
    fn alterable(
        &self,
        name: &str,
        if_exists: bool,
        sql: &str,
    ) -> Result<Option<Arc<Stream>>, Error> {
        let at = find_word(sql, name);
        match self.stream(name) {
            Some(stream) if Catalog::is_system(&stream) => Err(Error::new(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("\"{name}\" is the system's own"),
            )
            .with_position(at)),
            Some(stream) => Ok(Some(stream)),
            None if self.0.sources.catalog().view(name).is_some() => Err(Error::new(
                sqlstate::WRONG_OBJECT_TYPE,
                format!("\"{name}\" is a view"),
            )
            .with_position(at)
            .with_hint("CREATE OR REPLACE MATERIALIZED VIEW makes a new version of it")),
            None if if_exists => Ok(None),
            None => Err(undefined_table(name, sql, &self.names())),
        }
    }

    /// What the statement asks for, with the values of its defaults.
    async fn changes(
        &self,
        operations: &[AlterTableOperation],
        stream: &str,
        sql: &str,
    ) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for operation in operations {
            match operation {
                AlterTableOperation::AddColumn {
                    if_not_exists,
                    column_def,
                    ..
                } => {
                    let declared = create::declared(column_def, sql)?;
                    let default = match &declared.default {
                        Some(value) => Some(self.constant(value, sql).await?),
                        None => None,
                    };
                    changes.push(Change::Add {
                        name: declared.name,
                        data_type: declared.data_type,
                        nullable: declared.nullable,
                        default,
                        if_not_exists: *if_not_exists,
                    });
                }
                AlterTableOperation::RenameColumn {
                    old_column_name,
                    new_column_name,
                } => {
                    let to = create::folded(new_column_name);
                    create::check_column_name(&to, find_word(sql, &new_column_name.value))?;
                    changes.push(Change::Rename {
                        from: column(old_column_name, sql)?,
                        to,
                    });
                }
                AlterTableOperation::DropColumn {
                    column_names,
                    if_exists,
                    drop_behavior,
                    ..
                } => {
                    if *drop_behavior == Some(DropBehavior::Cascade) {
                        return Err(unsupported("DROP COLUMN … CASCADE is not supported", sql)
                            .with_position(find_word(sql, "cascade"))
                            .with_hint("create the views that use the column anew without it, or drop them first"));
                    }
                    for name in column_names {
                        changes.push(Change::Drop {
                            name: column(name, sql)?,
                            if_exists: *if_exists,
                        });
                    }
                }
                AlterTableOperation::AlterColumn { column_name, op } => {
                    let name = column(column_name, sql)?;
                    changes.push(self.column_change(name, op, sql).await?);
                }
                AlterTableOperation::RenameTable { .. } => {
                    return Err(unsupported("a stream keeps its name", sql).with_hint(format!(
                        "its files, views and triggers know it by that; create another stream, then INSERT INTO it SELECT … FROM {stream}"
                    )));
                }
                AlterTableOperation::AddConstraint { constraint, .. } => {
                    return Err(unsupported(&format!("constraint {constraint} is not supported"), sql)
                        .with_hint("ALTER COLUMN name SET NOT NULL is there; a record id is chosen when the stream is created"));
                }
                other => {
                    return Err(
                        unsupported(&format!("{other} is not supported"), sql).with_hint(SUPPORTED)
                    );
                }
            }
        }
        Ok(changes)
    }

    async fn column_change(
        &self,
        name: String,
        operation: &AlterColumnOperation,
        sql: &str,
    ) -> Result<Change, Error> {
        Ok(match operation {
            AlterColumnOperation::SetNotNull => Change::Nullable {
                name,
                nullable: false,
            },
            AlterColumnOperation::DropNotNull => Change::Nullable {
                name,
                nullable: true,
            },
            AlterColumnOperation::SetDefault { value } => Change::Default {
                name,
                value: Some(self.constant(value, sql).await?),
            },
            AlterColumnOperation::DropDefault => Change::Default { name, value: None },
            AlterColumnOperation::SetDataType { using: Some(_), .. } => {
                return Err(
                    unsupported("USING is not supported: records keep their values", sql)
                        .with_position(find_word(sql, "using"))
                        .with_hint(
                            "add a column, and let a view compute what older records show in it",
                        ),
                );
            }
            AlterColumnOperation::SetDataType { data_type, .. } => {
                let at = find_word(sql, &name);
                let data_type = create::data_type(data_type, &name, sql, at)?;
                Change::Type { name, data_type }
            }
            other => {
                return Err(
                    unsupported(&format!("{other} is not supported"), sql).with_hint(SUPPORTED)
                );
            }
        })
    }

    /// Whoever calls it holds `changing`. True if the columns are others by now.
    pub(super) async fn change_columns(
        &self,
        stream: &Arc<Stream>,
        changes: &[Change],
        sql: &str,
    ) -> Result<bool, Error> {
        let Some(mut evolved) = evolve(stream, changes, sql)? else {
            return Ok(false);
        };
        self.0.building.check_stream(stream)?;
        let lifecycle = self.lifecycle()?;
        self.check_dropped(stream, &evolved, sql).await?;
        let frontier = Frontier::zero(stream.partitions);
        let seen = self.check_values(stream, &evolved, &frontier, sql).await?;
        let now = Arc::new(std::mem::replace(
            &mut evolved.stream,
            stream.as_ref().clone(),
        ));
        let followers = self.followers(stream, &now, &evolved, sql).await?;
        let held = lifecycle.hold_appends().await;
        self.check_values(stream, &evolved, &seen, sql).await?;
        let replaced = followers.iter().filter(|view| view.former.is_some());
        let versions: Vec<Definition> = replaced.map(|view| view.definition.clone()).collect();
        self.change(|catalog| catalog.alter_stream(Arc::clone(&now), &versions))?;
        let mut outdated = Vec::new();
        for follower in followers {
            follower.built.serve();
            outdated.extend(follower.former);
        }
        held.change_stream(now);
        // Pins that were being taken look again.
        self.0.sources.altered.fetch_add(1, Ordering::SeqCst);
        drop(held);
        for version in outdated {
            lifecycle.drop_view(&version).await?;
        }
        Ok(true)
    }

    /// No view that is served may use a column that is dropped.
    async fn check_dropped(
        &self,
        stream: &Arc<Stream>,
        evolved: &Evolved,
        sql: &str,
    ) -> Result<(), Error> {
        let columns = stream.columns().into_iter();
        let dropped: Vec<_> = columns
            .filter(|column| evolved.dropped.contains(&column.name))
            .collect();
        if dropped.is_empty() {
            return Ok(());
        }
        let views = self.0.sources.serving.views();
        let mut users = Vec::new();
        let mut used: Option<String> = None;
        for view in views.values() {
            let ids: BTreeSet<ColumnId> = dropped.iter().map(|column| column.id).collect();
            let planned = view.planned();
            let taken = self.columns_of(view.definition(), &planned, stream).await?;
            let first = taken.intersection(&ids).next().copied();
            if let Some(first) = first {
                users.push(format!("view {}", view.definition().name));
                let name = dropped.iter().find(|column| column.id == first);
                used = used.or(name.map(|column| column.name.clone()));
            }
        }
        let broken = self.0.sources.broken();
        for (name, _) in broken.iter() {
            let catalog = self.0.sources.catalog();
            if let Some(view) = catalog.view(name)
                && find_word(&view.sql, stream.name.as_str()).is_some()
            {
                users.push(format!("view {name}, which cannot be served"));
            }
        }
        if users.is_empty() {
            return Ok(());
        }
        let name = used.unwrap_or_else(|| dropped[0].name.clone());
        let depend = if users.len() == 1 {
            "depends"
        } else {
            "depend"
        };
        let message = format!(
            "column \"{name}\" of stream \"{}\" cannot be dropped: {} {depend} on it",
            stream.name,
            users.join(", ")
        );
        Err(Error::new(sqlstate::DEPENDENT_OBJECTS, message)
            .with_position(find_word(sql, &name))
            .with_hint("CREATE OR REPLACE MATERIALIZED VIEW makes a version without it; or drop the view first"))
    }

    /// The ids of the columns of `stream` that a view uses.
    pub(super) async fn columns_of(
        &self,
        definition: &Definition,
        planned: &Planned,
        stream: &Arc<Stream>,
    ) -> Result<BTreeSet<ColumnId>, Error> {
        if !planned.reads(stream.id) {
            return Ok(BTreeSet::new());
        }
        let views = self.view_sources();
        let state = self.0.context.state();
        let names = planned.columns_read(stream.id, &views, &state).await;
        let names = names.map_err(|error| self.view_error(error, &definition.sql))?;
        let columns = definition.stream(stream).columns().into_iter();
        let used = columns.filter(|column| names.contains(&column.name));
        Ok(used.map(|column| column.id).collect())
    }

    /// A view that is served again must find the columns that it uses.
    pub(super) async fn check_columns_there(
        &self,
        definition: &Definition,
        planned: &Planned,
    ) -> Result<(), Error> {
        for stream in self.streams() {
            let used = self.columns_of(definition, planned, &stream).await?;
            let there = stream.columns();
            let gone = definition
                .stream(&stream)
                .columns()
                .into_iter()
                .find(|column| {
                    used.contains(&column.id) && there.iter().all(|now| now.id != column.id)
                });
            if let Some(gone) = gone {
                let message = format!(
                    "version {} of view \"{}\" uses column \"{}\" of stream \"{}\", which was dropped",
                    definition.version, definition.name, gone.name, stream.name
                );
                return Err(Error::new(sqlstate::UNDEFINED_COLUMN, message).with_hint(
                    "CREATE OR REPLACE MATERIALIZED VIEW makes a version over the columns of today",
                ));
            }
        }
        Ok(())
    }

    /// No record from `since` on may be without a value that has to be there; returns up to where it was looked.
    async fn check_values(
        &self,
        stream: &Arc<Stream>,
        evolved: &Evolved,
        since: &Frontier,
        sql: &str,
    ) -> Result<Frontier, Error> {
        let pinned = Pinned::take(&self.0.sources);
        let head = pinned.heads().of(stream.id);
        let no_value = |name: &str| {
            Error::new(
                sqlstate::NOT_NULL_VIOLATION,
                format!(
                    "column \"{name}\" of stream \"{}\" contains null values",
                    stream.name
                ),
            )
            .with_position(find_word(sql, name))
        };
        if let Some(name) = evolved.without_value.first()
            && self.records(stream) > 0
        {
            return Err(no_value(name).with_hint(
                "the records that are there have no value in a new column; give it a DEFAULT, or leave NOT NULL out",
            ));
        }
        for id in &evolved.not_null {
            let columns = stream.columns();
            let Some(column) = columns.iter().find(|column| column.id == *id) else {
                continue;
            };
            let wrong = |error| Error::from_datafusion(error, sql, &[]);
            let new = (0u32..).zip(&since.0).filter(|(_, offset)| offset.0 > 0);
            let later = new.map(|(partition, offset)| {
                let elsewhere =
                    ident(SystemColumn::Partition.name()).not_eq(lit(partition.cast_signed()));
                let offset = lit(offset.0.cast_signed());
                elsewhere.or(ident(SystemColumn::Offset.name()).gt_eq(offset))
            });
            let is_null: Expr = ident(&column.name).is_null();
            let condition = later.fold(is_null, |all, one| all.and(one));
            let table = pinned.stream(stream).map_err(wrong)?;
            let found = self.0.context.read_table(table);
            let found = found.and_then(|table| table.filter(condition)?.limit(0, Some(1)));
            let found = found.map_err(wrong)?.collect().await.map_err(wrong)?;
            if found.iter().any(|batch| batch.num_rows() > 0) {
                let name = column.name.as_str();
                let found = match self.after_changes(evolved, *id) {
                    Some(now) if now != name => no_value(&now),
                    _ => no_value(name),
                };
                return Err(found.with_hint(format!(
                    "records do not change; ERASE FROM {} WHERE {name} IS NULL takes those out for ever, or a view may leave them out",
                    stream.name
                )));
            }
        }
        Ok(head)
    }

    fn after_changes(&self, evolved: &Evolved, id: ColumnId) -> Option<String> {
        let columns = evolved.stream.columns();
        let column = columns.into_iter().find(|column| column.id == id)?;
        Some(column.name)
    }

    /// The views that could not read what `now` takes, planned anew: those that use a column in another type as new
    /// versions, made from the first record on; the others with the states that they have.
    async fn followers(
        &self,
        before: &Arc<Stream>,
        now: &Arc<Stream>,
        evolved: &Evolved,
        sql: &str,
    ) -> Result<Vec<Follower>, Error> {
        if evolved.widened.is_empty() && evolved.loosened.is_empty() {
            return Ok(Vec::new());
        }
        let lifecycle = self.lifecycle()?;
        let cannot = |name: &str, reason: &str| {
            let message = format!(
                "the columns of stream \"{}\" cannot be changed so: view {name} could not follow: {reason}",
                before.name
            );
            Error::new(sqlstate::DEPENDENT_OBJECTS, message)
                .with_position(find_word(sql, before.name.as_str()))
                .with_hint("CREATE OR REPLACE MATERIALIZED VIEW makes a version that can; or drop the view first")
        };
        let broken = self.0.sources.broken();
        let catalog = self.0.sources.catalog().clone();
        for (name, reason) in broken.iter() {
            let view = catalog.view(name);
            if view.is_some_and(|view| find_word(&view.sql, before.name.as_str()).is_some()) {
                return Err(cannot(name, reason));
            }
        }
        let mut sources = self.view_sources();
        let mut changed: BTreeSet<String> = BTreeSet::new();
        let mut followers = Vec::new();
        for view in in_order(self.0.sources.serving.views().values()) {
            let definition = view.definition();
            let name = definition.name.as_str();
            let planned = view.planned();
            let reads_changed = view.views_read().iter().any(|read| changed.contains(read));
            if !planned.reads(before.id) && !reads_changed {
                continue;
            }
            let used = self.columns_of(definition, &planned, before).await?;
            let anew = reads_changed || used.iter().any(|id| evolved.widened.contains(id));
            let reserved = self.0.building.reserve(name)?;
            let functions = lifecycle.functions_of_view(definition)?;
            let streams: Vec<Arc<Stream>> = self
                .streams()
                .iter()
                .map(|stream| definition.stream(if stream.id == now.id { now } else { stream }))
                .collect();
            let (select, sums) = (&definition.sql, definition.float_sums);
            let planned = self.plan_over(select, &functions, sums, &streams, &sources);
            let planned = planned
                .await
                .map_err(|error| cannot(name, &error.to_string()))?;
            let as_source = ViewSource {
                name: name.to_owned(),
                schema: Arc::clone(planned.schema()),
                streams: planned.streams().to_vec(),
                exactness: planned.exactness().to_vec(),
            };
            if let Some(source) = sources.iter_mut().find(|source| source.name == name) {
                if source.schema != as_source.schema {
                    changed.insert(name.to_owned());
                }
                *source = as_source;
            }
            let mut next = definition.clone();
            let built = if anew {
                next.version = catalog.next_version(name);
                lifecycle.build_view(&next, planned).await
            } else {
                lifecycle.reopen_view(&next, planned).await
            };
            followers.push(Follower {
                former: anew.then(|| definition.clone()),
                definition: next,
                built: built?,
                _reserved: reserved,
            });
        }
        if !evolved.widened.is_empty() {
            // States of former versions are those of the narrower type: a way back makes them anew.
            for view in catalog.views() {
                for former in catalog.former_versions(view.name.as_str()) {
                    if find_word(&former.sql, before.name.as_str()).is_some() {
                        lifecycle.drop_view(former).await?;
                    }
                }
            }
        }
        Ok(followers)
    }
}

const SUPPORTED: &str = "there are: ADD COLUMN, RENAME COLUMN, DROP COLUMN, and ALTER COLUMN with TYPE, SET DEFAULT, DROP DEFAULT, SET NOT NULL, DROP NOT NULL";

fn unsupported(message: &str, _sql: &str) -> Error {
    Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
}

fn column(name: &Ident, sql: &str) -> Result<String, Error> {
    let folded = create::folded(name);
    if SystemColumn::is_reserved(&folded) {
        return Err(Error::new(
            sqlstate::INVALID_NAME,
            format!("column {folded} is the system's own"),
        )
        .with_position(find_word(sql, &name.value)));
    }
    Ok(folded)
}

/// Those that others select from first.
fn in_order<'a>(views: impl Iterator<Item = &'a Served>) -> Vec<Served> {
    let mut waiting: Vec<Served> = views.cloned().collect();
    let mut ordered: Vec<Served> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let is_waiting = |name: &String| {
            let mut names = waiting.iter().map(|view| view.definition().name.as_str());
            names.any(|waits| waits == name)
        };
        let ready = |view: &Served| !view.views_read().iter().any(is_waiting);
        let (now, later): (Vec<Served>, Vec<Served>) =
            waiting.iter().cloned().partition(|view| ready(view));
        if now.is_empty() {
            // No view selects from itself; what is left is in no order that could be wrong.
            ordered.extend(later);
            break;
        }
        ordered.extend(now);
        waiting = later;
    }
    ordered
}
