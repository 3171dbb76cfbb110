//! The command line, declared. What each command does is in `commands/`, one file each.

mod function;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use function::*;

/// Keeps every record you append, derives views of them in SQL, and runs your functions on the way.
#[derive(Debug, Parser)]
#[command(name = "lambic", version, about, propagate_version = true)]
pub struct Cli {
    /// The server to talk to
    #[arg(
        long,
        global = true,
        env = "LAMBIC_URL",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL"
    )]
    pub server: String,

    /// Who signs the certificates of servers at https:// URLs, as PEM [default: whom this machine trusts]
    #[arg(long, global = true, env = "LAMBIC_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Which log lines go to stderr, as in RUST_LOG [default: warn]
    #[arg(
        long,
        global = true,
        env = "LAMBIC_LOG",
        value_name = "FILTER",
        hide_env_values = true
    )]
    pub log: Option<String>,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a project folder and reload it when a file changes
    Dev(Dev),
    /// Run the flights example in time-lapse, and audit it
    Demo(Demo),
    /// Run a server in the foreground
    Serve(Serve),
    /// Append records of a file or of standard input to a stream
    Append(Append),
    /// Run SQL
    Query(Query),
    /// List, show, create, alter, compact or drop streams, or erase records
    #[command(subcommand)]
    Stream(Stream),
    /// List, show, create, refresh, explain or drop views
    #[command(subcommand)]
    View(View),
    /// Run batches, or list what they have covered
    #[command(subcommand)]
    Batch(Batch),
    /// Recompute views from scratch and compare with what is served
    Audit(Audit),
    /// Run a stretch of history through a version of a view, or a SELECT that is not deployed; nothing served changes
    Replay(Replay),
    /// Make functions, from templates, code, or what other tools deploy; invoke, test and delete them; read their logs
    #[command(subcommand)]
    Function(Function),
    /// Copy everything at one moment to a folder or URL; list, verify and delete such backups
    Backup(Backup),
    /// Make a data folder of a backup
    Restore(Restore),
    /// Measure appends, freshness, batches, lookups, SQL and functions on this machine
    Bench(Bench),
    /// Check the machine, and the files of a data folder whose server is stopped
    Doctor(Doctor),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// What a server starts to compile a component
    #[command(name = crate::commands::compile_component::NAME, hide = true)]
    CompileComponent {
        memory_bytes_max: u64,
        cpu_s_max: u64,
    },
}

#[derive(Debug, Args)]
pub struct Serve {
    /// A project folder (lambic.toml, streams/, views/, functions/) to apply at the start
    pub project: Option<PathBuf>,
    /// Where the data lives [default: ./lambic-data, or .lambic/ of the project]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address of the HTTP door [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Address of the Postgres door [default: 127.0.0.1:7432]
    #[arg(long, value_name = "ADDR")]
    pub pg: Option<SocketAddr>,
    /// A file of settings laid over the defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write a trace of every invocation to this file, as JSON of OpenTelemetry; its folder must be there
    #[arg(long, value_name = "FILE")]
    pub traces: Option<PathBuf>,
    /// Print every setting with its default, and stop
    #[arg(long)]
    pub print_defaults: bool,
}

#[derive(Debug, Args)]
pub struct Dev {
    /// The project folder
    #[arg(default_value = ".")]
    pub project: PathBuf,
    /// Where the data lives [default: .lambic/ of the project]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address of the HTTP door [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Address of the Postgres door [default: 127.0.0.1:7432]
    #[arg(long, value_name = "ADDR")]
    pub pg: Option<SocketAddr>,
    /// Write a trace of every invocation to this file, as JSON of OpenTelemetry; its folder must be there
    #[arg(long, value_name = "FILE")]
    pub traces: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// End by itself after about this long, with code 0 only if every audit agreed
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Keep the data here instead of in a temporary folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Ndjson,
    Json,
    Csv,
    Parquet,
    Arrow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// Refuse the append that holds a bad record: nothing of it is kept
    Refuse,
    /// Keep the good records; the bad ones go to the stream's dead letters
    Skip,
}

