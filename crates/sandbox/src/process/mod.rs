//! A process that speaks AWS's Runtime API: one environment, one invocation at a time, kept warm in between.
//!
//! The process is shut in as far as the machine allows it ([`isolation`]): a root of its own ([`root`]), a network of its
//! own with a private [`endpoint`] and perhaps a way out ([`egress`]), a filter of system calls ([`seccomp`]), limits that
//! the kernel counts ([`cgroup`]). A container image is its own root ([`image`]). Python is split off one that runs already
//! ([`zygote`]), Node waits as a [`spare`] one. At the deadline it is killed with everything that it started. Between two
//! events all of it stands still, as in AWS: what a handler leaves running can do nothing while nobody looks.

mod assign;
mod begin;
mod capture;
mod cgroup;
mod child;
pub(crate) mod egress;
mod endpoint;
mod environment;
mod exited;
mod extensions;
mod host_link;
mod image;
mod interpreter;
mod isolation;
mod landlock;
mod layout;
mod members;
mod network;
mod place;
mod refusals;
mod restore;
mod root;
mod seccomp;
mod shut_in;
mod spare;
mod spawn;
mod spec;
mod telemetry;
mod telling;
mod tree;
mod variables;
mod zygote;

pub use self::{
    egress::{Network, is_outside},
    endpoint::{ResponseHead, StreamPart, StreamSink},
    environment::{Environment, FailedStart},
    interpreter::Interpreter,
    isolation::{Isolation, Lack, Part},
    layout::{ENVIRONMENTS, remove_left_behind},
    restore::Restored,
    spare::Spare,
    spec::{INITIALIZATION_TYPE, Image, Invocation, Launch, SNAP_START, Spec},
    zygote::Zygote,
};
