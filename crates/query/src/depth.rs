//! How deep the tree of a statement can become, told from its tokens before it is parsed.
//!
//! The parser bounds nesting in parentheses, but it builds chains in loops: every link of `a + b + c`,
//! `a OR b OR c`, `x::int::text`, `… UNION …`, `a JOIN b JOIN c` and `a, b, c` in `FROM` is one more level
//! of the tree. Copying and freeing a tree recurses once per level, and a thread that runs out of stack
//! ends the whole process.

use datafusion::sql::sqlparser::{keywords::Keyword, tokenizer::Token};

use crate::{Error, sqlstate};

/// The stack of threads that run statements.
pub const STACK_BYTES: usize = 32 << 20;

/// Levels that fit into [`STACK_BYTES`] twice over, even without optimisation. Planning takes time by their square,
/// so that more would be of no use.
const DEPTH_MAX: usize = 1_000;

/// Subqueries in subqueries. Each level doubles the time in which the planner checks a statement.
const SUBQUERIES_MAX: usize = 10;

/// What the parser reads as a name if it is not what it looks like: with a mistake inside, twice at each level.
const RETRIED: [Keyword; 16] = [
    Keyword::BOX,
    Keyword::CEIL,
    Keyword::CIRCLE,
    Keyword::CONVERT,
    Keyword::EXTRACT,
    Keyword::FLOOR,
    Keyword::INTERVAL,
    Keyword::LINE,
    Keyword::LSEG,
    Keyword::OVERLAY,
    Keyword::PATH,
    Keyword::POINT,
    Keyword::POLYGON,
    Keyword::POSITION,
    Keyword::SUBSTR,
    Keyword::SUBSTRING,
];

/// Of [`RETRIED`] in one another.
const RETRIED_MAX: usize = 10;

/// Refuses what could become too deep.
pub fn check<'a>(tokens: impl Iterator<Item = &'a Token> + Clone) -> Result<(), Error> {
    let subqueries = subqueries(tokens.clone());
    if subqueries > SUBQUERIES_MAX {
        return Err(Error::new(
            sqlstate::STATEMENT_TOO_COMPLEX,
            format!(
                "subqueries are nested {subqueries} deep, and at most {SUBQUERIES_MAX} levels are taken"
            ),
        )
        .with_hint("write them in FROM, or one after another in one WITH"));
    }
    if retried(tokens.clone()) > RETRIED_MAX {
        return Err(Error::new(
            sqlstate::STATEMENT_TOO_COMPLEX,
            format!(
                "calls that have a syntax of their own, as EXTRACT, FLOOR and SUBSTRING, are nested more than {RETRIED_MAX} deep"
            ),
        ));
    }
    let depth = bound(tokens);
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    Err(Error::new(
        sqlstate::STATEMENT_TOO_COMPLEX,
        format!("the statement chains about {depth} operators, and at most {DEPTH_MAX} are taken"),
    )
    .with_hint(
        "write `x IN (…)` for many `x = … OR x = …`, a join with VALUES for long conditions, or several statements",
    ))
}

/// What stands between two parentheses, or in one `CASE`.
#[derive(Default)]
struct Level {
    /// Links of the present term, which `AND` and `OR` end: they bind less than all other operators.
    links: usize,
    /// The deepest level inside the present term.
    inner: usize,
    /// `AND` and `OR` since the last comma, and the deepest of the terms that they ended.
    logic: usize,
    terms: usize,
    /// The deepest of what commas ended: what they separate stands side by side.
    items: usize,
    /// Links that nothing ends: set operations, and the tables of a `FROM`.
    chain: usize,
    /// `BETWEEN`s whose `AND` is to come.
    between: usize,
    in_from: bool,
    is_case: bool,
}

impl Level {
    fn end_term(&mut self) {
        self.terms = self.terms.max(self.links + self.inner);
        self.links = 0;
        self.inner = 0;
    }

