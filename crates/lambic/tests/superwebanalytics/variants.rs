//! What else must hold: late equivalences, facts twice, new nonces, odd URLs, another silence.

use serde_json::json;

use crate::{
    Site, example,
    golden::{Answers, Fact, PageView, facts, view},
};

const POST1: &str = "http://foo.com/post1";

/// Page views of post1 in hour 0, of the day, and the visitors of hour 0.
#[track_caller]
fn check_post1(site: &Site, expected: (u64, u64, u64)) {
    let served = Answers::served(site);
    let key = |kind| (POST1.to_owned(), kind, 0);
    assert_eq!(
        (
            served.pageviews[&key("hour")],
            served.pageviews[&key("day")],
            served.visitors[&key("hour")]
        ),
        expected
    );
}

#[test]
fn equivalences_change_the_past() {
    let site = Site::start();
    let facts = facts(0);
    site.append(&facts[..8]);
    assert_eq!(Answers::served(&site), Answers::of(&facts[..8], 1_800));
    check_post1(&site, (3, 4, 3));
    let bounces = "SELECT visits, bounces, bounce_rate FROM bounce_rates WHERE domain = 'foo.com'";
    assert_eq!(
        site.server.rows(bounces),
        [json!({"visits": 6, "bounces": 4, "bounce_rate": 4.0 / 6.0})]
    );
    site.server.ok(&["batch", "run"]);
    site.append(&facts[8..]);
    check_post1(&site, (3, 4, 2));
    assert_eq!(Answers::served(&site), Answers::golden(0));
    assert_eq!(
        site.server.rows(bounces),
        [json!({"visits": 4, "bounces": 0, "bounce_rate": 0.0})]
    );

    // The same with a silence of 15 minutes, and back.
    site.replace("visits", "1800", "900");
    assert_eq!(Answers::served(&site), Answers::golden(0));
    site.server
        .ok(&["query", "ALTER MATERIALIZED VIEW visits ROLLBACK"]);
    assert_eq!(Answers::served(&site), Answers::golden(0));
    site.audit();
}

#[test]
fn a_visit_ends_after_more_than_thirty_minutes() {
    let site = Site::start();
    let facts = [
        view(1, "http://a.com/x", 0),
        view(1, "http://a.com/y", 1_800),
        view(1, "http://a.com/z", 3_601),
        // Of another domain, and of another person: visits of their own.
        view(1, "http://b.com/x", 900),
        view(2, "http://a.com/x", 900),
    ];
    site.append(&facts);
    assert_eq!(Answers::served(&site), Answers::of(&facts, 1_800));
    let visits = "SELECT visit, started_at_s, ended_at_s, pageviews FROM visits WHERE domain = 'a.com' AND visitor = 1 ORDER BY visit";
    assert_eq!(
        site.server.rows(visits),
        [
            json!({"visit": 1, "started_at_s": 0, "ended_at_s": 1_800, "pageviews": 2}),
            json!({"visit": 2, "started_at_s": 3_601, "ended_at_s": 3_601, "pageviews": 1}),
        ]
    );
    site.audit();
}

#[test]
fn a_fact_counts_once() {
    let site = Site::start();
    for stream in ["page_view", "equiv"] {
        site.append_file(stream, &example().join(format!("{stream}.csv")));
    }
    assert_eq!(Answers::served(&site), Answers::golden(0));
    // Again in the real-time part, again behind a batch, and again in the batch itself.
    for _ in 0..2 {
        site.append(&facts(0));
        assert_eq!(Answers::served(&site), Answers::golden(0));
        site.server.ok(&["batch", "run"]);
        assert_eq!(Answers::served(&site), Answers::golden(0));
    }
    site.append([&Fact::View(PageView {
        person: 1,
        url: POST1.to_owned(),
        nonce: 2,
        at_s: 60,
    })]);
    check_post1(&site, (4, 5, 2));
    site.audit();
}

#[test]
fn identities_reach_as_far_as_they_go() {
    let site = Site::start();
    // A chain whose smallest id is in its middle, a ring, an id that is its own, one that no page view has.
    let chain = [(19, 17), (17, 15), (15, 10), (10, 16), (16, 18), (18, 20)];
    let ring = [(31, 32), (32, 33), (33, 31), (33, 33), (33, 30)];
    let equivs = chain.iter().chain(&ring).map(|(a, b)| Fact::Equiv(*a, *b));
    let seen = [10, 15, 18, 19, 20, 31, 33, 40].map(|person| view(person, POST1, person));
    let facts: Vec<Fact> = equivs.chain(seen).collect();
    for fact in &facts {
        site.append([fact]);
    }
    assert_eq!(Answers::served(&site), Answers::of(&facts, 1_800));
    assert_eq!(
        site.server
            .rows("SELECT visitor, count(*) AS ids FROM persons GROUP BY visitor ORDER BY visitor"),
        [
            json!({"visitor": 10, "ids": 7}),
            json!({"visitor": 30, "ids": 4})
        ]
    );
    site.audit();
}

#[test]
fn urls_become_pages() {
    let site = Site::start();
    let urls = [
        (POST1, POST1, Some("foo.com")),
        ("http://foo.com/post1?q=1#x", POST1, Some("foo.com")),
        ("http://foo.com/post1#x?q", POST1, Some("foo.com")),
        ("http://foo.com?q=/", "http://foo.com", Some("foo.com")),
        (
            "https://a:b@foo.com:8080/x/?q",
            "https://foo.com/x/",
            Some("foo.com"),
        ),
        ("http://[::1]:80/x", "http://[::1]/x", Some("[::1]")),
        // What is no URL of this form stays as it is, and is a visit of no domain.
        ("foo.com/post1?q", "foo.com/post1?q", None),
        ("http:///post1?q", "http:///post1?q", None),
        ("http://foo.com:port/?q", "http://foo.com:port/?q", None),
        ("http://foo .com/?q", "http://foo .com/?q", None),
        ("", "", None),
    ];
    let facts = urls.map(|(url, ..)| view(1, url, 60));
    site.append(&facts);
    let pages = site
        .server
        .rows("SELECT page, pageviews FROM pageviews WHERE kind = 'day' ORDER BY page");
    let mut expected = std::collections::BTreeMap::<&str, u64>::new();
    for (_, page, _) in urls {
        *expected.entry(page).or_default() += 1;
    }
    let expected = expected
        .iter()
        .map(|(page, n)| json!({"page": page, "pageviews": n}));
    assert_eq!(pages, expected.collect::<Vec<_>>());
    assert_eq!(
        site.server
            .rows("SELECT domain, pageviews FROM visits ORDER BY domain"),
        [
            json!({"domain": "[::1]", "pageviews": 1}),
            json!({"domain": "foo.com", "pageviews": 5}),
        ]
    );
    site.audit();
}
