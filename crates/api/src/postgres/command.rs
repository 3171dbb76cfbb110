//! The statements that concern a connection and not the data: settings, housekeeping, transactions ([`control`]).
//!
//! Pure: text in, command out. Everything that is not such a statement goes to the query room.

use super::{
    control::{self, Control, ModeChange},
    cursor::{self, Declare, Fetch},
    flow::{self, CopyFormat},
};

/// What a client asks of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Transaction(Control),
    /// `SET SESSION CHARACTERISTICS AS TRANSACTION …`
    SetDefaultModes(ModeChange),
    /// `value` is `None` for `DEFAULT`.
    Set {
        name: String,
        value: Option<String>,
    },
    /// `SET CONSTRAINTS …`, `SET ROLE …`: accepted, without effect.
    SetIgnored,
    Show {
        name: String,
    },
    ShowAll,
    /// `None` resets everything.
    Reset {
        name: Option<String>,
    },
    /// `None` is `ALL`.
    Deallocate {
        name: Option<String>,
    },
    Discard {
        tag: &'static str,
        all: bool,
    },
    /// `UNLISTEN`: nothing to do here.
    Ignored {
        tag: &'static str,
    },
    Declare(Declare),
    Fetch(Fetch),
    /// `None` is `ALL`.
    Close {
        name: Option<String>,
    },
    /// `COPY (query) TO STDOUT`
    CopyOut {
        query: String,
        /// Where the query begins.
        chars_before: usize,
        format: CopyFormat,
    },
    /// Any other `COPY`.
    Copy,
    /// What is wrong with it.
    Malformed {
        expected: &'static str,
    },
    /// Statements that we know and do not have.
    Unsupported {
        what: &'static str,
        hint: &'static str,
    },
}

/// The command that `sql`, one statement, stands for.
pub fn parse(sql: &str) -> Option<Command> {
    let words = words(sql);
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    if let Some(command) = control::parse(&words, &upper) {
        return Some(command);
    }
    let name = |at: usize| words.get(at).map(|word| unquote(word).to_ascii_lowercase());
    Some(match upper.as_slice() {
        ["SET", "CONSTRAINTS", ..]
        | ["SET", "ROLE", ..]
        | ["SET", "SESSION", "AUTHORIZATION", ..] => Command::SetIgnored,
        ["SET", "SESSION" | "LOCAL", rest @ ..] if !rest.is_empty() => set(&words[2..], rest)?,
        ["SET", rest @ ..] if !rest.is_empty() => set(&words[1..], rest)?,
        ["SHOW", "ALL"] => Command::ShowAll,
        ["SHOW", "TIME", "ZONE"] => Command::Show {
            name: "timezone".to_owned(),
        },
        ["SHOW", "TRANSACTION", "ISOLATION", "LEVEL"] => Command::Show {
            name: "transaction_isolation".to_owned(),
        },
        // DataFusion answers these.
        [
            "SHOW",
            "TABLES" | "COLUMNS" | "FUNCTIONS" | "STREAMS" | "VIEWS",
        ] => return None,
        ["SHOW", _] => Command::Show { name: name(1)? },
        ["RESET", "ALL"] => Command::Reset { name: None },
        ["RESET", "TIME", "ZONE"] => Command::Reset {
            name: Some("timezone".to_owned()),
        },
        ["RESET", _] => Command::Reset { name: name(1) },
        ["DEALLOCATE", "ALL"] | ["DEALLOCATE", "PREPARE", "ALL"] => {
            Command::Deallocate { name: None }
        }
        ["DEALLOCATE", "PREPARE", _] => Command::Deallocate {
            name: Some(unquote(&words[2])),
        },
        ["DEALLOCATE", _] => Command::Deallocate {
            name: Some(unquote(&words[1])),
        },
        ["DISCARD", "ALL"] => Command::Discard {
            tag: "DISCARD ALL",
            all: true,
        },
        ["DISCARD", "PLANS"] => Command::Discard {
            tag: "DISCARD PLANS",
            all: false,
        },
        ["DISCARD", "TEMP" | "TEMPORARY"] => Command::Discard {
            tag: "DISCARD TEMP",
            all: false,
        },
        ["DISCARD", "SEQUENCES"] => Command::Discard {
            tag: "DISCARD SEQUENCES",
            all: false,
        },
        ["UNLISTEN", ..] => Command::Ignored { tag: "UNLISTEN" },
        ["DECLARE" | "FETCH" | "CLOSE", ..] => return cursor::parse(sql),
        [copy, ..] if copy.split('(').next() == Some("COPY") => {
            flow::parse_copy(sql).unwrap_or(Command::Copy)
        }
        ["LISTEN" | "NOTIFY", ..] => Command::Unsupported {
            what: "LISTEN and NOTIFY",
            hint: "SUBSCRIBE view sends the changes of a view as they happen; over HTTP, GET /v1/views/{name}/changes",
        },
        ["MOVE", ..] => Command::Unsupported {
            what: "cursors that skip rows",
            hint: "FETCH reads the rows of a cursor",
        },
        ["PREPARE" | "EXECUTE", ..] => Command::Unsupported {
            what: "PREPARE and EXECUTE as SQL",
            hint: "use your driver's prepared statements (the extended protocol)",
        },
        _ => return None,
    })
}

