//! How much memory an input may take once it is decoded, and what is reserved for it.

use super::*;

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
