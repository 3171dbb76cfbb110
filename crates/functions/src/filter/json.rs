//! JSON as it is written: patterns and records are read one level at a time, and numbers stay texts.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    Text,
    Bool,
    Null,
    Number,
}

pub fn kind(value: &RawValue) -> Kind {
    match value.get().as_bytes()[0] {
        b'{' => Kind::Object,
        b'[' => Kind::Array,
        b'"' => Kind::Text,
        b't' | b'f' => Kind::Bool,
        b'n' => Kind::Null,
        _ => Kind::Number,
    }
}

pub fn members(value: &RawValue) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(value.get()).ok()
}

pub fn elements(value: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(value.get()).ok()
}

pub fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}
