//! In which order the rows of several batches follow one another.

use arrow::row::Rows;
use lambic_base::parallel;

/// A row: the number of its batch, and its number in it.
pub type Place = (usize, usize);

/// A place with the first bytes of its key.
type Keyed = (u128, u32, u32);

/// By the bytes of their keys, sorted on so many threads.
pub fn by_key(keys: &[Rows], threads: usize) -> Vec<Place> {
    // Most keys differ in their first bytes, which are compared as one number without a look at the rows.
    let rows = keys.iter().map(Rows::num_rows).sum();
    let mut places: Vec<Keyed> = Vec::with_capacity(rows);
    for (rows, batch) in keys.iter().zip(0..) {
        let rows = rows.iter().zip(0..);
        places.extend(rows.map(|(row, index)| (first_bytes(row.as_ref()), batch, index)));
    }
    let compare = |a: &Keyed, b: &Keyed| {
        let whole = |place: &Keyed| keys[place.1 as usize].row(place.2 as usize);
        a.0.cmp(&b.0).then_with(|| whole(a).cmp(&whole(b)))
    };
    if places.is_sorted_by(|a, b| compare(a, b).is_le()) {
        return places.into_iter().map(placed).collect();
    }
    let stretch = places.len().div_ceil(threads.max(1)).max(1);
    let stretches = places.chunks_mut(stretch);
    parallel::each(threads, stretches, |places| {
        places.sort_unstable_by(compare)
    });
    if stretch < places.len() {
        // What is sorted already in stretches is only merged.
        places.sort_by(compare);
    }
    places.into_iter().map(placed).collect()
}

fn placed((_, batch, row): Keyed) -> Place {
    (batch as usize, row as usize)
}

/// What is missing counts as zeros: it never says less where the bytes say greater.
fn first_bytes(bytes: &[u8]) -> u128 {
    let mut first = [0; 16];
    let length = bytes.len().min(first.len());
    first[..length].copy_from_slice(&bytes[..length]);
    u128::from_be_bytes(first)
}
