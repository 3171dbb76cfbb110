//! CloudFormation's templates as far as they can be read without AWS: parameters, mappings, conditions, and the
//! intrinsic functions over them.
//!
//! Pure. What only AWS knows (an attribute of a table, a parameter without a value) is [`Missing::Unknown`], with why.

use std::{cell::Cell, collections::BTreeMap};

use serde_json::Value;

use crate::yaml_source::{Node, Source, Yaml};

/// Functions within functions, conditions that name conditions.
const DEPTH_MAX: usize = 32;
/// Of one template: conditions that name one another would ask each other without end.
const LOOKS_MAX: u32 = 100_000;

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "000000000000";

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// `AWS::NoValue`: as if the property were not there.
    NoValue,
    Unknown(String),
}

pub type Resolved<T> = Result<T, Missing>;

fn unknown<T>(why: impl Into<String>) -> Resolved<T> {
    Err(Missing::Unknown(why.into()))
}

pub struct Template<'a> {
    pub source: &'a Source,
    stack: String,
    parameters: BTreeMap<String, Node>,
    /// The names that functions get here, by their logical names.
    functions: BTreeMap<String, String>,
    looks: Cell<u32>,
}

/// One entry of `Resources`.
#[derive(Clone, Copy)]
pub struct Resource<'a> {
    pub id: &'a str,
    pub kind: &'a str,
    /// Where its name stands.
    pub key: &'a Node,
    pub node: &'a Node,
}

