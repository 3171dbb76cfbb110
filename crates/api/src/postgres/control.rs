//! The statements that begin and end transactions, as text.

use lambic_query::{Isolation, Modes};

use super::command::{Command, unquote};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    Begin {
        tag: &'static str,
        modes: ModeChange,
    },
    Commit,
    Rollback,
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// `SET TRANSACTION …`
    SetModes(ModeChange),
}

/// The modes that a statement names; the others stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModeChange {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
}

impl ModeChange {
    pub fn applied_to(self, modes: Modes) -> Modes {
        Modes {
            isolation: self.isolation.unwrap_or(modes.isolation),
            read_only: self.read_only.unwrap_or(modes.read_only),
        }
    }
}

/// As Postgres writes it; `None` for what is not an isolation level here.
pub fn isolation_named(name: &str) -> Option<Isolation> {
    match name.to_ascii_lowercase().as_str() {
        // Nothing uncommitted of others can be read, as in Postgres.
        "read committed" | "read uncommitted" => Some(Isolation::ReadCommitted),
        "repeatable read" => Some(Isolation::RepeatableRead),
        _ => None,
    }
}

pub fn name_of(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "read committed",
        Isolation::RepeatableRead => "repeatable read",
    }
}

/// `words` are those of one statement, `upper` the same in upper case.
pub fn parse(words: &[String], upper: &[&str]) -> Option<Command> {
    let control = |control| Some(Command::Transaction(control));
    match upper {
        ["BEGIN", rest @ ..] => Some(begin("BEGIN", noise(rest))),
        ["START", "TRANSACTION", rest @ ..] => Some(begin("START TRANSACTION", rest)),
        ["COMMIT" | "END", rest @ ..] => Some(end(Control::Commit, noise(rest))),
        ["ROLLBACK" | "ABORT", rest @ ..] => match noise(rest) {
            ["TO", "SAVEPOINT", _] | ["TO", _] => control(Control::RollbackTo(last(words))),
            rest => Some(end(Control::Rollback, rest)),
        },
        ["SAVEPOINT", _] => control(Control::Savepoint(last(words))),
        ["RELEASE", "SAVEPOINT", _] | ["RELEASE", _] => control(Control::Release(last(words))),
        ["SAVEPOINT" | "RELEASE", ..] => Some(Command::Malformed {
            expected: "the name of a savepoint",
        }),
        ["PREPARE", "TRANSACTION", ..] => Some(TWO_PHASES),
        ["SET", "TRANSACTION", "SNAPSHOT", ..] => Some(Command::Unsupported {
            what: "snapshots that are shared between transactions",
            hint: "a transaction that is REPEATABLE READ reads at one frontier",
        }),
        ["SET", "TRANSACTION", rest @ ..] | ["SET", "LOCAL", "TRANSACTION", rest @ ..] => {
            Some(match modes(rest) {
                Ok(modes) => Command::Transaction(Control::SetModes(modes)),
                Err(refused) => refused,
            })
        }
        [
            "SET",
            "SESSION",
            "CHARACTERISTICS",
            "AS",
            "TRANSACTION",
            rest @ ..,
        ] => Some(match modes(rest) {
            Ok(modes) => Command::SetDefaultModes(modes),
            Err(refused) => refused,
        }),
        _ => None,
    }
}

const TWO_PHASES: Command = Command::Unsupported {
    what: "two-phase commits",
    hint: "COMMIT keeps all of a transaction or nothing",
};

fn noise<'a, 'b>(rest: &'a [&'b str]) -> &'a [&'b str] {
    match rest {
        ["WORK" | "TRANSACTION", rest @ ..] => rest,
        rest => rest,
    }
}

/// A name without quotes is folded to lower case, as everywhere.
fn last(words: &[String]) -> String {
    let word = words.last().map_or("", String::as_str);
    match word.starts_with('"') {
        true => unquote(word),
        false => word.to_ascii_lowercase(),
    }
}

fn begin(tag: &'static str, rest: &[&str]) -> Command {
    match modes(rest) {
        Ok(modes) => Command::Transaction(Control::Begin { tag, modes }),
        Err(refused) => refused,
    }
}

