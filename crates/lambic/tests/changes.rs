//! Following views of a real server: events over HTTP, `SUBSCRIBE` over the Postgres wire and `lambic view follow`,
//! through `kill -9`, and what ends a subscription.

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use common::{PATIENCE, Server, eventually, free_ports, lambic, pg::Pg};
use serde_json::{Value, json};

/// A server-sent event.
#[derive(Debug)]
struct Event {
    name: String,
    id: Option<String>,
    data: Value,
}

/// The events of one connection.
struct Events(std::io::Lines<BufReader<ureq::BodyReader<'static>>>);

impl Events {
    /// The events, or status and error.
    fn of(server: &Server, query: &str, last: Option<&str>) -> Result<Events, (u16, Value)> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_recv_body(Some(PATIENCE))
            .build()
            .new_agent();
        let mut request = agent.get(format!("{}/v1/views/{query}", server.url));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let mut answer = request.call().expect("the server answers");
        if !answer.status().is_success() {
            let text = answer.body_mut().read_to_string().expect("text");
            let value: Value = serde_json::from_str(&text).expect("JSON");
            return Err((answer.status().as_u16(), value["error"].clone()));
        }
        let reader = answer.into_body().into_reader();
        Ok(Events(BufReader::new(reader).lines()))
    }

    fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (String::new(), None, String::new());
        loop {
            let line = self.0.next()?.ok()?;
            if let Some(value) = line.strip_prefix("event: ") {
                name = value.to_owned();
            } else if let Some(value) = line.strip_prefix("id: ") {
                id = Some(value.to_owned());
            } else if let Some(value) = line.strip_prefix("data: ") {
                data.push_str(value);
            } else if line.is_empty() && !name.is_empty() {
                let data = serde_json::from_str(&data).expect("JSON");
                return Some(Event { name, id, data });
            }
        }
    }

    fn wait(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().expect("it goes on");
            if event.name == name {
                return event;
            }
            assert_eq!(event.name, "progress", "{event:?}");
        }
    }
}

const STREAM: &str = "CREATE STREAM e (k text, v bigint) WITH (partitions = 2)";
const VIEW: &str =
    "CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS n, sum(v) AS v FROM e GROUP BY k";

fn declared(server: &Server) {
    server.ok(&["query", STREAM]);
    server.ok(&["query", VIEW]);
}

fn insert(server: &Server, values: &str) {
    server.ok(&["query", &format!("INSERT INTO e VALUES {values}")]);
}

