//! The doors of a whole server in a folder of its own, as clients see them.

mod batches;
mod checks;
mod keys;
mod transactions;
mod urls;
mod wire;

use std::{fmt::Write as _, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::{TaskContext, runtime_env::RuntimeEnv};
use lambic_dataset::{Dataset, LocalStore, Reader};
use lambic_functions::{Functions, system_streams};
use lambic_log::Log;
use lambic_model::{Frontiers, Stream, StreamId, StreamName};
use lambic_query::{Catalog, Database, Parts};
use lambic_serving::Serving;
use lambic_view::{Run, ViewPlan, session, tail::TailSource};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// There are no views here to read the log's tail for.
struct NoViews;

#[async_trait::async_trait]
impl TailSource for NoViews {
    async fn run_between(
        &self,
        _plan: &ViewPlan,
        _from: &Frontiers,
        _to: &Frontiers,
        _task: Arc<TaskContext>,
    ) -> Result<Run, lambic_view::Error> {
        Err(lambic_view::Error::Records("there are no views".to_owned()))
    }
}

struct Served {
    handle: Handle,
    functions: Functions,
    log: Log,
    _folder: tempfile::TempDir,
}

/// A server with the stream `notes (id bigint, text text)`.
async fn served(options: Options) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let system = system_streams(StreamId(1));
    let mut catalog = Catalog::open(data.join("catalog.json"), &system.all()).unwrap();
    let notes = Stream {
        id: catalog.next_stream(),
        name: StreamName::new("notes").unwrap(),
        schema: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
        ])),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    };
    catalog.add_stream(Arc::new(notes)).unwrap();
    let streams: Vec<_> = catalog.streams().cloned().collect();
    let log = Log::open(lambic_log::Options::new(data.join("log")), &streams).unwrap();
    let store = Arc::new(LocalStore::open(data).unwrap());
    let dataset = Dataset::open(store, lambic_dataset::Options::default())
        .await
        .unwrap();
    for stream in &streams {
        dataset.add_stream(Arc::clone(stream)).await.unwrap();
    }
    let runtime = Arc::new(RuntimeEnv::default());
    let reader = Reader::new(dataset, log.clone(), &runtime).unwrap();
    let database = Database::new(Parts {
        catalog,
        serving: Serving::default(),
        reader,
        tail_of: Arc::new(|_| Arc::new(NoViews)),
        appender: Arc::new(log.clone()),
        state: session::state(session::config(2), runtime),
        transactions: lambic_query::TransactionLimits::default(),
    });
    let lookup = database.clone();
    let functions = lambic_functions::Options::new(
        data.join("functions"),
        log.clone(),
        system,
        Arc::new(move |name: &str| lookup.stream(name)),
        Arc::new(lambic_connectors::json_list),
    );
    let functions = Functions::open(functions).await.unwrap();
    let services = Services {
        database,
        functions: functions.clone(),
        appender: Arc::new(log.clone()),
        log: log.clone(),
    };
    let free = "127.0.0.1:0".parse().unwrap();
    let options = Options {
        http: free,
        pg: free,
        ..options
    };
    Served {
        handle: serve(options, services).await.unwrap(),
        functions,
        log,
        _folder: folder,
    }
}

impl Served {
    /// Status and body.
    async fn post(&self, path: &str, kind: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.handle.http).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let status = answer[9..12].parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn sql(&self, sql: &str) -> (u16, String) {
        self.post("/v1/sql", "text/plain", sql).await
    }

    async fn append(&self, stream: &str, body: &str) -> (u16, String) {
        let path = format!("/v1/streams/{stream}/records");
        self.post(&path, "application/x-ndjson", body).await
    }
}

/// A connection of the Postgres protocol, as bytes.
struct Wire(TcpStream);

impl Wire {
    async fn connect(served: &Served) -> Wire {
        let mut wire = Wire(TcpStream::connect(served.handle.pg).await.unwrap());
        let startup = b"\x00\x03\x00\x00user\0lambic\0\0";
        let length = (startup.len() as u32 + 4).to_be_bytes();
        wire.0
            .write_all(&[&length[..], startup].concat())
            .await
            .unwrap();
        wire.answers().await;
        wire
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        let length = (body.len() as u32 + 4).to_be_bytes();
        let message = [&[kind], &length[..], body].concat();
        self.0.write_all(&message).await.unwrap();
    }

