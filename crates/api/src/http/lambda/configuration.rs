//! A function's configuration as AWS describes it.
//!
//! Pure, but for [`of`]: what is not set has AWS's default, and only members that AWS's model knows are written.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use lambic_functions::{FunctionInfo, ImageConfig, Qualifier, Runtime};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    super::App,
    answer::modified,
    names::Place,
    runtimes::{self, architecture},
};

/// At which moment a function is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// In the answer to its creation. AWS is not done then; here it is, but clients that wait look for this.
    Created,
    /// In the answer to a change.
    Updated,
    Settled,
    /// In a list, which leaves out how it is.
    Listed,
}

/// Members that are given back as they were set.
const KEPT: [&str; 4] = [
    "VpcConfig",
    "DeadLetterConfig",
    "KMSKeyArn",
    "TracingConfig",
];

/// As it is named by `qualifier`.
pub fn of(
    app: &App,
    place: &Place,
    info: &FunctionInfo,
    qualifier: Option<&Qualifier>,
    phase: Phase,
) -> Value {
    let arn = match qualifier {
        Some(qualifier) => place.qualified(&info.name, qualifier),
        None => place.function(&info.name),
    };
    let broken = match phase {
        Phase::Listed => None,
        _ => app.services.functions.state(info).err(),
    };
    let runtime = runtimes::name(&app.services.functions, info);
    describe(place, info, arn, &runtime, phase, broken)
}

/// `broken`: why its code cannot be used.
pub fn describe(
    place: &Place,
    info: &FunctionInfo,
    arn: String,
    runtime: &str,
    phase: Phase,
    broken: Option<String>,
) -> Value {
    let settings = &info.settings;
    let role = match settings.role.as_str() {
        "" => format!("arn:aws:iam::{}:role/lambic", place.account),
        role => role.to_owned(),
    };
    let (sha256, bytes) = match &info.upload {
        Some(upload) => (upload.sha256.as_str(), upload.bytes),
        None => (info.digest.as_str(), info.code_bytes),
    };
    let mut body = json!({
        "FunctionName": info.name.as_str(),
        "FunctionArn": arn,
        "Runtime": runtime,
        "Role": role,
        "Handler": info.handler,
        "CodeSize": bytes,
        "Description": settings.description,
        "Timeout": info.timeout_ms.div_ceil(1000),
        "MemorySize": info.memory_mb,
        "LastModified": modified(info.deployed_at_us),
        "CodeSha256": sha256_base64(sha256),
        "Version": info.version.to_string(),
        "TracingConfig": { "Mode": "PassThrough" },
        "RevisionId": revision(info),
        "PackageType": "Zip",
        "Architectures": [architecture()],
        "EphemeralStorage": { "Size": settings.tmp_mb },
        "SnapStart": snap_start(info),
        "LoggingConfig": logging(settings.kept.get("LoggingConfig"), info),
    });
    if let Some(architectures) = settings.kept.get("Architectures") {
        body["Architectures"] = architectures.clone();
    }
    let is_image = info.runtime == Runtime::Image;
    if is_image {
        of_image(&mut body, info);
    }
    if !info.environment.is_empty() {
        body["Environment"] = json!({ "Variables": info.environment });
    }
    if !settings.layers.is_empty() {
        let layers = settings.layers.iter().map(|layer| {
            json!({ "Arn": place.layer_version(&layer.name, layer.number), "CodeSize": layer.bytes })
        });
        body["Layers"] = layers.collect();
    }
    for name in KEPT {
        if let Some(value) = settings.kept.get(name) {
            body[name] = value.clone();
        }
    }
    if phase == Phase::Listed {
        return body;
    }
    if info.settings.runtime_name != "wasm" && runtime != "provided.wasm" && !is_image {
        body["RuntimeVersionConfig"] =
            json!({ "RuntimeVersionArn": runtime_version_arn(place, runtime) });
    }
    let state = match (phase, broken) {
        (Phase::Created, _) => json!({
            "State": "Pending",
            "StateReason": "The function is being created.",
            "StateReasonCode": "Creating",
        }),
        (Phase::Updated, _) => json!({
            "State": "Active",
            "LastUpdateStatus": "InProgress",
            "LastUpdateStatusReason": "The function is being created.",
        }),
        (_, Some(reason)) => json!({
            "State": "Failed",
            "StateReason": reason,
            "StateReasonCode": if is_image { "InvalidImage" } else { "FunctionError" },
            "LastUpdateStatus": "Successful",
        }),
        (_, None) => json!({ "State": "Active", "LastUpdateStatus": "Successful" }),
    };
    if let (Value::Object(body), Value::Object(state)) = (&mut body, state) {
        body.extend(state);
    }
    body
}

