//! A place in a file that the user wrote, and how it is shown.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The whole line.
    pub text: String,
}

impl Place {
    /// The place of a byte of `source`; past the end is the end.
    pub fn at_byte(file: &Path, source: &str, byte: usize) -> Place {
        let mut byte = byte.min(source.len());
        while !source.is_char_boundary(byte) {
            byte -= 1;
        }
        let before = &source[..byte];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: source[line_start..byte].chars().count() + 1,
            text: source[line_start..]
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// The place of a character (from 1) of the part of `source` that starts at byte `start`.
    pub fn at_char(file: &Path, source: &str, start: usize, position: usize) -> Place {
        let byte = source[start..]
            .char_indices()
            .nth(position.saturating_sub(1))
            .map_or(source.len(), |(byte, _)| start + byte);
        Place::at_byte(file, source, byte)
    }

    /// Where a text stops being JSON.
    pub fn of_json(file: &Path, source: &str, error: &serde_json::Error) -> Place {
        let lines = source.split_inclusive('\n');
        let before: usize = lines
            .take(error.line().saturating_sub(1))
            .map(str::len)
            .sum();
        // The column counts what was read of the line: a line's end that was read stands in the line before.
        Place::at_byte(file, source, (before + error.column()).saturating_sub(1))
    }

    /// `file:line:column: message`, the line with a caret below, the hint.
    pub fn render(&self, message: &str, hint: Option<&str>) -> String {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let indent: String = self
            .text
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let mut shown = format!(
            "{}:{}:{}: {message}\n  {number} | {}\n  {margin} | {indent}^",
            self.file.display(),
            self.line,
            self.column,
            self.text
        );
        if let Some(hint) = hint {
            shown.push_str("\n  ");
            shown.push_str(hint);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_json_is_found() {
        let check = |text: &str, line: usize, column: usize| {
            let error = serde_json::from_str::<serde_json::Value>(text).expect_err("it is none");
            let place = Place::of_json(Path::new("e.json"), text, &error);
            assert_eq!(
                (place.line, place.column),
                (line, column),
                "{text}: {error}"
            );
        };
        check("{\n  \"b\": nul\n}", 2, 11);
        check("{\n  \"b\": x\n}", 2, 8);
        check("", 1, 1);
        check("{}}", 1, 3);
    }

    #[test]
    fn bytes_and_characters_lead_to_the_same_place() {
        let source = "-- ü\nSELECT\n  größe FORM x";
        let byte = source.find("FORM").expect("it is there");
        let place = Place::at_byte(Path::new("v.sql"), source, byte);
        assert_eq!((place.line, place.column), (3, 9));
        let chars = source[..byte].chars().count() + 1;
        assert_eq!(Place::at_char(Path::new("v.sql"), source, 0, chars), place);
        assert_eq!(Place::at_byte(Path::new("v.sql"), source, 1_000).line, 3);
    }
}
