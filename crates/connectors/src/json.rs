//! NDJSON and JSON arrays, strictly by RFC 8259, read straight into columns.
//!
//! Numbers keep their digits as written until the column decides: a decimal loses none, an integer is never read
//! through a float. Names given twice, lone surrogates and anything behind a record are refused.

use std::borrow::Cow;

use lambic_model::Stream;

use crate::{
    Decoded, Error, OnError,
    column::{self, Columns, Scalar},
    decode::{Budget, record_bytes, reject},
    error::{Mismatch, Place, escaped, shown},
};

/// Deeper nesting is refused: no column can take it, and skipping it must not exhaust anything.
const DEPTH_MAX: usize = 128;

/// One object per line; lines of white space are passed over.
pub(crate) fn decode_lines(
    stream: &Stream,
    body: &[u8],
    on_error: OnError,
    mut budget: Budget,
) -> Result<Decoded, Error> {
    let mut columns = Columns::new(stream)?;
    let record_bytes = record_bytes(stream);
    let mut decoded = Decoded::default();
    let body = without_mark(body);
    for (number, line) in (1..).zip(body.split(|&byte| byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let result = match std::str::from_utf8(line) {
            Ok(text) => line_record(text, &mut columns),
            Err(_) => Err(not_utf8()),
        };
        match result.and_then(|()| columns.finish_record()) {
            Ok(batch) => {
                budget.take(record_bytes)?;
                decoded.batches.extend(batch);
            }
            Err(mismatch) => {
                columns.abandon_record();
                let raw = escaped(line);
                let raw = raw.strip_suffix('\r').unwrap_or(&raw);
                reject(
                    mismatch.at(Place::Line, number, raw),
                    on_error,
                    &mut decoded,
                    &mut budget,
                )?;
            }
        }
    }
    decoded.batches.extend(columns.finish());
    Ok(decoded)
}

fn line_record(text: &str, columns: &mut Columns) -> Result<(), Mismatch> {
    let mut scanner = Scanner::new(text);
    let record = scanner.record(columns)?;
    scanner.skip_space();
    if scanner.peek().is_some() {
        return Err(scanner.expected("the end of the line"));
    }
    record
}

/// An array of objects, or one object.
pub(crate) fn decode_array(
    stream: &Stream,
    body: &[u8],
    on_error: OnError,
    mut budget: Budget,
) -> Result<Decoded, Error> {
    let mut columns = Columns::new(stream)?;
    let record_bytes = record_bytes(stream);
    let mut decoded = Decoded::default();
    let body = without_mark(body);
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = 1 + newlines(&body[..error.valid_up_to()]);
        Error::record(not_utf8().at(Place::Line, line, ""))
    })?;
    let mut scanner = Scanner::new(text);
    let mut lines = Lines::default();
    scanner.skip_space();
    let in_array = scanner.take(b'[');
    scanner.skip_space();
    let mut more = !(in_array && scanner.take(b']'));
    let mut number = 0;
    while more {
        number += 1;
        scanner.skip_space();
        let start = scanner.at;
        // Where the syntax is broken, what follows cannot be told apart: even skipping ends here.
        let record = scanner
            .record(&mut columns)
            .map_err(|mismatch| broken(mismatch, &mut lines, &scanner))?;
        match record.and_then(|()| columns.finish_record()) {
            Ok(batch) => {
                budget.take(record_bytes)?;
                decoded.batches.extend(batch);
            }
            Err(mismatch) => {
                columns.abandon_record();
                let line = lines.of(text, start);
                let bad = mismatch.at(Place::Record { line }, number, &text[start..scanner.at]);
                reject(bad, on_error, &mut decoded, &mut budget)?;
            }
        }
        scanner.skip_space();
        more = in_array && scanner.take(b',');
        if in_array && !more && !scanner.take(b']') {
            let mismatch = scanner.expected("`,` or `]` after a record");
            return Err(broken(mismatch, &mut lines, &scanner));
        }
    }
    scanner.skip_space();
    if scanner.peek().is_some() {
        let mut mismatch = scanner.expected("the end of the input");
        if !in_array {
            mismatch = mismatch.hint("for one record per line send it as NDJSON");
        }
        return Err(broken(mismatch, &mut lines, &scanner));
    }
    decoded.batches.extend(columns.finish());
    Ok(decoded)
}