#[test]
fn events_are_resumed_by_their_id() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start(&folder.path().join("data"));
    declared(&server);
    insert(&server, "('a', 1), ('b', 2)");
    let mut events = Events::of(&server, "sums/changes?every_ms=10", None).expect("it is there");
    let snapshot = events.next().expect("a snapshot");
    assert_eq!(snapshot.name, "snapshot");
    assert_eq!(snapshot.data["columns"].as_array().map(Vec::len), Some(3));
    assert_eq!(snapshot.data["rows"].as_array().map(Vec::len), Some(2));
    let first = snapshot.id.expect("an id");
    insert(&server, "('a', 5)");
    let change = events.wait("change");
    assert_eq!(change.data["removed"], json!([["a", 1, 1]]));
    assert_eq!(change.data["added"], json!([["a", 2, 6]]));
    assert_eq!(
        Some(&change.data["frontier"]),
        change.id.as_deref().map(Value::from).as_ref()
    );
    drop(events);

    // What an id stands for can be read.
    let second = change.id.expect("an id");
    let as_of = server.rows(&format!(
        "SELECT n FROM sums AS OF OFFSET '{first}' WHERE k = 'a'"
    ));
    assert_eq!(as_of, [json!({"n": 1})]);

    insert(&server, "('c', 7)");
    let encoded = second.replace('#', "%23").replace(' ', "+");
    for (query, last) in [
        ("sums/changes".to_owned(), Some(second.as_str())),
        (format!("sums/changes?from={encoded}"), None),
        // The header is newer than what the page was opened with.
        (
            "sums/changes?from=e%400%3A0%2C1%3A0".to_owned(),
            Some(second.as_str()),
        ),
    ] {
        let mut events = Events::of(&server, &query, last).expect("it is there");
        let resumed = events.next().expect("where it goes on");
        assert_eq!(
            (resumed.name.as_str(), resumed.id.as_deref()),
            ("progress", Some(second.as_str()))
        );
        assert!(resumed.data["columns"].is_array());
        let change = events.wait("change");
        assert_eq!(
            (&change.data["added"], &change.data["removed"]),
            (&json!([["c", 1, 7]]), &json!([]))
        );
    }

    // A frontier without a mark is that of the view as it is now; nothing is no frontier.
    let mut events =
        Events::of(&server, "sums/changes?from=e%400%3A0%2C1%3A0", None).expect("it is there");
    assert_eq!(
        events.wait("change").data["added"].as_array().map(Vec::len),
        Some(3)
    );
    for (from, status, message) in [
        ("e%400%3A999%2C1%3A0", 400, "ends at"),
        ("other%400%3A1", 400, "not read here"),
        ("soon", 400, "not a frontier"),
    ] {
        let refused = Events::of(&server, &format!("sums/changes?from={from}"), None);
        let (found, error) = refused.err().expect("it is refused");
        assert_eq!(found, status, "{error}");
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|said| said.contains(message)),
            "{error}"
        );
    }
    let refused = Events::of(&server, "sums/changes?since=1", None)
        .err()
        .expect("refused");
    assert_eq!(refused.0, 400);
    assert_eq!(
        Events::of(&server, "none/changes", None)
            .err()
            .expect("refused")
            .0,
        404
    );

    // A new version: those who are there get the difference, those who come back begin again.
    let mut events = Events::of(&server, "sums/changes?snapshot=false", None).expect("it is there");
    let begun = events.next().expect("where it begins");
    assert_eq!(begun.name, "progress");
    server.ok(&[
        "query",
        &VIEW
            .replace("CREATE", "CREATE OR REPLACE")
            .replace("sum(v)", "sum(v) * 10"),
    ]);
    let change = events.wait("change");
    assert_eq!(change.data["added"].as_array().map(Vec::len), Some(3));
    let mut events = Events::of(&server, "sums/changes", Some(&second)).expect("it is there");
    let reset = events.next().expect("a reset");
    assert_eq!((reset.name.as_str(), reset.id), ("reset", None));
    assert_eq!(events.next().expect("a snapshot").name, "snapshot");
    // Rolled back, the frontiers of the version before are good again.
    server.ok(&["query", "ALTER MATERIALIZED VIEW sums ROLLBACK"]);
    let mut events = Events::of(&server, "sums/changes", Some(&second)).expect("it is there");
    assert_eq!(events.wait("change").data["added"], json!([["c", 1, 7]]));
    // Other columns cannot be a difference.
    server.ok(&[
        "query",
        &VIEW
            .replace("CREATE", "CREATE OR REPLACE")
            .replace(", sum(v) AS v", ""),
    ]);
    events.wait("reset");
    assert_eq!(
        events.wait("snapshot").data["columns"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );

    // Erased records are taken back.
    server.ok(&["query", "ERASE FROM e WHERE k = 'b'"]);
    let change = events.wait("change");
    assert_eq!(
        (&change.data["added"], &change.data["removed"]),
        (&json!([]), &json!([["b", 1]]))
    );

    server.ok(&["query", "DROP MATERIALIZED VIEW sums"]);
    let dropped = events.wait("dropped");
    assert_eq!(dropped.id, None);
    assert!(events.next().is_none(), "nothing follows");
    assert!(server.terminate().success(), "{}", server.said());
}

/// Rows print in another way then: what was sent cannot be taken back as it was.
#[test]
fn who_was_away_while_a_column_was_widened_begins_anew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM w (g int, n smallint); INSERT INTO w VALUES (1, 10), (2, 20)",
    ]);
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW wv AS SELECT g, min(n) AS n FROM w GROUP BY g",
    ]);
    let first = Events::of(&server, "wv/changes", None)
        .expect("it is there")
        .wait("snapshot");
    let id = first.id.expect("a frontier");
    server.ok(&[
        "query",
        "ALTER STREAM w ALTER n TYPE numeric(10, 2); INSERT INTO w VALUES (1, 5.5)",
    ]);
    let mut events = Events::of(&server, "wv/changes", Some(&id)).expect("it is there");
    events.wait("reset");
    let anew = events.wait("snapshot").data;
    assert_eq!(anew["rows"].to_string(), "[[1,5.5],[2,20.0]]");
    let sql = format!("COPY (SUBSCRIBE wv WITH (snapshot = false) AS OF OFFSET '{id}') TO STDOUT");
    let refused = Pg::connect(&server.pg)
        .query(&sql)
        .expect_err("it has other columns");
    assert!(refused.starts_with("55000"), "{refused}");
}

