//! `lambic function new` and `lambic function test`.

use super::*;

#[test]
fn templates_work_as_they_are() {
    let world = World::new();
    let listed = world.json(&["templates"]);
    let names: Vec<&str> = listed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["template"].as_str())
        .collect();
    for name in [
        "python",
        "node",
        "bash",
        "http",
        "rust",
        "wasm-python",
        "wasm-js",
        "wasm-rust",
        "wasm-batch-rust",
        "wasm-http",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    world.fails(
        &["new", "f", "--template", "pyton"],
        &["no template", "did you mean python?"],
    );
    world.fails(
        &["new", "a/b", "--template", "python"],
        &["cannot be a function's name"],
    );
    world.file("taken/notes.txt", "mine");
    world.fails(
        &["new", "taken", "--template", "python"],
        &["taken is there already", "nothing was written"],
    );
    assert_eq!(
        fs::read_dir(world.path("taken"))
            .expect("it is there")
            .count(),
        1
    );
    for template in ["python", "node", "bash", "http"] {
        let name = format!("my-{template}");
        world.ok(&["new", &name, "--template", template]);
        let tested = world.ok(&["test", &format!("./{name}")]);
        assert_eq!(tested.matches("passed").count(), 2, "{tested}");
        world.ok(&["create", &name, &name]);
        let tested = world.ok(&["test", &name]);
        assert_eq!(tested.matches("passed").count(), 2, "{tested}");
    }
    assert_eq!(
        json(&world.ok(&["invoke", "my-bash", "{\"name\": \"you\"}"])),
        object!({ "message": "hello you" })
    );
    // Those that are built first say so.
    for (template, part) in [
        ("rust", "build it first"),
        ("wasm-rust", "wasm32-wasip2"),
        ("wasm-batch-rust", "wasm32-wasip2"),
        ("wasm-js", "not built yet"),
        ("wasm-python", "not built yet"),
        ("wasm-http", "wasm32-wasip2"),
    ] {
        world.ok(&["new", template, "--template", template]);
        world.fails(&["create", template, template], &[part]);
    }
    let functions = world.json(&["list"]);
    assert_eq!(
        functions.as_array().map(Vec::len),
        Some(4),
        "tests leave nothing behind: {functions}"
    );
}

#[test]
fn tests_compare_answers_with_what_is_expected() {
    let world = World::new();
    world.function("tested");
    world.fails(&["test", "./none"], &["no folder ./none"]);
    world.fails(&["test", "none"], &["Function not found"]);
    world.fails(
        &["test", "tested"],
        &["no folder tested/events", "first.expected.json"],
    );
    world.file("tested/events/plain.json", "{\"a\": [1, 2]}");
    world.file("tested/events/fails.json", "{\"fail\": true}");
    let output = world.run(&["test", "tested"]);
    refused(
        &output,
        1,
        &[
            "fails: the function failed: ValueError: as asked",
            "1 of 2 events did not pass",
        ],
    );
    let table = text(&output.stdout);
    assert!(
        table.contains("event") && table.contains("duration_ms") && table.contains("cold"),
        "{table}"
    );
    // A failure can be what is expected.
    world.file(
        "tested/events/fails.expected.json",
        "{\"errorType\": \"ValueError\"}",
    );
    world.file(
        "tested/events/plain.expected.json",
        "{\"got\": {\"a\": [1, 3]}}",
    );
    world.fails(
        &["test", "tested"],
        &["plain: .got.a[1]: expected 3, got 2", "1 of 2"],
    );
    world.ok(&["test", "tested", "--only", "fails"]);
    world.fails(&["test", "tested", "--only", "nothing"], &["no event"]);
    let updated = world.ok(&["test", "tested", "--update"]);
    assert!(updated.contains("written"), "{updated}");
    let written =
        fs::read_to_string(world.path("tested/events/plain.expected.json")).expect("it is there");
    assert_eq!(json(&written), object!({ "got": { "a": [1, 2] } }));
    // What passes is left as it is.
    let kept =
        fs::read_to_string(world.path("tested/events/fails.expected.json")).expect("it is there");
    assert_eq!(kept, "{\"errorType\": \"ValueError\"}");
    world.file("tested/events/plain.expected.json", "{}");
    let passed = world.json(&["test", "tested"]);
    assert_eq!(passed[1]["outcome"], "passed", "{passed}");
    assert!(
        passed[1]["duration_ms"].is_number() && passed[1]["cold"].is_boolean(),
        "{passed}"
    );
    world.fails(
        &["test", "tested", "--exact"],
        &["plain: .got: nothing expected"],
    );
    world.file("tested/events/bad.json", "{");
    world.fails(&["test", "tested"], &["tested/events/bad.json:1:"]);
}
