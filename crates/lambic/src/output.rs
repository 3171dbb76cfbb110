//! Answers on stdout: tables for people, JSON for programs.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use serde_json::{Map, Value};

/// The rows that a statement gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    pub columns: Vec<String>,
    /// SQL types of the columns; empty if they are not known.
    pub types: Vec<String>,
    /// A `numeric` is a string, because a number of [`Value`] is a double.
    pub rows: Vec<Vec<Value>>,
}

/// Whether values of an SQL type stand to the right.
fn is_number(sql_type: &str) -> bool {
    [
        "smallint",
        "integer",
        "bigint",
        "real",
        "double precision",
        "numeric",
        "oid",
    ]
    .contains(&sql_type)
}

impl Rows {
    /// The value of a column by name, `Null` if there is no such column.
    pub fn get<'a>(&self, row: &'a [Value], column: &str) -> &'a Value {
        static NULL: Value = Value::Null;
        self.columns
            .iter()
            .position(|name| name == column)
            .and_then(|index| row.get(index))
            .unwrap_or(&NULL)
    }

    pub fn objects(&self) -> Vec<Value> {
        self.rows
            .iter()
            .map(|row| {
                let pairs = self.columns.iter().cloned().zip(row.iter().cloned());
                Value::Object(pairs.collect::<Map<String, Value>>())
            })
            .collect()
    }

    /// Columns padded to their widest value, numbers to the right.
    pub fn table(&self) -> String {
        let cells: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(shown).collect())
            .collect();
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let widest = cells
                    .iter()
                    .map(|row| row.get(index).map_or(0, |c| width(c)));
                widest.chain([width(name)]).max().unwrap_or(0)
            })
            .collect();
        let numeric: Vec<bool> = (0..self.columns.len())
            .map(|index| {
                if let Some(sql_type) = self.types.get(index) {
                    return is_number(sql_type);
                }
                let mut values = self
                    .rows
                    .iter()
                    .filter_map(|row| row.get(index))
                    .filter(|v| !v.is_null());
                values.clone().next().is_some() && values.all(Value::is_number)
            })
            .collect();
        let line = |cells: &[String]| {
            let padded: Vec<String> = cells
                .iter()
                .zip(widths.iter().zip(&numeric))
                .map(|(cell, (&column, &right))| {
                    let space = " ".repeat(column.saturating_sub(width(cell)));
                    if right {
                        format!("{space}{cell}")
                    } else {
                        format!("{cell}{space}")
                    }
                })
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        let mut lines = vec![line(&self.columns), rule.join("  ")];
        lines.extend(cells.iter().map(|row| line(row)));
        lines.join("\n") + "\n"
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        // A row is a line, and a table is for people.
        Value::String(text) => visible(&text.replace(['\n', '\r', '\t'], " ")).into_owned(),
        other => other.to_string(),
    }
}

/// Whether a terminal would do something for this character instead of showing it, or show what follows it in another
/// order than it is written, or not show it at all.
fn acts(c: char) -> bool {
    let is_of_layout = matches!(c, '\n' | '\t');
    (c.is_control() && !is_of_layout) || is_of_format(c)
}

/// Unicode's format characters (Cf) without a shape of their own. The two joiners (U+200C, U+200D) are left: Persian, Hindi
/// and emoji are not written without them.
fn is_of_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0001}'
            | '\u{e0020}'..='\u{e007f}'
    )
}

/// A text that others wrote, for a terminal: what would act on it is shown as `\x1b` or `\u{202e}`. Ends of lines and
/// tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        // Writing into a text cannot fail.
        let _ = match u32::from(c) {
            _ if !acts(c) => shown.write_char(c),
            code if code < 0x100 => write!(shown, "\\x{code:02x}"),
            code => write!(shown, "\\u{{{code:x}}}"),
        };
    }
    Cow::Owned(shown)
}

/// The same of JSON, which it stays: serde_json leaves some of these characters in texts as they are.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    if !json.contains(acts) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if !acts(c) {
            shown.push(c);
            continue;
        }
        // JSON writes what lies above U+FFFF as two.
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(shown, "\\u{unit:04x}");
        }
    }
    Cow::Owned(shown)
}

/// What a function wrote: as it is for a file or a program, and so that it cannot act on a terminal.
pub fn foreign(text: &str, is_terminal: bool) -> Cow<'_, str> {
    match is_terminal {
        true => visible(text),
        false => Cow::Borrowed(text),
    }
}

/// `1 record`, `2 records`.
pub fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

pub fn print_json(value: &Value) -> anyhow::Result<()> {
    let text = if io::stdout().is_terminal() {
        visible_json(&serde_json::to_string_pretty(value)?).into_owned()
    } else {
        serde_json::to_string(value)?
    };
    print(&(text + "\n"))
}

/// Rows as a table, or as an array of objects.
pub fn print_rows(rows: &Rows, json: bool) -> anyhow::Result<()> {
    if json {
        print_json(&Value::Array(rows.objects()))
    } else {
        print(&rows.table())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_shown_for_people_and_programs() {
        let rows = Rows {
            columns: vec!["name".into(), "flights".into()],
            types: Vec::new(),
            rows: vec![
                vec![json!("ATL"), json!(12)],
                vec![json!("a,\"b\""), json!(null)],
            ],
        };
        expect_test::expect![[r#"
            name   flights
            ─────  ───────
            ATL         12
            a,"b"     NULL
        "#]]
        .assert_eq(&rows.table());
        assert_eq!(rows.objects()[0], json!({"name": "ATL", "flights": 12}));
    }

    #[test]
    fn what_would_act_on_a_terminal_is_shown() {
        for (text, expected) in [
            ("plain – ü 語\n\tindented", "plain – ü 語\n\tindented"),
            ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("over\rwritten\x08\x7f", "over\\x0dwritten\\x08\\x7f"),
            // The one-byte form of `ESC [`, and a change of direction.
            ("\u{9b}2J", "\\x9b2J"),
            ("a\u{202e}b", "a\\u{202e}b"),
            // What is not seen, and what only turns what is beside it.
            ("a\u{200f}b\u{200b}", "a\\u{200f}b\\u{200b}"),
            ("\u{feff}a\u{ad}", "\\u{feff}a\\xad"),
            ("a\u{e0041}", "a\\u{e0041}"),
            (
                "👩\u{200d}🔬 می\u{200c}خواهم",
                "👩\u{200d}🔬 می\u{200c}خواهم",
            ),
        ] {
            assert_eq!(visible(text), expected);
            assert_eq!(foreign(text, false), text);
        }
        let value = json!({ "a": "\u{9b}2J\x1b\u{202e}\u{200f}\u{e0041}" });
        let shown = visible_json(&value.to_string()).into_owned();
        assert_eq!(shown, r#"{"a":"\u009b2J\u001b\u202e\u200f\udb40\udc41"}"#);
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
        assert_eq!(super::shown(&json!("a\n\x1b[2Jb")), "a \\x1b[2Jb");
    }
}
