//! Where a caller is, and what AWS's API answers to one whose signature is not right.
//!
//! Signatures are verified before ([`super::super::auth`]) where the server has keys. Where it has none they are not,
//! and tell the place all the same.

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::Next,
    response::Response,
};
use lambic_functions::{ACCOUNT, REGION};

use super::{
    super::auth::Caller,
    error::AwsError,
    names::{Place, is_account, is_region},
    sigv4::Refusal,
};

/// Leaves the [`Place`] of the caller with the request.
pub async fn identify(mut request: Request, next: Next) -> Response {
    let place = match request.extensions().get::<Caller>() {
        Some(caller) => Some(known(caller)),
        None => place(request.headers()),
    };
    if let Some(place) = place {
        request.extensions_mut().insert(place);
    }
    next.run(request).await
}

/// The account is that to which everything belongs, whoever asks.
fn known(caller: &Caller) -> Place {
    let region = caller.region.clone().filter(|region| is_region(region));
    Place {
        region: region.unwrap_or(REGION.to_owned()),
        account: ACCOUNT.to_owned(),
    }
}

impl From<Refusal> for AwsError {
    fn from(refusal: Refusal) -> AwsError {
        let (status, kind, message) = match refusal {
            Refusal::Missing => (
                StatusCode::FORBIDDEN,
                "MissingAuthenticationTokenException",
                "Missing Authentication Token".to_owned(),
            ),
            Refusal::Incomplete(message) => (
                StatusCode::BAD_REQUEST,
                "IncompleteSignatureException",
                message,
            ),
            Refusal::UnknownKey => (
                StatusCode::FORBIDDEN,
                "UnrecognizedClientException",
                "The security token included in the request is invalid.".to_owned(),
            ),
            Refusal::Invalid(message) => {
                (StatusCode::FORBIDDEN, "InvalidSignatureException", message)
            }
        };
        AwsError::new(status, kind, message)
    }
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
    fn refusals_have_the_names_that_aws_gives_them() {
        let text = || "x".to_owned();
        for (refusal, status, kind) in [
            (Refusal::Missing, 403, "MissingAuthenticationTokenException"),
            (
                Refusal::Incomplete(text()),
                400,
                "IncompleteSignatureException",
            ),
            (Refusal::UnknownKey, 403, "UnrecognizedClientException"),
            (Refusal::Invalid(text()), 403, "InvalidSignatureException"),
        ] {
            let error = AwsError::from(refusal);
            assert_eq!((error.status.as_u16(), error.kind), (status, kind));
        }
    }

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
