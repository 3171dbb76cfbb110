use expect_test::{Expect, expect};

use super::*;

fn check(sql: &str, expected: Expect) {
    let shown = match parse(&Session::default(), sql) {
        Ok(parsed) => parsed
            .iter()
            .map(|part| {
                let kind = format!("{:?}", part.statement);
                let end = kind
                    .find(|c: char| !c.is_alphanumeric())
                    .unwrap_or(kind.len());
                format!("{}@{}", &kind[..end], part.start)
            })
            .collect::<Vec<_>>()
            .join(" "),
        Err(error) => format!(
            "{} at {:?}: {} ({})",
            error.sqlstate,
            error.position,
            error,
            error.hint.as_deref().unwrap_or_default()
        ),
    };
    expected.assert_eq(&shown);
}

#[test]
fn statements_are_told_apart() {
    check(
        "create stream s (a int); select 1;",
        expect!["CreateStream@0 Sql@25"],
    );
    check("CREATE TABLE s (a int)", expect!["CreateStream@0"]);
    check("drop stream if exists s", expect!["DropStream@0"]);
    check("drop materialized view v", expect!["DropView@0"]);
    check(
        "audit all; audit materialized view public.v; audit materialized view v with (drift)",
        expect!["Audit@0 Audit@11 Drift@45"],
    );
    check(
        "diff materialized view v; diff materialized view public.v version 1 with version 2",
        expect!["Diff@0 Diff@26"],
    );
    check(
        "replay materialized view v; replay materialized view public.v version 2 from offset 's@0:1' to timestamp (now()) with (step = '1h', show = 'rows'); replay materialized view v with (diff) as create materialized view v as select 1 from s",
        expect!["Replay@0 Replay@28 Replay@148"],
    );
    check(
        "diff materialized view v as of offset 's@0:1' with create materialized view v as select 1 from s",
        expect!["Diff@0"],
    );
    check(
        "subscribe v; subscribe to public.v with (snapshot = false, progress) as of offset 's@0:1'; subscribe (select 1 from s)",
        expect!["Subscribe@0 Subscribe@13 Subscribe@91"],
    );
    check("select ';'", expect!["Sql@0"]);
    check("-- nothing\n;", expect![""]);
    check("explain materialized view v", expect!["ExplainView@0"]);
    check(
        "alter materialized view v rollback to version 2; alter materialized view public.v as select rollback from s; alter materialized view lambic.public.\"V\" as with a as (select 1) select * from a",
        expect!["RollbackView@0 AlterView@49 AlterView@109"],
    );
}

#[test]
fn another_select_of_a_view_is_parsed_where_it_stands() {
    for (sql, message) in [
        ("alter materialized view v", "42601 at Some(1)"),
        ("alter materialized view as select 1", "42601 at Some(1)"),
        ("alter materialized view v as", "42601 at Some(28)"),
        (
            "alter\nmaterialized /* é */ view v as selct 1",
            "42601 at Some(38)",
        ),
        (
            "alter materialized view v as select * from s version 1",
            "0A000 at Some(44)",
        ),
        (
            "alter materialized view v as select * from s as of offset '1'",
            "0A000 at Some(59)",
        ),
    ] {
        let refused = parse(&Session::default(), sql).unwrap_err();
        let shown = format!("{} at {:?}", refused.sqlstate, refused.position);
        assert!(shown.starts_with(message), "{sql}: {shown}: {refused}");
    }
}

