//! AWS's Extensions API: programs beside the runtime that hear of invocations and of the end.
//!
//! Who has registered, for what, and what each has still to hear. The start has ended when all that were started have
//! registered and ask for their first event; an invocation has, when all ask for the next one. HTTP is
//! [`super::endpoint`]'s.

use serde_json::Value;

/// Registered and started ones together, as in AWS.
pub const EXTENSIONS_MAX: usize = 10;

#[derive(Debug, Default)]
pub struct Extensions {
    /// Names of the programs that were started.
    expected: Vec<String>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    id: String,
    name: String,
    wants_invoke: bool,
    wants_shutdown: bool,
    /// It asks for its next event.
    is_waiting: bool,
    /// It has asked for its first one.
    is_ready: bool,
    event: Option<Value>,
}

/// Why a request is refused: AWS's error type, and a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str, pub String);

impl Extensions {
    pub fn expect(&mut self, names: Vec<String>) {
        self.expected = names;
    }

    /// Takes an extension in under this id. Those that were not started by us are parts of the runtime's process.
    pub fn register(
        &mut self,
        id: String,
        name: &str,
        events: &[String],
        is_starting: bool,
    ) -> Result<(), Refused> {
        if name.is_empty() {
            return Err(Refused(
                "Extension.InvalidExtensionName",
                "the header Lambda-Extension-Name is missing".to_owned(),
            ));
        }
        let is_known = self.members.iter().any(|member| member.name == name);
        if !is_starting || is_known || self.members.len() >= EXTENSIONS_MAX {
            return Err(Refused(
                "Extension.InvalidExtensionState",
                format!("`{name}` cannot register now"),
            ));
        }
        let is_external = self.expected.iter().any(|expected| expected == name);
        let allowed: &[&str] = if is_external {
            &["INVOKE", "SHUTDOWN"]
        } else {
            &["INVOKE"]
        };
        if let Some(event) = events
            .iter()
            .find(|event| !allowed.contains(&event.as_str()))
        {
            let kind = if event.as_str() == "SHUTDOWN" {
                "ShutdownEventNotSupportedForInternalExtension"
            } else {
                "Extension.InvalidEventType"
            };
            return Err(Refused(
                kind,
                format!("`{name}` cannot have {event} events"),
            ));
        }
        let wants = |event: &str| events.iter().any(|wanted| wanted == event);
        self.members.push(Member {
            id,
            name: name.to_owned(),
            wants_invoke: wants("INVOKE"),
            wants_shutdown: wants("SHUTDOWN"),
            is_waiting: false,
            is_ready: false,
            event: None,
        });
        Ok(())
    }

    /// Notes that it waits for its next event, and gives that if there is one.
    pub fn next(&mut self, id: &str) -> Result<Option<Value>, Refused> {
        let member = self.member(id)?;
        let event = member.event.take();
        member.is_waiting = event.is_none();
        Ok(event)
    }

    /// Name and events of one that asks for its first event now.
    pub fn becomes_ready(&mut self, id: &str) -> Option<(String, Vec<&'static str>)> {
        let member = self.member(id).ok().filter(|member| !member.is_ready)?;
        member.is_ready = true;
        let wants = [
            ("INVOKE", member.wants_invoke),
            ("SHUTDOWN", member.wants_shutdown),
        ];
        let events = wants.into_iter().filter(|(_, is_wanted)| *is_wanted);
        Some((
            member.name.clone(),
            events.map(|(event, _)| event).collect(),
        ))
    }

    pub fn name(&mut self, id: &str) -> Result<String, Refused> {
        self.member(id).map(|member| member.name.clone())
    }

    pub fn check(&mut self, id: &str) -> Result<(), Refused> {
        self.member(id).map(drop)
    }

