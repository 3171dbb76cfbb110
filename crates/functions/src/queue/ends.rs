//! Ends of events: appended together with the dead letters and the move of the cursor.

use std::collections::BTreeMap;

use lambic_model::{Append, Cursor, Frontier, InvocationKind, Offset, Producer, Write};
use serde_json::json;

use super::{CURSOR, PARTITION};
use crate::{
    Destination, Inner,
    destination::row,
    entry::kind_name,
    records::{self, DeadLetter, InvocationRow, QueueRow},
    traces::new_trace_id,
};

/// Ends in one append, with the events of dead letters: well below what the log takes.
pub const BYTES_MAX: usize = 8 << 20;

pub struct Ended {
    pub offset: u64,
    pub row: QueueRow,
    /// The invocation that it ended with, if that succeeded; others are recorded when they end.
    pub invocation: Option<Box<InvocationRow>>,
    /// Of the event, if it failed.
    pub dead_letter: Option<DeadLetter>,
    pub follow: Vec<Follow>,
    /// Its dead letters go to the house's stream, since its function's own refused them.
    pub to_house: bool,
    /// They are without what they are about, since with it they were refused.
    pub is_short: bool,
}

/// What comes of the result.
#[derive(Debug, Clone)]
pub enum Follow {
    To {
        destination: Destination,
        /// JSON.
        record: String,
        /// Of the event.
        attempts: u32,
    },
    /// It cannot go there: a dead letter of its own.
    Refused(DeadLetter),
}

impl Follow {
    fn bytes(&self) -> usize {
        match self {
            Follow::To { record, .. } => record.len(),
            Follow::Refused(letter) => letter.event.len() + letter.error_message.len(),
        }
    }
}

/// What tells of a record that did not get where it was to go.
pub fn undelivered(
    row: &QueueRow,
    destination: &Destination,
    record: String,
    attempts: u32,
    reason: &str,
) -> DeadLetter {
    tracing::warn!(
        function = row.function,
        request_id = row.request_id,
        ?destination,
        reason,
        "the record for a destination becomes a dead letter"
    );
    let place = match destination {
        Destination::Function(function) => format!("function {function}"),
        Destination::Stream(stream) => format!("stream {stream}"),
    };
    DeadLetter {
        at_us: row.at_us,
        function: row.function.clone(),
        request_id: row.request_id.clone(),
        kind: kind_name(InvocationKind::Async),
        source: None,
        error_type: "Lambic.DestinationRefused".to_owned(),
        error_message: format!("the record for {place} was refused: {reason}"),
        attempts: i32::try_from(attempts).unwrap_or(i32::MAX),
        event: record,
    }
}

impl Ended {
    /// About what it takes in an append.
    fn bytes(&self) -> usize {
        let letter = self.dead_letter.as_ref();
        let letter = letter.map_or(0, |letter| letter.event.len() + letter.error_message.len());
        let invocation = self.invocation.as_ref().map_or(0, |_| 512);
        let follow = self.follow.iter().map(Follow::bytes).sum::<usize>();
        512 + letter + invocation + follow
    }

    fn letters(&self) -> impl Iterator<Item = &DeadLetter> {
        let refused = self.follow.iter().filter_map(|follow| match follow {
            Follow::Refused(letter) => Some(letter),
            Follow::To { .. } => None,
        });
        self.dead_letter.iter().chain(refused)
    }

