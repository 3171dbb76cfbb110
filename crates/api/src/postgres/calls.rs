//! How deep calls of functions stand in one another.

use std::{convert::Infallible, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{Expr, Visit, Visitor};

/// The deepest in what is visited.
pub fn nested(visited: &impl Visit) -> usize {
    let mut calls = Calls::default();
    let ControlFlow::Continue(()) = visited.visit(&mut calls);
    calls.deepest
}

#[derive(Default)]
struct Calls {
    open: usize,
    deepest: usize,
}

impl Visitor for Calls {
    type Break = Infallible;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
        if matches!(expr, Expr::Function(_)) {
            self.open += 1;
            self.deepest = self.deepest.max(self.open);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
        self.open -= usize::from(matches!(expr, Expr::Function(_)));
        ControlFlow::Continue(())
    }
}
