//! What a user says about a function, and what is known of it once it is deployed.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use lambic_model::{FunctionName, StreamName};
use lambic_sandbox::process::Network;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, Form, FunctionVersion, ImageConfig, ImageSource, ImageUse, Pulled, Rules,
    function::is_default,
};

/// AWS's, of `/tmp`.
pub const TMP_MB_DEFAULT: u32 = 512;
/// A variable of the environment that stands in the place of [`Settings::hosts`], with commas or blanks between them: a
/// way for clients of AWS's API, which do not know such a setting. Versions keep it as they keep all variables.
pub const HOSTS_VARIABLE: &str = "LAMBIC_HOSTS";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// A WASI 0.2 component: a handler of JSON, of HTTP requests or of batches of Arrow records, a command, or plain
    /// functions for SQL.
    Wasm,
    /// `def handler(event, context)` on a Python of the machine.
    Python,
    /// `exports.handler = async (event, context) => …` on the machine's Node.
    Node,
    /// A program named `bootstrap` that asks AWS's Runtime API for events: AWS's `provided` runtimes.
    Bootstrap,
    /// A container image, whose entry point does the same: AWS's `PackageType` `Image`.
    Image,
}

impl Runtime {
    /// The kind of runtime that AWS's name means, such as `python3.11`, `nodejs20.x`, `provided.al2023`.
    pub fn of_aws(name: &str) -> Option<Runtime> {
        let is_python =
            |minor: &str| !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit());
        match name {
            "wasm" | "provided.wasm" => Some(Runtime::Wasm),
            "provided" | "provided.al2" | "provided.al2023" => Some(Runtime::Bootstrap),
            _ if name.strip_prefix("python3.").is_some_and(is_python) => Some(Runtime::Python),
            _ if name.starts_with("nodejs") && name.ends_with(".x") => Some(Runtime::Node),
            _ => None,
        }
    }
}

impl FromStr for Runtime {
    type Err = Error;

    fn from_str(runtime: &str) -> Result<Runtime, Error> {
        match runtime {
            "wasm" => Ok(Runtime::Wasm),
            "python" | "python3" => Ok(Runtime::Python),
            "node" | "nodejs" => Ok(Runtime::Node),
            "bootstrap" | "provided" => Ok(Runtime::Bootstrap),
            "image" => Ok(Runtime::Image),
            _ => Err(Error::UnknownRuntime {
                runtime: runtime.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Runtime::Wasm => "wasm",
            Runtime::Python => "python",
            Runtime::Node => "node",
            Runtime::Bootstrap => "bootstrap",
            Runtime::Image => "image",
        })
    }
}

/// Where a function's code comes from.
#[derive(Debug, Clone)]
pub enum Code {
    /// Python: all files of the folder. Wasm: the one `.wasm` file in it, or the one `handler` names.
    Folder(PathBuf),
    /// Wasm: the component. Python and Node: one source file, stored as the handler's module. Otherwise the
    /// `bootstrap`.
    Bytes(Vec<u8>),
    /// A zip as AWS takes it.
    Zip(Vec<u8>),
    /// A container image, which is brought here first.
    Image(ImageSource),
    /// One that is here.
    Pulled(Pulled),
}

/// Where a new trigger starts to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Records appended from now on.
    #[default]
    Latest,
    /// Everything that the log still holds.
    Earliest,
    /// What was appended at this time, in microseconds since 1970, or later.
    AtUs(i64),
}

/// An event source mapping: batches of a stream's records invoke the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub stream: StreamName,
    #[serde(default = "Trigger::default_batch_size")]
    pub batch_size: usize,
    /// How long an incomplete batch may wait for more records, milliseconds; at most 5 minutes.
    #[serde(default)]
    pub window_ms: u64,
    #[serde(default)]
    pub start: Start,
    /// Of a deployment's trigger; mappings that are made one by one have theirs beside it.
    #[serde(
        default = "Rules::of_triggers",
        skip_serializing_if = "Rules::are_of_triggers"
    )]
    pub rules: Rules,
}

impl Trigger {
    pub const BATCH_SIZE_MAX: usize = 10_000;
    /// AWS's: 5 minutes.
    pub const WINDOW_MS_MAX: u64 = 300_000;

