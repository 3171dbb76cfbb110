//! Who calls: what a request's signature says about the caller.
//!
//! The server answers on loopback only, where everybody may do everything, so signatures (SigV4) are read and not
//! verified. This is the place where they will be.

use axum::{
    extract::Request,
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::Next,
    response::Response,
};

use super::names::{Place, is_account, is_region};

/// Leaves the [`Place`] of the caller with the request.
pub async fn identify(mut request: Request, next: Next) -> Response {
    if let Some(place) = place(request.headers()) {
        request.extensions_mut().insert(place);
    }
    next.run(request).await
}

/// From `AWS4-HMAC-SHA256 Credential=<key id>/<date>/<region>/lambda/aws4_request, …`. A key id of twelve digits is
/// taken for the account, as other local servers do.
fn place(headers: &HeaderMap) -> Option<Place> {
    let signature = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (_, scope) = signature.strip_prefix("AWS4-")?.split_once("Credential=")?;
    let scope = scope.split([',', ' ']).next()?;
    let mut parts = scope.rsplit('/');
    let region = parts.nth(2).filter(|region| is_region(region));
    let key_id = parts.nth(1).filter(|key_id| is_account(key_id));
    let mut place = Place::default();
    if let Some(region) = region {
        place.region = region.to_owned();
    }
    if let Some(account) = key_id {
        place.account = account.to_owned();
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_scope_of_a_signature_says_where_the_caller_is() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            let place = place(&[(AUTHORIZATION, value)].into_iter().collect())?;
            Some((place.region, place.account))
        };
        let both = |region: &str, account: &str| Some((region.to_owned(), account.to_owned()));
        let signed = |scope: &str| {
            read(&format!(
                "AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00"
            ))
        };
        assert_eq!(
            signed("AKID/20261127/eu-west-1/lambda/aws4_request"),
            both("eu-west-1", "000000000000")
        );
        assert_eq!(
            signed("123456789012/20261127/us-east-2/lambda/aws4_request"),
            both("us-east-2", "123456789012")
        );
        assert_eq!(
            signed("a/b/20261127/nowhere/lambda/aws4_request"),
            both("us-east-1", "000000000000")
        );
        assert_eq!(signed("x"), both("us-east-1", "000000000000"));
        assert_eq!(read("Bearer x"), None);
    }
}
