//! Ends of events: appended together with the dead letters and the move of the cursor.

use std::collections::BTreeMap;

use lambic_model::{Append, Cursor, Frontier, Offset, Producer, StreamName, Write};
use serde_json::Value;

use super::{CURSOR, PARTITION};
use crate::{
    Destination, Inner, destination,
    records::{self, DeadLetter, QueueRow},
};

/// Ends in one append, with the events of dead letters: well below what the log takes.
pub const BYTES_MAX: usize = 8 << 20;

pub struct Ended {
    pub offset: u64,
    pub row: QueueRow,
    pub dead_letter: Option<DeadLetter>,
    /// Where a record of it goes, and the record.
    pub follow: Option<(Destination, String)>,
    /// Its dead letter goes to the house's stream, since its function's own refused it.
    pub to_house: bool,
}

impl Ended {
    /// About what it takes in an append.
    fn bytes(&self) -> usize {
        let letter = self.dead_letter.as_ref();
        let record = self.follow.as_ref().map_or(0, |(_, record)| record.len());
        512 + record + letter.map_or(0, |letter| letter.event.len() + letter.error_message.len())
    }
}

/// Cuts ends into parts of about `bytes_max`, at least one each.
pub fn parts(ended: Vec<Ended>, bytes_max: usize) -> Vec<Vec<Ended>> {
    let mut parts = Vec::new();
    let mut bytes = usize::MAX;
    for end in ended {
        bytes = bytes.saturating_add(end.bytes());
        if bytes > bytes_max {
            bytes = end.bytes();
            parts.push(Vec::new());
        }
        parts.last_mut().expect("the first end opens one").push(end);
    }
    parts
}

/// What to try after the log refused `ended`: its halves; or, for one alone, without its record for a destination,
/// then the house's stream of dead letters
/// instead of the function's own. If that was refused too, the end is given back.
pub fn smaller(mut ended: Vec<Ended>) -> Result<Vec<Vec<Ended>>, Box<Ended>> {
    if ended.len() > 1 {
        let second = ended.split_off(ended.len() / 2);
        return Ok(vec![second, ended]);
    }
    let mut end = ended.pop().expect("no part is empty");
    if let Some((to, record)) = end.follow.take() {
        tracing::error!(
            request_id = end.row.request_id,
            ?to,
            bytes = record.len(),
            "the record for a destination was refused and is left out"
        );
        return Ok(vec![vec![end]]);
    }
    if end.dead_letter.is_none() || end.to_house {
        return Err(Box::new(end));
    }
    end.to_house = true;
    Ok(vec![vec![end]])
}

/// What keeps `ended` and moves the cursor to `cursor`.
pub fn append(inner: &Inner, ended: &[Ended], cursor: Offset, producer: Producer) -> Append {
    let queue = &inner.options.streams.queue;
    let mut rows = Vec::new();
    let mut letters: BTreeMap<_, (_, Vec<&DeadLetter>)> = BTreeMap::new();
    for end in ended {
        if let Some(letter) = &end.dead_letter {
            let stream = if end.to_house {
                inner.options.streams.dead_letters.clone()
            } else {
                inner.dead_letter_stream(&letter.function)
            };
            letters
                .entry(stream.id)
                .or_insert_with(|| (stream, Vec::new()))
                .1
                .push(letter);
        }
        rows.push(&end.row);
    }
    let (events, records) = follow(inner, ended);
    rows.extend(&events);
    let mut writes = vec![Write {
        stream: queue.id,
        partition: Some(PARTITION),
        batch: records::queue(queue, &rows),
        schema: None,
    }];
    writes.extend(records);
    writes.extend(letters.into_values().map(|(stream, letters)| Write {
        stream: stream.id,
        partition: None,
        batch: records::dead_letters(&stream, &letters),
        schema: None,
    }));
    Append {
        writes,
        producer: Some(producer),
        cursors: vec![Cursor {
            name: CURSOR.to_owned(),
            stream: queue.id,
            frontier: Frontier(vec![cursor]),
        }],
    }
}

/// The events for functions and the records for streams that follow on `ended`.
fn follow(inner: &Inner, ended: &[Ended]) -> (Vec<QueueRow>, Vec<Write>) {
    let (mut events, mut writes) = (Vec::new(), Vec::new());
    for end in ended {
        match &end.follow {
            None => {}
            Some((Destination::Function(function), record)) => events.push(QueueRow {
                at_us: end.row.at_us,
                request_id: uuid::Uuid::new_v4().to_string(),
                function: function.clone(),
                state: "queued".to_owned(),
                event: Some(record.clone()),
            }),
            Some((Destination::Stream(name), record)) => match rows_of(inner, name, record) {
                Ok(write) => writes.push(write),
                Err(reason) => {
                    tracing::error!(request_id = end.row.request_id, stream = %name, reason,
                    "the record for a destination does not fit into its stream and is left out")
                }
            },
        }
    }
    (events, writes)
}

/// The members of the record that the stream has columns for.
fn rows_of(inner: &Inner, name: &StreamName, record: &str) -> Result<Write, String> {
    let stream = (inner.options.lookup)(name.as_str()).ok_or("it does not exist")?;
    let row = destination::row(record, &stream.schema).map_err(|error| error.to_string())?;
    let json = Value::from(vec![Value::from(row)]).to_string();
    Ok(Write {
        stream: stream.id,
        partition: None,
        batch: (inner.options.decode)(&stream, json.into_bytes())?,
        schema: Some(stream.schema_version()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(event_bytes: usize) -> Ended {
        Ended {
            offset: 0,
            row: QueueRow {
                at_us: 0,
                request_id: String::new(),
                function: String::new(),
                state: "dead".to_owned(),
                event: None,
            },
            dead_letter: Some(DeadLetter {
                at_us: 0,
                function: String::new(),
                request_id: String::new(),
                kind: "async",
                source: None,
                error_type: String::new(),
                error_message: String::new(),
                attempts: 1,
                event: "x".repeat(event_bytes),
            }),
            follow: None,
            to_house: false,
        }
    }

    #[test]
    fn ends_are_cut_by_bytes() {
        for (events, expected) in [
            (vec![], vec![]),
            (vec![5_000], vec![1]),
            (vec![100, 100, 100], vec![3]),
            (vec![1_000, 1_000, 1_000], vec![2, 1]),
            (vec![9_000, 10, 9_000, 10, 20], vec![1, 1, 1, 2]),
        ] {
            let parts = parts(events.iter().copied().map(ended).collect(), 4_000);
            let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
            assert_eq!(lengths, expected, "{events:?}");
        }
    }

    #[test]
    fn what_is_refused_is_tried_in_halves_then_in_the_house() {
        let halves = smaller((0..3).map(ended).collect()).ok().unwrap();
        assert_eq!(halves.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        let mut alone = smaller(vec![ended(0)]).ok().unwrap();
        assert!(alone[0][0].to_house);
        assert!(smaller(alone.remove(0)).is_err());
    }
}