#[derive(Debug, Args)]
pub struct Append {
    /// The stream to append to; `lambic stream list` shows what there is
    pub stream: String,
    /// A file, or - for standard input
    pub file: PathBuf,
    /// What the file holds [default: by its extension; NDJSON for standard input]
    #[arg(long)]
    pub format: Option<Format>,
    /// What happens to a record that does not fit the stream
    #[arg(long, default_value = "refuse")]
    pub on_error: OnError,
    /// Name this load: running it again with the same content and chunks after a cut appends nothing twice
    #[arg(long, value_name = "ID")]
    pub producer: Option<String>,
    /// Bytes of the file in one append
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk_bytes: u32,
}

#[derive(Debug, Args)]
pub struct Query {
    /// The statements, or - for standard input, which is the default
    pub sql: Option<String>,
    /// Read the statements from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "sql")]
    pub file: Option<PathBuf>,
    /// Answer in CSV
    #[arg(long)]
    pub csv: bool,
}

#[derive(Debug, Subcommand)]
pub enum Stream {
    /// All streams
    List,
    /// One stream: its columns and where it stands
    Show { name: String },
    /// Create a stream: `lambic stream create visits "at timestamp, url text"`
    Create {
        name: String,
        /// Columns and types as in SQL
        columns: String,
        /// Options as in SQL's WITH: event_time=at, record_id=id, partitions=4
        #[arg(long = "with", value_name = "KEY=VALUE")]
        options: Vec<String>,
    },
    /// Change how long a stream keeps its records
    Alter(AlterStream),
    /// Make few large files of a stream's small ones now; it is done in the background, too
    Compact { name: String },
    /// Erase records for ever, with an entry in the erasure log
    Erase(Erase),
    /// Drop a stream and its records
    Drop { name: String },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub struct AlterStream {
    pub name: String,
    /// Options as in SQL's SET: retention='30 days', retention_bytes=20GB
    #[arg(long, value_name = "KEY=VALUE", group = "what")]
    pub set: Vec<String>,
    /// Options that are as if they had never been set
    #[arg(long, value_name = "KEY", group = "what", conflicts_with = "set")]
    pub reset: Vec<String>,
    /// Only tell which records would expire now
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Erase {
    pub name: String,
    /// Which records, as in SQL's WHERE: "email = 'a@example.org'", or true for all
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: String,
    /// Only tell how many records it would take
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Keep the condition in the erasure log as it is, not as a hash; it must not hold personal data then
    #[arg(long)]
    pub keep_predicate: bool,
    /// Return as soon as no read finds the records, before their bytes are gone
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum View {
    /// All views
    List,
    /// One view: its definition, its class and where it stands
    Show { name: String },
    /// Create a view from a SELECT
    Create {
        name: String,
        /// The SELECT [default: standard input]
        sql: Option<String>,
        /// Run its batch this often: 1h, 30m
        #[arg(long, value_name = "INTERVAL")]
        batch_every: Option<String>,
        /// Replace a view of this name: the new version takes over when it has caught up
        #[arg(long)]
        replace: bool,
    },
    /// Run a view's batch now
    Refresh { name: String },
    /// A view's class, plan, versions, frontiers, states and what a read costs
    Explain { name: String },
    /// What changes from one version of a view to another, or to a SELECT that is not deployed yet
    Diff(ViewDiff),
    /// Follow a view: its rows, then what changes, until Ctrl-C
    Follow(ViewFollow),
    /// Drop a view
    Drop { name: String },
}

#[derive(Debug, Args)]
pub struct ViewFollow {
    pub name: String,
    /// Go on from this frontier, which an event gave; only what has changed since comes
    #[arg(long, value_name = "FRONTIER")]
    pub from: Option<String>,
    /// Leave out the rows that there are at first
    #[arg(long)]
    pub no_snapshot: bool,
    /// The least time between two changes
    #[arg(long, value_name = "DURATION", default_value = "250ms", value_parser = humantime::parse_duration)]
    pub every: Duration,
}

#[derive(Debug, Args)]
pub struct ViewDiff {
    pub name: String,
    /// The version to compare [default: the one before; with --sql, the served one]
    pub old: Option<u32>,
    /// The version to compare it with [default: the served one]
    #[arg(conflicts_with = "sql")]
    pub new: Option<u32>,
    /// Compare with the SELECT in this file, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub sql: Option<PathBuf>,
    /// At an earlier moment: a time, or a frontier such as visits@0:1200
    #[arg(long, value_name = "MOMENT")]
    pub as_of: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Batch {
    /// Run the batch of these views, or of all
    Run { views: Vec<String> },
    /// What the batches have covered
    List,
    /// The batches that run, and the last ones since the server started
    Status,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false))]
pub struct Audit {
    /// The views to audit
    #[arg(group = "what")]
    pub views: Vec<String>,
    /// Audit every view
    #[arg(long, group = "what")]
    pub all: bool,
    /// Of views that are served approximately (speed_as): all figures of how far off they are, by key
    #[arg(long, conflicts_with = "all")]
    pub drift: bool,
}

#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct Replay {
    /// The view; `lambic view list` shows what there is
    pub view: String,
    /// Begin after this moment: a time, or a frontier such as visits@0:1200 [default: the first record]
    #[arg(long, value_name = "MOMENT")]
    pub from: Option<String>,
    /// End with this moment: a time, or a frontier [default: the newest record]
    #[arg(long, value_name = "MOMENT")]
    pub to: Option<String>,
    /// Go through this version [default: the served one]
    #[arg(long, value_name = "NUMBER", conflicts_with = "sql")]
    pub version: Option<u32>,
    /// Go through the SELECT or CREATE MATERIALIZED VIEW in this file, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub sql: Option<PathBuf>,
    /// Show what changes after every step: '1000 records', 15m, 1h
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
    /// After every step show all rows, not what came and went
    #[arg(long, requires = "step")]
    pub rows: bool,
    /// Compare with the served version over the same stretch
    #[arg(long, conflicts_with = "step")]
    pub diff: bool,
    /// How fast steps come, measured by when their records were appended: 1x, 60x, max
    #[arg(long, value_name = "SPEED", default_value = "max", requires = "step")]
    pub speed: Speed,
    /// Answer in CSV
    #[arg(long)]
    pub csv: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    Max,
    /// So many times as fast as it was.
    Times(f64),
}

impl std::str::FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Speed, String> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        match text.trim_end_matches('x').parse::<f64>() {
            Ok(times) if (0.001..=1e9).contains(&times) => Ok(Speed::Times(times)),
            _ => Err("a speed is 1x, 60x (0.001x to 1000000000x), or max".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Backup {
    #[command(subcommand)]
    pub command: Option<BackupCommand>,
    /// Where to: a folder on the server's machine, or a URL such as s3://bucket/backups, gs://… or azure://…
    #[arg(required = true)]
    pub target: Option<String>,
    /// Back up this data folder, whose server is stopped, without a server
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// The backups in a target
    List { target: String },
    /// Read every file of these backups, or of all, and compare it with its checksum
    Verify {
        target: String,
        backups: Vec<String>,
    },
    /// Delete these backups, and the files that no other backup needs
    Delete {
        target: String,
        #[arg(required = true)]
        backups: Vec<String>,
    },
    /// Delete all backups but the newest ones
    Prune {
        target: String,
        /// How many to keep
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
    },
}

#[derive(Debug, Args)]
pub struct Restore {
    /// Where the backup is: a folder, or a URL such as file:///backups
    pub target: String,
    /// The data folder to make; it must be empty or not exist
    pub data: PathBuf,
    /// Which backup [default: the newest]
    #[arg(long, value_name = "ID")]
    pub backup: Option<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// A Parquet file of flights [default: the 200,000 rows of the example; examples/flights/fetch
    /// brings 3,000,000]
    pub file: Option<PathBuf>,
    /// Rounds of recompute and direct SQL, interleaved
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<BenchPart>,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Measure functions over HTTP: cold and warm, what they cost, what stands idle
    #[command(
        after_help = "Peers are measured as far as the folder has them; one that does not start is left out:
  python3 -m venv peers && peers/bin/pip install aws-sam-cli awslambdaric ministack
  npm install --prefix peers workerd
  lambic bench functions --peers peers"
    )]
    Functions {
        /// Rounds of what is compared, interleaved
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// A folder with others to measure beside: AWS's emulator (aws-sam-cli and awslambdaric of PyPI), ministack
        /// (PyPI), workerd (npm)
        #[arg(long, value_name = "DIR")]
        peers: Option<PathBuf>,
    },
    /// Be the bare server that requests are compared with
    #[command(hide = true)]
    Bare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    Append,
    Freshness,
    Batch,
    Lookup,
    Sql,
    Function,
    History,
    Disk,
    Sums,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// A data folder whose files to verify; its server must be stopped
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
