//! Values as Postgres gives them; where there is none, its error.

mod answer;

use std::sync::Arc;

use answer::{answer, check};
use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionContext};
use lambic_view::session;

#[tokio::test]
async fn extremes_of_doubles_are_values_that_are_there() {
    let values = "(VALUES ('a', '-Infinity'::float8), ('b', 'Infinity'), ('c', 'NaN'), ('c', 'Infinity'), \
                  ('d', 'NaN'), ('d', 'NaN'), ('d', 5), ('e', 0), ('e', '-0'), ('f', NULL)) t(k, f)";
    check(&[
        (
            &format!("SELECT k, min(f), max(f) FROM {values} GROUP BY k ORDER BY k"),
            "a, -inf, -inf; b, inf, inf; c, inf, NaN; d, 5.0, NaN; e, 0.0, 0.0; f, NULL, NULL",
        ),
        (
            &format!("SELECT k, min(f::real), max(f::real) FROM {values} GROUP BY k ORDER BY k"),
            "a, -inf, -inf; b, inf, inf; c, inf, NaN; d, 5.0, NaN; e, 0.0, 0.0; f, NULL, NULL",
        ),
        (&format!("SELECT min(f), max(f) FROM {values}"), "-inf, NaN"),
        (
            &format!("SELECT max(f) OVER (ORDER BY k ROWS 1 PRECEDING) FROM {values} WHERE k IN ('a', 'b')"),
            "-inf; inf",
        ),
    ])
    .await;
}

#[tokio::test]
async fn percentiles_lie_between_values_to_the_last_digit() {
    let billions = "(SELECT i * 1000000000 FROM generate_series(0, 6) t(i)) t(x)";
    let of = |share: &str, order: &str, rows: &str| {
        format!("SELECT percentile_cont({share}) WITHIN GROUP (ORDER BY x {order}) FROM {rows}")
    };
    let two = "(VALUES (0::float8), (1e12)) t(x)";
    let odd = "(VALUES ('NaN'::float8), (1), ('-Infinity'), (3), (NULL)) t(x)";
    let groups = "(VALUES ('a', 0), ('a', 1000000000), ('b', 7), ('c', NULL), ('a', NULL)) t(k, x)";
    check(&[
        // 0.95 * 6 is a little less than 5.7.
        (&of("0.95", "", billions), "5699999999.999999"),
        (&of("0.95", "DESC", billions), "300000000.0000007"),
        (&of("0.9", "", billions), "5400000000.0"),
        (&of("0.5", "", billions), "3000000000.0"),
        (&of("0.3333333333", "", two), "333333333300.0"),
        (&of("0.3333333333", "DESC", two), "666666666700.0"),
        (&of("0.25", "", "(VALUES (1.5), (2.5)) t(x)"), "1.75"),
        (&of("0.25", "", "(VALUES (1::real), (2)) t(x)"), "1.25"),
        (&of("0.7", "", "(VALUES (4)) t(x)"), "4.0"),
        (&of("0.7", "", "(VALUES (4)) t(x) WHERE x > 4"), "NULL"),
        (&of("0.7", "", "(VALUES (NULL::float8), (NULL)) t(x)"), "NULL"),
        (&of("0", "", odd), "-inf"),
        (&of("1", "", odd), "NaN"),
        (&of("0", "DESC", odd), "NaN"),
        (&of("0.5", "", odd), "2.0"),
        (&of("0.5", "", "(SELECT -x FROM (VALUES ('NaN'::float8), (1), (2)) t(x)) t(x)"), "-1.0"),
        (
            &format!(
                "SELECT percentile_cont(0.25) WITHIN GROUP (ORDER BY x), percentile_cont(0.25) WITHIN GROUP (ORDER BY x DESC) FROM {two}"
            ),
            "250000000000.0, 750000000000.0",
        ),
        (
            &format!("SELECT k, percentile_cont(0.3333333333) WITHIN GROUP (ORDER BY x) FROM {groups} GROUP BY k ORDER BY k"),
            "a, 333333333.29999995; b, 7.0; c, NULL",
        ),
        (
            &format!("SELECT k, quantile_cont(x, 0.3333333333) FROM {groups} GROUP BY k ORDER BY k"),
            "a, 333333333.29999995; b, 7.0; c, NULL",
        ),
        (
            &format!("SELECT percentile_cont(x, 0.3333333333) OVER () FROM {two}"),
            "333333333300.0; 333333333300.0",
        ),
        (
            "SELECT percentile_cont(x, 0.25) OVER (ORDER BY x ROWS 1 PRECEDING) FROM (VALUES (1), (2), (4)) t(x)",
            "1.0; 1.25; 2.5",
        ),
        (
            "SELECT percentile_cont(x, 0.25) OVER (ORDER BY x) FROM (VALUES (1), (2), (4)) t(x)",
            "1.0; 1.25; 1.5",
        ),
    ])
    .await;
}

