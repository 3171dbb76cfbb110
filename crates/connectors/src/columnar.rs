//! Parquet and Arrow IPC: columns are cast where no value changes, anything else is refused.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray as _, BooleanArray, OffsetSizeTrait, RecordBatch, UInt64Array,
        downcast_run_array, make_comparator, new_null_array,
    },
    buffer::{Buffer, NullBuffer},
    compute::{CastOptions, SortOptions, cast_with_options, filter_record_batch, take},
    datatypes::{DataType, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    error::ArrowError,
    ipc::{
        reader::{FileReader, StreamDecoder, read_footer_length},
        root_as_footer,
    },
    util::display::array_value_to_string,
};
use bytes::Bytes;
use lambic_model::{Named, Stream, SystemColumn, ipc};
use parquet::{
    arrow::arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
    },
    basic::Encoding,
    file::metadata::ParquetMetaData,
};

use crate::{
    Decoded, Error, Format, OnError, calendar,
    column::unknown_column,
    decode::{Budget, record_bytes, reject},
    error::{Mismatch, Place, shown},
};

const BATCH_ROWS: usize = 65_536;

pub(crate) fn decode_parquet(
    stream: &Stream,
    body: Bytes,
    on_error: OnError,
    budget: Budget,
) -> Result<Decoded, Error> {
    guarded(Format::Parquet, || {
        let damaged = |error| unreadable(Format::Parquet, 0, error);
        let metadata =
            ArrowReaderMetadata::load(&body, ArrowReaderOptions::new()).map_err(damaged)?;
        let schema = metadata.schema().clone();
        let sources = sources(stream, &schema)?;
        let batch_rows = batch_rows(metadata.metadata(), &schema, &budget)?;
        let options = ArrowReaderOptions::new().with_schema(with_views(&schema));
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)
            .map_err(damaged)?;
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(body, metadata)
            .with_batch_size(batch_rows)
            .build()
            .map_err(damaged)?;
        decode_batches(stream, Format::Parquet, &sources, batches, on_error, budget)
    })
}

/// Texts as views: however often a value is repeated in a file, it is in memory once.
fn with_views(schema: &Schema) -> SchemaRef {
    let view = |data_type: &DataType| match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => Some(DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary => Some(DataType::BinaryView),
        _ => None,
    };
    let fields = schema.fields().iter().map(|field| {
        let view = match field.data_type() {
            DataType::Dictionary(_, values) => view(values),
            plain => view(plain),
        };
        match view {
            Some(view) => Arc::new(field.as_ref().clone().with_data_type(view)),
            None => Arc::clone(field),
        }
    });
    Arc::new(Schema::new_with_metadata(
        fields.collect::<Vec<_>>(),
        schema.metadata().clone(),
    ))
}

/// How much longer than its records an honest file can be without compression: small integers take four bytes.
const ENCODED_TIMES_MAX: usize = 4;

/// Rows that are read at a time, so few that they cannot exceed the limit by much.
fn batch_rows(
    metadata: &ParquetMetaData,
    schema: &Schema,
    budget: &Budget,
) -> Result<usize, Error> {
    let encoded_max = budget.bytes_max.saturating_mul(ENCODED_TIMES_MAX);
    let mut encoded = 0usize;
    let mut rows = BATCH_ROWS;
    for column in metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns())
    {
        let bytes = usize::try_from(column.uncompressed_size()).unwrap_or(usize::MAX);
        encoded = encoded.saturating_add(bytes);
        // Every value can be about as long as all together: it can say "as the one before".
        if column
            .encodings()
            .any(|encoding| encoding == Encoding::DELTA_BYTE_ARRAY)
        {
            rows = rows.min(encoded_max / bytes.max(1));
        }
    }
    if encoded > encoded_max {
        return Err(budget.exceeded());
    }
    let widths = schema.fields().iter().map(|field| match field.data_type() {
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).unwrap_or_default(),
        other => other.primitive_width().unwrap_or(size_of::<u128>()),
    });
    let width = widths.fold(1, usize::saturating_add);
    Ok(rows.min(budget.bytes_max / width).max(1))
}

