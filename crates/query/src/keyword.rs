//! Suggestions for misspelt keywords.

const KEYWORDS: [&str; 45] = [
    "select",
    "from",
    "where",
    "group",
    "order",
    "having",
    "limit",
    "insert",
    "into",
    "values",
    "create",
    "stream",
    "table",
    "materialized",
    "view",
    "drop",
    "erase",
    "refresh",
    "subscribe",
    "alter",
    "audit",
    "backup",
    "compact",
    "explain",
    "distinct",
    "join",
    "left",
    "inner",
    "on",
    "union",
    "with",
    "as",
    "replace",
    "exists",
    "by",
    "between",
    "like",
    "case",
    "when",
    "then",
    "else",
    "end",
    "show",
    "offset",
    "update",
];

/// A hint if the word at or just before `position` looks like a misspelt keyword.
pub fn suggestion(sql: &str, position: Option<usize>) -> Option<String> {
    let position = position?;
    let mut at = 1;
    let mut nearest: Vec<&str> = Vec::new();
    for word in sql.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_')) {
        let name = word.trim_end_matches(|c: char| !(c.is_alphanumeric() || c == '_'));
        if at <= position && !name.is_empty() {
            nearest.push(name);
        }
        at += word.chars().count();
    }
    nearest.iter().rev().take(2).find_map(|word| {
        let word = word.to_ascii_lowercase();
        if KEYWORDS.contains(&word.as_str()) {
            return None;
        }
        let keywords = KEYWORDS.map(str::to_owned);
        let best = crate::error::closest(&word, &keywords)?;
        Some(format!("did you mean {}?", best.to_uppercase()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_at_the_error_is_compared() {
        assert_eq!(
            suggestion("selct 1", Some(1)).as_deref(),
            Some("did you mean SELECT?")
        );
        assert_eq!(
            suggestion("select a form b", Some(15)).as_deref(),
            Some("did you mean FROM?")
        );
        assert_eq!(suggestion("select 1", Some(8)), None);
    }
}