#[test]
fn large_results_come_in_parts_and_large_recomputed_ones_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(&folder.path().join("data"));
    declared(&server);
    server.ok(&[
        "query",
        "INSERT INTO e SELECT 'k' || value, value FROM generate_series(1, 25000) AS t(value)",
    ]);
    let mut events = Events::of(&server, "sums/changes", None).expect("any size");
    let mut count = 0;
    loop {
        let part = events.next().expect("a part");
        assert_eq!(part.name, "snapshot");
        let rows = part.data["rows"].as_array().map_or(0, Vec::len);
        assert!(rows <= 10_000);
        count += rows;
        assert_eq!(part.id.is_some(), part.data["more"] != json!(true));
        if part.id.is_some() {
            break;
        }
    }
    assert_eq!(count, 25_000);
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW ranked AS SELECT k, rank() OVER (ORDER BY v) AS place FROM e",
    ]);
    let (status, error) = Events::of(&server, "ranked/changes", None)
        .err()
        .expect("too large");
    assert_eq!(
        (status, &error["code"]),
        (422, &json!("too_many_rows")),
        "{error}"
    );
}

/// What a client has by now, and the frontier of it.
#[derive(Default)]
struct Client {
    rows: BTreeMap<String, i64>,
    frontier: Option<String>,
}

impl Client {
    fn take(&mut self, line: &str) {
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if event["event"] == json!("snapshot") {
            self.rows.clear();
        }
        assert_ne!(event["event"], json!("reset"));
        for (list, diff) in [("removed", -1), ("rows", 1), ("added", 1)] {
            for row in event[list].as_array().into_iter().flatten() {
                let count = self.rows.entry(row.to_string()).or_default();
                *count += diff;
                assert!(*count >= 0, "{row} was not there");
                if *count == 0 {
                    self.rows.remove(&row.to_string());
                }
            }
        }
        self.frontier = event["frontier"].as_str().map(str::to_owned);
    }
}