#[tokio::test]
async fn sums_of_numerics_do_not_wrap() {
    let nines = "99999999999999999999999999999999999999";
    let out =
        "22003 numeric out of range: the result has more than the 38 digits of numeric(38, 0)";
    check(&[
        (&format!("SELECT sum(n) FROM (VALUES ({nines}::numeric(38,0)), ({nines})) t(n)"), out),
        (&format!("SELECT n % 2, sum(n) FROM (VALUES ({nines}::numeric(38,0)), ({nines})) t(n) GROUP BY 1"), out),
        (
            &format!("SELECT sum(n) FROM (VALUES ({nines}::numeric(38,0)), ({nines}), (-{nines})) t(n)"),
            nines,
        ),
        (&format!("SELECT avg(n) FROM (VALUES ({nines}::numeric(38,0)), ({nines})) t(n)"), nines),
        ("SELECT avg(n) FROM (VALUES (1.5), (2)) t(n)", "1.7500000000000000"),
        ("SELECT avg(n), sum(n) FROM (VALUES (1), (2)) t(n) WHERE n > 5", "NULL, NULL"),
        ("SELECT sum(DISTINCT n) FROM (VALUES (1.5), (1.5), (2)) t(n)", "3.5"),
        (
            "SELECT sum(DISTINCT n), count(DISTINCT m) FROM (VALUES (9223372036854775807, 1), (9223372036854775806, 2)) t(n, m)",
            "22003 bigint out of range: the sum is 18446744073709551613; sum a numeric instead: sum(x::numeric(38, 0))",
        ),
        (
            "SELECT sum(n) OVER (ORDER BY n ROWS 1 PRECEDING) FROM (VALUES (1.5), (2.0), (4.0)) t(n)",
            "1.5; 3.5; 6.0",
        ),
    ])
    .await;
}

#[tokio::test]
async fn arithmetic_does_not_wrap() {
    check(&[
        (
            "SELECT 9223372036854775807 + 1",
            "22003 bigint out of range",
        ),
        (
            "SELECT 2147483647::int + 1::int",
            "22003 integer out of range",
        ),
        (
            "SELECT 300::smallint * 300::smallint",
            "22003 smallint out of range",
        ),
        (
            "SELECT v - 1 FROM (VALUES (-9223372036854775807), (-9223372036854775808)) t(v)",
            "22003 bigint out of range",
        ),
        (
            "SELECT -v FROM (VALUES (-9223372036854775808)) t(v)",
            "22003 bigint out of range",
        ),
        (
            "SELECT v / -1 FROM (VALUES (-9223372036854775808)) t(v)",
            "22003 bigint out of range",
        ),
        ("SELECT v * 2 + 1 FROM (VALUES (3), (NULL)) t(v)", "7; NULL"),
        (
            "SELECT 1 / v FROM (VALUES (0)) t(v)",
            "22012 division by zero",
        ),
        (
            "SELECT CASE WHEN v <> 0 THEN 1 / v ELSE 0 END FROM (VALUES (0), (1)) t(v)",
            "0; 1",
        ),
        ("SELECT 1.0 / 0", "22012 division by zero"),
        ("SELECT 1::float / 0", "22012 division by zero"),
        ("SELECT f / 0 FROM (VALUES ('NaN'::float8)) t(f)", "NaN"),
        (
            "SELECT f - f FROM (VALUES ('Infinity'::float8)) t(f)",
            "NaN",
        ),
        (
            "SELECT f * 10 FROM (VALUES (1e308::float8)) t(f)",
            "22003 double precision out of range",
        ),
        (
            "SELECT f / g FROM (VALUES (1::float8, 3::float8), (NULL, 0)) t(f, g)",
            "0.3333333333333333; NULL",
        ),
        (
            "SELECT n * n FROM (VALUES (99999999999999999999::numeric(20, 0))) t(n)",
            "22003 numeric out of range",
        ),
        ("SELECT sum(v + 1) FROM (VALUES (1), (2)) t(v)", "5"),
        (
            "SELECT v + 1 AS w, count(*) FROM (VALUES (1), (1)) t(v) GROUP BY v + 1",
            "2, 2",
        ),
    ])
    .await;
}

#[tokio::test]
async fn doubles_are_ordered_and_equal_as_in_postgres() {
    let values = "(VALUES ('NaN'::float8, 1), (0, 1), ('-0', 2), ('Infinity', 3), (1.5, 3), ('-Infinity', 4)) t(f, k)";
    check(&[
        (&format!("SELECT count(DISTINCT f) FROM {values}"), "5"),
        (
            &format!("SELECT count(DISTINCT f), count(DISTINCT k) FROM {values}"),
            "5, 4",
        ),
        (
            &format!("SELECT count(*) FROM (SELECT DISTINCT f FROM {values})"),
            "5",
        ),
        (
            &format!("SELECT count(*) FROM (SELECT f FROM {values} GROUP BY f)"),
            "5",
        ),
        (&format!("SELECT k FROM {values} WHERE f = 'NaN'"), "1"),
        (
            &format!("SELECT k FROM {values} WHERE f > 5 ORDER BY 1"),
            "1; 3",
        ),
        (
            &format!("SELECT k FROM {values} WHERE f = 0 ORDER BY 1"),
            "1; 2",
        ),
        (
            &format!("SELECT k FROM {values} WHERE f IN (0, 7) ORDER BY 1"),
            "1; 2",
        ),
        (
            &format!("SELECT count(*) FROM {values} WHERE f BETWEEN 0 AND 2"),
            "3",
        ),
        (
            &format!("SELECT f FROM {values} ORDER BY f DESC LIMIT 2"),
            "NaN; inf",
        ),
        (
            &format!("SELECT k FROM {values} WHERE f - f = 'NaN' ORDER BY f - f, k"),
            "1; 3; 4",
        ),
        (
            &format!("SELECT count(*) FROM (SELECT f - f AS z FROM {values}) WHERE z > 5"),
            "3",
        ),
        (
            &format!("SELECT max(f - f), min(f - f) FROM {values} WHERE f > 5"),
            "NaN, NaN",
        ),
        (
            &format!("SELECT count(*) FROM {values} JOIN (VALUES (0::float8)) u(g) ON f = g"),
            "2",
        ),
        (
            &format!("SELECT count(*) FROM {values} WHERE f IN (SELECT 0::float8)"),
            "2",
        ),
        (
            &format!("SELECT greatest(f, 5) FROM {values} WHERE k = 1 ORDER BY 1"),
            "5.0; NaN",
        ),
        (
            &format!("SELECT CASE f WHEN 0 THEN 'zero' ELSE 'other' END FROM {values} WHERE k = 2"),
            "zero",
        ),
        (
            &format!("SELECT DISTINCT rank() OVER (ORDER BY f) FROM {values} WHERE f = 0"),
            "1",
        ),
    ])
    .await;
}