fn end(control: Control, rest: &[&str]) -> Command {
    match rest {
        [] | ["AND", "NO", "CHAIN"] => Command::Transaction(control),
        ["AND", "CHAIN"] => Command::Unsupported {
            what: "transactions that are chained",
            hint: "send BEGIN after it",
        },
        ["PREPARED", ..] => TWO_PHASES,
        _ => Command::Malformed {
            expected: "nothing more",
        },
    }
}

fn modes(mut rest: &[&str]) -> Result<ModeChange, Command> {
    let mut modes = ModeChange::default();
    loop {
        rest = match rest {
            [] => return Ok(modes),
            ["ISOLATION", "LEVEL", "SERIALIZABLE", ..] => {
                return Err(Command::Unsupported {
                    what: "SERIALIZABLE transactions",
                    hint: "REPEATABLE READ reads at one frontier; what is inserted is not checked against what others insert meanwhile",
                });
            }
            ["ISOLATION", "LEVEL", "REPEATABLE", "READ", rest @ ..] => {
                modes.isolation = Some(Isolation::RepeatableRead);
                rest
            }
            [
                "ISOLATION",
                "LEVEL",
                "READ",
                "COMMITTED" | "UNCOMMITTED",
                rest @ ..,
            ] => {
                modes.isolation = Some(Isolation::ReadCommitted);
                rest
            }
            ["READ", access @ ("ONLY" | "WRITE"), rest @ ..] => {
                modes.read_only = Some(*access == "ONLY");
                rest
            }
            // Nothing here ever has to wait for a safe moment.
            ["NOT", "DEFERRABLE", rest @ ..] | ["DEFERRABLE", rest @ ..] | [",", rest @ ..] => rest,
            _ => {
                return Err(Command::Malformed {
                    expected: "ISOLATION LEVEL READ COMMITTED or REPEATABLE READ, READ ONLY or READ WRITE",
                });
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expected: Control) {
        let parsed = super::super::command::parse(sql);
        assert_eq!(parsed, Some(Command::Transaction(expected)), "{sql}");
    }

    fn begins(sql: &str, isolation: Option<Isolation>, read_only: Option<bool>) {
        let modes = ModeChange {
            isolation,
            read_only,
        };
        check(
            sql,
            Control::Begin {
                tag: "BEGIN",
                modes,
            },
        );
    }

    #[test]
    fn transactions_begin_with_modes() {
        begins("begin", None, None);
        begins("BEGIN WORK;", None, None);
        begins(
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            Some(Isolation::RepeatableRead),
            Some(true),
        );
        begins(
            "begin isolation level read uncommitted read write not deferrable",
            Some(Isolation::ReadCommitted),
            Some(false),
        );
        let refused = super::super::command::parse("BEGIN ISOLATION LEVEL SERIALIZABLE");
        assert!(matches!(refused, Some(Command::Unsupported { .. })));
        let refused = super::super::command::parse("BEGIN SOON");
        assert!(matches!(refused, Some(Command::Malformed { .. })));
    }

    #[test]
    fn transactions_end() {
        for sql in [
            "COMMIT",
            "end",
            "COMMIT WORK",
            "END TRANSACTION AND NO CHAIN",
        ] {
            check(sql, Control::Commit);
        }
        for sql in ["ROLLBACK", "abort;", "ROLLBACK TRANSACTION"] {
            check(sql, Control::Rollback);
        }
        for sql in [
            "COMMIT AND CHAIN",
            "COMMIT PREPARED 'x'",
            "ROLLBACK PREPARED 'x'",
            "PREPARE TRANSACTION 'x'",
        ] {
            let refused = super::super::command::parse(sql);
            assert!(
                matches!(refused, Some(Command::Unsupported { .. })),
                "{sql}"
            );
        }
    }

    #[test]
    fn savepoints_have_names() {
        check("savepoint A", Control::Savepoint("a".to_owned()));
        check(
            "RELEASE SAVEPOINT \"_pg3_1\"",
            Control::Release("_pg3_1".to_owned()),
        );
        check("RELEASE a", Control::Release("a".to_owned()));
        check("ROLLBACK TO \"B\"", Control::RollbackTo("B".to_owned()));
        check(
            "ROLLBACK WORK TO SAVEPOINT b",
            Control::RollbackTo("b".to_owned()),
        );
    }
}
