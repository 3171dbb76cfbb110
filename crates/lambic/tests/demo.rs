//! The demo ends by itself, and only well if every audit agreed.

mod common;

#[test]
fn the_demo_runs_and_agrees() {
    let output = common::lambic()
        .args(["demo", "--for", "5s"])
        .output()
        .expect("the binary is there");
    let (said, told) = (common::text(&output.stdout), common::text(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{told}", output.status);
    for wanted in [
        "120,000 flights of history",
        "batch run of all views done",
        "5 of 5 views agree",
        "psql -h",
        "curl '",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
    assert!(told.contains("ready http=127.0.0.1:"), "{told}");
    // Machines differ in what they let a sandbox do; nothing else may be amiss.
    let amiss = told
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let amiss: Vec<&str> = amiss
        .filter(|line| !line.contains("less isolated"))
        .collect();
    assert!(amiss.is_empty(), "{told}");
}