    /// Kind and body of messages up to the next `ReadyForQuery` (`Z`).
    async fn answers(&mut self) -> Vec<(char, Vec<u8>)> {
        let mut answers = Vec::new();
        loop {
            let kind = self.0.read_u8().await.unwrap();
            let length = self.0.read_u32().await.unwrap();
            let mut body = vec![0; length as usize - 4];
            self.0.read_exact(&mut body).await.unwrap();
            answers.push((char::from(kind), body));
            if kind == b'Z' {
                return answers;
            }
        }
    }

    /// How many parameters a statement has, or the SQLSTATE and message of the error.
    async fn prepare(&mut self, sql: &str) -> Result<u16, String> {
        self.send(b'P', format!("\0{sql}\0\0\0").as_bytes()).await;
        self.send(b'D', b"S\0").await;
        self.send(b'S', b"").await;
        for (kind, body) in self.answers().await {
            match kind {
                't' => return Ok(u16::from_be_bytes([body[0], body[1]])),
                'E' => {
                    let fields = String::from_utf8(body).unwrap();
                    let field = |code| {
                        let mut fields = fields.split('\0');
                        fields
                            .find_map(|field| field.strip_prefix(code))
                            .unwrap_or_default()
                    };
                    return Err(format!("{}: {}", field('C'), field('M')));
                }
                _ => {}
            }
        }
        Err("no answer".to_owned())
    }
}

#[tokio::test]
async fn parameters_are_what_is_not_quoted_and_bounded() {
    let served = served(Options::default()).await;
    let mut wire = Wire::connect(&served).await;
    assert_eq!(
        wire.prepare("SELECT id FROM notes WHERE id = $2 AND text = $1")
            .await,
        Ok(2)
    );
    assert_eq!(
        wire.prepare("INSERT INTO notes VALUES (1, '$5 off')").await,
        Ok(0)
    );
    assert_eq!(
        wire.prepare("SELECT text || '$5' FROM notes WHERE id = $1 -- $7")
            .await,
        Ok(1)
    );
    assert_eq!(
        wire.prepare("SELECT $99999999999").await,
        Err("42P02: there is no parameter $99999999999".to_owned())
    );
    assert_eq!(wire.prepare("SELECT $1::bigint").await, Ok(1));
}

