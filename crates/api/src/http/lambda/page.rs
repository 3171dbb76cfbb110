//! Lists in parts: `MaxItems` of them, and a `Marker` that says where the next part begins.
//!
//! A marker is the key of the last item that was given, so that a list that changes in between loses nothing.

use axum::{http::StatusCode, response::Response};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use lambic_functions::FunctionVersion;
use serde_json::{Value, json};

use super::{answer, check::Violations, error::AwsError, request::Questions};

/// AWS gives no more at once, whatever is asked for.
const ITEMS_MAX: usize = 50;

pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// What a request asks for; `max` is the highest `MaxItems` that the operation takes.
pub struct Asked {
    after: Option<String>,
    items_max: usize,
}

impl Asked {
    pub fn of(questions: &Questions, max: i64) -> Result<Asked, AwsError> {
        let mut violations = Violations::default();
        let mut items_max = ITEMS_MAX;
        if let Some(text) = questions.get("MaxItems") {
            match text.parse::<i64>() {
                Ok(asked) => {
                    violations.range("maxItems", Some(asked), 1, max);
                    items_max = usize::try_from(asked).unwrap_or(ITEMS_MAX).min(ITEMS_MAX);
                }
                Err(_) => violations.add("maxItems", text, "Member must be a number"),
            }
        }
        violations.end()?;
        let after = match questions.get("Marker").filter(|marker| !marker.is_empty()) {
            None => None,
            Some(marker) => {
                let key = BASE64_URL_SAFE_NO_PAD.decode(marker).ok();
                let key = key.and_then(|key| String::from_utf8(key).ok());
                Some(key.ok_or_else(|| AwsError::invalid("Invalid marker"))?)
            }
        };
        Ok(Asked { after, items_max })
    }

    /// The part that is asked for, of items in the order of their keys.
    pub fn page<T>(&self, items: impl IntoIterator<Item = (String, T)>) -> Page<T> {
        let is_due = |key: &String| self.after.as_ref().is_none_or(|after| key > after);
        let mut due = items.into_iter().filter(|(key, _)| is_due(key)).peekable();
        let mut page = Page {
            items: Vec::new(),
            next: None,
        };
        while let Some((key, item)) = due.next() {
            page.items.push(item);
            if page.items.len() == self.items_max {
                let is_more = due.peek().is_some();
                page.next = is_more.then(|| BASE64_URL_SAFE_NO_PAD.encode(key));
                break;
            }
        }
        page
    }
}

impl<T> Page<T> {
    pub fn map<U>(self, make: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(make).collect(),
            next: self.next,
        }
    }
}

impl Page<Value> {
    /// As the member `name` of the answer.
    pub fn answer(self, name: &str) -> Response {
        let mut body = json!({ name: self.items });
        if let Some(next) = self.next {
            body["NextMarker"] = Value::from(next);
        }
        answer::json(StatusCode::OK, &body)
    }
}

/// Orders versions of functions by name, and `$LATEST` before the numbers.
pub fn key(name: &str, version: FunctionVersion) -> String {
    let number = match version {
        FunctionVersion::Latest => 0,
        FunctionVersion::Number(number) => number,
    };
    // NUL comes before whatever else a longer name may have here.
    format!("{name}\0{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str) -> Result<Asked, AwsError> {
        Asked::of(&Questions::of(&format!("/x?{query}").parse().unwrap()), 50)
    }

    #[test]
    fn a_list_is_given_in_parts() {
        let letters = ["a", "b", "c", "d", "e"];
        let items = || letters.iter().map(|letter| (letter.to_string(), *letter));
        let mut all = Vec::new();
        let mut query = "MaxItems=2".to_owned();
        let mut sizes = Vec::new();
        loop {
            let page = asked(&query).unwrap().page(items());
            sizes.push(page.items.len());
            all.extend(page.items);
            match page.next {
                Some(next) => query = format!("MaxItems=2&Marker={next}"),
                None => break,
            }
        }
        assert_eq!(all, letters);
        assert_eq!(sizes, [2, 2, 1]);
        // No marker that leads to nothing.
        assert!(asked("MaxItems=5").unwrap().page(items()).next.is_none());
    }

    #[test]
    fn what_is_no_number_or_marker_is_refused() {
        for (query, kind) in [
            ("MaxItems=0", "ValidationException"),
            ("MaxItems=51", "ValidationException"),
            ("MaxItems=x", "ValidationException"),
            ("Marker=%00", "InvalidParameterValueException"),
        ] {
            assert_eq!(asked(query).err().unwrap().kind, kind, "{query}");
        }
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        let keys = [
            key("f", FunctionVersion::Latest),
            key("f", FunctionVersion::Number(9)),
            key("f", FunctionVersion::Number(10)),
            key("f-1", FunctionVersion::Latest),
        ];
        assert!(keys.is_sorted());
    }
}
