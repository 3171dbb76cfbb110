//! `lambic function`, declared.

use std::{path::PathBuf, time::Duration};

use clap::{Arg, Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum Function {
    /// All functions
    List,
    /// One function: state, runtime, limits, code, layers, aliases with weights, concurrency, URLs, what invokes it, tags
    Show {
        name: String,
        /// A version or an alias
        #[arg(long, value_name = "VERSION|ALIAS")]
        qualifier: Option<String>,
    },
    /// The templates that `lambic function new` knows
    Templates,
    /// Write a folder with a function that works as it is
    New(FunctionNew),
    /// Create a function from a zip, a folder, a component or a source file
    Create(FunctionCreate),
    /// Change a function's code, its settings or both; what is not named stays as it is
    Update(FunctionUpdate),
    /// Take over what AWS SAM, Serverless Framework, cargo-lambda or a zip describe; again changes only what changed
    Import(FunctionImport),
    /// Deploy a function that a project's lambic.toml declares
    Deploy {
        name: String,
        /// The project folder
        #[arg(long, default_value = ".")]
        project: PathBuf,
    },
    /// Invoke a function and print its answer
    Invoke(FunctionInvoke),
    /// Run a function's test events and compare the answers with what is expected
    Test(FunctionTest),
    /// The log lines of a function
    Logs(FunctionLogs),
    /// A function's own URL
    Url(FunctionUrl),
    /// A function's versions
    Versions { name: String },
    /// Freeze code and settings under the next version's number
    Publish {
        name: String,
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Names for versions
    #[command(subcommand)]
    Alias(FunctionAlias),
    /// How many invocations of a function run at one time; without a number, show it
    Concurrency {
        name: String,
        /// 0 stops the function
        count: Option<u32>,
        /// Reserve nothing: the server's default holds
        #[arg(long, conflicts_with = "count")]
        none: bool,
    },
    /// Delete a function with its versions, aliases and URLs, or one of its versions
    Delete(FunctionDelete),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lambic function new hello --template python
  lambic function create hello hello
  lambic function invoke hello '{\"name\": \"you\"}'")]
pub struct FunctionNew {
    /// The function's name, and the folder's
    pub name: String,
    /// Which kind of function; `lambic function templates` lists them
    #[arg(short, long)]
    pub template: String,
    /// Where the folder goes [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lambic function create hello ./hello
  lambic function create thumbs thumbs.zip --runtime python3.11 --handler app.handler --timeout 30s --memory 512
  lambic function create greet function.wasm --env GREETING=hello --hosts api.example.com
A function that exists is left as it is; `lambic function update` changes it.")]
pub struct FunctionCreate {
    pub name: String,
    /// A zip, a folder, a WASI component (.wasm), or one source file
    pub code: PathBuf,
    #[command(flatten)]
    pub settings: FunctionSettings,
    /// Publish version 1 at once
    #[arg(long)]
    pub publish: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:
  lambic function update hello ./hello
  lambic function update hello --timeout 1m --env LEVEL=debug --unset-env OLD
Options that are not given leave their settings as they are, variables too: nothing falls back to a default.",
    mut_args(without_default)
)]
pub struct FunctionUpdate {
    pub name: String,
    /// The new code: a zip, a folder, a WASI component (.wasm), or one source file
    pub code: Option<PathBuf>,
    #[command(flatten)]
    pub settings: FunctionSettings,
    /// Take away an environment variable
    #[arg(long, value_name = "KEY")]
    pub unset_env: Vec<String>,
    /// Take away all layers
    #[arg(long, conflicts_with = "layers")]
    pub no_layers: bool,
    /// Publish a version of the result
    #[arg(long)]
    pub publish: bool,
}

#[derive(Debug, Default, Args)]
pub struct FunctionSettings {
    /// AWS's name, such as python3.11, nodejs20.x or provided.al2023, or wasm; python, node and bootstrap are the
    /// server's own [default: by what is in the code]
    #[arg(long)]
    pub runtime: Option<String>,
    /// FILE.FUNCTION; of a component the file [default: by what is in the code]
    #[arg(long)]
    pub handler: Option<String>,
    /// How long an invocation may take: 30s, 5m [default: 3s]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub timeout: Option<u32>,
    /// Memory of an execution environment; its share of the processors follows it [default: 128]
    #[arg(long, value_name = "MB")]
    pub memory: Option<u32>,
    /// Size of /tmp [default: 512]
    #[arg(long, value_name = "MB")]
    pub tmp: Option<u32>,
    /// An environment variable; may be given several times
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = pair)]
    pub environment: Vec<(String, String)>,
    /// Where it may connect to: api.example.com,*.example.org; * is every public host, an empty text none [default: none
    /// for a component, else every public host]
    #[arg(long, value_name = "HOST,…")]
    pub hosts: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// A layer's version; may be given several times, the first is the lowest
    #[arg(long = "layer", value_name = "ARN")]
    pub layers: Vec<String>,
    /// Invocations at one time, at most
    #[arg(long, value_name = "COUNT")]
    pub concurrency: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lambic function import ./my-sam-app --plan
  lambic function import template.yaml --parameter Stage=test
  lambic function import ./my-service                # serverless.yml
  lambic function import target/lambda               # after `cargo lambda build --release`
  lambic function import thumbs.zip --name thumbnails
What cannot be taken over is listed, with its place; nothing is left out in silence.")]
pub struct FunctionImport {
    /// A folder, template or zip
    pub source: PathBuf,
    /// The function's name, where the source holds one only
    #[arg(long)]
    pub name: Option<String>,
    /// Only show what would be made, changed and left out, and what this server cannot run
    #[arg(long)]
    pub plan: bool,
    /// Import nothing where the source has properties that do not exist, most likely mistyped, instead of a warning
    #[arg(long)]
    pub strict: bool,
    /// Value of a template's parameter, or of an option of serverless.yml such as stage
    #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = pair)]
    pub parameters: Vec<(String, String)>,
    /// Run functions of this language by this version, whatever the source says: python3.11, nodejs20.x
    #[arg(long)]
    pub runtime: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lambic function invoke hello '{\"name\": \"you\"}'
  lambic function invoke hello @event.json --tail
  echo '{}' | lambic function invoke hello -
The answer goes to stdout as it is. The code is 1 if the function failed.")]
pub struct FunctionInvoke {
    pub name: String,
    /// The event in JSON, @FILE, or - for standard input; a file may be an Arrow IPC stream
    #[arg(default_value = "{}")]
    pub payload: String,
    /// Queue it and do not wait for the answer
    #[arg(long = "async", visible_alias = "queued")]
    pub queued: bool,
    /// Show the end of the invocation's log on stderr
    #[arg(long, conflicts_with = "queued")]
    pub tail: bool,
    /// A version or an alias
    #[arg(long, value_name = "VERSION|ALIAS")]
    pub qualifier: Option<String>,
    /// Print the answer while it comes
    #[arg(long, conflicts_with = "queued")]
    pub stream: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lambic function test hello               # the deployed function, with hello/events/*.json
  lambic function test ./hello             # the folder's code, deployed for the test only
  lambic function test ./hello --update    # writes events/*.expected.json
An event passes if the function does not fail and, where NAME.expected.json stands beside NAME.json, answers at least
what that holds. An expected errorType or errorMessage wants the function to fail.")]
pub struct FunctionTest {
    /// A deployed function, or a folder (./hello) to deploy for the test
    pub target: String,
    /// Where the events are [default: events/ of the folder, or of the folder with the function's name]
    #[arg(long, value_name = "DIR")]
    pub events: Option<PathBuf>,
    /// Only events whose name has this part
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Answers must be the same as expected, not only hold it
    #[arg(long)]
    pub exact: bool,
    /// Write the answers as what is expected
    #[arg(long)]
    pub update: bool,
    /// A version or an alias of the deployed function
    #[arg(long, value_name = "VERSION|ALIAS")]
    pub qualifier: Option<String>,
    #[command(flatten)]
    pub settings: FunctionSettings,
}

#[derive(Debug, Args)]
pub struct FunctionLogs {
    pub name: String,
    /// The newest so many [default: 50; with --since or --request up to 10000]
    #[arg(long)]
    pub lines: Option<u32>,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Only the lines of one invocation
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// Only lines that are not older: 5m, 2h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UrlAuth {
    /// Anybody may call it
    None,
    /// Signed requests only
    Iam,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lambic function url hello --create --auth none
  curl \"$(lambic function url hello)\"
--create again changes the settings that are named; the URL stays.")]
pub struct FunctionUrl {
    pub name: String,
    /// Make it, or change its settings
    #[arg(long, conflicts_with = "delete")]
    pub create: bool,
    /// Take it away
    #[arg(long)]
    pub delete: bool,
    /// Who may call it [default: none]
    #[arg(long, requires = "create")]
    pub auth: Option<UrlAuth>,
    /// A site whose pages may call it, or *; may be given several times
    #[arg(long = "cors-origin", value_name = "ORIGIN", requires = "create")]
    pub cors_origins: Vec<String>,
    /// Answers go out while the function writes them
    #[arg(long, requires = "create")]
    pub stream: bool,
    /// The URL of an alias
    #[arg(long, value_name = "ALIAS")]
    pub qualifier: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum FunctionAlias {
    /// A function's aliases
    List { name: String },
    /// Let an alias name a version; it is made if it is not there
    #[command(after_help = "Examples:
  lambic function alias set hello live 3
  lambic function alias set hello live 3 --weight 4=0.1     # a tenth of the invocations go to version 4")]
    Set {
        name: String,
        alias: String,
        #[arg(id = "function_version", value_name = "VERSION")]
        version: String,
        /// The share of invocations that go to another version
        #[arg(long, value_name = "VERSION=SHARE", value_parser = weight)]
        weight: Option<(String, f64)>,
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Delete an alias
    Delete { name: String, alias: String },
}

#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct FunctionDelete {
    pub name: String,
    /// Only this version
    #[arg(long, value_name = "NUMBER")]
    pub version: Option<u64>,
    /// Do not ask; where there is no terminal to ask on, nobody is asked
    #[arg(long)]
    pub yes: bool,
}

/// A creation has defaults; a change leaves what is not named as it is, and its help must not promise them.
fn without_default(arg: Arg) -> Arg {
    let help = arg.get_help().map(ToString::to_string);
    match help
        .as_deref()
        .and_then(|help| help.split_once(" [default: "))
    {
        Some((help, _)) => {
            let help = help.to_owned();
            arg.help(help)
        }
        None => arg,
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it takes KEY=VALUE, as in LEVEL=debug".to_owned()),
    }
}

fn weight(text: &str) -> Result<(String, f64), String> {
    let (version, share) = text.split_once('=').unwrap_or_default();
    match share.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) && !version.is_empty() => {
            Ok((version.to_owned(), share))
        }
        _ => Err("it takes VERSION=SHARE with a share of 0 to 1, as in 4=0.1".to_owned()),
    }
}

/// AWS's timeouts are whole seconds.
fn seconds(text: &str) -> Result<u32, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match u32::try_from(duration.as_secs()) {
        Ok(seconds) if duration.subsec_nanos() == 0 => Ok(seconds),
        _ => Err("a timeout is whole seconds: 3s, 1m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn only_a_creation_promises_defaults() {
        let cli = crate::cli::Cli::command();
        let function = cli.find_subcommand("function").unwrap();
        let promising = |command: &str| {
            let command = function.find_subcommand(command).unwrap();
            let helps = command.get_arguments().filter_map(|arg| {
                let help = arg.get_help()?.to_string();
                help.contains("[default: ")
                    .then(|| arg.get_id().to_string())
            });
            helps.collect::<Vec<_>>()
        };
        assert_eq!(promising("update"), [""; 0]);
        assert!(promising("create").contains(&"memory".to_owned()));
        let update = function.find_subcommand("update").unwrap();
        let mut args = update.get_arguments();
        let memory = args.find(|arg| arg.get_id() == "memory").unwrap();
        let help = memory.get_help().unwrap().to_string();
        assert!(
            help.starts_with("Memory") && help.ends_with("follows it"),
            "{help}"
        );
    }

    #[test]
    fn values_are_read_or_explained() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("A="), Ok(("A".to_owned(), String::new())));
        assert!(pair("A").is_err() && pair("=b").is_err());
        assert_eq!(weight("4=0.1"), Ok(("4".to_owned(), 0.1)));
        for wrong in ["4", "=0.1", "4=1.1", "4=-1", "4=x", "4=NaN"] {
            assert!(weight(wrong).is_err(), "{wrong}");
        }
        assert_eq!((seconds("3"), seconds("1m30s")), (Ok(3), Ok(90)));
        assert!(seconds("1500ms").is_err() && seconds("soon").is_err());
    }
}