    pub fn new(stream: StreamName) -> Trigger {
        Trigger {
            stream,
            batch_size: Trigger::default_batch_size(),
            window_ms: 0,
            start: Start::Latest,
            rules: Rules::of_triggers(),
        }
    }

    fn default_batch_size() -> usize {
        100
    }
}

/// A request to deploy; [`Deployment::new`] has AWS's defaults.
#[derive(Debug, Clone)]
pub struct Deployment {
    pub name: FunctionName,
    pub runtime: Runtime,
    pub code: Code,
    /// Python: `file.function`, by default `handler.handler`. Wasm: the file's name in the folder.
    pub handler: Option<String>,
    /// 1 ms to [`crate::Options::timeout_max`].
    pub timeout: Duration,
    pub memory_mb: u32,
    pub environment: BTreeMap<String, String>,
    pub triggers: Vec<Trigger>,
    /// Where the answers to a trigger's batches go.
    pub output: Option<StreamName>,
    /// How often a failed event or batch is tried again, up to 10,000 times.
    pub retries: u32,
    /// Where events and records that keep failing go; by default `lambic_dead_letters`. Another stream
    /// must have the columns of `lambic_dead_letters`.
    pub dead_letter: Option<StreamName>,
    /// Invocations at one time, 1 to 1,000; `None`: the server's default.
    pub concurrency: Option<usize>,
    /// Start the code once before it takes over, so that code that cannot start is refused. Without, it is refused
    /// only if it is no code at all, and each invocation says what is wrong, as in AWS.
    pub trial: bool,
    pub settings: Settings,
    pub tags: BTreeMap<String, String>,
}

/// What AWS's API sets beside the above.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// The ARN of a role, kept and given back: functions here need none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub role: String,
    /// AWS's name of the runtime, such as `python3.11`; empty: what the machine has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtime_name: String,
    /// What stands in `/opt`, the later over the former; at most 5.
    #[serde(default, skip_serializing_if = "is_default")]
    pub layers: Vec<LayerUse>,
    /// The size of `/tmp`.
    #[serde(
        default = "Settings::default_tmp_mb",
        skip_serializing_if = "Settings::is_default_tmp_mb"
    )]
    pub tmp_mb: u32,
    /// Stands above what a container image says of itself.
    #[serde(rename = "image_config", default, skip_serializing_if = "is_default")]
    pub image: ImageConfig,
    /// Hosts that it may connect to, as `api.example.com`, `*.example.com`, or `*` for all public ones; an empty list is
    /// none. `None`: a component has none, everything else all public ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hosts: Option<Vec<String>>,
    /// Members of AWS's configuration that are kept and given back: `TracingConfig` and so on, which change nothing here,
    /// `DeadLetterConfig` ([`Settings::dead_letter_target`]) and `SnapStart` ([`FunctionInfo::snap_starts`]).
    #[serde(default, skip_serializing_if = "is_default")]
    pub kept: BTreeMap<String, Value>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            description: String::new(),
            role: String::new(),
            runtime_name: String::new(),
            layers: Vec::new(),
            tmp_mb: TMP_MB_DEFAULT,
            image: ImageConfig::default(),
            hosts: None,
            kept: BTreeMap::new(),
        }
    }
}

impl Settings {
    fn default_tmp_mb() -> u32 {
        TMP_MB_DEFAULT
    }

    /// The hosts that a function may connect to, where these are its variables.
    pub(crate) fn hosts_with<'a>(
        &'a self,
        environment: &BTreeMap<String, String>,
    ) -> Option<Cow<'a, [String]>> {
        let Some(said) = environment.get(HOSTS_VARIABLE) else {
            return self.hosts.as_deref().map(Cow::Borrowed);
        };
        let hosts = said.split(|c: char| c == ',' || c.is_whitespace());
        let hosts = hosts.filter(|host| !host.is_empty());
        Some(hosts.map(str::to_owned).collect())
    }

    /// An ARN: where queued events that keep failing go, beside the stream of dead letters.
    pub fn dead_letter_target(&self) -> Option<&str> {
        let config = self.kept.get("DeadLetterConfig")?;
        config.get("TargetArn")?.as_str()
    }

    fn is_default_tmp_mb(tmp_mb: &u32) -> bool {
        *tmp_mb == TMP_MB_DEFAULT
    }
}

