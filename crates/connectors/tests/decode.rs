//! What is accepted, and what exactly is said about what is refused.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray as _, BinaryArray, Decimal128Array, DictionaryArray, Float64Array,
        Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray,
        TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt8Array,
    },
    datatypes::{DataType, Field, Int32Type, Schema, TimeUnit},
    ipc::writer::{FileWriter, StreamWriter},
    util::pretty::pretty_format_batches,
};
use bytes::Bytes;
use expect_test::{Expect, expect};
use lambic_connectors::{
    BadRecord, Error, Format, OnError, dead_letter_schema, dead_letters, decode, decode_within,
    decoded_bytes_max,
};
use lambic_model::{Stream, StreamId, StreamName};
use parquet::arrow::ArrowWriter;

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn stream_of(fields: Vec<Field>) -> Stream {
    Stream {
        id: StreamId(1),
        name: StreamName::new("flights").unwrap(),
        schema: Arc::new(Schema::new(fields)),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
    }
}

/// A column of every kind.
fn flights() -> Stream {
    stream_of(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("origin", DataType::Utf8, true),
        Field::new("delay", DataType::Int16, true),
        Field::new("price", DataType::Decimal128(7, 2), true),
        Field::new("speed", DataType::Float64, true),
        Field::new("late", DataType::Boolean, true),
        Field::new("day", DataType::Date32, true),
        Field::new("at", utc(), true),
        Field::new(
            "local",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            true,
        ),
        Field::new("code", DataType::Binary, true),
    ])
}

/// The good records as a table and the bad ones as lines; then, if strictness says otherwise, the error.
fn shown(stream: &Stream, format: Format, body: impl Into<Bytes>) -> String {
    let body = body.into();
    let mut out = String::new();
    match decode(stream, format, body.clone(), OnError::Skip) {
        Ok(decoded) => {
            if decoded.records() > 0 {
                for batch in &decoded.batches {
                    assert_eq!(batch.schema(), stream.schema);
                }
                out += &pretty_format_batches(&decoded.batches).unwrap().to_string();
                out += "\n";
            }
            for bad in &decoded.bad {
                out += &format!("{bad}\n    {}\n", bad.raw);
            }
            // Refusing says the first of what skipping says.
            match decode(stream, format, body, OnError::Refuse) {
                Ok(strict) => {
                    assert!(decoded.bad.is_empty());
                    assert_eq!(strict.batches, decoded.batches);
                }
                Err(error) => assert_eq!(error.to_string(), decoded.bad[0].to_string()),
            }
        }
        Err(error) => {
            let refused = decode(stream, format, body, OnError::Refuse).unwrap_err();
            assert!(!refused.to_string().is_empty());
            out += &format!("refused: {error}\n");
        }
    }
    out
}

fn check(format: Format, body: impl Into<Bytes>, expected: Expect) {
    expected.assert_eq(&shown(&flights(), format, body));
}

