//! Clients append: one alone, or several at a time, so that the log commits them together.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, task::Poll, time::Duration};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use futures::poll;
use lambic_base::disk::Gate;
use lambic_log::Error;
use lambic_model::{
    Append, Appended, Cursor, Frontier, Offset, PartitionId, Producer, Stream, Write,
};

use crate::{
    compare::CURSOR,
    history::{Failure, History},
    model::{Attempt, Effect, STREAMS},
};

/// How often it is looked whether the log has come to its sync.
const LOOK: Duration = Duration::from_millis(1);

type Appending = Pin<Box<dyn Future<Output = Result<Appended, Error>>>>;

enum Queued {
    Answered(Result<Appended, Error>),
    Waiting(Appending),
}

impl History {
    /// In this order; what was not answered is open from now on.
    pub(crate) async fn append(&mut self, attempts: Vec<Attempt>) -> Result<(), Failure> {
        self.tell(format!("append {attempts:?}"));
        let mut appending = Vec::new();
        for attempt in &attempts {
            let Some(append) = self.to_append(attempt) else {
                // Not declared: the machine is on its way down.
                return Ok(());
            };
            let log = self.node().log.clone();
            appending.push(Box::pin(async move { log.append(append).await }) as Appending);
        }
        // The look at the gate never yields, and a task whose share of a turn is used up is told to wait until it does.
        let answers = tokio::task::unconstrained(self.together(appending)).await;
        for (attempt, answer) in attempts.into_iter().zip(answers) {
            self.figures.appends += 1;
            self.check(attempt, answer)?;
        }
        Ok(())
    }

    pub(crate) async fn append_again(&mut self) -> Result<(), Failure> {
        // Those without producer that add records would be doubled, as their client knows.
        let again = std::mem::take(&mut self.again).into_iter();
        let mut again: Vec<Attempt> = again.filter(|attempt| attempt.producer.is_some()).collect();
        if let Some(attempt) = again.pop() {
            self.again = again;
            self.append(vec![attempt]).await?;
        }
        Ok(())
    }

    /// Holds the first in its sync until the others wait behind it: they are one group then, whatever the threads do.
    async fn together(&mut self, appending: Vec<Appending>) -> Vec<Result<Appended, Error>> {
        let mut rest: VecDeque<Appending> = appending.into();
        let mut answers = Vec::with_capacity(rest.len());
        if rest.len() > 1
            && let Some(mut first) = rest.pop_front()
        {
            let gate = Arc::new(Gate::default());
            self.machine.disk.hold_next_sync(Some(gate.clone()));
            let answered = loop {
                match poll!(first.as_mut()) {
                    Poll::Ready(answer) => break Some(answer),
                    Poll::Pending if gate.reached_within(LOOK) => break None,
                    Poll::Pending => {}
                }
            };
            let mut queued = Vec::new();
            if answered.is_none() {
                for mut append in rest.drain(..) {
                    // One step queues it.
                    queued.push(match poll!(append.as_mut()) {
                        Poll::Ready(answer) => Queued::Answered(answer),
                        Poll::Pending => Queued::Waiting(append),
                    });
                }
            }
            // A gate that nobody came to must not hold the next sync.
            self.machine.disk.hold_next_sync(None);
            gate.open();
            answers.push(match answered {
                Some(answer) => answer,
                None => first.await,
            });
            for append in queued {
                answers.push(match append {
                    Queued::Answered(answer) => answer,
                    Queued::Waiting(append) => append.await,
                });
            }
        }
        for append in rest {
            answers.push(append.await);
        }
        answers
    }

    /// Compares an acknowledgement with the model, or says what its absence means.
    fn check(&mut self, attempt: Attempt, answer: Result<Appended, Error>) -> Result<(), Failure> {
        let appended = match answer {
            Ok(appended) => appended,
            Err(Error::Unavailable { reason }) => {
                self.forgive("an append", &reason)?;
                self.again.push(attempt.clone());
                self.model.leave_open(attempt);
                return Ok(());
            }
            // All others say that nothing was kept, and nothing may be.
            Err(error) => return self.forgive("an append", &error.to_string()),
        };
        let expected = self.model.apply(&attempt);
        let writes = appended.writes.iter();
        let found = Effect {
            duplicate: appended.duplicate,
            writes: writes
                .map(|written| (written.ranges.clone(), written.records_known))
                .collect(),
        };
        if found == expected {
            return Ok(());
        }
        Err(format!(
            "{attempt:?} was acknowledged as {found:?}, expected {expected:?}"
        ))
    }

    fn to_append(&self, attempt: &Attempt) -> Option<Append> {
        let stream = |place: usize| self.node().database.stream(STREAMS[place].0);
        let mut writes = Vec::new();
        for write in &attempt.writes {
            let stream = stream(write.stream)?;
            let batch = batch(&stream, &write.rows);
            writes.push(Write {
                stream: stream.id,
                partition: Some(PartitionId(write.partition)),
                batch,
                schema: None,
            });
        }
        let cursor = match attempt.cursor {
            None => None,
            Some(at) => Some(Cursor {
                name: CURSOR.to_owned(),
                stream: stream(0)?.id,
                frontier: Frontier(vec![Offset(at)]),
            }),
        };
        let producer = attempt.producer.clone();
        Some(Append {
            producer: producer.map(|(id, sequence)| Producer { id, sequence }),
            cursors: cursor.into_iter().collect(),
            writes,
        })
    }
}

fn batch(stream: &Stream, rows: &[crate::model::Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|row| &row.id),
        )),
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.k.as_ref()),
        )),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.v))),
    ];
    // Those who append do not know of columns that were added.
    let known: Vec<usize> = (0..columns.len()).collect();
    let schema = stream.schema.project(&known);
    let schema = Arc::new(schema.expect("it has these columns from the first on"));
    RecordBatch::try_new(schema, columns).expect("these are its columns")
}
