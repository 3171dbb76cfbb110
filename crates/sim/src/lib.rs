//! The data half of the system on one seed: log, dataset, views and catalog on a simulated machine that loses power, is
//! killed, fails and fills up, compared at every step with a reference model.
//!
//! [`run`] plays the history of one seed. What the rooms do is real; simulated are the disk
//! ([`lambic_base::disk::SimDisk`]), the key store below the index of record ids ([`keys`]), the clock, and what
//! happens when. [`model`] and [`views`] say what must be true, in the simplest terms. `scripts/sim CYCLES SEED` plays
//! histories in a row and, with the seed that a failure names, the same one again.
//!
//! This room is for tests only, and nothing uses it.

mod append;
mod compare;
pub mod decoders;
mod history;
mod keys;
mod layers;
mod model;
mod node;
mod reads;
mod steps;
mod views;

pub use history::{Failure, Figures};
pub use node::{DATA, Machine, Node};
pub use reads::Reads;
pub use steps::{run, run_script};