/// A version of a layer that a function uses. It stays usable after that version was deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerUse {
    pub name: String,
    pub number: u64,
    /// Of its files, hex.
    pub digest: String,
    /// Of its zip.
    pub bytes: u64,
}

/// A zip that was uploaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upload {
    /// SHA-256, hex.
    pub sha256: String,
    pub bytes: u64,
}

/// New values of a deployed function's settings; `None` leaves one as it is.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pub handler: Option<String>,
    pub timeout: Option<Duration>,
    pub memory_mb: Option<u32>,
    pub environment: Option<BTreeMap<String, String>>,
    pub description: Option<String>,
    pub role: Option<String>,
    pub runtime: Option<(Runtime, String)>,
    pub layers: Option<Vec<LayerUse>>,
    pub tmp_mb: Option<u32>,
    pub image: Option<ImageConfig>,
    /// These members only; a `null` takes one away.
    pub kept: BTreeMap<String, Value>,
    /// What the caller saw last: if it has changed, so has the function.
    pub revision: Option<String>,
}

impl Deployment {
    pub fn new(name: FunctionName, runtime: Runtime, code: Code) -> Deployment {
        Deployment {
            name,
            runtime,
            code,
            handler: None,
            timeout: Duration::from_secs(3),
            memory_mb: 128,
            environment: BTreeMap::new(),
            triggers: Vec::new(),
            output: None,
            retries: 2,
            dead_letter: None,
            concurrency: None,
            trial: true,
            settings: Settings::default(),
            tags: BTreeMap::new(),
        }
    }
}

/// The forms of events that a function takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    #[default]
    Json,
    /// Records as an Arrow IPC stream.
    Arrow,
    /// Records of streams come to it in Arrow then.
    Both,
}

/// A deployed function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionInfo {
    pub name: FunctionName,
    pub runtime: Runtime,
    /// Python: `file.function`. Wasm: the component's file.
    pub handler: String,
    pub timeout_ms: u64,
    pub memory_mb: u32,
    pub environment: BTreeMap<String, String>,
    pub triggers: Vec<Trigger>,
    pub output: Option<StreamName>,
    pub retries: u32,
    pub dead_letter: Option<StreamName>,
    pub concurrency: Option<usize>,
    /// SHA-256 of the code, or of the manifest of its image, hex.
    pub digest: String,
    /// AWS counts none of an image.
    pub code_bytes: u64,
    /// Counts the deployments of this name, from 1.
    pub deployment: u64,
    /// Microseconds since 1970.
    pub deployed_at_us: i64,
    /// True if it can be invoked with an event.
    pub invocable: bool,
    /// What such an event is written in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub takes: Takes,
    /// The SQL functions that it exports: `geohash(double precision, double precision, integer) -> text`.
    pub scalars: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: FunctionVersion,
    #[serde(flatten)]
    pub settings: Settings,
    /// `None`: the code did not come as a zip.
    #[serde(default, skip_serializing_if = "is_default")]
    pub upload: Option<Upload>,
    /// Of a container image.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image: Option<ImageUse>,
    /// Changes with every change; empty if an older server deployed it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revision: String,
}

impl FunctionInfo {
    /// Whether publishing would give what `other` is already.
    pub fn is_same_code_and_settings(&self, other: &FunctionInfo) -> bool {
        let plain = |info: &FunctionInfo| FunctionInfo {
            version: FunctionVersion::Latest,
            revision: String::new(),
            deployment: 0,
            deployed_at_us: 0,
            triggers: Vec::new(),
            concurrency: None,
            settings: Settings {
                description: String::new(),
                ..info.settings.clone()
            },
            ..info.clone()
        };
        plain(self) == plain(other)
    }