    fn end_item(&mut self) {
        self.end_term();
        self.items = self.items.max(self.logic + self.terms);
        self.logic = 0;
        self.terms = 0;
        self.between = 0;
    }

    fn depth(mut self) -> usize {
        self.end_item();
        self.items + self.chain
    }
}

/// What a table in `FROM` counts: planning takes time by the cube of their number.
const TABLE_LEVELS: usize = 8;
/// What a set operation counts: planning one takes more stack than an operator.
const UNION_LEVELS: usize = 4;

/// At least the depth of the tree; every operator and keyword is taken for a link.
fn bound<'a>(tokens: impl IntoIterator<Item = &'a Token>) -> usize {
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    let mut last = Keyword::NoKeyword;
    for token in tokens {
        let keyword = keyword(token);
        match (token, keyword) {
            (Token::LParen | Token::LBracket | Token::LBrace, _) | (_, Keyword::CASE) => {
                let inside = Level {
                    is_case: keyword == Keyword::CASE,
                    ..Level::default()
                };
                outer.push(std::mem::replace(&mut level, inside));
            }
            (Token::RParen | Token::RBracket | Token::RBrace, _) | (_, Keyword::END) => {
                if let Some(around) = outer.pop() {
                    close(&mut level, around);
                }
            }
            (Token::Comma, _) => {
                if level.in_from {
                    level.chain += TABLE_LEVELS;
                }
                level.end_item();
            }
            (_, Keyword::WHEN | Keyword::THEN | Keyword::ELSE) if level.is_case => level.end_item(),
            (_, Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::MINUS) => {
                level.chain += UNION_LEVELS;
                level.end_item();
            }
            (_, Keyword::JOIN) => {
                level.chain += TABLE_LEVELS;
                level.end_item();
            }
            (_, Keyword::AND) if level.between > 0 => {
                level.between -= 1;
                level.links += 1;
            }
            (_, Keyword::AND | Keyword::OR) => {
                level.logic += 1;
                level.end_term();
            }
            (
                Token::Word(_)
                | Token::Number(..)
                | Token::SingleQuotedString(_)
                | Token::EscapedStringLiteral(_)
                | Token::DollarQuotedString(_)
                | Token::Placeholder(_)
                | Token::Period,
                Keyword::NoKeyword,
            ) => {}
            _ => level.links += 1,
        }
        match keyword {
            // `IS DISTINCT FROM` names no tables.
            Keyword::BETWEEN => level.between += 1,
            Keyword::FROM => level.in_from = last != Keyword::DISTINCT,
            Keyword::SELECT
            | Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::WINDOW
            | Keyword::ORDER
            | Keyword::LIMIT => level.in_from = false,
            _ => {}
        }
        last = keyword;
    }
    while let Some(around) = outer.pop() {
        close(&mut level, around);
    }
    level.depth()
}

/// Goes back to the level around; what was inside is a link there too (`x[1][2]`, `f(a)(b)`).
fn close(level: &mut Level, around: Level) {
    let inside = std::mem::replace(level, around);
    level.inner = level.inner.max(inside.depth());
    level.links += 1;
}

/// What stands between two parentheses, for [`subqueries`].
#[derive(Default)]
struct Parenthesis {
    /// It is a subquery, and not a table of a `FROM` or a branch of a set operation.
    counts: bool,
    /// Tables or queries stand in it, not an expression.
    is_query: bool,
    in_from: bool,
}

