//! A process that is waited for: one that this server started, or one that a zygote split off.

use std::{io, process::ExitStatus};

use super::zygote::Twig;

pub enum Child {
    Own(tokio::process::Child),
    Split(Twig),
}

impl Child {
    /// Waits until it has ended, and with its namespace of processes all that was in it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Child::Own(child) => child.wait().await,
            Child::Split(twig) => twig.wait().await,
        }
    }

    /// The number of what is waited for, where that may be another process than the program itself.
    pub fn id(&self) -> Option<i32> {
        match self {
            Child::Own(child) => child.id().and_then(|id| i32::try_from(id).ok()),
            Child::Split(_) => None,
        }
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Child::Own(child) => child.try_wait(),
            Child::Split(twig) => twig.try_wait(),
        }
    }

    /// Kills what is waited for, where that is another process than the program itself.
    pub fn start_kill(&mut self) -> io::Result<()> {
        match self {
            Child::Own(child) => child.start_kill(),
            Child::Split(_) => Ok(()),
        }
    }
}