/// An image has neither runtime nor handler, and AWS writes its digest as images' digests are written.
fn of_image(body: &mut Value, info: &FunctionInfo) {
    if let Value::Object(members) = body {
        members.remove("Runtime");
        members.remove("Handler");
    }
    body["PackageType"] = Value::from("Image");
    body["CodeSha256"] = Value::from(info.digest.as_str());
    let ImageConfig {
        entry_point,
        command,
        working_dir,
    } = &info.settings.image;
    let mut config = json!({});
    for (name, words) in [("EntryPoint", entry_point), ("Command", command)] {
        if !words.is_empty() {
            config[name] = json!(words);
        }
    }
    if !working_dir.is_empty() {
        config["WorkingDirectory"] = Value::from(working_dir.as_str());
    }
    if info.settings.image != ImageConfig::default() {
        body["ImageConfigResponse"] = json!({ "ImageConfig": config });
    }
}

/// Of the runtime's name: there is one of each here.
pub fn runtime_version_arn(place: &Place, runtime: &str) -> String {
    let digest = hex(&Sha256::digest(runtime.as_bytes()));
    format!("arn:aws:lambda:{}::runtime:{digest}", place.region)
}

fn snap_start(info: &FunctionInfo) -> Value {
    let kept = info.settings.kept.get("SnapStart");
    let apply_on = kept.and_then(|kept| kept["ApplyOn"].as_str());
    let status = match info.snap_starts() {
        true => "On",
        false => "Off",
    };
    json!({ "ApplyOn": apply_on.unwrap_or("None"), "OptimizationStatus": status })
}

fn logging(kept: Option<&Value>, info: &FunctionInfo) -> Value {
    let mut logging = kept.cloned().unwrap_or_else(|| json!({}));
    let mut default = |name: &str, value: &str| {
        if logging[name].is_null() {
            logging[name] = Value::from(value);
        }
    };
    default("LogFormat", "Text");
    default("LogGroup", &format!("/aws/lambda/{}", info.name));
    if logging["LogFormat"] == "JSON" {
        for level in ["ApplicationLogLevel", "SystemLogLevel"] {
            if logging[level].is_null() {
                logging[level] = Value::from("INFO");
            }
        }
    }
    logging
}

/// Older servers kept none: then one that changes with every deployment and looks like AWS's.
pub fn revision(info: &FunctionInfo) -> String {
    if !info.revision.is_empty() {
        return info.revision.clone();
    }
    let digest: String = info.digest.chars().take(20).collect();
    let hex = format!("{digest:0<20}{:012x}", info.deployment);
    let groups = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    groups.join("-")
}

