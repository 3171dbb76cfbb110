//! A deployment from the request to the moment when it serves, and the end of one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lambic_model::FunctionName;
use lambic_sandbox::{process::Spec, wasm};
use serde_json::Value;
use tracing::Instrument;

use crate::{
    Changes, Code, Deployment, Error, Function, FunctionInfo, FunctionVersion, Functions, Inner,
    Runtime, Takes, blocking, check, check_description, check_revision, check_tags, code,
    new_revision, pool::Tenant, program::Program, records,
};

/// How long the trial of a deployment waits for memory that others have.
const TRIAL_WAIT_MAX: Duration = Duration::from_secs(60);

impl Functions {
    /// Checks, stores and starts the code, then lets it take over. After an error the former deployment serves on.
    /// It runs to its end also if the caller goes away: what is on disk and what serves are the same.
    pub async fn deploy(&self, deployment: Deployment) -> Result<FunctionInfo, Error> {
        let (inner, name) = (self.0.clone(), deployment.name.clone());
        to_the_end(async move {
            let deployed = async {
                let deployment = inner.with_image(deployment).await?;
                let _one = inner.deploying.lock().await;
                let former = inner.existing(&deployment.name).ok();
                inner.deploy(deployment, former).await
            };
            inner.noting(&name, deployed).await
        })
        .await
    }

    /// The same, of a name that nothing is deployed under.
    pub async fn create(&self, deployment: Deployment) -> Result<FunctionInfo, Error> {
        let (inner, name) = (self.0.clone(), deployment.name.clone());
        to_the_end(async move {
            let created = async {
                inner.check_new(&deployment.name)?;
                let deployment = inner.with_image(deployment).await?;
                let _one = inner.deploying.lock().await;
                inner.check_new(&deployment.name)?;
                inner.deploy(deployment, None).await
            };
            inner.noting(&name, created).await
        })
        .await
    }

    /// New code for `$LATEST`; all else stays. `revision`: what the caller saw last.
    pub async fn update_code(
        &self,
        name: &FunctionName,
        code: Code,
        revision: Option<String>,
    ) -> Result<FunctionInfo, Error> {
        let (inner, name) = (self.0.clone(), name.clone());
        to_the_end(async move {
            let updated = async {
                let seen = inner.existing(&name)?;
                check_revision(&seen.info.revision, revision.as_deref())?;
                let brought = inner.with_image(deployment_of(&seen.info, code)).await?;
                let _one = inner.deploying.lock().await;
                let former = inner.existing(&name)?;
                check_revision(&former.info.revision, revision.as_deref())?;
                let deployment = deployment_of(&former.info, brought.code);
                inner.deploy(deployment, Some(former)).await
            };
            inner.noting(&name, updated).await
        })
        .await
    }

    /// New settings for `$LATEST`, which keeps its code.
    pub async fn update_settings(
        &self,
        name: &FunctionName,
        changes: Changes,
    ) -> Result<FunctionInfo, Error> {
        let (inner, name) = (self.0.clone(), name.clone());
        to_the_end(async move {
            let updated = async {
                let _one = inner.deploying.lock().await;
                let former = inner.existing(&name)?;
                check_revision(&former.info.revision, changes.revision.as_deref())?;
                // Its code is not read.
                let mut deployment = deployment_of(&former.info, Code::Bytes(Vec::new()));
                changes.apply(&mut deployment);
                inner.check(&deployment)?;
                let now_us = inner.options.clock.now_us();
                let info = FunctionInfo {
                    code_bytes: former.info.code_bytes,
                    upload: former.info.upload.clone(),
                    image: former.info.image.clone(),
                    ..info(&deployment, &former.info.digest, Some(&former), now_us)
                };
                inner
                    .install(info, false, Some(former), BTreeMap::new())
                    .await
            };
            inner.noting(&name, updated).await
        })
        .await
    }

