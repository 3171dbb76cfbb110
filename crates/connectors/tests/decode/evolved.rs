//! Records of producers that know the columns of before: other names, columns that are gone, columns that are new.

use arrow::array::Int32Array;
use lambic_model::{Column, ColumnId, Constant};

use super::*;

/// `ms` is called `took` and is wider, `agent` is gone, and there are `region`, `since` and `code` with defaults.
fn visits() -> Stream {
    let declared = stream_of(vec![
        Field::new("url", DataType::Utf8, false),
        Field::new("ms", DataType::Int32, true),
        Field::new("agent", DataType::Utf8, true),
    ]);
    let mut columns = declared.columns();
    columns.remove(2);
    columns[1].name = "took".to_owned();
    columns[1].data_type = DataType::Int64;
    let mut add = |id, name: &str, data_type: DataType, default: &str| {
        let default = Constant::of_text(&data_type, default);
        assert!(default.is_some());
        columns.push(Column {
            id: ColumnId(id),
            name: name.to_owned(),
            data_type,
            nullable: false,
            missing: default.clone(),
            default,
        });
    };
    add(3, "region", DataType::Utf8, "eu, \"here\"");
    add(4, "since", utc(), "2026-01-02T03:04:05.000006Z");
    add(5, "code", DataType::Binary, "00ff");
    declared.evolved(columns)
}

fn check_visits(format: Format, body: impl Into<Bytes>, expected: Expect) {
    expected.assert_eq(&shown(&visits(), format, body));
}

#[test]
fn former_names_defaults_and_dropped_columns() {
    let expected = expect![[r#"
        +-----+------+------------+-----------------------------+------+
        | url | took | region     | since                       | code |
        +-----+------+------------+-----------------------------+------+
        | /   | 1    | eu, "here" | 2026-01-02T03:04:05.000006Z | 00ff |
        | /a  | 2    | eu, "here" | 2026-01-02T03:04:05.000006Z | 00ff |
        +-----+------+------------+-----------------------------+------+
    "#]];
    let answer = shown(
        &visits(),
        Format::Ndjson,
        "{\"url\": \"/\", \"ms\": 1, \"agent\": \"x\"}\n{\"agent\": {\"deep\": []}, \"url\": \"/a\", \"took\": 2}\n",
    );
    expected.assert_eq(&answer);
    assert_eq!(
        shown(&visits(), Format::Csv, "url,agent,ms\n/,x,1\n/a,,2\n"),
        answer
    );
    let batch = batch(vec![
        ("agent", Arc::new(StringArray::from(vec!["x", "y"]))),
        ("ms", Arc::new(Int32Array::from(vec![1, 2]))),
        ("url", Arc::new(StringArray::from(vec!["/", "/a"]))),
    ]);
    assert_eq!(shown(&visits(), Format::Arrow, ipc_stream(&batch)), answer);
    assert_eq!(shown(&visits(), Format::Parquet, parquet(&batch)), answer);
}

#[test]
fn what_is_wrong_stays_wrong() {
    check_visits(
        Format::Ndjson,
        "{\"url\": \"/\", \"ms\": 1, \"took\": 2}\n{\"url\": \"/\", \"region\": null}\n{\"url\": \"/\", \"agend\": 1}\n{\"ms\": 1}\n",
        expect![[r#"
            line 1, column `took`: expected each column once, found it twice
                {"url": "/", "ms": 1, "took": 2}
            line 2, column `region`: expected a value (the column is NOT NULL), found null
                {"url": "/", "region": null}
            line 3, column `agend`: expected a column of the stream, found `agend`; its columns are url, took, region, since, code
                {"url": "/", "agend": 1}
            line 4, column `url`: expected a value (the column is NOT NULL), found nothing
                {"ms": 1}
        "#]],
    );
    check_visits(
        Format::Csv,
        "url,ms,took\n/,1,2\n",
        expect![[r#"
        refused: line 1, column `took`: expected each column once, found it twice in the header
    "#]],
    );
    check_visits(
        Format::Csv,
        "ms\n1\n",
        expect![[r#"
        refused: line 1, column `url`: expected this column in the header (it is NOT NULL), found a header without it
    "#]],
    );
}