impl<'a> Template<'a> {
    /// `given` are values for parameters; the error names one that the template does not have.
    pub fn new(
        source: &'a Source,
        stack: &str,
        given: &[(String, String)],
    ) -> Result<Template<'a>, String> {
        let declared = source.root.get("Parameters").map_or(&[][..], Node::entries);
        for (name, _) in given {
            if !declared.iter().any(|(key, _)| key.text() == Some(name)) {
                return Err(format!("the template has no parameter {name}"));
            }
        }
        let mut parameters = BTreeMap::new();
        for (key, declaration) in declared {
            let name = key.text().unwrap_or_default();
            let kind = declaration
                .get("Type")
                .and_then(Node::text)
                .unwrap_or("String");
            let given = given.iter().rfind(|(given, _)| given == name);
            let value = match given {
                Some((_, value)) => Some(Node::plain(value)),
                // What stands there is the name of a value in AWS's parameter store.
                None if kind.starts_with("AWS::SSM::Parameter::Value") => None,
                None => declaration.get("Default").cloned(),
            };
            let Some(value) = value else { continue };
            let is_list = kind == "CommaDelimitedList" || kind.starts_with("List<");
            let value = match value.text() {
                Some(text) if is_list => Node {
                    at: value.at,
                    tag: None,
                    value: Yaml::List(
                        text.split(',')
                            .map(|item| Node::scalar(item.trim()))
                            .collect(),
                    ),
                },
                _ => value,
            };
            parameters.insert(name.to_owned(), value);
        }
        Ok(Template {
            source,
            stack: stack.to_owned(),
            parameters,
            functions: BTreeMap::new(),
            looks: Cell::default(),
        })
    }

    pub fn resources(&self) -> impl Iterator<Item = Resource<'a>> + use<'a> {
        let all = self.source.root.get("Resources");
        let all = all.map_or(&[][..], Node::entries).iter();
        all.map(|(id, node)| Resource {
            id: id.text().unwrap_or_default(),
            key: id,
            kind: node.get("Type").and_then(Node::text).unwrap_or_default(),
            node,
        })
    }

    /// Of the template, whether its value is known or not.
    pub fn has_parameter(&self, name: &str) -> bool {
        let declared = self.source.root.get("Parameters");
        name.starts_with("AWS::") || declared.is_some_and(|all| all.get(name).is_some())
    }

    pub fn resource(&self, id: &str) -> Option<Resource<'a>> {
        self.resources().find(|resource| resource.id == id)
    }

    /// What `Ref` of a function gives.
    pub fn name_function(&mut self, id: &str, name: &str) {
        self.functions.insert(id.to_owned(), name.to_owned());
    }

    pub fn function(&self, id: &str) -> Option<&str> {
        self.functions.get(id).map(String::as_str)
    }

    /// Whether a resource is made at all.
    pub fn is_wanted(&self, resource: Resource<'_>) -> Resolved<bool> {
        match resource.node.get("Condition").and_then(Node::text) {
            Some(name) => self.condition(name, 0),
            None => Ok(true),
        }
    }

    /// What a node stands for: never an intrinsic function, though it may hold some.
    pub fn resolve(&self, node: &Node) -> Resolved<Node> {
        self.resolve_in(node, 0)
    }

    pub fn text(&self, node: &Node) -> Resolved<String> {
        self.text_in(node, 0)
    }

    /// The whole value; members without a value are left out.
    pub fn json(&self, node: &Node) -> Resolved<Value> {
        let node = self.resolve(node)?;
        Ok(match &node.value {
            Yaml::Scalar { .. } => node.to_json(),
            Yaml::List(items) => {
                let mut values = Vec::new();
                for item in items {
                    match self.json(item) {
                        Err(Missing::NoValue) => {}
                        value => values.push(value?),
                    }
                }
                Value::Array(values)
            }
            Yaml::Map(entries) => {
                let mut members = serde_json::Map::new();
                for (key, value) in entries {
                    match self.json(value) {
                        Err(Missing::NoValue) => {}
                        value => {
                            members.insert(key.text().unwrap_or_default().to_owned(), value?);
                        }
                    }
                }
                Value::Object(members)
            }
        })
    }

    fn text_in(&self, node: &Node, depth: usize) -> Resolved<String> {
        let found = self.resolve_in(node, depth)?;
        match found.text() {
            Some(text) if text.contains("{{resolve:") => {
                unknown(format!("{text} is known to AWS only"))
            }
            Some(text) => Ok(text.to_owned()),
            None => unknown("a text is wanted here, not a list or map"),
        }
    }

    fn resolve_in(&self, node: &Node, depth: usize) -> Resolved<Node> {
        if self.is_too_much(depth) {
            return unknown("its functions are nested too deeply, or name one another");
        }
        let Some((function, argument)) = intrinsic(node) else {
            return Ok(node.clone());
        };
        let depth = depth + 1;
        let text = |node: &Node| self.text_in(node, depth);
        let list = |node: &Node| self.list_in(node, depth);
        let texts = |node: &Node| {
            let items = list(node)?;
            items.iter().map(text).collect::<Resolved<Vec<String>>>()
        };
        let found = match function.as_str() {
            "Ref" => return self.reference(argument.text().unwrap_or_default()),
            "GetAtt" => {
                let path = match argument.text() {
                    Some(path) => path.to_owned(),
                    None => texts(&argument)?.join("."),
                };
                self.attribute(&path)?
            }
            "Sub" => self.substituted(&argument, depth)?,
            "Join" => match argument.items() {
                [joint, items] => texts(items)?.join(&text(joint)?),
                _ => return unknown("Join takes [DELIMITER, LIST]"),
            },
            "Select" => match argument.items() {
                [index, items] => {
                    let index = text(index)?.parse::<usize>().ok();
                    let items = list(items)?;
                    let item = index.and_then(|index| items.get(index));
                    return match item {
                        Some(item) => self.resolve_in(item, depth),
                        None => unknown("Select names an item that its list does not have"),
                    };
                }
                _ => return unknown("Select takes [INDEX, LIST]"),
            },
            "Split" => match argument.items() {
                [joint, whole] => {
                    let (joint, whole) = (text(joint)?, text(whole)?);
                    let parts = whole.split(joint.as_str()).map(Node::scalar).collect();
                    return Ok(Node {
                        value: Yaml::List(parts),
                        ..Node::scalar("")
                    });
                }
                _ => return unknown("Split takes [DELIMITER, TEXT]"),
            },
            "FindInMap" => match argument.items() {
                [map, first, second, ..] => {
                    let (map, first, second) = (text(map)?, text(first)?, text(second)?);
                    let maps = self.source.root.get("Mappings");
                    let found = maps.and_then(|maps| maps.get(&map)?.get(&first)?.get(&second));
                    return match found {
                        Some(node) => self.resolve_in(node, depth),
                        None => unknown(format!("the mapping {map} has no {first}.{second}")),
                    };
                }
                _ => return unknown("FindInMap takes [MAP, KEY, KEY]"),
            },
            "If" => match argument.items() {
                [condition, one, other] => {
                    let is_so = self.condition(condition.text().unwrap_or_default(), depth)?;
                    return self.resolve_in(if is_so { one } else { other }, depth);
                }
                _ => return unknown("If takes [CONDITION, VALUE, VALUE]"),
            },
            "Base64" => {
                use base64::prelude::{BASE64_STANDARD, Engine as _};
                BASE64_STANDARD.encode(text(&argument)?)
            }
            other => return unknown(format!("{other} is known to AWS only")),
        };
        Ok(Node {
            at: node.at,
            ..Node::scalar(found)
        })
    }

    fn is_too_much(&self, depth: usize) -> bool {
        self.looks.set(self.looks.get() + 1);
        depth > DEPTH_MAX || self.looks.get() > LOOKS_MAX
    }

    fn list_in(&self, node: &Node, depth: usize) -> Resolved<Vec<Node>> {
        let found = self.resolve_in(node, depth)?;
        match found.value {
            Yaml::List(items) => Ok(items),
            _ => unknown("a list is wanted here"),
        }
    }

    fn reference(&self, name: &str) -> Resolved<Node> {
        if let Some(value) = self.parameters.get(name) {
            return Ok(value.clone());
        }
        if name == "AWS::NoValue" {
            return Err(Missing::NoValue);
        }
        if let Some(text) = self.pseudo(name) {
            return Ok(Node::scalar(text));
        }
        if let Some(name) = self.function(name) {
            return Ok(Node::scalar(name));
        }
        let parameters = self.source.root.get("Parameters");
        if parameters.is_some_and(|all| all.get(name).is_some()) {
            return unknown(format!(
                "the parameter {name} has no value here; give one with --parameter {name}=…"
            ));
        }
        match self.resource(name) {
            Some(resource) => unknown(format!("{name} is an {}, which is not here", resource.kind)),
            None => unknown(format!("the template has no {name}")),
        }
    }

    fn pseudo(&self, name: &str) -> Option<&str> {
        Some(match name {
            "AWS::Region" => REGION,
            "AWS::AccountId" => ACCOUNT,
            "AWS::Partition" => "aws",
            "AWS::URLSuffix" => "amazonaws.com",
            "AWS::StackName" => &self.stack,
            _ => return None,
        })
    }

    /// `Function.Arn` is the only one that is the same here.
    fn attribute(&self, path: &str) -> Resolved<String> {
        let (id, attribute) = path.split_once('.').unwrap_or((path, ""));
        match (self.function(id), attribute) {
            (Some(name), "Arn") => Ok(format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")),
            _ => match self.resource(id) {
                Some(resource) => unknown(format!(
                    "{path} is an attribute of an {}, which is not here",
                    resource.kind
                )),
                None => unknown(format!("the template has no {id}")),
            },
        }
    }

    /// `${Name}`, `${Name.Attribute}`; `${!Name}` stands for `${Name}`.
    fn substituted(&self, argument: &Node, depth: usize) -> Resolved<String> {
        let (text, own) = match argument.items() {
            [] => (argument.text(), None),
            [text, own] => (text.text(), Some(own)),
            _ => (None, None),
        };
        let Some(text) = text else {
            return unknown("Sub takes a text, or [TEXT, VALUES]");
        };
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            filled.push_str(before);
            let Some((name, behind)) = after.split_once('}') else {
                return unknown(format!("{text} has a ${{ without an end"));
            };
            let name = name.trim();
            rest = behind;
            if let Some(literal) = name.strip_prefix('!') {
                filled.push_str(&format!("${{{literal}}}"));
                continue;
            }
            let value = match own.and_then(|own| own.get(name)) {
                Some(value) => self.text_in(value, depth)?,
                None if name.contains('.') => self.attribute(name)?,
                None => {
                    let node = self.reference(name)?;
                    self.text_in(&node, depth)?
                }
            };
            filled.push_str(&value);
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn condition(&self, name: &str, depth: usize) -> Resolved<bool> {
        let conditions = self.source.root.get("Conditions");
        match conditions.and_then(|all| all.get(name)) {
            Some(node) => self.truth(node, depth + 1),
            None => unknown(format!("the template has no condition {name}")),
        }
    }

    fn truth(&self, node: &Node, depth: usize) -> Resolved<bool> {
        if self.is_too_much(depth) {
            return unknown("its conditions are nested too deeply, or name one another");
        }
        let Some((function, argument)) = intrinsic(node) else {
            return unknown("this is no condition");
        };
        let each = || {
            argument
                .items()
                .iter()
                .map(|item| self.truth(item, depth + 1))
        };
        match function.as_str() {
            "Condition" => self.condition(argument.text().unwrap_or_default(), depth),
            "Equals" => match argument.items() {
                [one, other] => Ok(self.text_in(one, depth)? == self.text_in(other, depth)?),
                _ => unknown("Equals takes [VALUE, VALUE]"),
            },
            "Not" => match argument.items() {
                [one] => Ok(!self.truth(one, depth + 1)?),
                _ => unknown("Not takes [CONDITION]"),
            },
            "And" => Ok(each()
                .collect::<Resolved<Vec<bool>>>()?
                .iter()
                .all(|is| *is)),
            "Or" => Ok(each()
                .collect::<Resolved<Vec<bool>>>()?
                .iter()
                .any(|is| *is)),
            other => unknown(format!("{other} is no condition")),
        }
    }
}

/// `!Ref X`, `{Ref: X}`, `!Sub …`, `{Fn::Sub: …}`: the name of a function without `Fn::`, and its argument.
pub fn intrinsic(node: &Node) -> Option<(String, Node)> {
    if let Some(tag) = &node.tag {
        let argument = Node {
            tag: None,
            ..node.clone()
        };
        return Some((tag.clone(), argument));
    }
    let [(key, argument)] = node.entries() else {
        return None;
    };
    let name = key.text()?;
    let function = match name {
        "Ref" | "Condition" => name,
        _ => name.strip_prefix("Fn::")?,
    };
    Some((function.to_owned(), argument.clone()))
}

/// The resource that a `Ref` names, whatever it is.
pub fn referred(node: &Node) -> Option<String> {
    let (function, argument) = intrinsic(node)?;
    // `GetAtt` also takes `[NAME, ATTRIBUTE]`.
    let name = argument
        .text()
        .or(argument.items().first().and_then(Node::text))?;
    match function.as_str() {
        "Ref" => Some(name.to_owned()),
        "GetAtt" => Some(name.split('.').next().unwrap_or(name).to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = r#"
Parameters:
  Stage: { Type: String, Default: dev }
  Hosts: { Type: CommaDelimitedList, Default: "a, b" }
  Secret: { Type: String }
  Image: { Type: "AWS::SSM::Parameter::Value<String>", Default: /a/b }
Mappings:
  Sizes:
    dev: { memory: 256 }
    prod: { memory: 1024 }
Conditions:
  IsProd: !Equals [!Ref Stage, prod]
  IsDev: !Not [!Condition IsProd]
  Both: !And [!Condition IsProd, !Condition IsDev]
  Either: !Or [{Condition: IsProd}, {Condition: IsDev}]
  Loop: !Condition Loop
  Knot: !Or [!Condition Knot, !Condition Knot]
Resources:
  Fn: { Type: "AWS::Serverless::Function" }
  Table: { Type: "AWS::DynamoDB::Table", Condition: IsProd }
Values:
  ref: !Ref Stage
  long: { Ref: Stage }
  sub: !Sub "${AWS::StackName}-${Stage}-${!Literal}-${Fn.Arn}"
  subs: !Sub ["${A}-${Stage}", { A: !Ref "AWS::Region" }]
  join: !Join ["/", [x, !Ref Stage]]
  list: !Ref Hosts
  select: !Select [1, !Ref Hosts]
  split: !Select [0, !Split [":", "p:q"]]
  map: !FindInMap [Sizes, !Ref Stage, memory]
  if: !If [IsProd, big, !If [Either, small, none]]
  nothing: !If [IsProd, big, !Ref "AWS::NoValue"]
  base: !Base64 hi
  fn: !Ref Fn
  secret: !Ref Secret
  image: !Ref Image
  table: !GetAtt Table.Arn
  named: !Sub "${Table}"
  other: !Ref Nobody
  import: !ImportValue x
  dynamic: "{{resolve:ssm:/x}}"
  loop: !If [Loop, a, b]
  knot: !If [Knot, a, b]
  open: !Sub "${Stage"
"#;

    fn source() -> Source {
        Source::parse(Path::new("t.yaml"), TEXT.to_owned()).unwrap()
    }

    #[test]
    fn functions_are_resolved_or_told() {
        let source = source();
        let mut template = Template::new(&source, "app", &[]).unwrap();
        template.name_function("Fn", "fn-here");
        let values = source.root.get("Values").unwrap();
        let check = |key: &str, expected: &str| {
            let found = match template.json(values.get(key).unwrap()) {
                Ok(_) if key == "dynamic" => match template.text(values.get(key).unwrap()) {
                    Err(Missing::Unknown(why)) => why,
                    other => format!("{other:?}"),
                },
                Ok(Value::String(text)) => text,
                Ok(value) => value.to_string(),
                Err(Missing::NoValue) => "no value".to_owned(),
                Err(Missing::Unknown(why)) => why,
            };
            assert!(found.contains(expected), "{key}: {found}");
        };
        check("ref", "dev");
        check("long", "dev");
        check(
            "sub",
            "app-dev-${Literal}-arn:aws:lambda:us-east-1:000000000000:function:fn-here",
        );
        check("subs", "us-east-1-dev");
        check("join", "x/dev");
        check("list", r#"["a","b"]"#);
        check("select", "b");
        check("split", "p");
        check("map", "256");
        check("if", "small");
        check("nothing", "no value");
        check("base", "aGk=");
        check("fn", "fn-here");
        check("secret", "--parameter Secret=");
        check("image", "has no value here");
        check("table", "an attribute of an AWS::DynamoDB::Table");
        check("named", "Table is an AWS::DynamoDB::Table");
        check("other", "the template has no Nobody");
        check("import", "ImportValue is known to AWS only");
        check("dynamic", "known to AWS only");
        check("loop", "name one another");
        check("knot", "name one another");
        check("open", "without an end");
    }

    #[test]
    fn what_is_referred_to_is_seen_in_all_forms() {
        for (text, expected) in [
            ("a: !Ref Fn", Some("Fn")),
            ("a: { Ref: Fn }", Some("Fn")),
            ("a: !GetAtt Fn.Arn", Some("Fn")),
            ("a: { 'Fn::GetAtt': [Fn, Arn] }", Some("Fn")),
            ("a: !Sub Fn", None),
            ("a: Fn", None),
        ] {
            let source = Source::parse(Path::new("t.yaml"), text.to_owned()).unwrap();
            let found = referred(source.root.get("a").unwrap());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn parameters_that_are_given_count() {
        let source = source();
        let given = [("Stage".to_owned(), "prod".to_owned())];
        let template = Template::new(&source, "app", &given).unwrap();
        let values = source.root.get("Values").unwrap();
        assert_eq!(
            template.text(values.get("map").unwrap()),
            Ok("1024".to_owned())
        );
        let table = template.resource("Table").unwrap();
        assert_eq!(template.is_wanted(table), Ok(true));
        assert_eq!(
            Template::new(&source, "app", &[]).unwrap().is_wanted(table),
            Ok(false)
        );
        let wrong = [("Stag".to_owned(), String::new())];
        assert!(Template::new(&source, "app", &wrong).is_err());
    }
}