/// The end-of-stream marker of the IPC stream format; without it a cut body could pass for a whole one.
pub(crate) const STREAM_END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

pub(crate) fn no_stream_end() -> Error {
    Error::Input {
        format: Format::Arrow.name(),
        reason: "it is neither an IPC file nor an IPC stream with its end-of-stream marker: it was cut, its writer was \
                 not closed, or it is of another format"
            .to_owned(),
    }
}

pub(crate) fn decode_arrow(
    stream: &Stream,
    body: Bytes,
    on_error: OnError,
    budget: Budget,
) -> Result<Decoded, Error> {
    let format = Format::Arrow;
    guarded(format, || {
        if body.starts_with(b"ARROW1") {
            check_blocks(&body).map_err(|error| unreadable(format, 0, error))?;
            let reader = FileReader::try_new(std::io::Cursor::new(&body), None)
                .map_err(|error| unreadable(format, 0, error))?;
            let sources = sources(stream, &reader.schema())?;
            return decode_batches(stream, format, &sources, reader, on_error, budget);
        }
        decode_streamed(stream, body, on_error, budget, |_| false)
    })
}

/// An Arrow IPC stream of a function, which may have the system's columns as it was given them: they are left out.
pub(crate) fn decode_answer(
    stream: &Stream,
    body: Bytes,
    budget: Budget,
) -> Result<Decoded, Error> {
    guarded(Format::Arrow, || {
        let is_left_out = SystemColumn::is_reserved;
        decode_streamed(stream, body, OnError::Refuse, budget, is_left_out)
    })
}

fn decode_streamed(
    stream: &Stream,
    body: Bytes,
    on_error: OnError,
    budget: Budget,
    is_left_out: fn(&str) -> bool,
) -> Result<Decoded, Error> {
    let format = Format::Arrow;
    if !body.ends_with(&STREAM_END) {
        return Err(no_stream_end());
    }
    ipc::check_stream(&body).map_err(|error| unreadable(format, 0, error))?;
    let mut batches = Streamed::new(body);
    // Before it, or the end, there is no schema.
    let first = batches.next();
    let Some(schema) = batches.decoder.schema() else {
        let reason = match first {
            Some(Err(error)) => error.to_string(),
            _ => "it has no schema".to_owned(),
        };
        return Err(unreadable(format, 0, reason));
    };
    let is_kept = |index: &usize| !is_left_out(schema.field(*index).name());
    let kept: Vec<usize> = (0..schema.fields().len()).filter(is_kept).collect();
    let shown = schema.project(&kept);
    let shown = shown.map_err(|error| unreadable(format, 0, error))?;
    let mut sources = sources(stream, &shown)?;
    for source in sources.iter_mut().flatten() {
        *source = kept[*source];
    }
    let batches = first.into_iter().chain(batches);
    decode_batches(stream, format, &sources, batches, on_error, budget)
}

/// The batches of an IPC stream, which takes no memory for what a message says that it has and does not.
struct Streamed {
    decoder: StreamDecoder,
    left: Buffer,
    is_done: bool,
}

impl Streamed {
    fn new(body: Bytes) -> Streamed {
        Streamed {
            decoder: StreamDecoder::new(),
            left: Buffer::from(body),
            is_done: false,
        }
    }
}

