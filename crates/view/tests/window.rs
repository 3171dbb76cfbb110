//! `TUMBLE`, `HOP` and `SESSION` in `FROM`.

mod answer;

use answer::check;

/// Visits, not in the order of their times; one has none.
const VISITS: &str = "WITH visits AS (SELECT who, at::timestamp AS at, n FROM (VALUES
    ('a', '2026-01-01 10:09:59', 1), ('b', '2026-01-01 10:00:00', 2), ('a', '2026-01-01 09:59:59.999999', 3),
    (NULL, NULL, 4), ('b', '2026-01-01 10:12:00', 5), ('a', '1969-12-31 23:59:59', 6)) v(who, at, n))";

#[tokio::test]
async fn tumbling_windows_hold_each_record_once() {
    let counts = "SELECT window_start, window_end, count(*), sum(n) FROM";
    let rest = "GROUP BY window_start, window_end ORDER BY 1";
    let expected = "1969-12-31T23:50:00, 1970-01-01T00:00:00, 1, 6; \
                    2026-01-01T09:50:00, 2026-01-01T10:00:00, 1, 3; \
                    2026-01-01T10:00:00, 2026-01-01T10:10:00, 2, 3; \
                    2026-01-01T10:10:00, 2026-01-01T10:20:00, 1, 5";
    for call in [
        "TABLE(TUMBLE(TABLE visits, DESCRIPTOR(at), INTERVAL '10' MINUTE))",
        "TABLE(TUMBLE(TABLE visits, DESCRIPTOR(at), INTERVAL '10' MINUTES)) AS w",
        "TUMBLE(visits, at, INTERVAL '10 minutes')",
        "tumble(visits, \"at\", '10 minutes'::interval) w",
        "TABLE(TUMBLE(DATA => TABLE visits, TIMECOL => DESCRIPTOR(at), SIZE => INTERVAL '10' MINUTE))",
        "TUMBLE((SELECT n, at FROM visits), at, INTERVAL '10' MINUTE, INTERVAL '0' MINUTE)",
        "TUMBLE(TABLE (SELECT n, at FROM visits), DESCRIPTOR(at), INTERVAL '600' SECOND)",
    ] {
        check(&[(&format!("{VISITS} {counts} {call} {rest}"), expected)]).await;
    }
    check(&[
        (
            &format!("{VISITS} SELECT * FROM TUMBLE(visits, at, INTERVAL '1 day') WHERE who = 'b' ORDER BY n LIMIT 1"),
            "b, 2026-01-01T10:00:00, 2, 2026-01-01T00:00:00, 2026-01-02T00:00:00",
        ),
        (
            &format!("{VISITS} SELECT visits.n, w.window_end FROM visits JOIN TUMBLE(visits, at, INTERVAL '1 hour') w ON w.n = visits.n + 1 ORDER BY 1 LIMIT 1"),
            "1, 2026-01-01T11:00:00",
        ),
        (
            &format!("{VISITS} SELECT visits.who, window_start FROM TUMBLE(visits, visits.at, INTERVAL '10 minutes', INTERVAL '-1 minute') WHERE n IN (1, 2) ORDER BY n"),
            "a, 2026-01-01T10:09:00; b, 2026-01-01T09:59:00",
        ),
        (
            &format!("{VISITS} SELECT window_start, window_end, count(*) FROM TUMBLE(visits, at, INTERVAL '1 month') GROUP BY 1, 2 ORDER BY 1"),
            "1969-12-01T00:00:00, 1970-01-01T00:00:00, 1; 2026-01-01T00:00:00, 2026-02-01T00:00:00, 4",
        ),
        (
            "SELECT window_start, window_end FROM TUMBLE((SELECT timestamptz '2026-01-01 01:30:00+02' AS at), at, INTERVAL '1 day')",
            "2025-12-31T00:00:00Z, 2026-01-01T00:00:00Z",
        ),
        (
            &format!("{VISITS} SELECT count(*) FROM TUMBLE((SELECT window_end AS until, n FROM TUMBLE(visits, at, INTERVAL '10 minutes')), until, INTERVAL '1 hour') WHERE window_start = '2026-01-01 10:00'"),
            "4",
        ),
    ])
    .await;
}