/// A digest in hex as AWS writes it.
pub fn sha256_base64(hex: &str) -> String {
    BASE64_STANDARD.encode(unhex(hex))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

#[cfg(test)]
pub mod tests {
    use lambic_functions::{FunctionVersion, LayerUse, Upload};

    use super::*;

    /// A function as it is kept.
    pub fn sample() -> FunctionInfo {
        serde_json::from_value(json!({
            "name": "f", "runtime": "python", "handler": "a.b", "timeout_ms": 3_000, "memory_mb": 128,
            "environment": {}, "triggers": [], "output": null, "retries": 2, "dead_letter": null,
            "concurrency": null, "digest": "00ff", "code_bytes": 7, "deployment": 1,
            "deployed_at_us": 1_700_000_000_000_000i64, "invocable": true, "scalars": [],
            "runtime_name": "python3.11",
        }))
        .unwrap()
    }

    fn described(info: &FunctionInfo, phase: Phase, broken: Option<&str>) -> Value {
        let place = Place::default();
        let arn = place.function(&info.name);
        let runtime = &info.settings.runtime_name;
        describe(&place, info, arn, runtime, phase, broken.map(str::to_owned))
    }

    #[test]
    fn what_is_not_set_has_the_default_of_aws() {
        let body = described(&sample(), Phase::Settled, None);
        for (name, expected) in [
            (
                "FunctionArn",
                json!("arn:aws:lambda:us-east-1:000000000000:function:f"),
            ),
            ("Runtime", json!("python3.11")),
            ("Role", json!("arn:aws:iam::000000000000:role/lambic")),
            ("Timeout", json!(3)),
            ("Version", json!("$LATEST")),
            ("CodeSha256", json!("AP8=")),
            ("LastModified", json!("2023-11-14T22:13:20.000+0000")),
            ("TracingConfig", json!({ "Mode": "PassThrough" })),
            ("EphemeralStorage", json!({ "Size": 512 })),
            (
                "SnapStart",
                json!({ "ApplyOn": "None", "OptimizationStatus": "Off" }),
            ),
            (
                "LoggingConfig",
                json!({ "LogFormat": "Text", "LogGroup": "/aws/lambda/f" }),
            ),
            ("State", json!("Active")),
            ("LastUpdateStatus", json!("Successful")),
            ("RevisionId", json!("00ff0000-0000-0000-0000-000000000001")),
        ] {
            assert_eq!(body[name], expected, "{name}");
        }
        for absent in ["Environment", "Layers", "VpcConfig", "StateReason"] {
            assert!(body.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn what_is_set_is_given_back() {
        let mut info = sample();
        info.environment.insert("A_B".to_owned(), "c".to_owned());
        info.upload = Some(Upload {
            sha256: "ff".to_owned(),
            bytes: 9,
        });
        info.settings.layers.push(LayerUse {
            name: "l".to_owned(),
            number: 2,
            digest: String::new(),
            bytes: 5,
        });
        let kept = &mut info.settings.kept;
        kept.insert("TracingConfig".to_owned(), json!({ "Mode": "Active" }));
        kept.insert("LoggingConfig".to_owned(), json!({ "LogFormat": "JSON" }));
        kept.insert("RecursiveLoop".to_owned(), json!("Allow"));
        let body = described(&info, Phase::Settled, None);
        assert_eq!(body["CodeSize"], 9);
        assert_eq!(body["CodeSha256"], "/w==");
        assert_eq!(body["Environment"]["Variables"]["A_B"], "c");
        assert_eq!(body["TracingConfig"]["Mode"], "Active");
        assert_eq!(body["LoggingConfig"]["SystemLogLevel"], "INFO");
        assert_eq!(
            body["Layers"],
            json!([{ "Arn": "arn:aws:lambda:us-east-1:000000000000:layer:l:2", "CodeSize": 5 }])
        );
        assert!(body.get("RecursiveLoop").is_none());
    }

    #[test]
    fn published_versions_have_snap_start() {
        let mut info = sample();
        let apply_on = json!({ "ApplyOn": "PublishedVersions" });
        info.settings.kept.insert("SnapStart".to_owned(), apply_on);
        let status = |info: &FunctionInfo| {
            let body = described(info, Phase::Settled, None);
            assert_eq!(body["SnapStart"]["ApplyOn"], "PublishedVersions");
            body["SnapStart"]["OptimizationStatus"].clone()
        };
        assert_eq!(status(&info), "Off");
        info.version = FunctionVersion::Number(1);
        assert_eq!(status(&info), "On");
        // Neither is kept ready: components need no start, and images have none on AWS.
        for runtime in [Runtime::Wasm, Runtime::Image] {
            info.runtime = runtime;
            assert_eq!(status(&info), "Off");
        }
    }

    #[test]
    fn an_image_is_described_as_one() {
        let mut info = sample();
        info.runtime = Runtime::Image;
        info.settings.runtime_name = String::new();
        let plain = described(&info, Phase::Settled, None);
        assert_eq!(plain["PackageType"], "Image");
        assert_eq!(plain["CodeSha256"], "00ff");
        info.settings.image.command = vec!["app.handler".to_owned()];
        let body = described(&info, Phase::Settled, Some("gone"));
        assert_eq!(
            body["ImageConfigResponse"],
            json!({ "ImageConfig": { "Command": ["app.handler"] } })
        );
        assert_eq!(body["StateReasonCode"], "InvalidImage");
        for absent in [
            "Runtime",
            "Handler",
            "RuntimeVersionConfig",
            "ImageConfigResponse",
        ] {
            assert!(plain.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn the_state_follows_the_moment() {
        let state = |phase, broken| {
            let body = described(&sample(), phase, broken);
            let of = |name: &str| body[name].as_str().map(str::to_owned);
            (of("State"), of("LastUpdateStatus"))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(state(Phase::Created, None), (some("Pending"), None));
        assert_eq!(
            state(Phase::Updated, None),
            (some("Active"), some("InProgress"))
        );
        assert_eq!(
            state(Phase::Settled, Some("no code")),
            (some("Failed"), some("Successful"))
        );
        assert_eq!(state(Phase::Listed, None), (None, None));
    }
}
