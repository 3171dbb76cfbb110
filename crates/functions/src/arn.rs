//! Names as AWS's clients want them.

/// What clients of AWS check names against is a region and an account; there is one of each here.
pub const REGION: &str = "us-east-1";
pub const ACCOUNT: &str = "000000000000";

/// `name`: also with a qualifier, `f:live`.
pub fn function_arn(name: &str) -> String {
    format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")
}

/// As clients name a stream that is a source or a destination.
pub fn stream_arn(name: &str) -> String {
    format!("arn:aws:lambic:{REGION}:{ACCOUNT}:stream/{name}")
}