#[tokio::test]
async fn literals_with_a_point_are_numeric() {
    check(&[
        ("SELECT 0.1 + 0.2", "0.3"),
        ("SELECT 12345678901234567890.1234567891::numeric(30,10)", "12345678901234567890.1234567891"),
        ("SELECT n FROM (VALUES (99999999999999.9999::numeric(30,10))) t(n) WHERE n = 99999999999999.9999", "99999999999999.9999000000"),
        ("SELECT f FROM (VALUES (0.1::float8), (1e300), ('NaN')) t(f) WHERE f = 0.1", "0.1"),
        ("SELECT f FROM (VALUES (0.1::float8), (1e300), ('NaN')) t(f) WHERE f > 0.5", "1e300; NaN"),
        ("SELECT f * 1.5 FROM (VALUES (3::float8)) t(f)", "4.5"),
        ("SELECT coalesce(f, 0.0), CASE WHEN f > 1 THEN f ELSE 0.5 END FROM (VALUES (1e300::float8), ('NaN'), (NULL)) t(f)", "1e300, 1e300; NaN, NaN; 0.0, 0.5"),
        ("SELECT f FROM (VALUES (1e300::float8)) t(f) UNION ALL SELECT 0.5 ORDER BY 1", "0.5; 1e300"),
        ("SELECT v FROM (VALUES (1), (2)) t(v) WHERE v > 1.5", "2"),
        ("SELECT f BETWEEN 0.1 AND 1.5, f IN (0.1, 0.2) FROM (VALUES (0.1::float8)) t(f)", "true, true"),
        ("SELECT sqrt(2.25), round(2.345, 2), floor(1.7), ceil(1.2), abs(-1.5)", "1.5, 2.35, 1.0, 2.0, 1.5"),
        ("SELECT power(2.0, 3), exp(0.0), ln(1.0), log(10.0, 100.0)", "8.0, 1.0, 0.0, 2.0"),
        ("SELECT 1e10, 1.5e-3", "10000000000, 0.0015"),
        ("SELECT 1e308::float8, 1e-300::float8", "1e308, 1e-300"),
        ("SELECT f FROM (VALUES (1::float8)) t(f) WHERE f < 1e308 AND f > 1e-300", "1.0"),
        ("SELECT 5::numeric / 3, 1.0 / 3, 10 / 4.0, 7 / 2", "1.6666666666666667, 0.3333333333333333, 2.5000000000000000, 3"),
        ("SELECT approx_percentile_cont(f, 0.5) FROM (VALUES (1::float8), (2), (3)) t(f)", "2.0"),
        ("SELECT stddev(v), var_pop(v) FROM (VALUES (1.5), (2.5)) t(v)", "0.7071067811865476, 0.25"),
        ("SELECT 1.5::int + 1", "3"),
    ])
    .await;
}

#[tokio::test]
async fn quoted_numbers_are_compared_as_what_they_say() {
    let values = "(VALUES (1.00::numeric(12,2)), (3.00), (-3.00), (NULL)) t(d)";
    let rows = |condition: &str, expected: &'static str| {
        (
            format!("SELECT d FROM {values} WHERE {condition} ORDER BY d"),
            expected,
        )
    };
    let cases = [
        rows("d = '3.001'", ""),
        rows("d = ' +3.0 '", "3.00"),
        rows("d < '-2.9999'", "-3.00"),
        rows("d BETWEEN '0.999' AND '2.999'", "1.00"),
        rows("d IN ('3.001', '1')", "1.00"),
        rows("d <> '3.001'", "-3.00; 1.00; 3.00"),
        rows("d = '3e0'", "3.00"),
        rows("d > '0.29999E1' AND d < '3.1'", "3.00"),
        rows("d > '2.99999999999999999999999999999999999'", "3.00"),
        rows("d > 2.99999999999999999999999999999999999", "3.00"),
        rows("d = '3.000000000000000000000000000000000000000000001'", ""),
        rows(
            "d * 10000000000 > '0.3333333333333333333333333333'",
            "1.00; 3.00",
        ),
        rows("CASE WHEN d = 3 THEN '007' ELSE 'n/a' END = '007'", "3.00"),
        rows(
            "d = '3.-1'",
            "error Arrow error: Cast error: Cannot cast string '3.-1' to value of Decimal256(76, 10) type",
        ),
        rows(
            "d = '1e-2147483648'",
            "error Arrow error: Cast error: Cannot cast string '1e-2147483648' to value of Decimal256(76, 10) type",
        ),
    ];
    let cases: Vec<(&str, &str)> = cases
        .iter()
        .map(|(sql, expected)| (sql.as_str(), *expected))
        .collect();
    check(&cases).await;
}

