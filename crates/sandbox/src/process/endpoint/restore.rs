//! The paths for what a runtime does before its first event: it waits for that at the end of its start.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming};

use super::{Reported, Restore, Said, Shared, accepted, body, kind_of, refused, wrong_state};

pub async fn next(shared: &Shared) -> Response<Full<Bytes>> {
    if !shared.about.lock().expect("held shortly").is_restored {
        return wrong_state("the environment is not restored: it is not one of `snap-start`");
    }
    {
        let mut state = shared.state();
        if state.is_ready {
            return wrong_state("the start has ended");
        }
        state.restore = Restore::Waits;
        shared.becomes_ready(&mut state);
    }
    loop {
        if shared.state().restore != Restore::Waits {
            return Response::new(Full::default());
        }
        shared.event_set.notified().await;
    }
}

pub async fn error(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let is_running = |shared: &Shared| shared.state().restore == Restore::Runs;
    if !is_running(shared) {
        return wrong_state("it is not being restored");
    }
    let kind = kind_of(request.headers());
    match body(request).await {
        Ok(_) if !is_running(shared) => wrong_state("it is not being restored"),
        Ok(body) => {
            let ends = true;
            shared.say(Said::RestoreError(Reported { body, kind, ends }));
            accepted()
        }
        Err(status) => refused(status, "InvalidRequest", "the body could not be read"),
    }
}
