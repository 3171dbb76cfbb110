//! Bytes that no client sends meet the Postgres door: it answers or hangs up, and goes on serving others.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

const CASES: usize = 300;
const PATIENCE: Duration = Duration::from_secs(60);

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind], &length[..], body].concat()
}

fn startup() -> Vec<u8> {
    let body = b"\x00\x03\x00\x00user\0lambic\0database\0lambic\0client_encoding\0UTF8\0\0";
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&length[..], body].concat()
}

/// What drivers send: simple queries, and prepared ones with parameters of both formats.
fn session() -> Vec<u8> {
    let parse = b"one\0SELECT id FROM notes WHERE id = $1 AND text = $2\0\x00\x02\x00\x00\x00\x14\x00\x00\x00\x19";
    let bind = b"\0one\0\x00\x02\x00\x01\x00\x00\x00\x02\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x01x\x00\x01\x00\x01";
    [
        message(b'Q', b"SELECT 1, 'a;b'; SELECT text FROM notes\0"),
        message(b'P', parse),
        message(b'D', b"Sone\0"),
        message(b'B', bind),
        message(b'D', b"P\0"),
        message(b'E', b"\0\x00\x00\x00\x00"),
        message(b'C', b"Sone\0"),
        message(b'S', b""),
        message(b'Q', b"SET application_name = 'x'; SHOW server_version\0"),
        message(b'X', b""),
    ]
    .concat()
}

fn change(bytes: &mut Vec<u8>, chance: &mut StdRng) {
    let at = chance.random_range(0..bytes.len());
    match chance.random_range(0..5) {
        0 => bytes[at] ^= 1 << chance.random_range(0..8),
        1 => bytes[at] = chance.random(),
        2 => bytes.truncate(at.max(1)),
        3 => bytes.insert(at, chance.random()),
        _ => {
            let end = (at + chance.random_range(1..8)).min(bytes.len());
            bytes.drain(at..end.max(at + 1).min(bytes.len()));
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

#[tokio::test]
async fn changed_messages_are_answered_or_end_the_connection() {
    let served = served(Options::default()).await;
    let seed: u64 = rand::random::<u32>().into();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    for case in 0..CASES {
        let (mut first, mut rest) = (startup(), session());
        // Mostly what follows a good startup.
        let changed = if case % 4 == 0 { &mut first } else { &mut rest };
        for _ in 0..chance.random_range(1..5) {
            change(changed, &mut chance);
        }
        let mut socket = TcpStream::connect(served.handle.pg).await.unwrap();
        // It may have hung up already.
        let _ = socket.write_all(&[first, rest].concat()).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(
            read.is_ok(),
            "seed {seed}, case {case}: it neither answers nor hangs up"
        );
    }
    let mut wire = Wire::connect(&served).await;
    wire.send(b'Q', b"SELECT 1\0").await;
    assert!(wire.answers().await.iter().any(|(kind, _)| *kind == 'D'));
}
