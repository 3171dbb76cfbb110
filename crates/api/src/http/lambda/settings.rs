//! The members of a function that its creation and its changes share: checked against AWS's constraints, and taken
//! apart into what has an effect here and what is kept and given back.

use std::{collections::BTreeMap, time::Duration};

use lambic_functions::{Destination, Functions, ImageConfig, LayerUse};
use lambic_model::FunctionName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    asynchronous::check_destination,
    check::{HANDLER, KMS_KEY, LOG_GROUP, ROLE, TAG, VARIABLE, Violations},
    environment,
    error::AwsError,
    names,
    request::Blob,
};

const MEMORY_MB: (i64, i64) = (128, 10_240);
const TMP_MB: (i64, i64) = (512, 10_240);
const LAYERS_MAX: usize = 5;
/// AWS's, of an entry point or a command.
const IMAGE_WORDS_MAX: usize = 1_500;
pub const ARCHITECTURES: [&str; 2] = ["x86_64", "arm64"];

/// CreateFunction's and UpdateFunctionConfiguration's bodies: what the other does not have is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Members {
    pub function_name: Option<String>,
    pub runtime: Option<String>,
    pub role: Option<String>,
    pub handler: Option<String>,
    pub code: Option<CodeMembers>,
    pub description: Option<String>,
    pub timeout: Option<i64>,
    pub memory_size: Option<i64>,
    pub publish: Option<bool>,
    pub package_type: Option<String>,
    pub tags: Option<BTreeMap<String, String>>,
    pub environment: Option<Environment>,
    pub layers: Option<Vec<String>>,
    pub architectures: Option<Vec<String>>,
    pub ephemeral_storage: Option<EphemeralStorage>,
    pub revision_id: Option<String>,
    dead_letter_config: Option<DeadLetterConfig>,
    vpc_config: Option<VpcConfig>,
    #[serde(rename = "KMSKeyArn")]
    kms_key_arn: Option<String>,
    tracing_config: Option<TracingConfig>,
    snap_start: Option<SnapStart>,
    logging_config: Option<LoggingConfig>,
    code_signing_config_arn: Option<String>,
    file_system_configs: Option<Vec<Value>>,
    pub image_config: Option<ImageMembers>,
    tenancy_config: Option<Value>,
    capacity_provider_config: Option<Value>,
    durable_config: Option<Value>,
    runtime_config: Option<Value>,
    accelerator_config: Option<Value>,
}

/// `Code` of CreateFunction, and the whole of UpdateFunctionCode.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CodeMembers {
    pub zip_file: Option<Blob>,
    pub s3_bucket: Option<String>,
    pub s3_key: Option<String>,
    pub image_uri: Option<String>,
    pub architectures: Option<Vec<String>>,
    pub publish: Option<bool>,
    pub dry_run: Option<bool>,
    pub revision_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Environment {
    pub variables: Option<BTreeMap<String, String>>,
}

