//! A function with everything that is kept of it: `$LATEST`, published versions, aliases, and what is set for them.
//!
//! Plain data and the rules of AWS Lambda for changing it; nothing here runs or writes anything. A change is made to a
//! copy, which is written before it serves ([`crate::Functions::change`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, EventSource, FunctionInfo, FunctionVersion, Qualifier, registry::Mapping,
    version::is_number,
};

/// AWS's.
const DESCRIPTION_CHARS_MAX: usize = 256;
const TAGS_MAX: usize = 50;
const TAG_KEY_CHARS_MAX: usize = 128;
const TAG_VALUE_CHARS_MAX: usize = 256;
/// Of one policy, as JSON.
const POLICY_BYTES_MAX: usize = 20 << 10;

/// Fields that older servers did not know are left out while they are empty, so that the checksums of what those
/// wrote still hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// `$LATEST`.
    pub info: FunctionInfo,
    /// Of its triggers.
    pub(crate) mappings: Vec<Mapping>,
    /// By their UUIDs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, EventSource>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<u64, FunctionInfo>,
    /// The highest number that was ever published: none is given twice.
    #[serde(default, skip_serializing_if = "is_default")]
    pub published: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, Alias>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Who may do what with the function, or with a version or alias of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<Qualifier, Policy>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub async_settings: BTreeMap<Qualifier, AsyncSettings>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub urls: BTreeMap<Qualifier, Url>,
    /// Environments that are kept ready, of versions and aliases.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provisioned: BTreeMap<Qualifier, Provisioned>,
}

/// A name for a version, or for two with a share of the invocations each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alias {
    pub version: FunctionVersion,
    pub description: String,
    /// Another version, and which part of the invocations it gets, 0 to 1.
    pub shifted: Option<(FunctionVersion, f64)>,
    /// Changes with every change.
    pub revision: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Of IAM, by their `Sid`, in the order in which they were added.
    pub statements: Vec<Value>,
    pub revision: String,
}

/// How events that nobody waits for are tried, and where their results go. What is not set has AWS's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AsyncSettings {
    /// 0 to 2.
    pub retries: Option<u32>,
    /// 60 to 21,600.
    pub age_s_max: Option<u32>,
    /// ARNs.
    pub on_success: Option<String>,
    pub on_failure: Option<String>,
    /// Microseconds since 1970.
    pub changed_at_us: i64,
}

