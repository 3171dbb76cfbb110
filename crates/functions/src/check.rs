//! Whether a deployment can be taken, by what it says of itself and the streams that there are.
//!
//! Pure: code is looked at elsewhere, by reading and starting it.

use lambic_model::{Stream, StreamName};

use crate::{Deployment, Error, StreamLookup, Trigger};

/// Names that begin so belong to the house.
const SYSTEM_PREFIX: &str = "lambic_";
const MEMORY_MB_MAX: u32 = 10_240;
const ENVIRONMENT_BYTES_MAX: usize = 4 << 10;

/// The same deployment is refused for the same reason as long as the streams are the same.
pub fn check(
    deployment: &Deployment,
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
    if deployment.timeout.as_millis() == 0 {
        return refuse("its timeout is 0; give it at least 1 ms".to_owned());
    }
    if !(1..=MEMORY_MB_MAX).contains(&deployment.memory_mb) {
        return refuse(format!("its memory must be 1 to {MEMORY_MB_MAX} MB"));
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
    let find = |stream: &StreamName| {
        lookup(stream.as_str()).ok_or_else(|| Error::UnknownStream {
            name: name.clone(),
            stream: stream.to_string(),
        })
    };
    let looped = |stream: &StreamName, reason| {
        Err(Error::TriggerLoop {
            name: name.clone(),
            stream: stream.to_string(),
            reason,
        })
    };
    for (index, trigger) in deployment.triggers.iter().enumerate() {
        if trigger.stream.as_str().starts_with(SYSTEM_PREFIX) {
            return looped(
                &trigger.stream,
                "its own invocations are recorded there, so it would trigger itself for ever",
            );
        }
        if deployment.output.as_ref() == Some(&trigger.stream) {
            return looped(
                &trigger.stream,
                "that is its output too, so it would trigger itself for ever",
            );
        }
        if deployment.triggers[..index]
            .iter()
            .any(|other| other.stream == trigger.stream)
        {
            return refuse(format!("stream `{}` triggers it twice", trigger.stream));
        }
        if !(1..=Trigger::BATCH_SIZE_MAX).contains(&trigger.batch_size) {
            return refuse(format!(
                "the batch size of its trigger must be 1 to {}",
                Trigger::BATCH_SIZE_MAX
            ));
        }
        find(&trigger.stream)?;
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
