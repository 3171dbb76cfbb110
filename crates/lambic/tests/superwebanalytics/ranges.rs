//! Ranges of hours, answered by the fewest buckets that cover them exactly.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    Site,
    golden::{Fact, KINDS, PageView, number, visitors},
    query,
};

const POST1: &str = "http://foo.com/post1";

/// The cover, walked from its start: always the widest bucket that begins here and ends in time.
fn cover(from: i64, until: i64, sizes: &[i64]) -> Vec<(i64, i64)> {
    let mut cover = Vec::new();
    let mut at = from;
    while at < until {
        let fits = |size: &&i64| at % **size == 0 && at + **size <= until;
        let size = sizes.iter().rev().find(fits).expect("the smallest fits");
        cover.push((at, at + size));
        at += size;
    }
    cover
}

#[test]
fn the_fewest_buckets_answer_any_range() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::start();
    // Some 12 weeks of a few people with several ids.
    let views: Vec<PageView> = (0..600)
        .map(|nonce| PageView {
            person: random.random_range(0..40),
            url: POST1.to_owned(),
            nonce,
            at_s: random.random_range(0..2_000) * 3_600,
        })
        .collect();
    let equivs: Vec<(i64, i64)> = (0..20)
        .map(|_| (random.random_range(0..40), random.random_range(0..40)))
        .collect();
    let facts = views.iter().cloned().map(Fact::View);
    let facts: Vec<Fact> = facts
        .chain(equivs.iter().map(|(a, b)| Fact::Equiv(*a, *b)))
        .collect();
    let (history, new) = facts.split_at(400);
    site.append(history);
    site.server.ok(&["batch", "run"]);
    site.append(new);

    let visitor = visitors(&views.iter().collect(), &equivs);
    let sizes = KINDS.map(|(_, hours)| hours);
    let ranges = (0..30).map(|_| {
        let from = random.random_range(0..2_000);
        (from, random.random_range(from..=2_100))
    });
    let ranges: Vec<(i64, i64)> = ranges.chain([(0, 2_016), (672, 1_344), (5, 5)]).collect();
    for (from, until) in ranges {
        let asked = query(
            "range",
            &[
                ("0 AS from_hour", &format!("{from} AS from_hour")),
                ("30 AS until_hour", &format!("{until} AS until_hour")),
            ],
        );
        let answer = site.run(&asked);
        let hour = |view: &&PageView| view.at_s / 3_600;
        let within: Vec<&PageView> = views
            .iter()
            .filter(|view| (from..until).contains(&hour(view)))
            .collect();
        // A bucket without page views has no row.
        let buckets = cover(from, until, &sizes).into_iter();
        let buckets = buckets.filter(|(a, b)| within.iter().any(|v| (*a..*b).contains(&hour(v))));
        let met: BTreeSet<i64> = within.iter().map(|view| visitor[&view.person]).collect();
        assert_eq!(answer.len(), 1);
        assert_eq!(
            ["buckets", "pageviews", "visitors"].map(|column| number(&answer[0][column])),
            [
                buckets.count() as u64,
                within.len() as u64,
                met.len() as u64
            ],
            "hours [{from}, {until}) with seed {seed}"
        );
    }
}

#[test]
fn the_cover_of_the_book() {
    let site = Site::start();
    let runs = |rows: &[(&str, i64, i64)]| -> Vec<serde_json::Value> {
        let row = |(kind, from, until): &(&str, i64, i64)| json!({"kind": kind, "from_bucket": from, "until_bucket": until});
        rows.iter().map(row).collect()
    };
    let expected = [
        ("minute", 63, 120),
        ("hour", 2, 24),
        ("day", 1, 6),
        ("hour", 144, 167),
        ("minute", 10_020, 10_033),
    ];
    assert_eq!(site.run(&query("cover", &[])), runs(&expected));
    let sizes = [1, 60, 1_440, 10_080, 40_320];
    let count: i64 = expected.iter().map(|(_, from, until)| until - from).sum();
    assert_eq!(cover(63, 10_033, &sizes).len() as i64, count);
    // Two months and a minute.
    let wide = query(
        "cover",
        &[
            ("63, 10032", "40320, 120960"),
            ("63, 10033", "40320, 120961"),
        ],
    );
    assert_eq!(
        site.run(&wide),
        runs(&[("month", 1, 3), ("minute", 120_960, 120_961)])
    );
}
