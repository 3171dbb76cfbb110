//! Patterns and records as AWS documents them.

use super::Filters;

fn matches(pattern: &str, record: &str) -> bool {
    Filters::parse(&[pattern])
        .unwrap_or_else(|reason| panic!("{pattern}: {reason}"))
        .matches(record)
}

/// The rows of AWS's table of comparison operators, each with what it lets through and what not.
#[test]
fn rules_are_aws_s() {
    for (pattern, good, bad) in [
        (
            r#"{"UserID": [null]}"#,
            vec!["null"],
            vec![r#""""#, "0", "{}"],
        ),
        (r#"{"UserID": [""]}"#, vec![r#""""#], vec!["null", r#"" ""#]),
        (
            r#"{"UserID": ["Alice"]}"#,
            vec![r#""Alice""#, r#""\u0041lice""#],
            vec![r#""alice""#, r#""Alice ""#, "1"],
        ),
        (
            r#"{"UserID": [{"equals-ignore-case": "Alice"}]}"#,
            vec![r#""ALICE""#, r#""alice""#],
            vec![r#""Alic""#, "1"],
        ),
        (
            r#"{"UserID": ["Credit", "Debit"]}"#,
            vec![r#""Credit""#, r#""Debit""#],
            vec![r#""Cash""#],
        ),
        (
            r#"{"UserID": [true, null, 7]}"#,
            vec!["true", "null", "7"],
            vec!["false", "7.0", r#""true""#],
        ),
        (
            r#"{"UserID": [300]}"#,
            vec!["300"],
            vec!["300.0", "3.0e2", r#""300""#],
        ),
        (
            r#"{"UserID": [{"numeric": ["=", 100]}]}"#,
            vec!["100", "100.0", "1e2"],
            vec!["101", r#""100""#, "null"],
        ),
        (
            r#"{"UserID": [{"numeric": [">", 10, "<=", 20]}]}"#,
            vec!["10.5", "20"],
            vec!["10", "20.1"],
        ),
        (
            r#"{"UserID": [{"numeric": ["<", 0]}]}"#,
            vec!["-1", "-0.5"],
            vec!["0", "-0.0", "1"],
        ),
        (
            r#"{"UserID": [{"numeric": [">=", 9007199254740993]}]}"#,
            vec!["9007199254740993"],
            vec!["9007199254740992"],
        ),
        (
            r#"{"UserID": [{"prefix": "us-"}]}"#,
            vec![r#""us-east-1""#, r#""us-""#],
            vec![r#""eu-us-""#, r#""US-""#, "1"],
        ),
        (
            r#"{"UserID": [{"prefix": {"equals-ignore-case": "US-"}}]}"#,
            vec![r#""us-east-1""#, r#""Us-""#],
            vec![r#""eu""#],
        ),
        (
            r#"{"UserID": [{"suffix": ".png"}]}"#,
            vec![r#""a.png""#],
            vec![r#""a.png.jpg""#, r#""a.PNG""#],
        ),
        (
            r#"{"UserID": [{"suffix": {"equals-ignore-case": ".PNG"}}]}"#,
            vec![r#""a.png""#],
            vec![r#""a.jpg""#],
        ),
        (
            r#"{"UserID": [{"anything-but": "Raining"}]}"#,
            vec![r#""Sunny""#, "1", "null"],
            vec![r#""Raining""#],
        ),
        (
            r#"{"UserID": [{"anything-but": ["Raining", "Snowing"]}]}"#,
            vec![r#""Sunny""#],
            vec![r#""Raining""#, r#""Snowing""#],
        ),
        (
            r#"{"UserID": [{"anything-but": [1, 2]}]}"#,
            vec!["3", r#""1""#],
            vec!["1", "2"],
        ),
        (
            r#"{"UserID": [{"anything-but": {"prefix": "init"}}]}"#,
            vec![r#""done""#],
            vec![r#""initial""#],
        ),
        (
            r#"{"UserID": [{"anything-but": {"suffix": [".txt", ".md"]}}]}"#,
            vec![r#""a.rs""#],
            vec![r#""a.txt""#, r#""a.md""#],
        ),
        (
            r#"{"UserID": [{"anything-but": {"equals-ignore-case": ["a", "B"]}}]}"#,
            vec![r#""c""#],
            vec![r#""A""#, r#""b""#],
        ),
        (
            r#"{"UserID": [{"exists": true}]}"#,
            vec!["1", "null", r#""""#, "[1]"],
            vec!["{\"a\": 1}", "[]"],
        ),
        (
            r#"{"UserID": [{"exists": false}]}"#,
            vec!["{\"a\": 1}", "[]"],
            vec!["1", "null"],
        ),
        (
            r#"{"UserID": [{"exists": false}, "x"]}"#,
            vec![r#""x""#, "[]"],
            vec![r#""y""#],
        ),
        (
            r#"{"UserID": {"a": [1]}}"#,
            vec![r#"{"a": 1, "b": 2}"#, r#"[{"a": 2}, {"a": 1}]"#],
            vec![r#"{"b": 1}"#, "1"],
        ),
        (
            r#"{"UserID": {"a": [1], "b": [2]}}"#,
            vec![r#"[{"a": 1, "b": 2}]"#],
            vec![r#"[{"a": 1}, {"b": 2}]"#],
        ),
        (
            r#"{"UserID": [1, 2]}"#,
            vec!["[2, 3]", "[[1]]"],
            vec!["[3]"],
        ),
    ] {
        for (values, expected) in [(good, true), (bad, false)] {
            for value in values {
                let record = format!(r#"{{"other": 1, "UserID": {value}}}"#);
                assert_eq!(matches(pattern, &record), expected, "{pattern} {record}");
            }
        }
    }
}

#[test]
fn fields_that_are_missing_match_nothing_but_their_absence() {
    for (pattern, expected) in [
        (r#"{"a": [{"exists": false}]}"#, true),
        (r#"{"a": {"b": [{"exists": false}]}}"#, true),
        (r#"{"a": [{"exists": true}]}"#, false),
        (r#"{"a": [null]}"#, false),
        (r#"{"a": [{"anything-but": "x"}]}"#, false),
    ] {
        assert_eq!(matches(pattern, r#"{"b": 1}"#), expected, "{pattern}");
    }
}

#[test]
fn all_fields_have_to_match_and_one_alternative_of_or() {
    let pattern = r#"{"Location": ["New York"], "$or": [{"Day": ["Monday"]}, {"data": {"n": [{"numeric": [">", 5]}]}}]}"#;
    for (record, expected) in [
        (r#"{"Location": "New York", "Day": "Monday"}"#, true),
        (r#"{"Location": "New York", "data": {"n": 6}}"#, true),
        (
            r#"{"Location": "New York", "Day": "Tuesday", "data": {"n": 5}}"#,
            false,
        ),
        (r#"{"Location": "Boston", "Day": "Monday"}"#, false),
    ] {
        assert_eq!(matches(pattern, record), expected, "{record}");
    }
    let nested = r#"{"data": {"$or": [{"a": [1]}, {"b": [2]}]}}"#;
    assert!(matches(nested, r#"{"data": {"b": 2}}"#));
    assert!(!matches(nested, r#"{"data": {"b": 1}}"#));
    // With one part it is a field's name.
    assert!(matches(r#"{"$or": [1]}"#, r#"{"$or": 1}"#));
}

#[test]
fn one_of_several_patterns_is_enough_and_none_lets_all_through() {
    let filters = Filters::parse(&[r#"{"a": [1]}"#, r#"{"b": [2]}"#]).unwrap();
    assert!(filters.matches(r#"{"b": 2}"#));
    assert!(!filters.matches(r#"{"b": 1}"#));
    assert!(Filters::default().matches("{}"));
}

#[test]
fn what_is_no_pattern_is_refused() {
    for (pattern, part) in [
        ("", "EOF"),
        ("x", "expected"),
        ("[1]", "a pattern is a JSON object"),
        ("{}", "empty objects"),
        (r#"{"a": {}}"#, "empty objects"),
        (r#"{"a": []}"#, "empty arrays"),
        (r#"{"a": "x"}"#, "`a` must be an object or an array"),
        (r#"{"a": 1}"#, "`a` must be"),
        (r#"{"a": [[1]]}"#, "an array stands in an array"),
        (r#"{"a": [{}]}"#, "one member"),
        (r#"{"a": [{"prefix": "a", "suffix": "b"}]}"#, "one member"),
        (r#"{"a": [{"like": "a"}]}"#, "`like` is not a match type"),
        (r#"{"a": [{"prefix": 1}]}"#, "`prefix` cannot have 1"),
        (
            r#"{"a": [{"prefix": {"suffix": "a"}}]}"#,
            "`prefix` has no suffix",
        ),
        (r#"{"a": [{"exists": 1}]}"#, "`exists` cannot have 1"),
        (r#"{"a": [{"exists": "true"}]}"#, "`exists` cannot have"),
        (r#"{"a": [{"numeric": 1}]}"#, "`numeric` cannot have 1"),
        (r#"{"a": [{"numeric": []}]}"#, "no range"),
        (r#"{"a": [{"numeric": ["="]}]}"#, "lacks a number"),
        (r#"{"a": [{"numeric": ["!=", 1]}]}"#, "no operator"),
        (
            r#"{"a": [{"numeric": ["=", "1"]}]}"#,
            "compares with numbers",
        ),
        (r#"{"a": [{"numeric": ["<", 5, ">", 1]}]}"#, "no range"),
        (r#"{"a": [{"numeric": [">", 5, "<", 5]}]}"#, "below its top"),
        (r#"{"a": [{"anything-but": []}]}"#, "is empty"),
        (r#"{"a": [{"anything-but": [1, "a"]}]}"#, "mixes"),
        (r#"{"a": [{"anything-but": null}]}"#, "cannot have null"),
        (
            r#"{"a": [{"anything-but": {"numeric": 1}}]}"#,
            "`numeric` cannot have",
        ),
        (r#"{"$or": [{"a": [1]}, {"b": 1}]}"#, "`b` must be"),
    ] {
        let reason = Filters::parse(&[pattern]).unwrap_err();
        assert!(reason.contains(part), "{pattern}: {reason}");
    }
}
