//! `lambic function concurrency`: how many invocations of a function run at one time.

use serde_json::json;

use super::{super::Global, api::Api};
use crate::output;

pub fn run(global: &Global, name: &str, count: Option<u32>, none: bool) -> anyhow::Result<()> {
    let api = Api::new(global)?;
    if count.is_some() || none {
        api.reserve(name, count)?;
    }
    let reserved = api.concurrency(name)?;
    if global.json {
        return output::print_json(&json!({ "function": name, "concurrency": reserved }));
    }
    let shown = match reserved {
        Some(0) => "0: it is stopped".to_owned(),
        Some(count) => count.to_string(),
        None => "none reserved: the server's default holds".to_owned(),
    };
    output::print(&format!("{shown}\n"))
}