    /// A published version with AWS's `SnapStart`, of a kind that has it here.
    pub fn snap_starts(&self) -> bool {
        let kept = self.settings.kept.get("SnapStart");
        let apply_on = kept.and_then(|kept| kept["ApplyOn"].as_str());
        self.version != FunctionVersion::Latest
            && apply_on == Some("PublishedVersions")
            && matches!(
                self.runtime,
                Runtime::Python | Runtime::Node | Runtime::Bootstrap
            )
    }

    /// Where it may connect to.
    pub(crate) fn network(&self) -> Network {
        let hosts = self.settings.hosts_with(&self.environment);
        network(hosts.as_deref(), self.runtime)
    }

    pub(crate) fn check_form(&self, form: Form) -> Result<(), Error> {
        let takes_it = match self.takes {
            Takes::Json => form == Form::Json,
            Takes::Arrow => form == Form::Arrow,
            Takes::Both => true,
        };
        match takes_it {
            true => Ok(()),
            false => Err(Error::WrongForm {
                name: self.name.to_string(),
                form,
            }),
        }
    }

    /// The layers' digests, in their order.
    pub fn layer_digests(&self) -> impl Iterator<Item = &str> {
        self.settings
            .layers
            .iter()
            .map(|layer| layer.digest.as_str())
    }
}

fn network(hosts: Option<&[String]>, runtime: Runtime) -> Network {
    match hosts {
        None if runtime == Runtime::Wasm => Network::None,
        None => Network::Open,
        Some([]) => Network::None,
        Some(hosts) if hosts.iter().any(|host| host == "*") => Network::Open,
        Some(hosts) => Network::Hosts(hosts.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_variable_says_hosts_in_the_place_of_the_setting() {
        let hosts = |said: Option<&str>| {
            let settings = Settings {
                hosts: Some(vec!["set.example.com".to_owned()]),
                ..Settings::default()
            };
            let said = said.map(|said| (HOSTS_VARIABLE.to_owned(), said.to_owned()));
            let hosts = settings.hosts_with(&said.into_iter().collect());
            hosts.expect("they are said").into_owned()
        };
        assert_eq!(hosts(None), ["set.example.com"]);
        assert_eq!(
            hosts(Some("a.example.com, *.example.org\tb")),
            ["a.example.com", "*.example.org", "b"]
        );
        assert!(hosts(Some("")).is_empty());
        assert!(hosts(Some(" , ")).is_empty());
    }

    #[test]
    fn triggers_of_older_servers_have_the_rules_that_they_had() {
        let trigger: Trigger = serde_json::from_str(r#"{"stream": "s"}"#).unwrap();
        assert_eq!(trigger, Trigger::new(StreamName::new("s").unwrap()));
        let text = serde_json::to_string(&trigger).unwrap();
        assert!(!text.contains("rules"), "{text}");
    }

    #[test]
    fn hosts_say_where_a_function_may_connect_to() {
        let hosts = |hosts: &[&str]| Some(hosts.iter().map(|host| (*host).to_owned()).collect());
        let listed = || Network::Hosts(vec!["a.example".to_owned()]);
        for (hosts, component, process) in [
            (None, Network::None, Network::Open),
            (hosts(&[]), Network::None, Network::None),
            (hosts(&["a.example"]), listed(), listed()),
            (hosts(&["a.example", "*"]), Network::Open, Network::Open),
        ] {
            let hosts: Option<Vec<String>> = hosts;
            let found = |runtime| network(hosts.as_deref(), runtime);
            assert_eq!(found(Runtime::Wasm), component, "{hosts:?}");
            for runtime in [Runtime::Python, Runtime::Bootstrap, Runtime::Image] {
                assert_eq!(found(runtime), process, "{hosts:?}");
            }
        }
    }

    /// No hosts at all were kept as nothing, which has the same meaning as ever.
    #[test]
    fn hosts_are_kept_as_older_servers_did() {
        let read = |kept: Value| serde_json::from_value::<Settings>(kept).unwrap().hosts;
        assert_eq!(read(json!({})), None);
        let listed = json!({ "hosts": ["a.example"] });
        assert_eq!(read(listed), Some(vec!["a.example".to_owned()]));
        assert_eq!(read(json!({ "hosts": [] })), Some(Vec::new()));
        let kept = serde_json::to_value(Settings::default()).unwrap();
        assert_eq!(kept, json!({}));
    }
}
