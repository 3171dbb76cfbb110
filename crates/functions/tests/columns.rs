//! Components that take batches of Arrow records: from streams, into streams, and by themselves.

mod common;

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema},
    ipc::reader::StreamReader,
};
use common::{BOUND, ECHO, House};
use lambic_functions::{Code, Deployment, Error, Event, Form, Runtime, Start, Takes, Trigger};
use lambic_model::{FunctionName, StreamName};
use lambic_sandbox::wasm::arrow_stream;
use serde_json::{Value, json};

/// Answers with its batch; `error`: 1 if that is an error.
fn component(error: u8) -> String {
    ECHO.replace(
        "(i32.store8 (i32.const 16) (i32.const 0))",
        &format!("(i32.store8 (i32.const 16) (i32.const {error}))"),
    )
    .replace("\"handle\"", "\"handle-batch\"")
    .replace(
        "(param \"event\" string) (result (result string (error string)))",
        "(param \"batch\" (list u8)) (result (result (list u8) (error string)))",
    )
}

/// The same, with a message for an error.
fn failing() -> String {
    component(1).replace(
        "(i32.store (i32.const 24) (local.get $length))",
        "(i32.store8 (local.get $at) (i32.const 33)) (i32.store (i32.const 24) (i32.const 1))",
    )
}

fn name(name: &str) -> FunctionName {
    FunctionName::new(name).unwrap()
}

fn deployment(code: &str) -> Deployment {
    let mut deployment = Deployment::new(
        name("f"),
        Runtime::Wasm,
        Code::Bytes(code.as_bytes().to_vec()),
    );
    deployment.timeout = BOUND;
    deployment
}

fn triggered(mut deployment: Deployment, output: &str) -> Deployment {
    let stream = |name: &str| StreamName::new(name).unwrap();
    deployment.triggers = vec![Trigger {
        batch_size: 3,
        start: Start::Earliest,
        ..Trigger::new(stream("input"))
    }];
    deployment.output = Some(stream(output));
    deployment
}

fn numbers(rows: &[Value]) -> Vec<i64> {
    let mut numbers: Vec<i64> = rows.iter().map(|row| row["n"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_go_through_the_component_into_the_output_once() {
    let house = House::open().await;
    house.append(&[1, 2, 3, 4, 5]).await;
    let deployment = triggered(deployment(&component(0)), "output");
    let info = house.functions.deploy(deployment.clone()).await.unwrap();
    assert_eq!((info.invocable, info.takes), (true, Takes::Arrow));
    house.append(&[6]).await;
    house.wait_until_read().await;
    let rows = house.rows("output");
    assert_eq!(numbers(&rows), [1, 2, 3, 4, 5, 6]);
    // The system's columns that came along are the output's own.
    let texts: Vec<&str> = rows.iter().map(|row| row["t"].as_str().unwrap()).collect();
    assert!(texts.contains(&"t6"), "{texts:?}");

    // Neither a restart nor a new deployment delivers a record again.
    let house = house.restart().await;
    house.append(&[7]).await;
    house.wait_until_read().await;
    house.functions.deploy(deployment).await.unwrap();
    house.append(&[8]).await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [1, 2, 3, 4, 5, 6, 7, 8]);
    house.functions.flush().await;
    let invocations = house.rows("lambic_invocations");
    let is_fine = |row: &Value| row["kind"] == "stream" && row["outcome"] == "success";
    assert!(invocations.iter().all(is_fine), "{invocations:?}");
    assert!(house.rows("lambic_dead_letters").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_may_take_another_form_when_it_is_deployed_again() {
    let house = House::open().await;
    let source = "\
def handler(event, context):
    return [r['data'] for r in event['Records']]
";
    let in_json = triggered(house.python("f", source).await, "output");
    let in_columns = triggered(deployment(&component(0)), "output");
    for (number, form) in [&in_json, &in_columns, &in_json].into_iter().enumerate() {
        house.functions.deploy(form.clone()).await.unwrap();
        house.append(&[number as i64]).await;
        house.wait_until_read().await;
    }
    assert_eq!(numbers(&house.rows("output")), [0, 1, 2]);
    assert!(house.rows("lambic_dead_letters").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_batch_that_fails_are_told_as_json() {
    let house = House::open().await;
    let mut deployment = triggered(deployment(&failing()), "output");
    deployment.retries = 0;
    house.append(&[1, 2, 3]).await;
    house.functions.deploy(deployment).await.unwrap();
    house.wait_until_read().await;
    let letters = house.rows("lambic_dead_letters");
    assert_eq!(letters.len(), 3);
    for letter in &letters {
        assert_eq!(letter["error_type"], "HandlerError");
        assert_eq!(letter["error_message"], "!");
        let event: Value = serde_json::from_str(letter["event"].as_str().unwrap()).unwrap();
        let number = event["data"]["n"].as_i64().unwrap();
        assert_eq!(
            event["data"],
            json!({"n": number, "t": format!("t{number}")})
        );
        let source = format!("input:{}:{}", event["partition"], event["offset"]);
        assert_eq!(letter["source"], source.as_str());
    }
    assert!(house.rows("output").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_do_not_fit_the_output_are_a_failure_that_says_why() {
    let house = House::open().await;
    let mut deployment = triggered(deployment(&component(0)), "lost");
    deployment.retries = 0;
    house.append(&[1]).await;
    house.functions.deploy(deployment).await.unwrap();
    house.wait_until_read().await;
    let letters = house.rows("lambic_dead_letters");
    assert_eq!(letters[0]["error_type"], "Lambic.BadOutput");
    let message = letters[0]["error_message"].as_str().unwrap();
    let expected = "the output does not fit stream `lost`: ";
    assert!(message.starts_with(expected), "{message}");
    assert!(house.rows("lost").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_form_is_refused() {
    let house = House::open().await;
    let functions = &house.functions;
    functions.deploy(deployment(&component(0))).await.unwrap();
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let field = Field::new("a", DataType::Int64, false);
    let records = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap();
    let in_arrow = |payload| Event {
        payload,
        form: Form::Arrow,
        ..Event::default()
    };
    let batch = arrow_stream(&records).unwrap();
    let called = name("f");
    let answer = functions.invoke_at(&called, None, in_arrow(batch.clone()));
    let answer = answer.await.unwrap();
    let mut reader = StreamReader::try_new(answer.payload(), None).unwrap();
    let found = reader.next().unwrap().unwrap();
    assert_eq!(
        found.column(0).as_primitive::<Int64Type>().values(),
        &[1, 2, 3]
    );
    let refused = |error: Error| match error {
        Error::WrongForm { form, .. } => form,
        other => panic!("{other}"),
    };
    let json = functions.invoke(&name("f"), b"{}".to_vec()).await;
    assert_eq!(refused(json.unwrap_err()), Form::Json);
    let queued = functions.invoke_async(&name("f"), b"{}".to_vec()).await;
    assert_eq!(refused(queued.unwrap_err()), Form::Json);
    let large = functions.invoke_at(&called, None, in_arrow(vec![0; (6 << 20) + 1]));
    assert!(matches!(large.await, Err(Error::PayloadTooLarge { .. })));

    functions.deploy(deployment(ECHO)).await.unwrap();
    let arrow = functions.invoke_at(&called, None, in_arrow(batch));
    assert_eq!(refused(arrow.await.unwrap_err()), Form::Arrow);
}