    fn shorten(&mut self) {
        let refused = self.follow.iter_mut().filter_map(|follow| match follow {
            Follow::Refused(letter) => Some(letter),
            Follow::To { .. } => None,
        });
        for letter in self.dead_letter.iter_mut().chain(refused) {
            let left_out = format!("{} bytes", letter.event.len());
            letter.event = json!({ "leftOut": left_out }).to_string();
        }
        self.is_short = true;
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

/// What to try after the log refused `ended`: its halves; or, for one alone, a dead letter in the place of its record
/// for a destination; then the house's stream of dead letters instead of the function's own; then letters without what
/// they are about, which is in the queue's stream still. If that was refused too, the end is given back.
pub fn smaller(mut ended: Vec<Ended>, reason: &str) -> Result<Vec<Vec<Ended>>, Box<Ended>> {
    if ended.len() > 1 {
        let second = ended.split_off(ended.len() / 2);
        return Ok(vec![second, ended]);
    }
    let mut end = ended.pop().expect("no part is empty");
    for follow in &mut end.follow {
        if let Follow::To {
            destination,
            record,
            attempts,
        } = follow
        {
            let record = std::mem::take(record);
            let letter = undelivered(&end.row, destination, record, *attempts, reason);
            *follow = Follow::Refused(letter);
            return Ok(vec![vec![end]]);
        }
    }
    let has_letters = end.letters().next().is_some();
    match (has_letters, end.to_house, end.is_short) {
        (true, false, _) => end.to_house = true,
        (true, true, false) => end.shorten(),
        _ => return Err(Box::new(end)),
    }
    Ok(vec![vec![end]])
}

/// What keeps `ended` and moves the cursor to `cursor`. Records that do not fit into their streams become dead letters.
pub fn append(inner: &Inner, ended: &mut [Ended], cursor: Offset, producer: Producer) -> Append {
    let queue = &inner.options.streams.queue;
    let (events, records) = follow(inner, ended);
    let mut rows = Vec::new();
    let mut letters: BTreeMap<_, (_, Vec<&DeadLetter>)> = BTreeMap::new();
    for end in ended.iter() {
        for letter in end.letters() {
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
    rows.extend(&events);
    let mut writes = vec![Write {
        stream: queue.id,
        partition: Some(PARTITION),
        batch: records::queue(queue, &rows),
        schema: None,
    }];
    writes.extend(records);
    let invocations = ended.iter().filter_map(|end| end.invocation.as_deref());
    let invocations: Vec<InvocationRow> = invocations.cloned().collect();
    if !invocations.is_empty() {
        writes.push(records::told(
            &inner.options.streams.invocations,
            &invocations,
        ));
    }
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
fn follow(inner: &Inner, ended: &mut [Ended]) -> (Vec<QueueRow>, Vec<Write>) {
    let (mut events, mut writes) = (Vec::new(), Vec::new());
    for end in ended {
        for follow in &mut end.follow {
            let Follow::To {
                destination,
                record,
                attempts,
            } = follow
            else {
                continue;
            };
            let name = match destination {
                Destination::Function(function) => {
                    events.push(QueueRow {
                        at_us: end.row.at_us,
                        request_id: uuid::Uuid::new_v4().to_string(),
                        function: function.clone(),
                        state: "queued".to_owned(),
                        event: Some(record.clone()),
                        // One for all of its attempts.
                        trace_id: Some(new_trace_id()),
                    });
                    continue;
                }
                Destination::Stream(name) => name,
            };
            match row(inner, name, record) {
                Ok(write) => writes.push(write),
                Err(reason) => {
                    let record = std::mem::take(record);
                    let letter = undelivered(&end.row, destination, record, *attempts, &reason);
                    *follow = Follow::Refused(letter);
                }
            }
        }
    }
    (events, writes)
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
                trace_id: None,
            },
            invocation: None,
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
            follow: Vec::new(),
            to_house: false,
            is_short: false,
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

    fn alone(ended: Ended) -> Ended {
        let mut parts = smaller(vec![ended], "too large").ok().unwrap();
        assert_eq!((parts.len(), parts[0].len()), (1, 1));
        parts.remove(0).remove(0)
    }

    #[test]
    fn what_is_refused_is_tried_in_halves_then_in_the_house() {
        let halves = smaller((0..3).map(ended).collect(), "no").ok().unwrap();
        assert_eq!(halves.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        let house = alone(ended(9));
        assert!(house.to_house && !house.is_short);
        let short = alone(house);
        let letter = short.dead_letter.as_ref().unwrap();
        assert_eq!(letter.event, r#"{"leftOut":"9 bytes"}"#);
        assert!(smaller(vec![short], "no").is_err());
    }

    #[test]
    fn a_record_that_is_refused_becomes_a_dead_letter() {
        let with_record = Ended {
            dead_letter: None,
            follow: vec![Follow::To {
                destination: Destination::Function("next".to_owned()),
                record: "{}".to_owned(),
                attempts: 2,
            }],
            ..ended(0)
        };
        let letter = alone(with_record);
        let told: Vec<_> = letter
            .letters()
            .map(|letter| &letter.error_message)
            .collect();
        assert_eq!(
            told,
            ["the record for function next was refused: too large"]
        );
        let short = alone(alone(letter));
        assert!(short.to_house && short.is_short);
        assert!(smaller(vec![short], "no").is_err());
    }
}
