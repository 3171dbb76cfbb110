//! What runs a function, made ready of its code as it is stored: compiled, or checked and with its interpreter found.

use std::sync::Arc;

use lambic_sandbox::{
    process::{INITIALIZATION_TYPE, Isolation, Launch, SNAP_START, Spec},
    wasm,
};

use crate::{
    CODE_BROKEN, Error, FunctionInfo, Inner, REGION, RUNTIME_GONE, Runtime, blocking, code,
    function_arn, interpreters::runtime_name, services::Services, wasm_limits,
};

pub enum Program {
    Wasm {
        module: Box<wasm::Module>,
        limits: wasm::Limits,
        environment: Vec<(String, String)>,
    },
    Process(Arc<Spec>),
    /// What was deployed cannot be made ready any more: said at each invocation.
    Broken {
        error_type: &'static str,
        reason: String,
    },
}

impl Program {
    /// Whether it is given requests as they are.
    pub fn takes_http(&self) -> bool {
        match self {
            Program::Wasm { module, .. } => module.world() == Some(wasm::World::Http),
            Program::Process(_) | Program::Broken { .. } => false,
        }
    }
}

impl Inner {
    /// Makes stored code ready to run. What is wrong with the code itself is said at each invocation, so that a
    /// server with one broken function starts.
    pub(crate) async fn program_or_broken(&self, info: &FunctionInfo) -> Result<Program, Error> {
        match self.program(info).await {
            Err(Error::Closed) => Err(Error::Closed),
            Err(error) => {
                tracing::error!(function = %info.name, version = %info.version, %error,
                    "a deployed function does not load");
                Ok(broken(info, &error))
            }
            made => made,
        }
    }

    /// The same, where only what does not mend by itself is remembered.
    pub(crate) async fn program_or_damaged(&self, info: &FunctionInfo) -> Result<Program, Error> {
        match self.program(info).await {
            Err(error @ Error::Damaged { .. }) => Ok(broken(info, &error)),
            made => made,
        }
    }

    /// Makes stored code ready to run.
    pub(crate) async fn program(&self, info: &FunctionInfo) -> Result<Program, Error> {
        let code_dir = self.registry.code_dir(&info.digest);
        let environment: Vec<(String, String)> = info.environment.clone().into_iter().collect();
        let log_bytes_max = self.options.log_bytes_max;
        match info.runtime {
            Runtime::Wasm => {
                let limits = wasm_limits(info.timeout_ms, info.memory_mb, log_bytes_max);
                let (wasm, digest) = (self.wasm.clone(), info.digest.clone());
                // Checked before it is compiled, so that damaged code never gets into the cache of compiled code.
                let module = blocking(move || {
                    let code = code::read_component(&code_dir, &digest)?;
                    Ok(wasm.load(&code, limits)?)
                })
                .await?
                .with_network(info.network())
                .with_services(Arc::new(Services {
                    function: info.name.clone(),
                    inner: self.this.clone(),
                }));
                Ok(Program::Wasm {
                    module: Box::new(module),
                    limits,
                    environment,
                })
            }
            runtime @ (Runtime::Python | Runtime::Node | Runtime::Bootstrap | Runtime::Image) => {
                let digests: Vec<String> = info
                    .layer_digests()
                    .chain([info.digest.as_str()])
                    .map(str::to_owned)
                    .collect();
                let registry = self.registry.clone();
                blocking(move || {
                    let mut digests = digests.iter();
                    digests.try_for_each(|digest| {
                        code::verify(&registry.code_dir(digest), runtime, digest)
                    })
                })
                .await?;
                let isolation = self
                    .isolation
                    .get_or_try_init(|| Isolation::probe(&self.options.dir))
                    .await?
                    .clone();
                // Of no use to it would be what the next error tells to set.
                if let Some(reason) = isolation.no_own_root()
                    && runtime == Runtime::Image
                {
                    return Err(Error::NoRoot {
                        name: info.name.to_string(),
                        reason: reason.to_owned(),
                    });
                }
                let mut lacks = isolation.lacks().iter();
                if !self.options.weak_isolation
                    && let Some(lack) = lacks.find(|lack| lack.of.is_boundary())
                {
                    return Err(Error::NotShutIn {
                        name: info.name.to_string(),
                        reason: lack.reason.clone(),
                    });
                }
                let asked_for = &info.settings.runtime_name;
                let launch = match runtime {
                    Runtime::Image => self.image_launch(info).await?,
                    runtime => self.interpreters.launch(runtime, asked_for).await?,
                };
                let spec = Arc::new(Spec {
                    function: info.name.to_string(),
                    function_arn: function_arn(info.name.as_str()),
                    qualifier: info.version.to_string(),
                    runtime: runtime_name(&launch, asked_for),
                    launch,
                    handler: info.handler.clone(),
                    layers: info
                        .layer_digests()
                        .map(|digest| self.registry.code_dir(digest))
                        .collect(),
                    code_dir,
                    environment,
                    environment_reserved: environment_reserved(info),
                    memory_mb: info.memory_mb,
                    tmp_mb: info.settings.tmp_mb,
                    network: info.network(),
                    log_bytes_max,
                    init_timeout: self.options.init_timeout,
                    isolation,
                });
                // Now, and not when the first event waits for it.
                let program = Program::Process(spec.clone());
                blocking(move || Ok(spec.let_read()?)).await?;
                Ok(program)
            }
        }
    }

    /// The image of a function, whose files are checked and made again if need be.
    async fn image_launch(&self, info: &FunctionInfo) -> Result<Launch, Error> {
        let (images, stop) = (self.images.clone(), self.stop.subscribe());
        let (digest, image) = (info.digest.clone(), info.image.clone());
        let ready = blocking(move || images.ready(&digest, image.as_ref(), &stop)).await?;
        Ok(Launch::Image(ready.program(&info.settings.image)))
    }
}

/// What is said instead of running it.
fn broken(info: &FunctionInfo, error: &Error) -> Program {
    let is_interpreted = matches!(info.runtime, Runtime::Python | Runtime::Node);
    // The machine may have lost the interpreter, or that version of it.
    let is_gone =
        is_interpreted && (error.is_of_runtime() || matches!(error, Error::BadValue { .. }));
    Program::Broken {
        error_type: if is_gone { RUNTIME_GONE } else { CODE_BROKEN },
        reason: error.to_string(),
    }
}

/// What AWS's clients look for before they talk to a service. The keys open nothing.
fn environment_reserved(info: &FunctionInfo) -> Vec<(String, String)> {
    let mut reserved = vec![
        ("AWS_REGION", REGION),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "lambic"),
        ("AWS_SECRET_ACCESS_KEY", "lambic"),
        ("AWS_SESSION_TOKEN", "lambic"),
    ];
    if info.snap_starts() {
        reserved.push((INITIALIZATION_TYPE, SNAP_START));
    }
    let logging = info.settings.kept.get("LoggingConfig");
    if let Some(logging) = logging.filter(|logging| logging["LogFormat"] == "JSON") {
        let level = logging["ApplicationLogLevel"].as_str().unwrap_or("INFO");
        reserved.push(("AWS_LAMBDA_LOG_FORMAT", "JSON"));
        reserved.push(("AWS_LAMBDA_LOG_LEVEL", level));
    }
    let reserved = reserved.into_iter();
    reserved
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
