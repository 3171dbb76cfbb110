//! An interpreter that runs already, for whichever function is called next.
//!
//! Most of a cold start of Node is the interpreter's, and it cannot fork as Python can ([`super::zygote`]). A spare
//! environment has that behind it: shut in as any other, it waits without code. When a function needs it, the code is mounted into it ([`assign`]), it gets the
//! function's limits and variables, and loads the handler. It belongs to that function until its end.
//!
//! [`assign`]: super::assign

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Isolation, Launch, Network, Spec,
    assign::Mounts,
    cgroup::{Controller, Parents},
    endpoint::Said,
    environment::{Environment, FailedStart, Word, about, variables_of},
    layout::Layout,
    network,
    place::{self, Kind},
};
use crate::Error;

/// Room to start in; the function's own bounds come with it.
const MEMORY_MB: u32 = 256;
const TMP_MB: u32 = 16;
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Variables that an interpreter reads when it starts, by how their names begin.
const READ_AT_START: [&str; 8] = [
    "PYTHON", "NODE_", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "UV_",
];

pub struct Spare {
    environment: Environment,
}

impl Spare {
    /// Starts one; `codes` is where its functions will have their code. `None` where a function cannot be given to an
    /// environment that runs: without root, without a control group that counts memory (the limits that a process has
    /// by itself cannot be changed from outside), and for other programs than Node.
    pub async fn start(
        launch: Launch,
        isolation: Isolation,
        codes: &Path,
    ) -> Result<Option<Spare>, Error> {
        let counts_memory = |groups: &Parents| groups.has(Controller::Memory);
        if !matches!(launch, Launch::Node(_))
            || !isolation.has_own_root()
            || isolation.user.is_none()
            || !isolation.groups().is_some_and(counts_memory)
        {
            return Ok(None);
        }
        let spec = spec(launch, isolation, codes);
        let Ok(mut environment) = Environment::begin(Arc::new(spec), Kind::Spare).await? else {
            return Ok(None);
        };
        let is_waiting = matches!(
            environment.next_word("spare", START_TIME_MAX).await,
            Word::Said(Said::Spare)
        ) && environment.stand_still("spare", true).await.is_ok();
        if !is_waiting {
            let lines = environment.take_lines();
            tracing::warn!(?lines, "a spare environment did not come up");
            environment.kill().await;
            return Ok(None);
        }
        Ok(Some(Spare { environment }))
    }

    /// True if the function may have it.
    pub fn fits(&self, spec: &Spec) -> bool {
        let own = &self.environment.spec;
        may_be_of(&own.launch, &own.isolation, spec)
    }

    /// False if it ended on its own.
    pub fn is_alive(&mut self) -> bool {
        self.environment.is_alive()
    }

    /// Makes it the function's, and waits until that asks for its first event. If the machine does not let it, the
    /// function gets an environment from the beginning.
    pub async fn take(self, spec: Arc<Spec>) -> Result<Result<Environment, FailedStart>, Error> {
        let start = Instant::now();
        let mut environment = self.environment;
        if let Err(error) = assign(&mut environment, spec.clone()).await {
            tracing::warn!(%error, "a spare environment could not be given to a function");
            environment.kill().await;
            return Environment::start(spec).await;
        }
        Ok(environment.ready(start).await)
    }
}

/// What is known before a function is.
pub fn spec(launch: Launch, isolation: Isolation, codes: &Path) -> Spec {
    Spec {
        function: "spare".to_owned(),
        function_arn: String::new(),
        qualifier: String::new(),
        runtime: String::new(),
        launch,
        handler: String::new(),
        code_dir: codes.join("spare"),
        layers: Vec::new(),
        environment: Vec::new(),
        environment_reserved: Vec::new(),
        memory_mb: MEMORY_MB,
        tmp_mb: TMP_MB,
        network: Network::None,
        log_bytes_max: 64 << 10,
        init_timeout: START_TIME_MAX,
        isolation,
    }
}

/// True if a function can do with an interpreter that was started before it was known.
pub fn may_be_of(launch: &Launch, isolation: &Isolation, spec: &Spec) -> bool {
    let is_read_at_start =
        |(name, _): &(String, String)| READ_AT_START.iter().any(|begin| name.starts_with(begin));
    *launch == spec.launch
        && *isolation == spec.isolation
        && spec.layers.len() <= 1
        && spec.extensions().is_empty()
        && !spec.environment.iter().any(is_read_at_start)
}

async fn assign(environment: &mut Environment, spec: Arc<Spec>) -> std::io::Result<()> {
    let process = environment.process.pidfd();
    let process = process.ok_or_else(|| std::io::Error::other("it has ended"))?;
    tokio::task::spawn_blocking({
        let spec = spec.clone();
        move || {
            place::let_read(&spec).map_err(std::io::Error::other)?;
            let layer = spec.layers.first().map(std::path::PathBuf::as_path);
            Mounts::prepare(&spec.code_dir, layer, spec.tmp_mb)?.put_into(process)
        }
    })
    .await
    .map_err(std::io::Error::other)??;
    if let Some(group) = &environment.group {
        group.set(Controller::Memory, place::bounds(&spec))?;
    }
    // What it said before is nobody's.
    environment.take_lines();
    environment
        .lines
        .lock()
        .expect("no panic while lines are held")
        .set_bytes_max(spec.log_bytes_max);
    let layout = Layout::own_root();
    let (program, _) = place::program(&spec, &layout)
        .map_err(|_| std::io::Error::other("it has no interpreter"))?;
    let variables = variables_of(&spec, &layout, &program, network::RUNTIME_API.into());
    let variables = serde_json::to_vec(&variables).map_err(std::io::Error::other)?;
    environment.tell_init_start(&spec);
    environment.endpoint.assign(about(&spec), variables.into());
    environment.spec = spec;
    environment.go_on();
    Ok(())
}
