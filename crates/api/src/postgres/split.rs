//! Cuts a simple query into its statements, so that each has its own tag, error and position.
//!
//! Pure. It knows quotes, dollar quotes and comments, nothing else of SQL.

/// One statement of a query string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Without the semicolon, without blanks and comments around it.
    pub text: &'a str,
    /// Characters of the query string before `text`: added to an error's position.
    pub chars_before: usize,
}

/// The statements of `sql`; blank ones and such that hold only comments are left out.
pub fn split(sql: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < sql.len() {
        if sql.as_bytes()[at] == b';' {
            push(sql, start, at, &mut pieces);
            at += 1;
            start = at;
        } else {
            at = skip(sql, at);
        }
    }
    push(sql, start, sql.len(), &mut pieces);
    pieces
}

fn push<'a>(sql: &'a str, start: usize, end: usize, pieces: &mut Vec<Piece<'a>>) {
    let start = start + (end - start - without_leading(&sql[start..end]).len());
    let text = sql[start..end].trim_end();
    if !text.is_empty() {
        let chars_before = sql[..start].chars().count();
        pieces.push(Piece { text, chars_before });
    }
}

/// `text` without the blanks and comments before its first word.
pub fn without_leading(text: &str) -> &str {
    let mut rest = text.trim_start();
    while rest.starts_with("--") || rest.starts_with("/*") {
        rest = rest[skip(rest, 0)..].trim_start();
    }
    rest
}

/// The end of the token that starts at `at`: one character, or a whole quoted text or comment.
fn skip(sql: &str, at: usize) -> usize {
    let rest = &sql[at..];
    let bytes = rest.as_bytes();
    let length = match bytes[0] {
        b'\'' => {
            let escapes = matches!(sql.as_bytes()[..at].last(), Some(b'e' | b'E'))
                && !sql[..at - 1].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            quoted(bytes, b'\'', escapes)
        }
        b'"' => quoted(bytes, b'"', false),
        b'-' if rest.starts_with("--") => rest.find('\n').map_or(rest.len(), |end| end + 1),
        b'/' if rest.starts_with("/*") => comment(bytes),
        b'$' => dollar_quoted(rest, &sql[..at]),
        _ => rest.chars().next().map_or(1, char::len_utf8),
    };
    at + length
}

fn quoted(bytes: &[u8], quote: u8, escapes: bool) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        if escapes && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at] == quote {
            return at + 1;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// Comments nest in Postgres.
fn comment(bytes: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// `$tag$ … $tag$`; a parameter such as `$1` is one character long here.
fn dollar_quoted(rest: &str, before: &str) -> usize {
    let inside_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
    let Some(tag_end) = rest[1..].find('$').map(|end| end + 2) else {
        return 1;
    };
    let tag = &rest[..tag_end];
    let name = &tag[1..tag.len() - 1];
    let is_tag = !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    if inside_word || !is_tag {
        return 1;
    }
    match rest[tag_end..].find(tag) {
        Some(end) => tag_end + end + tag.len(),
        None => rest.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        split(sql).into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_end_a_statement() {
        assert_eq!(
            texts("select ';'; select \"a;b\" -- no; end\n, 1; /* a; /* b; */ c; */ select 2"),
            ["select ';'", "select \"a;b\" -- no; end\n, 1", "select 2"]
        );
        assert_eq!(
            texts("select $$a;b$$, $x$;$$;$x$; select $1"),
            ["select $$a;b$$, $x$;$$;$x$", "select $1"]
        );
        assert_eq!(
            texts(r"select E'\';'; select 'it''s;'"),
            [r"select E'\';'", "select 'it''s;'"]
        );
    }

    #[test]
    fn empty_statements_are_left_out_and_positions_count_characters() {
        assert_eq!(texts(" ; ;; -- nothing\n;"), Vec::<&str>::new());
        let pieces = split("select 'é'; /* two */ select 2");
        assert_eq!(
            pieces[1],
            Piece {
                text: "select 2",
                chars_before: 22
            }
        );
    }

    #[test]
    fn unfinished_quotes_end_with_the_query() {
        for sql in [
            "select 'a",
            "select \"a;",
            "select $$a;",
            "/* a;",
            "$",
            "select E'\\",
        ] {
            assert!(split(sql).len() <= 1, "{sql}");
        }
    }
}