/// An HTTP endpoint of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Url {
    /// Its host name's first part.
    pub id: String,
    /// False: signed requests only.
    pub is_public: bool,
    /// Of AWS: `AllowOrigins` and so on.
    pub cors: Option<Value>,
    /// The answer goes out as it is written.
    pub is_streamed: bool,
    pub created_at_us: i64,
    pub changed_at_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provisioned {
    pub environments: usize,
    pub changed_at_us: i64,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Policy {
    /// Adds a statement, which has a `Sid`; after an error the policy is not to be used.
    pub fn permit(&mut self, statement: Value, revision: Option<&str>) -> Result<(), Error> {
        check_revision(&self.revision, revision)?;
        let sid = &statement["Sid"];
        if self.statements.iter().any(|other| other["Sid"] == *sid) {
            return Err(Error::Conflict {
                reason: format!(
                    "The statement id ({}) provided already exists. Please provide a new statement id, or remove the existing statement.",
                    sid.as_str().unwrap_or_default()
                ),
            });
        }
        self.statements.push(statement);
        self.revision = new_revision();
        let bytes = Value::from(self.statements.clone()).to_string().len();
        if bytes > POLICY_BYTES_MAX {
            return Err(Error::PolicyTooLong {
                bytes,
                limit: POLICY_BYTES_MAX,
            });
        }
        Ok(())
    }

    pub fn forbid(&mut self, sid: &str, revision: Option<&str>) -> Result<(), Error> {
        let mut statements = self.statements.iter();
        let at = statements.position(|statement| statement["Sid"] == sid);
        let at = at.ok_or_else(|| Error::NoStatement {
            sid: sid.to_owned(),
        })?;
        check_revision(&self.revision, revision)?;
        self.statements.remove(at);
        self.revision = new_revision();
        Ok(())
    }
}

pub fn new_revision() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl Function {
    pub(crate) fn new(info: FunctionInfo, mappings: Vec<Mapping>) -> Function {
        Function {
            info,
            mappings,
            sources: BTreeMap::new(),
            versions: BTreeMap::new(),
            published: 0,
            aliases: BTreeMap::new(),
            tags: BTreeMap::new(),
            policies: BTreeMap::new(),
            async_settings: BTreeMap::new(),
            urls: BTreeMap::new(),
            provisioned: BTreeMap::new(),
        }
    }

    fn missing(&self, qualifier: &dyn std::fmt::Display) -> Error {
        Error::Missing {
            name: format!("{}:{qualifier}", self.info.name),
        }
    }

    /// `$LATEST` or a published version.
    pub fn version(&self, version: FunctionVersion) -> Result<&FunctionInfo, Error> {
        match version {
            FunctionVersion::Latest => Ok(&self.info),
            FunctionVersion::Number(number) => {
                let found = self.versions.get(&number);
                found.ok_or_else(|| self.missing(&number))
            }
        }
    }

    pub fn alias(&self, name: &str) -> Result<&Alias, Error> {
        self.aliases.get(name).ok_or_else(|| self.missing(&name))
    }

    /// What a qualifier names, for those who look; an alias is its main version. Nothing is `$LATEST`.
    pub fn at(&self, qualifier: Option<&Qualifier>) -> Result<&FunctionInfo, Error> {
        match qualifier {
            None => Ok(&self.info),
            Some(Qualifier::Version(version)) => self.version(*version),
            Some(Qualifier::Alias(alias)) => self.version(self.alias(alias)?.version),
        }
    }

    /// The version that an invocation runs; `share` is drawn from 0 to 1.
    pub fn chosen(
        &self,
        qualifier: Option<&Qualifier>,
        share: f64,
    ) -> Result<FunctionVersion, Error> {
        let Some(Qualifier::Alias(name)) = qualifier else {
            return Ok(self.at(qualifier)?.version);
        };
        let alias = self.alias(name)?;
        Ok(match alias.shifted {
            Some((version, weight)) if share < weight => version,
            _ => alias.version,
        })
    }

    /// How queued events of a version or alias are tried.
    pub fn async_settings(&self, qualifier: Option<&Qualifier>) -> Option<&AsyncSettings> {
        self.async_settings
            .get(qualifier.unwrap_or(&Qualifier::LATEST))
    }

    /// Freezes `$LATEST`. If it is what was published last, that is returned and nothing changes.
    pub fn publish(&mut self, description: Option<String>) -> Result<FunctionInfo, Error> {
        if let Some(last) = self.versions.get(&self.published)
            && last.is_same_code_and_settings(&self.info)
        {
            return Ok(last.clone());
        }
        if let Some(description) = &description {
            check_description(description)?;
        }
        self.published += 1;
        let mut info = FunctionInfo {
            version: FunctionVersion::Number(self.published),
            revision: new_revision(),
            triggers: Vec::new(),
            ..self.info.clone()
        };
        if let Some(description) = description {
            info.settings.description = description;
        }
        self.versions.insert(self.published, info.clone());
        Ok(info)
    }

    /// Removes a published version, unless an alias points to it.
    pub fn remove_version(&mut self, number: u64) -> Result<(), Error> {
        let version = FunctionVersion::Number(number);
        self.version(version)?;
        let points_to_it = |alias: &Alias| {
            alias.version == version || alias.shifted.is_some_and(|(other, _)| other == version)
        };
        let pointing: Vec<&str> = self
            .aliases
            .iter()
            .filter(|(_, alias)| points_to_it(alias))
            .map(|(name, _)| name.as_str())
            .collect();
        if !pointing.is_empty() {
            return Err(Error::Conflict {
                reason: format!(
                    "Unable to delete version because the following aliases reference it: [{}]",
                    pointing.join(", ")
                ),
            });
        }
        self.versions.remove(&number);
        self.forget(&Qualifier::Version(version));
        Ok(())
    }

    pub fn create_alias(
        &mut self,
        name: &str,
        version: FunctionVersion,
        description: String,
        shifted: Option<(FunctionVersion, f64)>,
    ) -> Result<&Alias, Error> {
        if is_number(name) || !matches!(name.parse(), Ok(Qualifier::Alias(_))) {
            return Err(Error::BadValue {
                reason: format!(
                    "`{name}` is not the name of an alias: use letters, digits, `-` and `_`, not digits only"
                ),
            });
        }
        if self.aliases.contains_key(name) {
            return Err(Error::Conflict {
                reason: format!("Alias already exists: {}:{name}", self.info.name),
            });
        }
        check_description(&description)?;
        let alias = Alias {
            version,
            description,
            shifted,
            revision: new_revision(),
        };
        self.check_alias(&alias)?;
        Ok(self.aliases.entry(name.to_owned()).or_insert(alias))
    }

    /// Sets what is `Some`; `shifted: Some(None)` gives all invocations to one version again.
    pub fn update_alias(
        &mut self,
        name: &str,
        version: Option<FunctionVersion>,
        description: Option<String>,
        shifted: Option<Option<(FunctionVersion, f64)>>,
        revision: Option<&str>,
    ) -> Result<&Alias, Error> {
        let former = self.alias(name)?;
        check_revision(&former.revision, revision)?;
        let alias = Alias {
            version: version.unwrap_or(former.version),
            description: description.unwrap_or_else(|| former.description.clone()),
            shifted: shifted.unwrap_or(former.shifted),
            revision: new_revision(),
        };
        check_description(&alias.description)?;
        self.check_alias(&alias)?;
        self.aliases.insert(name.to_owned(), alias);
        self.alias(name)
    }

    /// AWS's rules: the versions exist; two are published ones, different, with a weight of 0 to 1.
    fn check_alias(&self, alias: &Alias) -> Result<(), Error> {
        self.version(alias.version)?;
        let Some((other, weight)) = alias.shifted else {
            return Ok(());
        };
        let refuse = |reason: &str| {
            Err(Error::BadValue {
                reason: reason.to_owned(),
            })
        };
        if !(0.0..=1.0).contains(&weight) {
            return refuse("the weight of a version must be 0.0 to 1.0");
        }
        if alias.version == FunctionVersion::Latest || other == FunctionVersion::Latest {
            return refuse("$LATEST is not supported for an alias pointing to more than 1 version");
        }
        if other == alias.version {
            return refuse(&format!(
                "Invalid function version {other}. Function version {other} is already included in routing configuration."
            ));
        }
        self.version(other).map(drop)
    }

    /// Also if there is none, as AWS does.
    pub fn remove_alias(&mut self, name: &str) {
        self.aliases.remove(name);
        self.forget(&Qualifier::Alias(name.to_owned()));
    }

    /// Whatever was set for a version or alias that is gone.
    fn forget(&mut self, qualifier: &Qualifier) {
        self.policies.remove(qualifier);
        self.async_settings.remove(qualifier);
        self.urls.remove(qualifier);
        self.provisioned.remove(qualifier);
    }

    pub fn tag(&mut self, tags: BTreeMap<String, String>) -> Result<(), Error> {
        let mut all = self.tags.clone();
        all.extend(tags);
        check_tags(&all)?;
        self.tags = all;
        Ok(())
    }

    /// Adds a statement, which has a `Sid`.
    pub fn permit(
        &mut self,
        qualifier: Qualifier,
        statement: Value,
        revision: Option<&str>,
    ) -> Result<(), Error> {
        self.at(Some(&qualifier))?;
        let mut policy = self.policies.get(&qualifier).cloned().unwrap_or_default();
        policy.permit(statement, revision)?;
        self.policies.insert(qualifier, policy);
        Ok(())
    }

    pub fn forbid(
        &mut self,
        qualifier: &Qualifier,
        sid: &str,
        revision: Option<&str>,
    ) -> Result<(), Error> {
        let policy = self.policies.get_mut(qualifier);
        let policy = policy.ok_or_else(|| Error::NoStatement {
            sid: sid.to_owned(),
        })?;
        policy.forbid(sid, revision)?;
        if policy.statements.is_empty() {
            self.policies.remove(qualifier);
        }
        Ok(())
    }

    /// Its places in the log.
    pub(crate) fn all_mappings(&self) -> impl Iterator<Item = &Mapping> {
        let sources = self.sources.values().map(|source| &source.mapping);
        self.mappings.iter().chain(sources)
    }
}

pub fn check_description(description: &str) -> Result<(), Error> {
    if description.chars().count() > DESCRIPTION_CHARS_MAX {
        return Err(Error::BadValue {
            reason: format!("the description has more than {DESCRIPTION_CHARS_MAX} characters"),
        });
    }
    Ok(())
}

pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::BadValue { reason });
    if tags.len() > TAGS_MAX {
        return refuse("Number of tags exceeds resource tag limit.".to_owned());
    }
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > TAG_KEY_CHARS_MAX || key.starts_with("aws:") {
            return refuse(format!(
                "`{key}` is not a tag: its key has 1 to {TAG_KEY_CHARS_MAX} characters and does not begin with `aws:`"
            ));
        }
        if value.chars().count() > TAG_VALUE_CHARS_MAX {
            return refuse(format!(
                "the value of the tag `{key}` has more than {TAG_VALUE_CHARS_MAX} characters"
            ));
        }
    }
    Ok(())
}

