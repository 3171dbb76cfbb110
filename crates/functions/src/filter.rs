//! AWS's filter patterns: which records of a stream an event source mapping delivers.
//!
//! Pure: a pattern is JSON, so is a record in the form in which its event shows it. As with AWS, numbers that stand for
//! themselves in a pattern are compared as they are written (300 is not 300.0), those behind `numeric` by value; an
//! array of the record matches if one of its elements does; fields that the pattern does not name do not matter.

use std::{cmp::Ordering, collections::BTreeMap};

use serde_json::value::RawValue;

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

/// A part of a pattern.
#[derive(Debug)]
enum Node {
    /// Every field has to match, and of each `$or` one alternative.
    Fields {
        fields: Vec<(String, Node)>,
        either: Option<Vec<Node>>,
    },
    /// One of these has to.
    Values(Vec<Rule>),
}

#[derive(Debug)]
enum Rule {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    TextIgnoringCase(String),
    Prefix(String),
    PrefixIgnoringCase(String),
    Suffix(String),
    SuffixIgnoringCase(String),
    AnythingBut(Vec<Rule>),
    Numeric(Vec<(Comparison, Number)>),
    Exists(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// What is compared by value: whole numbers exactly, however large.
#[derive(Debug, Clone, Copy)]
enum Number {
    Whole(i128),
    Other(f64),
}

impl Number {
    fn read(text: &str) -> Option<Number> {
        let whole = text.parse().ok().map(Number::Whole);
        whole.or_else(|| text.parse().ok().map(Number::Other))
    }

    fn compare(self, other: Number) -> Option<Ordering> {
        let float = |number| match number {
            Number::Whole(whole) => whole as f64,
            Number::Other(other) => other,
        };
        match (self, other) {
            (Number::Whole(one), Number::Whole(other)) => Some(one.cmp(&other)),
            (one, other) => float(one).partial_cmp(&float(other)),
        }
    }
}

/// Words that stand for a rule in an array, and so are no names of fields there.
const RULES: [&str; 6] = [
    "prefix",
    "suffix",
    "anything-but",
    "numeric",
    "exists",
    "equals-ignore-case",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    Text,
    Bool,
    Null,
    Number,
}

fn kind(value: &RawValue) -> Kind {
    match value.get().as_bytes()[0] {
        b'{' => Kind::Object,
        b'[' => Kind::Array,
        b'"' => Kind::Text,
        b't' | b'f' => Kind::Bool,
        b'n' => Kind::Null,
        _ => Kind::Number,
    }
}

fn members(value: &RawValue) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(value.get()).ok()
}

fn elements(value: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(value.get()).ok()
}

fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

fn node(pattern: &RawValue) -> Result<Node, String> {
    let Some(all) = members(pattern) else {
        return Err(format!("{pattern} is no object"));
    };
    if all.is_empty() {
        return Err("empty objects are not allowed".to_owned());
    }
    let (mut fields, mut either) = (Vec::new(), None);
    for (name, value) in all {
        match (name.as_str(), kind(value)) {
            ("$or", _) if let Some(alternatives) = alternatives(value) => {
                let alternatives = alternatives.into_iter().map(node);
                either = Some(alternatives.collect::<Result<_, _>>()?);
            }
            (_, Kind::Object) => fields.push((name, node(value)?)),
            (_, Kind::Array) => {
                let rules = elements(value).unwrap_or_default();
                if rules.is_empty() {
                    return Err(format!("`{name}`: empty arrays are not allowed"));
                }
                let rules = rules.into_iter().map(rule).collect::<Result<_, _>>();
                let rules = rules.map_err(|reason| format!("`{name}`: {reason}"))?;
                fields.push((name, Node::Values(rules)));
            }
            _ => return Err(format!("`{name}` must be an object or an array")),
        }
    }
    Ok(Node::Fields { fields, either })
}

/// The parts of an `$or`, if it is one: with a single part, or with rules in it, that is a field's name.
fn alternatives(value: &RawValue) -> Option<Vec<&RawValue>> {
    let parts = elements(value).filter(|parts| parts.len() > 1)?;
    let is_pattern = |part: &&RawValue| {
        members(part)
            .is_some_and(|members| members.keys().all(|name| !RULES.contains(&name.as_str())))
    };
    parts.iter().all(is_pattern).then_some(parts)
}

fn rule(value: &RawValue) -> Result<Rule, String> {
    match kind(value) {
        Kind::Null => Ok(Rule::Null),
        Kind::Bool => Ok(Rule::Bool(value.get() == "true")),
        Kind::Number => Ok(Rule::Number(value.get().to_owned())),
        Kind::Text => text(value).map(Rule::Text).ok_or_else(|| wrong(value)),
        Kind::Array => Err("an array stands in an array".to_owned()),
        Kind::Object => {
            let (name, value) = only_member(value)?;
            match (name.as_str(), kind(value)) {
                ("exists", Kind::Bool) => Ok(Rule::Exists(value.get() == "true")),
                ("numeric", Kind::Array) => numeric(value),
                ("anything-but", _) => anything_but(value),
                _ => text_rule(&name, value),
            }
        }
    }
}

fn only_member(value: &RawValue) -> Result<(String, &RawValue), String> {
    let mut all = members(value).unwrap_or_default();
    match (all.pop_first(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(format!("{value} must have one member")),
    }
}

fn wrong(value: &RawValue) -> String {
    format!("{value} is no rule")
}

/// A rule that compares with a text, or a part of one.
fn text_rule(name: &str, value: &RawValue) -> Result<Rule, String> {
    match (name, kind(value)) {
        ("equals-ignore-case" | "prefix" | "suffix", Kind::Text) => {
            let text = text(value).ok_or_else(|| wrong(value))?;
            Ok(match name {
                "prefix" => Rule::Prefix(text),
                "suffix" => Rule::Suffix(text),
                _ => Rule::TextIgnoringCase(text.to_lowercase()),
            })
        }
        ("prefix" | "suffix", Kind::Object) => {
            let (how, value) = only_member(value)?;
            let text = Some(value)
                .filter(|value| how == "equals-ignore-case" && kind(value) == Kind::Text)
                .and_then(text)
                .ok_or_else(|| format!("`{name}` has no {how} {value}"))?
                .to_lowercase();
            Ok(match name {
                "prefix" => Rule::PrefixIgnoringCase(text),
                _ => Rule::SuffixIgnoringCase(text),
            })
        }
        ("equals-ignore-case" | "prefix" | "suffix" | "exists" | "numeric", _) => {
            Err(format!("`{name}` cannot have {value}"))
        }
        _ => Err(format!("`{name}` is not a match type that is known")),
    }
}

fn anything_but(value: &RawValue) -> Result<Rule, String> {
    let plain = |value: &RawValue| match kind(value) {
        Kind::Text | Kind::Number => rule(value),
        _ => Err(format!("`anything-but` cannot have {value}")),
    };
    let but = match kind(value) {
        Kind::Array => {
            let values = elements(value).unwrap_or_default();
            if values.is_empty() {
                return Err("`anything-but` is empty".to_owned());
            }
            if values.iter().any(|value| kind(value) != kind(values[0])) {
                return Err("`anything-but` mixes texts and numbers".to_owned());
            }
            values.into_iter().map(plain).collect::<Result<_, _>>()?
        }
        Kind::Object => {
            let (name, value) = only_member(value)?;
            let values = match kind(value) {
                Kind::Array => elements(value).unwrap_or_default(),
                _ => vec![value],
            };
            if values.is_empty() {
                return Err(format!("`{name}` is empty"));
            }
            let rules = values.into_iter().map(|value| text_rule(&name, value));
            rules.collect::<Result<_, _>>()?
        }
        _ => vec![plain(value)?],
    };
    Ok(Rule::AnythingBut(but))
}

/// `["=", 5]`, `[">", 0]`, `[">=", 0, "<", 5]`: a lower bound stands before an upper one.
fn numeric(value: &RawValue) -> Result<Rule, String> {
    let terms = elements(value).unwrap_or_default();
    let mut comparisons = Vec::new();
    for pair in terms.chunks(2) {
        let [operator, number] = pair else {
            return Err("`numeric` lacks a number".to_owned());
        };
        let comparison = match text(operator).as_deref() {
            Some("=") => Comparison::Equal,
            Some("<") => Comparison::Below,
            Some("<=") => Comparison::AtMost,
            Some(">") => Comparison::Above,
            Some(">=") => Comparison::AtLeast,
            _ => return Err(format!("`numeric` has no operator {operator}")),
        };
        let number = Some(number)
            .filter(|number| kind(number) == Kind::Number)
            .and_then(|number| Number::read(number.get()))
            .ok_or_else(|| format!("`numeric` compares with numbers, not {number}"))?;
        comparisons.push((comparison, number));
    }
    let is_range = |low: Comparison, high: Comparison| {
        matches!(low, Comparison::Above | Comparison::AtLeast)
            && matches!(high, Comparison::Below | Comparison::AtMost)
    };
    match comparisons.as_slice() {
        [_] => {}
        [(low, bottom), (high, top)] if is_range(*low, *high) => {
            if bottom.compare(*top) != Some(Ordering::Less) {
                return Err("the bottom of `numeric` must be below its top".to_owned());
            }
        }
        _ => return Err(format!("`numeric` has no range {value}")),
    }
    Ok(Rule::Numeric(comparisons))
}

impl Node {
    /// `None`: the record has no such field.
    fn matches(&self, value: Option<&RawValue>) -> bool {
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
            (Rule::Numeric(comparisons), Leaf::Number(is)) => {
                let Some(is) = Number::read(is) else {
                    return false;
                };
                let holds = |(comparison, number): &(Comparison, Number)| {
                    let order = is.compare(*number);
                    match comparison {
                        Comparison::Equal => order == Some(Ordering::Equal),
                        Comparison::Below => order == Some(Ordering::Less),
                        Comparison::AtMost => order.is_some_and(Ordering::is_le),
                        Comparison::Above => order == Some(Ordering::Greater),
                        Comparison::AtLeast => order.is_some_and(Ordering::is_ge),
                    }
                };
                comparisons.iter().all(holds)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, record: &str) -> bool {
        Filters::parse(&[pattern])
            .unwrap_or_else(|reason| panic!("{pattern}: {reason}"))
            .matches(record)
    }

    /// The rows of AWS's table of comparison operators, each with what it lets through and what not.
    #[test]
    fn rules_are_aws_s() {
        for (pattern, good, bad) in [
            (
                r#"{"UserID": [null]}"#,
                vec!["null"],
                vec![r#""""#, "0", "{}"],
            ),
            (r#"{"UserID": [""]}"#, vec![r#""""#], vec!["null", r#"" ""#]),
            (
                r#"{"UserID": ["Alice"]}"#,
                vec![r#""Alice""#, r#""\u0041lice""#],
                vec![r#""alice""#, r#""Alice ""#, "1"],
            ),
            (
                r#"{"UserID": [{"equals-ignore-case": "Alice"}]}"#,
                vec![r#""ALICE""#, r#""alice""#],
                vec![r#""Alic""#, "1"],
            ),
            (
                r#"{"UserID": ["Credit", "Debit"]}"#,
                vec![r#""Credit""#, r#""Debit""#],
                vec![r#""Cash""#],
            ),
            (
                r#"{"UserID": [true, null, 7]}"#,
                vec!["true", "null", "7"],
                vec!["false", "7.0", r#""true""#],
            ),
            (
                r#"{"UserID": [300]}"#,
                vec!["300"],
                vec!["300.0", "3.0e2", r#""300""#],
            ),
            (
                r#"{"UserID": [{"numeric": ["=", 100]}]}"#,
                vec!["100", "100.0", "1e2"],
                vec!["101", r#""100""#, "null"],
            ),
            (
                r#"{"UserID": [{"numeric": [">", 10, "<=", 20]}]}"#,
                vec!["10.5", "20"],
                vec!["10", "20.1"],
            ),
            (
                r#"{"UserID": [{"numeric": ["<", 0]}]}"#,
                vec!["-1", "-0.5"],
                vec!["0", "-0.0", "1"],
            ),
            (
                r#"{"UserID": [{"numeric": [">=", 9007199254740993]}]}"#,
                vec!["9007199254740993"],
                vec!["9007199254740992"],
            ),
            (
                r#"{"UserID": [{"prefix": "us-"}]}"#,
                vec![r#""us-east-1""#, r#""us-""#],
                vec![r#""eu-us-""#, r#""US-""#, "1"],
            ),
            (
                r#"{"UserID": [{"prefix": {"equals-ignore-case": "US-"}}]}"#,
                vec![r#""us-east-1""#, r#""Us-""#],
                vec![r#""eu""#],
            ),
            (
                r#"{"UserID": [{"suffix": ".png"}]}"#,
                vec![r#""a.png""#],
                vec![r#""a.png.jpg""#, r#""a.PNG""#],
            ),
            (
                r#"{"UserID": [{"suffix": {"equals-ignore-case": ".PNG"}}]}"#,
                vec![r#""a.png""#],
                vec![r#""a.jpg""#],
            ),
            (
                r#"{"UserID": [{"anything-but": "Raining"}]}"#,
                vec![r#""Sunny""#, "1", "null"],
                vec![r#""Raining""#],
            ),
            (
                r#"{"UserID": [{"anything-but": ["Raining", "Snowing"]}]}"#,
                vec![r#""Sunny""#],
                vec![r#""Raining""#, r#""Snowing""#],
            ),
            (
                r#"{"UserID": [{"anything-but": [1, 2]}]}"#,
                vec!["3", r#""1""#],
                vec!["1", "2"],
            ),
            (
                r#"{"UserID": [{"anything-but": {"prefix": "init"}}]}"#,
                vec![r#""done""#],
                vec![r#""initial""#],
            ),
            (
                r#"{"UserID": [{"anything-but": {"suffix": [".txt", ".md"]}}]}"#,
                vec![r#""a.rs""#],
                vec![r#""a.txt""#, r#""a.md""#],
            ),
            (
                r#"{"UserID": [{"anything-but": {"equals-ignore-case": ["a", "B"]}}]}"#,
                vec![r#""c""#],
                vec![r#""A""#, r#""b""#],
            ),
            (
                r#"{"UserID": [{"exists": true}]}"#,
                vec!["1", "null", r#""""#, "[1]"],
                vec!["{\"a\": 1}", "[]"],
            ),
            (
                r#"{"UserID": [{"exists": false}]}"#,
                vec!["{\"a\": 1}", "[]"],
                vec!["1", "null"],
            ),
            (
                r#"{"UserID": [{"exists": false}, "x"]}"#,
                vec![r#""x""#, "[]"],
                vec![r#""y""#],
            ),
            (
                r#"{"UserID": {"a": [1]}}"#,
                vec![r#"{"a": 1, "b": 2}"#, r#"[{"a": 2}, {"a": 1}]"#],
                vec![r#"{"b": 1}"#, "1"],
            ),
            (
                r#"{"UserID": {"a": [1], "b": [2]}}"#,
                vec![r#"[{"a": 1, "b": 2}]"#],
                vec![r#"[{"a": 1}, {"b": 2}]"#],
            ),
            (
                r#"{"UserID": [1, 2]}"#,
                vec!["[2, 3]", "[[1]]"],
                vec!["[3]"],
            ),
        ] {
            for (values, expected) in [(good, true), (bad, false)] {
                for value in values {
                    let record = format!(r#"{{"other": 1, "UserID": {value}}}"#);
                    assert_eq!(matches(pattern, &record), expected, "{pattern} {record}");
                }
            }
        }
    }

    #[test]
    fn fields_that_are_missing_match_nothing_but_their_absence() {
        for (pattern, expected) in [
            (r#"{"a": [{"exists": false}]}"#, true),
            (r#"{"a": {"b": [{"exists": false}]}}"#, true),
            (r#"{"a": [{"exists": true}]}"#, false),
            (r#"{"a": [null]}"#, false),
            (r#"{"a": [{"anything-but": "x"}]}"#, false),
        ] {
            assert_eq!(matches(pattern, r#"{"b": 1}"#), expected, "{pattern}");
        }
    }

    #[test]
    fn all_fields_have_to_match_and_one_alternative_of_or() {
        let pattern = r#"{"Location": ["New York"], "$or": [{"Day": ["Monday"]}, {"data": {"n": [{"numeric": [">", 5]}]}}]}"#;
        for (record, expected) in [
            (r#"{"Location": "New York", "Day": "Monday"}"#, true),
            (r#"{"Location": "New York", "data": {"n": 6}}"#, true),
            (
                r#"{"Location": "New York", "Day": "Tuesday", "data": {"n": 5}}"#,
                false,
            ),
            (r#"{"Location": "Boston", "Day": "Monday"}"#, false),
        ] {
            assert_eq!(matches(pattern, record), expected, "{record}");
        }
        let nested = r#"{"data": {"$or": [{"a": [1]}, {"b": [2]}]}}"#;
        assert!(matches(nested, r#"{"data": {"b": 2}}"#));
        assert!(!matches(nested, r#"{"data": {"b": 1}}"#));
        // With one part it is a field's name.
        assert!(matches(r#"{"$or": [1]}"#, r#"{"$or": 1}"#));
    }

    #[test]
    fn one_of_several_patterns_is_enough_and_none_lets_all_through() {
        let filters = Filters::parse(&[r#"{"a": [1]}"#, r#"{"b": [2]}"#]).unwrap();
        assert!(filters.matches(r#"{"b": 2}"#));
        assert!(!filters.matches(r#"{"b": 1}"#));
        assert!(Filters::default().matches("{}"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, part) in [
            ("", "EOF"),
            ("x", "expected"),
            ("[1]", "a pattern is a JSON object"),
            ("{}", "empty objects"),
            (r#"{"a": {}}"#, "empty objects"),
            (r#"{"a": []}"#, "empty arrays"),
            (r#"{"a": "x"}"#, "`a` must be an object or an array"),
            (r#"{"a": 1}"#, "`a` must be"),
            (r#"{"a": [[1]]}"#, "an array stands in an array"),
            (r#"{"a": [{}]}"#, "one member"),
            (r#"{"a": [{"prefix": "a", "suffix": "b"}]}"#, "one member"),
            (r#"{"a": [{"like": "a"}]}"#, "`like` is not a match type"),
            (r#"{"a": [{"prefix": 1}]}"#, "`prefix` cannot have 1"),
            (
                r#"{"a": [{"prefix": {"suffix": "a"}}]}"#,
                "`prefix` has no suffix",
            ),
            (r#"{"a": [{"exists": 1}]}"#, "`exists` cannot have 1"),
            (r#"{"a": [{"exists": "true"}]}"#, "`exists` cannot have"),
            (r#"{"a": [{"numeric": 1}]}"#, "`numeric` cannot have 1"),
            (r#"{"a": [{"numeric": []}]}"#, "no range"),
            (r#"{"a": [{"numeric": ["="]}]}"#, "lacks a number"),
            (r#"{"a": [{"numeric": ["!=", 1]}]}"#, "no operator"),
            (
                r#"{"a": [{"numeric": ["=", "1"]}]}"#,
                "compares with numbers",
            ),
            (r#"{"a": [{"numeric": ["<", 5, ">", 1]}]}"#, "no range"),
            (r#"{"a": [{"numeric": [">", 5, "<", 5]}]}"#, "below its top"),
            (r#"{"a": [{"anything-but": []}]}"#, "is empty"),
            (r#"{"a": [{"anything-but": [1, "a"]}]}"#, "mixes"),
            (r#"{"a": [{"anything-but": null}]}"#, "cannot have null"),
            (
                r#"{"a": [{"anything-but": {"numeric": 1}}]}"#,
                "`numeric` cannot have",
            ),
            (r#"{"$or": [{"a": [1]}, {"b": 1}]}"#, "`b` must be"),
        ] {
            let reason = Filters::parse(&[pattern]).unwrap_err();
            assert!(reason.contains(part), "{pattern}: {reason}");
        }
    }
}
