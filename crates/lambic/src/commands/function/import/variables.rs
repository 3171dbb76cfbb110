//! Variables of Serverless Framework: `${self:custom.x}`, `${opt:stage, 'dev'}`, `${env:X}`, `${file(a.yml):b}`.
//!
//! Those that ask AWS or a plugin have no value here, unless a default stands behind their comma.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::yaml_source::{Node, Source, Yaml};

/// Variables within variables, and those whose values have some again.
const DEPTH_MAX: usize = 32;

pub struct Variables<'a> {
    source: &'a Source,
    folder: &'a Path,
    options: &'a [(String, String)],
    environment: fn(&str) -> Option<String>,
    /// Files that were read already.
    files: RefCell<BTreeMap<PathBuf, Node>>,
}

impl<'a> Variables<'a> {
    pub fn new(source: &'a Source, folder: &'a Path, options: &'a [(String, String)]) -> Self {
        Variables {
            source,
            folder,
            options,
            environment: |name| std::env::var(name).ok(),
            files: RefCell::default(),
        }
    }

    /// What a node stands for; what it holds may have variables still.
    pub fn resolve(&self, node: &Node) -> Result<Node, String> {
        self.resolve_in(node, 0)
    }

    pub fn text(&self, node: &Node) -> Result<String, String> {
        let found = self.resolve(node)?;
        let text = found.text().map(str::to_owned);
        text.ok_or_else(|| "a text is wanted here, not a list or map".to_owned())
    }

    /// The deployment stage, as names have it.
    pub fn stage(&self) -> String {
        let given = self.option("stage");
        let provider = self.source.root.get("provider");
        let stage = provider.and_then(|provider| provider.get("stage"));
        given
            .or_else(|| self.text(stage?).ok())
            .unwrap_or_else(|| "dev".to_owned())
    }

    fn option(&self, name: &str) -> Option<String> {
        let given = self.options.iter().rfind(|(given, _)| given == name);
        given.map(|(_, value)| value.clone())
    }

    fn resolve_in(&self, node: &Node, depth: usize) -> Result<Node, String> {
        let Some(text) = node.text().filter(|text| text.contains("${")) else {
            return Ok(node.clone());
        };
        if depth > DEPTH_MAX {
            return Err("its variables are nested too deeply, or name one another".to_owned());
        }
        // One variable alone may stand for a map.
        if let Some(end) = end_of(text)
            && text.starts_with("${")
            && end == text.len() - 1
        {
            return self.value(&text[2..end], depth + 1);
        }
        let filled = self.filled(text, depth)?;
        Ok(Node {
            at: node.at,
            ..Node::plain(filled)
        })
    }

    /// A text with the values of its variables.
    fn filled(&self, text: &str, depth: usize) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            filled.push_str(&rest[..start]);
            let variable = &rest[start..];
            let end = end_of(variable).ok_or_else(|| format!("{text} has a ${{ without an end"))?;
            let value = self.value(&variable[2..end], depth + 1)?;
            filled.push_str(
                value
                    .text()
                    .ok_or_else(|| format!("{} is no text", &variable[..=end]))?,
            );
            rest = &variable[end + 1..];
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Of what stands between the braces: the first of its alternatives that has a value.
    fn value(&self, inside: &str, depth: usize) -> Result<Node, String> {
        if depth > DEPTH_MAX {
            return Err("its variables are nested too deeply, or name one another".to_owned());
        }
        let mut first_error = None;
        for alternative in alternatives(inside) {
            // `${self:custom.${sls:stage}}`
            let found = self
                .filled(alternative.trim(), depth)
                .and_then(|address| self.look_up(&address, depth));
            match found {
                Ok(node) => return self.resolve_in(&node, depth + 1),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| "${} names nothing".to_owned()))
    }

    fn look_up(&self, address: &str, depth: usize) -> Result<Node, String> {
        let quoted = |mark: char| address.strip_prefix(mark)?.strip_suffix(mark);
        if let Some(text) = quoted('\'').or_else(|| quoted('"')) {
            return Ok(Node::scalar(text));
        }
        let unknown = || format!("${{{address}}} has no value here");
        if let Some(rest) = address.strip_prefix("file(") {
            return self
                .of_file(rest, depth)
                .map_err(|error| format!("${{{address}}}: {error}"));
        }
        let (kind, name) = address.split_once(':').unwrap_or((address, ""));
        let found = match kind {
            "self" => self.path(&self.source.root, name, depth)?,
            "opt" => self.option(name).map(Node::plain),
            "param" => self.option(name).map(Node::plain),
            "env" => (self.environment)(name).map(Node::scalar),
            "sls" if name == "stage" => Some(Node::scalar(self.stage())),
            "aws" if name == "region" => Some(Node::scalar("us-east-1")),
            "aws" if name == "accountId" => Some(Node::scalar("000000000000")),
            "true" | "false" | "null" => Some(Node::plain(kind)),
            _ if address.parse::<f64>().is_ok() => Some(Node::plain(address)),
            _ => None,
        };
        match found {
            Some(node) => Ok(node),
            None if kind == "opt" || kind == "param" => {
                Err(format!("{}; give one with --parameter {name}=…", unknown()))
            }
            None => Err(unknown()),
        }
    }

