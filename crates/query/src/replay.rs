//! A replay: a stretch of history run through a definition, in the order of arrival, without touching what is served.
//!
//! Pure, but for the list of those that run: where steps end, and what options mean.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lambic_model::{Frontiers, Offset, PartitionId, StreamId};

use crate::{Error, counted::Count, sqlstate};

/// More would be more than anybody looks at, and each costs a look at the whole view.
pub const STEPS_MAX: usize = 10_000;

/// How long a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Records(u64),
    /// Of the time at which records were appended.
    Micros(i64),
}

impl Length {
    /// `100 records`, `100` or `15m`; an error says what is expected.
    pub fn of_text(text: &str) -> Result<Length, Error> {
        let wrong = || {
            Error::new(sqlstate::INVALID_PARAMETER, format!("`{text}` is no step")).with_hint(
                "a step is so many records, '1000 records', or a time, '1h', '15m', '1 day'",
            )
        };
        let trimmed = text.trim();
        let (number, unit) = match trimmed.find(|c: char| !c.is_ascii_digit()) {
            Some(end) => trimmed.split_at(end),
            None => (trimmed, "records"),
        };
        match unit.trim().to_ascii_lowercase().as_str() {
            "record" | "records" => match number.parse() {
                Ok(records @ 1..) => Ok(Length::Records(records)),
                _ => Err(wrong()),
            },
            _ => {
                let time = humantime::parse_duration(trimmed).map_err(|_| wrong())?;
                match i64::try_from(time.as_micros()) {
                    Ok(micros @ 1..) => Ok(Length::Micros(micros)),
                    _ => Err(wrong()),
                }
            }
        }
    }
}

/// Where a step ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub to: Frontiers,
    /// When its newest record was appended.
    pub at_us: i64,
    pub records: u64,
}

/// Where one record stands.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub at_us: i64,
    pub stream: StreamId,
    pub partition: PartitionId,
    pub offset: Offset,
}

/// Cuts a stretch into steps; a step of time in which nothing was appended is none.
#[derive(Debug)]
pub struct Cutter {
    length: Length,
    steps: Vec<Step>,
    now: Step,
    /// Where the step that is being filled ends, in time.
    ends_us: i64,
}

impl Cutter {
    /// `from` is where the stretch begins, `origin_us` where steps of time do: unless given, with the first record.
    pub fn new(length: Length, from: Frontiers, origin_us: Option<i64>) -> Cutter {
        let ends_us = match (length, origin_us) {
            (Length::Micros(micros), Some(origin)) => origin.saturating_add(micros),
            _ => i64::MIN,
        };
        Cutter {
            length,
            steps: Vec::new(),
            now: Step {
                to: from,
                at_us: 0,
                records: 0,
            },
            ends_us,
        }
    }

    /// Takes the next record, in the order of arrival.
    pub fn push(&mut self, place: Place) -> Result<(), Error> {
        match self.length {
            Length::Records(records) if self.now.records == records => self.cut()?,
            Length::Records(_) => {}
            Length::Micros(micros) => {
                if self.ends_us == i64::MIN {
                    self.ends_us = place.at_us.saturating_add(micros);
                }
                if place.at_us >= self.ends_us {
                    if self.now.records > 0 {
                        self.cut()?;
                    }
                    let past = place.at_us - self.ends_us;
                    let skipped = (past / micros + 1).saturating_mul(micros);
                    self.ends_us = self.ends_us.saturating_add(skipped);
                }
            }
        }
        let mut frontier = self.now.to.of(place.stream);
        frontier.set(place.partition, place.offset.plus(1));
        self.now.to.set(place.stream, frontier);
        self.now.at_us = place.at_us;
        self.now.records += 1;
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Error> {
        if self.steps.len() + 1 >= STEPS_MAX {
            return Err(Error::new(
                sqlstate::LIMIT_EXCEEDED,
                format!("the stretch has more than {STEPS_MAX} steps"),
            )
            .with_hint("take longer steps, or a shorter stretch: FROM … TO …"));
        }
        self.steps.push(self.now.clone());
        self.now.records = 0;
        Ok(())
    }

    /// The steps; the last one goes to the end of the stretch, past what was erased there.
    pub fn finish(mut self, to: &Frontiers) -> Vec<Step> {
        if self.now.records > 0 {
            self.steps.push(self.now);
        }
        if let Some(last) = self.steps.last_mut() {
            last.to = to.clone();
        }
        self.steps
    }
}

/// A replay that runs, as `lambic_replays` shows it.
#[derive(Debug)]
pub struct Running {
    pub number: u64,
    /// What whoever began it calls it.
    pub label: Option<String>,
    pub view: String,
    /// What it goes through: `version 2`, or `SELECT`.
    pub through: String,
    pub started_us: i64,
    pub from: String,
    pub to: String,
    pub steps: u64,
    pub steps_done: AtomicU64,
    /// Records that were read so far. Of a definition that is recomputed each step reads from the beginning.
    pub records: Count,
    pub records_total: u64,
}

/// The replays that run.
#[derive(Debug, Clone, Default)]
pub struct Replays(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    last: u64,
    running: BTreeMap<u64, Arc<Running>>,
}

/// It is in the list as long as this is there.
#[derive(Debug)]
pub struct Listed {
    replays: Replays,
    pub running: Arc<Running>,
}

impl Replays {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn list(&self) -> Vec<Arc<Running>> {
        self.lock().running.values().cloned().collect()
    }