#[tokio::test]
async fn hopping_windows_hold_a_record_as_often_as_they_overlap() {
    check(&[
        (
            &format!("{VISITS} SELECT n, window_start, window_end FROM HOP(visits, at, INTERVAL '5 minutes', INTERVAL '15 minutes') WHERE n IN (2, 3) ORDER BY n, window_start"),
            "2, 2026-01-01T09:50:00, 2026-01-01T10:05:00; \
             2, 2026-01-01T09:55:00, 2026-01-01T10:10:00; \
             2, 2026-01-01T10:00:00, 2026-01-01T10:15:00; \
             3, 2026-01-01T09:45:00, 2026-01-01T10:00:00; \
             3, 2026-01-01T09:50:00, 2026-01-01T10:05:00; \
             3, 2026-01-01T09:55:00, 2026-01-01T10:10:00",
        ),
        (
            &format!("{VISITS} SELECT window_start, sum(n) FROM TABLE(HOP(TABLE visits, DESCRIPTOR(at), INTERVAL '1' HOUR, INTERVAL '2' HOUR, INTERVAL '30' MINUTE)) WHERE n < 6 GROUP BY 1 ORDER BY 1"),
            "2026-01-01T08:30:00, 11; 2026-01-01T09:30:00, 11",
        ),
        (
            &format!("{VISITS} SELECT window_start, window_end FROM HOP(visits, at, INTERVAL '1 month', INTERVAL '3 months') WHERE n = 1 ORDER BY 1"),
            "2025-11-01T00:00:00, 2026-02-01T00:00:00; 2025-12-01T00:00:00, 2026-03-01T00:00:00; \
             2026-01-01T00:00:00, 2026-04-01T00:00:00",
        ),
        (
            &format!("{VISITS} SELECT count(*), count(window_start) FROM HOP(visits, at, INTERVAL '1 minute', INTERVAL '1 day')"),
            "7200, 7200",
        ),
    ])
    .await;
}