pub(crate) fn broken(mismatch: Mismatch, lines: &mut Lines, scanner: &Scanner<'_>) -> Error {
    let line = lines.of(scanner.text, scanner.at);
    Error::record(mismatch.at(Place::Line, line, ""))
}

pub(crate) fn not_utf8() -> Mismatch {
    Mismatch::new("UTF-8 text", "bytes that are not UTF-8")
}

/// Without the byte order mark that some editors put in front.
pub(crate) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

pub(crate) fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Line numbers of ascending positions, counting every byte once.
#[derive(Default)]
pub(crate) struct Lines {
    counted: usize,
    before: u64,
}

impl Lines {
    pub fn of(&mut self, text: &str, at: usize) -> u64 {
        let at = at.min(text.len());
        if at > self.counted {
            self.before += newlines(&text.as_bytes()[self.counted..at]);
            self.counted = at;
        }
        self.before + 1
    }
}

pub(crate) struct Scanner<'a> {
    pub text: &'a str,
    bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Scanner<'a> {
        Scanner {
            text,
            bytes: text.as_bytes(),
            at: 0,
        }
    }

    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    pub fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// What is wrong at the present place.
    pub fn expected(&self, expected: &str) -> Mismatch {
        let found = match self.text.get(self.at..).unwrap_or_default() {
            "" => "the end".to_owned(),
            rest => shown(&rest.chars().take(20).collect::<String>()),
        };
        Mismatch::new(format!("valid JSON: {expected}"), found)
    }

    /// One object. The outer error is broken syntax, the inner one a value that does not fit; then the object was
    /// still read to its end.
    fn record(&mut self, columns: &mut Columns) -> Result<Result<(), Mismatch>, Mismatch> {
        self.skip_space();
        if self.peek() != Some(b'{') {
            let start = self.at;
            let Ok(scalar) = self.value(0) else {
                return Err(self.expected("an object"));
            };
            let found = match scalar {
                Scalar::Array => "an array".to_owned(),
                _ => shown(&self.text[start..self.at]),
            };
            return Ok(Err(Mismatch::new("an object", found)));
        }
        self.at += 1;
        let mut result = Ok(());
        self.skip_space();
        if self.take(b'}') {
            return Ok(result);
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a column's name in double quotes"));
            }
            let name = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return Err(self.expected("`:` after a column's name"));
            }
            self.skip_space();
            let scalar = self.value(1)?;
            if result.is_ok() {
                result = columns.place(&name).and_then(|place| match place {
                    column::Place::Column(index) => columns.set_scalar(index, &scalar),
                    column::Place::Dropped => Ok(()),
                });
            }
            self.skip_space();
            if self.take(b',') {
                continue;
            }
            if self.take(b'}') {
                return Ok(result);
            }
            return Err(self.expected("`,` or `}` after a value"));
        }
    }

    pub fn value(&mut self, depth: usize) -> Result<Scalar<'a>, Mismatch> {
        match self.peek() {
            Some(b'"') => Ok(Scalar::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => Ok(Scalar::Number(self.number()?)),
            Some(b't') => self.word("true", Scalar::Bool(true)),
            Some(b'f') => self.word("false", Scalar::Bool(false)),
            Some(b'n') => self.word("null", Scalar::Null),
            Some(b'[' | b'{') => self.nested(depth),
            _ => Err(self.expected("a value")),
        }
    }

    fn word(&mut self, word: &str, scalar: Scalar<'a>) -> Result<Scalar<'a>, Mismatch> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(scalar)
    }

    /// Passes over an array or object, checking its syntax.
    fn nested(&mut self, depth: usize) -> Result<Scalar<'a>, Mismatch> {
        if depth >= DEPTH_MAX {
            return Err(self.expected("at most 128 levels of nesting"));
        }
        let is_object = self.peek() == Some(b'{');
        let (end, what) = if is_object {
            (b'}', Scalar::Object)
        } else {
            (b']', Scalar::Array)
        };
        self.at += 1;
        self.skip_space();
        if self.take(end) {
            return Ok(what);
        }
        loop {
            self.skip_space();
            if is_object {
                if self.peek() != Some(b'"') {
                    return Err(self.expected("a name in double quotes"));
                }
                self.string()?;
                self.skip_space();
                if !self.take(b':') {
                    return Err(self.expected("`:` after a name"));
                }
                self.skip_space();
            }
            self.value(depth + 1)?;
            self.skip_space();
            if self.take(b',') {
                continue;
            }
            if self.take(end) {
                return Ok(what);
            }
            return Err(self.expected("`,` or the end of an array or object"));
        }
    }

    fn digits(&mut self) -> Result<(), Mismatch> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.expected("a digit"));
        }
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Mismatch> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        } else if let Some(b'0'..=b'9') = self.peek() {
            return Err(self.expected("no leading 0 in a number"));
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// The present byte is the opening quote.
    pub fn string(&mut self) -> Result<Cow<'a, str>, Mismatch> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
                }
                Some(b'\\') => return self.escaped(start).map(Cow::Owned),
                Some(0..0x20) => {
                    return Err(self.expected("control characters escaped in a string"));
                }
                Some(_) => self.at += 1,
                None => return Err(self.expected("the closing `\"` of a string")),
            }
        }
    }

    /// The rest of a string that has an escape at the present place.
    fn escaped(&mut self, start: usize) -> Result<String, Mismatch> {
        let mut value = self.text[start..self.at].to_owned();
        let mut copied = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    value.push_str(&self.text[copied..self.at]);
                    self.at += 1;
                    return Ok(value);
                }
                Some(b'\\') => {
                    value.push_str(&self.text[copied..self.at]);
                    self.at += 1;
                    value.push(self.escape()?);
                    copied = self.at;
                }
                Some(0..0x20) => {
                    return Err(self.expected("control characters escaped in a string"));
                }
                Some(_) => self.at += 1,
                None => return Err(self.expected("the closing `\"` of a string")),
            }
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self) -> Result<char, Mismatch> {
        let escaped = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.expected("an escape such as `\\n` or `\\u00e9`")),
        };
        self.at += 1;
        Ok(escaped)
    }

    fn unicode(&mut self) -> Result<char, Mismatch> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if !(self.take(b'\\') && self.take(b'u')) {
                return Err(self.expected("the second half of a surrogate pair"));
            }
            let second = self.hex4()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.expected("the second half of a surrogate pair"));
            }
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.expected("no lone half of a surrogate pair"))
    }

    fn hex4(&mut self) -> Result<u32, Mismatch> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self
                .peek()
                .and_then(|byte| (byte as char).to_digit(16))
                .ok_or_else(|| self.expected("four hex digits after `\\u`"))?;
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// True if the scanner takes the whole text as one JSON value.
    fn accepts(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.skip_space();
        if scanner.value(0).is_err() {
            return false;
        }
        scanner.skip_space();
        scanner.peek().is_none()
    }

    /// Pieces that often make JSON, and often almost.
    fn almost_json() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"",
            "\\",
            "\\n",
            "\\u00e9",
            "\\ud83d\\ude00",
            "\\ud800",
            "0",
            "1",
            "-",
            ".",
            "e5",
            "E+1",
            "null",
            "true",
            "false",
            "nul",
            " ",
            "\n",
            "\t",
            "\u{1}",
            "é",
            "😀",
            "{\"a\":1}",
            "[1,2]",
        ]);
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn it_accepts_what_serde_json_accepts(text in almost_json()) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            // A number too large for a float is JSON all the same: what it is too large for, the column says.
            let too_large = matches!(&theirs, Err(error) if error.to_string().contains("out of range"));
            prop_assume!(!too_large);
            prop_assert_eq!(accepts(&text), theirs.is_ok());
        }

        #[test]
        fn strings_are_read_as_serde_json_reads_them(text in any::<String>()) {
            for json in [
                serde_json::to_string(&text).unwrap(),
                format!("\"{}\"", text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect::<String>()),
            ] {
                let mut scanner = Scanner::new(&json);
                prop_assert_eq!(scanner.value(0), Ok(Scalar::Text(Cow::Owned(text.clone()))));
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |levels| "[".repeat(levels) + &"]".repeat(levels);
        assert!(accepts(&deep(128)));
        assert!(!accepts(&deep(129)));
        assert!(!accepts(&"[".repeat(1_000_000)));
    }
}