#[tokio::test]
async fn casts_round_and_read_as_postgres() {
    check(&[
        ("SELECT cast(3.7 AS int), cast(2.5 AS int), cast(-2.5 AS int)", "4, 3, -3"),
        ("SELECT 3.7::float8::int, 2.5::float8::int, 3.5::float8::bigint, (-0.5)::real::smallint", "4, 2, 4, 0"),
        ("SELECT 3e9::float8::int", "22003 integer out of range"),
        ("SELECT 'NaN'::float8::bigint", "22003 bigint out of range"),
        ("SELECT 99999999999.5::int", "22003 integer out of range"),
        ("SELECT 9223372036854775807::float8::bigint", "22003 bigint out of range"),
        ("SELECT 1e300::float8::real", "22003 real out of range"),
        ("SELECT arrow_typeof(1::float) AS a, arrow_typeof(1::float(10)) AS b, arrow_typeof(1::real) AS c, arrow_typeof(1::float8) AS d", "Float64, Float32, Float32, Float64"),
        ("SELECT '\\x00ff'::bytea, 'a\\\\b'::bytea", "00ff, 615c62"),
        ("SELECT '\\x00ff'::bytea::text", "\\x00ff"),
        ("SELECT '\\x0'::bytea", "22P02 invalid input syntax for type bytea: an odd number of hexadecimal digits"),
        ("SELECT '1e3'::numeric(8,2), CAST(' -1.5E-1 ' AS numeric(8,2)), '126e-4'::numeric(8,2)", "1000.00, -0.15, 0.01"),
        ("SELECT n FROM (VALUES ('1E-7'::numeric), ('2e0'::numeric)) t(n)", "0.0000001; 2.0000000"),
        ("SELECT '1e3'::text", "1e3"),
        ("SELECT 1::integr", "42704 type \"integr\" does not exist"),
    ])
    .await;
}

#[tokio::test]
async fn timestamps_reach_beyond_nanoseconds() {
    check(&[
        ("SELECT timestamp '9999-12-31'", "9999-12-31T00:00:00"),
        ("SELECT ts FROM (VALUES (timestamp '2401-05-06 07:08:09'), (timestamp '0900-01-01')) t(ts) WHERE ts > '2400-01-01'", "2401-05-06T07:08:09"),
        ("SELECT ts > '2400-01-01', ts BETWEEN '2400-01-01' AND '2500-01-01', ts >= date '2400-01-01', ts < now(), ts IN ('2401-05-06 07:08:09') FROM (VALUES (timestamptz '2401-05-06 07:08:09')) t(ts)", "true, true, true, false, true"),
        ("SELECT date_trunc('day', ts), date_bin(interval '1 hour', ts), ts - interval '1 day' FROM (VALUES (timestamp '2401-05-06 07:08:09')) t(ts)", "2401-05-06T00:00:00, 2401-05-06T07:00:00, 2401-05-05T07:08:09"),
        ("SELECT date_trunc('month', date '2401-05-06'), extract(year FROM timestamp '2401-05-06'), extract(epoch FROM timestamp '2401-05-06')", "2401-05-01T00:00:00, 2401, 13611888000.0"),
        ("SELECT date_bin('15 minutes', timestamp '2024-01-01 10:52', timestamp '2024-01-01 00:05')", "2024-01-01T10:50:00"),
        ("SELECT date_trunc('fortnight', now())", "22023 unit \"fortnight\" is not known to date_trunc; there are microsecond, millisecond, second, minute, hour, day, week, month, quarter, year, decade, century and millennium"),
        ("SELECT date_trunc('day', timestamptz '2024-03-31 22:30+00', 'Europe/Berlin')", "2024-03-31T22:00:00Z"),
    ])
    .await;
}

#[tokio::test]
async fn at_time_zone_turns_the_clock() {
    check(&[
        ("SELECT timestamptz '2024-03-31 01:30+00' AT TIME ZONE 'Europe/Berlin'", "2024-03-31T03:30:00"),
        ("SELECT timestamp '2024-07-01 12:00' AT TIME ZONE 'Europe/Berlin'", "2024-07-01T10:00:00Z"),
        ("SELECT timestamp '2024-07-01 12:00' AT TIME ZONE 'UTC' AT TIME ZONE '+02:00'", "2024-07-01T14:00:00"),
        ("SELECT arrow_typeof(now() AT TIME ZONE 'UTC')", "Timestamp(µs)"),
        ("SELECT now() AT TIME ZONE 'Mars/Base'", "22023 time zone \"mars/base\" not recognized; names are like Europe/Berlin, offsets like +02:00"),
    ])
    .await;
}

#[tokio::test]
async fn to_char_writes_postgres_patterns() {
    check(&[
        ("SELECT to_char(timestamp '2024-03-05 13:04', 'YYYY-MM-DD HH24:MI'), to_char(date '2401-03-05', 'Mon DD')", "2024-03-05 13:04, Mar 05"),
        ("SELECT to_char(timestamp '2024-03-05 13:04', '%Y')", "2024"),
        ("SELECT date_format(timestamp '2024-03-05 13:04', 'YYYY')", "2024"),
        ("SELECT to_char(ts, 'YYYY') FROM (VALUES (timestamp '2024-03-05'), (NULL)) t(ts)", "2024; NULL"),
    ])
    .await;
    let unknown = answer("SELECT to_char(now(), 'YYYY RM')").await;
    assert!(
        unknown.starts_with("0A000 to_char does not know the pattern"),
        "{unknown}"
    );
}

