//! AWS's filter patterns: which records of a stream an event source mapping delivers.
//!
//! Pure: a pattern is JSON, so is a record in the form in which its event shows it. As with AWS, numbers that stand for
//! themselves in a pattern are compared as they are written (300 is not 300.0), those behind `numeric` by value; an
//! array of the record matches if one of its elements does; fields that the pattern does not name do not matter.

mod json;
mod matching;
mod numeric;
mod pattern;
#[cfg(test)]
mod tests;

use serde_json::value::RawValue;

use self::{
    json::{Kind, kind},
    pattern::{Node, node},
};

/// AWS's, of one mapping.
pub const FILTERS_MAX: usize = 5;
/// AWS's, of one pattern.
pub const PATTERN_CHARS_MAX: usize = 4_096;

/// Patterns of which one has to match; without any, everything does.
#[derive(Debug, Default)]
pub struct Filters(Vec<Node>);

impl Filters {
    /// The error says what is wrong with the first pattern that is none.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Filters, String> {
        let patterns = patterns.iter().map(|pattern| {
            let pattern: &RawValue =
                serde_json::from_str(pattern.as_ref()).map_err(|error| error.to_string())?;
            if kind(pattern) != Kind::Object {
                return Err("a pattern is a JSON object".to_owned());
            }
            node(pattern)
        });
        patterns.collect::<Result<_, _>>().map(Filters)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `record`: JSON, an object.
    pub fn matches(&self, record: &str) -> bool {
        if self.is_empty() {
            return true;
        }
        let Ok(record) = serde_json::from_str::<&RawValue>(record) else {
            return false;
        };
        self.0.iter().any(|pattern| pattern.matches(Some(record)))
    }
}
