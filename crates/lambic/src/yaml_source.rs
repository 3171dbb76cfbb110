//! YAML as a tree that knows where everything stands and keeps tags, which CloudFormation gives meanings of its own.
//!
//! Bounded: aliases are copies, so what they may grow to is counted. JSON is read as the same tree.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::Value;

use crate::source::Place;

/// AWS's bound of a template.
const BYTES_MAX: u64 = 1 << 20;
/// Also of what aliases stand for.
const NODES_MAX: usize = 50_000;
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// In characters of the source, from 0; `None` if it stands in no source.
    pub at: Option<usize>,
    /// Of the kind `!Ref`, without the mark.
    pub tag: Option<String>,
    pub value: Yaml,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    Scalar {
        text: String,
        /// Without quotes, so that it may be a number, a boolean or nothing.
        is_plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// A file and what it says.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    pub root: Node,
}

impl Node {
    /// A text that stands nowhere.
    pub fn scalar(text: impl Into<String>) -> Node {
        Node::of(text.into(), false)
    }

    /// The same for what may be a number or a boolean.
    pub fn plain(text: impl Into<String>) -> Node {
        Node::of(text.into(), true)
    }

    fn of(text: String, is_plain: bool) -> Node {
        Node {
            at: None,
            tag: None,
            value: Yaml::Scalar { text, is_plain },
        }
    }

    /// The value of a key; a key without one has none.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let mut entries = self.entries().iter();
        let found = entries.find(|(name, _)| name.text() == Some(key));
        found
            .map(|(_, value)| value)
            .filter(|value| !value.is_null())
    }

    pub fn entries(&self) -> &[(Node, Node)] {
        match &self.value {
            Yaml::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.value {
            Yaml::List(items) => items,
            _ => &[],
        }
    }

    pub fn is_map(&self) -> bool {
        matches!(self.value, Yaml::Map(_))
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Yaml::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        let nothing = ["", "~", "null", "Null", "NULL"];
        self.tag.is_none()
            && matches!(&self.value, Yaml::Scalar { text, is_plain: true } if nothing.contains(&text.as_str()))
    }

    /// As YAML 1.1 has them too, because AWS's tools read that; also in quotes, as they take it.
    pub fn boolean(&self) -> Option<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// What is plain is taken for what it looks like; tags are left out.
    pub fn to_json(&self) -> Value {
        match &self.value {
            Yaml::Scalar { text, is_plain } => match is_plain {
                _ if self.is_null() => Value::Null,
                true => plain(text),
                false => Value::from(text.as_str()),
            },
            Yaml::List(items) => items.iter().map(Node::to_json).collect(),
            Yaml::Map(entries) => {
                let members = entries.iter().map(|(key, value)| {
                    (key.text().unwrap_or_default().to_owned(), value.to_json())
                });
                Value::Object(members.collect())
            }
        }
    }

    fn of_json(value: &Value) -> Node {
        let value = match value {
            Value::Array(items) => Yaml::List(items.iter().map(Node::of_json).collect()),
            Value::Object(members) => Yaml::Map(
                members
                    .iter()
                    .map(|(key, value)| (Node::scalar(key), Node::of_json(value)))
                    .collect(),
            ),
            Value::String(text) => Yaml::Scalar {
                text: text.clone(),
                is_plain: false,
            },
            other => Yaml::Scalar {
                text: other.to_string(),
                is_plain: true,
            },
        };
        Node {
            at: None,
            tag: None,
            value,
        }
    }

    /// The same without places, for what is put into another source.
    pub fn elsewhere(mut self) -> Node {
        self.at = None;
        self.value = match self.value {
            Yaml::List(items) => Yaml::List(items.into_iter().map(Node::elsewhere).collect()),
            Yaml::Map(entries) => Yaml::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.elsewhere(), value.elsewhere()))
                    .collect(),
            ),
            scalar => scalar,
        };
        self
    }
}

fn plain(text: &str) -> Value {
    match text {
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => match serde_json::from_str::<Value>(text) {
            Ok(number @ Value::Number(_)) => number,
            _ => Value::from(text),
        },
    }
}

impl Source {
    /// A file with `.json` in JSON, any other in YAML.
    pub fn read(path: &Path) -> anyhow::Result<Source> {
        let about = || format!("cannot read {}", path.display());
        let size = fs::metadata(path).with_context(about)?.len();
        if size > BYTES_MAX {
            bail!(
                "{} has {size} bytes; at most {BYTES_MAX} are read",
                path.display()
            );
        }
        let text = fs::read_to_string(path).with_context(about)?;
        Source::parse(path, text)
    }

