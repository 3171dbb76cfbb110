//! Whether a deployment can be taken, by what it says of itself and the streams that there are.
//!
//! Pure: code is looked at elsewhere, by reading and starting it.

use std::time::Duration;

use lambic_model::{FunctionName, Stream, StreamName};

use crate::{
    Code, Deployment, Error, FunctionInfo, Runtime, StreamLookup, Trigger, code::NO_IMAGE,
};

/// Names that begin so belong to the house.
pub const SYSTEM_PREFIX: &str = "lambic_";
const MEMORY_MB_MAX: u32 = 10_240;
/// AWS's, of `/tmp`.
const TMP_MB_MIN: u32 = 512;
const TMP_MB_MAX: u32 = 10_240;
/// AWS's.
const LAYERS_MAX: usize = 5;
const ENVIRONMENT_BYTES_MAX: usize = 4 << 10;
/// What AWS gives to all functions of an account together.
pub const CONCURRENCY_MAX: usize = 1_000;
/// AWS's, of a stream's batches.
const RETRIES_MAX: u32 = 10_000;

const HOSTS_MAX: usize = 100;
/// DNS's.
const HOST_BYTES_MAX: usize = 253;

/// The same deployment is refused for the same reason as long as the streams are the same.
pub fn check(
    deployment: &Deployment,
    timeout_max: Duration,
    lookup: &StreamLookup,
    dead_letters: &Stream,
) -> Result<(), Error> {
    let name = deployment.name.to_string();
    let refuse = |reason: String| {
        Err(Error::BadDeployment {
            name: name.clone(),
            reason,
        })
    };
    if !(1..=timeout_max.as_millis()).contains(&deployment.timeout.as_millis()) {
        return refuse(format!(
            "its timeout must be 1 ms to {} seconds; `functions.timeout_s_max` may allow more",
            timeout_max.as_secs()
        ));
    }
    // None at all is a way to stop a function, set beside its deployment.
    if let Some(concurrency) = deployment.concurrency
        && concurrency > CONCURRENCY_MAX
    {
        return refuse(format!(
            "its concurrency must be 0 to {CONCURRENCY_MAX}, not {concurrency}"
        ));
    }
    if deployment.retries > RETRIES_MAX {
        return refuse(format!(
            "its retries must be 0 to {RETRIES_MAX}, not {}",
            deployment.retries
        ));
    }
    if !(1..=MEMORY_MB_MAX).contains(&deployment.memory_mb) {
        return refuse(format!("its memory must be 1 to {MEMORY_MB_MAX} MB"));
    }
    if !(TMP_MB_MIN..=TMP_MB_MAX).contains(&deployment.settings.tmp_mb) {
        return refuse(format!(
            "its /tmp must be {TMP_MB_MIN} to {TMP_MB_MAX} MB, not {}",
            deployment.settings.tmp_mb
        ));
    }
    if deployment.settings.layers.len() > LAYERS_MAX {
        return refuse(format!("it has more than {LAYERS_MAX} layers"));
    }
    let is_image = deployment.runtime == Runtime::Image;
    let has_image = matches!(deployment.code, Code::Image(_) | Code::Pulled(_));
    // Without any code it stays as it is.
    let has_other = match &deployment.code {
        Code::Bytes(bytes) => !bytes.is_empty(),
        Code::Folder(_) | Code::Zip(_) => true,
        Code::Image(_) | Code::Pulled(_) => false,
    };
    if is_image && has_other || !is_image && has_image {
        return refuse(NO_IMAGE.to_owned());
    }
    if is_image && !deployment.settings.layers.is_empty() {
        return refuse("a container image has in itself what layers would bring".to_owned());
    }
    let environment_bytes: usize = deployment
        .environment
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if environment_bytes > ENVIRONMENT_BYTES_MAX {
        return refuse(format!(
            "its environment is {environment_bytes} bytes, over {ENVIRONMENT_BYTES_MAX}"
        ));
    }
    let bad_variable = deployment.environment.iter().find(|(name, value)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    });
    if let Some((variable, _)) = bad_variable {
        return refuse(format!("`{variable}` cannot be an environment variable"));
    }
    let hosts = deployment.settings.hosts_with(&deployment.environment);
    let hosts = hosts.as_deref().unwrap_or_default();
    if hosts.len() > HOSTS_MAX {
        return refuse(format!("it has more than {HOSTS_MAX} hosts"));
    }
    if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
        return refuse(format!(
            "`{host}` is not a host; write `api.example.com`, `*.example.com`, or `*` for all public ones"
        ));
    }
    let find = |stream: &StreamName| {
        lookup(stream.as_str()).ok_or_else(|| Error::UnknownStream {
            name: name.clone(),
            stream: stream.to_string(),
        })
    };
    for (index, trigger) in deployment.triggers.iter().enumerate() {
        if deployment.triggers[..index]
            .iter()
            .any(|other| other.stream == trigger.stream)
        {
            return refuse(format!("stream `{}` triggers it twice", trigger.stream));
        }
        check_trigger_of(&deployment.name, deployment.output.as_ref(), trigger)?;
        let stream = find(&trigger.stream)?;
        if let Err(error) = trigger.rules.check(&deployment.name, &stream) {
            return refuse(format!("its trigger cannot be made: {error}"));
        }
    }
    if let Some(output) = &deployment.output {
        if output.as_str().starts_with(SYSTEM_PREFIX) {
            return refuse(format!("`{output}` is written by the system only"));
        }
        find(output)?;
    }
    if let Some(dead_letter) = &deployment.dead_letter {
        let stream = find(dead_letter)?;
        if stream.schema.fields() != dead_letters.schema.fields() {
            return refuse(format!(
                "`{dead_letter}` does not have the columns of `{}`, so it cannot take dead letters",
                dead_letters.name
            ));
        }
    }
    Ok(())
}