/// On threads like those of the program, whose stacks are larger than those of tests.
fn on_large_stacks(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(lambic_query::STACK_BYTES)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn long_chains_are_planned_or_refused() {
    const DEPTH_MAX: usize = 1_000;
    on_large_stacks(async {
        let served = served(Options::default()).await;
        let mut wire = Wire::connect(&served).await;
        // Each link counts as this many levels; what is slow to run is only planned.
        for (head, link, levels, is_run) in [
            ("SELECT 1", " + 1", 1, false),
            (
                "SELECT id FROM notes WHERE _offset = 1",
                " OR id = 1",
                1,
                true,
            ),
            (
                "SELECT oid FROM pg_catalog.pg_class WHERE oid = 1",
                " AND oid = 1",
                1,
                true,
            ),
            // Of these 16 are taken.
            ("SELECT 1", "::bigint", DEPTH_MAX / 16, true),
            ("SELECT 1::bigint", "[]", 1, false),
            ("SELECT 1", " IS NULL", 2, true),
            ("SELECT 1", " UNION ALL SELECT 1", 4, false),
            ("SELECT a.id FROM notes a", ", notes t#", 8, false),
        ] {
            let chain = |links: usize| {
                let mut sql = head.to_owned();
                for number in 0..links {
                    write!(sql, "{}", link.replace('#', &number.to_string())).unwrap();
                }
                sql
            };
            // Heads have links of their own.
            let below = chain((DEPTH_MAX - 20) / levels);
            let prepared = wire.prepare(&below).await;
            assert!(
                prepared == Ok(0)
                    || link == "[]" && !prepared.as_ref().unwrap_err().starts_with("54001"),
                "{head}{link}: {prepared:?}"
            );
            if is_run {
                let (status, body) = served.sql(&below).await;
                assert_eq!(status, 200, "{head}{link}: {body}");
            }
            let above = chain(200_000 / link.len());
            let (status, body) = served.sql(&above).await;
            assert_eq!(
                (status, body.contains("54001")),
                (400, true),
                "{head}{link}: {body}"
            );
            let refused = wire.prepare(&above).await.unwrap_err();
            assert!(refused.starts_with("54001"), "{head}{link}: {refused}");
        }
    });
}

#[tokio::test]
async fn system_streams_are_not_appended_to() {
    let served = served(Options::default()).await;
    let (status, _) = served.append("notes", "{\"id\": 1}").await;
    assert_eq!(status, 200);
    for stream in served_system_streams() {
        let (status, body) = served.append(&stream, "{}").await;
        assert_eq!(status, 403, "{stream}: {body}");
        assert!(body.contains("is written by the system"), "{body}");
    }
}

fn served_system_streams() -> Vec<String> {
    let all = system_streams(StreamId(1)).all();
    all.iter().map(|stream| stream.name.to_string()).collect()
}

#[tokio::test]
async fn records_that_are_large_once_decoded_are_refused() {
    let served = served(Options {
        append_bytes_max: 1_000,
        ..Options::default()
    })
    .await;
    let (status, body) = served.append("notes", &"{}\n".repeat(300)).await;
    assert_eq!(status, 413, "{body}");
    assert!(body.contains("once it is decoded"), "{body}");
    let (status, body) = served.append("notes", &"{}\n".repeat(30)).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_query_of_own_data_means_what_it_says() {
    let served = served(Options::default()).await;
    served
        .append("notes", "{\"id\": 1, \"text\": \"pg_x\"}")
        .await;
    let (status, body) = served
        .sql("SELECT id FROM notes WHERE text LIKE '%pg_x%'")
        .await;
    assert_eq!((status, body.contains("[1]")), (200, true), "{body}");
    // It cannot be planned, and that is said.
    let (status, body) = served
        .sql("SELECT ARRAY(SELECT id FROM notes) FROM notes WHERE text LIKE '%pg_x%'")
        .await;
    assert_eq!(status, 400, "{body}");
    let (status, body) = served
        .sql("SELECT version(), current_schema(), id, (SELECT max(id) FROM notes) AS newest FROM notes")
        .await;
    assert_eq!((status, body.contains("1,1]")), (200, true), "{body}");
}

#[test]
fn only_loopback_is_served_without_keys_and_tls() {
    let key = || Keys::new([Key::new("AKID", Secret::new("secret"), None, None)]);
    let own = || Tls::Own(watch::channel(crate::tls::tests::identity()).1);
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
        for (keys, tls, said) in [
            (Keys::default(), Tls::Off, Some("[auth]")),
            (Keys::default(), own(), Some("[auth]")),
            (Keys::default(), Tls::ByProxy, Some("[auth]")),
            (key(), Tls::Off, Some("[tls]")),
            (key(), Tls::ByProxy, None),
            (key(), own(), None),
        ] {
            let options = Options {
                keys,
                tls,
                ..Options::default()
            };
            let checked = check("--http", address.parse().unwrap(), &options);
            let told = checked.err().map(|error| error.to_string());
            assert_eq!(told.is_some(), said.is_some(), "{told:?}");
            if let (Some(told), Some(said)) = (told, said) {
                assert!(told.contains("--http 127.0.0.1"), "{told}");
                assert!(told.contains(said), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_told() {
    let options = Options::default();
    let taken = bind("--pg", "127.0.0.1:0".parse().unwrap(), &options).await;
    let taken = taken.unwrap();
    let address = taken.local_addr().unwrap();
    let refused = bind("--pg", address, &options).await.unwrap_err();
    assert!(matches!(refused, Error::Bind { .. }));
}
