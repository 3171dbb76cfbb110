//! SQL over streams, views and system tables; the catalog and the statements that change it.
//!
//! Every statement is pinned to one frontier before it is planned: all streams and views that it
//! names are read at that frontier, which includes every append acknowledged before. In a transaction ([`Transaction`])
//! it also reads what the transaction has inserted so far. What a statement
//! does to the layers (build a view, refresh it, audit it) goes through [`Lifecycle`]: this room knows
//! neither batch nor speed.

mod as_of;
mod catalog;
mod changes;
mod counted;
mod create;
mod database;
mod depth;
mod diff;
mod drift;
mod erase;
mod error;
mod evolve;
mod function;
mod kept;
mod key_filter;
mod keyword;
mod lifecycle;
mod message;
mod names;
mod pending;
mod pinned;
mod provider;
mod reading;
mod replay;
mod retention;
mod scratch;
mod session;
mod statement;
mod system;
mod transaction;
mod types;
mod version;

pub use as_of::AsOf;
pub use catalog::{Catalog, CatalogError};
pub use changes::{Change, Feed, Follow, Followed, Message};
pub use database::{AuditResult, Database, Parts, PlanCounts, value_of_text};
pub use depth::STACK_BYTES;
pub use error::{Error, PLAN_CHANGED, closest, sqlstate};
pub use lambic_view::postgres::Types as SqlTypes;
pub use lambic_view::postgres::{Numeral, Postgres, check_size, memberships};
pub use lifecycle::{
    AppendsHeld, BackupInfo, BatchInfo, BuiltView, Compacted, Erasing, ErasureInfo, Lifecycle,
    ToErase,
};
pub use provider::TailOf;
pub use retention::Retention;
pub use session::{Lookup, Outcome, Prepared, Session, SqlParser, ViewInfo};
pub use statement::{Piece, split, tokens};
pub use transaction::{Isolation, Modes, Transaction, TransactionLimits};
