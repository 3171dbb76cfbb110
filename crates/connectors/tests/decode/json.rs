//! NDJSON and JSON.

use super::*;

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
                {"id":1,"origin":"\xff"}
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
            record 2 on line 3, column `id`: expected an integer from -9223372036854775808 to 9223372036854775807, found true
                {"id":true,
            "delay":4}
            record 3 on line 5: expected an object, found "5"
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