/// Whether the caller saw the latest state, if it said what it saw.
pub fn check_revision(present: &str, seen: Option<&str>) -> Result<(), Error> {
    match seen {
        Some(seen) if seen != present => Err(Error::WrongRevision),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Code, Deployment, FunctionVersion::Number, Runtime};

    fn function() -> Function {
        let name = lambic_model::FunctionName::new("f").unwrap();
        let deployment = Deployment::new(name, Runtime::Python, Code::Bytes(Vec::new()));
        Function::new(crate::deploy::info(&deployment, "d1", None, 0), Vec::new())
    }

    fn reason(error: Error) -> String {
        error.to_string()
    }

    #[test]
    fn a_version_is_published_once_for_each_change() {
        let mut function = function();
        let first = function.publish(Some("one".to_owned())).unwrap();
        assert_eq!(first.version, Number(1));
        assert_eq!(first.settings.description, "one");
        // Nothing has changed since; a description alone does not count.
        assert_eq!(function.publish(None).unwrap(), first);
        function.info.digest = "d2".to_owned();
        assert_eq!(function.publish(None).unwrap().version, Number(2));
        assert_eq!(function.version(Number(1)).unwrap().digest, "d1");
        function.remove_version(2).unwrap();
        function.info.digest = "d3".to_owned();
        assert_eq!(
            function.publish(None).unwrap().version,
            Number(3),
            "no number is given twice"
        );
        assert!(function.version(Number(2)).is_err());
    }

    #[test]
    fn an_alias_points_to_what_exists_and_shifts_a_share() {
        let mut function = function();
        let create = |function: &mut Function, name: &str, version, shifted| {
            function
                .create_alias(name, version, String::new(), shifted)
                .map(drop)
                .map_err(reason)
        };
        assert!(
            create(&mut function, "live", Number(1), None)
                .unwrap_err()
                .contains("f:1")
        );
        for digest in ["d2", "d3"] {
            function.publish(None).unwrap();
            function.info.digest = digest.to_owned();
        }
        for name in ["7", "", "a b", "$LATEST"] {
            assert!(
                create(&mut function, name, Number(1), None).is_err(),
                "{name}"
            );
        }
        for shifted in [
            (Number(1), 0.5),
            (FunctionVersion::Latest, 0.5),
            (Number(9), 0.5),
            (Number(2), 1.5),
        ] {
            assert!(
                create(&mut function, "live", Number(1), Some(shifted)).is_err(),
                "{shifted:?}"
            );
        }
        create(&mut function, "live", Number(1), Some((Number(2), 0.25))).unwrap();
        assert!(
            create(&mut function, "live", Number(1), None)
                .unwrap_err()
                .contains("already exists")
        );
        let live = Qualifier::Alias("live".to_owned());
        let chosen = |function: &Function, share| function.chosen(Some(&live), share).unwrap();
        assert_eq!(chosen(&function, 0.24), Number(2));
        assert_eq!(chosen(&function, 0.25), Number(1));
        assert_eq!(function.at(Some(&live)).unwrap().version, Number(1));
        for number in [1, 2] {
            let error = function.remove_version(number).unwrap_err();
            assert!(error.to_string().ends_with("[live]"), "{error}");
        }
        let revision = function.alias("live").unwrap().revision.clone();
        let update = |function: &mut Function, revision: &str| {
            let updated = function.update_alias("live", None, None, Some(None), Some(revision));
            updated.map(drop)
        };
        assert!(matches!(
            update(&mut function, "other"),
            Err(Error::WrongRevision)
        ));
        update(&mut function, &revision).unwrap();
        assert!(matches!(
            update(&mut function, &revision),
            Err(Error::WrongRevision)
        ));
        assert_eq!(chosen(&function, 0.0), Number(1));
        function.remove_version(2).unwrap();
        function.remove_alias("live");
        assert!(function.chosen(Some(&live), 0.0).is_err());
    }

    #[test]
    fn a_policy_has_each_statement_once_and_a_bound() {
        let mut function = function();
        let latest = Qualifier::LATEST;
        let statement = |sid: &str, action: &str| json!({ "Sid": sid, "Action": action });
        function
            .permit(latest.clone(), statement("a", "x"), None)
            .unwrap();
        assert!(matches!(
            function.permit(latest.clone(), statement("a", "y"), None),
            Err(Error::Conflict { .. })
        ));
        let long = "x".repeat(POLICY_BYTES_MAX);
        assert!(matches!(
            function.permit(latest.clone(), statement("b", &long), None),
            Err(Error::PolicyTooLong { .. })
        ));
        assert!(
            function
                .permit("gone".parse().unwrap(), statement("a", "x"), None)
                .is_err()
        );
        assert!(matches!(
            function.forbid(&latest, "b", None),
            Err(Error::NoStatement { .. })
        ));
        function.forbid(&latest, "a", None).unwrap();
        assert!(function.policies.is_empty());
    }

    #[test]
    fn tags_have_bounds() {
        let mut function = function();
        let tags =
            |from: usize, to: usize| (from..to).map(|n| (n.to_string(), String::new())).collect();
        function.tag(tags(0, 50)).unwrap();
        assert!(function.tag(tags(50, 51)).is_err());
        function.tag(tags(49, 50)).unwrap();
        for (key, value) in [
            ("", ""),
            ("aws:x", ""),
            (&*"k".repeat(129), ""),
            ("k", &*"v".repeat(257)),
        ] {
            assert!(
                check_tags(&[(key.to_owned(), value.to_owned())].into()).is_err(),
                "{key}"
            );
        }
    }

    /// As servers before versions wrote it: its checksum is of exactly these bytes.
    #[test]
    fn a_plain_function_is_written_as_ever() {
        let mut function = function();
        function.info.revision = String::new();
        let written = serde_json::to_string(&function).unwrap();
        assert_eq!(
            written,
            r#"{"info":{"name":"f","runtime":"python","handler":"","timeout_ms":3000,"memory_mb":128,"environment":{},"triggers":[],"output":null,"retries":2,"dead_letter":null,"concurrency":null,"digest":"d1","code_bytes":0,"deployment":1,"deployed_at_us":0,"invocable":true,"scalars":[]},"mappings":[]}"#
        );
        let read: Function = serde_json::from_str(&written).unwrap();
        assert_eq!(read, function);
    }
}
