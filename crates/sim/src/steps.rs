//! What can happen in a history, and how chance chooses it.

use lambic_base::disk::Faults;
use rand::RngExt;

use crate::{
    history::{Failure, Figures, History},
    model::{Attempt, AttemptedWrite, BY_ID, Row, STREAMS},
    views::SHAPES,
};

const PRODUCERS: u64 = 3;
const KEYS: u64 = 4;
/// After how many operations at most a fault strikes that was set.
const STRIKES_WITHIN: u64 = 60;

/// One step.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Append,
    /// Appends that wait for one another and share a sync.
    AppendTogether,
    /// A client repeats what it was not answered.
    AppendAgain,
    Seal,
    /// Small files of a stream become one.
    Compact,
    Refresh,
    Advance,
    /// What speed has computed is kept for the next start.
    Checkpoint,
    Trim,
    /// A stream gets a column, which those who append do not know of.
    AddColumn,
    ReplaceView,
    DropView,
    Restart,
    Read,
}

/// Those of chance, each as often as it stands here.
const STEPS: [Step; 35] = [
    Step::Append,
    Step::Append,
    Step::Append,
    Step::Append,
    Step::Append,
    Step::Append,
    Step::Append,
    Step::AppendTogether,
    Step::AppendTogether,
    Step::AppendTogether,
    Step::AppendAgain,
    Step::AppendAgain,
    Step::Seal,
    Step::Seal,
    Step::Seal,
    Step::Compact,
    Step::Compact,
    Step::Refresh,
    Step::Refresh,
    Step::Refresh,
    Step::Advance,
    Step::Advance,
    Step::Checkpoint,
    Step::Checkpoint,
    Step::Trim,
    Step::Trim,
    Step::Trim,
    Step::AddColumn,
    Step::ReplaceView,
    Step::ReplaceView,
    Step::DropView,
    Step::Restart,
    Step::Read,
    Step::Read,
    Step::Read,
];

/// What every operation is tried in: each kind of step, twice.
pub const SCRIPT: [Step; 28] = [
    Step::Append,
    Step::AppendTogether,
    Step::Seal,
    Step::Advance,
    Step::Append,
    Step::Checkpoint,
    Step::Refresh,
    Step::Trim,
    Step::AddColumn,
    Step::ReplaceView,
    Step::AppendTogether,
    Step::Read,
    Step::Refresh,
    Step::Append,
    Step::Seal,
    Step::Compact,
    Step::Trim,
    Step::DropView,
    Step::AppendTogether,
    Step::Advance,
    Step::Checkpoint,
    Step::Restart,
    Step::Append,
    Step::ReplaceView,
    Step::Refresh,
    Step::Compact,
    Step::Trim,
    Step::Read,
];

/// Runs the history of `seed` until it has come through `crashes` crashes. An error names the step and what led there.
pub async fn run(seed: u64, crashes: u64) -> Result<Figures, Failure> {
    let mut history = History::begin(seed).await?;
    let ran = history.run_until(crashes).await;
    ran.map_err(|failure| format!("{failure}\nthe last steps were:\n{}", history.told()))?;
    Ok(history.figures())
}

/// Plays [`SCRIPT`] on a new machine whose power goes off at the operation `power_off_at`, starts it again, and goes on
/// a little. False if the script has fewer operations.
pub async fn run_script(seed: u64, power_off_at: u64, is_power_cut: bool) -> Result<bool, Failure> {
    let mut history = History::on_a_new_machine(seed);
    let ran = history.script(power_off_at, is_power_cut).await;
    ran.map_err(|failure| format!("{failure}\nthe last steps were:\n{}", history.told()))
}

impl History {
    async fn script(&mut self, power_off_at: u64, is_power_cut: bool) -> Result<bool, Failure> {
        self.set(Faults {
            power_off_at: Some(power_off_at),
            ..Faults::default()
        });
        match self.start().await {
            Ok(()) => self.declare().await?,
            Err(error) => self.forgive("the first start", &error)?,
        }
        for step in SCRIPT {
            if self.machine.disk.is_off() {
                break;
            }
            self.step(step).await?;
        }
        if self.figures.crashes() == 0 && !self.machine.disk.is_off() {
            return Ok(false);
        }
        if self.machine.disk.is_off() {
            self.crash(is_power_cut, false).await?;
        }
        self.declare().await?;
        for step in [
            Step::Append,
            Step::AppendAgain,
            Step::AppendTogether,
            Step::Restart,
        ] {
            self.step(step).await?;
        }
        Ok(true)
    }