    pub fn parse(path: &Path, text: String) -> anyhow::Result<Source> {
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let root = match is_json {
            true => json(path, &text)?,
            false => yaml(path, &text)?,
        };
        Ok(Source {
            path: path.to_owned(),
            text,
            root,
        })
    }

    /// `file:line: `, or only `file: ` for what stands nowhere.
    pub fn line(&self, node: &Node) -> String {
        match node.at {
            Some(at) => format!("{}:{}: ", self.path.display(), self.place(at).line),
            None => format!("{}: ", self.path.display()),
        }
    }

    /// A mistake at its place.
    pub fn mistake(&self, node: &Node, message: &str) -> String {
        match node.at {
            Some(at) => self.place(at).render(message, None),
            None => format!("{}: {message}", self.path.display()),
        }
    }

    fn place(&self, at: usize) -> Place {
        Place::at_char(&self.path, &self.text, 0, at + 1)
    }
}

fn json(path: &Path, text: &str) -> anyhow::Result<Node> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        anyhow::anyhow!(
            "{}:{}:{}: {error}",
            path.display(),
            error.line(),
            error.column()
        )
    })?;
    Ok(Node::of_json(&value))
}

/// A list or map that is not at its end.
struct Open {
    node: Node,
    anchor: usize,
    /// Of a map: the key whose value comes next.
    key: Option<Node>,
    nodes: usize,
}

fn yaml(path: &Path, text: &str) -> anyhow::Result<Node> {
    let fail = |at: usize, message: &str| {
        let place = Place::at_char(path, text, 0, at + 1);
        anyhow::anyhow!(place.render(message, None))
    };
    let mut open: Vec<Open> = Vec::new();
    let mut anchors: BTreeMap<usize, (Node, usize)> = BTreeMap::new();
    let mut root = None;
    let mut total = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| fail(error.marker().index(), error.info()))?;
        let at = span.start.index();
        let (node, nodes, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = Yaml::Scalar {
                    is_plain: style == ScalarStyle::Plain && !is_text(tag.as_deref()),
                    text: text.into_owned(),
                };
                (tagged(at, tag.as_deref(), value), 1, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                let node = tagged(at, tag.as_deref(), Yaml::List(Vec::new()));
                open.push(Open::new(node, anchor));
                if open.len() > DEPTH_MAX {
                    return Err(fail(at, "it is nested too deeply"));
                }
                continue;
            }
            Event::MappingStart(anchor, tag) => {
                let node = tagged(at, tag.as_deref(), Yaml::Map(Vec::new()));
                open.push(Open::new(node, anchor));
                if open.len() > DEPTH_MAX {
                    return Err(fail(at, "it is nested too deeply"));
                }
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(done) = open.pop() else { continue };
                let node = merged(done.node).map_err(|(at, message)| fail(at, &message))?;
                (node, done.nodes, done.anchor)
            }
            Event::Alias(anchor) => {
                let Some((node, nodes)) = anchors.get(&anchor) else {
                    return Err(fail(at, "this alias stands within what it names"));
                };
                (node.clone(), *nodes, 0)
            }
            Event::DocumentStart(_) if root.is_some() => {
                return Err(fail(at, "only one document is read"));
            }
            _ => continue,
        };
        total += nodes;
        if total > NODES_MAX {
            return Err(fail(at, "it stands for too much: its aliases are copied"));
        }
        if anchor != 0 {
            anchors.insert(anchor, (node.clone(), nodes));
        }
        match open.last_mut() {
            Some(outer) => outer
                .add(node, nodes)
                .map_err(|(at, message)| fail(at, &message))?,
            None => root = Some(node),
        }
    }
    root.with_context(|| format!("{} is empty", path.display()))
}

impl Open {
    fn new(node: Node, anchor: usize) -> Open {
        Open {
            node,
            anchor,
            key: None,
            nodes: 1,
        }
    }

    fn add(&mut self, node: Node, nodes: usize) -> Result<(), (usize, String)> {
        self.nodes += nodes;
        match &mut self.node.value {
            Yaml::List(items) => items.push(node),
            Yaml::Map(entries) => match self.key.take() {
                None => self.key = Some(node),
                Some(key) => {
                    let is_there = entries
                        .iter()
                        .any(|(name, _)| name.text().is_some() && name.text() == key.text());
                    if is_there && key.text() != Some("<<") {
                        let name = key.text().unwrap_or_default();
                        let at = key.at.unwrap_or_default();
                        return Err((at, format!("`{name}` stands here for the second time")));
                    }
                    entries.push((key, node));
                }
            },
            Yaml::Scalar { .. } => {}
        }
        Ok(())
    }
}

fn tagged(at: usize, tag: Option<&Tag>, value: Yaml) -> Node {
    let own = tag.filter(|tag| !tag.is_yaml_core_schema() && !tag.suffix.is_empty());
    Node {
        at: Some(at),
        tag: own.map(|tag| tag.suffix.clone()),
        value,
    }
}

