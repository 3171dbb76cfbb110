//! A log with a few streams, and functions on it.
#![allow(dead_code)]

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema},
    json::{WriterBuilder, writer::JsonArray},
    record_batch::RecordBatch,
};
use lambic_functions::{
    Code, Deployment, Functions, InvokeResult, Options, Runtime, SystemStreams, system_streams,
};
use lambic_log::Log;
use lambic_model::{Append, Frontier, FunctionName, Stream, StreamId, StreamName, Write};
use serde_json::Value;

pub const BOUND: Duration = Duration::from_secs(60);

/// Does nothing but answer with its event.
pub const ECHO: &str = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $free))
      (global.set $free (i32.add (global.get $free) (local.get 3)))
      (local.get $at))
    (func (export "handle") (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (func (export "handle") (param "event" string) (result (result string (error string)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
"#;

/// A stream that takes AWS's record of a batch that failed.
fn lost(id: u32) -> Arc<Stream> {
    let columns = [
        "requestContext",
        "responseContext",
        "KinesisBatchInfo",
        "timestamp",
    ];
    let fields = columns.map(|name| Field::new(name, DataType::Utf8, true));
    Arc::new(Stream {
        schema: Arc::new(Schema::new(fields.to_vec())),
        ..Stream::clone(&stream(id, "lost", 1))
    })
}

pub struct House {
    pub dir: tempfile::TempDir,
    pub log: Log,
    pub functions: Functions,
    pub system: SystemStreams,
    pub streams: Arc<Mutex<Vec<Arc<Stream>>>>,
}

/// A folder with the log of a server before `now` had more than so many fields, and one record of it.
pub async fn of_an_older_server(
    now: &Arc<Stream>,
    fields: usize,
    record: impl FnOnce(&Schema) -> Vec<ArrayRef>,
) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let [before, ..] = &now.schemas()[..] else {
        panic!("{now:?}")
    };
    let before = Arc::new(Stream {
        schema: before.arrow(),
        evolution: Default::default(),
        ..Stream::clone(now)
    });
    assert_eq!(before.schema.fields().len(), fields);
    assert_eq!(now.schema.fields()[..fields], before.schema.fields()[..]);
    let options = lambic_log::Options::new(dir.path().join("log"));
    let log = Log::open(options, std::slice::from_ref(&before)).unwrap();
    let record = record(&before.schema);
    let write = Write {
        stream: before.id,
        partition: None,
        batch: RecordBatch::try_new(before.schema.clone(), record).unwrap(),
        schema: None,
    };
    let append = Append {
        writes: vec![write],
        ..Append::default()
    };
    log.append(append).await.unwrap();
    log.close().await;
    dir
}

pub fn name(text: &str) -> FunctionName {
    FunctionName::new(text).unwrap()
}

pub fn stream(id: u32, name: &str, partitions: u32) -> Arc<Stream> {
    Arc::new(Stream {
        id: StreamId(id),
        name: StreamName::new(name).unwrap(),
        schema: Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("t", DataType::Utf8, true),
        ])),
        partitions,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

impl House {
    pub async fn open() -> House {
        House::open_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn open_with(change: impl FnOnce(&mut Options)) -> House {
        House::open_in_with(tempfile::tempdir().unwrap(), change).await
    }

    pub async fn open_in(dir: tempfile::TempDir) -> House {
        House::open_in_with(dir, |_| {}).await
    }

    /// `input` (two partitions), `output`, `keyed`, whose records have `t` as their key, `lost`, for records of
    /// destinations, and the system streams.
    pub async fn open_in_with(dir: tempfile::TempDir, change: impl FnOnce(&mut Options)) -> House {
        let system = system_streams(StreamId(1));
        let mut streams = vec![stream(10, "input", 2), stream(11, "output", 1)];
        streams.push(Arc::new(Stream {
            partition_by: Some("t".to_owned()),
            ..Stream::clone(&stream(12, "keyed", 1))
        }));
        streams.push(lost(13));
        streams.extend(system.all());
        let log = Log::open(lambic_log::Options::new(dir.path().join("log")), &streams).unwrap();
        let streams = Arc::new(Mutex::new(streams));
        let known = streams.clone();
        let lookup = Arc::new(move |name: &str| {
            let known = known.lock().unwrap();
            known.iter().find(|s| s.name.as_str() == name).cloned()
        });
        let mut options = Options::new(
            dir.path().join("functions"),
            log.clone(),
            system.clone(),
            lookup,
            Arc::new(lambic_connectors::json_list),
        );
        options.decode_arrow = Arc::new(lambic_connectors::arrow_answer);
        options.retry_wait = Duration::from_millis(5);
        options.async_retry_waits = vec![options.retry_wait];
        options.init_timeout = BOUND;
        // What is running when a test closes it shall run again.
        options.drain_max = Duration::from_millis(200);
        change(&mut options);
        let functions = Functions::open(options).await.unwrap();
        House {
            dir,
            log,
            functions,
            system,
            streams,
        }
    }

    /// Closes everything and opens it again from disk.
    pub async fn restart(self) -> House {
        self.restart_with(|_| {}).await
    }

    pub async fn restart_with(self, change: impl FnOnce(&mut Options)) -> House {
        House::open_in_with(self.close().await, change).await
    }

    /// Closes everything; what is on disk stays.
    pub async fn close(self) -> tempfile::TempDir {
        let House {
            dir,
            log,
            functions,
            ..
        } = self;
        functions.close().await;
        drop(functions);
        log.close().await;
        dir
    }

    pub fn stream(&self, name: &str) -> Arc<Stream> {
        let streams = self.streams.lock().unwrap();
        streams
            .iter()
            .find(|s| s.name.as_str() == name)
            .cloned()
            .unwrap()
    }

    pub async fn python(&self, name: &str, source: &str) -> Deployment {
        let mut deployment = Deployment::new(
            FunctionName::new(name).unwrap(),
            Runtime::Python,
            Code::Bytes(source.as_bytes().to_vec()),
        );
        deployment.timeout = BOUND;
        deployment
    }

    pub async fn deploy_python(&self, name: &str, source: &str) {
        let deployment = self.python(name, source).await;
        self.functions.deploy(deployment).await.unwrap();
    }

    pub async fn invoke(&self, name: &str, event: &str) -> InvokeResult {
        self.functions
            .invoke(&FunctionName::new(name).unwrap(), event.as_bytes().to_vec())
            .await
            .unwrap()
    }

    pub async fn append(&self, numbers: &[i64]) {
        let texts: Vec<String> = numbers.iter().map(|n| format!("t{n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.append_to("input", numbers, &texts).await;
    }

    pub async fn append_to(&self, name: &str, numbers: &[i64], texts: &[&str]) {
        let stream = self.stream(name);
        let batch = RecordBatch::try_new(
            stream.schema.clone(),
            vec![
                Arc::new(Int64Array::from(numbers.to_vec())),
                Arc::new(StringArray::from(texts.to_vec())),
            ],
        )
        .unwrap();
        let append = Append {
            writes: vec![Write {
                stream: stream.id,
                partition: None,
                batch,
                schema: None,
            }],
            ..Append::default()
        };
        self.log.append(append).await.unwrap();
    }

    /// All records of a stream that are in the log, as JSON objects.
    pub fn rows(&self, name: &str) -> Vec<Value> {
        let stream = self.stream(name);
        let snapshot = self.log.snapshot();
        let mut rows = Vec::new();
        for range in snapshot
            .head(stream.id)
            .ranges_since(&Frontier::zero(stream.partitions))
        {
            for batch in snapshot.read(stream.id, range).unwrap() {
                let mut writer = WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build::<_, JsonArray>(Vec::new());
                writer.write(&batch).unwrap();
                writer.finish().unwrap();
                let some: Vec<Value> = serde_json::from_slice(&writer.into_inner()).unwrap();
                rows.extend(some);
            }
        }
        rows
    }

    /// Waits until the stream holds at least `count` records.
    pub async fn wait_for_rows(&self, name: &str, count: usize) -> Vec<Value> {
        let stream = self.stream(name);
        let mut commits = self.log.commits();
        let start = Instant::now();
        loop {
            commits.borrow_and_update();
            if self.log.snapshot().head(stream.id).records() as usize >= count {
                return self.rows(name);
            }
            assert!(
                start.elapsed() < BOUND,
                "{name} has {:?}, dead letters {:?}, logs {:?}",
                self.rows(name),
                self.rows("lambic_dead_letters"),
                self.rows("lambic_logs"),
            );
            let _ = tokio::time::timeout(Duration::from_secs(1), commits.changed()).await;
        }
    }

    /// Waits until it is so.
    pub async fn wait_until(&self, what: &str, is_so: impl Fn(&House) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(
                start.elapsed() < BOUND,
                "{what}: {:?}",
                self.functions.counts()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every trigger stands at the head of `input`.
    pub async fn wait_until_read(&self) {
        self.wait_until_all_read("input").await;
    }

    pub async fn wait_until_all_read(&self, name: &str) {
        let stream = self.stream(name);
        let mut commits = self.log.commits();
        let start = Instant::now();
        loop {
            commits.borrow_and_update();
            let head = self.log.snapshot().head(stream.id);
            if self.functions.cursors().of(stream.id).covers(&head) {
                return;
            }
            assert!(start.elapsed() < BOUND, "the trigger does not get on");
            let _ = tokio::time::timeout(Duration::from_secs(1), commits.changed()).await;
        }
    }
}

pub fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path: &Path = &dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}
