//! The one thread that writes: takes all appends that wait, writes them, syncs once, publishes, acknowledges.
//!
//! The order is the law: nothing is visible or acknowledged before it is synced, and nothing is acknowledged
//! before it is visible. After a failed write or sync what is on disk is unknown, and a second sync may lie
//! about it (Rebello et al., "Can Applications Recover from fsync Failures?", ATC '20): the log is read-only
//! from then on. A full disk is different: the sync was not tried, so the group is cut off again and refused.

use std::{io, sync::Arc};

use lambic_model::{Appended, StreamId};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Cut, Error,
    log::{Shared, Waiting},
    mark::MarkFile,
    options::GROUP_BYTES_MAX,
    prepare::Prepared,
    recover::{self, Active},
    snapshot::View,
    stage::Stage,
    state::{State, widen},
};

pub(crate) enum Command {
    Append(Job),
    /// Forget the stream; what came before for it is committed or was refused, what comes after is refused.
    RemoveStream {
        id: StreamId,
        done: oneshot::Sender<()>,
    },
    /// Give no append this time or an earlier one any more; all that have one are visible when it is done.
    Settle {
        at_us: i64,
        done: oneshot::Sender<()>,
    },
    /// Close the active segment, unless it holds nothing.
    Rotate {
        done: oneshot::Sender<Result<(), Error>>,
    },
    /// The log as it is between two groups.
    Cut {
        done: oneshot::Sender<Result<Cut, Error>>,
    },
    /// Finish what came before, then end.
    Close,
}

pub(crate) struct Job {
    pub prepared: Prepared,
    pub reply: oneshot::Sender<Result<Appended, Error>>,
    /// Gives its share of the queue back when the job is done.
    pub waiting: Waiting,
}

pub(crate) struct Writer {
    pub shared: Arc<Shared>,
    pub state: State,
    pub active: Active,
    pub mark: MarkFile,
    /// Readers were told what was appended up to here.
    pub settled_us: i64,
}

