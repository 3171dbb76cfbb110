//! What declares a view, and `ALTER MATERIALIZED VIEW`, read by the parser of `CREATE VIEW`.

use datafusion::sql::sqlparser::ast;
use lambic_view::window;

use super::{Part, Statement, named, plain, syntax};
use crate::{Error, as_of, sqlstate, version};

/// The text of what declares a view, as it is parsed.
pub fn text_of(part: &Part<'_>) -> Result<String, Error> {
    let sql = part.piece.text;
    version::refuse(sql, &part.tokens, "a view follows what it selects from")?;
    let (text, as_of) = as_of::taken_out(sql, &part.tokens)?;
    match as_of {
        None => Ok(text),
        Some(as_of) => Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            "a view follows its streams; it cannot stand AS OF one moment",
        )
        .with_position(Some(as_of.position))
        .with_hint("read the view AS OF that moment instead")),
    }
}

/// `ALTER MATERIALIZED VIEW` is `CREATE VIEW` to the parser; padded, so that positions stay.
fn as_create_view(text: &str, words: &[(usize, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let padded = ["     ", "CREATE VIEW ", "    "];
    for ((at, _), padded) in words.iter().zip(padded) {
        for (place, char) in chars[*at..].iter_mut().zip(padded.chars()) {
            *place = char;
        }
    }
    chars.into_iter().collect()
}

const ALTER_VIEW_EXPECTED: &str =
    "ALTER MATERIALIZED VIEW name AS SELECT …, or … ROLLBACK [TO VERSION 3], is expected";

/// `ALTER MATERIALIZED VIEW name {AS SELECT … | ROLLBACK [TO VERSION n]}`.
pub fn alter(
    part: &Part<'_>,
    words: &[(usize, String)],
    upper: &[&str],
) -> Result<Statement, Error> {
    // Behind the name, which may have a schema.
    let mut behind = 4;
    while upper.get(behind) == Some(&".") {
        behind += 2;
    }
    // Options and columns are refused where they are known.
    if let Some(&("AS" | "WITH" | "(")) = upper.get(behind) {
        let text = as_create_view(&text_of(part)?, words);
        return match plain(&window::readable(&text), part.piece.text)? {
            ast::Statement::CreateView(view) => Ok(Statement::AlterView(Box::new(view))),
            _ => Err(syntax(ALTER_VIEW_EXPECTED, 1)),
        };
    }
    let expected = ALTER_VIEW_EXPECTED;
    let at = upper.iter().position(|word| *word == "ROLLBACK");
    let at = at.ok_or_else(|| syntax(expected, 1))?;
    let name = named(&words[..at], 3)?;
    let version = match &upper[at + 1..] {
        [] => None,
        ["TO", "VERSION", number] => {
            let parsed = number.parse().ok();
            Some(parsed.ok_or_else(|| {
                syntax("the number of a version is expected", words[at + 3].0 + 1)
            })?)
        }
        _ => return Err(syntax(expected, words[at].0 + 1)),
    };
    Ok(Statement::RollbackView { name, version })
}