    /// What [`Functions::create`] and [`Functions::update_settings`] would refuse of these settings, of a function that is
    /// there or is to be made with them. Nothing is changed, and its code is not looked at.
    pub fn check_settings(&self, name: &FunctionName, changes: Changes) -> Result<(), Error> {
        let code = Code::Bytes(Vec::new());
        let runtime = changes.runtime.as_ref();
        let runtime = runtime.map_or(Runtime::Bootstrap, |(runtime, _)| *runtime);
        let mut deployment = match self.0.existing(name) {
            Ok(former) => deployment_of(&former.info, code),
            Err(_) => Deployment::new(name.clone(), runtime, code),
        };
        changes.apply(&mut deployment);
        self.0.check(&deployment)
    }

    /// Changes what is kept of a function beside its code and settings: aliases, tags, policies and so on. Durable,
    /// and all of it or nothing.
    pub async fn change<T: Send + 'static>(
        &self,
        name: &FunctionName,
        change: impl FnOnce(&mut Function) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (inner, name) = (self.0.clone(), name.clone());
        to_the_end(async move {
            let _one = inner.deploying.lock().await;
            inner.check_open()?;
            let former = inner.existing(&name)?;
            let mut function = Function::clone(&former);
            let done = change(&mut function)?;
            if function == *former {
                return Ok(done);
            }
            let (registry, kept) = (inner.registry.clone(), function.clone());
            blocking(move || registry.save(&kept)).await?;
            {
                let mut slots = inner.slots.write().expect("held shortly");
                slots.change(Arc::new(function));
            }
            inner.changed();
            Ok(done)
        })
        .await
    }

    /// As with a deployment, it runs to its end.
    pub async fn remove(&self, name: &FunctionName) -> Result<(), Error> {
        let (inner, name) = (self.0.clone(), name.clone());
        to_the_end(async move { inner.remove(&name).await }).await
    }
}

/// Work that is not left half done if the caller goes away.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work.in_current_span())
        .await
        .unwrap_or(Err(Error::Closed))
}

/// What would deploy a function as it is, with other code.
fn deployment_of(info: &FunctionInfo, code: Code) -> Deployment {
    Deployment {
        handler: Some(info.handler.clone()),
        timeout: Duration::from_millis(info.timeout_ms),
        memory_mb: info.memory_mb,
        environment: info.environment.clone(),
        triggers: info.triggers.clone(),
        output: info.output.clone(),
        retries: info.retries,
        dead_letter: info.dead_letter.clone(),
        concurrency: info.concurrency,
        trial: false,
        settings: info.settings.clone(),
        ..Deployment::new(info.name.clone(), info.runtime, code)
    }
}

/// What will be known of a deployment, before its code was looked at.
pub fn info(
    deployment: &Deployment,
    digest: &str,
    former: Option<&Function>,
    now_us: i64,
) -> FunctionInfo {
    FunctionInfo {
        name: deployment.name.clone(),
        runtime: deployment.runtime,
        handler: deployment.handler.clone().unwrap_or_default(),
        timeout_ms: deployment.timeout.as_millis() as u64,
        memory_mb: deployment.memory_mb,
        environment: deployment.environment.clone(),
        triggers: deployment.triggers.clone(),
        output: deployment.output.clone(),
        retries: deployment.retries,
        dead_letter: deployment.dead_letter.clone(),
        concurrency: deployment.concurrency,
        digest: digest.to_owned(),
        code_bytes: 0,
        deployment: former.map_or(1, |former| former.info.deployment + 1),
        deployed_at_us: now_us,
        invocable: true,
        takes: Takes::default(),
        scalars: Vec::new(),
        version: FunctionVersion::Latest,
        settings: deployment.settings.clone(),
        upload: None,
        image: match &deployment.code {
            Code::Pulled(pulled) => Some(pulled.image.clone()),
            _ => None,
        },
        revision: new_revision(),
    }
}