#[tokio::test]
async fn sessions_end_where_nothing_happens_for_the_gap() {
    // Exactly the gap apart is one session still; records at one time are in one session.
    let clicks = "WITH clicks AS (SELECT who, at::timestamp AS at, n FROM (VALUES
        ('a', '2026-01-01 10:30:00', 1), ('a', '2026-01-01 10:00:00', 2), ('a', '2026-01-01 11:00:00.000001', 3),
        ('b', '2026-01-01 10:10:00', 4), ('b', '2026-01-01 10:10:00', 5), ('b', '2026-01-01 12:00:00', 6),
        (NULL, '2026-01-01 10:00:00', 7), (NULL, '2026-01-01 10:05:00', 8), ('a', NULL, 9)) v(who, at, n))";
    let by_who = "a, 2026-01-01T10:00:00, 2026-01-01T11:00:00, 3; \
                  a, 2026-01-01T11:00:00.000001, 2026-01-01T11:30:00.000001, 3; \
                  b, 2026-01-01T10:10:00, 2026-01-01T10:40:00, 9; \
                  b, 2026-01-01T12:00:00, 2026-01-01T12:30:00, 6; \
                  NULL, 2026-01-01T10:00:00, 2026-01-01T10:35:00, 15";
    for call in [
        "TABLE(SESSION(TABLE clicks PARTITION BY who, DESCRIPTOR(at), INTERVAL '30' MINUTE))",
        "TABLE(SESSION(TABLE clicks PARTITION BY (who), DESCRIPTOR(at), INTERVAL '30' MINUTE)) s",
        "SESSION(clicks, who, at, INTERVAL '30 minutes')",
        "SESSION(clicks, (who, lower(who)), at, INTERVAL '30 minutes')",
        "SESSION(DATA => TABLE clicks PARTITION BY who, TIMECOL => DESCRIPTOR(at), GAP => INTERVAL '30' MINUTE)",
        "SESSION(gap => INTERVAL '30' MINUTE, key => who, timecol => at, data => (SELECT * FROM clicks))",
    ] {
        let sql = format!(
            "{clicks} SELECT who, window_start, window_end, sum(n) FROM {call} GROUP BY 1, 2, 3 ORDER BY 1, 2"
        );
        check(&[(&sql, by_who)]).await;
    }
    check(&[
        (
            &format!("{clicks} SELECT window_start, window_end, count(*) FROM SESSION(clicks, at, INTERVAL '30 minutes') GROUP BY 1, 2 ORDER BY 1"),
            "2026-01-01T10:00:00, 2026-01-01T11:00:00, 6; 2026-01-01T11:00:00.000001, 2026-01-01T11:30:00.000001, 1; \
             2026-01-01T12:00:00, 2026-01-01T12:30:00, 1",
        ),
        (
            &format!("{clicks} SELECT * FROM SESSION(clicks, who, at, INTERVAL '1 second') WHERE n = 4"),
            "b, 2026-01-01T10:10:00, 4, 2026-01-01T10:10:00, 2026-01-01T10:10:01",
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_window_is_refused() {
    let mut cases = Vec::new();
    for (call, expected) in [
        (
            "TUMBLE(visits, who, INTERVAL '1 day')",
            "42804 windows are of timestamps, not of text",
        ),
        (
            "TUMBLE(visits, at, INTERVAL '0 days')",
            "22023 the size of the windows must be greater than zero",
        ),
        (
            "TUMBLE(visits, at, INTERVAL '-5' MINUTE)",
            "22023 the size of the windows must be greater than zero",
        ),
        (
            "TUMBLE(visits, at, INTERVAL '1 month 1 day')",
            "22023 the size of the windows must be in months or in days and shorter units, not in both",
        ),
        (
            "TUMBLE(visits, at, INTERVAL '1 month', INTERVAL '1 day')",
            "22023 windows of months begin with the first of a month and take no offset",
        ),
        (
            "TUMBLE(visits, at, INTERVAL '1 day', INTERVAL '1 month')",
            "22023 the offset of the windows must be in whole microseconds and no months",
        ),
        (
            "TUMBLE(visits, at, n)",
            "22023 size must be a constant interval",
        ),
        (
            "TUMBLE(visits, at, 10)",
            "22023 size must be a constant interval",
        ),
        (
            "TUMBLE(visits, at)",
            "42883 TUMBLE: its argument size is missing",
        ),
        ("TUMBLE()", "42883 TUMBLE: its argument data is missing"),
        (
            "TUMBLE(visits, at, INTERVAL '1 day', INTERVAL '1 day', 5)",
            "42883 TUMBLE: it has no such argument",
        ),
        (
            "TUMBLE(visits, at, width => INTERVAL '1 day')",
            "42883 TUMBLE: it has no such argument",
        ),
        (
            "TUMBLE(visits, at, INTERVAL '1 day', size => INTERVAL '1 day')",
            "42883 TUMBLE: size is given twice",
        ),
        (
            "TUMBLE(5, at, INTERVAL '1 day')",
            "42883 TUMBLE: it takes a stream, a view or a query",
        ),
        (
            "TUMBLE(TABLE visits PARTITION BY who, at, INTERVAL '1 day')",
            "42883 TUMBLE: only sessions are partitioned",
        ),
        (
            "TUMBLE(visits, DESCRIPTOR(at, who), INTERVAL '1 day')",
            "42883 TUMBLE: the name of one column with the time is expected",
        ),
        (
            "TUMBLE(visits, lower(who), INTERVAL '1 day')",
            "42883 TUMBLE: the name of one column with the time is expected",
        ),
        (
            "TUMBLE(TUMBLE(visits, at, INTERVAL '1 day'), at, INTERVAL '1 day')",
            "42883 TUMBLE: it takes a stream, a view or a query",
        ),
        (
            "TUMBLE((SELECT at, n AS window_end FROM visits), at, INTERVAL '1 day')",
            "42701 there is a column \"window_end\" already",
        ),
        (
            "HOP(visits, at, INTERVAL '2 hours', INTERVAL '1 hour')",
            "22023 the size of the windows must be a multiple of their slide",
        ),
        (
            "HOP(visits, at, INTERVAL '2 hours', INTERVAL '5 hours')",
            "22023 the size of the windows must be a multiple of their slide",
        ),
        (
            "HOP(visits, at, INTERVAL '1 day', INTERVAL '1 month')",
            "22023 the size of the windows must be a multiple of their slide",
        ),
        (
            "HOP(visits, at, INTERVAL '1 second', INTERVAL '1 day')",
            "22023 each record would fall in 86400 windows, and 1440 are the most",
        ),
        (
            "SESSION(visits, who, at, INTERVAL '1 month')",
            "22023 the gap between sessions must not be in months: they differ in length",
        ),
        (
            "SESSION(visits, who, at, INTERVAL '0')",
            "22023 the gap of the windows must be greater than zero",
        ),
    ] {
        cases.push((format!("{VISITS} SELECT * FROM {call}"), expected));
    }
    let cases: Vec<(&str, &str)> = cases
        .iter()
        .map(|(sql, expected)| (sql.as_str(), *expected))
        .collect();
    check(&cases).await;
}
