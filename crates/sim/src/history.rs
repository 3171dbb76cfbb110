//! One history: what clients and the server do, and what befalls them, all of it from one seed.
//!
//! Faults are set before a step and end with the next start of the server. What a step says is checked at once; after
//! every start, and now and then between, everything that can be read is compared with the model.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use lambic_base::{
    ManualClock,
    disk::{Faults, SimDisk},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    keys::SimKeys,
    model::{Attempt, Model, STREAMS},
    node::{Machine, Node},
    views::SHAPES,
};

/// What a history is doing; the last of them are told when it fails.
const STEPS_TOLD: usize = 24;
const DECLARATIONS: &str = "
    CREATE STREAM IF NOT EXISTS plain (id text, k text, v bigint) WITH (partitions = 2);
    CREATE STREAM IF NOT EXISTS by_id (id text, k text, v bigint) WITH (record_id = 'id');
    CREATE STREAM IF NOT EXISTS other (id text, k text, v bigint);";

/// What a history has come through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub power_cuts: u64,
    pub kills: u64,
    pub steps: u64,
    pub operations: u64,
    pub appends: u64,
    pub records: u64,
    /// Streams and views that were read and compared.
    pub comparisons: u64,
}

impl Figures {
    pub fn crashes(&self) -> u64 {
        self.power_cuts + self.kills
    }

    pub fn add(&mut self, other: &Figures) {
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.steps += other.steps;
        self.operations += other.operations;
        self.appends += other.appends;
        self.records += other.records;
        self.comparisons += other.comparisons;
    }
}

/// A history and its machine.
pub struct History {
    pub(crate) chance: StdRng,
    pub(crate) machine: Machine,
    clock: Arc<ManualClock>,
    node: Option<Node>,
    pub(crate) model: Model,
    /// By view of [`SHAPES`]: the versions that it may have; `None` is that there is no such view.
    pub(crate) versions: Vec<Vec<Option<usize>>>,
    /// Appends whose outcome their client did not learn.
    pub(crate) again: Vec<Attempt>,
    pub(crate) next_id: u64,
    pub(crate) faults: Faults,
    pub(crate) figures: Figures,
    told: VecDeque<String>,
}

/// Why a history ended; what it did last comes with it.
pub type Failure = String;

impl History {
    /// A new machine, and a server whose streams and views are declared.
    pub async fn begin(seed: u64) -> Result<History, Failure> {
        let mut history = History::on_a_new_machine(seed);
        history.start().await?;
        history.declare().await?;
        Ok(history)
    }

    /// A new machine without a server.
    pub fn on_a_new_machine(seed: u64) -> History {
        let mut chance = StdRng::seed_from_u64(seed);
        let disk = SimDisk::new(chance.random());
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
        History {
            chance,
            machine: Machine {
                keys: SimKeys::new(disk.clone()),
                disk,
                clock: clock.clone(),
            },
            clock,
            node: None,
            model: Model::default(),
            versions: vec![vec![None]; SHAPES.len()],
            again: Vec::new(),
            next_id: 0,
            faults: Faults::default(),
            figures: Figures::default(),
            told: VecDeque::new(),
        }
    }

    pub fn figures(&self) -> Figures {
        let mut figures = self.figures;
        figures.operations += self.machine.disk.operations();
        figures.records = STREAMS
            .iter()
            .enumerate()
            .map(|(stream, _)| self.model.rows(stream).count() as u64)
            .sum();
        figures
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("a server runs between starts")
    }

    pub(crate) fn tell(&mut self, what: String) {
        self.figures.steps += 1;
        self.clock.advance(Duration::from_millis(7));
        if self.told.len() == STEPS_TOLD {
            self.told.pop_front();
        }
        let at = self.machine.disk.operations();
        self.told
            .push_back(format!("{:5} (operation {at}) {what}", self.figures.steps));
    }