    /// `a.b.0` below a node, through variables on the way.
    fn path(&self, root: &Node, path: &str, depth: usize) -> Result<Option<Node>, String> {
        let mut here = root.clone();
        for part in path.split('.').filter(|part| !part.is_empty()) {
            here = self.resolve_in(&here, depth + 1)?;
            let next = match &here.value {
                Yaml::List(items) => part.parse().ok().and_then(|index: usize| items.get(index)),
                _ => here.get(part),
            };
            let Some(next) = next else { return Ok(None) };
            here = next.clone();
        }
        Ok(Some(here))
    }

    /// `./a.yml):b.c` of `${file(./a.yml):b.c}`.
    fn of_file(&self, rest: &str, depth: usize) -> Result<Node, String> {
        let (name, path) = rest.split_once(')').ok_or("`file(` has no end")?;
        let file = self.folder.join(name.trim());
        let is_data = file.extension().is_some_and(|extension| {
            ["yml", "yaml", "json"]
                .iter()
                .any(|known| extension == *known)
        });
        if !is_data {
            return Err("only YAML and JSON files are read".to_owned());
        }
        let known = self.files.borrow().get(&file).cloned();
        let root = match known {
            Some(root) => root,
            None => {
                let read = Source::read(&file).map_err(|error| format!("{error:#}"))?;
                let root = read.root.elsewhere();
                self.files.borrow_mut().insert(file, root.clone());
                root
            }
        };
        let found = self.path(&root, path.trim_start_matches(':'), depth)?;
        found.ok_or_else(|| format!("{name} has no {}", path.trim_start_matches(':')))
    }
}

/// Where the variable that a text begins with ends: at the brace that closes its own.
fn end_of(text: &str) -> Option<usize> {
    let mut depth = 0;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => depth += 1,
            b'}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// What commas part, but for those within variables, brackets and quotes.
fn alternatives(inside: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut quote, mut start) = (0, None, 0);
    for (at, c) in inside.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{' | '(') => depth += 1,
            (None, '}' | ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT: &str = r#"
service: app
provider:
  stage: ${opt:stage, 'test'}
custom:
  names: { test: one, prod: two }
  list: [a, b]
  number: 512
  again: ${self:custom.again}
plain: x
self: "${self:service}-${sls:stage}"
nested: ${self:custom.names.${sls:stage}}
item: ${self:custom.list.1}
map: ${self:custom.names}
number: ${self:custom.number}
default: ${ssm:/a/b, ${env:NONE, 'a, b'}}
empty: ${env:NONE, ''}
environment: ${env:HOME_OF_TEST}
file: ${file(./more.yml):a.b}
files: ${file(./more.yml)}
script: ${file(./more.js):x}
missing: ${file(./none.yml):x}
ssm: ${ssm:/a/b}
option: ${opt:size}
again: ${self:custom.again}
open: ${self:service
aws: ${aws:region}
"#;

    #[test]
    fn variables_are_resolved_or_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("more.yml"),
            "a:\n  b: ${self:custom.names.test}\n",
        )
        .unwrap();
        let source = Source::parse(Path::new("serverless.yml"), TEXT.to_owned()).unwrap();
        let options = [("stage".to_owned(), "prod".to_owned())];
        let read = |options, key: &str| {
            let variables = Variables {
                environment: |name| (name == "HOME_OF_TEST").then(|| "here".to_owned()),
                ..Variables::new(&source, dir.path(), options)
            };
            match variables.resolve(source.root.get(key).unwrap()) {
                Ok(node) => node.to_json().to_string(),
                Err(error) => error,
            }
        };
        let check = |key: &str, expected: &str| {
            let found = read(&[], key);
            assert!(found.contains(expected), "{key}: {found}");
        };
        check("plain", "\"x\"");
        check("self", "\"app-test\"");
        check("nested", "\"one\"");
        assert_eq!(read(&options, "nested"), "\"two\"");
        check("item", "\"b\"");
        check("map", r#"{"prod":"two","test":"one"}"#);
        check("number", "512");
        check("default", "\"a, b\"");
        check("empty", "\"\"");
        check("environment", "\"here\"");
        check("file", "\"one\"");
        check("files", r#"{"a":{"b":"${self:custom.names.test}"}}"#);
        check("script", "only YAML and JSON files are read");
        check("missing", "cannot read");
        check("ssm", "${ssm:/a/b} has no value here");
        check("option", "--parameter size=");
        check("again", "name one another");
        check("open", "without an end");
        check("aws", "\"us-east-1\"");
    }
}