fn follow(
    server: &Server,
    args: &[&str],
) -> (Child, std::io::Lines<BufReader<std::process::ChildStdout>>) {
    let mut child = lambic()
        .env("LAMBIC_URL", &server.url)
        .args(["--json", "view", "follow", "sums", "--every", "10ms"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary is there");
    let out = child.stdout.take().expect("it is piped");
    (child, BufReader::new(out).lines())
}

#[test]
fn a_follower_gets_through_kills_of_the_server_and_of_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let (http, pg) = free_ports();
    let start = || Server::start_on("serve", None, &data, http, pg, &[]).expect("it starts");
    let mut server = start();
    declared(&server);
    let mut client = Client::default();
    let (mut child, mut lines) = follow(&server, &[]);
    for round in 0..6 {
        for number in 0..20 {
            insert(
                &server,
                &format!("('k{}', {number}), ('all', 1)", (round + number) % 5),
            );
            if number == 10 && round % 2 == 0 {
                server.kill();
                server = start();
            }
            if number == 10 && round % 3 == 1 {
                let _ = child.kill();
                let _ = child.wait();
                // What it printed before is the client's.
                lines
                    .by_ref()
                    .map_while(Result::ok)
                    .for_each(|line| client.take(&line));
                let from = client.frontier.clone();
                let args: Vec<&str> = from.iter().flat_map(|from| ["--from", from]).collect();
                (child, lines) = follow(&server, &args);
            }
        }
        let head = server.rows("SELECT frontier FROM lambic_streams WHERE name = 'e'");
        let head = format!("e@{}", head[0]["frontier"].as_str().expect("text"));
        let until = Instant::now() + PATIENCE;
        while client
            .frontier
            .as_deref()
            .and_then(|at| at.split(" #").next())
            != Some(&head)
        {
            assert!(
                Instant::now() < until,
                "it stays at {:?}, not {head}",
                client.frontier
            );
            let line = lines.next().expect("it goes on").expect("text");
            client.take(&line);
        }
        let now = server.rows("SELECT * FROM sums");
        let mut now: Vec<String> = now.iter().map(Value::to_string).collect();
        now.sort();
        assert_eq!(
            client.rows.keys().cloned().collect::<Vec<_>>(),
            now,
            "round {round}"
        );
        assert!(client.rows.values().all(|count| *count == 1));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn metric(server: &Server, name: &str) -> u64 {
    let value = server.metric(name);
    value.map_or(0, |value| value.parse::<f64>().expect("a number") as u64)
}

#[test]
fn subscriptions_flow_until_the_client_goes_or_the_server_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start(&folder.path().join("data"));
    declared(&server);
    insert(&server, "('a', 1)");
    let mut waiting = Pg::connect(&server.pg);
    waiting.begin("SUBSCRIBE sums");
    assert_eq!(
        waiting.row().expect("a row")[2..],
        [
            Some("1".into()),
            Some("a".into()),
            Some("1".into()),
            Some("1".into())
        ]
    );
    insert(&server, "('a', 2)");
    assert_eq!(waiting.row().expect("a row")[2].as_deref(), Some("-1"));
    assert_eq!(waiting.row().expect("a row")[5].as_deref(), Some("3"));
    // The client hangs up without a word, and with nothing to be written.
    drop(waiting);
    eventually("the connection is closed", || {
        metric(&server, "lambic_postgres_connections") == 0
    });
    let mut waiting = Pg::connect(&server.pg);
    waiting.begin("COPY (SUBSCRIBE sums WITH (snapshot = false)) TO STDOUT");
    // Else the server may stop before it has read the statement.
    waiting.wait_for(b'H');
    let started = Instant::now();
    assert!(server.terminate().success(), "{}", server.said());
    assert!(waiting.row().unwrap_err().starts_with("57P01"));
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "nobody waits for what does not end"
    );
}

#[test]
fn subscriptions_end_with_their_view_and_say_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(&folder.path().join("data"));
    declared(&server);
    insert(&server, "('a', 1)");
    let mut pg = Pg::connect(&server.pg);
    let mut other = Pg::connect(&server.pg);
    for (sql, expected) in [
        ("SUBSCRIBE nothing", "42P01"),
        ("SUBSCRIBE lambic_views", "42P01"),
        ("SUBSCRIBE (SELECT 1)", "0A000"),
        ("SUBSCRIBE (SELECT * FROM lambic_views)", "0A000"),
        ("SUBSCRIBE sums AS OF OFFSET 'e@0:99,1:0'", "22023"),
        ("SUBSCRIBE sums AS OF TIMESTAMP '2200-01-01'", "22023"),
        ("SUBSCRIBE sums AS OF OFFSET 'x@0:1'", "22023"),
        (
            "SUBSCRIBE sums WITH (snapshot = false) AS OF OFFSET 'e@0:0,1:0 #00'",
            "55000",
        ),
        ("DECLARE c CURSOR FOR SUBSCRIBE sums", "25P01"),
        ("FETCH 1 c", "34000"),
    ] {
        let refused = pg.query(sql).unwrap_err();
        assert!(refused.starts_with(expected), "{sql}: {refused}");
    }
    // A query follows what it selects from; a stream gives what is new.
    pg.begin("SUBSCRIBE TO (SELECT upper(k) AS k FROM sums WHERE n > 1) WITH (snapshot = false, progress)");
    assert_eq!(
        pg.row().expect("where it begins")[1..3],
        [Some("t".into()), None]
    );
    insert(&server, "('a', 1)");
    let row = loop {
        let row = pg.row().expect("a row");
        if row[1].as_deref() == Some("f") {
            break row;
        }
    };
    assert_eq!(row[2..], [Some("1".into()), Some("A".into())]);
    drop(pg);
    let mut pg = Pg::connect(&server.pg);
    pg.begin("SUBSCRIBE e");
    assert_eq!(
        pg.row().expect("a record")[2..],
        [Some("1".into()), Some("a".into()), Some("1".into())]
    );
    pg.row().expect("a record");
    insert(&server, "('z', 9)");
    assert_eq!(
        pg.row().expect("a record")[2..],
        [Some("1".into()), Some("z".into()), Some("9".into())]
    );
    other.ok("ALTER STREAM e ADD COLUMN w bigint");
    assert!(
        pg.row().unwrap_err().starts_with("55000"),
        "other columns cannot be told"
    );
    drop(pg);
    let mut pg = Pg::connect(&server.pg);
    pg.begin("SUBSCRIBE sums WITH (snapshot = false, progress)");
    pg.row().expect("where it begins");
    other.ok("DROP MATERIALIZED VIEW sums");
    let ended = loop {
        if let Err(error) = pg.row() {
            break error;
        }
    };
    assert!(ended.starts_with("42P01"), "{ended}");
    // A cursor takes what there is, and ends with its transaction.
    other.ok(VIEW);
    other.ok("BEGIN");
    other.ok("DECLARE c CURSOR FOR SUBSCRIBE sums WITH (progress)");
    assert_eq!(other.ok("FETCH 1 c").len(), 1);
    let started = Instant::now();
    assert_eq!(other.ok("FETCH 2 FROM c WITH (timeout = '60s')").len(), 2);
    assert!(
        started.elapsed() < Duration::from_secs(50),
        "as many as are wanted are enough"
    );
    other.ok("COMMIT");
    assert!(other.query("FETCH 1 c").unwrap_err().starts_with("34000"));
}