/// How deep subqueries stand in one another. Those in `FROM` cost no more than what they are made of, and do not count.
fn subqueries<'a>(tokens: impl Iterator<Item = &'a Token>) -> usize {
    let mut tokens = tokens.peekable();
    let mut outer: Vec<Parenthesis> = Vec::new();
    let mut level = Parenthesis {
        is_query: true,
        ..Parenthesis::default()
    };
    let (mut deep, mut deepest) = (0, 0);
    // Whether a query or a table may begin here, as it may at the beginning, and the keyword before.
    let (mut begins, mut last) = (true, Keyword::NoKeyword);
    while let Some(token) = tokens.next() {
        let keyword = keyword(token);
        match token {
            Token::LParen => {
                let next = tokens
                    .peek()
                    .map_or(Keyword::NoKeyword, |next| self::keyword(next));
                let is_select = matches!(next, Keyword::SELECT | Keyword::WITH | Keyword::VALUES);
                let is_part = level.is_query && begins;
                let inside = Parenthesis {
                    counts: is_select && !is_part,
                    is_query: is_select || is_part,
                    // `FROM (a JOIN b …)`.
                    in_from: is_part && level.in_from,
                };
                deep += usize::from(inside.counts);
                deepest = deepest.max(deep);
                begins = inside.is_query;
                outer.push(std::mem::replace(&mut level, inside));
            }
            Token::RParen => {
                deep -= usize::from(level.counts);
                level = outer.pop().unwrap_or_default();
                begins = false;
            }
            Token::Comma => begins = level.in_from,
            _ => match keyword {
                Keyword::FROM if level.is_query && last != Keyword::DISTINCT => {
                    level.in_from = true;
                    begins = true;
                }
                Keyword::JOIN | Keyword::LATERAL => begins = level.in_from,
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::MINUS => {
                    level.in_from = false;
                    begins = true;
                }
                // Of a set operation.
                Keyword::ALL | Keyword::DISTINCT => {}
                Keyword::SELECT
                | Keyword::WHERE
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::WINDOW
                | Keyword::ORDER
                | Keyword::LIMIT => {
                    level.in_from = false;
                    begins = false;
                }
                _ => begins = false,
            },
        }
        last = keyword;
    }
    deepest
}

/// How deep words of [`RETRIED`] stand in one another, in parentheses or in a row.
fn retried<'a>(tokens: impl Iterator<Item = &'a Token>) -> usize {
    // Those before each open parenthesis, and those in a row.
    let mut open = Vec::new();
    let (mut outer, mut row, mut deepest) = (0, 0, 0);
    for token in tokens {
        match token {
            Token::LParen => {
                open.push(row);
                outer += row;
                row = 0;
            }
            Token::RParen => {
                outer -= open.pop().unwrap_or_default();
                row = 0;
            }
            Token::Plus | Token::Minus => {}
            _ if RETRIED.contains(&keyword(token)) => row += 1,
            _ => row = 0,
        }
        deepest = deepest.max(outer + row);
    }
    deepest
}

fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use lambic_view::postgres::Postgres;

    use super::*;

    fn of(sql: &str) -> usize {
        let tokens = Tokenizer::new(&Postgres, sql).tokenize().unwrap();
        let tokens = tokens
            .iter()
            .filter(|token| !matches!(token, Token::Whitespace(_)));
        bound(tokens)
    }

    #[test]
    fn chains_are_counted_whatever_they_are_made_of() {
        for (head, link) in [
            ("select 1", " + 1"),
            ("select a from t where a = 1", " or a = 1"),
            ("select a from t where f(a)", " and (a, 1) in (select 1, 2)"),
            ("select 1", "::int"),
            ("select 1::int", "[]"),
            ("select x", "[1]"),
            ("select 1::", "array<"),
            ("select a", " is null"),
            ("select a", " collate \"C\""),
            ("select a", " is distinct from b"),
            ("select 1, 2", " union all select 1, 2"),
            ("select * from t", " join t on true"),
            ("select * from t", ", t"),
            ("select ", "case when a then "),
            ("select ", "case a when 1 then 2 end + "),
            ("select ", "("),
            ("select a.case", " + a.end"),
            ("select a", " between 1 and 2"),
            ("select a", " = 3 = 3 = 3 between 1 and 2"),
            ("select * from t", " join t on a and b or c"),
        ] {
            let sql = format!("{head}{}", link.repeat(1_000));
            assert!(of(&sql) >= 1_000, "{head} {link}: {}", of(&sql));
        }
    }

    #[test]
    fn what_stands_side_by_side_is_not_deep() {
        for (head, item) in [
            ("insert into s values (1)", ", (-2, 'b', 3 + 4)"),
            ("select 1 + 1", ", f(a, b) + 1"),
            ("select a from t where a in (1", ", 2 + 3"),
            ("create table s (a int", ", b bigint not null"),
            ("select case a when 0 then 0", " when 1 + 2 then 3 + f(4)"),
            ("select a", ", a is distinct from b"),
            ("select a between 1 and 2", ", a or b between 1 and 2 or c"),
        ] {
            let sql = format!("{head}{}", item.repeat(10_000));
            assert!(of(&sql) < 20, "{head} {item}: {}", of(&sql));
        }
    }

    #[test]
    fn terms_of_and_and_or_stand_side_by_side() {
        let sql = format!(
            "select a{}",
            " or a + 1 = 2 and b is not null".repeat(1_000)
        );
        assert!((2_000..2_020).contains(&of(&sql)), "{}", of(&sql));
    }

    #[test]
    fn subqueries_are_counted_where_they_stand_in_one_another() {
        let nested = |around: &str, levels| {
            let (open, close) = around.split_once('@').unwrap();
            let sql = format!("{}select 1{}", open.repeat(levels), close.repeat(levels));
            let tokens = Tokenizer::new(&Postgres, &sql).tokenize().unwrap();
            check(
                tokens
                    .iter()
                    .filter(|token| !matches!(token, Token::Whitespace(_))),
            )
        };
        for around in [
            "select (@)",
            "select a from t where exists (@)",
            "select a from t where a in (@) and b",
            "select a from t where a = all ((@))",
            "select a from t where a is distinct from (@)",
            "select extract(year from (@))",
            "select a from t join u on t.a = (@)",
            "select a from t order by 1, (@)",
            "with a as (@) select * from a",
            "select a from (select * from t where (@) > 1)",
        ] {
            assert!(nested(around, SUBQUERIES_MAX).is_ok(), "{around}");
            let refused = nested(around, SUBQUERIES_MAX + 1).unwrap_err();
            assert_eq!(refused.sqlstate, "54001", "{around}");
        }
        for around in [
            "select * from (@)",
            "select * from ((@))",
            "select * from t join (@) on true",
            "select * from t, (@)",
            "select * from t join u on t.a = u.a, lateral (@)",
            "select * from (u cross join (@))",
            "select 1 union all (@)",
            "select (select 1), (select 2) from (@)",
            "(@) union all select 1",
        ] {
            assert!(nested(around, 20).is_ok(), "{around}");
        }
    }

    #[test]
    fn what_is_read_again_is_not_nested_deep() {
        for nested in [
            "substring(",
            "floor(1 + ",
            "interval ",
            "interval - ",
            "interval ((",
        ] {
            for (levels, is_taken) in [(RETRIED_MAX, true), (RETRIED_MAX + 1, false)] {
                let sql = format!("select {}", nested.repeat(levels));
                let tokens = Tokenizer::new(&Postgres, &sql).tokenize().unwrap();
                let tokens = tokens.iter();
                let tokens = tokens.filter(|token| !matches!(token, Token::Whitespace(_)));
                assert_eq!(check(tokens).is_ok(), is_taken, "{sql}");
            }
        }
        let beside = "floor(a) + interval '1' - interval '2', ".repeat(100);
        let tokens = Tokenizer::new(&Postgres, &beside).tokenize().unwrap();
        assert!(check(tokens.iter()).is_ok());
    }

    #[test]
    fn what_is_too_deep_is_refused() {
        let chain = |links| {
            let sql = format!("1{}", "+1".repeat(links));
            let tokens = Tokenizer::new(&Postgres, &sql).tokenize();
            check(tokens.unwrap().iter())
        };
        assert!(chain(DEPTH_MAX).is_ok());
        assert_eq!(chain(DEPTH_MAX + 1).unwrap_err().sqlstate, "54001");
        assert_eq!(chain(DEPTH_MAX * 1_000).unwrap_err().sqlstate, "54001");
    }
}