impl Changes {
    fn apply(self, deployment: &mut Deployment) {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        if self.handler.is_some() {
            deployment.handler = self.handler;
        }
        set(&mut deployment.timeout, self.timeout);
        set(&mut deployment.memory_mb, self.memory_mb);
        set(&mut deployment.environment, self.environment);
        let settings = &mut deployment.settings;
        set(&mut settings.description, self.description);
        set(&mut settings.role, self.role);
        set(&mut settings.layers, self.layers);
        set(&mut settings.tmp_mb, self.tmp_mb);
        set(&mut settings.image, self.image);
        if let Some((runtime, name)) = self.runtime {
            deployment.runtime = runtime;
            settings.runtime_name = name;
        }
        for (member, value) in self.kept {
            match value {
                Value::Null => settings.kept.remove(&member),
                value => settings.kept.insert(member, value),
            };
        }
    }
}

impl Inner {
    fn check_new(&self, name: &FunctionName) -> Result<(), Error> {
        match self.existing(name) {
            Ok(_) => Err(Error::Conflict {
                reason: format!("Function already exist: {name}"),
            }),
            Err(_) => Ok(()),
        }
    }

    /// Brings an image here before its deployment has its turn: others do not wait for that.
    async fn with_image(&self, deployment: Deployment) -> Result<Deployment, Error> {
        let Code::Image(source) = &deployment.code else {
            return Ok(deployment);
        };
        self.check(&deployment)?;
        let pulled = self.images.pull(source, self.stop.subscribe()).await?;
        Ok(Deployment {
            code: Code::Pulled(pulled),
            ..deployment
        })
    }

    fn check(&self, deployment: &Deployment) -> Result<(), Error> {
        self.check_open()?;
        check_description(&deployment.settings.description)?;
        check_tags(&deployment.tags)?;
        // Components have no environment that lives on.
        if deployment.runtime != Runtime::Wasm {
            let name = deployment.name.as_str();
            self.machine.check(name, deployment.memory_mb)?;
        }
        check::check(
            deployment,
            self.options.timeout_max,
            &self.options.lookup,
            &self.options.streams.dead_letters,
        )
    }

    async fn deploy(
        self: &Arc<Self>,
        deployment: Deployment,
        former: Option<Arc<Function>>,
    ) -> Result<FunctionInfo, Error> {
        self.check(&deployment)?;
        // A function that was stopped stays so until that is taken back.
        let stopped = former.as_ref().and_then(|former| former.info.concurrency);
        let deployment = Deployment {
            concurrency: deployment
                .concurrency
                .or(stopped.filter(|&limit| limit == 0)),
            ..deployment
        };
        let registry = self.registry.clone();
        let (deployment, code, upload) = blocking(move || {
            let code = code::read_code(&deployment)?;
            let upload = match &deployment.code {
                Code::Zip(zip) => Some(registry.keep_zip(zip)?),
                _ => None,
            };
            Ok((deployment, code, upload))
        })
        .await?;
        let info = FunctionInfo {
            handler: code.handler.clone(),
            code_bytes: code.bytes,
            upload,
            ..info(
                &deployment,
                &code.digest,
                former.as_deref(),
                self.options.clock.now_us(),
            )
        };
        if info.runtime != Runtime::Image {
            let registry = self.registry.clone();
            blocking(move || registry.store_code(&code)).await?;
        }
        self.install(info, deployment.trial, former, deployment.tags)
            .await
    }