/// By its own name and by every other one, a function is the same: DataFusion makes states of states in no order.
#[test]
fn every_name_of_a_function_is_of_one() {
    let state = session::state(session::config(1), Arc::new(RuntimeEnv::default()));
    for (name, function) in state.scalar_functions() {
        let own = &state.scalar_functions()[function.name()];
        assert!(Arc::ptr_eq(function, own), "{name} is not {}", own.name());
    }
    for (name, function) in state.aggregate_functions() {
        let own = &state.aggregate_functions()[function.name()];
        assert!(Arc::ptr_eq(function, own), "{name} is not {}", own.name());
    }
    for (name, function) in state.window_functions() {
        let own = &state.window_functions()[function.name()];
        assert!(Arc::ptr_eq(function, own), "{name} is not {}", own.name());
    }
}

#[tokio::test]
async fn numerics_are_rounded_to_the_places_asked_for() {
    let values = "(VALUES (1, 1.234::numeric(12,3)), (1, -1.25), (2, NULL), (NULL, 7.777)) t(n, x)";
    check(&[
        (
            &format!("SELECT round(x, 1), round(x), round(x, 4) FROM {values}"),
            "1.2, 1, 1.2340; -1.3, -1, -1.2500; NULL, NULL, NULL; 7.8, 8, 7.7770",
        ),
        (&format!("SELECT CASE WHEN n = 1 THEN round(x, 1) ELSE x END FROM {values}"), "1.200; -1.300; NULL; 7.777"),
        (&format!("SELECT n FROM {values} WHERE round(x, 1) = 1.2"), "1"),
        (&format!("SELECT round(avg(x), 2), sum(round(x, 1)) FROM {values}"), "2.59, 7.7"),
        (&format!("SELECT round(x, n::int) FROM {values}"), "1.200; -1.300; NULL; NULL"),
        (&format!("SELECT round(CASE WHEN n = 1 THEN 0 ELSE x END, 1) FROM {values} WHERE x > 7"), "7.800"),
        ("SELECT round(1234.5, -2), round(99.9, 0), round(9.99, 1), round(-0.5), round(NULL::numeric(5,2), 1)", "1200, 100, 10.0, -1, NULL"),
        ("SELECT round(99999999999999999999999999999999999999::numeric(38,0), -1)", "22003 numeric out of range: the result has more than the 38 digits of numeric(38, 0)"),
    ])
    .await;
}

#[tokio::test]
async fn parts_of_times_keep_their_fraction() {
    check(&[
        ("SELECT extract(second FROM ts), extract(milliseconds FROM ts), extract(microseconds FROM ts), extract(minute FROM ts), extract(epoch FROM ts) \
          FROM (VALUES (timestamp '2024-01-01 00:10:01.75'), (timestamp '1969-12-31 23:59:59.999999'), (NULL)) t(ts)",
         "1.75, 1750.0, 1750000, 10, 1704067801.75; 59.999999, 59999.999, 59999999, 59, -1e-6; NULL, NULL, NULL, NULL, NULL"),
        ("SELECT extract(epoch FROM d), extract(day FROM d), extract(hour FROM d), extract(minute FROM d), date_part('second', d) \
          FROM (SELECT timestamp '2024-01-03 01:10:02.25' - timestamp '2024-01-01' AS d)",
         "177002.25, 2, 1, 10, 2.25"),
        ("SELECT extract(epoch FROM interval '1 year 1 day 0.5 second'), extract(second FROM interval '1 minute 1.5 second')", "31644000.5, 1.5"),
        ("SELECT extract(second FROM date '2024-01-01'), extract(second FROM time '10:00:01.5'), extract(year FROM date '2024-01-01')", "0.0, 1.5, 2024"),
        ("SELECT ts FROM (VALUES (timestamp '2024-05-06'), (timestamp '2025-05-06')) t(ts) WHERE extract(year FROM ts) = 2024", "2024-05-06T00:00:00"),
    ])
    .await;
}

#[tokio::test]
async fn what_would_be_taken_for_something_else_is_refused() {
    check(&[
        ("SELECT v FROM (VALUES (1), (1), (2)) t(v) EXCEPT ALL SELECT 1", "0A000 EXCEPT ALL is not supported"),
        ("SELECT 1 UNION ALL (SELECT 1 INTERSECT ALL SELECT 1)", "0A000 INTERSECT ALL is not supported"),
        ("SELECT v FROM (VALUES (1), (1), (2)) t(v) EXCEPT SELECT 1", "2"),
        ("SELECT 'a' WHERE NOT 'abc' SIMILAR TO '(a|b)%'", "0A000 SIMILAR TO is not supported"),
        ("SELECT * FROM t TABLESAMPLE BERNOULLI (10)", "0A000 TABLESAMPLE is not supported"),
        ("SELECT v FROM (VALUES (1)) t(v) WHERE row_number() OVER () = 1", "42P20 window functions are not allowed in WHERE"),
        ("SELECT v FROM (VALUES (1)) t(v) WHERE v IN (SELECT row_number() OVER () FROM (VALUES (1)) u(w))", "1"),
        ("SELECT repeat('x', 2000000000)", "54000 requested length too large"),
        ("SELECT lpad('x', 2000000000, 'y')", "54000 requested length too large"),
        ("SELECT rpad(v, 2000000000) FROM (VALUES ('x'), (NULL)) t(v)", "54000 requested length too large"),
        ("SELECT repeat('ab', 3), lpad('x', 3, 'y'), rpad('x', 3, 'y'), repeat('x', -1), repeat(NULL, 2)", "ababab, yyx, xyy, , NULL"),
    ])
    .await;
}