#[test]
fn names_in_quotes_keep_their_case() {
    let check = |sql: &str, expected: Expect| {
        let parsed = parse(&Session::default(), sql).unwrap();
        let shown: Vec<String> = parsed
            .iter()
            .map(|part| format!("{:?}", part.statement))
            .collect();
        expected.assert_eq(&shown.join("\n"));
    };
    check(
        "REFRESH MATERIALIZED VIEW \"PAGES\" FULL; refresh materialized view Public.Pages; REFRESH MATERIALIZED VIEW \"pages\"",
        expect![[r#"
            RefreshView { name: "PAGES", full: true }
            RefreshView { name: "pages", full: false }
            RefreshView { name: "pages", full: false }"#]],
    );
    check(
        "ALTER MATERIALIZED VIEW \"PAGES\" ROLLBACK; COMPACT STREAM \"Visits\"; COMPACT STREAM Visits; AUDIT MATERIALIZED VIEW \"PAGES\"; AUDIT MATERIALIZED VIEW Pages WITH (DRIFT); EXPLAIN MATERIALIZED VIEW public.\"PAGES\"",
        expect![[r#"
            RollbackView { name: "PAGES", version: None }
            CompactStream("Visits")
            CompactStream("visits")
            Audit(Some("PAGES"))
            Drift("pages")
            ExplainView("PAGES")"#]],
    );
}

#[test]
fn semicolons_in_quotes_and_comments_do_not_end_a_statement() {
    let texts = |sql| -> Vec<&str> {
        let pieces = split(sql).unwrap();
        pieces.into_iter().map(|piece| piece.text).collect()
    };
    assert_eq!(
        texts("select ';'; select \"a;b\" -- no; end\n, 1; /* a; /* b; */ c; */ select 2"),
        ["select ';'", "select \"a;b\" -- no; end\n, 1", "select 2"]
    );
    assert_eq!(
        texts("select $$a;b$$, $x$;$$;$x$; select $1"),
        ["select $$a;b$$, $x$;$$;$x$", "select $1"]
    );
    assert_eq!(
        texts(r"select E'\';'; select 'it''s;' /* end */ ;"),
        [r"select E'\';'", "select 'it''s;'"]
    );
    assert_eq!(texts(" ; ;; -- nothing\n;"), Vec::<&str>::new());
}

#[test]
fn places_count_characters() {
    let pieces = split("select 'é';\n/* zwei\n */ select 2").unwrap();
    assert_eq!(
        pieces[1],
        Piece {
            text: "select 2",
            chars_before: 24
        }
    );
    check(
        "select 'é';\n selct 2",
        expect![[
            r#"42601 at Some(14): syntax error: expected: an SQL statement, found: selct (did you mean SELECT?)"#
        ]],
    );
}

#[test]
fn unfinished_quotes_are_mistakes() {
    for sql in [
        "select 1; select 'a",
        "select \"a;",
        "select $$a;",
        "/* a;",
        "select E'\\",
    ] {
        assert_eq!(split(sql).unwrap_err().sqlstate, "42601", "{sql}");
    }
}

#[test]
fn parameters_are_counted_outside_of_quotes_and_bounded() {
    let count = |sql| parse(&Session::default(), sql).unwrap()[0].parameters;
    assert_eq!(count("select '$5 off', \"$6\", $$ $7 $$ /* $8 */ -- $9"), 0);
    assert_eq!(count("insert into s values ($2, $1, '$5 off')"), 2);
    assert_eq!(count("select $65535"), 65_535);
    check(
        "select 1; select $1, $99999999999",
        expect![
            "42P02 at Some(22): there is no parameter $99999999999 (parameters are numbered from $1 to $65535)"
        ],
    );
    for sql in [
        "select $0",
        "select $65536",
        "select $99999999999999999999",
        "select $a",
    ] {
        let refused = parse(&Session::default(), sql).unwrap_err();
        assert_eq!(refused.sqlstate, "42P02", "{sql}");
    }
}

#[test]
fn subscriptions_say_what_is_wrong_with_them() {
    for (sql, message) in [
        ("subscribe", "42601 at Some(1)"),
        ("subscribe to", "42601 at Some(11)"),
        ("subscribe select 1", "42601 at Some(11)"),
        ("subscribe (select 1", "42601 at Some(11)"),
        ("subscribe (insert into s values (1))", "42601 at Some(12)"),
        ("subscribe v where a = 1", "42601 at Some(13)"),
        ("subscribe v with (snapshot = maybe)", "42601 at Some(30)"),
        ("subscribe v with (rows = 5)", "42601 at Some(19)"),
        ("subscribe v with (progress", "42601 at Some(19)"),
        ("subscribe v up to 5", "42601 at Some(13)"),
        ("subscribe other.v", "3F000"),
    ] {
        let refused = parse(&Session::default(), sql).unwrap_err();
        let shown = format!("{} at {:?}", refused.sqlstate, refused.position);
        assert!(shown.starts_with(message), "{sql}: {shown}: {refused}");
    }
}

#[test]
fn replays_say_what_is_wrong_with_them() {
    for (sql, message) in [
        ("replay v", "42601 at Some(1)"),
        ("replay materialized view", "42601 at Some(21)"),
        ("replay materialized view v version x", "42601 at Some(36)"),
        (
            "replay materialized view v from 's@0:1'",
            "42601 at Some(33)",
        ),
        (
            "replay materialized view v from offset 5",
            "42601 at Some(40)",
        ),
        (
            "replay materialized view v to timestamp",
            "42601 at Some(31)",
        ),
        (
            "replay materialized view v with (step = 5)",
            "42601 at Some(41)",
        ),
        (
            "replay materialized view v with (step = 'soon')",
            "22023 at Some(41)",
        ),
        (
            "replay materialized view v with (show = 'rows')",
            "42601 at Some(41)",
        ),
        (
            "replay materialized view v with (step = '1h', show = 'all')",
            "42601 at Some(54)",
        ),
        (
            "replay materialized view v with (step = '1h', diff)",
            "42601 at Some(41)",
        ),
        (
            "replay materialized view v version 1 as select 1",
            "42601 at Some(41)",
        ),
        (
            "replay materialized view v as drop stream s",
            "42601 at Some(31)",
        ),
        (
            "replay materialized view v to offset 's@0:1' from offset 's@0:0'",
            "42601 at Some(46)",
        ),
    ] {
        let refused = parse(&Session::default(), sql).unwrap_err();
        let shown = format!("{} at {:?}", refused.sqlstate, refused.position);
        assert!(shown.starts_with(message), "{sql}: {shown}: {refused}");
    }
}

#[test]
fn mistakes_have_a_place() {
    check(
        "select 1; selct 2",
        expect![
            "42601 at Some(11): syntax error: expected: an SQL statement, found: selct (did you mean SELECT?)"
        ],
    );
    check(
        "refresh materialized view",
        expect!["42601 at Some(22): syntax error: the name of a view is expected ()"],
    );
    check(
        "drop view if exists pages",
        expect![
            "42809 at Some(6): there are no plain views to drop; views are materialized (DROP MATERIALIZED VIEW pages)"
        ],
    );
    check(
        "update s set a = 1",
        expect![
            "0A000 at None: records are immutable: streams are only appended to (append a record that corrects, and let a view take the latest of each key)"
        ],
    );
}
