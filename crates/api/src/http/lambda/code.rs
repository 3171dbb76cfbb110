//! `GET /v1/code/{sha256}.zip`: a zip that was uploaded, to whoever was given its URL by GetFunction or
//! GetLayerVersion. It is known by its content, so that only those find it who know it.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream};
use tokio::{fs::File, io::AsyncReadExt};

use super::super::{Shared, error::Failure};

const STEP_BYTES: usize = 64 << 10;

pub async fn fetch(State(app): Shared, Path(file): Path<String>) -> Result<Response, Failure> {
    let missing = || Failure::not_found(format!("there is no code {file}"));
    let sha256 = file.strip_suffix(".zip").filter(|text| is_sha256(text));
    let path = sha256.and_then(|sha256| app.services.functions.zip(sha256));
    let path = path.ok_or_else(missing)?;
    let unreadable = |error: std::io::Error| {
        let message = format!("cannot read the code: {error}");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).with_retry()
    };
    let opened = File::open(path).await.map_err(unreadable)?;
    let bytes = opened.metadata().await.map_err(unreadable)?.len();
    let headers = [
        (header::CONTENT_TYPE, "application/zip".to_owned()),
        (header::CONTENT_LENGTH, bytes.to_string()),
    ];
    Ok((headers, Body::from_stream(chunks(opened))).into_response())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn chunks(file: File) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::try_unfold(file, |mut file| async move {
        let mut chunk = BytesMut::with_capacity(STEP_BYTES);
        match file.read_buf(&mut chunk).await? {
            0 => Ok(None),
            _ => Ok(Some((chunk.freeze(), file))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_are_looked_for() {
        assert!(is_sha256(&"0a".repeat(32)));
        for other in ["", "../x", &"0A".repeat(32), &"0a".repeat(31)] {
            assert!(!is_sha256(other), "{other}");
        }
    }
}
