//! What an import would make, whatever it was read from, and what it leaves out.

use std::collections::{BTreeMap, BTreeSet};

use lambic_functions::Destination;
use serde_json::{Map, Value, json};

use super::super::{exported, package::Package};

/// AWS's defaults: what a source does not say has them, also where it once said something else.
const TIMEOUT_S: u32 = 3;
const MEMORY_MB: u32 = 128;
const TMP_MB: u32 = 512;

/// Why something is left out, where several formats have the same.
pub const NOT_HERE: &str = "Lambic does not have it";
pub const NO_IAM: &str = "there is no IAM here; a function reaches what the server lets all reach";
pub const NO_DESTINATION: &str = "destinations are functions and streams of this server (arn:aws:lambic:us-east-1:000000000000:stream/NAME)";
pub const NO_IMAGES: &str = "it is a container image; only code in files is taken over";
pub const NOTHING_ELSE: &str = "only functions and layers are taken over";

#[derive(Default)]
pub struct Plan {
    /// What it was read from.
    pub source: String,
    pub layers: Vec<Layer>,
    pub functions: Vec<Function>,
    pub left_out: Vec<LeftOut>,
    /// Functions that are left out whole: what runs them is not here, or is not in files.
    pub lost: Vec<LeftOut>,
    /// What is most likely a mistake, and is left out too.
    pub warnings: Vec<LeftOut>,
    /// Mistakes, each with its place. With any of them nothing is done.
    pub problems: Vec<String>,
}

pub struct Layer {
    pub name: String,
    pub package: Package,
    pub description: String,
    pub runtimes: Vec<String>,
    pub license: String,
}

pub struct Function {
    pub name: String,
    pub package: Package,
    pub runtime: String,
    pub handler: String,
    pub settings: Settings,
    pub environment: BTreeMap<String, String>,
    /// Variables whose values are not known: those that the function has here stay.
    pub environment_kept: BTreeSet<String>,
    pub layers: Vec<LayerUse>,
    pub tags: BTreeMap<String, String>,
    pub concurrency: Option<u32>,
    /// Body of CreateFunctionUrlConfig.
    pub url: Option<Value>,
    /// Bodies of CreateEventSourceMapping, but for the function's name.
    pub mappings: Vec<Value>,
    /// Body of PutFunctionEventInvokeConfig.
    pub queued: Option<Value>,
    /// One of the aliases: URL and mappings are its.
    pub alias: Option<String>,
    /// They follow the newest version.
    pub aliases: Vec<Alias>,
    pub version: Version,
    /// Where it stands: `template.yaml:12: `. Empty where it stands nowhere.
    pub place: String,
    /// Where its members stand, by AWS's names, and its mappings, by the ARNs of their streams; those that are known.
    pub places: BTreeMap<String, String>,
}

/// A name for the newest version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alias {
    pub name: String,
    pub description: Option<String>,
    /// Environments that are kept ready.
    pub provisioned: Option<u32>,
}

/// Of what is published whenever something has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// Also where no alias follows it.
    pub is_wanted: bool,
    pub description: Option<String>,
    pub provisioned: Option<u32>,
}

/// What has a default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    pub description: Option<String>,
    pub timeout: Option<u32>,
    pub memory: Option<u32>,
    pub tmp: Option<u32>,
    /// Members of AWS's API that are kept and given back.
    pub kept: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerUse {
    /// Of this plan, by its name.
    Local(String),
    Arn(String),
}

/// Something that the source says and the import does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// `template.yaml:12: `
    pub place: String,
    pub what: String,
    pub why: String,
}

impl LeftOut {
    pub fn shown(&self) -> String {
        format!("{}{}: {}", self.place, self.what, self.why)
    }
}

impl Function {
    /// With nothing but code and what runs it.
    pub fn new(name: String, package: Package, runtime: String, handler: String) -> Function {
        Function {
            name,
            package,
            runtime,
            handler,
            settings: Settings::default(),
            environment: BTreeMap::new(),
            environment_kept: BTreeSet::new(),
            layers: Vec::new(),
            tags: BTreeMap::new(),
            concurrency: None,
            url: None,
            mappings: Vec::new(),
            queued: None,
            alias: None,
            aliases: Vec::new(),
            version: Version::default(),
            place: String::new(),
            places: BTreeMap::new(),
        }
    }

