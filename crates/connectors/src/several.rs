//! A body with records of several streams, taken apart into one NDJSON body for each.
//!
//! | format | |
//! |---|---|
//! | JSON | `{"debits": [{…}, {…}], "credits": {…}}`: by stream a record, or a list of them |
//! | NDJSON | `{"stream": "debits", "record": {…}}` in each line |
//!
//! Records are not looked at here beyond their syntax: [`crate::decode_within`] checks each stream's.

use crate::{
    Error, Format,
    error::{Mismatch, Place},
    json::{Lines, Scanner, broken, not_utf8, without_mark},
};

/// The records of one stream, one in each line, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub stream: String,
    pub body: String,
}

/// The streams that are named, in the order in which they come first, and how many bytes the part of each has.
pub fn sizes(
    format: Format,
    body: &[u8],
    streams_max: usize,
) -> Result<Vec<(String, usize)>, Error> {
    let mut sizes: Vec<(String, usize)> = Vec::new();
    let mut too_many = false;
    each(format, body, &mut |stream, record, _line| {
        let bytes = record.map_or(0, |record| record.len() + 1);
        match sizes.iter_mut().find(|(known, _)| known == stream) {
            Some((_, size)) => *size += bytes,
            None => sizes.push((stream.to_owned(), bytes)),
        }
        too_many = sizes.len() > streams_max;
        !too_many
    })?;
    match too_many {
        false => Ok(sizes),
        true => Err(Error::Input {
            format: format.name(),
            reason: format!("it names more than {streams_max} streams"),
        }),
    }
}

/// The parts of `sizes`: copies that all together are not larger than `body`.
pub fn parts(format: Format, body: &[u8], sizes: Vec<(String, usize)>) -> Result<Vec<Part>, Error> {
    let parts = sizes.into_iter().map(|(stream, bytes)| Part {
        stream,
        body: String::with_capacity(bytes),
    });
    let mut parts: Vec<Part> = parts.collect();
    each(format, body, &mut |stream, record, _line| {
        let part = parts.iter_mut().find(|part| part.stream == stream);
        if let (Some(part), Some(record)) = (part, record) {
            // Line breaks stand only between values, where a blank is the same.
            part.body.extend(record.chars().map(|c| match c {
                '\n' | '\r' => ' ',
                c => c,
            }));
            part.body.push('\n');
        }
        true
    })?;
    Ok(parts)
}

/// The line of `body` at which the record stands that is line `part_line` of its stream's part.
///
/// Errors are rare, so the body is read again for them instead of keeping every record's line.
pub fn line_of(format: Format, body: &[u8], stream: &str, part_line: u64) -> Option<u64> {
    let mut found = None;
    let mut seen = 0;
    let read = each(format, body, &mut |name, record, line| {
        if name == stream && record.is_some() {
            seen += 1;
            if seen == part_line {
                found = Some(line);
            }
        }
        found.is_none()
    });
    read.ok().and(found)
}

/// Takes a stream, one of its records, and the line where that begins; `false` ends the reading. A stream with an
/// empty list of records comes once, without a record.
type Taker<'t> = &'t mut dyn FnMut(&str, Option<&str>, u64) -> bool;

fn each(format: Format, body: &[u8], take: Taker<'_>) -> Result<(), Error> {
    let body = without_mark(body);
    match format {
        Format::Ndjson => each_line(body, take),
        Format::Json => each_member(body, take),
        Format::Csv | Format::Parquet | Format::Arrow => Err(Error::Input {
            format: format.name(),
            reason: "it holds the records of one stream only".to_owned(),
        }),
    }
}

