//! What a view is: its definition, how its `SELECT` splits into states, and how states become answers.
//!
//! A view is one `SELECT`. Planning splits it once into row work (filter, project, functions),
//! partial aggregation to *states*, the merge of states, and final row work (`HAVING`, computed
//! columns). Batch and speed run the same split over different records; serving merges what both
//! made. This room knows neither the log nor the dataset: records come in as batches or as a table
//! provider.

pub mod aggregate;
mod aggregation;
pub mod audit;
mod constant;
pub mod definition;
mod error;
mod exactness;
mod guard;
mod hole;
pub mod join;
mod literal;
mod names;
mod offset;
mod order;
mod patient;
pub mod place;
pub mod plan;
mod planned;
pub mod postgres;
mod predicate;
mod recompute;
pub mod run;
pub mod session;
mod shared;
mod slot;
mod split;
pub mod tail;
mod texts;
mod ties;
mod timestamp;
pub mod wildcard;
pub mod window;

pub use definition::{Definition, Freshness, SpeedAs, ViewVersion};
pub use error::Error;
pub use exactness::{Exactness, TOLERANCE};
pub use join::History;
pub use plan::{Class, ViewPlan};
pub use planned::Planned;
pub use predicate::Predicate;
pub use recompute::{RecomputePlan, ViewSource};
pub use run::{KeyRange, Run};
pub use slot::{Source, TableOf};
