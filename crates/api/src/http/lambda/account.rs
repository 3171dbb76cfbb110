//! GetAccountSettings: limits that are AWS's, and what is in use of them. GetFunctionCodeSigningConfig: there is none.

use axum::{extract::State, http::StatusCode};
use lambic_functions::Function;
use serde_json::json;

use super::{
    super::Shared,
    answer::{self, Answer},
    names::Target,
};

/// AWS's, of all functions together.
pub const CONCURRENCY_MAX: usize = 1_000;
const CODE_BYTES_MAX: u64 = 80_530_636_800;
const CODE_BYTES_UNZIPPED_MAX: u64 = 262_144_000;
const CODE_BYTES_ZIPPED_MAX: u64 = 52_428_800;

pub async fn settings(State(app): Shared) -> Answer {
    let functions = app.services.functions.functions();
    let reserved: usize = functions
        .iter()
        .filter_map(|function| function.info.concurrency)
        .sum();
    let code_bytes: u64 = functions.iter().map(|function| code_bytes(function)).sum();
    let body = json!({
        "AccountLimit": {
            "TotalCodeSize": CODE_BYTES_MAX,
            "CodeSizeUnzipped": CODE_BYTES_UNZIPPED_MAX,
            "CodeSizeZipped": CODE_BYTES_ZIPPED_MAX,
            "ConcurrentExecutions": CONCURRENCY_MAX,
            "UnreservedConcurrentExecutions": CONCURRENCY_MAX.saturating_sub(reserved),
        },
        "AccountUsage": { "TotalCodeSize": code_bytes, "FunctionCount": functions.len() },
    });
    Ok(answer::json(StatusCode::OK, &body))
}

/// Of all its versions.
fn code_bytes(function: &Function) -> u64 {
    let infos = function.versions.values().chain([&function.info]);
    infos
        .map(|info| {
            info.upload
                .as_ref()
                .map_or(info.code_bytes, |upload| upload.bytes)
        })
        .sum()
}

/// Terraform asks at every refresh. AWS leaves both members out or empty when nothing is signed.
pub async fn code_signing(State(app): Shared, target: Target) -> Answer {
    target.unqualified()?;
    target.function(&app)?;
    let body = json!({ "CodeSigningConfigArn": "", "FunctionName": target.name.as_str() });
    Ok(answer::json(StatusCode::OK, &body))
}
