//! Exit codes: 0 done, 1 failed, 2 wrong usage, 78 configuration or data folder refused.

use std::fmt;

/// `EX_CONFIG` of sysexits(3).
pub const REFUSED: u8 = 78;

/// Marks an error that ends the program with [`REFUSED`]: what is asked for cannot start.
#[derive(Debug)]
pub struct Refusal(anyhow::Error);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole chain, because a refusal is shown as one message.
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Refusal {}

pub fn refusal(error: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(Refusal(error.into()))
}

/// Marks an error that has been said already, or needs no words: only the code counts.
#[derive(Debug)]
pub struct Silent;

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Silent {}

/// Says what went wrong on stderr and gives the code.
pub fn report(error: &anyhow::Error) -> u8 {
    if error.is::<Silent>() {
        return 1;
    }
    eprintln!("error: {error:#}");
    match error.downcast_ref::<Refusal>() {
        Some(_) => REFUSED,
        None => 1,
    }
}