impl Iterator for Streamed {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_done {
            match self.decoder.decode(&mut self.left) {
                Ok(Some(batch)) => return Some(Ok(batch)),
                Ok(None) if !self.left.is_empty() => {}
                Ok(None) => {
                    self.is_done = true;
                    return self.decoder.finish().err().map(Err);
                }
                Err(error) => {
                    self.is_done = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// The reader of IPC files takes as much memory as the footer says that a block has.
fn check_blocks(file: &[u8]) -> Result<(), ArrowError> {
    let damaged = |what: &str| ArrowError::ParseError(what.to_owned());
    let Some((before, trailer)) = file.split_last_chunk::<10>() else {
        return Err(damaged("it is too short"));
    };
    let length = read_footer_length(*trailer)?;
    let start = before.len().checked_sub(length);
    let start = start.ok_or_else(|| damaged("its footer is longer than the file"))?;
    let footer = root_as_footer(&before[start..]).map_err(|error| damaged(&error.to_string()))?;
    let blocks = [footer.dictionaries(), footer.recordBatches()];
    for block in blocks.into_iter().flatten().flatten() {
        let parts = [
            block.offset(),
            block.metaDataLength().into(),
            block.bodyLength(),
        ];
        let end = parts.iter().try_fold(0_usize, |end, part| {
            end.checked_add(usize::try_from(*part).ok()?)
        });
        let start = usize::try_from(block.offset()).ok();
        let block = start
            .zip(end)
            .and_then(|(start, end)| file.get(start..end))
            .ok_or_else(|| damaged("a block lies past its end"))?;
        ipc::check_block(block)?;
    }
    Ok(())
}

/// The readers of these formats are not proof against every damaged file; a panic of theirs is such a file's error.
fn guarded(
    format: Format,
    read: impl FnOnce() -> Result<Decoded, Error>,
) -> Result<Decoded, Error> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(Error::Input {
            format: format.name(),
            reason: "it is damaged".to_owned(),
        })
    })
}

fn unreadable(format: Format, rows_read: usize, error: impl std::fmt::Display) -> Error {
    let place = match rows_read {
        0 => String::new(),
        rows => format!(" after row {rows}"),
    };
    Error::Input {
        format: format.name(),
        reason: format!("it is damaged, cut or of another format{place}: {error}"),
    }
}

fn decode_batches(
    stream: &Stream,
    format: Format,
    sources: &[Option<usize>],
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    on_error: OnError,
    mut budget: Budget,
) -> Result<Decoded, Error> {
    let record_bytes = record_bytes(stream);
    let mut decoded = Decoded::default();
    let mut rows_read = 0;
    for batch in batches {
        let batch = batch.map_err(|error| unreadable(format, rows_read, error))?;
        let batch_rows = batch.num_rows();
        // The rows first: counting texts takes time for each of them, and a batch may claim any number.
        budget.take(batch_rows.saturating_mul(record_bytes))?;
        for column in sources.iter().flatten() {
            budget.take(text_bytes(batch.column(*column)))?;
        }
        let (columns, wrong) = convert(stream, &batch, sources)?;
        let keep = refuse_rows(
            &batch,
            rows_read,
            &wrong,
            on_error,
            &mut decoded,
            &mut budget,
        )?;
        let batch = fit(stream, columns, keep, batch_rows)?;
        decoded
            .batches
            .extend((batch.num_rows() > 0).then_some(batch));
        rows_read += batch_rows;
    }
    Ok(decoded)
}

/// Bytes of an array's texts when each value stands for itself, however it was shared.
fn text_bytes(array: &dyn Array) -> usize {
    fn span<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
        match offsets {
            [first, .., last] => last.as_usize() - first.as_usize(),
            _ => 0,
        }
    }
    match array.data_type() {
        DataType::Utf8 => span(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => span(array.as_string::<i64>().value_offsets()),
        DataType::Binary => span(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => span(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => views_bytes(array.as_string_view().views()),
        DataType::BinaryView => views_bytes(array.as_binary_view().views()),
        DataType::FixedSizeBinary(bytes) => {
            usize::try_from(*bytes).unwrap_or_default() * array.len()
        }
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let lengths = each_text_bytes(dictionary.values());
            if lengths.is_empty() {
                return 0;
            }
            let keys = dictionary.normalized_keys();
            let valid = keys
                .iter()
                .enumerate()
                .filter(|(row, _)| array.is_valid(*row));
            valid
                .map(|(_, key)| lengths[*key])
                .fold(0, usize::saturating_add)
        }
        DataType::RunEndEncoded(_, _) => downcast_run_array!(
            array => {
                let lengths = each_text_bytes(array.values());
                let rows = (0..array.len()).map(|row| lengths[array.get_physical_index(row)]);
                rows.fold(0, usize::saturating_add)
            },
            _ => 0
        ),
        _ => 0,
    }
}

/// A view begins with the length, in 32 bits.
fn view_bytes(view: &u128) -> usize {
    *view as u32 as usize
}

fn views_bytes(views: &[u128]) -> usize {
    views.iter().map(view_bytes).fold(0, usize::saturating_add)
}

/// The same for each value.
fn each_text_bytes(values: &ArrayRef) -> Vec<usize> {
    fn spans<O: OffsetSizeTrait>(offsets: &[O]) -> Vec<usize> {
        let pairs = offsets.windows(2);
        pairs
            .map(|pair| pair[1].as_usize() - pair[0].as_usize())
            .collect()
    }
    match values.data_type() {
        DataType::Utf8 => spans(values.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => spans(values.as_string::<i64>().value_offsets()),
        DataType::Binary => spans(values.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => spans(values.as_binary::<i64>().value_offsets()),
        _ => (0..values.len())
            .map(|at| text_bytes(&values.slice(at, 1)))
            .collect(),
    }
}

/// For every column of the stream, the input's column, whose type can be converted.
fn sources(stream: &Stream, schema: &Schema) -> Result<Vec<Option<usize>>, Error> {
    let mut sources = vec![None; stream.schema.fields().len()];
    for (index, field) in schema.fields().iter().enumerate() {
        let column = match stream.named(field.name()) {
            Named::Column(column) => column,
            Named::Dropped => continue,
            Named::Unknown => {
                let unknown = unknown_column(&stream.schema, field.name());
                return Err(Error::record(unknown.at(Place::Row, 1, "")));
            }
        };
        if sources[column].replace(index).is_some() {
            let mismatch = Mismatch::new("each column once", "it twice").column(field.name());
            return Err(Error::record(mismatch.at(Place::Row, 1, "")));
        }
    }
    let defaults = stream.defaults();
    for ((source, field), default) in sources.iter().zip(stream.schema.fields()).zip(&defaults) {
        if source.is_none() && !field.is_nullable() && default.is_none() {
            let mismatch = Mismatch::new("this column (it is NOT NULL)", "an input without it");
            return Err(Error::record(mismatch.column(field.name()).at(
                Place::Row,
                1,
                "",
            )));
        }
    }
    for (source, field) in sources.iter().zip(stream.schema.fields()) {
        if let Some(source) = source {
            check_type(
                field.name(),
                schema.field(*source).data_type(),
                field.data_type(),
            )?;
        }
    }
    Ok(sources)
}

/// Whether there is a way from one type to the other; asked before anything is decoded.
fn check_type(column: &str, from: &DataType, to: &DataType) -> Result<(), Error> {
    if from == to {
        return Ok(());
    }
    match from {
        DataType::Dictionary(_, values) => return check_type(column, values, to),
        DataType::RunEndEncoded(_, values) => return check_type(column, values.data_type(), to),
        _ => {}
    }
    match kinship(from, to) {
        Kinship::None(hint) => Err(Error::ColumnType {
            column: column.to_owned(),
            expected: to.clone(),
            found: from.clone(),
            hint,
        }),
        _ => Ok(()),
    }
}

/// A row (within its batch) that does not fit, and why.
type Wrong = Vec<(usize, Mismatch)>;

fn convert(
    stream: &Stream,
    batch: &RecordBatch,
    sources: &[Option<usize>],
) -> Result<(Vec<ArrayRef>, Wrong), Error> {
    let mut wrong = Wrong::new();
    let mut columns = Vec::new();
    let defaults = stream.defaults();
    for ((field, source), default) in stream.schema.fields().iter().zip(sources).zip(&defaults) {
        let Some(source) = source else {
            columns.push(match default {
                Some(default) => {
                    let first = UInt64Array::from(vec![0; batch.num_rows()]);
                    take(default.value(), &first, None).map_err(|error| Error::Input {
                        format: "columnar",
                        reason: error.to_string(),
                    })?
                }
                None => new_null_array(field.data_type(), batch.num_rows()),
            });
            continue;
        };
        let array = batch.column(*source);
        let (cast, changed) = cast_exactly(field.name(), array, field.data_type())?;
        for row in changed {
            let found = array_value_to_string(array, row).unwrap_or_default();
            wrong.push((
                row,
                Mismatch::new(
                    format!("a value that {} holds exactly", field.data_type()),
                    format!("{} ({})", shown(&found), array.data_type()),
                )
                .column(field.name()),
            ));
        }
        wrong.extend(calendar::outside(&cast).into_iter().map(|(row, found)| {
            let mismatch = Mismatch::new(calendar::EXPECTED, found);
            (row, mismatch.column(field.name()))
        }));
        if !field.is_nullable()
            && let Some(nulls) = array.logical_nulls()
        {
            let rows = (0..batch.num_rows()).filter(|&row| nulls.is_null(row));
            wrong.extend(rows.map(|row| {
                let mismatch = Mismatch::new("a value (the column is NOT NULL)", "null");
                (row, mismatch.column(field.name()))
            }));
        }
        columns.push(cast);
    }
    wrong.sort_by_key(|(row, _)| *row);
    wrong.dedup_by_key(|(row, _)| *row);
    Ok((columns, wrong))
}

/// Hands the wrong rows over; says which rows stay, if not all do.
fn refuse_rows(
    batch: &RecordBatch,
    rows_before: usize,
    wrong: &Wrong,
    on_error: OnError,
    decoded: &mut Decoded,
    budget: &mut Budget,
) -> Result<Option<BooleanArray>, Error> {
    if wrong.is_empty() {
        return Ok(None);
    }
    let mut keep = vec![true; batch.num_rows()];
    for (row, mismatch) in wrong {
        keep[*row] = false;
        let line = (rows_before + row + 1) as u64;
        let bad = mismatch.clone().at(Place::Row, line, raw(batch, *row));
        reject(bad, on_error, decoded, budget)?;
    }
    Ok(Some(keep.into()))
}

/// A row as people read it: `{"name": value, …}` with values in their display form.
fn raw(batch: &RecordBatch, row: usize) -> String {
    let values: Vec<String> = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, array)| {
            let value = if array.is_null(row) {
                "null".to_owned()
            } else {
                format!(
                    "{:?}",
                    array_value_to_string(array, row).unwrap_or_default()
                )
            };
            format!("{:?}: {value}", field.name())
        })
        .collect();
    format!("{{{}}}", values.join(", "))
}

fn fit(
    stream: &Stream,
    columns: Vec<ArrayRef>,
    keep: Option<BooleanArray>,
    rows: usize,
) -> Result<RecordBatch, Error> {
    let impossible = |error: ArrowError| Error::Input {
        format: "columnar",
        reason: error.to_string(),
    };
    let Some(keep) = keep else {
        return RecordBatch::try_new(stream.schema.clone(), columns).map_err(impossible);
    };
    // Rows that go may hold NULLs where the stream allows none: check after they went.
    let loose: Vec<_> = stream
        .schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    debug_assert_eq!(keep.len(), rows);
    let batch = RecordBatch::try_new(Schema::new(loose).into(), columns).map_err(impossible)?;
    let batch = filter_record_batch(&batch, &keep).map_err(impossible)?;
    RecordBatch::try_new(stream.schema.clone(), batch.columns().to_vec()).map_err(impossible)
}

/// The array as `target`, and the rows whose value would have changed.
fn cast_exactly(
    column: &str,
    array: &ArrayRef,
    target: &DataType,
) -> Result<(ArrayRef, Vec<usize>), Error> {
    if array.data_type() == target {
        return Ok((array.clone(), Vec::new()));
    }
    let refuse = |hint| Error::ColumnType {
        column: column.to_owned(),
        expected: target.clone(),
        found: array.data_type().clone(),
        hint,
    };
    let cast = |array: &ArrayRef, target: &DataType| {
        let options = CastOptions {
            safe: true,
            ..CastOptions::default()
        };
        cast_with_options(array, target, &options)
            .map_err(|_| refuse("convert it before sending it"))
    };
    match array.data_type() {
        DataType::Dictionary(_, values) => {
            return cast_exactly(column, &cast(array, values)?, target);
        }
        DataType::RunEndEncoded(_, values) => {
            return cast_exactly(column, &cast(array, values.data_type())?, target);
        }
        _ => {}
    }
    match kinship(array.data_type(), target) {
        Kinship::Same => Ok((cast(array, target)?, Vec::new())),
        Kinship::Time => {
            let micros = cast(array, &with_unit(array.data_type()))?;
            let changed = changed_rows(array, &cast(&micros, array.data_type())?);
            let DataType::Timestamp(_, zone) = target else {
                unreachable!("times are cast to timestamps")
            };
            // A time with another zone is the same moment: only the label changes, never the microseconds.
            let relabelled = micros
                .as_primitive::<TimestampMicrosecondType>()
                .clone()
                .with_timezone_opt(zone.clone());
            Ok((Arc::new(relabelled), changed))
        }
        Kinship::Checked => {
            let there = cast(array, target)?;
            let changed = changed_rows(array, &cast(&there, array.data_type())?);
            Ok((there, changed))
        }
        Kinship::None(hint) => Err(refuse(hint)),
    }
}

fn with_unit(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        _ => DataType::Timestamp(TimeUnit::Microsecond, None),
    }
}

/// How values of one type become values of another.
enum Kinship {
    /// Every value stays what it is.
    Same,
    /// Most do: cast there and back, and compare.
    Checked,
    /// Moments: their unit changes, their zone is only a label.
    Time,
    None(&'static str),
}

fn kinship(from: &DataType, to: &DataType) -> Kinship {
    let is_text = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        )
    };
    let is_bytes = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        )
    };
    let is_decimal = |data_type: &DataType| data_type.is_decimal();
    match (from, to) {
        (DataType::Null, _) => Kinship::Same,
        (from, to) if is_text(from) && is_text(to) => Kinship::Same,
        (from, to) if is_bytes(from) && is_bytes(to) => Kinship::Same,
        (from, to) if from.is_integer() && to.is_integer() => Kinship::Checked,
        (from, to) if from.is_integer() && (to.is_floating() || is_decimal(to)) => Kinship::Checked,
        (from, to) if from.is_floating() && to.is_floating() => Kinship::Checked,
        (from, to) if is_decimal(from) && is_decimal(to) => Kinship::Checked,
        (DataType::Timestamp(..), DataType::Timestamp(..)) => Kinship::Time,
        (DataType::Date32 | DataType::Date64, DataType::Timestamp(..)) => Kinship::Time,
        (DataType::Date64, DataType::Date32) => Kinship::Checked,
        (DataType::Timestamp(..), DataType::Date32) => {
            Kinship::None("a time is not a date; cut it before sending it")
        }
        (from, to) if is_text(from) && !is_text(to) => {
            Kinship::None("text is not converted in columnar files; send CSV, or convert it")
        }
        (from, DataType::Timestamp(..)) if from.is_integer() => {
            Kinship::None("a number does not say its unit; write the file with a timestamp column")
        }
        _ => Kinship::None("convert it before sending it"),
    }
}

/// The rows in which two arrays of one type differ; a NULL differs from every value.
fn changed_rows(before: &ArrayRef, after: &ArrayRef) -> Vec<usize> {
    let before_nulls = before.logical_nulls();
    let after_nulls = after.logical_nulls();
    let is_null =
        |nulls: &Option<NullBuffer>, row| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    let Ok(compare) = make_comparator(before, after, SortOptions::default()) else {
        return (0..before.len()).collect();
    };
    (0..before.len())
        .filter(
            |&row| match (is_null(&before_nulls, row), is_null(&after_nulls, row)) {
                (true, _) => false,
                (false, true) => true,
                (false, false) => compare(row, row).is_ne(),
            },
        )
        .collect()
}