/// `!!str`
fn is_text(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str")
}

/// A map with what its `<<` names, as far as it has no such keys itself.
fn merged(mut node: Node) -> Result<Node, (usize, String)> {
    let Yaml::Map(entries) = &mut node.value else {
        return Ok(node);
    };
    let is_merge =
        |key: &Node| matches!(&key.value, Yaml::Scalar { text, is_plain: true } if text == "<<");
    if !entries.iter().any(|(key, _)| is_merge(key)) {
        return Ok(node);
    }
    let (merges, mut own): (Vec<_>, Vec<_>) = std::mem::take(entries)
        .into_iter()
        .partition(|(key, _)| is_merge(key));
    for (key, value) in merges {
        let maps = match &value.value {
            Yaml::List(items) => items.clone(),
            _ => vec![value],
        };
        for map in maps {
            if !map.is_map() {
                let at = key.at.unwrap_or_default();
                return Err((at, "`<<` takes maps".to_owned()));
            }
            for (name, value) in map.entries() {
                if !own.iter().any(|(key, _)| key.text() == name.text()) {
                    own.push((name.clone(), value.clone()));
                }
            }
        }
    }
    *entries = own;
    Ok(node)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> anyhow::Result<Source> {
        Source::parse(Path::new("t.yaml"), text.to_owned())
    }

    #[track_caller]
    fn check(text: &str, expected: Value) {
        assert_eq!(parse(text).unwrap().root.to_json(), expected, "{text}");
    }

    #[test]
    fn yaml_is_read_as_what_it_says() {
        check(
            "a: 1\nb: [x, 'y', \"2\", 1.5, true, ~]\n",
            json!({ "a": 1, "b": ["x", "y", "2", 1.5, true, null] }),
        );
        check(
            "a: |\n  one\n  two\nb: >-\n  one\n  two\n",
            json!({ "a": "one\ntwo\n", "b": "one two" }),
        );
        check(
            "a: !!str 1\nb: 012\nc: 1.2.3\n",
            json!({ "a": "1", "b": "012", "c": "1.2.3" }),
        );
        check(
            "base: &b { x: 1, y: 2 }\nc:\n  <<: *b\n  y: 3\n",
            json!({
                "base": { "x": 1, "y": 2 }, "c": { "y": 3, "x": 1 },
            }),
        );
        check("a: &n 5\nb: *n\n", json!({ "a": 5, "b": 5 }));
        check("<<: [{a: 1}, {a: 2, b: 3}]\n", json!({ "a": 1, "b": 3 }));
        let json = Source::parse(Path::new("t.json"), "{\"a\": [1, \"1\"]}".to_owned()).unwrap();
        assert_eq!(json.root.to_json(), json!({ "a": [1, "1"] }));
        assert_eq!(json.line(&json.root), "t.json: ");
    }

    #[test]
    fn tags_and_places_are_kept() {
        let source = parse("# ü\na: !Ref Thing\nb: !Sub\n  - x\n  - {}\n").unwrap();
        let a = source.root.get("a").unwrap();
        assert_eq!((a.tag.as_deref(), a.text()), (Some("Ref"), Some("Thing")));
        assert_eq!(source.root.get("b").unwrap().tag.as_deref(), Some("Sub"));
        assert_eq!(source.line(a), "t.yaml:2: ");
        assert!(
            source.mistake(a, "no").starts_with("t.yaml:2:"),
            "{}",
            source.mistake(a, "no")
        );
        assert_eq!(source.root.get("none"), None);
        let booleans = parse("[yes, 'No', 1]").unwrap();
        let read: Vec<_> = booleans.root.items().iter().map(Node::boolean).collect();
        assert_eq!(read, [Some(true), Some(false), None]);
    }

    #[test]
    fn mistakes_are_shown_with_their_places() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        for (text, part) in [
            ("", "is empty"),
            (
                "a: 1\na: 2\n",
                "t.yaml:2:1: `a` stands here for the second time",
            ),
            ("a: [1\n", "t.yaml:"),
            ("a: *b\n", "t.yaml:1:4"),
            ("a: &a [*a]\n", "within what it names"),
            ("a: 1\n---\nb: 2\n", "only one document"),
            ("a:\n  <<: 1\n", "`<<` takes maps"),
        ] {
            let error = error(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(error(&deep).contains("too deeply"));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let names = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{names}]\n");
        }
        assert!(error(&bomb).contains("too much"));
        let json = Source::parse(Path::new("t.json"), "{\n".to_owned());
        assert!(json.unwrap_err().to_string().starts_with("t.json:2:"));
    }
}
