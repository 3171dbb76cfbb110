//! `lambic function import`: what AWS SAM, Serverless Framework and cargo-lambda describe, zips and folders.

use super::*;

#[test]
fn a_sam_application_is_imported_and_imported_again() {
    let world = World::new();
    let source = fixture("sam");
    let source = shown(&source);
    let own = ["--runtime", "python", "--runtime", "node"];
    world
        .server
        .ok(&["query", "CREATE STREAM visits (url text)"]);
    world.fails(&["import", "nowhere"], &["cannot read nowhere"]);
    world.fails(
        &["import", source, "--parameter", "Stag=x"],
        &["the template has no parameter Stag"],
    );
    world.fails(
        &["import", source, "--name", "one"],
        &["--name is for a source with one function", "2 functions"],
    );

    let planned = world.run(&[&["import", source, "--plan"], &own[..]].concat());
    let (table, told) = (text(&planned.stdout), text(&planned.stderr));
    assert!(planned.status.success(), "{told}");
    for part in ["greet-dev", "Count", "words", "create", "publish"] {
        assert!(table.contains(part), "no {part:?} in {table}");
    }
    for part in [
        "template.yaml:",
        "Greet: Environment.TABLE: Table is an AWS::Serverless::SimpleTable, which is not here",
        "--env TABLE=…",
        "Greet: Policies: there is no IAM here",
        "Greet: Events.Nightly (Schedule): there are no schedules yet",
        "Count: Metadata.BuildMethod",
        "Count: Events.Web (Api): its URL stands for it",
        "OnlyInProd (AWS::Serverless::Function): its condition is not met",
        "Table (AWS::Serverless::SimpleTable): only functions and layers",
        "Globals.Api",
        "Outputs",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert_eq!(
        world.ok(&["list", "--json"]),
        "[]\n",
        "a plan makes nothing"
    );

    let import = |more: &[&str]| world.json(&[&["import", source], &own[..], more].concat());
    let made = import(&[]);
    assert_eq!(made["functions"][0]["change"], "created", "{made}");
    assert_eq!(made["layers"][0]["change"], "published", "{made}");
    let answer = json(&world.ok(&["invoke", "greet-dev"]));
    assert_eq!(
        answer,
        object!({ "said": "hello", "stage": "dev", "table": null })
    );
    let greet = world.json(&["show", "greet-dev"]);
    assert_eq!(
        (&greet["Timeout"], &greet["MemorySize"]),
        (&object!(10), &object!(256))
    );
    let counter = greet["Environment"]["Variables"]["COUNTER"].as_str();
    assert_eq!(
        counter,
        Some("arn:aws:lambda:us-east-1:000000000000:function:Count")
    );
    assert!(world.json(&["url", "greet-dev"])["Cors"]["AllowOrigins"][0] == "https://example.org");
    let count = world.json(&["show", "Count"]);
    assert_eq!(count["Timeout"], 5);
    assert_eq!(
        world.json(&["alias", "list", "Count"])[0]["FunctionVersion"],
        "1"
    );
    // The stream invokes the alias.
    world
        .server
        .ok(&["query", "INSERT INTO visits VALUES ('/')"]);
    common::eventually("a record of the stream has invoked it", || {
        world.server.rows("SELECT count(*) AS n FROM lambic_invocations WHERE function = 'Count' AND outcome = 'success'")[0]["n"] != 0
    });

    // Again: nothing changes; a value that was set by hand for one that is not known stays.
    world.ok(&["update", "greet-dev", "--env", "TABLE=mine"]);
    let again = import(&[]);
    let changes = |of: &Value| -> Vec<String> {
        let all = of["layers"]
            .as_array()
            .into_iter()
            .chain(of["functions"].as_array());
        all.flatten()
            .map(|one| one["change"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(changes(&again), ["unchanged"; 3], "{again}");
    assert_eq!(json(&world.ok(&["invoke", "greet-dev"]))["table"], "mine");
    assert_eq!(
        world.json(&["versions", "Count"]).as_array().map(Vec::len),
        Some(2)
    );
    // What was changed by hand is as the template says again.
    world.ok(&[
        "update",
        "greet-dev",
        "--timeout",
        "99",
        "--env",
        "TABLE=mine",
    ]);
    let mended = import(&[]);
    assert_eq!(
        changes(&mended),
        ["unchanged", "Timeout", "unchanged"],
        "{mended}"
    );
    let prod = import(&["--parameter", "Stage=prod", "--plan"]);
    let names: Vec<&str> = prod["functions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["greet-prod", "Count", "OnlyInProd"]);
}

const CIRCLE: &str = r#"
Transform: AWS::Serverless-2016-10-31
Globals:
  Function:
    Runtime: python3.11
    Handler: index.handler
Resources:
  One:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: one
      InlineCode: "def handler(event, context): return 1"
      AutoPublishAlias: live
      DeadLetterQueue:
        Type: SQS
        TargetArn: !GetAtt Two.Arn
  Two:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: two
      InlineCode: "def handler(event, context): return 2"
      DeadLetterQueue:
        Type: SQS
        TargetArn: !GetAtt One.Arn
  Three:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: three
      InlineCode: "def handler(event, context): return 3"
      DeadLetterQueue:
        Type: SQS
        TargetArn: arn:aws:lambic:us-east-1:000000000000:stream/unlucky
"#;

#[test]
fn functions_may_name_each_other_in_any_order() {
    let world = World::new();
    let source = world.file("circle/template.yaml", CIRCLE);
    let import = ["import", &source, "--runtime", "python"];
    // The stream of the third is missing.
    world.fails(
        &import,
        &[
            "template.yaml:",
            "three: DeadLetterConfig: ",
            "there is no stream unlucky",
            "nothing was imported",
        ],
    );
    assert_eq!(world.ok(&["list", "--json"]), "[]\n");
    let target = |function: &str| {
        let shown = world.json(&["show", function]);
        shown["DeadLetterConfig"]["TargetArn"].clone()
    };
    let arn = |name: &str| format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
    world
        .server
        .ok(&["query", "CREATE STREAM unlucky (version text)"]);
    world.ok(&import);
    assert_eq!(target("one"), arn("two"));
    assert_eq!(target("two"), arn("one"));
    // A version that is published has it, too.
    assert_eq!(target("one:live"), arn("two"));
    let stream = "arn:aws:lambic:us-east-1:000000000000:stream/unlucky";
    assert_eq!(target("three"), stream);
    let again = world.json(&import);
    assert_unchanged(&again);
}

#[test]
fn a_serverless_service_is_imported() {
    let world = World::new();
    let source = fixture("serverless");
    let source = shown(&source);
    world
        .server
        .ok(&["query", "CREATE STREAM visits (url text)"]);
    let import = |more: &[&str]| {
        world.run(&[&["import", source, "--runtime", "node", "--json"], more].concat())
    };
    let output = import(&[]);
    let made = json(&text(&output.stdout));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(made["functions"][0]["name"], "shop-dev-hello", "{made}");
    assert_eq!(made["functions"][1]["name"], "counting", "{made}");
    let left_out: Vec<&str> = made["left_out"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["what"].as_str())
        .collect();
    for what in [
        "shop-dev-hello: environment.SECRET",
        "hello: events.httpApi",
        "hello: events.sqs",
        ": url",
        "provider.iam",
        "plugins [\"serverless-offline\"]",
        "resources",
    ] {
        assert!(
            left_out
                .iter()
                .any(|one| what.ends_with(one) || one.ends_with(what)),
            "no {what:?} in {left_out:?}"
        );
    }
    let answer = json(&world.ok(&["invoke", "shop-dev-hello", "{\"name\": \"you\"}"]));
    assert_eq!(answer, object!({ "said": "hi you", "stage": "dev" }));
    let hello = world.json(&["show", "shop-dev-hello"]);
    assert_eq!(
        (&hello["MemorySize"], &hello["Timeout"]),
        (&object!(192), &object!(7))
    );
    assert_eq!(
        world.json(&["url", "shop-dev-hello"])["Cors"]["AllowOrigins"],
        object!(["*"])
    );
    // Whose authorizer is not known is not open to all.
    world.fails(&["url", "counting"], &["has no URL"]);
    assert_eq!(world.json(&["concurrency", "counting"])["concurrency"], 3);
    let again = json(&text(&import(&[]).stdout));
    assert_unchanged(&again);
    let prod = json(&text(
        &import(&["--parameter", "stage=prod", "--plan"]).stdout,
    ));
    assert_eq!(prod["functions"][0]["name"], "shop-prod-hello");
    assert_eq!(prod["functions"][0]["configuration"]["MemorySize"], 512);
}

#[test]
fn zips_folders_and_bootstraps_are_imported() {
    let world = World::new();
    let bootstrap =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/bash/bootstrap"));
    let bootstrap = bootstrap.expect("it is there").replace(
        "source \"$LAMBDA_TASK_ROOT/handler.sh\"",
        "handler() { printf '\"built\"'; }",
    );
    world.file("project/target/lambda/built/bootstrap", &bootstrap);
    world.file(
        "project/Cargo.toml",
        "[package]\nname = \"built\"\n[package.metadata.lambda.deploy]\nmemory = 256\n",
    );
    world.ok(&["import", "project"]);
    assert_eq!(world.ok(&["invoke", "built"]), "\"built\"");
    assert_eq!(world.json(&["show", "built"])["MemorySize"], 256);
    world.file("plain code/app.py", PYTHON);
    world.ok(&["import", "plain code"]);
    assert_eq!(world.ok(&["invoke", "plain-code"]), "{\"got\": {}}");
    world.ok(&["import", "plain code", "--name", "other"]);
    assert!(world.ok(&["list"]).contains("other"));
    // A zip, and one that brings its template along.
    let zip = |name: &str, files: &[(&str, &str)]| {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (file, content) in files {
            writer
                .start_file(*file, zip::write::SimpleFileOptions::default())
                .expect("memory");
            writer.write_all(content.as_bytes()).expect("memory");
        }
        world.file(name, writer.finish().expect("memory").into_inner())
    };
    world.ok(&[
        "import",
        &zip(
            "zipped.zip",
            &[(
                "lambda_function.py",
                "def lambda_handler(event, context):\n    return 'zipped'\n",
            )],
        ),
    ]);
    assert_eq!(world.ok(&["invoke", "zipped"]), "\"zipped\"");
    let template = "Resources:\n  exported:\n    Type: AWS::Serverless::Function\n    Properties:\n      CodeUri: src\n      Handler: app.handler\n      Runtime: python3.11\n      Timeout: 9\n";
    let exported = zip(
        "exported.zip",
        &[("template.yaml", template), ("src/app.py", PYTHON)],
    );
    world.ok(&["import", &exported, "--runtime", "python"]);
    assert_eq!(world.json(&["show", "exported"])["Timeout"], 9);
}

const AROUND: &str = r#"
Resources:
  Fast:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: fast
      Runtime: python3.11
      Handler: index.handler
      InlineCode: |
        def handler(event, context):
            return "fast"
      AutoPublishAlias: live
      VersionDescription: by the template
      ProvisionedConcurrencyConfig:
        ProvisionedConcurrentExecutions: 1
      EventInvokeConfig:
        MaximumRetryAttempts: 0
        DestinationConfig:
          OnFailure: { Type: Lambda, Destination: !GetAtt Plain.Arn }
          OnSuccess: { Type: SQS, Destination: "arn:aws:sqs:us-east-1:000000000000:q" }
      Memorysize: 512
      Environment:
        Variabels: { A: b }
  Plain:
    Type: AWS::Lambda::Function
    Properties:
      FunctionName: plain
      Runtime: python3.11
      Handler: index.handler
      Code:
        ZipFile: |
          def handler(event, context):
              return "plain"
  PlainVersion:
    Type: AWS::Lambda::Version
    Properties: { FunctionName: !Ref Plain, Description: one }
  PlainAlias:
    Type: AWS::Lambda::Alias
    Properties:
      FunctionName: !Ref Plain
      FunctionVersion: !GetAtt PlainVersion.Version
      Name: stable
      ProvisionedConcurrencyConfig: { ProvisionedConcurrentExecutions: 1 }
  PlainUrl:
    Type: AWS::Lambda::Url
    Properties: { TargetFunctionArn: !Ref PlainAlias, AuthType: AWS_IAM }
  Visits:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      FunctionName: !Ref PlainAlias
      EventSourceArn: arn:aws:lambic:us-east-1:000000000000:stream/visits
      BatchSize: 20
  Other:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      FunctionName: !Ref Fast
      EventSourceArn: arn:aws:sqs:us-east-1:000000000000:q
  Open:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: open
      Runtime: python3.11
      Handler: index.handler
      ProvisionedConcurrencyConfig: { ProvisionedConcurrentExecutions: 1 }
      InlineCode: "def handler(event, context): return 1"
  OpenUrl:
    Type: AWS::Lambda::Url
    Properties: { TargetFunctionArn: !GetAtt Open.Arn, AuthType: NONE }
  Typo:
    Type: AWS::Serverles::Function
"#;

#[test]
fn what_stands_around_functions_is_imported_and_mistakes_are_told() {
    let world = World::new();
    world
        .server
        .ok(&["query", "CREATE STREAM visits (url text)"]);
    let template = world.file("around/template.yaml", AROUND);
    let own = ["--runtime", "python"];
    // Mistakes first: with --strict nothing is made.
    let strict = [&["import", &template, "--strict"], &own[..]].concat();
    world.fails(
        &strict,
        &[
            "template.yaml:21: Fast: Memorysize: there is no such property; did you mean MemorySize?",
            "Fast: Environment.Variabels: there is no such property; did you mean Variables?",
            "Typo (AWS::Serverles::Function): there is no such kind; did you mean AWS::Serverless::Function?",
            "--strict",
        ],
    );
    assert_eq!(world.ok(&["list", "--json"]), "[]\n");

    let output = world.run(&[&["import", &template], &own[..]].concat());
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    for part in [
        "warning: ",
        "did you mean MemorySize?",
        "EventInvokeConfig.DestinationConfig.OnSuccess: destinations are functions and streams",
        "Other (AWS::Lambda::EventSourceMapping)",
        "Open: ProvisionedConcurrencyConfig: it takes AutoPublishAlias",
        "OpenUrl (AWS::Lambda::Url): no AWS::Lambda::Permission",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    let fast = world.json(&["show", "fast"]);
    let provisioned = &fast["ProvisionedConcurrencyConfigs"][0];
    assert_eq!(
        provisioned["RequestedProvisionedConcurrentExecutions"], 1,
        "{fast}"
    );
    let arn = provisioned["FunctionArn"].as_str().expect("it has one");
    assert!(arn.ends_with(":function:fast:live"), "{arn}");
    let to =
        &fast["FunctionEventInvokeConfigs"][0]["DestinationConfig"]["OnFailure"]["Destination"];
    assert!(
        to.as_str()
            .is_some_and(|to| to.ends_with(":function:plain")),
        "{fast}"
    );
    assert_eq!(fast["MemorySize"], 128, "a mistyped property is none");
    assert!(world.ok(&["versions", "fast"]).contains("by the template"));
    assert_eq!(world.ok(&["invoke", "fast:live"]), "\"fast\"");
    let plain = world.json(&["show", "plain", "--qualifier", "stable"]);
    assert_eq!(plain["Aliases"][0]["FunctionVersion"], "1", "{plain}");
    assert_eq!(
        plain["FunctionUrlConfigs"][0]["AuthType"], "AWS_IAM",
        "{plain}"
    );
    assert_eq!(plain["EventSourceMappings"][0]["BatchSize"], 20, "{plain}");
    assert_eq!(
        plain["ProvisionedConcurrencyConfigs"][0]["RequestedProvisionedConcurrentExecutions"], 1,
        "{plain}"
    );
    world.fails(&["url", "open"], &["has no URL"]);

    let again = world.json(&[&["import", &template], &own[..]].concat());
    assert_unchanged(&again);
    assert_eq!(
        again["warnings"].as_array().map(Vec::len),
        Some(3),
        "{again}"
    );
    // Code that changes takes alias and environments along.
    let changed = AROUND.replace("return \"fast\"", "return \"faster\"");
    let template = world.file("around/template.yaml", changed);
    let changed = world.json(&[&["import", &template], &own[..]].concat());
    assert_eq!(
        changed["functions"][0]["change"], "code, alias",
        "{changed}"
    );
    assert_eq!(world.ok(&["invoke", "fast:live"]), "\"faster\"");
}

#[test]
fn what_the_template_has_no_more_stays_and_is_told() {
    let world = World::new();
    world
        .server
        .ok(&["query", "CREATE STREAM visits (url text)"]);
    let template = world.file("around/template.yaml", AROUND);
    let import = |more: &[&'static str]| {
        let own = ["import", &template, "--runtime", "python"];
        [&own[..], more].concat()
    };
    let planned = world.ok(&import(&["--plan"]));
    for part in [
        "alias live (1 provisioned), failures to function plain",
        "alias stable (1 provisioned), url, from stream visits",
    ] {
        assert!(planned.contains(part), "no {part:?} in {planned}");
    }
    let planned = world.json(&import(&["--plan"]));
    let config = &planned["functions"][0]["event_invoke_config"];
    assert_eq!(config["MaximumRetryAttempts"], 0, "{planned}");
    world.ok(&import(&[]));
    let less = AROUND
        .replace(
            "      ProvisionedConcurrencyConfig:\n        ProvisionedConcurrentExecutions: 1\n",
            "",
        )
        .replace(
            "      EventInvokeConfig:\n        MaximumRetryAttempts: 0\n        DestinationConfig:\n",
            "      Unknown:\n        A:\n",
        );
    world.file("around/template.yaml", less);
    for more in [&["--plan"][..], &[]] {
        let told = world.run(&import(more));
        assert!(told.status.success(), "{}", text(&told.stderr));
        let told = text(&told.stderr);
        for part in [
            "fast: stays: provisioned concurrency of live, not in ",
            "fast: stays: event invoke config of live, not in ",
        ] {
            assert!(told.contains(part), "no {part:?} in {told}");
        }
        assert!(!told.contains("plain: stays"), "{told}");
    }
    let again = world.json(&import(&[]));
    let fast = &again["functions"][0];
    assert_eq!(fast["change"], "unchanged", "{again}");
    let stays = fast["stays"].as_array().expect("a list");
    assert_eq!(stays.len(), 2, "{again}");
}
