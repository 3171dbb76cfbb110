//! The views of every history: their SQL, and the same computed naively over all records.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Model, Row};

pub struct Shape {
    pub name: &'static str,
    /// The definitions that replace each other.
    pub versions: [Version; 2],
}

pub struct Version {
    pub sql: &'static str,
    pub rows: fn(&Model) -> Vec<Vec<String>>,
}

const PLAIN: usize = 0;
const BY_ID: usize = 1;
const OTHER: usize = 2;

pub static SHAPES: [Shape; 6] = [
    Shape {
        name: "large",
        versions: [
            Version {
                sql: "SELECT id, k, v FROM plain WHERE v > 5",
                rows: |model| large(model, 5),
            },
            Version {
                sql: "SELECT id, k, v FROM plain WHERE v > 2",
                rows: |model| large(model, 2),
            },
        ],
    },
    Shape {
        name: "totals",
        versions: [
            Version {
                sql: "SELECT k, count(*) AS n, count(v) AS some, sum(v) AS total, min(v) AS low, max(v) AS high \
                      FROM plain GROUP BY k",
                rows: |model| totals(model.rows(PLAIN)),
            },
            Version {
                sql: "SELECT k, count(*) AS n, count(v) AS some, sum(v) AS total, min(v) AS low, max(v) AS high \
                      FROM other GROUP BY k",
                rows: |model| totals(model.rows(OTHER)),
            },
        ],
    },
    Shape {
        name: "keys",
        versions: [
            Version {
                sql: "SELECT DISTINCT k FROM other",
                rows: |model| keys(model.rows(OTHER)),
            },
            Version {
                sql: "SELECT DISTINCT k FROM by_id",
                rows: |model| keys(model.rows(BY_ID)),
            },
        ],
    },
    Shape {
        name: "all_of_them",
        versions: [
            Version {
                sql: "SELECT count(*) AS n, count(DISTINCT k) AS d, sum(v) AS total FROM by_id",
                rows: |model| vec![all_of_them(model.rows(BY_ID))],
            },
            Version {
                sql: "SELECT count(*) AS n, count(DISTINCT k) AS d, sum(v) AS total FROM plain",
                rows: |model| vec![all_of_them(model.rows(PLAIN))],
            },
        ],
    },
    Shape {
        name: "met",
        versions: [
            Version {
                sql: "SELECT plain.k AS k, count(*) AS n FROM plain JOIN other ON plain.k = other.k GROUP BY plain.k",
                rows: |model| met(model, PLAIN),
            },
            Version {
                sql: "SELECT by_id.k AS k, count(*) AS n FROM by_id JOIN other ON by_id.k = other.k GROUP BY by_id.k",
                rows: |model| met(model, BY_ID),
            },
        ],
    },
    Shape {
        name: "pairs",
        versions: [
            Version {
                sql: "SELECT a.v AS v, count(*) AS n, min(b.k) AS low FROM plain AS a JOIN plain AS b ON a.v = b.v \
                      WHERE a.k <> 'b' GROUP BY a.v",
                rows: |model| pairs(model, PLAIN, None),
            },
            Version {
                sql: "SELECT a.v AS v, count(*) AS n, min(b.k) AS low FROM plain AS a, other AS b, by_id AS c \
                      WHERE a.v = b.v AND c.k = b.k AND a.k <> 'b' GROUP BY a.v",
                rows: |model| pairs(model, OTHER, Some(BY_ID)),
            },
        ],
    },
];

fn text<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or("NULL".to_owned(), T::to_string)
}

fn large(model: &Model, than: i64) -> Vec<Vec<String>> {
    let rows = model.rows(PLAIN).filter(|row| row.v > Some(than));
    rows.map(|row| vec![row.id.clone(), text(&row.k), text(&row.v)])
        .collect()
}

fn by_key<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeMap<Option<String>, Vec<Option<i64>>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        groups.entry(row.k.clone()).or_default().push(row.v);
    }
    groups
}

/// NULL if there are none.
fn sum(values: &[i64]) -> Option<i64> {
    (!values.is_empty()).then(|| values.iter().sum())
}

fn totals<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<Vec<String>> {
    let groups = by_key(rows).into_iter();
    groups
        .map(|(k, all)| {
            let some: Vec<i64> = all.iter().copied().flatten().collect();
            vec![
                text(&k),
                all.len().to_string(),
                some.len().to_string(),
                text(&sum(&some)),
                text(&some.iter().min()),
                text(&some.iter().max()),
            ]
        })
        .collect()
}

fn keys<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<Vec<String>> {
    let keys: BTreeSet<_> = rows.map(|row| text(&row.k)).collect();
    keys.into_iter().map(|key| vec![key]).collect()
}

fn all_of_them<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<String> {
    let rows: Vec<_> = rows.collect();
    let keys: BTreeSet<_> = rows.iter().filter_map(|row| row.k.as_ref()).collect();
    let some: Vec<i64> = rows.iter().filter_map(|row| row.v).collect();
    vec![
        rows.len().to_string(),
        keys.len().to_string(),
        text(&sum(&some)),
    ]
}

fn met(model: &Model, stream: usize) -> Vec<Vec<String>> {
    let mut pairs: BTreeMap<&String, u64> = BTreeMap::new();
    for one in model.rows(stream) {
        for other in model.rows(OTHER) {
            if let Some(k) = &one.k
                && one.k == other.k
            {
                *pairs.entry(k).or_default() += 1;
            }
        }
    }
    let pairs = pairs.into_iter();
    pairs.map(|(k, n)| vec![k.clone(), n.to_string()]).collect()
}

/// Of `plain` with `second`, and those with `third`.
fn pairs(model: &Model, second: usize, third: Option<usize>) -> Vec<Vec<String>> {
    let mut found: BTreeMap<i64, (u64, Option<String>)> = BTreeMap::new();
    let firsts = model
        .rows(PLAIN)
        .filter(|row| row.k.as_deref().is_some_and(|k| k != "b"));
    for first in firsts {
        for second in model.rows(second).filter(|row| row.v == first.v) {
            let Some(v) = first.v else { continue };
            let times = match third {
                None => 1,
                Some(third) => {
                    let same = |row: &&Row| row.k.is_some() && row.k == second.k;
                    model.rows(third).filter(same).count() as u64
                }
            };
            if times == 0 {
                continue;
            }
            let (count, low) = found.entry(v).or_default();
            *count += times;
            if let Some(k) = &second.k
                && low.as_ref().is_none_or(|low| k < low)
            {
                *low = Some(k.clone());
            }
        }
    }
    let found = found.into_iter();
    found
        .map(|(v, (count, low))| vec![v.to_string(), count.to_string(), text(&low)])
        .collect()
}