/// What stands in the place of what an image says; what is empty is the image's.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageMembers {
    entry_point: Option<Vec<String>>,
    command: Option<Vec<String>>,
    working_directory: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EphemeralStorage {
    pub size: Option<i64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct DeadLetterConfig {
    target_arn: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct VpcConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    subnet_ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    security_group_ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6_allowed_for_dual_stack: Option<bool>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct TracingConfig {
    mode: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct SnapStart {
    apply_on: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct LoggingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_log_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_log_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_group: Option<String>,
}

impl Members {
    /// The constraints of the shapes.
    /// `timeout_max`: AWS's is 15 minutes, a server's may be longer.
    pub fn check(&self, timeout_max: Duration, violations: &mut Violations) {
        let v = violations;
        let timeout_s_max = i64::try_from(timeout_max.as_secs()).unwrap_or(i64::MAX);
        v.length("handler", self.handler.as_deref(), 0, 128);
        v.pattern("handler", self.handler.as_deref(), &HANDLER);
        v.pattern("role", self.role.as_deref(), &ROLE);
        v.length("description", self.description.as_deref(), 0, 256);
        v.range("timeout", self.timeout, 1, timeout_s_max);
        v.range("memorySize", self.memory_size, MEMORY_MB.0, MEMORY_MB.1);
        v.one_of(
            "packageType",
            self.package_type.as_deref(),
            &["Zip", "Image"],
        );
        v.pattern("kMSKeyArn", self.kms_key_arn.as_deref(), &KMS_KEY);
        let architectures = self.architectures.as_deref();
        v.count("architectures", architectures, 1, 1);
        v.each_of("architectures", architectures, &ARCHITECTURES);
        if let Some(storage) = &self.ephemeral_storage {
            v.required("ephemeralStorage.size", &storage.size);
            v.range("ephemeralStorage.size", storage.size, TMP_MB.0, TMP_MB.1);
        }
        if let Some(variables) = self.environment.as_ref().and_then(|e| e.variables.as_ref()) {
            v.keys("environment.variables", variables.keys(), &VARIABLE);
        }
        if let Some(tags) = &self.tags {
            check_tags(v, tags);
        }
        if let Some(config) = &self.dead_letter_config {
            v.pattern(
                "deadLetterConfig.targetArn",
                config.target_arn.as_deref(),
                &KMS_KEY,
            );
        }
        if let Some(config) = &self.tracing_config {
            v.one_of(
                "tracingConfig.mode",
                config.mode.as_deref(),
                &["Active", "PassThrough"],
            );
        }
        if let Some(config) = &self.snap_start {
            v.one_of(
                "snapStart.applyOn",
                config.apply_on.as_deref(),
                &["PublishedVersions", "None"],
            );
        }
        if let Some(config) = &self.vpc_config {
            v.count("vpcConfig.subnetIds", config.subnet_ids.as_deref(), 0, 16);
            v.count(
                "vpcConfig.securityGroupIds",
                config.security_group_ids.as_deref(),
                0,
                5,
            );
        }
        if let Some(config) = &self.logging_config {
            config.check(v);
        }
        if let Some(config) = &self.image_config {
            let (entry_point, command) = (config.entry_point.as_deref(), config.command.as_deref());
            v.count("imageConfig.entryPoint", entry_point, 0, IMAGE_WORDS_MAX);
            v.count("imageConfig.command", command, 0, IMAGE_WORDS_MAX);
            let dir = config.working_directory.as_deref();
            v.length("imageConfig.workingDirectory", dir, 0, 1_000);
        }
    }

    /// What this server cannot do is refused: code that counts on it would fail later.
    pub fn check_available(&self) -> Result<(), AwsError> {
        if let Some(arn) = self.code_signing_config_arn.as_deref()
            && !arn.is_empty()
        {
            return Err(AwsError::new(
                axum::http::StatusCode::NOT_FOUND,
                "CodeSigningConfigNotFoundException",
                format!(
                    "The code signing configuration cannot be found. Check that the provided code signing configuration is not deleted: {arn}."
                ),
            ));
        }
        let has_file_systems = self
            .file_system_configs
            .as_ref()
            .is_some_and(|all| !all.is_empty());
        let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|all| !all.is_empty());
        let has_vpc = self
            .vpc_config
            .as_ref()
            .is_some_and(|config| some(&config.subnet_ids) || some(&config.security_group_ids));
        let has_key = self.kms_key_arn.as_ref().is_some_and(|key| !key.is_empty());
        for (is_there, why) in [
            (
                has_vpc,
                "VpcConfig is not available on this server: a function is in no VPC, and reaches public addresses only",
            ),
            (
                has_key,
                "KMSKeyArn is not available on this server: it has no KMS, and keeps variables and code unencrypted",
            ),
        ] {
            if is_there {
                return Err(AwsError::invalid(why));
            }
        }
        for (name, is_there) in [
            ("FileSystemConfigs", has_file_systems),
            ("TenancyConfig", self.tenancy_config.is_some()),
            (
                "CapacityProviderConfig",
                self.capacity_provider_config.is_some(),
            ),
            ("DurableConfig", self.durable_config.is_some()),
            ("RuntimeConfig", self.runtime_config.is_some()),
            ("AcceleratorConfig", self.accelerator_config.is_some()),
        ] {
            if is_there {
                return Err(AwsError::invalid(format!(
                    "{name} is not available on this server"
                )));
            }
        }
        Ok(())
    }

    /// Events that keep failing go where other results can go, too. Whether that is there is another question.
    pub fn check_dead_letter(&self, name: &FunctionName) -> Result<Option<Destination>, AwsError> {
        let config = self.dead_letter_config.as_ref();
        let target = config.and_then(|config| config.target_arn.as_deref());
        let target = target.filter(|arn| !arn.is_empty());
        target.map(|arn| check_destination(name, arn)).transpose()
    }

    /// Members that are kept and given back; a `null` takes one away.
    pub fn kept(&self) -> BTreeMap<String, Value> {
        let mut kept = BTreeMap::new();
        let mut keep = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                kept.insert(name.to_owned(), value);
            }
        };
        let unless = |is_empty: bool, value: Value| if is_empty { Value::Null } else { value };
        let dead_letter = self.dead_letter_config.as_ref();
        keep(
            "DeadLetterConfig",
            dead_letter.map(|config| {
                let target = config.target_arn.as_deref();
                unless(target.unwrap_or_default().is_empty(), to_value(config))
            }),
        );
        let vpc = self.vpc_config.as_ref();
        keep(
            "VpcConfig",
            vpc.map(|config| {
                let subnets = config.subnet_ids.as_deref();
                unless(subnets.unwrap_or_default().is_empty(), to_value(config))
            }),
        );
        let key = self.kms_key_arn.as_deref();
        keep(
            "KMSKeyArn",
            key.map(|key| unless(key.is_empty(), Value::from(key))),
        );
        let tracing = self.tracing_config.as_ref();
        keep(
            "TracingConfig",
            tracing.map(|config| unless(config.mode.is_none(), to_value(config))),
        );
        let snap_start = self.snap_start.as_ref();
        keep(
            "SnapStart",
            snap_start.map(|config| unless(config.apply_on.is_none(), to_value(config))),
        );
        keep("LoggingConfig", self.logging_config.as_ref().map(to_value));
        keep("Architectures", self.architectures.as_ref().map(to_value));
        kept
    }

    /// Whether these members are those of a function of this kind.
    pub fn check_kind(&self, is_image: bool) -> Result<(), AwsError> {
        let has_layers = self
            .layers
            .as_ref()
            .is_some_and(|layers| !layers.is_empty());
        let of_zip = self.runtime.is_some() || self.handler.is_some() || has_layers;
        match is_image {
            true if of_zip => Err(AwsError::invalid(
                "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image.",
            )),
            false if self.image_config.is_some() => Err(AwsError::invalid(
                "Please don't provide ImageConfig when the intended function PackageType is Zip.",
            )),
            _ => Ok(()),
        }
    }

    pub fn image(&self) -> Option<ImageConfig> {
        let config = self.image_config.as_ref()?;
        Some(ImageConfig {
            entry_point: config.entry_point.clone().unwrap_or_default(),
            command: config.command.clone().unwrap_or_default(),
            working_dir: config.working_directory.clone().unwrap_or_default(),
        })
    }

    pub fn variables(&self) -> Result<Option<BTreeMap<String, String>>, AwsError> {
        let Some(environment) = &self.environment else {
            return Ok(None);
        };
        let variables = environment.variables.clone().unwrap_or_default();
        environment::check(&variables)?;
        Ok(Some(variables))
    }

    pub fn layers(&self, functions: &Functions) -> Result<Option<Vec<LayerUse>>, AwsError> {
        let Some(arns) = &self.layers else {
            return Ok(None);
        };
        let named = named_layers(arns)?;
        let uses = named.into_iter().map(|(arn, name, number)| {
            let found = functions.layer_use(name, number);
            found.map_err(|_| AwsError::invalid(format!("Layer version {arn} does not exist.")))
        });
        uses.collect::<Result<_, _>>().map(Some)
    }
}

