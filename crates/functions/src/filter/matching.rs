//! Whether a part of a pattern matches what a record has in its place.

use serde_json::value::RawValue;

use super::{
    json::{Kind, elements, kind, members, text},
    pattern::{Node, Rule},
};

impl Node {
    /// `None`: the record has no such field.
    pub fn matches(&self, value: Option<&RawValue>) -> bool {
        // An array matches with one of its elements, and an empty one is as no value.
        if let Some(array) = value.filter(|value| kind(value) == Kind::Array) {
            let elements = elements(array).unwrap_or_default();
            return match elements.is_empty() {
                true => self.matches(None),
                false => elements
                    .into_iter()
                    .any(|element| self.matches(Some(element))),
            };
        }
        match self {
            Node::Fields { fields, either } => {
                let members = value.and_then(members).unwrap_or_default();
                let matches = |part: &Node, name: &str| part.matches(members.get(name).copied());
                fields.iter().all(|(name, part)| matches(part, name))
                    && either.as_ref().is_none_or(|alternatives| {
                        alternatives.iter().any(|part| part.matches(value))
                    })
            }
            Node::Values(rules) => {
                // What has fields of its own is no value.
                let value = value.filter(|value| kind(value) != Kind::Object);
                match value.and_then(Leaf::read) {
                    None => rules.iter().any(|rule| matches!(rule, Rule::Exists(false))),
                    Some(leaf) => rules.iter().any(|rule| rule.matches(&leaf)),
                }
            }
        }
    }
}

/// A value of the record that is neither object nor array.
enum Leaf<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(String),
}

impl<'a> Leaf<'a> {
    fn read(value: &'a RawValue) -> Option<Leaf<'a>> {
        match kind(value) {
            Kind::Null => Some(Leaf::Null),
            Kind::Bool => Some(Leaf::Bool(value.get() == "true")),
            Kind::Number => Some(Leaf::Number(value.get())),
            Kind::Text => text(value).map(Leaf::Text),
            Kind::Object | Kind::Array => None,
        }
    }
}

impl Rule {
    fn matches(&self, leaf: &Leaf<'_>) -> bool {
        match (self, leaf) {
            (Rule::Exists(exists), _) => *exists,
            (Rule::AnythingBut(but), leaf) => !but.iter().any(|rule| rule.matches(leaf)),
            (Rule::Null, Leaf::Null) => true,
            (Rule::Bool(wanted), Leaf::Bool(is)) => wanted == is,
            (Rule::Number(wanted), Leaf::Number(is)) => wanted == is,
            (Rule::Text(wanted), Leaf::Text(is)) => wanted == is,
            (Rule::TextIgnoringCase(wanted), Leaf::Text(is)) => *wanted == is.to_lowercase(),
            (Rule::Prefix(prefix), Leaf::Text(is)) => is.starts_with(prefix),
            (Rule::PrefixIgnoringCase(prefix), Leaf::Text(is)) => {
                is.to_lowercase().starts_with(prefix)
            }
            (Rule::Suffix(suffix), Leaf::Text(is)) => is.ends_with(suffix),
            (Rule::SuffixIgnoringCase(suffix), Leaf::Text(is)) => {
                is.to_lowercase().ends_with(suffix)
            }
            (Rule::Numeric(numeric), Leaf::Number(is)) => numeric.holds(is),
            _ => false,
        }
    }
}