    async fn run_until(&mut self, crashes: u64) -> Result<(), Failure> {
        while self.figures.crashes() < crashes {
            self.maybe_set_faults();
            let step = STEPS[self.chance.random_range(0..STEPS.len())];
            self.step(step).await?;
            if self.machine.disk.is_off() || self.is_read_only()? {
                let is_power_cut = self.chance.random();
                self.crash(is_power_cut, true).await?;
            }
        }
        Ok(())
    }

    /// A log that turned read-only stays so until the server is started again. A full disk is no reason.
    fn is_read_only(&self) -> Result<bool, Failure> {
        match self.node().log.read_only() {
            Some(reason) if self.faults.room.is_some() => {
                Err(format!("a full disk turned the log read-only: {reason}"))
            }
            reason => Ok(reason.is_some()),
        }
    }

    fn maybe_set_faults(&mut self) {
        if self.faults.room.is_some() {
            // Space comes back, and everything goes on.
            if self.chance.random_bool(0.4) {
                self.tell("the disk has room again".to_owned());
                self.set(Faults::default());
            }
            return;
        }
        let operations = self.machine.disk.operations();
        let (error_at, power_off_at) = (self.faults.error_at, self.faults.power_off_at);
        if power_off_at.is_none() && error_at.is_some_and(|at| at <= operations) {
            // It has failed once, and nothing may fail for it later.
            self.set(Faults::default());
        }
        if self.is_faulty() || self.chance.random_bool(0.7) {
            return;
        }
        let at = operations + self.chance.random_range(1..STRIKES_WITHIN);
        let faults = match self.chance.random_range(0..10) {
            0 => Faults {
                room: Some(self.chance.random_range(0..3_000)),
                ..Faults::default()
            },
            1 | 2 => Faults {
                error_at: Some(at),
                ..Faults::default()
            },
            3 => Faults {
                error_at: Some(at),
                power_off_at: Some(at + self.chance.random_range(1..STRIKES_WITHIN)),
                ..Faults::default()
            },
            _ => Faults {
                power_off_at: Some(at),
                ..Faults::default()
            },
        };
        self.tell(format!("fault: {faults:?}"));
        self.set(faults);
    }