    /// The last steps, one on a line.
    pub fn told(&self) -> String {
        let lines: Vec<&str> = self.told.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    /// What the machine's disk does from now on.
    pub fn set(&mut self, faults: Faults) {
        self.machine.disk.set(faults.clone());
        self.faults = faults;
    }

    /// Whether something is allowed to fail.
    pub(crate) fn is_faulty(&self) -> bool {
        self.faults.room.is_some()
            || self.faults.error_at.is_some()
            || self.faults.power_off_at.is_some()
    }

    /// An error that must have a cause.
    pub(crate) fn forgive(&self, what: &str, error: &str) -> Result<(), Failure> {
        match self.is_faulty() {
            true => Ok(()),
            false => Err(format!("{what} failed without a cause: {error}")),
        }
    }

    /// Declares streams and views, as often as it takes.
    pub async fn declare(&mut self) -> Result<(), Failure> {
        self.tell("declare".to_owned());
        if let Err(error) = self.node().sql(DECLARATIONS).await {
            return self.forgive("declaring streams", &error);
        }
        for shape in 0..SHAPES.len() {
            self.replace_view(shape, 0).await?;
        }
        Ok(())
    }

    /// `CREATE OR REPLACE MATERIALIZED VIEW`.
    pub(crate) async fn replace_view(
        &mut self,
        shape: usize,
        version: usize,
    ) -> Result<(), Failure> {
        let name = SHAPES[shape].name;
        let sql = SHAPES[shape].versions[version].sql;
        self.tell(format!("view {name} becomes {sql}"));
        let statement = format!("CREATE OR REPLACE MATERIALIZED VIEW {name} AS {sql}");
        let done = self.node().sql(&statement).await;
        self.changed_view(shape, Some(version), done)
    }

    pub(crate) async fn drop_view(&mut self, shape: usize) -> Result<(), Failure> {
        let name = SHAPES[shape].name;
        self.tell(format!("drop view {name}"));
        let statement = format!("DROP MATERIALIZED VIEW IF EXISTS {name}");
        let done = self.node().sql(&statement).await;
        self.changed_view(shape, None, done)
    }

    fn changed_view(
        &mut self,
        shape: usize,
        to: Option<usize>,
        done: Result<Vec<Vec<String>>, String>,
    ) -> Result<(), Failure> {
        match done {
            Ok(_) => {
                self.versions[shape] = vec![to];
                Ok(())
            }
            Err(error) => {
                // It may be done, all but clearing away what was before.
                let now = self.node().definition(SHAPES[shape].name);
                let wanted = to.map(|version| SHAPES[shape].versions[version].sql.to_owned());
                match now == wanted {
                    true => self.versions[shape] = vec![to],
                    false => self.versions[shape].push(to),
                }
                self.forgive("changing a view", &error)
            }
        }
    }

    /// The first start of the server.
    pub async fn start(&mut self) -> Result<(), Failure> {
        self.tell("start".to_owned());
        self.node = Some(Node::open(&self.machine).await?);
        Ok(())
    }

    /// A clean end and a start.
    pub async fn restart(&mut self) -> Result<(), Failure> {
        self.tell("stop, start".to_owned());
        if let Some(node) = self.node.take() {
            node.close().await;
        }
        match Node::open(&self.machine).await {
            Ok(node) => self.node = Some(node),
            Err(error) => self.forgive("starting", &error)?,
        }
        if self.node.is_some() && !self.machine.disk.is_off() {
            return self.compare_after_start().await;
        }
        let is_power_cut = self.chance.random();
        self.crash(is_power_cut, true).await
    }

    /// The server ends where it stands, by a power cut or a kill, and is started until it comes up; then everything is
    /// compared. With `again`, the starts may end in the same way.
    pub async fn crash(&mut self, is_power_cut: bool, again: bool) -> Result<(), Failure> {
        let mut is_power_cut = is_power_cut;
        loop {
            self.machine.disk.power_off();
            if let Some(node) = self.node.take() {
                node.close().await;
            }
            self.figures.operations += self.machine.disk.operations();
            let disk = match is_power_cut {
                true => self.machine.disk.after_power_cut(),
                false => self.machine.disk.after_kill(),
            };
            match is_power_cut {
                true => self.figures.power_cuts += 1,
                false => self.figures.kills += 1,
            }
            self.machine.keys = self
                .machine
                .keys
                .after_crash(disk.clone(), &mut self.chance);
            self.machine.disk = disk;
            self.tell(match is_power_cut {
                true => "power cut, start".to_owned(),
                false => "kill, start".to_owned(),
            });
            let power_off_at =
                (again && self.chance.random_bool(0.3)).then(|| self.chance.random_range(1..40));
            self.set(Faults {
                power_off_at,
                ..Faults::default()
            });
            match Node::open(&self.machine).await {
                Ok(node) => {
                    self.node = Some(node);
                    if !self.machine.disk.is_off() {
                        self.set(Faults::default());
                        return self.compare_after_start().await;
                    }
                }
                Err(_) if self.machine.disk.is_off() => {}
                Err(error) => return Err(format!("the server does not start: {error}")),
            }
            is_power_cut = self.chance.random();
        }
    }
}