#[test]
fn ndjson_that_fits() {
    check(
        Format::Ndjson,
        r#"{"id":1,"origin":"ABQ","delay":-5,"price":12.5,"speed":1e3,"late":true,"day":"2001-01-31","at":"2001-01-31T08:30:00Z","local":"2001-01-31 08:30:00.25","code":"\\x00ff"}

 { "delay" : null , "id" : 9223372036854775807 , "origin" : "Gr\u00f6\u00dfe \ud83d\ude00 \"q\"" , "price" : "-99999.99", "speed": "NaN", "at":"2001-01-31T08:30:00+02:00" }
{"id":-0,"at":"2001-01-31"}"#,
        expect![[r#"
            +---------------------+--------------+-------+-----------+--------+------+------------+----------------------+-------------------------+------+
            | id                  | origin       | delay | price     | speed  | late | day        | at                   | local                   | code |
            +---------------------+--------------+-------+-----------+--------+------+------------+----------------------+-------------------------+------+
            | 1                   | ABQ          | -5    | 12.50     | 1000.0 | true | 2001-01-31 | 2001-01-31T08:30:00Z | 2001-01-31T08:30:00.250 | 00ff |
            | 9223372036854775807 | Größe 😀 "q" |       | -99999.99 | NaN    |      |            | 2001-01-31T06:30:00Z |                         |      |
            | 0                   |              |       |           |        |      |            | 2001-01-31T00:00:00Z |                         |      |
            +---------------------+--------------+-------+-----------+--------+------+------------+----------------------+-------------------------+------+
        "#]],
    );
    check(Format::Ndjson, "", expect![[""]]);
    check(
        Format::Ndjson,
        "\u{feff}{\"id\":1}\r\n",
        expect![[r#"
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
        | id | origin | delay | price | speed | late | day | at | local | code |
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
        | 1  |        |       |       |       |      |     |    |       |      |
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
    "#]],
    );
}

#[test]
fn ndjson_values_that_do_not_fit() {
    check(
        Format::Ndjson,
        r#"{"id":1}
{"origin":"ABQ"}
{"id":null}
{"id":2,"orign":"ABQ"}
{"id":2,"ORIGIN":"ABQ"}
{"id":2,"nonsense_entirely":"ABQ"}
{"id":"2"}
{"id":2.5}
{"id":2.0}
{"id":9223372036854775808}
{"id":2,"delay":40000}
{"id":2,"origin":5}
{"id":2,"origin":["ABQ"]}
{"id":2,"origin":{"a":{"b":[1,2,{}]}}}
{"id":2,"price":1.005}
{"id":2,"price":100000}
{"id":2,"speed":"fast"}
{"id":2,"speed":1e999}
{"id":2,"late":1}
{"id":2,"late":"true"}
{"id":2,"day":"2001-02-30"}
{"id":2,"day":20010131}
{"id":2,"at":980929800}
{"id":2,"at":"yesterday"}
{"id":2,"at":"2001-01-31T08:30:00.1234567Z"}
{"id":2,"local":"31.01.2001"}
{"id":2,"code":"00ff"}
{"id":2,"id":3}
{"id":3}"#,
        expect![[r#"
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | id | origin | delay | price | speed | late | day | at | local | code |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | 1  |        |       |       |       |      |     |    |       |      |
            | 3  |        |       |       |       |      |     |    |       |      |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            line 2, column `id`: expected a value (the column is NOT NULL), found nothing
                {"origin":"ABQ"}
            line 3, column `id`: expected a value (the column is NOT NULL), found null
                {"id":null}
            line 4, column `orign`: expected a column of the stream, found `orign`; did you mean `origin`?
                {"id":2,"orign":"ABQ"}
            line 5, column `ORIGIN`: expected a column of the stream, found `ORIGIN`; did you mean `origin`?
                {"id":2,"ORIGIN":"ABQ"}
            line 6, column `nonsense_entirely`: expected a column of the stream, found `nonsense_entirely`; its columns are id, origin, delay, price, speed, late, day, at, local, code
                {"id":2,"nonsense_entirely":"ABQ"}
            line 7, column `id`: expected an integer from -9223372036854775808 to 9223372036854775807, found the string "2"
                {"id":"2"}
            line 8, column `id`: expected an integer from -9223372036854775808 to 9223372036854775807, found the number 2.5
                {"id":2.5}
            line 9, column `id`: expected an integer from -9223372036854775808 to 9223372036854775807, found the number 2.0
                {"id":2.0}
            line 10, column `id`: expected an integer from -9223372036854775808 to 9223372036854775807, found the number 9223372036854775808
                {"id":9223372036854775808}
            line 11, column `delay`: expected an integer from -32768 to 32767, found the number 40000
                {"id":2,"delay":40000}
            line 12, column `origin`: expected a string, found the number 5
                {"id":2,"origin":5}
            line 13, column `origin`: expected a string, found an array
                {"id":2,"origin":["ABQ"]}
            line 14, column `origin`: expected a string, found an object
                {"id":2,"origin":{"a":{"b":[1,2,{}]}}}
            line 15, column `price`: expected a number with at most 5 digits before and 2 after the point, found the number 1.005
                {"id":2,"price":1.005}
            line 16, column `price`: expected a number with at most 5 digits before and 2 after the point, found the number 100000
                {"id":2,"price":100000}
            line 17, column `speed`: expected a number that an 8-byte float can hold, found the string "fast"
                {"id":2,"speed":"fast"}
            line 18, column `speed`: expected a number that an 8-byte float can hold, found the number 1e999
                {"id":2,"speed":1e999}
            line 19, column `late`: expected true or false, found the number 1
                {"id":2,"late":1}
            line 20, column `late`: expected true or false, found the string "true"
                {"id":2,"late":"true"}
            line 21, column `day`: expected a date such as "2026-01-31", found the string "2001-02-30"
                {"id":2,"day":"2001-02-30"}
            line 22, column `day`: expected a date such as "2026-01-31", found the number 20010131; a number does not say its unit; send text, or convert with to_timestamp_micros() in an INSERT
                {"id":2,"day":20010131}
            line 23, column `at`: expected a time such as "2026-01-31T08:30:00Z", found the number 980929800; a number does not say its unit; send text, or convert with to_timestamp_micros() in an INSERT
                {"id":2,"at":980929800}
            line 24, column `at`: expected a time such as "2026-01-31T08:30:00Z", found the string "yesterday"
                {"id":2,"at":"yesterday"}
            line 25, column `at`: expected a time such as "2026-01-31T08:30:00Z", found the string "2001-01-31T08:30:00.1234567Z"; times are kept to the microsecond; cut the digits behind it
                {"id":2,"at":"2001-01-31T08:30:00.1234567Z"}
            line 26, column `local`: expected a time such as "2026-01-31 08:30:00", found the string "31.01.2001"
                {"id":2,"local":"31.01.2001"}
            line 27, column `code`: expected bytes in hex such as "\x00ff", found the string "00ff"
                {"id":2,"code":"00ff"}
            line 28, column `id`: expected each column once, found it twice
                {"id":2,"id":3}
        "#]],
    );
}

#[test]
fn ndjson_that_is_not_json() {
    check(
        Format::Ndjson,
        Bytes::from_static(
            b"{\"id\":1
{\"id\":1,}
{\"id\":01}
{\"id\" 1}
{id:1}
{'id':1}
{\"id\":1}{\"id\":2}
{\"id\":1} x
[1]
7
nonsense
{\"id\":1,\"origin\":\"a\tb\"}
{\"id\":1,\"origin\":\"\\ud800\"}
{\"id\":1,\"origin\":\"\\x\"}
{\"id\":1,\"origin\":\"open}
{\"id\":1,\"origin\":tru}
{\"id\":1,\"origin\":\"\xff\"}
{\"id\":NaN}
{\"id\":4}",
        ),
        expect![[r#"
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | id | origin | delay | price | speed | late | day | at | local | code |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | 4  |        |       |       |       |      |     |    |       |      |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            line 1: expected valid JSON: `,` or `}` after a value, found the end
                {"id":1
            line 2: expected valid JSON: a column's name in double quotes, found "}"
                {"id":1,}
            line 3: expected valid JSON: no leading 0 in a number, found "1}"
                {"id":01}
            line 4: expected valid JSON: `:` after a column's name, found "1}"
                {"id" 1}
            line 5: expected valid JSON: a column's name in double quotes, found "id:1}"
                {id:1}
            line 6: expected valid JSON: a column's name in double quotes, found "'id':1}"
                {'id':1}
            line 7: expected valid JSON: the end of the line, found "{\"id\":2}"
                {"id":1}{"id":2}
            line 8: expected valid JSON: the end of the line, found "x"
                {"id":1} x
            line 9: expected an object, found an array
                [1]
            line 10: expected an object, found "7"
                7
            line 11: expected valid JSON: an object, found "nonsense"
                nonsense
            line 12: expected valid JSON: control characters escaped in a string, found "\tb\"}"
                {"id":1,"origin":"a	b"}
            line 13: expected valid JSON: the second half of a surrogate pair, found "\"}"
                {"id":1,"origin":"\ud800"}
            line 14: expected valid JSON: an escape such as `\n` or `\u00e9`, found "x\"}"
                {"id":1,"origin":"\x"}
            line 15: expected valid JSON: the closing `"` of a string, found the end
                {"id":1,"origin":"open}
            line 16: expected valid JSON: a value, found "tru}"
                {"id":1,"origin":tru}
            line 17: expected UTF-8 text, found bytes that are not UTF-8
                {"id":1,"origin":"�"}
            line 18: expected valid JSON: a value, found "NaN}"
                {"id":NaN}
        "#]],
    );
}

#[test]
fn json_arrays() {
    check(
        Format::Json,
        "[\n{\"id\":1,\n\"origin\":\"ABQ\"},\n\n{\"id\":2}]",
        expect![[r#"
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | id | origin | delay | price | speed | late | day | at | local | code |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | 1  | ABQ    |       |       |       |      |     |    |       |      |
            | 2  |        |       |       |       |      |     |    |       |      |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
        "#]],
    );
    check(
        Format::Json,
        "{\"id\":1}",
        expect![[r#"
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
        | id | origin | delay | price | speed | late | day | at | local | code |
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
        | 1  |        |       |       |       |      |     |    |       |      |
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
    "#]],
    );
    check(Format::Json, " [ ] ", expect![[""]]);
    check(
        Format::Json,
        "[\n{\"id\":1},\n{\"id\":true,\n\"delay\":4},\n5,\n{\"id\":3}]",
        expect![[r#"
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | id | origin | delay | price | speed | late | day | at | local | code |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | 1  |        |       |       |       |      |     |    |       |      |
            | 3  |        |       |       |       |      |     |    |       |      |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            line 3, column `id`: expected an integer from -9223372036854775808 to 9223372036854775807, found true
                {"id":true,
            "delay":4}
            line 5: expected an object, found "5"
                5
        "#]],
    );
    check(
        Format::Json,
        "[\n{\"id\":1},\n{\"id\":]",
        expect![[r#"
        refused: line 3: expected valid JSON: a value, found "]"
    "#]],
    );
    check(
        Format::Json,
        "[{\"id\":1}\n{\"id\":2}]",
        expect![[r#"
        refused: line 2: expected valid JSON: `,` or `]` after a record, found "{\"id\":2}]"
    "#]],
    );
    check(
        Format::Json,
        "[{\"id\":1},]",
        expect![[r#"
        refused: line 1: expected valid JSON: an object, found "]"
    "#]],
    );
    check(
        Format::Json,
        "{\"id\":1}\n{\"id\":2}",
        expect![[r#"
        refused: line 2: expected valid JSON: the end of the input, found "{\"id\":2}"; for one record per line send it as NDJSON
    "#]],
    );
    check(
        Format::Json,
        "",
        expect![[r#"
        refused: line 1: expected valid JSON: an object, found the end
    "#]],
    );
    check(
        Format::Json,
        &b"[{\"id\":1},\n{\"id\":\xff}]"[..],
        expect![[r#"
            refused: line 2: expected UTF-8 text, found bytes that are not UTF-8
        "#]],
    );
}

#[test]
fn csv_that_fits() {
    check(
        Format::Csv,
        "delay,id,origin,price,speed,late,day,at,local,code\r\n-5, 1 ,ABQ,12.5,1e3,t,2001-01-31,2001-01-31T08:30:00Z,2001-01-31 08:30,\\x00ff\r\n,2,,,,,,,,\r\n\r\n,3,\"\",,NaN,FALSE,,,,\n,4,\"a \"\"b\"\",\nc\",,,,,,,",
        expect![[r#"
            +----+--------+-------+-------+--------+-------+------------+----------------------+---------------------+------+
            | id | origin | delay | price | speed  | late  | day        | at                   | local               | code |
            +----+--------+-------+-------+--------+-------+------------+----------------------+---------------------+------+
            | 1  | ABQ    | -5    | 12.50 | 1000.0 | true  | 2001-01-31 | 2001-01-31T08:30:00Z | 2001-01-31T08:30:00 | 00ff |
            | 2  |        |       |       |        |       |            |                      |                     |      |
            | 3  |        |       |       | NaN    | false |            |                      |                     |      |
            | 4  | a "b", |       |       |        |       |            |                      |                     |      |
            |    | c      |       |       |        |       |            |                      |                     |      |
            +----+--------+-------+-------+--------+-------+------------+----------------------+---------------------+------+
        "#]],
    );
    check(
        Format::Csv,
        "\"id\"\n7\n",
        expect![[r#"
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
        | id | origin | delay | price | speed | late | day | at | local | code |
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
        | 7  |        |       |       |       |      |     |    |       |      |
        +----+--------+-------+-------+-------+------+-----+----+-------+------+
    "#]],
    );
    check(Format::Csv, "id\n", expect![[""]]);
}

#[test]
fn csv_that_does_not_fit() {
    check(
        Format::Csv,
        Bytes::from_static(b"id,origin,delay\n1,ABQ\n1,ABQ,2,3\n,ABQ,2\nx,ABQ,2\n1,ABQ,2.5\n1,ABQ,99999\n1,AB\"Q,2\n1,\"ABQ\"x,2\n1,\"AB\nQ\"x,2\n1,\xff,2\n1,,\"\"\n5,ok,5\n1,\"open,2\n6,ok,6\n"),
        expect![[r#"
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | id | origin | delay | price | speed | late | day | at | local | code |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            | 5  | ok     | 5     |       |       |      |     |    |       |      |
            | 6  | ok     | 6     |       |       |      |     |    |       |      |
            +----+--------+-------+-------+-------+------+-----+----+-------+------+
            line 2: expected 3 fields, as in the header, found 2
                1,ABQ
            line 3: expected 3 fields, as in the header, found 4
                1,ABQ,2,3
            line 4, column `id`: expected a value (the column is NOT NULL), found an empty field, which is NULL
                ,ABQ,2
            line 5, column `id`: expected an integer from -9223372036854775808 to 9223372036854775807, found "x"
                x,ABQ,2
            line 6, column `delay`: expected an integer from -32768 to 32767, found "2.5"
                1,ABQ,2.5
            line 7, column `delay`: expected an integer from -32768 to 32767, found "99999"
                1,ABQ,99999
            line 8: expected `"` only around a whole field, found "AB\""; put the field in quotes and write a `"` within it twice
                1,AB"Q,2
            line 9: expected `,` or the end of the line after a closing `"`, found "x,2"; write a `"` within a quoted field twice
                1,"ABQ"x,2
            line 10: expected `,` or the end of the line after a closing `"`, found "x,2"; write a `"` within a quoted field twice
                1,"AB
            line 11: expected `"` only around a whole field, found "Q\""; put the field in quotes and write a `"` within it twice
                Q"x,2
            line 12, column `origin`: expected UTF-8 text, found "�"
                1,�,2
            line 13, column `delay`: expected an integer from -32768 to 32767, found ""
                1,,""
            line 15: expected a closing `"`, found the end of the input within a quoted field
                1,"open,2
        "#]],
    );
    check(
        Format::Csv,
        "",
        expect![[r#"
        refused: line 1: expected a header line that names the columns, found nothing
    "#]],
    );
    check(
        Format::Csv,
        "id,dely\n1,2\n",
        expect![[r#"
        refused: line 1, column `dely`: expected a column of the stream, found `dely`; did you mean `delay`?
    "#]],
    );
    check(
        Format::Csv,
        "1,ABQ,2\n2,ABQ,3\n",
        expect![[r#"
        refused: line 1, column `1`: expected a column of the stream, found `1`; the first line must name the columns; is the header line missing?
    "#]],
    );
    check(
        Format::Csv,
        "idd,origin\n1,ABQ\n",
        expect![[r#"
        refused: line 1, column `idd`: expected a column of the stream, found `idd`; did you mean `id`?
    "#]],
    );
    check(
        Format::Csv,
        "id,delay,id\n1,2,3\n",
        expect![[r#"
        refused: line 1, column `id`: expected each column once, found it twice in the header
    "#]],
    );
    check(
        Format::Csv,
        "origin\nABQ\n",
        expect![[r#"
        refused: line 1, column `id`: expected this column in the header (it is NOT NULL), found a header without it
    "#]],
    );
    check(
        Format::Csv,
        "id;origin\n1;ABQ\n",
        expect![[r#"
        refused: line 1, column `id;origin`: expected a column of the stream, found `id;origin`; fields are separated by commas
    "#]],
    );
    check(
        Format::Csv,
        "id,late,day,at,price,code\n1,maybe,,,,\n1,,2001-13-01,,,\n1,,,1980929800,,\n1,,,,1.001,\n1,,,,,00\n",
        expect![[r#"
            line 2, column `late`: expected true or false, found "maybe"
                1,maybe,,,,
            line 3, column `day`: expected a date such as "2026-01-31", found "2001-13-01"
                1,,2001-13-01,,,
            line 4, column `at`: expected a time such as "2026-01-31T08:30:00Z", found "1980929800"
                1,,,1980929800,,
            line 5, column `price`: expected a number with at most 5 digits before and 2 after the point, found "1.001"
                1,,,,1.001,
            line 6, column `code`: expected bytes in hex such as "\x00ff", found "00"
                1,,,,,00
        "#]],
    );
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn parquet(batch: &RecordBatch) -> Bytes {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap().into()
}

fn ipc_stream(batch: &RecordBatch) -> Bytes {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap().into()
}

fn ipc_file(batch: &RecordBatch) -> Bytes {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap().into()
}

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

#[test]
fn many_records_make_several_batches_in_order() {
    let body: String = (0..150_000)
        .map(|id| format!("{{\"id\":{id}}}\n"))
        .collect();
    let decoded = decode(&flights(), Format::Ndjson, body.into(), OnError::Refuse).unwrap();
    assert!(decoded.batches.len() > 1);
    let ids: Vec<i64> = decoded
        .batches
        .iter()
        .flat_map(|batch| {
            let ids = batch
                .column(0)
                .as_primitive::<arrow::datatypes::Int64Type>();
            ids.values().to_vec()
        })
        .collect();
    assert!(ids.into_iter().eq(0..150_000));
}

#[test]
fn dead_letters_are_rows() {
    let decoded = decode(
        &flights(),
        Format::Ndjson,
        "{\"id\":1,\"delay\":\"x\"}\n{\"id\":2}\n{\n".into(),
        OnError::Skip,
    )
    .unwrap();
    let rows = dead_letters(
        &StreamName::new("flights").unwrap(),
        &decoded.bad,
        1_000_000,
    );
    assert_eq!(rows.schema(), dead_letter_schema());
    expect![[r#"
        +---------+------+-------------+----------------------------------------------------------------------+----------------------+----------------------+
        | stream  | line | column_name | reason                                                               | raw                  | at                   |
        +---------+------+-------------+----------------------------------------------------------------------+----------------------+----------------------+
        | flights | 1    | delay       | expected an integer from -32768 to 32767, found the string "x"       | {"id":1,"delay":"x"} | 1970-01-01T00:00:01Z |
        | flights | 3    |             | expected valid JSON: a column's name in double quotes, found the end | {                    | 1970-01-01T00:00:01Z |
        +---------+------+-------------+----------------------------------------------------------------------+----------------------+----------------------+"#]].assert_eq(&pretty_format_batches(&[rows]).unwrap().to_string());
    let none: &[BadRecord] = &[];
    assert_eq!(
        dead_letters(&StreamName::new("flights").unwrap(), none, 0).num_rows(),
        0
    );
}

/// Decoded within a megabyte: too large, or how many records.
fn within_a_megabyte(stream: &Stream, format: Format, body: Bytes) -> Result<usize, String> {
    assert!(body.len() < 1 << 20, "{} bytes", body.len());
    for on_error in [OnError::Refuse, OnError::Skip] {
        match decode_within(stream, format, body.clone(), on_error, 1 << 20) {
            Err(Error::TooLarge { bytes_max, .. }) => assert_eq!(bytes_max, 1 << 20),
            Err(other) => panic!("{other}"),
            Ok(decoded) => return Ok(decoded.records()),
        }
    }
    Err("too large".to_owned())
}

#[test]
fn a_short_input_that_is_long_once_decoded_is_refused() {
    let stream = stream_of(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("origin", DataType::Utf8, true),
        Field::new("code", DataType::Binary, true),
    ]);
    let too_large = Err("too large".to_owned());
    let check = |format, body: Bytes, expected: &Result<usize, String>| {
        assert_eq!(
            &within_a_megabyte(&stream, format, body),
            expected,
            "{format:?}"
        );
    };
    let long = "x".repeat(10_000);
    let texts = |rows: usize| Arc::new(StringArray::from(vec![long.as_str(); rows])) as ArrayRef;
    let dictionary = |rows: usize| {
        let keys = arrow::array::Int32Array::from(vec![0; rows]);
        let values = Arc::new(StringArray::from(vec![long.as_str()]));
        Arc::new(DictionaryArray::<Int32Type>::new(keys, values)) as ArrayRef
    };
    let views = |rows: usize| {
        let mut builder = arrow::array::StringViewBuilder::new().with_deduplicate_strings();
        for _ in 0..rows {
            builder.append_value(&long);
        }
        Arc::new(builder.finish()) as ArrayRef
    };
    let runs = |rows: i64| {
        let ends = Int64Array::from(vec![rows]);
        let values = StringArray::from(vec![long.as_str()]);
        let runs = arrow::array::RunArray::<arrow::datatypes::Int64Type>::try_new(&ends, &values);
        Arc::new(runs.unwrap()) as ArrayRef
    };
    let nulls = |rows| Arc::new(arrow::array::NullArray::new(rows)) as ArrayRef;
    let of = |column: ArrayRef| batch(vec![("origin", column)]);
    for (column, expected) in [
        (texts(50), &Ok(50)),
        (dictionary(50), &Ok(50)),
        (dictionary(1_000), &too_large),
    ] {
        check(Format::Parquet, parquet(&of(column)), expected);
    }
    for (column, expected) in [
        (dictionary(50), &Ok(50)),
        (dictionary(1_000), &too_large),
        (views(50), &Ok(50)),
        (views(1_000), &too_large),
        (runs(50), &Ok(50)),
        (runs(1_000), &too_large),
        (runs(1 << 40), &too_large),
        (nulls(50), &Ok(50)),
        (nulls(1 << 40), &too_large),
    ] {
        check(
            Format::Arrow,
            ipc_stream(&of(Arc::clone(&column))),
            expected,
        );
        check(Format::Arrow, ipc_file(&of(column)), expected);
    }
    for (rows, expected) in [(1_000, &Ok(1_000)), (100_000, &too_large)] {
        check(Format::Ndjson, "{}\n".repeat(rows).into(), expected);
        check(
            Format::Json,
            format!("[{{}}{}]", ",{}".repeat(rows - 1)).into(),
            expected,
        );
        check(
            Format::Csv,
            format!("id,code\n{}", ",\n".repeat(rows)).into(),
            expected,
        );
    }
    let bad = "x\n".repeat(100_000);
    let refused = decode_within(&stream, Format::Ndjson, bad.into(), OnError::Skip, 1 << 20);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
}

#[test]
fn values_that_repeat_the_one_before_are_read_a_few_at_a_time() {
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_encoding(parquet::basic::Encoding::DELTA_BYTE_ARRAY)
        .build();
    let stream = stream_of(vec![Field::new("origin", DataType::Utf8, true)]);
    let long = "x".repeat(100_000);
    for (rows, expected) in [(5, Ok(5)), (1_000, Err("too large".to_owned()))] {
        let column: ArrayRef = Arc::new(StringArray::from(vec![long.as_str(); rows.min(10)]));
        let batch = batch(vec![("origin", column)]);
        let mut body = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut body, batch.schema(), Some(properties.clone())).unwrap();
        for _ in 0..rows.div_ceil(10) {
            writer.write(&batch.slice(0, rows.min(10))).unwrap();
        }
        writer.close().unwrap();
        assert_eq!(
            within_a_megabyte(&stream, Format::Parquet, body.into()),
            expected
        );
    }
}

#[test]
fn what_is_reserved_for_a_body_of_text_is_enough_and_no_more_than_its_shortest_records_need() {
    let optional = stream_of(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("c", DataType::Decimal128(7, 2), true),
    ]);
    for (format, stream, record, separator, around) in [
        (Format::Ndjson, flights(), "{\"id\":1}", "\n", ["", ""]),
        (Format::Ndjson, optional.clone(), "{}", "\n", ["", ""]),
        (Format::Json, flights(), "{\"id\":1}", ",", ["[", "]"]),
        (Format::Json, optional.clone(), "{}", ",", ["[", "]"]),
        (Format::Csv, flights(), "1", "\n", ["id\n", ""]),
    ] {
        for records in [1, 2, 1_000] {
            let list = vec![record; records].join(separator);
            let body = format!("{}{list}{}", around[0], around[1]);
            let bytes_max =
                decoded_bytes_max(&stream, format, body.len(), OnError::Refuse, usize::MAX);
            let decoded = decode_within(
                &stream,
                format,
                Bytes::from(body),
                OnError::Refuse,
                bytes_max,
            );
            assert_eq!(decoded.unwrap().records(), records, "{format:?} {record}");
        }
    }
    let reserved =
        |format, on_error| decoded_bytes_max(&flights(), format, 1 << 10, on_error, 1 << 26);
    assert!(reserved(Format::Ndjson, OnError::Refuse) < 16 << 10);
    // Descriptions of bad records, and what is compressed, have no such bound.
    assert_eq!(reserved(Format::Ndjson, OnError::Skip), 1 << 26);
    assert_eq!(reserved(Format::Parquet, OnError::Refuse), 1 << 26);
}