    /// Lets something belong to one of its aliases, or to the function itself; false where all else of its kind belongs
    /// elsewhere.
    pub fn belongs_to(&mut self, qualifier: Option<&str>) -> bool {
        let Some(name) = qualifier.filter(|name| *name != "$LATEST") else {
            return self.alias.is_none();
        };
        if let Some(alias) = &self.alias {
            return alias == name;
        }
        let is_free = self.url.is_none() && self.mappings.is_empty() && self.queued.is_none();
        let is_there = self.aliases.iter().any(|alias| alias.name == name);
        if is_free && is_there {
            self.alias = Some(name.to_owned());
        }
        is_free && is_there
    }

    /// What is made around it, for people.
    pub fn around(&self) -> String {
        let ready = |count: Option<u32>| match count {
            Some(count) => format!(" ({count} provisioned)"),
            None => String::new(),
        };
        let mut around: Vec<String> = Vec::new();
        let aliases = self.aliases.iter();
        around.extend(aliases.map(|one| format!("alias {}{}", one.name, ready(one.provisioned))));
        if self.version.is_wanted && self.aliases.is_empty() {
            around.push(format!("version{}", ready(self.version.provisioned)));
        }
        if let Some(count) = self.concurrency {
            around.push(format!("concurrency {count}"));
        }
        if self.url.is_some() {
            around.push("url".to_owned());
        }
        let sources = self.mappings.iter();
        around.extend(sources.map(|one| format!("from {}", named(&one["EventSourceArn"]))));
        let to = |what: &str, arn: &Value| {
            let is_set = arn.as_str().is_some_and(|arn| !arn.is_empty());
            is_set.then(|| format!("{what} to {}", named(arn)))
        };
        let queued = self
            .queued
            .as_ref()
            .map(|queued| &queued["DestinationConfig"]);
        if let Some(destinations) = queued {
            around.extend(to("successes", &destinations["OnSuccess"]["Destination"]));
            around.extend(to("failures", &destinations["OnFailure"]["Destination"]));
        }
        if let Some(config) = self.settings.kept.get("DeadLetterConfig") {
            around.extend(to("dead letters", &config["TargetArn"]));
        }
        around.join(", ")
    }

    /// A variable whose value is not known keeps the one that it has here. Gives why it is left out, and what to do.
    pub fn keep_variable(&mut self, name: &str, why: &str) -> String {
        self.environment.remove(name);
        self.environment_kept.insert(name.to_owned());
        format!(
            "{why}; set it with `lambic function update {} --env {name}=…`, and later imports keep it",
            self.name
        )
    }

    /// The configuration that is wanted, as AWS's API takes it; `layers` are the ARNs of its layers, `present` what
    /// there is.
    pub fn configuration(&self, layers: &[String], present: Option<&Value>) -> Map<String, Value> {
        let mut variables = self.environment.clone();
        let there = present.and_then(|present| present["Environment"]["Variables"].as_object());
        for (name, value) in there.into_iter().flatten() {
            if self.environment_kept.contains(name) {
                let value = value.as_str().unwrap_or_default();
                variables.insert(name.clone(), value.to_owned());
            }
        }
        let settings = &self.settings;
        let mut wanted = settings.kept.clone();
        let description = settings.description.as_deref().unwrap_or_default();
        for (name, value) in [
            ("Runtime", json!(self.runtime)),
            ("Handler", json!(self.handler)),
            ("Description", json!(description)),
            ("Timeout", json!(settings.timeout.unwrap_or(TIMEOUT_S))),
            ("MemorySize", json!(settings.memory.unwrap_or(MEMORY_MB))),
            (
                "EphemeralStorage",
                json!({ "Size": settings.tmp.unwrap_or(TMP_MB) }),
            ),
            ("Environment", json!({ "Variables": variables })),
            ("Layers", json!(layers)),
        ] {
            wanted.insert(name.to_owned(), value);
        }
        wanted
    }
}

/// What an ARN is of, in few words.
pub fn named(arn: &Value) -> String {
    let arn = arn.as_str().unwrap_or_default();
    match Destination::parse(arn) {
        Some(Destination::Function(name)) => format!("function {name}"),
        Some(Destination::Stream(name)) => format!("stream {name}"),
        None => arn.to_owned(),
    }
}