#[tokio::test]
async fn fetch_is_a_limit() {
    let rows = "SELECT v FROM (VALUES (3), (1), (2)) t(v) ORDER BY v";
    for (fetch, expected) in [
        ("FETCH FIRST 2 ROWS ONLY", "1; 2"),
        ("FETCH FIRST ROW ONLY", "1"),
        ("OFFSET 1 ROWS FETCH NEXT 1 ROW ONLY", "2"),
        ("LIMIT 2 OFFSET 1", "2; 3"),
        ("OFFSET 1", "2; 3"),
        ("OFFSET 2", "3"),
    ] {
        // Also under an order that asks for the same, for another, and for none.
        for query in [
            format!("{rows} {fetch}"),
            format!("SELECT * FROM ({rows} {fetch}) AS t ORDER BY v"),
            format!("SELECT v FROM ({rows} {fetch}) AS t GROUP BY v ORDER BY v"),
            format!(
                "SELECT * FROM (SELECT * FROM ({rows} {fetch}) AS t ORDER BY -v LIMIT 9) AS t ORDER BY v"
            ),
        ] {
            let answered = answer(&query).await;
            assert_eq!(answered.replace('\n', "; "), expected, "{query}");
        }
    }
}

#[tokio::test]
async fn lists_of_columns_name_what_has_one_name() {
    check(&[
        ("WITH t(a, b) AS (SELECT v, v FROM (VALUES (1)) u(v)) SELECT b, a + 1 FROM t", "1, 2"),
        ("SELECT a, b FROM (SELECT 1 AS a, 2 AS b UNION ALL SELECT v, v FROM (VALUES (7)) u(v)) t WHERE a = 7", "7, 7"),
        ("SELECT b FROM (SELECT v, v FROM (VALUES (1)) u(v)) AS t(a, b)", "1"),
        (
            "WITH RECURSIVE r(k, path) AS (SELECT v, v FROM (VALUES (1)) u(v) UNION ALL SELECT k + 1, k + 1 FROM r WHERE k < 3) \
             SELECT k, path FROM r ORDER BY k",
            "1, 1; 2, 2; 3, 3",
        ),
    ])
    .await;
}

#[tokio::test]
async fn ranks_are_bigint() {
    check(&[(
        "SELECT arrow_typeof(row_number() OVER (ORDER BY v)) AS a, row_number() OVER (ORDER BY v) AS b, rank() OVER (ORDER BY v) AS c, \
         dense_rank() OVER (ORDER BY v) AS d, ntile(2) OVER (ORDER BY v) AS e FROM (VALUES (5), (5), (7)) t(v) ORDER BY b",
        "Int64, 1, 1, 1, 1; Int64, 2, 1, 1, 1; Int64, 3, 3, 2, 2",
    )])
    .await;
}

