//! Sends one subscriber its batches, one behind the other, and again what did not get through.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{
    Due, Telemetry,
    connector::Connector,
    subscription::{Destination, Subscription},
};

/// Of one attempt, while the environment runs.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);
/// The head of an answer; the rest is of no interest.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Ends with the environment.
pub async fn run(telemetry: Arc<Telemetry>, subscriber: usize, connector: Connector) {
    let Some(subscription) = telemetry.subscription(subscriber) else {
        return;
    };
    let mut line = None;
    loop {
        let moved = telemetry.moved.notified();
        tokio::pin!(moved);
        moved.as_mut().enable();
        let batch = match telemetry.due(subscriber) {
            Due::Nothing => {
                moved.await;
                continue;
            }
            Due::At(at) => {
                tokio::select! {
                    () = moved => {}
                    () = tokio::time::sleep_until(at) => {}
                }
                continue;
            }
            Due::Send(batch) => batch,
        };
        let attempt = send(&connector, &subscription, &batch, &mut line);
        let is_taken = within_running_time(&telemetry, attempt).await;
        telemetry.attempted(subscriber, batch.len(), is_taken);
        if !is_taken {
            line = None;
        }
    }
}

/// An attempt that fails after a time that counts only while the environment runs: who stands still cannot answer.
async fn within_running_time(
    telemetry: &Telemetry,
    attempt: impl Future<Output = io::Result<()>>,
) -> bool {
    tokio::pin!(attempt);
    let mut left = ATTEMPT_TIME_MAX;
    loop {
        let before = Instant::now();
        tokio::select! {
            result = &mut attempt => return result.is_ok(),
            () = tokio::time::sleep(TICK.min(left)) => {}
        }
        if telemetry.is_running() {
            left = left.saturating_sub(before.elapsed());
        }
        if left.is_zero() {
            return false;
        }
    }
}

/// `line`: a TCP subscriber's connection, which stays.
async fn send(
    connector: &Connector,
    subscription: &Subscription,
    batch: &[Bytes],
    line: &mut Option<TcpStream>,
) -> io::Result<()> {
    match &subscription.destination {
        Destination::Tcp { port } => {
            let mut lines = Vec::new();
            for event in batch {
                lines.extend_from_slice(event);
                lines.push(b'\n');
            }
            let mut stream = match line.take() {
                Some(stream) => stream,
                None => connector.connect(*port).await?,
            };
            stream.write_all(&lines).await?;
            *line = Some(stream);
            Ok(())
        }
        Destination::Http { port, path, method } => {
            let stream = connector.connect(*port).await?;
            ask(stream, method, path, *port, &body(batch)).await
        }
    }
}

/// A JSON list.
fn body(batch: &[Bytes]) -> Vec<u8> {
    let mut body = Vec::with_capacity(batch.iter().map(|event| event.len() + 1).sum::<usize>() + 2);
    for (number, event) in batch.iter().enumerate() {
        body.push(if number == 0 { b'[' } else { b',' });
        body.extend_from_slice(event);
    }
    body.push(b']');
    body
}

/// One request on a connection of its own; anything but 2xx is an error.
async fn ask(
    mut stream: TcpStream,
    method: &str,
    path: &str,
    port: u16,
    body: &[u8],
) -> io::Result<()> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: sandbox.localdomain:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    let mut part = [0; 1_024];
    while answer.len() < HEAD_BYTES_MAX && !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part).await? {
            0 => break,
            bytes => answer.extend_from_slice(&part[..bytes]),
        }
    }
    let status = std::str::from_utf8(answer.get(9..12).unwrap_or_default());
    let status = status.ok().and_then(|status| status.parse::<u16>().ok());
    if !answer.starts_with(b"HTTP/1.") || !status.is_some_and(|status| (200..300).contains(&status))
    {
        return Err(io::Error::other(
            "the subscriber did not take its telemetry",
        ));
    }
    // Whoever closes first has the trouble: the listener is given the time to do it, so that it sees no broken
    // connection.
    let rest = async {
        while let Ok(bytes) = stream.read(&mut part).await
            && bytes > 0
        {}
    };
    let _ = tokio::time::timeout(TICK, rest).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_batch_is_taken_only_with_a_good_answer() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.0 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 500 Sorry\r\n\r\n", false),
            ("HTTP/1.1 200", true),
            ("hello", false),
            ("", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let mut read = 0;
                while !request[..read].ends_with(b"[1,2]") {
                    read += stream.read(&mut request[read..]).await.unwrap();
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8(request[..read].to_vec()).unwrap()
            });
            let batch = [Bytes::from_static(b"1"), Bytes::from_static(b"2")];
            let stream = Connector::Host.connect(port).await.unwrap();
            let taken = ask(stream, "POST", "/x", port, &body(&batch)).await;
            assert_eq!(taken.is_ok(), expected, "{answer}");
            let request = served.await.unwrap();
            assert!(request.starts_with("POST /x HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("Content-Length: 5\r\n"), "{request}");
        }
    }
}
