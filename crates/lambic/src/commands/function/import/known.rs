//! The properties that AWS's and Serverless Framework's descriptions can have, to tell a mistyped one from one that is
//! only not here. Pure.

use crate::toml_source::closest;

/// Of `AWS::Serverless::Function` and `AWS::Lambda::Function` together.
pub const FUNCTION: &[&str] = &[
    "Architectures",
    "AssumeRolePolicyDocument",
    "AutoPublishAlias",
    "AutoPublishAliasAllProperties",
    "AutoPublishCodeSha256",
    "CapacityProviderConfig",
    "Code",
    "CodeSigningConfigArn",
    "CodeUri",
    "DeadLetterConfig",
    "DeadLetterQueue",
    "DeploymentPreference",
    "Description",
    "DurableConfig",
    "Environment",
    "EphemeralStorage",
    "EventInvokeConfig",
    "Events",
    "FileSystemConfigs",
    "FunctionName",
    "FunctionScalingConfig",
    "FunctionUrlConfig",
    "Handler",
    "ImageConfig",
    "ImageUri",
    "InlineCode",
    "KmsKeyArn",
    "Layers",
    "LoggingConfig",
    "MemorySize",
    "PackageType",
    "PermissionsBoundary",
    "Policies",
    "PropagateTags",
    "ProvisionedConcurrencyConfig",
    "PublishToLatestPublished",
    "RecursiveLoop",
    "ReservedConcurrentExecutions",
    "Role",
    "RolePath",
    "Runtime",
    "RuntimeManagementConfig",
    "SnapStart",
    "SourceKMSKeyArn",
    "Tags",
    "TenancyConfig",
    "Timeout",
    "Tracing",
    "TracingConfig",
    "VersionDeletionPolicy",
    "VersionDescription",
    "VpcConfig",
];

/// Of `AWS::Serverless::LayerVersion` and `AWS::Lambda::LayerVersion` together.
pub const LAYER: &[&str] = &[
    "CompatibleArchitectures",
    "CompatibleRuntimes",
    "Content",
    "ContentUri",
    "Description",
    "LayerName",
    "LicenseInfo",
    "PublishLambdaVersion",
    "RetentionPolicy",
];

/// Of what belongs to a function and stands beside it.
pub fn around(kind: &str) -> &'static [&'static str] {
    match kind {
        "AWS::Lambda::Version" => &[
            "CodeSha256",
            "Description",
            "FunctionName",
            "FunctionScalingConfig",
            "ProvisionedConcurrencyConfig",
            "RuntimePolicy",
        ],
        "AWS::Lambda::Alias" => &[
            "Description",
            "FunctionName",
            "FunctionVersion",
            "Name",
            "ProvisionedConcurrencyConfig",
            "RoutingConfig",
        ],
        "AWS::Lambda::Url" => &[
            "AuthType",
            "Cors",
            "InvokeMode",
            "Qualifier",
            "TargetFunctionArn",
        ],
        "AWS::Lambda::EventInvokeConfig" => &[
            "DestinationConfig",
            "FunctionName",
            "MaximumEventAgeInSeconds",
            "MaximumRetryAttempts",
            "Qualifier",
        ],
        _ => &[
            "AmazonManagedKafkaEventSourceConfig",
            "BatchSize",
            "BisectBatchOnFunctionError",
            "DestinationConfig",
            "DocumentDBEventSourceConfig",
            "Enabled",
            "EventSourceArn",
            "FilterCriteria",
            "FunctionName",
            "FunctionResponseTypes",
            "KmsKeyArn",
            "LoggingConfig",
            "MaximumBatchingWindowInSeconds",
            "MaximumRecordAgeInSeconds",
            "MaximumRetryAttempts",
            "MetricsConfig",
            "ParallelizationFactor",
            "ProvisionedPollerConfig",
            "Queues",
            "ScalingConfig",
            "SelfManagedEventSource",
            "SelfManagedKafkaEventSourceConfig",
            "SourceAccessConfigurations",
            "StartingPosition",
            "StartingPositionTimestamp",
            "Tags",
            "Topics",
            "TumblingWindowInSeconds",
        ],
    }
}