fn set(words: &[String], upper: &[&str]) -> Option<Command> {
    if let ["TIME", "ZONE", ..] = upper {
        return Some(Command::Set {
            name: "timezone".to_owned(),
            value: value(&words[2..]),
        });
    }
    if let ["NAMES", ..] = upper {
        return Some(Command::Set {
            name: "client_encoding".to_owned(),
            value: value(&words[1..]),
        });
    }
    let name = unquote(words.first()?).to_ascii_lowercase();
    match upper.get(1) {
        Some(&("=" | "TO")) => Some(Command::Set {
            name,
            value: value(&words[2..]),
        }),
        _ => None,
    }
}

/// Several values are joined as Postgres shows them: `ISO, MDY`.
fn value(words: &[String]) -> Option<String> {
    if let [word] = words
        && (word.eq_ignore_ascii_case("default") || word.eq_ignore_ascii_case("local"))
    {
        return None;
    }
    let joined = words.iter().map(|word| {
        if word == "," {
            ", ".to_owned()
        } else {
            unquote(word)
        }
    });
    Some(joined.collect())
}

pub fn unquote(word: &str) -> String {
    for quote in ['\'', '"'] {
        if let Some(inner) = word
            .strip_prefix(quote)
            .and_then(|word| word.strip_suffix(quote))
        {
            let doubled = format!("{quote}{quote}");
            return inner.replace(&doubled, &quote.to_string());
        }
    }
    word.to_owned()
}

/// Words, quoted texts, and `=` and `,` as words of their own. Only the first 64: commands are short.
fn words(sql: &str) -> Vec<String> {
    const WORDS_MAX: usize = 64;
    let mut words = Vec::new();
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        if words.len() == WORDS_MAX {
            break;
        }
        match c {
            c if c.is_whitespace() || c == ';' => {}
            '=' | ',' => words.push(c.to_string()),
            '\'' | '"' => {
                let mut word = String::from(c);
                while let Some(next) = chars.next() {
                    word.push(next);
                    if next == c {
                        if chars.peek() == Some(&c) {
                            word.push(c);
                            chars.next();
                        } else {
                            break;
                        }
                    }
                }
                words.push(word);
            }
            c => {
                let mut word = String::from(c);
                while let Some(next) = chars.peek() {
                    if next.is_whitespace() || matches!(next, '=' | ',' | '\'' | '"' | ';') {
                        break;
                    }
                    word.extend(chars.next());
                }
                words.push(word);
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: Option<&str>) -> Option<Command> {
        Some(Command::Set {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        })
    }

    #[test]
    fn settings() {
        assert_eq!(
            parse("SET extra_float_digits = 3"),
            set("extra_float_digits", Some("3"))
        );
        assert_eq!(
            parse("set session DateStyle to ISO, MDY"),
            set("datestyle", Some("ISO, MDY"))
        );
        assert_eq!(
            parse("SET LOCAL search_path='it''s'"),
            set("search_path", Some("it's"))
        );
        assert_eq!(parse("SET TIME ZONE 'UTC'"), set("timezone", Some("UTC")));
        assert_eq!(parse("SET jit TO DEFAULT"), set("jit", None));
        assert_eq!(
            parse("SHOW TRANSACTION ISOLATION LEVEL"),
            Some(Command::Show {
                name: "transaction_isolation".to_owned()
            })
        );
        assert_eq!(parse("RESET ALL"), Some(Command::Reset { name: None }));
    }

    #[test]
    fn housekeeping() {
        assert_eq!(
            parse("DEALLOCATE \"_pg3_1\""),
            Some(Command::Deallocate {
                name: Some("_pg3_1".to_owned())
            })
        );
        assert_eq!(
            parse("DISCARD ALL"),
            Some(Command::Discard {
                tag: "DISCARD ALL",
                all: true
            })
        );
        assert_eq!(parse("COPY s FROM STDIN"), Some(Command::Copy));
    }

    #[test]
    fn everything_else_is_for_the_query_room() {
        for sql in [
            "select 1",
            "settle",
            "SHOW",
            "insert into s values (1)",
            "SET",
            "",
            "set x",
        ] {
            assert_eq!(parse(sql), None, "{sql}");
        }
    }
}
