//! A view as its owner declared it; serialisable, so that the catalog can keep it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use lambic_model::{SchemaVersion, Stream, StreamId, ViewName};
use serde::{Deserialize, Serialize};

use crate::aggregate::FloatSums;

/// Counts the definitions that a view has had, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ViewVersion(pub u32);

impl fmt::Display for ViewVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Up to where a view is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Up to the head.
    #[default]
    Now,
    /// Up to the batch frontier; the rows stand until the next batch.
    Batch,
}

impl Freshness {
    pub fn name(self) -> &'static str {
        match self {
            Freshness::Now => "now",
            Freshness::Batch => "batch",
        }
    }

    fn is_now(&self) -> bool {
        *self == Freshness::Now
    }
}

/// No batch runs by itself: the view is built once from history, and what the speed layer computes is kept.
pub const NEVER: Duration = Duration::MAX;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub name: ViewName,
    pub version: ViewVersion,
    /// The `SELECT`.
    pub sql: String,
    /// How often the batch layer recomputes the view; [`NEVER`] if it does not.
    pub batch_every: Duration,
    /// Set on a view of mistakes: every row of it is one, and its audit says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expects_no_rows: bool,
    /// How its aggregates sum doubles up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub float_sums: FloatSums,
    /// Functions that the `SELECT` calls, by SQL name, with the digest of the code: a view keeps the
    /// code that it was created with, so that recomputing gives the same answers.
    pub functions: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Freshness::is_now")]
    pub freshness: Freshness,
    /// The versions of its streams' columns that the `SELECT` is written for: it keeps those columns and names. The
    /// first of streams that are not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schemas: BTreeMap<StreamId, SchemaVersion>,
    /// How what was appended after the last batch is served, if not exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_as: Option<SpeedAs>,
    /// In bytes: what its batches hold while they compute, if that is not what the server lets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_memory: Option<u64>,
    /// Set on a part of a recomputed view: which one, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<usize>,
}

/// An approximate way from the rows of the last batch to the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeedAs {
    /// A `SELECT` in which the view's own name stands for the rows of its last batch, and the name of a stream for the
    /// records after it.
    pub sql: String,
    /// Columns of the view that tell its rows apart.
    pub key: Vec<String>,
}

fn is_default(float_sums: &FloatSums) -> bool {
    *float_sums == FloatSums::default()
}

impl Definition {
    /// `batch_every` as it is declared.
    pub fn batch_every_text(&self) -> String {
        match self.batch_every {
            NEVER => "never".to_owned(),
            every => humantime::format_duration(every).to_string(),
        }
    }

    /// Where the view's files live, unique among the versions that there are.
    pub fn directory(&self) -> String {
        let own = format!("views/{}/v{}", self.name, self.version);
        match self.part {
            None => own,
            Some(part) => format!("{own}/part{part}"),
        }
    }

    /// The stream as the `SELECT` knows it.
    pub fn stream(&self, stream: &Arc<Stream>) -> Arc<Stream> {
        let version = self.schemas.get(&stream.id).copied().unwrap_or_default();
        match stream.reads_as_is(version) {
            true => Arc::clone(stream),
            false => stream
                .as_of(version)
                .map_or_else(|| Arc::clone(stream), Arc::new),
        }
    }

    /// The same view's part `index`, which is kept like a view of its own: current, whatever the view shows of it.
    pub fn for_part(&self, index: usize) -> Definition {
        Definition {
            part: Some(index),
            freshness: Freshness::Now,
            speed_as: None,
            ..self.clone()
        }
    }
}
