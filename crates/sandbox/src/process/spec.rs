//! What an environment is made of, and what it is given to do.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;

use super::{Interpreter, Isolation, Network, extensions::EXTENSIONS_MAX, image, layout};
use crate::Error;

/// The variable by which a program knows why it was started, one of [`Spec::environment_reserved`].
pub const INITIALIZATION_TYPE: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";
/// The value by which it knows that time may pass between its start and its first event, before which it is restored.
pub const SNAP_START: &str = "snap-start";

/// What an environment is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    pub function: String,
    /// Stands for the invoked ARN where an invocation names none.
    pub function_arn: String,
    /// AWS's text of the version: `$LATEST` or a number.
    pub qualifier: String,
    /// AWS's name of the runtime: `python3.11`, `nodejs20.x`, `provided.al2023`.
    pub runtime: String,
    pub launch: Launch,
    /// As its runtime understands it: `file.function`, or whatever a bootstrap makes of it.
    pub handler: String,
    /// Mounted where the machine allows it, else copied: it must stay, and stay as it is, as long as an environment
    /// of it lives. An image has its code in itself: of this, only the folder around it counts then.
    pub code_dir: PathBuf,
    /// Folders of unpacked layers, for which the same holds; files of later ones hide those of earlier ones.
    pub layers: Vec<PathBuf>,
    /// The user's variables. They do not override what AWS reserves.
    pub environment: Vec<(String, String)>,
    /// What the caller answers for: region, credentials. Stands above the user's.
    pub environment_reserved: Vec<(String, String)>,
    pub memory_mb: u32,
    pub tmp_mb: u32,
    /// Where it may connect to. Holds where environments have a network of their own.
    pub network: Network,
    pub log_bytes_max: usize,
    pub init_timeout: Duration,
    pub isolation: Isolation,
}

/// The program of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// Our client for Python.
    Python(Interpreter),
    /// Our client for Node.
    Node(Interpreter),
    /// `bootstrap` of the code or else of the layers, as in AWS's `provided` runtimes.
    Bootstrap,
    /// What a container image brings along, which is all that there is.
    Image(Image),
}

/// A container image that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its files, for anybody to read: mounted, so that they must stay, and stay as they are, as long as an environment
    /// of it lives.
    pub root: PathBuf,
    /// The program, as a path or a name that is looked for on the image's `PATH`, and its arguments.
    pub entry_point: Vec<String>,
    /// Where it starts, from its own root.
    pub working_dir: String,
    /// Stand above what every program finds and below what the function's user sets.
    pub environment: Vec<(String, String)>,
}

impl Launch {
    pub fn interpreter(&self) -> Option<&Interpreter> {
        match self {
            Launch::Python(interpreter) | Launch::Node(interpreter) => Some(interpreter),
            Launch::Bootstrap | Launch::Image(_) => None,
        }
    }

    pub(super) fn image(&self) -> Option<&Image> {
        match self {
            Launch::Image(image) => Some(image),
            Launch::Python(_) | Launch::Node(_) | Launch::Bootstrap => None,
        }
    }
}

impl Spec {
    /// Lets the user of its environments, which may not be the one that keeps the code, read that. What is readable
    /// already costs a look. An image is kept in another way.
    pub fn let_read(&self) -> Result<(), Error> {
        if self.isolation.user.is_none() || self.launch.image().is_some() {
            return Ok(());
        }
        layout::let_read(&self.code_dir)?;
        self.layers
            .iter()
            .try_for_each(|layer| layout::let_read(layer))
    }

    /// Its environments are restored before their first event ([`super::Environment::restore`]).
    pub fn is_restored(&self) -> bool {
        let mut reserved = self.environment_reserved.iter().rev();
        // The last one holds.
        let last = reserved.find(|(name, _)| name == INITIALIZATION_TYPE);
        last.is_some_and(|(_, value)| value == SNAP_START)
    }

    /// Names of the programs below `extensions` of the layers or of the image's `/opt`, which run beside the runtime.
    pub(super) fn extensions(&self) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        if let Some(image) = self.launch.image() {
            names.extend(image::extensions(&image.root));
        }
        for layer in &self.layers {
            for entry in std::fs::read_dir(layer.join("extensions"))
                .into_iter()
                .flatten()
                .flatten()
            {
                if entry.path().is_file()
                    && let Ok(name) = entry.file_name().into_string()
                {
                    names.insert(name);
                }
            }
        }
        names.into_iter().take(EXTENSIONS_MAX).collect()
    }

    /// The bootstrap as the host sees it: of the code, else of the last layer that has one.
    pub(super) fn bootstrap(&self) -> Option<(BootstrapOf, PathBuf)> {
        let of = |dir: &Path| Some(dir.join("bootstrap")).filter(|path| path.is_file());
        if let Some(path) = of(&self.code_dir) {
            return Some((BootstrapOf::Code, path));
        }
        let path = self.layers.iter().rev().find_map(|layer| of(layer))?;
        Some((BootstrapOf::Layers, path))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BootstrapOf {
    Code,
    Layers,
}

/// One event and what AWS says beside it. What is empty is not said.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    pub request_id: String,
    pub payload: Bytes,
    pub timeout: Duration,
    /// With the qualifier that was asked for.
    pub function_arn: String,
    /// X-Ray's `Root=…;Parent=…;Sampled=…`.
    pub trace_id: String,
    /// JSON of a mobile client.
    pub client_context: String,
    /// JSON: `{"cognitoIdentityId", "cognitoIdentityPoolId"}`.
    pub cognito_identity: String,
}

#[cfg(test)]
impl Spec {
    /// A Python function of little of everything.
    pub(super) fn example() -> Spec {
        Spec {
            function: "probe".to_owned(),
            function_arn: "arn:aws:lambda:local:000000000000:function:probe".to_owned(),
            qualifier: "7".to_owned(),
            runtime: "python3.11".to_owned(),
            launch: Launch::Python(Interpreter {
                program: "/x/bin/python3".into(),
                version: "3.11".to_owned(),
                needs: vec!["/x".into()],
            }),
            handler: "app.handler".to_owned(),
            code_dir: "/codes/code".into(),
            layers: Vec::new(),
            environment: Vec::new(),
            environment_reserved: Vec::new(),
            memory_mb: 128,
            tmp_mb: 512,
            network: Network::None,
            log_bytes_max: 64 << 10,
            init_timeout: Duration::from_secs(10),
            isolation: Isolation::none("/nowhere".into()),
        }
    }
}