    /// Makes stored code ready, tries it if that is wanted, and lets it take over.
    async fn install(
        self: &Arc<Self>,
        mut info: FunctionInfo,
        trial: bool,
        former: Option<Arc<Function>>,
        tags: BTreeMap<String, String>,
    ) -> Result<FunctionInfo, Error> {
        let program = self.program(&info).await.map_err(|error| match error {
            Error::Sandbox(
                error @ (lambic_sandbox::Error::NotAComponent { .. }
                | lambic_sandbox::Error::WrongWorld { .. }
                | lambic_sandbox::Error::TooCostly { .. }),
            ) => Error::BadDeployment {
                name: info.name.to_string(),
                reason: error.to_string(),
            },
            error => error,
        })?;
        if let Program::Wasm { module, .. } = &program {
            info.invocable = module.is_handler();
            info.takes = match (module.takes_events(), module.takes_batches()) {
                (false, true) => Takes::Arrow,
                (true, true) => Takes::Both,
                (_, false) => Takes::Json,
            };
            info.scalars = module.signatures();
            self.check_scalars(&info, module)?;
            if !info.invocable && !info.triggers.is_empty() {
                return Err(Error::BadDeployment {
                    name: info.name.to_string(),
                    reason: "it has triggers but exports SQL functions only".to_owned(),
                });
            }
        }
        for source in former.iter().flat_map(|former| former.sources.values()) {
            check::check_trigger(&info, &source.trigger)?;
        }
        let warm = self.trial(&info, &program, trial).await?;
        let (mappings, _held) = self.mappings(&info, former.as_deref()).await?;
        let mut function = match former.as_deref() {
            Some(former) => Function {
                info: info.clone(),
                mappings: mappings.clone(),
                ..former.clone()
            },
            None => Function::new(info.clone(), mappings.clone()),
        };
        function.tags.extend(tags);
        let (registry, kept) = (self.registry.clone(), function.clone());
        blocking(move || {
            registry.keep_limits(&kept.info)?;
            registry.save(&kept)
        })
        .await?;
        self.put(function, program, warm).await;
        if let Some(former) = former {
            self.drop_cursors(&former.mappings, &mappings).await;
        }
        Ok(info)
    }

    async fn remove(&self, name: &FunctionName) -> Result<(), Error> {
        let _one = self.deploying.lock().await;
        self.check_open()?;
        let function = self.existing(name)?;
        let registry = self.registry.clone();
        let removed = name.clone();
        blocking(move || registry.remove(&removed)).await?;
        self.stop_triggers(name).await;
        self.slots.write().expect("held shortly").remove(name);
        self.changed();
        let mappings: Vec<_> = function.all_mappings().cloned().collect();
        self.drop_cursors(&mappings, &[]).await;
        let (inner, removed) = (self.this.upgrade(), name.clone());
        let forget = move || {
            if let Some(inner) = inner
                && let Err(error) = inner.values.forget(removed.as_str())
            {
                // The next start does it.
                tracing::error!(function = %removed, %error, "values of a function that is deleted");
            }
            Ok(())
        };
        blocking(forget).await
    }

    /// SQL has one function of a name.
    fn check_scalars(&self, info: &FunctionInfo, module: &wasm::Module) -> Result<(), Error> {
        let slots = self.slots.read().expect("held shortly");
        for other in slots
            .all_latest()
            .filter(|other| other.info.name != info.name)
        {
            let Some(Program::Wasm { module: theirs, .. }) = other.program() else {
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

    /// Starts a process once, so that code that cannot start does not take over.
    async fn trial(
        &self,
        info: &FunctionInfo,
        program: &Program,
        wanted: bool,
    ) -> Result<Option<Tenant>, Error> {
        let (Program::Process(spec), true) = (program, wanted) else {
            return Ok(None);
        };
        // What an invocation would wait for comes up here as well, within reason: others wait for their deployments.
        let most = self.options.init_timeout_provisioned;
        let timeout = Duration::from_millis(info.timeout_ms).min(most);
        let init_timeout = self.options.init_timeout.max(timeout);
        let spec = Arc::new(Spec {
            init_timeout,
            ..Spec::clone(spec)
        });
        let bound = TRIAL_WAIT_MAX + init_timeout;
        let started = tokio::time::timeout(bound, self.fresh(&spec)).await;
        let full = |_| Error::Full {
            name: info.name.to_string(),
            reason: "other environments take what memory this machine has for them".to_owned(),
        };
        match started.map_err(full)?? {
            Ok(tenant) => Ok(Some(tenant)),
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
