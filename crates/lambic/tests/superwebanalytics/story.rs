//! The story of the README: a mistake is deployed, noticed, mended, and history heals.

use serde_json::json;

use crate::{Site, common::text, example, golden::Answers, query};

const BOUNCES: &str = "SELECT visits, bounces FROM bounce_rates WHERE domain = 'foo.com'";

#[track_caller]
fn check(site: &Site, visits: u64, bounces: u64) {
    assert_eq!(
        site.server.rows(BOUNCES),
        [json!({"visits": visits, "bounces": bounces})]
    );
}

#[test]
fn what_can_be_kept_is_kept() {
    let site = Site::start();
    let kept = "SELECT name FROM lambic_views WHERE class = 'mergeable' ORDER BY name";
    assert_eq!(
        site.server.rows(kept),
        [json!({"name": "buckets"}), json!({"name": "page_hours"})]
    );
    // Of the others, the aggregations of streams within them.
    let explained = |view: &str| {
        let explained = site.server.ok(&["view", "explain", view]);
        assert!(
            explained.contains("recompute (it has no incremental form: "),
            "{explained}"
        );
        explained.matches("whose states are kept").count()
    };
    let parts = ["persons", "visits", "visitors"].map(explained);
    assert_eq!(parts, [1, 1, 0]);
}

#[test]
fn a_mistake_is_noticed_and_heals() {
    let site = Site::start();
    for stream in ["page_view", "equiv"] {
        site.append_file(stream, &example().join(format!("{stream}.csv")));
    }
    check(&site, 4, 0);
    site.audit();

    site.run(&query("visits_with_a_mistake", &[]));
    check(&site, 8, 8);
    // What is served is what the wrong SELECT says; what must hold of visits does not hold.
    site.server.ok(&["audit", "visits"]);
    let audit = site.server.cli(&["audit", "--all", "--json"]);
    assert_eq!(audit.status.code(), Some(1));
    assert!(
        text(&audit.stderr).contains("1 of 9 views disagree"),
        "{}",
        text(&audit.stderr)
    );
    let told: Vec<serde_json::Value> = serde_json::from_slice(&audit.stdout).expect("JSON");
    for view in &told {
        let is_check = view["view"] == "check_visits";
        assert_eq!(view["agrees"], json!(!is_check), "{view}");
        if is_check {
            assert_eq!(
                (&view["rows"], &view["differences"]),
                (&json!(4), &json!(4))
            );
            let detail = view["detail"].as_str().expect("text");
            assert!(
                detail.contains("not expected: domain=foo.com visitor=1"),
                "{detail}"
            );
        }
    }

    // The fix is the file as it stands; history is recomputed with it.
    site.replace("visits", "lag(at_s)", "lag(at_s)");
    check(&site, 4, 0);
    site.audit();
    assert_eq!(Answers::served(&site), Answers::golden(0));

    // The version before is still there.
    site.server
        .ok(&["query", "ALTER MATERIALIZED VIEW visits ROLLBACK"]);
    check(&site, 8, 8);
    site.server.ok(&[
        "query",
        "ALTER MATERIALIZED VIEW visits ROLLBACK TO VERSION 3",
    ]);
    check(&site, 4, 0);
    site.audit();
}
