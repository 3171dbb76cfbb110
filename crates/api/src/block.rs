//! The transaction block of a session: what `BEGIN`, `COMMIT`, savepoints and errors do to it.
//!
//! As in Postgres, statements that are sent together without `BEGIN` are one transaction too, an implicit one, which
//! ends with them. Only decisions stand here: the caller commits what [`Step::commit`] holds.

use std::sync::Arc;

use lambic_query::{Error, Modes, Transaction, sqlstate};

use crate::postgres::Control;

#[derive(Default)]
pub struct Block(Option<Open>);

struct Open {
    transaction: Arc<Transaction>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Implicit,
    /// Begun by `BEGIN`.
    Explicit,
    /// The same after an error: only its end is taken.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Idle,
    Open,
    Failed,
}

/// What a statement of the block came to.
pub struct Step {
    pub tag: &'static str,
    pub notice: Option<Notice>,
    /// The statement has succeeded only when this is committed.
    pub commit: Option<Arc<Transaction>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub code: &'static str,
    pub message: String,
    pub hint: Option<&'static str>,
}

impl Block {
    pub fn status(&self) -> Status {
        match self.0.as_ref().map(|open| open.kind) {
            None | Some(Kind::Implicit) => Status::Idle,
            Some(Kind::Explicit) => Status::Open,
            Some(Kind::Failed) => Status::Failed,
        }
    }

    /// The present transaction's modes.
    pub fn modes(&self) -> Option<Modes> {
        self.0.as_ref().map(|open| open.transaction.modes())
    }

    /// The transaction that a statement belongs to; an implicit one begins where there is none.
    pub fn transaction(
        &mut self,
        begin: impl FnOnce() -> Arc<Transaction>,
    ) -> Result<Arc<Transaction>, Error> {
        if self.status() == Status::Failed {
            return Err(aborted());
        }
        let open = self.0.get_or_insert_with(|| Open {
            transaction: begin(),
            kind: Kind::Implicit,
        });
        Ok(Arc::clone(&open.transaction))
    }

    /// After an error: an explicit block waits for its end, an implicit one is gone.
    pub fn fail(&mut self) {
        if let Some(open) = &mut self.0 {
            open.transaction.statement_failed();
            match open.kind {
                Kind::Implicit => self.0 = None,
                Kind::Explicit | Kind::Failed => open.kind = Kind::Failed,
            }
        }
    }

    /// The implicit transaction, to be committed.
    pub fn end_implicit(&mut self) -> Option<Arc<Transaction>> {
        let ended = self.0.take_if(|open| open.kind == Kind::Implicit);
        ended.map(|open| open.transaction)
    }

    /// Takes one step; `defaults` are the modes that the session's transactions begin with.
    pub fn step(
        &mut self,
        control: &Control,
        defaults: Modes,
        begin: impl FnOnce(Modes) -> Arc<Transaction>,
    ) -> Result<Step, Error> {
        let ends = matches!(
            control,
            Control::Commit | Control::Rollback | Control::RollbackTo(_)
        );
        if self.status() == Status::Failed && !ends {
            return Err(aborted());
        }
        let done = |tag| Step {
            tag,
            notice: None,
            commit: None,
        };
        match control {
            Control::Begin { tag, modes } => {
                let notice = self.begin(modes.applied_to(defaults), begin)?;
                Ok(Step {
                    notice,
                    ..done(*tag)
                })
            }
            Control::Commit => Ok(self.commit()),
            Control::Rollback => Ok(self.rollback()),
            Control::Savepoint(name) => {
                self.explicit("SAVEPOINT")?.transaction.savepoint(name)?;
                Ok(done("SAVEPOINT"))
            }
            Control::Release(name) => {
                self.explicit("RELEASE SAVEPOINT")?
                    .transaction
                    .release(name)?;
                Ok(done("RELEASE"))
            }
            Control::RollbackTo(name) => {
                let open = self.explicit("ROLLBACK TO SAVEPOINT")?;
                open.transaction.rollback_to(name)?;
                open.kind = Kind::Explicit;
                Ok(done("ROLLBACK"))
            }
            Control::SetModes(modes) => {
                let Some(open) = &self.0 else {
                    return Ok(Step {
                        notice: Some(no_transaction("SET TRANSACTION has no effect: ")),
                        ..done("SET")
                    });
                };
                let modes = modes.applied_to(open.transaction.modes());
                open.transaction.set_modes(modes)?;
                Ok(done("SET"))
            }
        }
    }

    fn begin(
        &mut self,
        modes: Modes,
        begin: impl FnOnce(Modes) -> Arc<Transaction>,
    ) -> Result<Option<Notice>, Error> {
        match &mut self.0 {
            None => {
                let transaction = begin(modes);
                transaction.become_block();
                self.0 = Some(Open {
                    transaction,
                    kind: Kind::Explicit,
                });
                Ok(None)
            }
            // What came before it in the same message is part of it, as in Postgres.
            Some(open) if open.kind == Kind::Implicit => {
                open.transaction.set_modes(modes)?;
                open.transaction.become_block();
                open.kind = Kind::Explicit;
                Ok(None)
            }
            Some(_) => Ok(Some(Notice {
                code: sqlstate::ACTIVE_TRANSACTION,
                message: "there is already a transaction in progress".to_owned(),
                hint: None,
            })),
        }
    }

    fn commit(&mut self) -> Step {
        match self.0.take() {
            // A failed block ends with a rollback, whatever the client says; as in Postgres.
            Some(open) if open.kind == Kind::Failed => rolled_back(&open),
            open => Step {
                tag: "COMMIT",
                notice: match &open {
                    Some(open) if open.kind == Kind::Explicit => None,
                    _ => Some(no_transaction("")),
                },
                commit: open.map(|open| open.transaction),
            },
        }
    }

    fn rollback(&mut self) -> Step {
        match self.0.take() {
            Some(open) if open.kind != Kind::Implicit => rolled_back(&open),
            _ => Step {
                tag: "ROLLBACK",
                notice: Some(no_transaction("")),
                commit: None,
            },
        }
    }

    fn explicit(&mut self, what: &str) -> Result<&mut Open, Error> {
        let open = self.0.as_mut();
        let explicit = open.filter(|open| open.kind != Kind::Implicit);
        explicit.ok_or_else(|| {
            let message = format!("{what} can only be used in transaction blocks");
            Error::new(sqlstate::NO_ACTIVE_TRANSACTION, message).with_hint("send BEGIN first")
        })
    }
}

/// What a rollback cannot undo is told.
fn rolled_back(open: &Open) -> Step {
    let kept = open.transaction.kept();
    let notice = (kept > 0).then(|| Notice {
        code: "01000",
        message: format!(
            "{kept} statement(s) of this transaction took effect at once and are kept"
        ),
        hint: Some("what creates, changes or drops streams and views is not part of a transaction"),
    });
    Step {
        tag: "ROLLBACK",
        notice,
        commit: None,
    }
}

fn no_transaction(before: &str) -> Notice {
    Notice {
        code: sqlstate::NO_ACTIVE_TRANSACTION,
        message: format!("{before}there is no transaction in progress"),
        hint: None,
    }
}

pub fn aborted() -> Error {
    Error::new(
        sqlstate::FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
    .with_hint("send ROLLBACK, or ROLLBACK TO a savepoint")
}