    pub async fn step(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Append => {
                let attempt = self.attempt();
                self.append(vec![attempt]).await
            }
            Step::AppendTogether => {
                let count = self.chance.random_range(2..6);
                let attempts = (0..count).map(|_| self.attempt()).collect();
                self.append(attempts).await
            }
            Step::AppendAgain => self.append_again().await,
            Step::Seal => self.seal().await,
            Step::Compact => self.compact().await,
            Step::Refresh => self.refresh().await,
            Step::Advance => {
                self.tell("speed takes in what is new".to_owned());
                let done = self.node().advance().await;
                done.or_else(|error| self.forgive("advancing views", &error))
            }
            Step::Checkpoint => {
                self.tell("checkpoint".to_owned());
                let done = self.node().checkpoint().await;
                done.or_else(|error| self.forgive("keeping checkpoints", &error))
            }
            Step::AddColumn => self.add_column().await,
            Step::Trim => {
                self.tell("trim".to_owned());
                let done = self.node().trim();
                done.map(|_| ())
                    .or_else(|error| self.forgive("trimming the log", &error))
            }
            Step::ReplaceView => {
                let shape = self.chance.random_range(0..SHAPES.len());
                let version = self.chance.random_range(0..2);
                self.replace_view(shape, version).await
            }
            Step::DropView => {
                let shape = self.chance.random_range(0..SHAPES.len());
                self.drop_view(shape).await
            }
            Step::Restart => self.restart().await,
            Step::Read => self.read().await,
        }
    }

    async fn seal(&mut self) -> Result<(), Failure> {
        let name = STREAMS[self.chance.random_range(0..STREAMS.len())].0;
        self.tell(format!("seal {name}"));
        let Some(stream) = self.node().stream(name) else {
            return Ok(());
        };
        let done = self.node().seal(stream).await;
        done.or_else(|error| self.forgive("sealing", &error))
    }

    async fn compact(&mut self) -> Result<(), Failure> {
        let name = STREAMS[self.chance.random_range(0..STREAMS.len())].0;
        let statement = format!("COMPACT STREAM {name}");
        self.tell(statement.clone());
        if self.node().stream(name).is_none() {
            return Ok(());
        }
        let done = self.node().sql(&statement).await;
        done.map(|_| ())
            .or_else(|error| self.forgive("compacting", &error))
    }

    async fn add_column(&mut self) -> Result<(), Failure> {
        let name = STREAMS[self.chance.random_range(0..STREAMS.len())].0;
        self.next_id += 1;
        let column = format!("added{}", self.next_id);
        let statement = format!("ALTER STREAM {name} ADD COLUMN {column} bigint DEFAULT 7");
        self.tell(statement.clone());
        if self.node().stream(name).is_none() {
            return Ok(());
        }
        if let Err(error) = self.node().sql(&statement).await {
            return self.forgive("adding a column", &error);
        }
        if self.is_faulty() {
            return Ok(());
        }
        let others = format!("SELECT count(*) FROM {name} WHERE {column} IS DISTINCT FROM 7");
        let found = self.node().sql(&others).await?;
        match found == [["0"]] {
            true => Ok(()),
            false => Err(format!("{column} of {found:?} records is not its default")),
        }
    }

    async fn refresh(&mut self) -> Result<(), Failure> {
        let shape = self.chance.random_range(0..SHAPES.len());
        let full = ["", " FULL"][usize::from(self.chance.random_bool(0.2))];
        if self.versions[shape][0].is_none() {
            return Ok(());
        }
        let statement = format!("REFRESH MATERIALIZED VIEW {}{full}", SHAPES[shape].name);
        self.tell(statement.clone());
        let done = self.node().sql(&statement).await;
        done.map(|_| ())
            .or_else(|error| self.forgive("a batch run", &error))
    }

    /// Reads something while the server runs.
    async fn read(&mut self) -> Result<(), Failure> {
        let shape = self.chance.random_range(0..=SHAPES.len());
        self.tell("read".to_owned());
        if self.machine.disk.is_off() {
            return Ok(());
        }
        match shape < SHAPES.len() {
            true => self.compare_view(shape).await,
            false => self.compare_streams().await,
        }
    }

    /// What some client appends next.
    fn attempt(&mut self) -> Attempt {
        let mut writes = Vec::new();
        for _ in 0..self.chance.random_range(1..4) {
            let stream = self.chance.random_range(0..STREAMS.len());
            let partition = self.chance.random_range(0..STREAMS[stream].1);
            let rows = (0..self.chance.random_range(1..6)).map(|_| self.row(stream));
            writes.push(AttemptedWrite {
                stream,
                partition,
                rows: rows.collect(),
            });
        }
        // Only appends that add a record for certain: the sequence of one that adds none leaves no trace to compare.
        let adds = writes.iter().any(|write| write.stream != BY_ID);
        let has_producer = adds && self.chance.random_bool(0.6);
        let producer = has_producer.then(|| {
            self.next_id += 1;
            let producer = self.chance.random_range(0..PRODUCERS);
            (format!("producer{producer}"), self.next_id)
        });
        let cursor = (adds && self.chance.random_bool(0.2)).then(|| {
            self.next_id += 1;
            self.next_id
        });
        Attempt {
            producer,
            cursor,
            writes,
        }
    }

    fn row(&mut self, stream: usize) -> Row {
        self.next_id += 1;
        let id = match stream == BY_ID && self.chance.random_bool(0.3) {
            // Perhaps a record that is there.
            true => self.chance.random_range(0..self.next_id),
            false => self.next_id,
        };
        let key = self.chance.random_range(0..=KEYS);
        Row {
            id: format!("id{id}"),
            k: (key > 0).then(|| format!("k{key}")),
            v: self
                .chance
                .random_bool(0.9)
                .then(|| self.chance.random_range(0..10)),
        }
    }
}
