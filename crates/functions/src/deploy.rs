//! A deployment from the request to the moment when it serves, and the end of one.

use std::sync::Arc;

use lambic_model::FunctionName;
use lambic_sandbox::{
    process::{Environment, Isolation, Spec},
    wasm,
};
use tracing::Instrument;

use crate::{
    Deployment, Error, FunctionInfo, Functions, Inner, Runtime, blocking, check, code,
    entry::{Entry, Program},
    records,
    registry::Stored,
    wasm_limits,
};

impl Functions {
    /// Checks, stores and starts the code, then lets it take over. After an error the former deployment serves on.
    /// It runs to its end also if the caller goes away: what is on disk and what serves are the same.
    pub async fn deploy(&self, deployment: Deployment) -> Result<FunctionInfo, Error> {
        let inner = self.0.clone();
        to_the_end(async move { inner.deploy(deployment).await }).await
    }

    /// As with a deployment, it runs to its end.
    pub async fn remove(&self, name: &FunctionName) -> Result<(), Error> {
        let (inner, name) = (self.0.clone(), name.clone());
        to_the_end(async move { inner.remove(&name).await }).await
    }
}

async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work.in_current_span())
        .await
        .unwrap_or(Err(Error::Closed))
}

impl Inner {
    async fn deploy(self: &Arc<Self>, deployment: Deployment) -> Result<FunctionInfo, Error> {
        let _one = self.deploying.lock().await;
        self.check_open()?;
        check::check(
            &deployment,
            &self.options.lookup,
            &self.options.streams.dead_letters,
        )?;
        let former = self.entry(deployment.name.as_str());
        let (deployment, code) = blocking(move || {
            let code = code::read_code(&deployment)?;
            Ok((deployment, code))
        })
        .await?;
        let mut info = FunctionInfo {
            name: deployment.name.clone(),
            runtime: deployment.runtime,
            handler: code.handler.clone(),
            timeout_ms: deployment.timeout.as_millis() as u64,
            memory_mb: deployment.memory_mb,
            environment: deployment.environment.clone(),
            triggers: deployment.triggers.clone(),
            output: deployment.output.clone(),
            retries: deployment.retries,
            dead_letter: deployment.dead_letter.clone(),
            concurrency: deployment.concurrency,
            digest: code.digest.clone(),
            code_bytes: code.bytes,
            deployment: former.as_ref().map_or(1, |entry| entry.info.deployment + 1),
            deployed_at_us: self.options.clock.now_us(),
            invocable: true,
            scalars: Vec::new(),
        };
        let registry = self.registry.clone();
        blocking(move || registry.store_code(&code)).await?;
        let program = self.program(&info).await.map_err(|error| match error {
            Error::Sandbox(
                error @ (lambic_sandbox::Error::NotAComponent { .. }
                | lambic_sandbox::Error::WrongWorld { .. }),
            ) => Error::BadDeployment {
                name: info.name.to_string(),
                reason: error.to_string(),
            },
            error => error,
        })?;
        if let Program::Wasm { module, .. } = &program {
            info.invocable = module.is_handler();
            info.scalars = module.signatures();
            self.check_scalars(&info, module)?;
            if !info.invocable && !info.triggers.is_empty() {
                return Err(Error::BadDeployment {
                    name: info.name.to_string(),
                    reason: "it has triggers but exports no `handle`".to_owned(),
                });
            }
        }
        let warm = self.trial(&info, &program, deployment.trial).await?;
        let (mappings, _held) = self.mappings(&info, former.as_deref()).await?;
        let stored = Stored {
            info: info.clone(),
            mappings: mappings.clone(),
        };
        let registry = self.registry.clone();
        blocking(move || {
            registry.keep_limits(&stored.info)?;
            registry.save(&stored)
        })
        .await?;
        let entry = Arc::new(Entry::new(info.clone(), mappings, program, &self.options));
        if let Some(environment) = warm {
            entry.keep_warm(environment);
        }
        self.put(entry.clone()).await;
        if let Some(former) = former {
            self.drop_cursors(&former.mappings, &entry.mappings).await;
        }
        Ok(info)
    }

    async fn remove(&self, name: &FunctionName) -> Result<(), Error> {
        let _one = self.deploying.lock().await;
        self.check_open()?;
        let entry = self.existing(name)?;
        let registry = self.registry.clone();
        let removed = name.clone();
        blocking(move || registry.remove(&removed)).await?;
        self.stop_triggers(name).await;
        self.entries.write().expect("held shortly").remove(name);
        self.drop_cursors(&entry.mappings, &[]).await;
        Ok(())
    }

    /// SQL has one function of a name.
    fn check_scalars(&self, info: &FunctionInfo, module: &wasm::Module) -> Result<(), Error> {
        let entries = self.entries.read().expect("held shortly");
        for other in entries
            .values()
            .filter(|other| other.info.name != info.name)
        {
            let Program::Wasm { module: theirs, .. } = &other.program else {
                continue;
            };
            for scalar in module.scalars() {
                if theirs.scalars().any(|their| their.name() == scalar.name()) {
                    return Err(Error::BadDeployment {
                        name: info.name.to_string(),
                        reason: format!(
                            "function `{}` already exports the SQL function `{}`",
                            other.info.name,
                            scalar.name()
                        ),
                    });
                }
            }
        }
        Ok(())
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
                .await?;
                Ok(Program::Wasm {
                    module,
                    limits,
                    environment,
                })
            }
            Runtime::Python => {
                let (dir, digest) = (code_dir.clone(), info.digest.clone());
                blocking(move || code::verify(&dir, Runtime::Python, &digest)).await?;
                let isolation = self
                    .isolation
                    .get_or_try_init(|| Isolation::probe(&self.options.python, &self.options.dir))
                    .await?
                    .clone();
                Ok(Program::Process(Arc::new(Spec {
                    function: info.name.to_string(),
                    qualifier: info.deployment.to_string(),
                    handler: info.handler.clone(),
                    code_dir,
                    environment,
                    memory_mb: info.memory_mb,
                    log_bytes_max,
                    init_timeout: self.options.init_timeout,
                    isolation,
                })))
            }
        }
    }

    /// Starts a process once, so that code that cannot start does not take over.
    async fn trial(
        &self,
        info: &FunctionInfo,
        program: &Program,
        wanted: bool,
    ) -> Result<Option<Environment>, Error> {
        let (Program::Process(spec), true) = (program, wanted) else {
            return Ok(None);
        };
        match Environment::start(spec.clone()).await? {
            Ok(environment) => Ok(Some(environment)),
            Err(failed) => {
                let (error_type, message) = match failed.outcome {
                    lambic_model::Outcome::Failure {
                        error_type,
                        payload,
                    } => (error_type, records::error_message(&payload)),
                    lambic_model::Outcome::Success(_) => Default::default(),
                };
                Err(Error::BadStart {
                    name: info.name.to_string(),
                    error_type,
                    message,
                })
            }
        }
    }
}
