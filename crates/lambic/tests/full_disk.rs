//! A disk that fills up under load, a real one: a small tmpfs. Appends are refused and say so, nothing acknowledged is
//! lost or doubled, and the server goes on soon after there is room again, without a restart.
//!
//! Where mounting is not permitted, nothing is shown, and the test says so.

mod common;

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use common::{PATIENCE, Server, disk::Tmpfs};

const DISK_BYTES: u64 = 32 << 20;
/// What is left of the disk for appends.
const ROOM_BYTES: u64 = 2 << 20;
/// After space has come back, appends must be taken within it.
const GOES_ON_WITHIN: Duration = Duration::from_secs(5);
const STREAMS: [&str; 2] = ["by_sequence", "by_id"];
const ROWS: u64 = 200;

/// One writer of one stream, which knows what was acknowledged.
struct Writer {
    stream: &'static str,
    url: String,
    sequence: u64,
    acknowledged: u64,
}

impl Writer {
    /// The next rows; an error is what the server said. What was refused is sent again the next time.
    fn write(&mut self) -> Result<(), String> {
        let first = self.acknowledged * ROWS;
        let rows = first..first + ROWS;
        let text = "x".repeat(40);
        let body: String = rows
            .map(|id| format!("{{\"id\":{id},\"text\":\"{text}\"}}\n"))
            .collect();
        self.sequence = self.acknowledged + 1;
        let sent = ureq::post(format!("{}/v1/streams/{}/records", self.url, self.stream))
            .config()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .header("content-type", "application/x-ndjson")
            .header("lambic-producer", self.stream)
            .header("lambic-sequence", self.sequence.to_string())
            .send(&body);
        let mut answer = sent.map_err(|error| format!("no answer: {error}"))?;
        let said = answer.body_mut().read_to_string().unwrap_or_default();
        if answer.status().is_success() {
            self.acknowledged += 1;
            return Ok(());
        }
        assert_eq!(answer.status().as_u16(), 503, "{said}");
        Err(said)
    }
}

fn compare(server: &Server, writers: &[Writer]) {
    for writer in writers {
        let stream = writer.stream;
        let rows = server.rows(&format!(
            "SELECT count(*) AS n, count(DISTINCT id) AS ids, max(id) AS newest FROM {stream}"
        ));
        let found: BTreeMap<&str, u64> = ["n", "ids", "newest"]
            .into_iter()
            .map(|name| (name, rows[0][name].as_u64().expect("it is a number")))
            .collect();
        let expected = writer.acknowledged * ROWS;
        let expected =
            BTreeMap::from([("n", expected), ("ids", expected), ("newest", expected - 1)]);
        assert_eq!(found, expected, "{stream}");
    }
    let audit = server.cli(&["audit", "--all"]);
    assert!(audit.status.success(), "{}", common::text(&audit.stdout));
}

#[test]
fn a_full_disk_refuses_keeps_and_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = match Tmpfs::mount(&folder.path().join("disk"), DISK_BYTES) {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("not shown: a tmpfs cannot be mounted here: {reason}");
            return;
        }
    };
    let config = folder.path().join("settings.toml");
    fs::write(
        &config,
        "[log]\nsegment_bytes = 262_144\n[dataset]\nseal_records = 2_000\nseal_after_s = 1\n",
    )
    .expect("the folder is ours");
    let config = config.to_str().expect("a temporary path is UTF-8");
    let data = disk.0.join("data");
    let mut server = Server::start_with("serve", None, &data, &["--config", config]);
    server.ok(&[
        "query",
        "CREATE STREAM by_sequence (id bigint, text text);
         CREATE STREAM by_id (id bigint, text text) WITH (record_id = 'id');
         CREATE MATERIALIZED VIEW counts AS SELECT id % 7 AS k, count(*) AS n FROM by_id GROUP BY id % 7",
    ]);
    let mut writers = STREAMS.map(|stream| Writer {
        stream,
        url: server.url.clone(),
        sequence: 0,
        acknowledged: 0,
    });
    for writer in &mut writers {
        writer.write().expect("there is room");
    }

    let filler = disk.0.join("filler");
    let taken = disk.free_bytes().saturating_sub(ROOM_BYTES);
    fs::write(&filler, vec![1; taken as usize]).expect("there was room");
    let full_by = Instant::now() + PATIENCE;
    for writer in &mut writers {
        let refused = loop {
            assert!(Instant::now() < full_by, "the disk does not fill up");
            if let Err(said) = writer.write() {
                break said;
            }
        };
        assert!(
            refused.contains("full") || refused.contains("No space"),
            "{refused}"
        );
    }
    // Sealing, batches and trimming meet the full disk too; what they free, appends may take.
    let full_until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < full_until {
        for writer in &mut writers {
            let _ = writer.write();
        }
        thread::sleep(Duration::from_millis(100));
    }
    for writer in &writers {
        println!(
            "{}: {} appends until full",
            writer.stream, writer.acknowledged
        );
    }

    fs::remove_file(&filler).expect("it is ours");
    let freed = Instant::now();
    for writer in &mut writers {
        while let Err(said) = writer.write() {
            assert!(
                freed.elapsed() < GOES_ON_WITHIN,
                "{} takes nothing: {said}\n{}",
                writer.stream,
                server.said()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
    println!("appends go on after {} ms", freed.elapsed().as_millis());
    for _ in 0..20 {
        for writer in &mut writers {
            writer.write().expect("there is room");
        }
    }
    compare(&server, &writers);
    assert!(server.terminate().success(), "{}", server.said());
    let mut server = Server::start_with("serve", None, &data, &["--config", config]);
    compare(&server, &writers);
    assert!(server.terminate().success(), "{}", server.said());
}
