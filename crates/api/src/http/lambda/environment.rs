//! Environment variables that a function may set: AWS keeps some names for the runtime, and all together are small.

use std::collections::BTreeMap;

use serde_json::json;

use super::error::AwsError;

/// Of names and values together, as JSON.
const BYTES_MAX: usize = 4 << 10;

/// The runtime's own; the functions' room sets them.
const RESERVED: [&str; 19] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];

pub fn check(variables: &BTreeMap<String, String>) -> Result<(), AwsError> {
    let reserved: Vec<&str> = variables
        .keys()
        .map(String::as_str)
        .filter(|name| RESERVED.contains(name))
        .collect();
    if !reserved.is_empty() {
        return Err(AwsError::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have provided contains reserved keys that are currently not supported for modification. Reserved keys used in this request: {}",
            reserved.join(", ")
        )));
    }
    let text = json!(variables).to_string();
    if text.len() > BYTES_MAX {
        return Err(AwsError::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have provided exceeded the 4KB limit. String measured: {text}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn variables_of_the_runtime_are_refused() {
        let check = |name: &str, value: String| {
            let variables = [(name.to_owned(), value)].into_iter().collect();
            super::check(&variables).map_err(|error| error.message)
        };
        assert_eq!(check("MINE", String::new()), Ok(()));
        let message = check("AWS_REGION", String::new()).unwrap_err();
        assert!(
            message.ends_with("used in this request: AWS_REGION"),
            "{message}"
        );
        let message = check("MINE", "x".repeat(4_096)).unwrap_err();
        assert!(message.contains("4KB limit"), "{message}");
    }
}
