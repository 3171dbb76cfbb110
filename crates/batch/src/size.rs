//! How much memory states take, of arrays that are stretches of larger ones.

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::DataType,
    record_batch::RecordBatch,
};

/// In bytes, as if the rows stood alone.
pub fn bytes_of(states: &RecordBatch) -> usize {
    states.columns().iter().map(column).sum()
}

fn column(array: &ArrayRef) -> usize {
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.offsets();
            let (first, end) = (offsets[0] as usize, offsets[list.len()] as usize);
            size_of_val(&offsets[..]) + column(&list.values().slice(first, end - first))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(column).sum(),
        _ => {
            let data = array.to_data();
            data.get_slice_memory_size()
                .unwrap_or_else(|_| array.get_array_memory_size())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int64Array, ListArray, StringArray},
        datatypes::{Int64Type, Schema},
    };

    use super::*;

    #[test]
    fn a_stretch_is_as_large_as_its_rows() {
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(
            (0..1000).map(|n| Some((0..n % 7).map(Some).collect::<Vec<_>>())),
        );
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from_iter_values(0..1000))),
            (
                "s",
                Arc::new(StringArray::from_iter_values(
                    (0..1000).map(|n| n.to_string()),
                )),
            ),
            ("l", Arc::new(lists)),
        ];
        let all = RecordBatch::try_from_iter(columns).unwrap();
        let whole = bytes_of(&all);
        let parts: usize = (0..10)
            .map(|part| bytes_of(&all.slice(part * 100, 100)))
            .sum();
        assert!(parts.abs_diff(whole) < whole / 20, "{parts} of {whole}");
        assert!(
            whole > 1000 * (8 + 2 + 4 + 8 * 2) && whole < 60_000,
            "{whole}"
        );
        assert_eq!(
            bytes_of(&RecordBatch::new_empty(Arc::new(Schema::empty()))),
            0
        );
    }
}