/// Members of the wanted configuration that differ from what there is.
pub fn differing(wanted: &Map<String, Value>, present: &Value) -> Map<String, Value> {
    let differs = |name: &str, value: &Value| match name {
        // AWS leaves them out where there are none, and describes layers by more than their ARNs.
        "Environment" => {
            let there = present["Environment"]["Variables"].as_object();
            there.cloned().unwrap_or_default()
                != *value["Variables"].as_object().unwrap_or(&Map::new())
        }
        "Layers" => {
            let there = present["Layers"].as_array().into_iter().flatten();
            let there: Vec<Value> = there.map(|layer| layer["Arn"].clone()).collect();
            Value::Array(there) != *value
        }
        _ => present[name] != *value,
    };
    let members = wanted.iter().filter(|(name, value)| differs(name, value));
    members
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

impl Plan {
    pub fn leave_out(&mut self, place: String, what: impl Into<String>, why: impl Into<String>) {
        self.left_out.push(LeftOut {
            place,
            what: what.into(),
            why: why.into(),
        });
    }

    pub fn lose(&mut self, place: String, what: impl Into<String>, why: impl Into<String>) {
        self.lost.push(LeftOut {
            place,
            what: what.into(),
            why: why.into(),
        });
    }

    /// Tells it of a script that does not export the function's handler.
    pub fn warn_unexported(&mut self, place: String, what: String, function: &Function) {
        let Function {
            package,
            runtime,
            handler,
            ..
        } = function;
        if let Some(unexported) = exported::unexported(package, runtime, handler) {
            self.warn(place, what, unexported);
        }
    }

    pub fn warn(&mut self, place: String, what: impl Into<String>, why: impl Into<String>) {
        self.warnings.push(LeftOut {
            place,
            what: what.into(),
            why: why.into(),
        });
    }

    /// Two functions of one name would be one.
    pub fn check_names(&mut self) {
        let mut seen = BTreeSet::new();
        for function in &self.functions {
            if !seen.insert(&function.name) {
                self.problems.push(format!(
                    "{}: two functions are named {}",
                    self.source, function.name
                ));
            }
        }
    }

    /// Code whose dependencies are named but not there fails at its first invocation.
    pub fn check_dependencies(&mut self) {
        let mut notes = Vec::new();
        for function in &self.functions {
            if let Some((what, why)) = missing_dependencies(&function.package, &function.layers) {
                notes.push((format!("{}: {what}", function.name), why));
            }
        }
        for (what, why) in notes {
            self.leave_out(String::new(), what, why);
        }
    }
}

fn missing_dependencies(
    package: &Package,
    layers: &[LayerUse],
) -> Option<(&'static str, &'static str)> {
    let has = |part: &str| package.files.keys().any(|name| name.contains(part));
    if !layers.is_empty() {
        return None;
    }
    let requirements = package.text("requirements.txt").unwrap_or_default();
    let is_named = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if requirements.lines().any(is_named) && !has(".dist-info/") {
        return Some((
            "requirements.txt",
            "nothing of it is installed beside the code; run `sam build` and import .aws-sam/build, or pip install --target",
        ));
    }
    let about: Value = serde_json::from_str(&package.text("package.json")?).ok()?;
    let dependencies = about["dependencies"].as_object();
    let has_any = dependencies.is_some_and(|all| !all.is_empty());
    (has_any && !has("node_modules/")).then_some((
        "package.json",
        "its dependencies are not installed beside the code; run npm install first",
    ))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn package(files: &[(&str, &str)]) -> Package {
        use std::io::{Cursor, Write};

        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            let options = zip::write::SimpleFileOptions::default();
            writer.start_file(*name, options).unwrap();
            writer.write_all(content.as_bytes()).unwrap();
        }
        let zip = writer.finish().unwrap().into_inner();
        Package::zipped("code".to_owned(), zip).unwrap()
    }

    pub fn function(files: &[(&str, &str)]) -> Function {
        Function::new(
            "f".to_owned(),
            package(files),
            "python3.11".to_owned(),
            "app.handler".to_owned(),
        )
    }

    #[test]
    fn only_what_differs_is_changed() {
        let mut one = function(&[("app.py", "")]);
        one.settings.timeout = Some(30);
        one.environment.insert("A".to_owned(), "1".to_owned());
        one.environment_kept.insert("TABLE".to_owned());
        let present = json!({
            "Runtime": "python3.11", "Handler": "app.handler", "Description": "", "Timeout": 3,
            "MemorySize": 128, "EphemeralStorage": { "Size": 512 },
            "Environment": { "Variables": { "A": "1", "TABLE": "mine", "OLD": "x" } },
            "Layers": [{ "Arn": "l:1", "CodeSize": 5 }],
        });
        let wanted = one.configuration(&["l:1".to_owned()], Some(&present));
        let changes = differing(&wanted, &present);
        assert_eq!(
            Value::Object(changes),
            json!({ "Timeout": 30, "Environment": { "Variables": { "A": "1", "TABLE": "mine" } } })
        );
        let plain = function(&[("app.py", "")]);
        let bare = json!({
            "Runtime": "python3.11", "Handler": "app.handler", "Description": "", "Timeout": 3,
            "MemorySize": 128, "EphemeralStorage": { "Size": 512 },
        });
        assert!(differing(&plain.configuration(&[], Some(&bare)), &bare).is_empty());
    }

    #[test]
    fn what_is_made_around_a_function_is_told() {
        let mut one = function(&[("app.py", "")]);
        assert_eq!(one.around(), "");
        one.version.is_wanted = true;
        assert_eq!(one.around(), "version");
        one.aliases.push(Alias {
            name: "live".to_owned(),
            provisioned: Some(2),
            ..Alias::default()
        });
        one.url = Some(json!({}));
        let stream = "arn:aws:lambic:us-east-1:000000000000:stream/s";
        one.mappings = vec![json!({ "EventSourceArn": stream })];
        let next = "arn:aws:lambda:us-east-1:000000000000:function:next";
        one.queued = Some(json!({ "DestinationConfig": { "OnFailure": { "Destination": next } } }));
        let kept = &mut one.settings.kept;
        kept.insert(
            "DeadLetterConfig".to_owned(),
            json!({ "TargetArn": stream }),
        );
        assert_eq!(
            one.around(),
            "alias live (2 provisioned), url, from stream s, failures to function next, dead letters to stream s"
        );
    }

    #[test]
    fn what_belongs_to_an_alias_all_belongs_to_it() {
        let mut one = function(&[("app.py", "")]);
        assert!(one.belongs_to(None) && one.belongs_to(Some("$LATEST")));
        assert!(!one.belongs_to(Some("live")), "there is no such alias");
        one.aliases.push(Alias {
            name: "live".to_owned(),
            ..Alias::default()
        });
        assert!(one.belongs_to(Some("live")) && one.belongs_to(Some("live")));
        assert!(!one.belongs_to(None) && !one.belongs_to(Some("other")));
        let mut taken = function(&[("app.py", "")]);
        taken.aliases = one.aliases;
        taken.url = Some(json!({}));
        assert!(!taken.belongs_to(Some("live")));
    }

    #[test]
    fn dependencies_that_are_not_there_are_told() {
        let check = |files: &[(&str, &str)], expected: Option<&str>| {
            let found = missing_dependencies(&package(files), &[]);
            assert_eq!(found.map(|(what, _)| what), expected, "{files:?}");
        };
        check(&[("requirements.txt", "# none\n\n")], None);
        check(
            &[("requirements.txt", "requests\n")],
            Some("requirements.txt"),
        );
        check(
            &[
                ("requirements.txt", "requests\n"),
                ("requests-2.dist-info/METADATA", ""),
            ],
            None,
        );
        check(&[("package.json", "{\"dependencies\": {}}")], None);
        check(
            &[("package.json", "{\"dependencies\": {\"a\": \"1\"}}")],
            Some("package.json"),
        );
        check(
            &[
                ("package.json", "{\"dependencies\": {\"a\": \"1\"}}"),
                ("node_modules/a/index.js", ""),
            ],
            None,
        );
        let layered = package(&[("requirements.txt", "requests\n")]);
        assert_eq!(
            missing_dependencies(&layered, &[LayerUse::Arn("a".to_owned())]),
            None
        );
    }
}
