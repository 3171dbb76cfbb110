//! `ALTER STREAM … SET (retention = …)`, and what it means from time to time: records that are kept no longer.
//!
//! They go as erased ones do (`ERASE`): no read finds them from one moment on, the views of the stream follow, and
//! the erasure log says up to which offsets. But for that, nobody has to ask, and whole files go at a time.

use std::sync::Arc;

use arrow::array::StringArray;
use lambic_base::{Clock, SystemClock};
use lambic_dataset::Expiring;
use lambic_model::{Frontier, Frontiers, OffsetSet, Stream, StreamId};

use super::{Database, done, erase::ERASABLE, explain, rows};
use crate::{
    Catalog, Error, Outcome, Retention, ToErase,
    error::{find_word, undefined_table},
    sqlstate,
    statement::SetRetention,
};

impl Database {
    /// How long the stream keeps its records.
    pub fn retention(&self, name: &str) -> Retention {
        self.0.sources.catalog().retention(name)
    }

    /// Before it, the stream's records have expired.
    pub fn start_of(&self, stream: StreamId) -> Frontier {
        self.0.sources.start_of(stream)
    }

    pub(super) async fn set_retention(
        &self,
        alter: &SetRetention,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let stream = self.retaining(&alter.stream, sql)?;
        let mut retention = self.retention(&alter.stream);
        for (name, value) in &alter.settings {
            if !retention.set(name, value.as_deref(), sql)? {
                return Err(Error::new(
                    sqlstate::INVALID_PARAMETER,
                    format!("option \"{name}\" of a stream cannot be changed"),
                )
                .with_position(find_word(sql, name))
                .with_hint("retention and retention_bytes can"));
            }
        }
        if alter.explain {
            return self.explain_retention(&stream, &retention).await;
        }
        let _one = self.0.changing.lock().await;
        let stream = self.retaining(&alter.stream, sql)?;
        self.change(|catalog| catalog.set_retention(stream.name.as_str(), retention))?;
        Ok(done("ALTER STREAM"))
    }

    fn retaining(&self, name: &str, sql: &str) -> Result<Arc<Stream>, Error> {
        match self.stream(name) {
            Some(stream) if Catalog::is_system(&stream) && !ERASABLE.contains(&name) => {
                let message = format!("\"{name}\" is the system's own: it reads it to go on");
                Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                    .with_position(find_word(sql, name)))
            }
            Some(stream) => Ok(stream),
            None => Err(self.no_stream(name, sql)),
        }
    }

    fn no_stream(&self, name: &str, sql: &str) -> Error {
        if self.0.sources.catalog().view(name).is_none() {
            return undefined_table(name, sql, &self.names());
        }
        let message = format!("\"{name}\" is a view, not a stream");
        Error::new(sqlstate::WRONG_OBJECT_TYPE, message).with_position(find_word(sql, name))
    }

    async fn expiring(&self, stream: &Stream, retention: &Retention) -> Result<Expiring, Error> {
        let keep = retention.keep(SystemClock.now_us());
        self.lifecycle()?.expiring(stream.id, keep).await
    }

    async fn explain_retention(
        &self,
        stream: &Arc<Stream>,
        retention: &Retention,
    ) -> Result<Outcome, Error> {
        let found = self.expiring(stream, retention).await?;
        let views = self.0.sources.serving.views();
        let views: Vec<String> = views
            .values()
            .filter(|view| view.streams().iter().any(|input| input.id == stream.id))
            .map(|view| view.definition().name.to_string())
            .collect();
        let declared = match retention.is_for_ever() {
            true => "for ever".to_owned(),
            false => retention.shown(),
        };
        let lines = [
            ("stream", stream.name.to_string()),
            ("keeps", declared),
            ("would expire now", found.records.to_string()),
            ("files", found.files.to_string()),
            ("bytes", found.bytes.to_string()),
            ("would start at", found.start.to_string()),
            ("views to recompute", views.join(", ")),
        ];
        let (names, values): (Vec<&str>, Vec<String>) = lines.into_iter().unzip();
        let names = Arc::new(StringArray::from(names));
        let values = Arc::new(StringArray::from(values));
        rows(explain::schema(), vec![names, values])
    }

    /// Lets the stream's records go that are kept too long; how many. Their bytes follow.
    pub async fn expire(&self, name: &str) -> Result<u64, Error> {
        let _turn = self.0.erasing.lock().await;
        let retention = self.retention(name);
        let Some(stream) = self.stream(name).filter(|_| !retention.is_for_ever()) else {
            return Ok(0);
        };
        let found = self.expiring(&stream, &retention).await?;
        if found.records == 0 {
            return Ok(0);
        }
        let mut offsets = OffsetSet::default();
        for gone in found.start.ranges_since(&self.start_of(stream.id)) {
            offsets.add(gone);
        }
        let to_erase = ToErase {
            stream,
            offsets,
            frontier: found.start,
            by: "retention".to_owned(),
            predicate: retention.shown(),
            predicate_shown: retention.shown(),
            expires: found.newest_us,
        };
        self.put_down(to_erase).await?;
        Ok(found.records)
    }

    /// Nobody can tell any more what stood at a moment before a stream's start.
    pub(crate) fn check_not_expired(&self, heads: &Frontiers) -> Result<(), Error> {
        for (stream, head) in &heads.0 {
            let start = self.start_of(*stream);
            if head.covers(&start) {
                continue;
            }
            return Err(self.expired(*stream, &head.to_string()));
        }
        Ok(())
    }

    /// The same for the moment `at_us`.
    pub(super) fn check_time_not_expired(
        &self,
        streams: &[StreamId],
        at_us: i64,
    ) -> Result<(), Error> {
        for stream in streams {
            let until = self.0.sources.expired_until(*stream);
            if until.is_some_and(|until| at_us < until) {
                return Err(self.expired(*stream, "that time"));
            }
        }
        Ok(())
    }

    fn expired(&self, stream: StreamId, moment: &str) -> Error {
        let streams = self.streams();
        let named = streams.iter().find(|known| known.id == stream);
        let name = named.map_or_else(|| stream.to_string(), |known| known.name.to_string());
        let partitions = named.map_or(0, |known| known.partitions);
        let start = self.start_of(stream).max(&Frontier::zero(partitions));
        let message = format!(
            "stream \"{name}\" does not go back to {moment}: its records before {start} have expired"
        );
        Error::new(sqlstate::SNAPSHOT_TOO_OLD, message).with_hint(format!(
            "the earliest moment is AS OF OFFSET '{name}@{start}'; lambic_streams shows how long each stream is kept"
        ))
    }

    /// `COMPACT STREAM name`.
    pub(super) async fn compact(&self, name: &str, sql: &str) -> Result<Outcome, Error> {
        let Some(stream) = self.stream(name) else {
            return Err(self.no_stream(name, sql));
        };
        let done = self.lifecycle()?.compact(stream.id).await?;
        let lines = [
            ("stream", stream.name.to_string()),
            ("files before", done.files_before.to_string()),
            ("files after", done.files_after.to_string()),
            ("bytes before", done.bytes_before.to_string()),
            ("bytes after", done.bytes_after.to_string()),
        ];
        let (names, values): (Vec<&str>, Vec<String>) = lines.into_iter().unzip();
        let names = Arc::new(StringArray::from(names));
        let values = Arc::new(StringArray::from(values));
        rows(explain::schema(), vec![names, values])
    }
}