impl LoggingConfig {
    fn check(&self, v: &mut Violations) {
        const APPLICATION: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
        v.one_of(
            "loggingConfig.logFormat",
            self.log_format.as_deref(),
            &["JSON", "Text"],
        );
        let level = self.application_log_level.as_deref();
        v.one_of("loggingConfig.applicationLogLevel", level, &APPLICATION);
        let level = self.system_log_level.as_deref();
        v.one_of("loggingConfig.systemLogLevel", level, &APPLICATION[1..4]);
        v.length("loggingConfig.logGroup", self.log_group.as_deref(), 1, 512);
        v.pattern(
            "loggingConfig.logGroup",
            self.log_group.as_deref(),
            &LOG_GROUP,
        );
    }
}

fn to_value(config: &impl Serialize) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

pub fn check_tags(violations: &mut Violations, tags: &BTreeMap<String, String>) {
    violations.keys("tags", tags.keys(), &TAG);
    for (key, value) in tags {
        violations.length("tags", Some(key), 1, 128);
        violations.length("tags", Some(value), 0, 256);
        violations.pattern("tags", Some(value), &TAG);
    }
}

/// Each with its name and number: at most five, and no layer twice.
fn named_layers(arns: &[String]) -> Result<Vec<(&str, &str, u64)>, AwsError> {
    if arns.len() > LAYERS_MAX {
        return Err(AwsError::invalid(format!(
            "Cannot reference more than {LAYERS_MAX} layers."
        )));
    }
    let mut violations = Violations::default();
    let mut named: Vec<(&str, &str, u64)> = Vec::new();
    for arn in arns {
        let Some((name, number)) = names::layer_version(arn) else {
            violations.add(
                "layers",
                format_args!("[{arn}]"),
                format_args!(
                    "Member must satisfy constraint: [Member must have length less than or equal to 2048, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: {}]",
                    names::LAYER_VERSION_PATTERN
                ),
            );
            continue;
        };
        if let Some((other, _, _)) = named.iter().find(|(_, other, _)| *other == name) {
            return Err(AwsError::invalid(format!(
                "Two different versions of the same layer are not allowed to be referenced in the same function. {other} and {arn} are versions of the same layer"
            )));
        }
        named.push((arn, name, number));
    }
    violations.end().map(|()| named)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(value: Value) -> Members {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn members_are_checked_against_the_constraints_of_aws() {
        let check = |value| {
            let mut violations = Violations::default();
            members(value).check(Duration::from_secs(900), &mut violations);
            violations.end().map_err(|error| error.message)
        };
        assert_eq!(
            check(json!({ "Timeout": 900, "MemorySize": 128, "Handler": "a.b" })),
            Ok(())
        );
        for (value, part) in [
            (json!({ "Timeout": 0 }), "'timeout' failed"),
            (json!({ "Timeout": 901 }), "less than or equal to 900"),
            (
                json!({ "MemorySize": 10_241 }),
                "less than or equal to 10240",
            ),
            (json!({ "Role": "me" }), "Value 'me' at 'role'"),
            (
                json!({ "Handler": "x".repeat(129) }),
                "less than or equal to 128",
            ),
            (
                json!({ "Description": "x".repeat(257) }),
                "less than or equal to 256",
            ),
            (
                json!({ "EphemeralStorage": {} }),
                "Value null at 'ephemeralStorage.size'",
            ),
            (
                json!({ "EphemeralStorage": { "Size": 511 } }),
                "'511' at 'ephemeralStorage.size'",
            ),
            (
                json!({ "Architectures": ["mips"] }),
                "'[mips]' at 'architectures'",
            ),
            (json!({ "Architectures": [] }), "greater than or equal to 1"),
            (
                json!({ "Environment": { "Variables": { "1": "" } } }),
                "Map keys",
            ),
            (
                json!({ "LoggingConfig": { "SystemLogLevel": "TRACE" } }),
                "[DEBUG, INFO, WARN]",
            ),
        ] {
            let message = check(value).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_environment_without_variables_takes_all_away() {
        let empty = members(json!({ "Environment": {} })).variables().unwrap();
        assert_eq!(empty, Some(BTreeMap::new()));
        assert_eq!(members(json!({})).variables().unwrap(), None);
    }

    #[test]
    fn what_has_no_effect_is_kept_and_what_is_empty_is_taken_away() {
        let kept = members(json!({
            "TracingConfig": { "Mode": "Active" }, "DeadLetterConfig": { "TargetArn": "" },
            "KMSKeyArn": "", "VpcConfig": { "SubnetIds": [], "SecurityGroupIds": [] },
            "Architectures": ["arm64"],
        }))
        .kept();
        let kept = to_value(&kept);
        assert_eq!(
            kept,
            json!({
                "TracingConfig": { "Mode": "Active" }, "DeadLetterConfig": null, "KMSKeyArn": null,
                "VpcConfig": null, "Architectures": ["arm64"],
            })
        );
    }

    #[test]
    fn what_is_not_here_is_refused() {
        for value in [
            json!({ "DurableConfig": {} }),
            json!({ "FileSystemConfigs": [{}] }),
            json!({ "CodeSigningConfigArn": "arn" }),
            json!({ "VpcConfig": { "SubnetIds": ["subnet-1"] } }),
            json!({ "VpcConfig": { "SecurityGroupIds": ["sg-1"] } }),
            json!({ "KMSKeyArn": "arn:aws:kms:us-east-1:000000000000:key/k" }),
        ] {
            assert!(members(value.clone()).check_available().is_err(), "{value}");
        }
        // As Terraform and SAM say that there is none.
        for value in [
            json!({ "FileSystemConfigs": [] }),
            json!({ "VpcConfig": { "SubnetIds": [], "SecurityGroupIds": [] } }),
            json!({ "VpcConfig": { "Ipv6AllowedForDualStack": false } }),
            json!({ "VpcConfig": null, "KMSKeyArn": null }),
            json!({ "KMSKeyArn": "" }),
        ] {
            assert!(members(value.clone()).check_available().is_ok(), "{value}");
        }
    }

    #[test]
    fn dead_letters_go_where_results_can_go() {
        let name = FunctionName::new("f").unwrap();
        let check = |arn: &str| {
            let value = json!({ "DeadLetterConfig": { "TargetArn": arn } });
            members(value).check_dead_letter(&name).is_ok()
        };
        assert!(check(""));
        assert!(check("arn:aws:lambda:us-east-1:000000000000:function:g"));
        assert!(check("arn:aws:lambic:us-east-1:000000000000:stream/s"));
        assert!(!check("arn:aws:lambda:us-east-1:000000000000:function:f"));
        assert!(!check("arn:aws:sqs:us-east-1:000000000000:q"));
        assert!(!check("arn:aws:sns:us-east-1:000000000000:t"));
        assert!(members(json!({})).check_dead_letter(&name).is_ok());
    }

    #[test]
    fn an_image_has_no_runtime_and_a_zip_no_image_config() {
        let check = |value, is_image| {
            let found = members(value).check_kind(is_image);
            found.map_err(|error| error.message)
        };
        for (value, is_image, part) in [
            (
                json!({ "Runtime": "python3.11" }),
                true,
                "Handler or Runtime",
            ),
            (json!({ "Handler": "a.b" }), true, "Handler or Runtime"),
            (json!({ "Layers": ["a"] }), true, "Handler or Runtime"),
            (json!({ "ImageConfig": {} }), false, "ImageConfig"),
        ] {
            assert_eq!(check(value.clone(), !is_image), Ok(()));
            let message = check(value, is_image).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(check(json!({ "Layers": [] }), true), Ok(()));
        let config = members(json!({ "ImageConfig": { "Command": ["a"] } })).image();
        assert_eq!(config.unwrap().command, ["a"]);
        let long = vec!["x"; 1_501];
        let mut violations = Violations::default();
        members(json!({ "ImageConfig": { "EntryPoint": long } }))
            .check(Duration::from_secs(900), &mut violations);
        assert!(violations.end().is_err());
    }

    #[test]
    fn layers_are_five_at_most_and_none_twice() {
        let arn = |name: &str, number: u64| {
            format!("arn:aws:lambda:us-east-1:000000000000:layer:{name}:{number}")
        };
        let two = [arn("a", 1), arn("b", 2)];
        assert_eq!(
            named_layers(&two).unwrap(),
            [(two[0].as_str(), "a", 1), (two[1].as_str(), "b", 2)]
        );
        for (arns, part) in [
            (vec![arn("a", 1), arn("a", 2)], "Two different versions"),
            (vec!["a".to_owned()], "'[a]' at 'layers'"),
            (
                (0..6).map(|n| arn(&format!("l{n}"), 1)).collect(),
                "more than 5 layers",
            ),
        ] {
            let message = named_layers(&arns).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        }
    }
}
