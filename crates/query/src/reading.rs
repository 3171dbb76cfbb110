//! What a read of a view takes as things stand, in words: the cost that `EXPLAIN MATERIALIZED VIEW` tells.
//!
//! It asks what a read asks, and counts what that would go through: states, records and bytes. It guesses no times.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use lambic_base::bytes;
use lambic_model::Stream;
use lambic_serving::{KEPT_BYTES_MAX, RecomputedView, Served, ServedView};
use lambic_view::{
    Class, Freshness,
    join::{IndexStanding, Join},
};

use crate::pinned::Pinned;

/// What all rows of `served` take at `pinned`.
pub fn of_all(served: &Served, pinned: &Arc<Pinned>) -> Result<String> {
    let seen = pinned.seen_by(served);
    let read = match served {
        Served::Kept(view) => kept(view, &seen)?,
        Served::Recomputed(view) => match view.batch_frontier() {
            Some(batch) if view.plan().speed.is_some() && pinned.is_past_batch(view) => {
                let heads = pinned.heads();
                let new = counted(&view.plan().streams, |stream| {
                    heads.of(stream.id).since(&batch.of(stream.id))
                });
                return Ok(format!(
                    "runs speed_as over {new} that came after the last batch; for the rows of that batch it {}",
                    recomputed(view, &seen)?
                ));
            }
            _ => recomputed(view, &seen)?,
        },
    };
    Ok(match served.definition().freshness {
        Freshness::Now => read,
        Freshness::Batch => format!("{read}; the rows stand as of the batch frontier"),
    })
}

/// What one key takes; `None` if the view has none to look up by, or has to be read as a whole for it.
pub fn of_key(served: &Served, pinned: &Arc<Pinned>) -> Result<Option<String>> {
    let Served::Kept(view) = served else {
        return Ok(None);
    };
    let seen = pinned.seen_by(served);
    let (Some(key), Some(runs)) = (view.key_names(), seen.runs_read(view)?) else {
        return Ok(None);
    };
    let read = format!(
        "touches one key ({}) in each of {} runs, found in O(log n)",
        key.join(", "),
        runs.runs().count()
    );
    Ok(Some(match view.ahead(&seen.heads(), &runs.covered) {
        0 => read,
        new => format!("{read}, and the states of {new} records that came since"),
    }))
}

/// All rows of what batch and speed keep.
fn kept(view: &Arc<ServedView>, pinned: &Pinned) -> Result<String> {
    let plan = view.plan();
    let Some(runs) = pinned.runs_read(view)? else {
        return Ok(format!(
            "computes the states of {}: those that are kept are outdated until the next batch",
            records(&plan.inputs, pinned)
        ));
    };
    let new = view.ahead(&pinned.heads(), &runs.covered);
    let finished = view.rows_of(runs).filter(|_| new == 0);
    let read = match finished {
        Some(rows) => again(&rows, view.definition().freshness),
        None => {
            let takes = match plan.class {
                Class::Rows => "goes through",
                _ => "merges",
            };
            let batch = runs.batch.as_ref().map_or(0, |run| run.rows());
            let speed = runs.state_rows() - batch;
            let since = match new {
                0 => String::new(),
                new => format!(", and those of {new} records that came since"),
            };
            format!(
                "{takes} {batch} batch and {speed} real-time states, {} bytes{since}",
                runs.bytes()
            )
        }
    };
    Ok(match scanned(view) {
        streams if streams.is_empty() => read,
        streams => format!(
            "{read}; states of new records are computed by reading {} from the first on",
            records(streams, pinned)
        ),
    })
}

/// The streams of a join that are read from their beginning for what is new on another side.
fn scanned(view: &ServedView) -> Vec<&Arc<Stream>> {
    let plan = view.plan();
    let sides = plan.join().map(Join::standings).unwrap_or_default();
    let too_large = sides
        .iter()
        .filter(|side| side.index == IndexStanding::TooLarge);
    let names: Vec<&str> = too_large.map(|side| side.stream.as_str()).collect();
    let is_scanned = |stream: &&Arc<Stream>| names.contains(&stream.name.as_str());
    plan.inputs.iter().filter(is_scanned).collect()
}

/// All rows of a `SELECT` that is run.
fn recomputed(view: &RecomputedView, pinned: &Pinned) -> Result<String> {
    let standing = pinned.standing(view);
    if let Some(rows) = standing.and_then(|at| view.rows_at(&at)) {
        return Ok(again(&rows, view.definition().freshness));
    }
    let plan = view.plan();
    let mut over = Vec::new();
    let streams = plan.streams_run();
    if !streams.is_empty() {
        over.push(records(&streams, pinned));
    }
    let views = plan.views.iter();
    over.extend(views.map(|name| format!("the rows of view {name}")));
    for part in view.parts() {
        over.push(format!("a part that {}", kept(part, pinned)?));
    }
    Ok(format!(
        "runs the SELECT over {}, and keeps the rows if they take at most {}",
        over.join(", "),
        bytes::shown(KEPT_BYTES_MAX as u64)
    ))
}

/// Rows that an earlier read has left.
fn again(rows: &[RecordBatch], freshness: Freshness) -> String {
    let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
    let bytes: usize = rows.iter().map(RecordBatch::get_array_memory_size).sum();
    let until = match freshness {
        Freshness::Now => "an input changes",
        Freshness::Batch => "the next batch",
    };
    format!("gives the {count} rows of the last read again, {bytes} bytes, until {until}")
}

/// All records of `streams` at `pinned`.
fn records<'a>(streams: impl IntoIterator<Item = &'a Arc<Stream>>, pinned: &Pinned) -> String {
    counted(streams, |stream| pinned.records_of(stream))
}

fn counted<'a>(
    streams: impl IntoIterator<Item = &'a Arc<Stream>>,
    count: impl Fn(&Arc<Stream>) -> u64,
) -> String {
    let each = streams
        .into_iter()
        .map(|stream| format!("{} records of {}", count(stream), stream.name));
    each.collect::<Vec<_>>().join(", ")
}