fn each_line(body: &[u8], take: Taker<'_>) -> Result<(), Error> {
    for (number, line) in (1..).zip(body.split(|&byte| byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let at = |mismatch: Mismatch| {
            let raw = String::from_utf8_lossy(line);
            Error::record(mismatch.at(Place::Line, number, raw.trim_end()))
        };
        let text = std::str::from_utf8(line).map_err(|_| at(not_utf8()))?;
        let (stream, record) = enveloped(text).map_err(at)?;
        if !take(&stream, Some(record), number) {
            return Ok(());
        }
    }
    Ok(())
}

/// `{"stream": "…", "record": {…}}`, in any order.
fn enveloped(text: &str) -> Result<(String, &str), Mismatch> {
    let mut scanner = Scanner::new(text);
    let (mut stream, mut record) = (None, None);
    scanner.skip_space();
    if !scanner.take(b'{') {
        return Err(scanner.expected("{\"stream\": …, \"record\": …}"));
    }
    loop {
        scanner.skip_space();
        if scanner.peek() != Some(b'"') {
            return Err(scanner.expected("\"stream\" or \"record\""));
        }
        let before = scanner.at;
        let name = scanner.string()?.into_owned();
        scanner.skip_space();
        if !scanner.take(b':') {
            return Err(scanner.expected("`:` after a name"));
        }
        scanner.skip_space();
        let start = scanner.at;
        match name.as_str() {
            "stream" if stream.is_none() && scanner.peek() == Some(b'"') => {
                stream = Some(scanner.string()?.into_owned());
            }
            "record" if record.is_none() => {
                scanner.value(0)?;
                record = Some(&text[start..scanner.at]);
            }
            _ => {
                let found = text[before..].chars().take(20).collect::<String>();
                return Err(Mismatch::new(
                    "\"stream\", a name, and \"record\", an object, each once",
                    found,
                ));
            }
        }
        scanner.skip_space();
        if scanner.take(b',') {
            continue;
        }
        if !scanner.take(b'}') {
            return Err(scanner.expected("`,` or `}` after a value"));
        }
        scanner.skip_space();
        if scanner.peek().is_some() {
            return Err(scanner.expected("the end of the line"));
        }
        return match (stream, record) {
            (Some(stream), Some(record)) => Ok((stream, record)),
            (None, _) => Err(Mismatch::new("\"stream\"", "none")),
            (_, None) => Err(Mismatch::new("\"record\"", "none")),
        };
    }
}

fn each_member(body: &[u8], take: Taker<'_>) -> Result<(), Error> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = 1 + crate::json::newlines(&body[..error.valid_up_to()]);
        Error::record(not_utf8().at(Place::Line, line, ""))
    })?;
    let mut scanner = Scanner::new(text);
    let mut lines = Lines::default();
    members(&mut scanner, &mut lines, take)
        .map_err(|mismatch| broken(mismatch, &mut lines, &scanner))
}

