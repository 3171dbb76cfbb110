//! The functions of `examples/flights`, as they are shipped.

mod common;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use arrow::{
    array::{
        ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Int32Type, Schema, TimeUnit},
    record_batch::RecordBatch,
};
use common::{BOUND, House};
use lambic_functions::{Code, Deployment, Runtime, Trigger};
use lambic_model::{Append, FunctionName, Stream, StreamId, StreamName, Write};

fn example(function: &str) -> Code {
    Code::Folder(
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../examples/flights/functions")
            .join(function),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn geohash_is_a_sql_function() {
    let house = House::open().await;
    let name = FunctionName::new("geohash").unwrap();
    let deployment = Deployment::new(name.clone(), Runtime::Wasm, example("geohash"));
    let info = house.functions.deploy(deployment).await.unwrap();
    assert_eq!(
        info.scalars,
        ["geohash(double precision, double precision, integer) -> text"]
    );
    assert!(info.code_bytes < 100 << 10);
    let geohash = house.functions.scalars().remove(0);
    assert_eq!(geohash.name(), "geohash");
    assert_eq!(geohash.digest(), info.digest);
    let columns: [ArrayRef; 3] = [
        Arc::new(Float64Array::from(vec![
            Some(42.605),
            Some(57.64911),
            None,
            Some(-25.382708),
        ])),
        Arc::new(Float64Array::from(vec![-5.603, 10.40744, 0.0, -49.265506])),
        Arc::new(Int32Array::from(vec![5, 11, 5, 8])),
    ];
    let answer = geohash.call(&columns, 4).unwrap();
    let answer: Vec<_> = answer.as_string::<i32>().iter().collect();
    assert_eq!(
        answer,
        [Some("ezs42"), Some("u4pruydqqvj"), None, Some("6gkzwgjz")]
    );

    // Memory is given back: a large batch stays within the limit.
    let rows = 20_000;
    let columns: [ArrayRef; 3] = [
        Arc::new(Float64Array::from_iter_values(
            (0..rows).map(|row| f64::from(row) / 2_000.0),
        )),
        Arc::new(Float64Array::from_value(-100.0, rows as usize)),
        Arc::new(Int32Array::from_value(12, rows as usize)),
    ];
    geohash.call(&columns, rows as usize).unwrap();

    let error = house
        .functions
        .invoke(&name, Vec::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("exports SQL functions only (geohash("),
        "{error}"
    );
    // A view that was built with this code finds it again, after a restart and without the deployment.
    let house = house.restart().await;
    house.functions.remove(&name).await.unwrap();
    assert!(house.functions.scalars().is_empty());
    let former = house.functions.scalar_of("geohash", &info.digest).unwrap();
    assert_eq!(former.digest(), info.digest);

    // Only if it is what was deployed.
    let path = house
        .dir
        .path()
        .join(format!("functions/code/{}/function.wasm", former.digest()));
    let other = "(component
        (core module $m (func (export \"f\") (param i32) (result i32) (local.get 0)))
        (core instance $i (instantiate $m))
        (func (export \"geohash\") (param \"a\" s32) (result s32) (canon lift (core func $i \"f\"))))";
    std::fs::write(&path, other).unwrap();
    assert!(house.functions.scalar_of("geohash", &info.digest).is_none());
}

/// Former code runs within its own limits, not those of a function without any.
#[tokio::test(flavor = "multi_thread")]
async fn former_code_keeps_its_limits() {
    let house = House::open().await;
    let name = FunctionName::new("f").unwrap();
    // Takes 200 MB, over the default of 128.
    let code = |answer: u32| {
        let code = format!(
            "(component
                (core module $m
                    (memory (export \"memory\") 1)
                    (func (export \"f\") (param i32) (result i32)
                        (drop (memory.grow (i32.const 3200)))
                        (i32.const {answer})))
                (core instance $i (instantiate $m))
                (func (export \"f\") (param \"a\" s32) (result s32) (canon lift (core func $i \"f\"))))"
        );
        Code::Bytes(code.into_bytes())
    };
    let mut deployment = Deployment::new(name, Runtime::Wasm, code(1));
    deployment.memory_mb = 256;
    let info = house.functions.deploy(deployment.clone()).await.unwrap();
    deployment.code = code(2);
    house.functions.deploy(deployment).await.unwrap();
    let column: ArrayRef = Arc::new(Int32Array::from(vec![0]));
    let former = house.functions.scalar_of("f", &info.digest).unwrap();
    let answer = former.call(&[column], 1).unwrap();
    assert_eq!(answer.as_primitive::<Int32Type>().values(), &[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_delays_become_alerts() {
    let house = House::open().await;
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let declare = |id, name: &str, columns: Vec<Field>| {
        let stream = Arc::new(Stream {
            id: StreamId(id),
            name: StreamName::new(name).unwrap(),
            schema: Arc::new(Schema::new(columns)),
            partitions: 1,
            event_time: Some("date".to_owned()),
            record_id: None,
            partition_by: None,
            evolution: Default::default(),
        });
        house.log.add_stream(stream.clone());
        house.streams.lock().unwrap().push(stream.clone());
        stream
    };
    let flights = declare(
        20,
        "flights",
        vec![
            Field::new("date", time.clone(), false),
            Field::new("delay", DataType::Int64, false),
            Field::new("origin", DataType::Utf8, false),
            Field::new("destination", DataType::Utf8, false),
        ],
    );
    declare(
        21,
        "alerts",
        vec![
            Field::new("date", time, false),
            Field::new("origin", DataType::Utf8, false),
            Field::new("destination", DataType::Utf8, false),
            Field::new("delay", DataType::Int64, false),
            Field::new("message", DataType::Utf8, true),
        ],
    );
    let mut deployment = Deployment::new(
        FunctionName::new("flag_long_delays").unwrap(),
        Runtime::Python,
        example("flag_long_delays"),
    );
    deployment.timeout = BOUND;
    deployment.environment = BTreeMap::from([("LONG_DELAY_MINUTES".to_owned(), "120".to_owned())]);
    deployment.triggers = vec![Trigger::new(flights.name.clone())];
    deployment.output = Some(StreamName::new("alerts").unwrap());
    house.functions.deploy(deployment).await.unwrap();
    let batch = RecordBatch::try_new(
        flights.schema.clone(),
        vec![
            Arc::new(TimestampMicrosecondArray::from(vec![
                1_000_000,
                86_400_000_000,
                2_000_000,
            ])),
            Arc::new(Int64Array::from(vec![120, 185, -5])),
            Arc::new(StringArray::from(vec!["SEA", "ORD", "JFK"])),
            Arc::new(StringArray::from(vec!["LAX", "DEN", "BOS"])),
        ],
    )
    .unwrap();
    let append = Append {
        writes: vec![Write {
            stream: flights.id,
            partition: None,
            batch,
            schema: None,
        }],
        ..Append::default()
    };
    house.log.append(append).await.unwrap();
    let alerts = house.wait_for_rows("alerts", 1).await;
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0]["message"], "ORD to DEN left 3 h 5 min late");
    assert_eq!(alerts[0]["date"], "1970-01-02T00:00:00");
    house.functions.flush().await;
    assert!(
        house
            .rows("lambic_logs")
            .iter()
            .any(|row| row["line"] == "1 of 3 departures were over 120 minutes late")
    );
    tokio::time::timeout(Duration::from_secs(30), house.functions.close())
        .await
        .expect("it closes");
}
