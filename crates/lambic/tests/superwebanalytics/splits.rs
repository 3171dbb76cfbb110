//! Every split of the ten records between batch and speed, in many orders of arrival.
//!
//! Each case, one order with one split, is a world of its own in the same streams and views. The records of all worlds
//! arrive mixed: first each world's up to its split, then a batch run, then the rest.
//!
//! `LAMBIC_ORDERS=1000` is the long form; `LAMBIC_SEED` repeats a run.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    Site,
    golden::{Answers, Fact, facts},
};

const ORDERS: usize = 10;
const RECORDS: usize = 10;

struct Case {
    world: i64,
    /// In the order of arrival.
    facts: Vec<Fact>,
    /// So many arrive before the batch.
    split: usize,
}

fn cases(orders: usize, random: &mut StdRng) -> Vec<Case> {
    let mut cases = Vec::new();
    for order in 0..orders {
        let mut places: Vec<usize> = (0..RECORDS).collect();
        // The first order is the table's own.
        if order > 0 {
            places.shuffle(random);
        }
        for split in 0..=RECORDS {
            let world = cases.len() as i64;
            let facts = facts(world);
            assert_eq!(facts.len(), RECORDS);
            cases.push(Case {
                world,
                facts: places.iter().map(|place| facts[*place].clone()).collect(),
                split,
            });
        }
    }
    cases
}

/// The records that `part` takes of each case, mixed: each time the next record of a case that has one left. Several
/// appends, so that several real-time runs come of them.
fn arrive<'a>(
    site: &Site,
    cases: &'a [Case],
    random: &mut StdRng,
    part: impl Fn(&'a Case) -> &'a [Fact],
) {
    let mut left: Vec<&[Fact]> = cases.iter().map(part).collect();
    while !left.is_empty() {
        // A case gives none, one or two of its records.
        let mut arriving = Vec::new();
        for facts in &mut left {
            let taken = random.random_range(0..=2).min(facts.len());
            let (now, later) = facts.split_at(taken);
            arriving.extend(now);
            *facts = later;
        }
        left.retain(|facts| !facts.is_empty());
        site.append(arriving);
    }
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let parsed = text.parse().ok();
    Some(parsed.unwrap_or_else(|| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn the_golden_table_at_every_split() {
    let orders = from_environment("LAMBIC_ORDERS").unwrap_or(ORDERS);
    let seed = from_environment("LAMBIC_SEED").unwrap_or_else(|| rand::rng().random());
    println!("LAMBIC_ORDERS={orders} LAMBIC_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cases = cases(orders, &mut random);
    let site = Site::start();

    arrive(&site, &cases, &mut random, |case| &case.facts[..case.split]);
    check(&site, before(&cases));
    site.server.ok(&["batch", "run"]);
    let views: usize = cases
        .iter()
        .map(|case| views(&case.facts[..case.split]))
        .sum();
    let stands = "SELECT batch_frontier, lag_records FROM lambic_views WHERE name = 'page_hours'";
    assert_eq!(
        site.server.rows(stands),
        [serde_json::json!({"batch_frontier": format!("page_view@0:{views}"), "lag_records": 0})],
        "the split is one between batch and speed"
    );
    check(&site, before(&cases));

    arrive(&site, &cases, &mut random, |case| &case.facts[case.split..]);
    check(&site, after(&cases));
    site.audit();

    // What speed had is made again from the log.
    let site = site.restarted();
    check(&site, after(&cases));
    // And a batch of everything gives the same.
    site.server.ok(&["batch", "run"]);
    check(&site, after(&cases));
    site.audit();
}

fn views(facts: &[Fact]) -> usize {
    let views = facts.iter().filter(|fact| matches!(fact, Fact::View(_)));
    views.count()
}

/// What the model says of the records before the splits.
fn before(cases: &[Case]) -> Answers {
    let facts = cases.iter().flat_map(|case| &case.facts[..case.split]);
    Answers::of(facts, 1_800)
}

/// Each case's golden table.
fn after(cases: &[Case]) -> Answers {
    let golden = cases.iter().map(|case| Answers::golden(case.world));
    golden.fold(Answers::default(), Answers::with)
}

#[track_caller]
fn check(site: &Site, expected: Answers) {
    let served = Answers::served(site);
    // Thousands of rows: the first that differs says enough.
    fn first<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
        served: std::collections::BTreeMap<K, V>,
        expected: std::collections::BTreeMap<K, V>,
    ) {
        let keys = served.keys().chain(expected.keys());
        for key in keys {
            assert_eq!(
                served.get(key),
                expected.get(key),
                "served, expected: {key:?}"
            );
        }
    }
    first(served.pageviews, expected.pageviews);
    first(served.visitors, expected.visitors);
    first(served.visits, expected.visits);
}
