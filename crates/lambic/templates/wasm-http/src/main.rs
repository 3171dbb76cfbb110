//! Answers HTTP requests.

use wstd::http::{Body, Error, Method, Request, Response, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    // A line of `lambic function logs {{name}}`.
    println!("{} {}", request.method(), request.uri().path());
    if request.method() != Method::GET {
        let refused = Response::builder().status(StatusCode::METHOD_NOT_ALLOWED);
        return Ok(refused.body(Body::empty())?);
    }
    let text = format!("hello from {}\n", request.uri().path());
    Ok(Response::new(text.into()))
}
