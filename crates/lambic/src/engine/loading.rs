//! Says on standard error how far a start is that takes long.

use lambic_functions::{Loading, TellLoading};

use crate::output::counted;

pub fn teller() -> TellLoading {
    std::sync::Arc::new(|loading| eprintln!("{}", said(&loading)))
}

fn said(loading: &Loading) -> String {
    match loading {
        Loading::Working {
            ready,
            of,
            function,
            is_component,
        } => {
            let doing = match is_component {
                true => "compiling",
                false => "checking",
            };
            format!(
                "starting: {ready} of {} ready, {doing} {function}",
                counted(*of as u64, "function")
            )
        }
        Loading::Done { of, took } => format!(
            "starting: {} ready after {} s; what was compiled is kept for the next start",
            counted(*of as u64, "function"),
            took.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_says_how_far_it_is() {
        let working = |is_component| Loading::Working {
            ready: 3,
            of: 40,
            function: "thumbs".to_owned(),
            is_component,
        };
        for (loading, expected) in [
            (
                working(true),
                "starting: 3 of 40 functions ready, compiling thumbs",
            ),
            (
                working(false),
                "starting: 3 of 40 functions ready, checking thumbs",
            ),
            (
                Loading::Done {
                    of: 1,
                    took: Duration::from_millis(63_400),
                },
                "starting: 1 function ready after 63 s; what was compiled is kept for the next start",
            ),
        ] {
            assert_eq!(said(&loading), expected);
        }
    }
}
