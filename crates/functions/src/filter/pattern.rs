//! What a pattern is made of, and how it is read from its JSON.

use serde_json::value::RawValue;

use super::{
    json::{Kind, elements, kind, members, text},
    numeric::Numeric,
};

/// A part of a pattern.
#[derive(Debug)]
pub enum Node {
    /// Every field has to match, and of each `$or` one alternative.
    Fields {
        fields: Vec<(String, Node)>,
        either: Option<Vec<Node>>,
    },
    /// One of these has to.
    Values(Vec<Rule>),
}

#[derive(Debug)]
pub enum Rule {
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
    Numeric(Numeric),
    Exists(bool),
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

/// The error says what is wrong with it.
pub fn node(pattern: &RawValue) -> Result<Node, String> {
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
                ("numeric", Kind::Array) => Numeric::read(value).map(Rule::Numeric),
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
