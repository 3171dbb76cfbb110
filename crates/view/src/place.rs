//! Where in a text something stands: the tokenizer tells lines and columns, others want indices.

use datafusion::sql::sqlparser::tokenizer::Location;

/// Turns the tokenizer's places, which ascend, into indices while reading the text once.
pub struct Places<'a> {
    rest: std::str::Chars<'a>,
    line: u64,
    column: u64,
    byte: usize,
    char: usize,
}

impl<'a> Places<'a> {
    pub fn new(sql: &'a str) -> Places<'a> {
        Places {
            rest: sql.chars(),
            line: 1,
            column: 1,
            byte: 0,
            char: 0,
        }
    }

    /// Bytes and characters before a place that is not before the last one asked for.
    pub fn of(&mut self, place: Location) -> (usize, usize) {
        while (self.line, self.column) < (place.line, place.column)
            && let Some(next) = self.rest.next()
        {
            self.byte += next.len_utf8();
            self.char += 1;
            if next == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        (self.byte, self.char)
    }
}
