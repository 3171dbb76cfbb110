//! AWS's runtimes: which names there are, which of them run here.

use lambic_functions::{FunctionInfo, Functions, Runtime};

use super::error::AwsError;

/// All that AWS's model knows, and components, which it does not know.
pub const RUNTIMES: [&str; 53] = [
    "nodejs",
    "nodejs4.3",
    "nodejs6.10",
    "nodejs8.10",
    "nodejs10.x",
    "nodejs12.x",
    "nodejs14.x",
    "nodejs16.x",
    "nodejs18.x",
    "nodejs20.x",
    "nodejs22.x",
    "nodejs24.x",
    "nodejs26.x",
    "nodejs4.3-edge",
    "java8",
    "java8.al2",
    "java8.al2023",
    "java11",
    "java11.al2023",
    "java17",
    "java17.al2023",
    "java21",
    "java25",
    "python2.7",
    "python3.6",
    "python3.7",
    "python3.8",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "python3.15",
    "dotnetcore1.0",
    "dotnetcore2.0",
    "dotnetcore2.1",
    "dotnetcore3.1",
    "dotnet6",
    "dotnet8",
    "dotnet10",
    "go1.x",
    "ruby2.5",
    "ruby2.7",
    "ruby3.2",
    "ruby3.3",
    "ruby3.4",
    "ruby4.0",
    "provided",
    "provided.al2",
    "provided.al2023",
    "wasm",
    "provided.wasm",
];

/// What runs code of this name.
pub fn resolve(name: &str) -> Result<Runtime, AwsError> {
    if !RUNTIMES.contains(&name) {
        return Err(AwsError::invalid(format!(
            "Value {name} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or be a valid ARN",
            RUNTIMES.join(", ")
        )));
    }
    Runtime::of_aws(name).ok_or_else(|| {
        if name.starts_with("python2") || name.starts_with("nodejs") {
            return AwsError::invalid(format!(
                "The runtime parameter of {name} is no longer supported for creating or updating AWS Lambda functions. We recommend you use a new runtime (python3.x, nodejs*.x) while creating or updating functions."
            ));
        }
        AwsError::invalid(format!(
            "The runtime {name} is not available on this server; it has python3.x, nodejs*.x, provided.* (a program named bootstrap, such as one that was compiled from Go, Java or .NET) and wasm"
        ))
    })
}

/// AWS's name of what runs a function.
pub fn name(functions: &Functions, info: &FunctionInfo) -> String {
    if !info.settings.runtime_name.is_empty() {
        return info.settings.runtime_name.clone();
    }
    let usual = match info.runtime {
        Runtime::Python => "python3",
        Runtime::Node => "nodejs",
        Runtime::Bootstrap => "provided.al2023",
        Runtime::Wasm => "provided.wasm",
        // It has none.
        Runtime::Image => "",
    };
    functions
        .own_runtime(info.runtime)
        .unwrap_or_else(|| usual.to_owned())
}

pub fn architecture() -> &'static str {
    match cfg!(target_arch = "aarch64") {
        true => "arm64",
        false => "x86_64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_that_are_not_here_say_so() {
        assert_eq!(resolve("python3.11").unwrap(), Runtime::Python);
        assert_eq!(resolve("nodejs20.x").unwrap(), Runtime::Node);
        assert_eq!(resolve("provided.al2023").unwrap(), Runtime::Bootstrap);
        assert_eq!(resolve("wasm").unwrap(), Runtime::Wasm);
        for (lacking, part) in [
            ("java21", "not available"),
            ("dotnet8", "not available"),
            ("ruby3.4", "not available"),
            ("go1.x", "not available"),
            ("python2.7", "no longer supported"),
            ("nodejs4.3", "no longer supported"),
        ] {
            let message = resolve(lacking).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        }
        let message = resolve("python3.99").unwrap_err().message;
        assert!(message.contains("enum value set: [nodejs, "), "{message}");
    }
}