impl Writer {
    pub(crate) fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(commands.blocking_recv().unwrap_or(Command::Close));
            while let Some(Command::Append(job)) = next {
                bytes += job.waiting.bytes();
                group.push(job);
                next = match bytes < GROUP_BYTES_MAX {
                    true => commands.try_recv().ok(),
                    false => None,
                };
            }
            // Whatever ended the group was queued behind it.
            self.commit(group);
            match next {
                Some(Command::RemoveStream { id, done }) => {
                    self.remove_stream(id);
                    // Whoever asked may have gone away.
                    let _ = done.send(());
                }
                Some(Command::Settle { at_us, done }) => {
                    self.settled_us = self.settled_us.max(at_us);
                    let _ = done.send(());
                }
                Some(Command::Rotate { done }) => {
                    let _ = done.send(self.rotate());
                }
                Some(Command::Cut { done }) => {
                    let _ = done.send(self.cut());
                }
                Some(Command::Close) => break,
                Some(Command::Append(_)) | None => {}
            }
        }
        // Only speeds up the next open and sharpens its judgement; the segments are durable already.
        let ended = self.shared.ids.persist(self.state.commit);
        let synced = self.mark.sync();
        if let Err(error) = ended
            .map_err(|e| e.to_string())
            .and(synced.map_err(|e| e.to_string()))
        {
            tracing::warn!(error, "the log ended without its last, optional syncs");
        }
    }

    fn commit(&mut self, group: Vec<Job>) {
        if group.is_empty() {
            return;
        }
        if let Some(reason) = self.shared.broken() {
            return refuse(group, &Error::Unavailable { reason });
        }
        // However large a checkpoint is, at least as much follows it: they never take more than half of the disk's
        // work, and a segment without appends is never followed.
        let checkpoint_end = self.active.segment.checkpoint_end;
        let segment_bytes = self.shared.options.segment_bytes.max(2 * checkpoint_end);
        if self.active.position >= segment_bytes
            && let Err(error) = self.begin_segment()
        {
            return refuse(group, &error);
        }
        let Active {
            segment,
            position,
            chain,
        } = &self.active;
        let at_us = self.time_of_append();
        let mut stage = Stage::new(&self.state, *position, *chain, segment.salt, at_us);
        let mut taken = Vec::with_capacity(group.len());
        for job in group {
            if let Some(stream) = self.shared.undeclared(&job.prepared) {
                // It was dropped while the append waited.
                answer(job.reply, Err(Error::UnknownStream { stream }));
                continue;
            }
            match stage.take(job.prepared, &self.state, &self.shared.ids) {
                Ok(appended) => taken.push((job.reply, job.waiting, appended)),
                Err(error) => answer(job.reply, Err(error)),
            }
        }
        if !stage.frames.is_empty() {
            if let Err(error) = self.write(&stage) {
                for (reply, _, _) in taken {
                    answer(reply, Err(error.clone()));
                }
                return;
            }
            self.publish(stage);
        }
        for (reply, _, appended) in taken {
            answer(reply, Ok(appended));
        }
    }

    /// The clock's time, but never earlier than that of the append before or one that was settled: what stood at
    /// a time stays what stood then, also when the machine's clock is set back.
    fn time_of_append(&self) -> i64 {
        let now_us = self.shared.options.clock.now_us();
        now_us
            .max(self.state.appended_at_us)
            .max(self.settled_us.saturating_add(1))
    }

    /// Returns `Ok` when the group is durable.
    fn write(&mut self, stage: &Stage) -> Result<(), Error> {
        let file = &self.active.segment.file;
        let position = self.active.position;
        let path = &self.active.segment.path;
        if let Err(error) = file.write_all_at(&stage.frames, position) {
            let full = matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
            // The cut is synced too, so that what was refused cannot come back after a crash.
            if full && file.set_len(position).and_then(|()| file.sync()).is_ok() {
                tracing::warn!(path = %path.display(), "the disk is full; an append was refused");
                return Err(Error::DiskFull { path: path.clone() });
            }
            return Err(self.fail("write", &error));
        }
        file.sync().map_err(|error| self.fail("sync", &error))?;
        self.active.position = position + stage.frames.len() as u64;
        self.active.chain = stage.chain;
        if let Err(error) = self.mark.write(self.active.mark(stage.commit)) {
            // The group itself is durable; only later ones are refused.
            self.fail("write the mark beside", &error);
        }
        Ok(())
    }

    fn fail(&self, action: &str, error: &io::Error) -> Error {
        let path = self.active.segment.path.display();
        let reason = format!("it failed to {action} `{path}`: {error}");
        self.shared.break_down(reason.clone());
        Error::Unavailable { reason }
    }

    fn publish(&mut self, stage: Stage) {
        for (commit, header) in &stage.headers {
            self.state
                .apply(*commit, header)
                .expect("the stage gives the offsets that the state expects");
        }
        let ids = &self.shared.ids;
        if let Err(error) = ids.insert(stage.first_commit(), stage.ids) {
            // The records are durable. No other append with record ids is taken before theirs went in.
            tracing::warn!(%error, "ids of appended records wait for the index");
            self.shared.break_down_if_unsure(&error);
        }
        let segment = &self.active.segment;
        let cache = self.shared.view().cache.clone();
        for ((_, _, entry), batch) in stage.entries.iter().zip(stage.batches) {
            cache.put((segment.sequence, entry.frame_at, entry.piece_at), batch);
        }
        segment.push(stage.entries);
        segment.grow_to(self.active.position);
        let cursors_moved = stage
            .headers
            .iter()
            .any(|(_, header)| !header.cursors.is_empty() || !header.cursors_dropped.is_empty());
        self.shared.change_view(|view: &mut View| {
            view.commit = self.state.commit;
            let writes = stage.headers.iter().flat_map(|(_, header)| &header.writes);
            for write in writes {
                let mut head = self.state.heads.of(write.stream);
                widen(&mut head, &view.heads.of(write.stream));
                view.heads.set(write.stream, head);
            }
            if cursors_moved {
                view.cursors = Arc::new(self.state.cursors.clone());
            }
        });
        self.shared.commits.send_replace(self.state.commit);
    }

    /// Here, between two groups, and not in the caller's task: a checkpoint written in between would lack the
    /// head that a later append of the stream starts from.
    fn remove_stream(&mut self, id: StreamId) {
        self.state.heads.0.remove(&id);
        self.shared.change_view(|view| {
            view.heads.0.remove(&id);
            Arc::make_mut(&mut view.streams).remove(&id);
            Arc::make_mut(&mut view.erased).remove(&id);
        });
    }

    /// Also of a log that is read-only: what it acknowledged is there.
    fn cut(&self) -> Result<Cut, Error> {
        let keys = self.shared.ids.keys()?;
        let view = self.shared.view();
        Ok(Cut::new(&view, self.active.mark(self.state.commit), keys))
    }

    fn rotate(&mut self) -> Result<(), Error> {
        if let Some(reason) = self.shared.broken() {
            return Err(Error::Unavailable { reason });
        }
        match self.active.position > self.active.segment.checkpoint_end {
            true => self.begin_segment(),
            false => Ok(()),
        }
    }

    fn begin_segment(&mut self) -> Result<(), Error> {
        let begun = self.try_begin_segment();
        if let Err(Error::Unavailable { reason }) = &begun {
            self.shared.break_down(reason.clone());
        }
        begun
    }

    fn try_begin_segment(&mut self) -> Result<(), Error> {
        // Bounds what the next open has to feed to the index again.
        self.shared.persist_ids(self.state.commit)?;
        let checkpoint = self.state.checkpoint(&self.shared.view().heads);
        let shared = &self.shared;
        self.active = recover::begin(
            &shared.options,
            self.active.segment.sequence + 1,
            self.active.chain,
            &checkpoint,
        )?;
        let segment = self.active.segment.clone();
        shared.change_view(|view| {
            let mut segments = (*view.segments).clone();
            segments.push(segment);
            view.segments = Arc::new(segments);
        });
        self.mark
            .write(self.active.mark(self.state.commit))
            .map_err(|error| self.fail("write the mark beside", &error))
    }
}

fn refuse(group: Vec<Job>, error: &Error) {
    for job in group {
        answer(job.reply, Err(error.clone()));
    }
}

fn answer(reply: oneshot::Sender<Result<Appended, Error>>, result: Result<Appended, Error>) {
    // Whoever asked may have gone away; the append stands all the same.
    let _ = reply.send(result);
}
