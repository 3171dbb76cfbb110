//! Parquet and both forms of Arrow IPC.

use super::*;

/// The same answer from Parquet and from both forms of Arrow IPC.
fn check_columnar(columns: Vec<(&str, ArrayRef)>, expected: Expect) {
    let batch = batch(columns);
    let answer = shown(&flights(), Format::Arrow, ipc_stream(&batch));
    assert_eq!(shown(&flights(), Format::Arrow, ipc_file(&batch)), answer);
    assert_eq!(shown(&flights(), Format::Parquet, parquet(&batch)), answer);
    expected.assert_eq(&answer);
}

#[test]
fn columnar_files_are_cast_where_nothing_is_lost() {
    let origins: DictionaryArray<Int32Type> =
        [Some("ABQ"), None, Some("ABQ")].into_iter().collect();
    check_columnar(
        vec![
            (
                "delay",
                Arc::new(Int64Array::from(vec![Some(-5), None, Some(32767)])),
            ),
            ("id", Arc::new(UInt8Array::from(vec![1, 2, 3]))),
            ("origin", Arc::new(origins)),
            (
                "at",
                Arc::new(
                    TimestampNanosecondArray::from(vec![1_000, 0, -2_000]).with_timezone("+05:00"),
                ),
            ),
            (
                "local",
                Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3])),
            ),
            (
                "price",
                Arc::new(
                    Decimal128Array::from(vec![125_000, 0, -1_000])
                        .with_precision_and_scale(20, 4)
                        .unwrap(),
                ),
            ),
        ],
        expect![[r#"
            +----+--------+-------+-------+-------+------+-----+-----------------------------+-------------------------+------+
            | id | origin | delay | price | speed | late | day | at                          | local                   | code |
            +----+--------+-------+-------+-------+------+-----+-----------------------------+-------------------------+------+
            | 1  | ABQ    | -5    | 12.50 |       |      |     | 1970-01-01T00:00:00.000001Z | 1970-01-01T00:00:00.001 |      |
            | 2  |        |       | 0.00  |       |      |     | 1970-01-01T00:00:00Z        | 1970-01-01T00:00:00.002 |      |
            | 3  | ABQ    | 32767 | -0.10 |       |      |     | 1969-12-31T23:59:59.999998Z | 1970-01-01T00:00:00.003 |      |
            +----+--------+-------+-------+-------+------+-----+-----------------------------+-------------------------+------+
        "#]],
    );
    for origin in [
        Arc::new(LargeStringArray::from(vec!["x"])) as ArrayRef,
        Arc::new(StringViewArray::from(vec!["x"])),
    ] {
        let id: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let body = ipc_stream(&batch(vec![("id", id), ("origin", origin)]));
        let decoded = decode(&flights(), Format::Arrow, body, OnError::Refuse).unwrap();
        assert_eq!(
            decoded.batches[0].column(1).as_string::<i32>().value(0),
            "x"
        );
    }
}

#[test]
fn times_outside_of_the_calendar_are_refused() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2]))),
        (
            "local",
            Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX, 0])),
        ),
    ];
    let answer = shown(&flights(), Format::Parquet, parquet(&batch(columns)));
    for said in [
        "local",
        "expected a time in the years 1 to 9999, found 9223372036854775807 microseconds since 1970",
        "| 2  |",
    ] {
        assert!(answer.contains(said), "no {said:?} in\n{answer}");
    }
}