/// Statistics of a file know nothing of NaN: no row may be left out because of them.
#[tokio::test]
async fn files_with_nan_are_filtered_right() {
    use arrow::{
        array::{ArrayRef, Float64Array, Int64Array},
        record_batch::RecordBatch,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("floats.parquet");
    let columns: [(&str, ArrayRef); 2] = [
        ("f", Arc::new(Float64Array::from(vec![f64::NAN, 1.0, -0.0]))),
        ("v", Arc::new(Int64Array::from(vec![1, 2, 3]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let file = std::fs::File::create(&path).expect("a file");
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    let state = session::state(session::config(2), Arc::new(RuntimeEnv::default()));
    let context = SessionContext::new_with_state(state);
    context.register_catalog(
        "lambic",
        Arc::new({
            let catalog = datafusion::catalog::MemoryCatalogProvider::new();
            datafusion::catalog::CatalogProvider::register_schema(
                &catalog,
                "public",
                Arc::new(datafusion::catalog::MemorySchemaProvider::new()),
            )
            .expect("a schema");
            catalog
        }),
    );
    let path = path.to_str().expect("a path");
    context
        .register_parquet("t", path, Default::default())
        .await
        .expect("registered");
    for (filter, expected) in [
        ("f = 'NaN'", 1),
        ("f > 5", 1),
        ("f > 5.5", 1),
        ("f >= 1", 2),
        ("f = 0", 1),
        ("f <> 1", 2),
        ("f IN (7, 'NaN')", 1),
        ("f BETWEEN 2 AND 'NaN'", 1),
        ("f - f = 0", 2),
        ("v > 2", 1),
    ] {
        let frame = context
            .sql(&format!("SELECT v FROM t WHERE {filter}"))
            .await
            .expect("plans");
        assert_eq!(frame.count().await.expect("runs"), expected, "{filter}");
    }
    let frame = context.sql("SELECT max(f) FROM t").await.expect("plans");
    let batches = frame.collect().await.expect("runs");
    assert_eq!(
        arrow::util::pretty::pretty_format_batches(&batches)
            .expect("text")
            .to_string()
            .matches("NaN")
            .count(),
        1
    );
}

#[tokio::test]
async fn statistics_of_pairs_are_those_of_postgres() {
    let pairs =
        "(VALUES (1.0::float8, 2.0::float8), (2, 4), (4, 5), (5, 4), (NULL, 9), (7, NULL)) t(x, y)";
    check(&[
        (
            &format!("SELECT regr_count(y, x), regr_avgx(y, x), regr_avgy(y, x), regr_sxx(y, x), regr_syy(y, x), regr_sxy(y, x) FROM {pairs}"),
            "4, 3.0, 3.75, 10.0, 4.75, 5.0",
        ),
        (
            &format!("SELECT regr_slope(y, x), regr_intercept(y, x), regr_r2(y, x), covar_pop(y, x), covar_samp(x, y) FROM {pairs}"),
            "0.5, 2.25, 0.5263157894736842, 1.25, 1.6666666666666667",
        ),
        (
            &format!("SELECT corr(y, x) = corr(x, y), round(corr(y, x) * 1000000), corr(x, x), corr(x, -x) FROM {pairs}"),
            "true, 725476.0, 1.0, -1.0",
        ),
        (
            "SELECT regr_count(y, x), corr(y, x), covar_pop(y, x), regr_avgx(y, x) FROM (VALUES (1.0::float8, NULL::float8)) t(x, y)",
            "0, NULL, NULL, NULL",
        ),
        (
            "SELECT covar_pop(y, x), covar_samp(y, x), corr(y, x), regr_slope(y, x), regr_r2(y, x) FROM (VALUES (1.0::float8, 2.0::float8)) t(x, y)",
            "0.0, NULL, NULL, NULL, NULL",
        ),
        (
            "SELECT regr_r2(y, x), corr(y, x), regr_slope(y, x) FROM (VALUES (1.0::float8, 3.0::float8), (2, 3)) t(x, y)",
            "1.0, NULL, 0.0",
        ),
        (
            "SELECT covar_pop(y, x), corr(y, x), regr_avgx(y, x) FROM (VALUES (1.0::float8, 3.0::float8), ('Infinity', 3)) t(x, y)",
            "NaN, NULL, inf",
        ),
        // No cancellation: the spread is 1 beside values of a billion.
        (
            "SELECT covar_pop(v, v), corr(v, v) FROM (SELECT 1e9::float8 + i AS v FROM generate_series(0, 2) t(i)) s",
            "0.6666666666666666, 1.0",
        ),
        (
            "SELECT covar_pop(i, i) OVER (ORDER BY i ROWS 1 PRECEDING), stddev_pop(i) OVER (ORDER BY i ROWS 1 PRECEDING) FROM generate_series(1, 3) t(i)",
            "0.0, 0.0; 0.25, 0.5; 0.25, 0.5",
        ),
    ])
    .await;
}

#[tokio::test]
async fn sketches_are_values() {
    let built = "(SELECT i % 2 AS k, hll_sketch_build(i) AS h, theta_sketch_build(i) AS t, kll_double_sketch_build(i) AS q \
                  FROM generate_series(1, 100) t(i) GROUP BY 1) s";
    check(&[
        (
            &format!("SELECT k, round(hll_sketch_get_estimate(h)), theta_sketch_get_estimate(t), kll_double_sketch_get_n(q), kll_double_sketch_get_quantile(q, 0.5) FROM {built} ORDER BY k"),
            "0, 50.0, 50.0, 50, 50.0; 1, 50.0, 50.0, 50, 49.0",
        ),
        (
            &format!("SELECT round(hll_sketch_get_estimate(hll_sketch_union(h))), theta_sketch_get_estimate(theta_sketch_union(t)), \
             theta_sketch_get_estimate(theta_sketch_intersection(t)), kll_double_sketch_get_rank(kll_double_sketch_merge(q), 25) FROM {built}"),
            "100.0, 100.0, 0.0, 0.25",
        ),
        (
            "SELECT theta_sketch_get_estimate(theta_sketch_a_not_b(a, b)), theta_sketch_get_estimate(theta_sketch_a_not_b(b, a)) FROM \
             (SELECT theta_sketch_build(i) AS a, theta_sketch_build(i) FILTER (WHERE i > 70) AS b FROM generate_series(1, 100) t(i)) s",
            "70.0, 0.0",
        ),
        (
            "SELECT hll_sketch_build(x), theta_sketch_build(x), theta_sketch_get_estimate(NULL), kll_double_sketch_build(x) FROM (VALUES (NULL::bigint)) t(x)",
            "NULL, NULL, NULL, NULL",
        ),
        // One value is one, whatever the width of its type.
        (
            "SELECT theta_sketch_get_estimate(theta_sketch_union(s)) FROM (SELECT theta_sketch_build(1::smallint) AS s UNION ALL SELECT theta_sketch_build(1::bigint)) t",
            "1.0",
        ),
        (
            "SELECT hll_sketch_get_estimate('\\x00'::bytea)",
            "22023 these bytes are no HLL sketch of DataSketches",
        ),
        (
            "SELECT theta_sketch_union('\\x00'::bytea)",
            "22023 these bytes are no Theta sketch of DataSketches",
        ),
        (
            &format!("SELECT kll_double_sketch_get_quantile(q, 1.5) FROM {built}"),
            "22023 the share of the values must be from 0 to 1, not 1.5",
        ),
    ])
    .await;
}

#[tokio::test]
async fn dates_and_intervals_make_timestamps() {
    check(&[
        ("SELECT date '2024-01-31' + interval '5 hours'", "2024-01-31T05:00:00"),
        ("SELECT interval '1 month' + date '2024-01-31', date '2024-03-31' - interval '1 month'", "2024-02-29T00:00:00, 2024-02-29T00:00:00"),
        ("SELECT date '2024-01-01' + interval '12 hours' + interval '12 hours'", "2024-01-02T00:00:00"),
        ("SELECT current_date - interval '1 hour' < current_date", "true"),
        ("SELECT d + interval '5 hours', count(*) FROM (VALUES (date '2024-01-01'), (date '2024-01-01')) AS t(d) GROUP BY d + interval '5 hours'", "2024-01-01T05:00:00, 2"),
        ("SELECT date '2024-01-31' + 1, date '2024-01-31' - date '2024-01-01'", "2024-02-01, 30"),
    ])
    .await;
}

#[tokio::test]
async fn intervals_are_multiplied_and_divided() {
    let values = "(VALUES (1, 2), (1, 2), (2, NULL)) AS t(id, n)";
    check(&[
        ("SELECT 3 * interval '1 minute' = interval '3 minutes', interval '1 hour' / 2 = interval '30 minutes'", "true, true"),
        (&format!("SELECT extract(epoch FROM n * interval '1 minute')::bigint, extract(epoch FROM interval '1 minute' * n / 4)::bigint FROM {values} ORDER BY id"), "120, 30; 120, 30; NULL, NULL"),
        (&format!("SELECT extract(epoch FROM id * interval '1 day')::bigint, count(*) FROM {values} GROUP BY id * interval '1 day' ORDER BY 2 DESC"), "86400, 2; 172800, 1"),
        (&format!("SELECT count(*) * interval '1 minute' = interval '3 minutes' FROM {values}"), "true"),
        ("SELECT timestamp '2024-01-31' + interval '1 month' * 1.5, timestamp '2024-01-31' + 2 * interval '1 month'", "2024-03-15T00:00:00, 2024-03-31T00:00:00"),
        ("SELECT timestamp '2024-01-01' + 1.5::real * interval '1 day', date '2024-01-01' + 2 * interval '12 hours'", "2024-01-02T12:00:00, 2024-01-02T00:00:00"),
        ("SELECT timestamp '2024-01-01' + 2 * 3 * interval '1 hour' * 2, timestamp '2024-01-01' - interval '3 days' / 2", "2024-01-01T12:00:00, 2023-12-30T12:00:00"),
        ("SELECT (timestamp '2024-01-03' - timestamp '2024-01-01') / 4 = interval '12 hours'", "true"),
        ("SELECT (interval '1 day' + interval '1 hour') * 2 > interval '49 hours', NULL * interval '1 day' IS NULL", "true, true"),
        ("SELECT interval '1 day' * 3000000000", "22008 interval out of range"),
        ("SELECT interval '1 day' * 'Infinity'::float8", "22008 interval out of range"),
        ("SELECT interval '1 day' / 0", "22012 division by zero"),
    ])
    .await;
}

#[tokio::test]
async fn groups_are_ranked_and_ordered_by_rank() {
    let values = "(VALUES ('a', 1), ('b', 2), ('b', 3), ('c', NULL)) AS t(k, v)";
    check(&[
        (&format!("SELECT k, count(*), rank() OVER (ORDER BY count(*) DESC) FROM {values} GROUP BY k ORDER BY 3, 1"), "b, 2, 1; a, 1, 2; c, 1, 2"),
        (&format!("SELECT sum(count(*)) OVER (), k FROM {values} GROUP BY k ORDER BY 1, 2"), "4, a; 4, b; 4, c"),
        (&format!("SELECT p, count(*) FROM (SELECT CASE WHEN NOT (v = v) THEN coalesce(v, 1) ELSE -2 END AS p FROM {values}) AS x GROUP BY p"), "-2, 4"),
        ("SELECT * FROM generate_series(1, 3) WITH ORDINALITY", "0A000 WITH ORDINALITY is not supported"),
        ("SELECT -2^2, 2-2^2, -1::int", "4.0, -2.0, -1"),
    ])
    .await;
}

#[tokio::test]
async fn intervals_are_compared_by_their_length() {
    let values = "(VALUES (interval '1 month'), (interval '29 days'), (interval '31 days'), (interval '800 hours')) AS t(d)";
    check(&[
        ("SELECT interval '1 day' = interval '24 hours', interval '1 month' = interval '30 days', interval '40 days' > interval '1 month'", "true, true, true"),
        ("SELECT timestamp '2024-01-03' - timestamp '2024-01-01' > interval '1 day'", "true"),
        ("SELECT interval '36 hours' BETWEEN interval '1 day' AND interval '2 days', interval '24 hours' IN (interval '1 day')", "true, true"),
        (&format!("SELECT extract(epoch FROM d)::bigint FROM {values} ORDER BY d"), "2505600; 2592000; 2678400; 2880000"),
        (&format!("SELECT count(*) FROM {values} WHERE d > interval '30 days'"), "2"),
    ])
    .await;
}

#[tokio::test]
async fn doubles_are_rounded_to_even() {
    check(&[
        ("SELECT round(2.5::float8), round(0.5::float8), round(-2.5::float8), round(3.5::real), round(2.4::float8)", "2.0, 0.0, -2.0, 4.0, 2.0"),
        ("SELECT round(avg(f)) FROM (VALUES (2::float8), (3)) AS t(f)", "2.0"),
        ("SELECT round(2.5), round(2.45, 1)", "3, 2.5"),
    ])
    .await;
}
