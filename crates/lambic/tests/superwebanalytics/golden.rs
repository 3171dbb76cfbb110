//! The golden table, and a model of what the views answer: a few loops over plain records.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Site;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageView {
    pub person: i64,
    pub url: String,
    pub nonce: i64,
    pub at_s: i64,
}

#[derive(Debug, Clone)]
pub enum Fact {
    View(PageView),
    Equiv(i64, i64),
}

pub fn view(person: i64, url: &str, at_s: i64) -> Fact {
    let url = url.to_owned();
    Fact::View(PageView {
        person,
        url,
        nonce: 1,
        at_s,
    })
}

/// The ten records of the table, the equivalences last, in a world of their own: `world` moves ids and domain, so that
/// many worlds share streams and views without meeting.
pub fn facts(world: i64) -> Vec<Fact> {
    let id = |person: i64| world * 10 + person;
    let url = |page: &str| format!("http://{}/{page}", domain(world));
    let seen = [
        (1, "post1", 60),
        (3, "post1", 62),
        (1, "post1", 4_000),
        (1, "post2", 4_000),
        (1, "post2", 10_000),
        (5, "post3", 10_600),
        (2, "post1", 60),
        (2, "post3", 62),
    ];
    let views = seen.map(|(person, page, at_s)| view(id(person), &url(page), at_s));
    let equivs = [(1, 3), (3, 5)].map(|(a, b)| Fact::Equiv(id(a), id(b)));
    views.into_iter().chain(equivs).collect()
}

pub fn domain(world: i64) -> String {
    match world {
        0 => "foo.com".to_owned(),
        other => format!("foo{other}.com"),
    }
}

/// What the three questions answer: by page, kind and bucket, and by domain.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Answers {
    pub pageviews: BTreeMap<(String, &'static str, i64), u64>,
    pub visitors: BTreeMap<(String, &'static str, i64), u64>,
    /// Visits and bounces.
    pub visits: BTreeMap<String, (u64, u64)>,
}

pub const KINDS: [(&str, i64); 4] = [("hour", 1), ("day", 24), ("week", 168), ("month", 672)];

impl Answers {
    /// The golden table of the world.
    pub fn golden(world: i64) -> Answers {
        let mut answers = Answers::default();
        // Page views and unique visitors in hours 0, 1 and 2, and in day 0, which week 0 and month 0 equal.
        let table: [(&str, [(u64, u64); 4]); 3] = [
            ("post1", [(3, 2), (1, 1), (0, 0), (4, 2)]),
            ("post2", [(0, 0), (1, 1), (1, 1), (2, 1)]),
            ("post3", [(1, 1), (0, 0), (1, 1), (2, 2)]),
        ];
        for (page, [h0, h1, h2, d0]) in table {
            let buckets = [
                ("hour", 0, h0),
                ("hour", 1, h1),
                ("hour", 2, h2),
                ("day", 0, d0),
                ("week", 0, d0),
                ("month", 0, d0),
            ];
            for (kind, bucket, (views, visitors)) in buckets.into_iter().filter(|b| b.2.0 > 0) {
                let key = (format!("http://{}/{page}", domain(world)), kind, bucket);
                answers.pageviews.insert(key.clone(), views);
                answers.visitors.insert(key, visitors);
            }
        }
        answers.visits.insert(domain(world), (4, 0));
        answers
    }

    /// What the views must answer over `facts` whose URLs are normal.
    pub fn of<'a>(facts: impl IntoIterator<Item = &'a Fact>, silence_s: i64) -> Answers {
        let (mut views, mut equivs) = (BTreeSet::new(), Vec::new());
        for fact in facts {
            match fact {
                Fact::View(view) => drop(views.insert(view)),
                Fact::Equiv(a, b) => equivs.push((*a, *b)),
            }
        }
        let visitor = visitors(&views, &equivs);
        let mut answers = Answers::default();
        let mut met: BTreeMap<_, BTreeSet<i64>> = BTreeMap::new();
        let mut times: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for view in &views {
            for (kind, hours) in KINDS {
                let key = (view.url.clone(), kind, view.at_s / 3_600 / hours);
                *answers.pageviews.entry(key.clone()).or_default() += 1;
                met.entry(key).or_default().insert(visitor[&view.person]);
            }
            let domain = view.url.split('/').nth(2).unwrap_or_default().to_owned();
            let of = (domain, visitor[&view.person]);
            times.entry(of).or_default().push(view.at_s);
        }
        answers.visitors = met
            .into_iter()
            .map(|(key, met)| (key, met.len() as u64))
            .collect();
        for ((domain, _), mut times) in times {
            times.sort();
            let of = answers.visits.entry(domain).or_default();
            let visits = times.chunk_by(|a, b| b - a <= silence_s);
            for visit in visits {
                of.0 += 1;
                of.1 += u64::from(visit.len() == 1);
            }
        }
        answers
    }

    /// What the views answer.
    pub fn served(site: &Site) -> Answers {
        let by_bucket = |sql: &str, column: &str| {
            let rows = site.server.rows(sql);
            let rows = rows.iter().map(|row| {
                let kind = row["kind"].as_str().expect("a kind");
                let kind = KINDS.iter().find(|known| known.0 == kind);
                let page = text(&row["page"]);
                let bucket = row["bucket"].as_i64().expect("a number");
                let kind = kind.expect("a known kind").0;
                ((page, kind, bucket), number(&row[column]))
            });
            rows.collect()
        };
        let visits = site
            .server
            .rows("SELECT domain, visits, bounces FROM bounce_rates");
        let visits = visits.iter().map(|row| {
            let counts = (number(&row["visits"]), number(&row["bounces"]));
            (text(&row["domain"]), counts)
        });
        Answers {
            pageviews: by_bucket(
                "SELECT page, kind, bucket, pageviews FROM pageviews",
                "pageviews",
            ),
            visitors: by_bucket("SELECT * FROM unique_visitors", "visitors"),
            visits: visits.collect(),
        }
    }

    pub fn with(mut self, other: Answers) -> Answers {
        self.pageviews.extend(other.pageviews);
        self.visitors.extend(other.visitors);
        self.visits.extend(other.visits);
        self
    }
}

/// The smallest id reachable from each: labels are lowered along the pairs until none changes.
pub fn visitors(views: &BTreeSet<&PageView>, equivs: &[(i64, i64)]) -> BTreeMap<i64, i64> {
    let mut visitor: BTreeMap<i64, i64> = views.iter().map(|v| (v.person, v.person)).collect();
    for (a, b) in equivs {
        visitor.insert(*a, *a);
        visitor.insert(*b, *b);
    }
    let mut changed = true;
    while changed {
        changed = false;
        for (a, b) in equivs {
            let least = visitor[a].min(visitor[b]);
            for id in [a, b] {
                changed |= visitor.insert(*id, least) != Some(least);
            }
        }
    }
    visitor
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

pub fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_model_gives_the_golden_table() {
    let facts = facts(0);
    assert_eq!(Answers::of(&facts, 1_800), Answers::golden(0));
    assert_eq!(Answers::of(&facts, 900), Answers::golden(0));
    let without = Answers::of(&facts[..8], 1_800);
    let post1 = ("http://foo.com/post1".to_owned(), "hour", 0);
    assert_eq!(without.visitors[&post1], 3);
    assert_eq!(without.visits["foo.com"], (6, 4));
}
