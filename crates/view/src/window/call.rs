//! The arguments of a window function, given by place or by name.

use datafusion::{
    common::{Diagnostic, Result, Span},
    error::DataFusionError,
    sql::sqlparser::ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Query, Spanned,
    },
};

use super::{Kind, source::PARTITIONED};
use crate::postgres::ValueError;

/// A call, its arguments still as they were written.
pub struct Call {
    pub source: Box<Query>,
    /// What sessions are partitioned by.
    pub keys: Vec<Expr>,
    /// The name of the column with the time.
    pub time: Expr,
    pub lengths: Arguments,
}

impl Call {
    pub fn new(kind: Kind, args: Vec<FunctionArg>, whole: Option<Span>) -> Result<Call> {
        let mut given = Arguments::new(kind, args, whole)?;
        let (source, keys) = given.source()?;
        Ok(Call {
            source,
            keys,
            time: given.time()?,
            lengths: given,
        })
    }
}

/// What was given for the arguments by name, and is not taken yet.
pub struct Arguments {
    kind: Kind,
    /// Where the call stands.
    whole: Option<Span>,
    given: Vec<(&'static str, Expr)>,
}

impl Arguments {
    fn new(kind: Kind, args: Vec<FunctionArg>, whole: Option<Span>) -> Result<Arguments> {
        let names = kind.arguments(args.len());
        let mut given: Vec<(&'static str, Expr)> = Vec::new();
        for (index, arg) in args.into_iter().enumerate() {
            let place = place_of(&arg);
            let (name, value) = match arg {
                FunctionArg::Unnamed(value) => (names.get(index).copied(), value),
                FunctionArg::Named { name, arg, .. } => (known(kind, &name.value), arg),
                FunctionArg::ExprNamed { name, arg, .. } => (known(kind, &name.to_string()), arg),
            };
            let Some(name) = name else {
                return Err(kind.refused("it has no such argument", place));
            };
            let FunctionArgExpr::Expr(value) = value else {
                return Err(kind.refused("`*` is no argument of it", place));
            };
            if given.iter().any(|(known, _)| *known == name) {
                return Err(kind.refused(&format!("{name} is given twice"), place));
            }
            given.push((name, value));
        }
        Ok(Arguments { kind, whole, given })
    }

    /// Takes the argument `name` away, if it was given.
    pub fn take(&mut self, name: &str) -> Option<Expr> {
        let index = self.given.iter().position(|(known, _)| *known == name)?;
        Some(self.given.swap_remove(index).1)
    }

    /// Takes the argument `name` away, with its place.
    pub fn required(&mut self, name: &str) -> Result<(Expr, Option<Span>)> {
        let Some(value) = self.take(name) else {
            let what = format!("its argument {name} is missing");
            return Err(self.kind.refused(&what, self.whole));
        };
        let place = place_of(&value).or(self.whole);
        Ok((value, place))
    }

    fn source(&mut self) -> Result<(Box<Query>, Vec<Expr>)> {
        let (mut data, place) = self.required("data")?;
        let mut keys = Vec::new();
        if let Expr::BinaryOp { left, op, right } = data {
            if op != PARTITIONED || self.kind != Kind::Session {
                return Err(self.kind.refused("only sessions are partitioned", place));
            }
            keys = listed(*right);
            data = *left;
        }
        keys.extend(self.take("key").map(listed).unwrap_or_default());
        match data {
            Expr::Subquery(query) => Ok((query, keys)),
            _ => Err(self
                .kind
                .refused("it takes a stream, a view or a query", place)),
        }
    }

    fn time(&mut self) -> Result<Expr> {
        let (time, place) = self.required("timecol")?;
        let time = match time {
            Expr::Function(call) if is_descriptor(&call) => described(call),
            other => Some(other),
        };
        match time {
            Some(time @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) => Ok(time),
            _ => Err(self
                .kind
                .refused("the name of one column with the time is expected", place)),
        }
    }
}

impl Kind {
    /// Its arguments by place.
    fn arguments(self, given: usize) -> &'static [&'static str] {
        match (self, given) {
            (Kind::Tumble, _) => &["data", "timecol", "size", "offset"],
            (Kind::Hop, _) => &["data", "timecol", "slide", "size", "offset"],
            (Kind::Session, 4..) => &["data", "key", "timecol", "gap"],
            (Kind::Session, _) => &["data", "timecol", "gap"],
        }
    }

    /// The refusal of a call that is none, at `place` of the text.
    fn refused(self, what: &str, place: Option<Span>) -> DataFusionError {
        let message = format!("{}: {what}", self.name().to_ascii_uppercase());
        let hint = format!("it is called as {}", self.usage());
        at(ValueError::new("42883", message).with_hint(hint), place)
    }
}

/// The error with the place in the text that it is about.
pub fn at(error: ValueError, place: Option<Span>) -> DataFusionError {
    let diagnostic = Diagnostic::new_error(error.message.clone(), place);
    DataFusionError::from(error).with_diagnostic(diagnostic)
}

pub fn place_of(part: &impl Spanned) -> Option<Span> {
    Span::try_from_sqlparser_span(part.span())
}

fn known(kind: Kind, name: &str) -> Option<&'static str> {
    // Sessions have the most arguments when they are given by name.
    let names = kind.arguments(4);
    let found = names.iter().find(|known| name.eq_ignore_ascii_case(known));
    found.copied()
}

/// `(a, b)`, `(a)` or `a`.
fn listed(keys: Expr) -> Vec<Expr> {
    match keys {
        Expr::Tuple(keys) => keys,
        Expr::Nested(key) => vec![*key],
        key => vec![key],
    }
}

fn is_descriptor(call: &Function) -> bool {
    call.name.to_string().eq_ignore_ascii_case("descriptor")
}

/// The one name in `DESCRIPTOR(name)`.
fn described(call: Function) -> Option<Expr> {
    let FunctionArguments::List(list) = call.args else {
        return None;
    };
    match <[FunctionArg; 1]>::try_from(list.args) {
        Ok([FunctionArg::Unnamed(FunctionArgExpr::Expr(name))]) => Some(name),
        _ => None,
    }
}
