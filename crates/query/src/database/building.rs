//! Views that are being built: building takes long, so the catalog is not locked meanwhile, but nobody
//! may change what it depends on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lambic_model::{Stream, StreamId};
use lambic_view::ViewVersion;

use crate::Error;

/// Object in use (Postgres documentation, appendix A).
const IN_USE: &str = "55006";

#[derive(Debug, Default, Clone)]
pub struct Building(Arc<Mutex<BTreeMap<String, Reads>>>);

/// What a view that is being built reads.
#[derive(Debug, Default, Clone)]
struct Reads {
    streams: Vec<StreamId>,
    views: Vec<String>,
    /// Which version it becomes, since when, and of how many records.
    version: Option<(u32, Instant, u64)>,
}

/// The name is taken until it is dropped.
#[derive(Debug)]
pub struct Reserved {
    building: Building,
    name: String,
}

impl Building {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Reads>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn reserve(&self, name: &str) -> Result<Reserved, Error> {
        let mut building = self.lock();
        if building.contains_key(name) {
            return Err(being_created(name));
        }
        building.insert(name.to_owned(), Reads::default());
        Ok(Reserved {
            building: self.clone(),
            name: name.to_owned(),
        })
    }

    /// The views that are being built and read `name`.
    pub fn readers(&self, name: &str) -> Vec<String> {
        let building = self.lock();
        let readers = building
            .iter()
            .filter(|(_, reads)| reads.views.iter().any(|read| read == name));
        readers.map(|(reader, _)| reader.clone()).collect()
    }

    /// The views that `name` will read, if it is being built.
    pub fn read_by(&self, name: &str) -> Vec<String> {
        let building = self.lock();
        building
            .get(name)
            .map_or(Vec::new(), |reads| reads.views.clone())
    }

    /// The version of the view that is being built, and how far that is.
    pub fn version(&self, name: &str) -> Option<(u32, String)> {
        let (version, since, records) = self.lock().get(name)?.version?;
        let since = Duration::from_secs(since.elapsed().as_secs());
        let since = humantime::format_duration(since);
        Some((version, format!("for {since} so far, of {records} records")))
    }

    pub fn check_stream(&self, stream: &Stream) -> Result<(), Error> {
        self.check(stream.name.as_str(), |reads| {
            reads.streams.contains(&stream.id)
        })
    }

    /// Nobody is making a new version of the view.
    pub fn check_at_rest(&self, name: &str) -> Result<(), Error> {
        match self.lock().contains_key(name) {
            true => Err(being_created(name)),
            false => Ok(()),
        }
    }

    pub fn check_view(&self, name: &str) -> Result<(), Error> {
        self.check_at_rest(name)?;
        self.check(name, |reads| reads.views.iter().any(|read| read == name))
    }

    fn check(&self, name: &str, reads_it: impl Fn(&Reads) -> bool) -> Result<(), Error> {
        match self.lock().iter().find(|(_, reads)| reads_it(reads)) {
            Some((reader, _)) => Err(in_use(format!(
                "\"{name}\" is read by view \"{reader}\", which is being created"
            ))),
            None => Ok(()),
        }
    }
}

fn being_created(name: &str) -> Error {
    in_use(format!("\"{name}\" is being created by another statement"))
}

fn in_use(message: String) -> Error {
    Error::new(IN_USE, message).with_hint("try again when that is done, or cancel it")
}

impl Reserved {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn reads(&self, streams: &[Arc<Stream>], views: &[String]) {
        let reads = Reads {
            streams: streams.iter().map(|stream| stream.id).collect(),
            views: views.to_vec(),
            version: None,
        };
        self.building.lock().insert(self.name.clone(), reads);
    }

    /// From here on it is built, of so many records.
    pub fn builds(&self, version: ViewVersion, records: u64) {
        if let Some(reads) = self.building.lock().get_mut(&self.name) {
            reads.version = Some((version.0, Instant::now(), records));
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.building.lock().remove(&self.name);
    }
}
