//! Imports that the server, or the source itself, does not allow: what is told, and that nothing was changed.

use super::*;

const REFUSED: &str = r#"
Transform: AWS::Serverless-2016-10-31
Resources:
  One:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: one
      Runtime: python3.11
      Handler: index.handler
      InlineCode: "def handler(event, context): return 1"
      AutoPublishAlias: live
      Timeout: 5
      Tags:
        Stage: first
  Two:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: two
      Runtime: python3.11
      Handler: index.handler
      InlineCode: "def handler(event, context): return 1"
      AutoPublishAlias: live
      Environment:
        Variables:
          FINE: "1"
      Events:
        Visits:
          Type: Kinesis
          Properties:
            Stream: arn:aws:lambic:us-east-1:000000000000:stream/visits
            StartingPosition: LATEST
      EventInvokeConfig:
        DestinationConfig:
          OnFailure:
            Type: Lambda
            Destination: arn:aws:lambda:us-east-1:000000000000:function:one:live
"#;

#[test]
fn what_the_server_would_refuse_is_told_before_anything_is_changed() {
    let world = World::new();
    world
        .server
        .ok(&["query", "CREATE STREAM visits (url text)"]);
    let template = world.file("refused/template.yaml", REFUSED);
    let import = ["import", &template, "--runtime", "python"];
    world.ok(&import);
    let changed = REFUSED.replace("return 1", "return 2");
    let changed = changed.replace("Stage: first", "Stage: second");
    // Whatever it is, it stands behind changes that could be made.
    for (from, to, told) in [
        ("Timeout: 5", "Timeout: 1000", "one: Timeout: "),
        (
            "FINE: \"1\"",
            "F-NE: \"1\"",
            "two: Environment: `F-NE` cannot be an environment variable",
        ),
        (
            "stream/visits",
            "stream/visists",
            "stream/visists: Stream not found",
        ),
        (
            "stream/visits",
            "stream/lambic_logs",
            "stream/lambic_logs: ",
        ),
        (
            "arn:aws:lambda:us-east-1:000000000000:function:one:live",
            "arn:aws:lambic:us-east-1:000000000000:stream/lambic_logs",
            "two: EventInvokeConfig: The destination is not available",
        ),
        (
            "function:one:live",
            "function:one:dead",
            "two: EventInvokeConfig: The destination does not exist",
        ),
        (
            "AutoPublishAlias: live\n      Environment",
            "DeadLetterQueue: { Type: SQS, TargetArn: \"arn:aws:lambda:us-east-1:000000000000:function:none\" }\n      Environment",
            "two: DeadLetterConfig: The destination does not exist",
        ),
    ] {
        assert!(changed.contains(from), "{from}");
        world.file("refused/template.yaml", changed.replace(from, to));
        let output = world.run(&[&import[..], &["--plan"]].concat());
        refused(&output, 1, &["template.yaml:", "would be refused"]);
        assert!(text(&output.stdout).contains("refused"), "it has a line");
        world.fails(&import, &["template.yaml:", told, "nothing was imported"]);
    }
    let one = world.json(&["show", "one"]);
    assert_eq!(one["Timeout"], 5, "{one}");
    for name in ["one", "one:live", "two", "two:live"] {
        assert_eq!(world.ok(&["invoke", name]), "1");
        let aliases = world.json(&["alias", "list", name.split(':').next().expect("a name")]);
        assert_eq!(aliases[0]["FunctionVersion"], "1", "{aliases}");
    }
    // As it is, nothing has to be changed: the tags are the first ones too.
    world.file("refused/template.yaml", REFUSED);
    let again = world.json(&import);
    assert_unchanged(&again);
    world.file("refused/template.yaml", &changed);
    world.ok(&import);
    assert_eq!(world.ok(&["invoke", "two:live"]), "2");
}

const STALE: &str = r#"
Transform: AWS::Serverless-2016-10-31
Resources:
  One:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: one
      Runtime: python3.11
      Handler: index.handler
      InlineCode: "def handler(event, context): return 1"
      Timeout: 5
      DeadLetterQueue:
        Type: SQS
        TargetArn: arn:aws:lambda:us-east-1:000000000000:function:other
      EventInvokeConfig:
        MaximumRetryAttempts: 1
        DestinationConfig:
          OnFailure:
            Type: Lambda
            Destination: arn:aws:lambda:us-east-1:000000000000:function:other
"#;