/// A name or address, or all names below one; without scheme and port.
fn is_host(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    host == "*"
        || (1..=HOST_BYTES_MAX).contains(&name.len())
            && name.bytes().all(is_plain)
            && !name.starts_with('.')
            // One with a port; addresses of IPv6 have several colons.
            && name.matches(':').count() != 1
}

/// Whether a stream may trigger a function that is deployed.
pub fn check_trigger(info: &FunctionInfo, trigger: &Trigger) -> Result<(), Error> {
    check_trigger_of(&info.name, info.output.as_ref(), trigger)
}

/// The same of one that is not there yet.
pub fn check_trigger_of(
    name: &FunctionName,
    output: Option<&StreamName>,
    trigger: &Trigger,
) -> Result<(), Error> {
    let looped = |reason| {
        Err(Error::TriggerLoop {
            name: name.to_string(),
            stream: trigger.stream.to_string(),
            reason,
        })
    };
    let refuse = |reason| {
        Err(Error::BadDeployment {
            name: name.to_string(),
            reason,
        })
    };
    if trigger.stream.as_str().starts_with(SYSTEM_PREFIX) {
        return looped(
            "its own invocations are recorded there, so it would trigger itself for ever",
        );
    }
    if output == Some(&trigger.stream) {
        return looped("that is its output too, so it would trigger itself for ever");
    }
    if !(1..=Trigger::BATCH_SIZE_MAX).contains(&trigger.batch_size) {
        return refuse(format!(
            "the batch size of its trigger must be 1 to {}",
            Trigger::BATCH_SIZE_MAX
        ));
    }
    if trigger.window_ms > Trigger::WINDOW_MS_MAX {
        return refuse(format!(
            "the window of its trigger must be 0 to {} ms",
            Trigger::WINDOW_MS_MAX
        ));
    }
    Ok(())
}

/// Brings what an older server took without these bounds within them, so that it runs.
pub fn clamp(info: &mut FunctionInfo, timeout_max: Duration) {
    if info.revision.is_empty() {
        info.revision = derived_revision(&info.digest, info.deployment);
    }
    let timeout_ms_max = u64::try_from(timeout_max.as_millis()).unwrap_or(u64::MAX);
    info.timeout_ms = info.timeout_ms.clamp(1, timeout_ms_max.max(1));
    info.memory_mb = info.memory_mb.clamp(1, MEMORY_MB_MAX);
    info.retries = info.retries.min(RETRIES_MAX);
    info.concurrency = info
        .concurrency
        .map(|concurrency| concurrency.min(CONCURRENCY_MAX));
    for trigger in &mut info.triggers {
        trigger.batch_size = trigger.batch_size.clamp(1, Trigger::BATCH_SIZE_MAX);
        trigger.window_ms = trigger.window_ms.min(Trigger::WINDOW_MS_MAX);
    }
}

/// Of a deployment that was kept without one: always the same, and a UUID as AWS's.
fn derived_revision(digest: &str, deployment: u64) -> String {
    let hex = format!(
        "{:0<20}{deployment:012x}",
        digest.chars().take(20).collect::<String>()
    );
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_without_scheme_and_port() {
        for (host, is) in [
            ("api.example.com", true),
            ("*.example.com", true),
            ("*", true),
            ("localhost", true),
            ("192.0.2.1", true),
            ("2001:db8::1", true),
            ("", false),
            ("*.", false),
            (".example.com", false),
            ("a.*.example.com", false),
            ("*example.com", false),
            ("https://example.com", false),
            ("example.com:443", false),
            ("example.com/path", false),
            ("größe.example", false),
            (&"a".repeat(HOST_BYTES_MAX + 1), false),
        ] {
            assert_eq!(is_host(host), is, "{host}");
        }
    }
}