    pub fn begin(&self, running: Running) -> Listed {
        let mut list = self.lock();
        list.last += 1;
        let number = list.last;
        let running = Arc::new(Running { number, ..running });
        list.running.insert(number, Arc::clone(&running));
        Listed {
            replays: self.clone(),
            running,
        }
    }
}

impl Listed {
    pub fn step_done(&self) {
        self.running.steps_done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.replays.lock().running.remove(&self.running.number);
    }
}

#[cfg(test)]
mod tests {
    use lambic_model::Frontier;

    use super::*;

    const A: StreamId = StreamId(100);
    const B: StreamId = StreamId(101);

    /// `stream, offset, time`
    fn cut(length: Length, origin: Option<i64>, records: &[(StreamId, u64, i64)]) -> Vec<String> {
        let mut cutter = Cutter::new(length, Frontiers::default(), origin);
        let mut end = Frontiers::default();
        for &(stream, offset, at_us) in records {
            let place = Place {
                at_us,
                stream,
                partition: PartitionId(0),
                offset: Offset(offset),
            };
            cutter.push(place).unwrap();
            end.set(stream, Frontier(vec![Offset(offset + 1)]));
        }
        let steps = cutter.finish(&end).into_iter();
        let shown = steps.map(|step| {
            let (a, b) = (step.to.of(A), step.to.of(B));
            format!("{}|{}|{}|{}", a, b, step.at_us, step.records)
        });
        shown.collect()
    }

    #[test]
    fn steps_of_records_follow_the_order_of_arrival() {
        let records = [(A, 0, 10), (B, 0, 10), (A, 1, 11), (A, 2, 12), (B, 5, 13)];
        assert_eq!(
            cut(Length::Records(2), None, &records),
            ["0:1|0:1|10|2", "0:3|0:1|12|2", "0:3|0:6|13|1"]
        );
        assert_eq!(cut(Length::Records(5), None, &records), ["0:3|0:6|13|5"]);
        assert!(cut(Length::Records(1), None, &[]).is_empty());
    }

    #[test]
    fn steps_of_time_begin_where_the_stretch_does() {
        let records = [(A, 0, 14), (A, 1, 19), (A, 2, 20), (A, 3, 51)];
        assert_eq!(
            cut(Length::Micros(10), Some(10), &records),
            ["0:2||19|2", "0:3||20|1", "0:4||51|1"]
        );
        assert_eq!(
            cut(Length::Micros(10), None, &records),
            ["0:3||20|3", "0:4||51|1"]
        );
    }

    #[test]
    fn there_are_not_too_many_steps() {
        let mut cutter = Cutter::new(Length::Records(1), Frontiers::default(), None);
        let mut push = |offset| {
            cutter.push(Place {
                at_us: 0,
                stream: A,
                partition: PartitionId(0),
                offset: Offset(offset),
            })
        };
        let steps = STEPS_MAX as u64;
        assert!((0..steps).all(|offset| push(offset).is_ok()));
        assert_eq!(push(steps).unwrap_err().sqlstate, "54000");
    }

    #[test]
    fn lengths_are_read() {
        let of = |text| Length::of_text(text).ok();
        assert_eq!(of("100 records"), Some(Length::Records(100)));
        assert_eq!(of("1 record"), Some(Length::Records(1)));
        assert_eq!(of("7"), Some(Length::Records(7)));
        assert_eq!(of("1h"), Some(Length::Micros(3_600_000_000)));
        assert_eq!(of("1 day"), Some(Length::Micros(86_400_000_000)));
        for wrong in ["", "0", "0 records", "records", "-1h", "0s", "1 fortnight"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
