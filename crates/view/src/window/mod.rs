//! `TUMBLE`, `HOP` and `SESSION` in `FROM`: the windows of time that each record falls in.
//!
//! They take a stream, a view or a query, and give its rows with two more columns, `window_start` and
//! `window_end`, as in Apache Flink's and RisingWave's SQL (the form `TABLE(TUMBLE(TABLE t, DESCRIPTOR(c), …))`
//! is SQL:2016's of polymorphic table functions). A window is a value like any other, told from a record's
//! own time alone or, for sessions, from its neighbours': none is ever closed, so late records count.
//!
//! A call goes through three hands. [`readable`] blanks words out of the text that the parser does not take
//! there; [`adapt`] turns its source into a query, so that the planner looks the tables up; [`Windows`]
//! plans it: `TUMBLE` and `HOP` as row work, so that views over them are kept, `SESSION` as window functions.

mod bounds;
mod call;
mod plan;
mod source;
mod text;

pub use plan::Windows;
pub(crate) use source::adapt;
pub use text::readable;

use datafusion::sql::sqlparser::ast::ObjectName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tumble,
    Hop,
    Session,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Tumble, Kind::Hop, Kind::Session];

    fn name(self) -> &'static str {
        match self {
            Kind::Tumble => "tumble",
            Kind::Hop => "hop",
            Kind::Session => "session",
        }
    }

    fn of_word(word: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| word.eq_ignore_ascii_case(kind.name()))
    }

    fn named(name: &ObjectName) -> Option<Kind> {
        match name.0.as_slice() {
            [part] => Kind::of_word(&part.as_ident()?.value),
            _ => None,
        }
    }

    /// How it is called, for those who called it otherwise.
    fn usage(self) -> &'static str {
        match self {
            Kind::Tumble => {
                "TUMBLE(TABLE visits, DESCRIPTOR(at), INTERVAL '10' MINUTE) or TUMBLE(visits, at, INTERVAL '10 minutes'), \
                 and an offset after that: … , INTERVAL '1 minute')"
            }
            Kind::Hop => {
                "HOP(TABLE visits, DESCRIPTOR(at), slide, size) or HOP(visits, at, INTERVAL '5 minutes', INTERVAL '1 hour'), \
                 and an offset after that"
            }
            Kind::Session => {
                "SESSION(TABLE visits PARTITION BY visitor, DESCRIPTOR(at), gap) or \
                 SESSION(visits, visitor, at, INTERVAL '30 minutes'); (a, b) for more than one column"
            }
        }
    }
}
