//! Decoders of outside bytes meet samples with bytes changed, cut out, doubled and put in: no panic, no hang.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use arrow::array::RecordBatch;
use lambic_connectors::{Format, OnError, decode};
use lambic_dataset::parquet_file;
use lambic_sim::decoders;
use proptest::{prelude::*, sample::Index};

const ROWS: &str = r#"{"id":1,"text":"a \"b\" é","small":-3,"real":1.5e3,"exact":"12.5","yes":true,"day":"2024-02-29","at":"2024-02-29T12:00:00.5","bytes":"\\x00ff"}
{"id":null,"text":"","small":7,"real":-0.0,"exact":-1,"yes":false,"day":null}
"#;
const CSV: &str = "id,text,small,real,exact,yes,day,at\n1,\"a \"\"b\"\"\",-3,1.5e3,12.5,true,2024-02-29,2024-02-29 12:00:00\n,,7,,,,,\n";
const SQL: &str = "SELECT 'it''s', $$a;b$$, \"c;d\" FROM s -- e;f\n; /* g; /* h */ */ INSERT INTO s VALUES ($1, E'\\n'); CREATE MATERIALIZED VIEW v AS SELECT 1";

/// How a sample is changed.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index, Index),
    Double(Index, Index),
    Insert(Index, Vec<u8>),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let change = prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), at()).prop_map(|(from, to)| Change::Cut(from, to)),
        (at(), at()).prop_map(|(from, to)| Change::Double(from, to)),
        (at(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ];
    prop::collection::vec(change, 1..5)
}

fn changed(sample: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        let stretch = |from: &Index, to: &Index| {
            let (from, to) = (from.index(length), to.index(length));
            from.min(to)..from.max(to)
        };
        match change {
            Change::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Change::Set(at, byte) => bytes[at.index(length)] = *byte,
            Change::Cut(from, to) => drop(bytes.drain(stretch(from, to))),
            Change::Double(from, to) => {
                let stretch = stretch(from, to);
                let doubled = bytes[stretch.clone()].to_vec();
                bytes.splice(stretch.start..stretch.start, doubled);
            }
            Change::Insert(at, new) => {
                let at = at.index(length);
                bytes.splice(at..at, new.iter().copied());
            }
        }
    }
    bytes
}

fn batch() -> RecordBatch {
    let stream = decoders::stream();
    let body = bytes::Bytes::from_static(ROWS.as_bytes());
    let decoded = decode(&stream, Format::Ndjson, body, OnError::Refuse).unwrap();
    decoded.batches[0].clone()
}

fn parquet() -> Vec<u8> {
    let batch = batch();
    let properties = parquet_file::properties().build();
    let file = parquet_file::encode(&batch.schema(), [&batch], properties);
    file.unwrap().to_vec()
}

fn arrow_stream() -> Vec<u8> {
    let batch = batch();
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

/// A log with two appends.
fn segment() -> Vec<u8> {
    let disk = lambic_base::disk::SimDisk::new(0);
    let dir = Path::new(lambic_sim::DATA).join("log");
    let options = lambic_log::Options {
        disk: Arc::new(disk.clone()),
        ..lambic_log::Options::new(&dir)
    };
    let stream = decoders::stream();
    let log = lambic_log::Log::open(options, std::slice::from_ref(&stream)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for sequence in 1..3 {
        let append = lambic_model::Append {
            producer: Some(lambic_model::Producer {
                id: "p".to_owned(),
                sequence,
            }),
            writes: vec![lambic_model::Write {
                stream: stream.id,
                partition: None,
                batch: batch(),
                schema: None,
            }],
            ..Default::default()
        };
        runtime.block_on(log.append(append)).unwrap();
    }
    runtime.block_on(log.close());
    disk.content(&dir.join("00000000000000000001.segment"))
        .unwrap()
}

fn manifest() -> Vec<u8> {
    let body = r#"{"number":1,"stream":100,"name":"s","frontier":[0],"files":[]}"#;
    let checksum = crc32c(1, body.as_bytes());
    format!("{{\"number\":1,\"checksum\":\"{checksum:08x}\",\"body\":{body}}}\n").into_bytes()
}

/// As the manifest's own: of the number and the body.
fn crc32c(number: u64, body: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in number.to_le_bytes().iter().chain(body) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[test]
fn the_samples_themselves_are_taken() {
    assert!(decoders::segment(&SEGMENT));
    assert!(decoders::manifest(&manifest()));
    assert!(decoders::records(Format::Ndjson, ROWS.as_bytes()));
    assert!(decoders::records(Format::Csv, CSV.as_bytes()));
    assert!(decoders::records(Format::Parquet, &PARQUET));
    assert!(decoders::records(Format::Arrow, &ARROW));
    assert!(decoders::data_file(&PARQUET));
    assert!(decoders::statements(SQL));
}

fn cases() -> u32 {
    match std::env::var_os("LAMBIC_SIM_ALL") {
        Some(_) => 2_000,
        None => 50,
    }
}

static SEGMENT: LazyLock<Vec<u8>> = LazyLock::new(segment);
static PARQUET: LazyLock<Vec<u8>> = LazyLock::new(parquet);
static ARROW: LazyLock<Vec<u8>> = LazyLock::new(arrow_stream);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn changed_segments_and_manifests_are_refused_or_read(changes in changes()) {
        let _ = decoders::segment(&changed(&SEGMENT, &changes));
        let manifest = manifest();
        let changed = changed(&manifest, &changes);
        prop_assert!(changed == manifest || !decoders::manifest(&changed));
    }

    #[test]
    fn changed_bodies_are_refused_or_read(changes in changes()) {
        decoders::records(Format::Ndjson, &changed(ROWS.as_bytes(), &changes));
        let array = format!("[{}]", ROWS.trim_end().replace('\n', ","));
        decoders::records(Format::Json, &changed(array.as_bytes(), &changes));
        decoders::records(Format::Csv, &changed(CSV.as_bytes(), &changes));
        let parquet = changed(&PARQUET, &changes);
        decoders::records(Format::Parquet, &parquet);
        decoders::records(Format::Arrow, &changed(&ARROW, &changes));
    }

    #[test]
    fn changed_statements_are_refused_or_split(changes in changes()) {
        let changed = changed(SQL.as_bytes(), &changes);
        decoders::statements(&String::from_utf8_lossy(&changed));
    }
}
