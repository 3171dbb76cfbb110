//! An interpreter that runs already, for whichever function is called next.
//!
//! Most of a cold start of Node is the interpreter's, and it cannot fork as Python can ([`super::zygote`]); where that
//! can, most of the rest is the kernel's, for namespaces and control groups. A spare environment has that behind it: shut
//! in as any other, it waits without code. When a function needs it, the code is mounted into it ([`assign`]), it gets the
//! function's limits and variables, and loads the handler. It belongs to that function until its end.
//!
//! [`assign`]: super::assign

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::UnixDatagram;

use super::{
    Isolation, Launch, Network, Spec, Zygote,
    assign::Mounts,
    cgroup::{Controller, Parents, Share},
    endpoint::Said,
    environment::{Environment, FailedStart, Word, about, variables_of},
    layout::Layout,
    network,
    place::{self, Kind},
    zygote,
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
    /// Where one that was split off hears whose it is; any other asks at its endpoint.
    link: Option<Arc<UnixDatagram>>,
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
        if !matches!(launch, Launch::Node(_)) || !can_wait(&isolation) {
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
        Ok(Some(Spare {
            environment,
            link: None,
        }))
    }

    /// One that is split off a zygote; `None` as above.
    pub async fn split(zygote: &Arc<Zygote>, codes: &Path) -> Result<Option<Spare>, Error> {
        let (launch, isolation) = (zygote.launch().clone(), zygote.isolation().clone());
        if !can_wait(&isolation) {
            return Ok(None);
        }
        let spec = Arc::new(spec(launch, isolation, codes));
        let split = Environment::split_as(Kind::SplitSpare, zygote, spec).await;
        let (environment, link) = split.map_err(|source| Error::NotSplit { source })?;
        Ok(Some(Spare {
            environment,
            link: Some(link),
        }))
    }

    /// Whether there can be any.
    pub fn can_be(launch: &Launch, isolation: &Isolation) -> bool {
        let is_known = matches!(launch, Launch::Node(_)) || Zygote::can_be(launch, isolation);
        is_known && can_wait(isolation)
    }

    /// True if the function can do with an interpreter that was started before it was known: one of these, or what a
    /// zygote splits off.
    pub fn may_become(spec: &Spec) -> bool {
        let is_read_at_start = |(name, _): &(String, String)| {
            READ_AT_START.iter().any(|begin| name.starts_with(begin))
        };
        spec.launch.interpreter().is_some()
            && spec.layers.len() <= 1
            && !spec.environment.iter().any(is_read_at_start)
            && spec.extensions().is_empty()
    }

    /// As this system numbers it.
    pub fn pid(&self) -> i32 {
        self.environment.process.pid()
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
        if let Err(error) = assign(&mut environment, self.link, spec.clone()).await {
            tracing::warn!(%error, "a spare environment could not be given to a function");
            environment.kill().await;
            return Environment::start(spec).await;
        }
        Ok(environment.ready(start).await)
    }
}

/// The limits that a process has by itself cannot be changed from outside: the control group's can.
fn can_wait(isolation: &Isolation) -> bool {
    let counts_memory = |groups: &Parents| groups.has(Controller::Memory);
    isolation.has_own_root()
        && isolation.user.is_some()
        && isolation.groups().is_some_and(counts_memory)
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

async fn assign(
    environment: &mut Environment,
    link: Option<Arc<UnixDatagram>>,
    spec: Arc<Spec>,
) -> std::io::Result<()> {
    let process = environment.process.pidfd();
    let process = process.ok_or_else(|| std::io::Error::other("it has ended"))?;
    tokio::task::spawn_blocking({
        let spec = spec.clone();
        move || {
            spec.let_read().map_err(std::io::Error::other)?;
            let layer = spec.layers.first().map(std::path::PathBuf::as_path);
            Mounts::prepare(&spec.code_dir, layer, spec.tmp_mb)?.put_into(process)
        }
    })
    .await
    .map_err(std::io::Error::other)??;
    if let Some(group) = &environment.group {
        group.set(Controller::Memory, place::bounds(&spec))?;
        group.set_share(place::bounds(&spec), Share::Fresh)?;
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
    environment.tell_init_start(&spec);
    match link {
        Some(link) => {
            let groups = spec.isolation.groups();
            let has_own_limit = groups.is_some_and(|groups| groups.has(Controller::Pids));
            let assignment = zygote::assignment(&spec, &variables, has_own_limit)?;
            environment.endpoint.belongs_to(about(&spec));
            link.send(&assignment).await?;
        }
        None => {
            let variables = serde_json::to_vec(&variables).map_err(std::io::Error::other)?;
            let endpoint = &environment.endpoint;
            endpoint.assign(about(&spec), variables.into());
        }
    }
    environment.spec = spec;
    environment.share = Share::Fresh;
    environment.go_on();
    Ok(())
}