/// Of a function of `serverless.yml`.
pub const OF_SERVICE: &[&str] = &[
    "architecture",
    "build",
    "condition",
    "dependsOn",
    "description",
    "destinations",
    "disableLogs",
    "environment",
    "ephemeralStorageSize",
    "events",
    "fileSystemConfig",
    "handler",
    "iam",
    "image",
    "kmsKeyArn",
    "layers",
    "logDataProtectionPolicy",
    "logRetentionInDays",
    "logs",
    "maximumEventAge",
    "maximumRetryAttempts",
    "memorySize",
    "name",
    "onError",
    "package",
    "provisionedConcurrency",
    "recursiveLoop",
    "reservedConcurrency",
    "role",
    "runtime",
    "runtimeManagement",
    "snapStart",
    "tags",
    "timeout",
    "tracing",
    "url",
    "versionFunction",
    "versionFunctions",
    "vpc",
];

/// Members of properties that have some.
pub fn members(property: &str) -> Option<&'static [&'static str]> {
    let members: &'static [&'static str] = match property {
        "DeadLetterConfig" => &["TargetArn"],
        "DeadLetterQueue" => &["TargetArn", "Type"],
        "Environment" => &["Variables"],
        "EphemeralStorage" => &["Size"],
        "EventInvokeConfig" => &[
            "DestinationConfig",
            "MaximumEventAgeInSeconds",
            "MaximumRetryAttempts",
        ],
        "FunctionUrlConfig" => &["AuthType", "Cors", "InvokeMode"],
        "LoggingConfig" => &[
            "ApplicationLogLevel",
            "LogFormat",
            "LogGroup",
            "SystemLogLevel",
        ],
        "ProvisionedConcurrencyConfig" => &["ProvisionedConcurrentExecutions"],
        "SnapStart" => &["ApplyOn"],
        "TracingConfig" => &["Mode"],
        _ => return None,
    };
    Some(members)
}

/// What to say of a name that is none of `known`.
pub fn mistyped(name: &str, known: &[&str]) -> Option<String> {
    // `Fn::Transform` and the like stand for properties that are not known yet.
    if known.contains(&name) || name.starts_with("Fn::") {
        return None;
    }
    Some(match closest(name, known.iter().copied()) {
        Some(best) => format!("there is no such property; did you mean {best}?"),
        None => "there is no such property".to_owned(),
    })
}

/// A kind of resource that is taken over, where `kind` is none but is written almost like it.
pub fn kind_meant<'a>(kind: &str, kinds: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let best = closest(kind, kinds)?;
    // Kinds have long parts in common: `AWS::Serverless::Function` and `AWS::Serverless::Connector`.
    (kind != best && strsim::damerau_levenshtein(kind, best) <= 2).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_told_with_the_one_that_was_meant() {
        for (name, known, expected) in [
            ("MemorySize", FUNCTION, None),
            ("Fn::Transform", FUNCTION, None),
            ("Memorysize", FUNCTION, Some("did you mean MemorySize?")),
            ("TimeOut", FUNCTION, Some("did you mean Timeout?")),
            ("Enviroment", FUNCTION, Some("did you mean Environment?")),
            ("Qqqqqqqqqqqqq", FUNCTION, Some("there is no such property")),
            ("memorysize", OF_SERVICE, Some("did you mean memorySize?")),
            ("Layername", LAYER, Some("did you mean LayerName?")),
        ] {
            let found = mistyped(name, known);
            match expected {
                None => assert_eq!(found, None),
                Some(end) => assert!(
                    found.as_ref().is_some_and(|told| told.ends_with(end)),
                    "{found:?}"
                ),
            }
        }
        assert!(members("Environment").is_some_and(|all| all == ["Variables"]));
        assert_eq!(members("Layers"), None);
    }

    #[test]
    fn a_mistyped_kind_is_told_apart_from_another_one() {
        let kinds = ["AWS::Serverless::Function", "AWS::Lambda::Function"];
        for (kind, expected) in [
            ("AWS::Serverles::Function", Some(kinds[0])),
            ("AWS::Lambda::Fuction", Some(kinds[1])),
            ("AWS::Lambda::Function", None),
            ("AWS::Serverless::Connector", None),
            ("AWS::S3::Bucket", None),
        ] {
            assert_eq!(kind_meant(kind, kinds.into_iter()), expected, "{kind}");
        }
    }
}
