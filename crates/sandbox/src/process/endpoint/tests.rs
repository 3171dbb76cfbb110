//! The Runtime API by its bytes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::process::telemetry::Connectors;

#[tokio::test]
async fn an_environment_has_a_bound_of_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let telemetry = Telemetry::new(Connectors::Host);
    let _endpoint = Endpoint::serve(listener, About::default(), Vec::new(), telemetry);
    let connect = || TcpStream::connect(address);
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        open.push(connect().await.unwrap());
    }
    let mut one_more = connect().await.unwrap();
    one_more
        .write_all(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    let read = one_more.read_exact(&mut answer);
    tokio::pin!(read);
    let answered = tokio::time::timeout(Duration::from_millis(200), &mut read).await;
    assert!(answered.is_err(), "it was answered beyond the bound");
    open.pop();
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("its turn comes when another one is closed")
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

/// One request and its answer, whole.
async fn ask(socket: &mut TcpStream, request: String) -> String {
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).unwrap();
            let length = length.split("\r\n").next().unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                return text;
            }
        }
        assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0);
    }
}

fn event(id: &str) -> Event {
    let invocation = Invocation {
        request_id: id.to_owned(),
        payload: Bytes::from_static(b"{}"),
        timeout: Duration::from_secs(60),
        function_arn: String::new(),
        trace_id: String::new(),
        client_context: String::new(),
        cognito_identity: String::new(),
    };
    Event {
        invocation,
        deadline_ms: 0,
        stream: None,
    }
}

fn response(id: &str, headers: &str) -> String {
    format!(
        "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: 2\r\n\r\n{{}}"
    )
}

#[tokio::test]
async fn the_next_event_is_the_answer_to_a_response_that_asks_for_it() {
    const NEXT_EVENT: &str = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: h\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let telemetry = Telemetry::new(Connectors::Host);
    let endpoint = Endpoint::serve(listener, About::default(), Vec::new(), telemetry);
    let mut socket = TcpStream::connect(address).await.unwrap();
    endpoint.set_event(event("one"));
    let answer = ask(&mut socket, NEXT_EVENT.to_owned()).await;
    assert!(answer.contains("request-id: one"), "{answer}");
    assert!(matches!(endpoint.said().await, Said::Ready));
    let asks = tokio::spawn(async move {
        let answer = ask(&mut socket, response("one", "Lambic-Runtime-Next: 1\r\n")).await;
        (socket, answer)
    });
    // It is heard before there is another event.
    assert!(matches!(endpoint.said().await, Said::Response(_)));
    endpoint.set_event(event("two"));
    let (mut socket, answer) = asks.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("request-id: two"), "{answer}");
    // Of any other client a response is only taken.
    let answer = ask(&mut socket, response("two", "")).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert!(matches!(endpoint.said().await, Said::Response(_)));
    // One that is refused has no event for an answer.
    let answer = ask(&mut socket, response("two", "Lambic-Runtime-Next: 1\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}