#[test]
fn what_stays_as_it_is_may_name_what_is_gone() {
    let world = World::new();
    let template = world.file("stale/template.yaml", STALE);
    let import = ["import", &template, "--runtime", "python"];
    world.fails(
        &import,
        &["one: DeadLetterConfig: ", "one: EventInvokeConfig: "],
    );
    world.function("other");
    world.ok(&import);
    world.ok(&["delete", "other", "--yes"]);
    for more in [&["--plan"][..], &[]] {
        let again = world.json(&[&import[..], more].concat());
        assert_eq!(again["functions"][0]["change"], "unchanged", "{again}");
    }
    world.file(
        "stale/template.yaml",
        STALE.replace("Timeout: 5", "Timeout: 6"),
    );
    let changed = world.json(&import);
    assert_eq!(changed["functions"][0]["change"], "Timeout", "{changed}");
    // What is put as a whole has to be there.
    world.file(
        "stale/template.yaml",
        STALE.replace("Attempts: 1", "Attempts: 2"),
    );
    world.fails(
        &import,
        &["one: EventInvokeConfig: ", "nothing was imported"],
    );
    assert_eq!(world.json(&["show", "one"])["Timeout"], 6);
}

#[test]
fn a_template_with_mistakes_is_refused_whole() {
    let world = World::new();
    let source = fixture("sam_broken");
    let source = shown(&source);
    world.fails(
        &["import", source],
        &[
            "template.yaml:2:3",
            "nowhere/: No such file",
            "no runtime \"pythn3.11\"; did you mean python3.11?",
            "function Three has no Runtime",
            "the handler other.handler wants the file other.py",
            "Timeout is \"soon\", and should be a number",
            "nothing was imported",
        ],
    );
    assert_eq!(world.ok(&["list", "--json"]), "[]\n");
    let tabs = world.file("tabs/template.yaml", "Resources:\n\tOne: {}\n");
    world.fails(&["import", &tabs], &["template.yaml:2:"]);
    let other = world.file("other/some.yaml", "a: 1\n");
    world.fails(
        &["import", &other],
        &["neither a template of AWS SAM", "nor a serverless.yml"],
    );
    world.file("program/serverless.ts", "export default {}");
    world.fails(
        &["import", "program"],
        &["serverless print > serverless.yml"],
    );
    let none = world.file(
        "none/template.yaml",
        "Resources:\n  T:\n    Type: AWS::S3::Bucket\n",
    );
    world.fails(
        &["import", &none],
        &["T (AWS::S3::Bucket)", "there is nothing in"],
    );
}

#[test]
fn a_plan_says_which_runtimes_the_server_lacks() {
    let world = World::new();
    let template = world.file(
        "old/template.yaml",
        "Resources:\n  Old:\n    Type: AWS::Serverless::Function\n    Properties:\n      Runtime: nodejs12.x\n      Handler: index.handler\n      InlineCode: exports.handler = async () => 1\n",
    );
    let output = world.run(&["import", &template, "--plan"]);
    refused(
        &output,
        1,
        &[
            "Old: the server has no",
            "nodejs12.x",
            "functions.interpreters",
            "1 of 1 resource cannot run on this server",
        ],
    );
    assert!(text(&output.stdout).contains("cannot run"));
    world.fails(
        &["import", &template],
        &["Old: the server has no", "nothing was imported"],
    );
    let planned = world.run(&["import", &template, "--plan", "--json"]);
    let planned = json(&text(&planned.stdout));
    let error = planned["functions"][0]["error"].as_str();
    assert!(
        error.is_some_and(|error| error.contains("nodejs12.x")),
        "{planned}"
    );
}

const PARTLY: &str = r#"
Resources:
  Ruby:
    Type: AWS::Serverless::Function
    Properties:
      Runtime: ruby3.3
      Handler: app.handler
      InlineCode: "def handler(event:, context:) = 1"
  Boxed:
    Type: AWS::Serverless::Function
    Properties:
      PackageType: Image
      ImageUri: one:latest
  Plain:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: plain
      Runtime: python3.11
      Handler: index.handler
      InlineCode: "def handler(event, context): return 1"
"#;

#[test]
fn a_function_that_is_left_out_is_an_error_and_the_others_are_imported() {
    let world = World::new();
    let template = world.file("partly/template.yaml", PARTLY);
    let import = ["import", &template, "--runtime", "python"];
    let told = [
        "left out: ",
        "Ruby (AWS::Serverless::Function): the runtime ruby3.3 is not here",
        "Boxed (AWS::Serverless::Function): it is a container image",
        "2 functions are left out",
    ];
    let planned = world.run(&[&import[..], &["--plan"]].concat());
    refused(&planned, 1, &told);
    assert!(text(&planned.stdout).contains("Ruby"), "it has a line");
    world.fails(
        &[&import[..], &["--strict"]].concat(),
        &["ruby3.3", "nothing was imported"],
    );
    assert_eq!(world.ok(&["list", "--json"]), "[]\n");
    let made = world.run(&import);
    refused(&made, 1, &told);
    refused(&made, 1, &["the others were imported"]);
    assert_eq!(world.ok(&["invoke", "plain"]), "1");
    let again = world.run(&[&import[..], &["--json"]].concat());
    let lost = &json(&text(&again.stdout))["functions_left_out"];
    assert_eq!(lost.as_array().map(Vec::len), Some(2), "{lost}");
    assert_eq!(again.status.code(), Some(1));
}
