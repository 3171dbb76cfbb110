//! What a component is for: which of the worlds that we serve it fits.

use wasmtime::{
    Engine,
    component::{
        Component,
        types::{ComponentFunc, ComponentItem, Type},
    },
};

use super::{batch, engine::MEMORIES_MAX, scalar::Signature};
use crate::Error;

/// How a component is invoked with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// `handle` of `lambic.wit`.
    Event,
    /// `wasi:http/incoming-handler@0.2`.
    Http,
    /// `wasi:cli/run@0.2`.
    Command,
    /// `handle-batch` of `lambic.wit`, and none of the others.
    Batch,
}

/// What can be done with a component.
#[derive(Debug)]
pub struct Fit {
    pub world: Option<World>,
    /// It exports `handle-batch`, maybe beside its world.
    pub takes_batches: bool,
    pub signatures: Vec<Signature>,
    /// It imports nothing.
    pub is_pure: bool,
    /// Of one instance.
    pub memories: u32,
}

const WORLDS: &str = "components export one of these: `handle: func(event: string) -> result<string, string>` (lambic.wit), \
     `wasi:http/incoming-handler@0.2` (HTTP), `wasi:cli/run@0.2` (a command: the event on standard input, the result on \
     standard output), `handle-batch: func(batch: list<u8>) -> result<list<u8>, string>` (lambic.wit: Arrow records), or plain \
     functions for SQL";

/// A component that exports several is the first of these.
pub fn fit(engine: &Engine, component: &Component) -> Result<Fit, Error> {
    let kind = component.component_type();
    let mut world = None;
    let mut takes_batches = false;
    let mut signatures = Vec::new();
    for (name, export) in kind.exports(engine) {
        let found = match export.ty {
            ComponentItem::ComponentFunc(function) if name == "handle" => {
                check_handle(&function)?;
                World::Event
            }
            ComponentItem::ComponentFunc(function) if name == batch::EXPORT => {
                check_handle_batch(&function)?;
                takes_batches = true;
                World::Batch
            }
            ComponentItem::ComponentFunc(function) => {
                signatures.push(Signature::of(name, &function)?);
                continue;
            }
            ComponentItem::ComponentInstance(_) => match of_interface(name) {
                Some(found) => found,
                // Interfaces that it exports beside are of no use to us.
                None => continue,
            },
            _ => continue,
        };
        world = Some(match (world, found) {
            (Some(World::Event), _) | (_, World::Event) => World::Event,
            (Some(World::Http), _) | (_, World::Http) => World::Http,
            (Some(World::Command), _) | (_, World::Command) => World::Command,
            _ => World::Batch,
        });
    }
    let imports: Vec<String> = kind
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    check_imports(&imports, world)?;
    if world.is_none() && signatures.is_empty() {
        return Err(wrong(format!("it exports no function; {WORLDS}")));
    }
    let memories = component
        .resources_required()
        .map_or(1, |required| required.num_memories);
    if memories > MEMORIES_MAX {
        return Err(wrong(format!(
            "it has {memories} memories, over the limit of {MEMORIES_MAX}"
        )));
    }
    Ok(Fit {
        world,
        takes_batches,
        signatures,
        is_pure: imports.is_empty(),
        memories,
    })
}

fn wrong(reason: String) -> Error {
    Error::WrongWorld { reason }
}

fn of_interface(name: &str) -> Option<World> {
    let (interface, version) = name.split_once('@')?;
    if !version.starts_with("0.2.") {
        return None;
    }
    match interface {
        "wasi:http/incoming-handler" => Some(World::Http),
        "wasi:cli/run" => Some(World::Command),
        _ => None,
    }
}

/// What of `wasi:` there is, is known when it is linked.
fn check_imports(imports: &[String], world: Option<World>) -> Result<(), Error> {
    let is_ours = |name: &str| name == "log" || name.starts_with("lambic:functions/");
    let mut imports = imports.iter();
    let Some(name) = imports
        .find(|name| !name.starts_with("wasi:") && (world.is_none() || !is_ours(name.as_str())))
    else {
        return Ok(());
    };
    Err(wrong(match world {
        Some(_) => format!(
            "it imports `{name}`; what is invoked may import `log`, `lambic:functions` and WASI 0.2"
        ),
        None => {
            format!("it imports `{name}`; a SQL function may import WASI only; {WORLDS}")
        }
    }))
}

/// `handle` must be as `lambic.wit` says.
fn check_handle(function: &ComponentFunc) -> Result<(), Error> {
    match is_handler_of(function, |found| matches!(found, Type::String)) {
        true => Ok(()),
        false => Err(wrong(format!(
            "its `handle` is not `func(event: string) -> result<string, string>`; {WORLDS}"
        ))),
    }
}

/// The same of `handle-batch`.
fn check_handle_batch(function: &ComponentFunc) -> Result<(), Error> {
    let is_bytes =
        |found: &Type| matches!(found, Type::List(list) if matches!(list.ty(), Type::U8));
    match is_handler_of(function, is_bytes) {
        true => Ok(()),
        false => Err(wrong(format!(
            "its `handle-batch` is not `func(batch: list<u8>) -> result<list<u8>, string>`; {WORLDS}"
        ))),
    }
}

/// From one such value to another, or to an error that is a string.
fn is_handler_of(function: &ComponentFunc, is_value: impl Fn(&Type) -> bool) -> bool {
    let parameters: Vec<Type> = function.params().map(|(_, found)| found).collect();
    let results: Vec<Type> = function.results().collect();
    match (parameters.as_slice(), results.as_slice()) {
        ([event], [Type::Result(result)]) => {
            is_value(event)
                && result.ok().is_some_and(|answer| is_value(&answer))
                && matches!(result.err(), Some(Type::String))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_wasi_0_2_are_known_in_each_version() {
        for (name, expected) in [
            ("wasi:http/incoming-handler@0.2.0", Some(World::Http)),
            ("wasi:http/incoming-handler@0.2.12", Some(World::Http)),
            ("wasi:cli/run@0.2.3", Some(World::Command)),
            ("wasi:http/incoming-handler@0.20.0", None),
            ("wasi:http/handler@0.3.0", None),
            ("wasi:cli/run@0.3.0", None),
            ("wasi:cli/run", None),
            ("wasi:cli/environment@0.2.0", None),
        ] {
            assert_eq!(of_interface(name), expected, "{name}");
        }
    }
}