    fn member(&mut self, id: &str) -> Result<&mut Member, Refused> {
        if id.is_empty() {
            return Err(Refused(
                "Extension.MissingExtensionIdentifier",
                "the header Lambda-Extension-Identifier is missing".to_owned(),
            ));
        }
        let found = self.members.iter_mut().find(|member| member.id == id);
        found.ok_or_else(|| {
            Refused(
                "Extension.UnknownExtensionIdentifier",
                "no extension has registered under this identifier".to_owned(),
            )
        })
    }

    /// For all who want to hear of invocations.
    pub fn tell_invoke(&mut self, event: &Value) {
        for member in self.members.iter_mut().filter(|member| member.wants_invoke) {
            member.event = Some(event.clone());
            member.is_waiting = false;
        }
    }

    /// False if nobody wants to hear of the end.
    pub fn tell_shutdown(&mut self, event: &Value) -> bool {
        let mut is_wanted = false;
        for member in self
            .members
            .iter_mut()
            .filter(|member| member.wants_shutdown)
        {
            member.event = Some(event.clone());
            member.is_waiting = false;
            is_wanted = true;
        }
        is_wanted
    }

    /// All that were started have registered, and all ask for their next event.
    pub fn are_idle(&self) -> bool {
        let is_here = |name: &String| self.members.iter().any(|member| member.name == *name);
        self.expected.iter().all(is_here) && self.members.iter().all(|member| member.is_waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(extensions: &mut Extensions, name: &str, events: &[&str]) -> Result<(), Refused> {
        let events: Vec<String> = events.iter().map(|event| (*event).to_owned()).collect();
        extensions.register(format!("id of {name}"), name, &events, true)
    }

    #[test]
    fn the_start_waits_for_those_that_were_started() {
        let mut extensions = Extensions::default();
        assert!(extensions.are_idle());
        extensions.expect(vec!["one".to_owned()]);
        assert!(!extensions.are_idle());
        register(&mut extensions, "one", &["INVOKE", "SHUTDOWN"]).unwrap();
        register(&mut extensions, "inner", &["INVOKE"]).unwrap();
        assert!(!extensions.are_idle());
        let ready = Some(("one".to_owned(), vec!["INVOKE", "SHUTDOWN"]));
        assert_eq!(extensions.becomes_ready("id of one"), ready);
        assert_eq!(extensions.becomes_ready("id of one"), None);
        assert_eq!(extensions.next("id of one"), Ok(None));
        assert_eq!(extensions.next("id of inner"), Ok(None));
        assert!(extensions.are_idle());
        let event = Value::from("event");
        extensions.tell_invoke(&event);
        assert!(!extensions.are_idle());
        for id in ["id of one", "id of inner"] {
            assert_eq!(extensions.next(id), Ok(Some(event.clone())));
            assert!(!extensions.are_idle());
        }
        for id in ["id of one", "id of inner"] {
            assert_eq!(extensions.next(id), Ok(None));
        }
        assert!(extensions.are_idle());
        assert!(extensions.tell_shutdown(&event));
        assert_eq!(extensions.next("id of one"), Ok(Some(event)));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let mut extensions = Extensions::default();
        let kind = |result: Result<(), Refused>| result.unwrap_err().0;
        assert_eq!(
            kind(register(&mut extensions, "", &[])),
            "Extension.InvalidExtensionName"
        );
        assert_eq!(
            kind(register(&mut extensions, "inner", &["SHUTDOWN"])),
            "ShutdownEventNotSupportedForInternalExtension"
        );
        assert_eq!(
            kind(register(&mut extensions, "inner", &["LUNCH"])),
            "Extension.InvalidEventType"
        );
        register(&mut extensions, "inner", &[]).unwrap();
        assert_eq!(
            kind(register(&mut extensions, "inner", &[])),
            "Extension.InvalidExtensionState"
        );
        assert_eq!(
            extensions.next("other").unwrap_err().0,
            "Extension.UnknownExtensionIdentifier"
        );
        assert_eq!(
            extensions.next("").unwrap_err().0,
            "Extension.MissingExtensionIdentifier"
        );
        assert!(!extensions.tell_shutdown(&Value::Null));
    }
}
