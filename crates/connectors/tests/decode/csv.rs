//! CSV.

use super::*;

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
                1,\xff,2
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
