//! Timestamps as Postgres lets people write them.
//!
//! Arrow reads `2026-01-01 10:00:00` and `2026-01-01`; Postgres also takes `2026-01-01 10:00` and an hour
//! alone (documentation, chapter 8.5.1).

use std::borrow::Cow;

/// `2026-01-01 10:00+02` with seconds; whatever has another form comes back as it is.
pub fn complete(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| {
        bytes.len() >= to && bytes[from..to].iter().all(u8::is_ascii_digit)
    };
    let at = |index: usize, wanted: &[u8]| bytes.get(index).is_some_and(|b| wanted.contains(b));
    let date = digits(0, 4) && at(4, b"-") && digits(5, 7) && at(7, b"-") && digits(8, 10);
    if !(date && at(10, b" Tt") && digits(11, 13)) {
        return Cow::Borrowed(text);
    }
    let (end, missing) = match bytes.get(13) {
        Some(b':') if digits(14, 16) && !at(16, b":") => (16, ":00"),
        None | Some(b'+' | b'-' | b'Z' | b'z' | b' ') => (13, ":00:00"),
        _ => return Cow::Borrowed(text),
    };
    Cow::Owned(format!("{}{missing}{}", &text[..end], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_completed() {
        let cases = [
            ("2026-01-01 10:00", "2026-01-01 10:00:00"),
            ("2026-01-01T10:00Z", "2026-01-01T10:00:00Z"),
            ("2026-01-01 10:00+02", "2026-01-01 10:00:00+02"),
            (" 2026-01-01 10 ", "2026-01-01 10:00:00"),
            ("2026-01-01 10+02:00", "2026-01-01 10:00:00+02:00"),
            ("2026-01-01 10:00:07.5", "2026-01-01 10:00:07.5"),
            ("2026-01-01", "2026-01-01"),
            ("2026-01-01 1:00", "2026-01-01 1:00"),
            ("noon", "noon"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(complete(text), expected, "{text:?}");
        }
    }
}