fn members(scanner: &mut Scanner<'_>, lines: &mut Lines, take: Taker<'_>) -> Result<(), Mismatch> {
    let text = scanner.text;
    scanner.skip_space();
    if !scanner.take(b'{') {
        return Err(scanner.expected("an object of streams and their records"));
    }
    scanner.skip_space();
    let mut more = !scanner.take(b'}');
    while more {
        scanner.skip_space();
        if scanner.peek() != Some(b'"') {
            return Err(scanner.expected("a stream's name in double quotes"));
        }
        let stream = scanner.string()?;
        scanner.skip_space();
        if !scanner.take(b':') {
            return Err(scanner.expected("`:` after a stream's name"));
        }
        scanner.skip_space();
        let in_list = scanner.take(b'[');
        scanner.skip_space();
        let mut records = !(in_list && scanner.take(b']'));
        if !records && !take(&stream, None, lines.of(text, scanner.at)) {
            return Ok(());
        }
        while records {
            scanner.skip_space();
            let start = scanner.at;
            scanner.value(0)?;
            let record = &text[start..scanner.at];
            if !take(&stream, Some(record), lines.of(text, start)) {
                return Ok(());
            }
            scanner.skip_space();
            records = in_list && scanner.take(b',');
            if in_list && !records && !scanner.take(b']') {
                return Err(scanner.expected("`,` or `]` after a record"));
            }
        }
        scanner.skip_space();
        more = scanner.take(b',');
        if !more && !scanner.take(b'}') {
            return Err(scanner.expected("`,` or `}` after a stream's records"));
        }
    }
    scanner.skip_space();
    match scanner.peek() {
        Some(_) => Err(scanner.expected("the end of the input")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const STREAMS_MAX: usize = 3;

    fn check(format: Format, body: &str, expected: Expect) {
        let sizes = sizes(format, body.as_bytes(), STREAMS_MAX);
        let shown = match sizes.and_then(|sizes| parts(format, body.as_bytes(), sizes)) {
            Ok(parts) => {
                assert!(
                    parts
                        .iter()
                        .all(|part| part.body.len() == part.body.capacity())
                );
                let parts = parts
                    .iter()
                    .map(|part| format!("{}: {:?}", part.stream, part.body));
                parts.collect::<Vec<_>>().join("; ")
            }
            Err(error) => format!("error: {error}"),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn json_is_an_object_of_streams() {
        check(
            Format::Json,
            "{\"a\": [{\"x\": 1},\n {\"x\":\n 2}], \"b\": {\"y\": \"]\"}, \"c\": [], \"a\": 7}",
            expect![[r#"a: "{\"x\": 1}\n{\"x\":  2}\n7\n"; b: "{\"y\": \"]\"}\n"; c: """#]],
        );
        check(Format::Json, " {} ", expect![""]);
        check(
            Format::Json,
            "{\"a\": [{}]\n, \"b\": [{} {}]}",
            expect![[
                r#"error: line 2: expected valid JSON: `,` or `]` after a record, found "{}]}""#
            ]],
        );
        check(
            Format::Json,
            "[{}]",
            expect![[
                r#"error: line 1: expected valid JSON: an object of streams and their records, found "[{}]""#
            ]],
        );
        check(
            Format::Json,
            "{\"a\": {}} {}",
            expect![[r#"error: line 1: expected valid JSON: the end of the input, found "{}""#]],
        );
        check(
            Format::Json,
            "{\"a\": [], \"b\": [], \"c\": [], \"d\": []}",
            expect!["error: the JSON input cannot be read: it names more than 3 streams"],
        );
    }

    #[test]
    fn ndjson_names_the_stream_in_each_line() {
        check(
            Format::Ndjson,
            "{\"stream\": \"a\", \"record\": {\"x\": 1}}\r\n\n{\"record\":{},\"stream\":\"b\"}\n{\"stream\":\"a\",\"record\":{\"x\":2}}",
            expect![[r#"a: "{\"x\": 1}\n{\"x\":2}\n"; b: "{}\n""#]],
        );
        for (line, expected) in [
            (
                "{\"stream\": \"a\"}",
                expect![[r#"error: line 2: expected "record", found none"#]],
            ),
            (
                "{\"record\": {}}",
                expect![[r#"error: line 2: expected "stream", found none"#]],
            ),
            (
                "{\"stream\": 1, \"record\": {}}",
                expect![[
                    r#"error: line 2: expected "stream", a name, and "record", an object, each once, found "stream": 1, "record"#
                ]],
            ),
            (
                "{\"strem\": \"a\", \"record\": {}}",
                expect![[
                    r#"error: line 2: expected "stream", a name, and "record", an object, each once, found "strem": "a", "recor"#
                ]],
            ),
            (
                "{\"x\": 1",
                expect![[
                    r#"error: line 2: expected "stream", a name, and "record", an object, each once, found "x": 1"#
                ]],
            ),
        ] {
            let body = format!("{{\"stream\":\"a\",\"record\":{{}}}}\n{line}");
            check(Format::Ndjson, &body, expected);
        }
        check(
            Format::Csv,
            "a,b\n",
            expect!["error: the CSV input cannot be read: it holds the records of one stream only"],
        );
    }

    #[test]
    fn a_records_line_is_found_again() {
        let json = "{\"a\": [\n{},\n{}], \"b\": [{},\n\n{}],\n\"a\": {}}";
        let line = |stream, number| line_of(Format::Json, json.as_bytes(), stream, number);
        let found: Vec<_> = (1..5).map(|number| line("a", number)).collect();
        assert_eq!(found, [Some(2), Some(3), Some(6), None]);
        assert_eq!((line("b", 1), line("b", 2)), (Some(3), Some(5)));
        let ndjson = "\n{\"stream\":\"a\",\"record\":1}\n{\"stream\":\"b\",\"record\":1}\n{\"stream\":\"a\",\"record\":1}";
        let line = |number| line_of(Format::Ndjson, ndjson.as_bytes(), "a", number);
        assert_eq!((line(1), line(2), line(3)), (Some(2), Some(4), None));
    }
}