#[test]
fn columnar_values_that_would_change_are_refused() {
    check_columnar(
        vec![
            (
                "id",
                Arc::new(Int64Array::from(vec![
                    Some(1),
                    None,
                    Some(3),
                    Some(4),
                    Some(5),
                ])),
            ),
            (
                "delay",
                Arc::new(Int64Array::from(vec![1, 2, 40_000, 4, 5])),
            ),
            (
                "at",
                Arc::new(TimestampNanosecondArray::from(vec![0, 0, 0, 1_001, 0])),
            ),
            (
                "price",
                Arc::new(
                    Decimal128Array::from(vec![10, 10, 10, 10, 1_005])
                        .with_precision_and_scale(20, 3)
                        .unwrap(),
                ),
            ),
        ],
        expect![[r#"
            +----+--------+-------+-------+-------+------+-----+----------------------+-------+------+
            | id | origin | delay | price | speed | late | day | at                   | local | code |
            +----+--------+-------+-------+-------+------+-----+----------------------+-------+------+
            | 1  |        | 1     | 0.01  |       |      |     | 1970-01-01T00:00:00Z |       |      |
            +----+--------+-------+-------+-------+------+-----+----------------------+-------+------+
            row 2, column `id`: expected a value (the column is NOT NULL), found null
                {"id": null, "delay": "2", "at": "1970-01-01T00:00:00", "price": "0.010"}
            row 3, column `delay`: expected a value that Int16 holds exactly, found "40000" (Int64)
                {"id": "3", "delay": "40000", "at": "1970-01-01T00:00:00", "price": "0.010"}
            row 4, column `at`: expected a value that Timestamp(µs, "UTC") holds exactly, found "1970-01-01T00:00:00.000001001" (Timestamp(ns))
                {"id": "4", "delay": "4", "at": "1970-01-01T00:00:00.000001001", "price": "0.010"}
            row 5, column `price`: expected a value that Decimal128(7, 2) holds exactly, found "1.005" (Decimal128(20, 3))
                {"id": "5", "delay": "5", "at": "1970-01-01T00:00:00", "price": "1.005"}
        "#]],
    );
}

#[test]
fn columnar_types_that_do_not_fit_are_refused() {
    let id = || ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef);
    check_columnar(
        vec![id(), ("delay", Arc::new(Float64Array::from(vec![1.0])))],
        expect![[r#"
            refused: column `delay` is Float64 in the input and Int16 in the stream; convert it before sending it
        "#]],
    );
    check_columnar(
        vec![id(), ("delay", Arc::new(StringArray::from(vec!["1"])))],
        expect![[r#"
            refused: column `delay` is Utf8 in the input and Int16 in the stream; text is not converted in columnar files; send CSV, or convert it
        "#]],
    );
    check_columnar(
        vec![id(), ("at", Arc::new(Int64Array::from(vec![1])))],
        expect![[r#"
            refused: column `at` is Int64 in the input and Timestamp(µs, "UTC") in the stream; a number does not say its unit; write the file with a timestamp column
        "#]],
    );
    check_columnar(
        vec![
            id(),
            ("day", Arc::new(TimestampMicrosecondArray::from(vec![1]))),
        ],
        expect![[r#"
            refused: column `day` is Timestamp(µs) in the input and Date32 in the stream; a time is not a date; cut it before sending it
        "#]],
    );
    check_columnar(
        vec![
            id(),
            ("origin", Arc::new(BinaryArray::from_vec(vec![b"x"]))),
        ],
        expect![[r#"
            refused: column `origin` is Binary in the input and Utf8 in the stream; convert it before sending it
        "#]],
    );
    check_columnar(
        vec![id(), ("orign", Arc::new(StringArray::from(vec!["1"])))],
        expect![[r#"
            refused: row 1, column `orign`: expected a column of the stream, found `orign`; did you mean `origin`?
        "#]],
    );
    check_columnar(
        vec![("delay", Arc::new(Int64Array::from(vec![1])))],
        expect![[r#"
            refused: row 1, column `id`: expected this column (it is NOT NULL), found an input without it
        "#]],
    );
}

#[test]
fn a_cut_or_damaged_columnar_file_is_never_taken_for_a_whole_one() {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
    let batch = batch(vec![("id", ids)]);
    for (format, body) in [
        (Format::Parquet, parquet(&batch)),
        (Format::Arrow, ipc_stream(&batch)),
        (Format::Arrow, ipc_file(&batch)),
    ] {
        assert!(decode(&flights(), format, body.clone(), OnError::Refuse).is_ok());
        for length in 0..body.len() {
            let cut = body.slice(..length);
            let decoded = decode(&flights(), format, cut, OnError::Skip);
            assert!(
                decoded.is_err(),
                "{format:?} cut to {length} of {}",
                body.len()
            );
        }
    }
    check(
        Format::Parquet,
        "id\n1\n",
        expect![[r#"
        refused: the Parquet input cannot be read: it is damaged, cut or of another format: EOF: Parquet file too small. Size is 5 but need 8
    "#]],
    );
    check(
        Format::Arrow,
        "id\n1\n",
        expect![[r#"
        refused: the Arrow IPC input cannot be read: it is neither an IPC file nor an IPC stream with its end-of-stream marker: it was cut, its writer was not closed, or it is of another format
    "#]],
    );
    let whole = ipc_stream(&batch);
    check(
        Format::Arrow,
        whole.slice(..whole.len() - 8),
        expect![[r#"
        refused: the Arrow IPC input cannot be read: it is neither an IPC file nor an IPC stream with its end-of-stream marker: it was cut, its writer was not closed, or it is of another format
    "#]],
    );
}

#[test]
fn a_column_of_an_unknown_type_is_named() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let stream = stream_of(vec![Field::new("tags", list, true)]);
    let error = decode(&stream, Format::Ndjson, "{}".into(), OnError::Refuse).unwrap_err();
    expect!["column `tags` of type List(Int64) cannot be read from outside yet; append to it with INSERT"].assert_eq(&error.to_string());
}

/// A length that is said and not there costs a server nothing, least of all its life.
#[test]
fn lengths_that_are_not_there_are_refused() {
    let batch = batch(vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2]))),
        ("origin", Arc::new(StringArray::from(vec!["ABQ", "ATL"]))),
    ]);
    for body in [ipc_stream(&batch), ipc_file(&batch)] {
        let read = |body: Vec<u8>| decode(&flights(), Format::Arrow, body.into(), OnError::Refuse);
        assert!(read(body.to_vec()).is_ok());
        for place in 0..body.len() {
            for byte in [0x00, 0x7f, 0xff] {
                let mut changed = body.to_vec();
                changed[place] = byte;
                let _ = read(changed);
            }
        }
    }
}

/// What a function was given with its records may come back with its answer, and is left out.
#[test]
fn an_answer_may_have_the_system_s_columns() {
    let numbers = |numbers: Vec<i64>| Arc::new(Int64Array::from(numbers)) as ArrayRef;
    let whole = ipc_stream(&batch(vec![
        ("_partition", numbers(vec![0, 0])),
        ("delay", numbers(vec![1, 2])),
        ("_offset", numbers(vec![7, 8])),
        ("id", numbers(vec![3, 4])),
    ]));
    let answer = arrow_answer(&flights(), whole.to_vec()).unwrap();
    assert_eq!(answer.schema(), flights().schema);
    assert_eq!(answer.column(0), &numbers(vec![3, 4]));
    assert_eq!(answer.column(2).null_count(), 0);
    let none = ipc_stream(&batch(vec![("id", numbers(vec![]))]));
    assert_eq!(
        arrow_answer(&flights(), none.to_vec()).unwrap().num_rows(),
        0
    );
    let error = |body: &[u8]| arrow_answer(&flights(), body.to_vec()).unwrap_err();
    assert!(error(&whole[..whole.len() - 8]).contains("end-of-stream marker"));
    let unknown = ipc_stream(&batch(vec![("colour", numbers(vec![1]))]));
    assert!(error(&unknown).contains("colour"), "{}", error(&unknown));
    // Appends say all that they have.
    let appended = decode(&flights(), Format::Arrow, whole, OnError::Refuse);
    assert!(appended.unwrap_err().to_string().contains("_partition"));
}
