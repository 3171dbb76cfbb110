//! What programs ask of the simulated disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rand::RngExt;

use super::{Content, Entry, Fate, Op, Sim, SimDisk, children, locked, off};
use crate::disk::{Disk, DiskFile};

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut sim = self.sim();
        let dir = path.parent().unwrap_or(path);
        if !matches!(sim.now.get(dir), Some(Entry::Dir { .. })) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let content = match sim.file(path) {
            Ok(content) => content,
            Err(_) => Arc::new(Mutex::new(Content::new(sim.new_id()))),
        };
        sim.change(Op::Create, |sim| {
            let before = locked(&content).now.len() as u64;
            if before > 0 {
                locked(&content).set_len(0);
                sim.give_room_back(before);
            }
            sim.now
                .insert(path.to_owned(), Entry::File(content.clone()));
            Ok(())
        })?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            content,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let content = self.sim().file(path)?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            content,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sim().change(Op::Rename, |sim| {
            let entry = sim.now.remove(from).ok_or(io::ErrorKind::NotFound)?;
            let _ = sim.forget_name(to);
            sim.now.insert(to.to_owned(), entry);
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sim().change(Op::Link, |sim| {
            if sim.now.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = Entry::File(sim.file(from)?);
            sim.now.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.sim().change(Op::Remove, |sim| {
            sim.file(path)?;
            sim.forget_name(path).map(|_| ())
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let sim = self.sim();
        sim.readable()?;
        Ok(sim.now.contains_key(path))
    }

    fn is_dir(&self, path: &Path) -> bool {
        matches!(self.sim().now.get(path), Some(Entry::Dir { .. }))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = {
            let sim = self.sim();
            let missing = dir
                .ancestors()
                .take_while(|dir| !sim.now.contains_key(*dir));
            missing.collect()
        };
        for dir in missing.into_iter().rev() {
            self.sim().change(Op::CreateDir, |sim| {
                let id = sim.new_id();
                sim.now.insert(dir.to_owned(), Entry::Dir { id });
                Ok(())
            })?;
            if let Some(above) = dir.parent() {
                self.sync_dir(above)?;
            }
        }
        match dir.parent() {
            Some(above) => self.sync_dir(above),
            None => Ok(()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let sim = self.sim();
        sim.readable()?;
        if !matches!(sim.now.get(dir), Some(Entry::Dir { .. })) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(children(&sim.now, dir)
            .map(|(path, _)| path.clone())
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.powered()?;
        let fate = sim.fate(Op::SyncDir);
        let Sim {
            now,
            durable,
            chance,
            ..
        } = &mut *sim;
        let is_whole = matches!(fate, Fate::Done);
        // A name that stands for another file now is among the new: a rename replaces in one step.
        let gone: Vec<PathBuf> = children(durable, dir)
            .map(|(path, _)| path.clone())
            .filter(|path| !now.contains_key(path))
            .collect();
        let new: Vec<(PathBuf, Entry)> = children(now, dir)
            .filter(|(path, entry)| durable.get(*path).is_none_or(|old| old.id() != entry.id()))
            .map(|(path, entry)| (path.clone(), entry.clone()))
            .collect();
        for path in gone {
            if is_whole || chance.random() {
                durable.remove(&path);
            }
        }
        for (path, entry) in new {
            if is_whole || chance.random() {
                durable.insert(path, entry);
            }
        }
        match fate {
            Fate::Done => Ok(()),
            Fate::Failed(error) => Err(error),
            Fate::Off => Err(off()),
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    content: Arc<Mutex<Content>>,
}

impl DiskFile for SimFile {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut sim = self.disk.sim();
        sim.powered()?;
        let fate = sim.fate(Op::Write);
        let mut content = locked(&self.content);
        let mut written = match &fate {
            Fate::Done => bytes.len(),
            _ => sim.chance.random_range(0..=bytes.len()),
        };
        let length = content.now.len() as u64;
        let growth = (position + written as u64).saturating_sub(length);
        let missing = growth - sim.take_room(growth);
        written = written.saturating_sub(missing as usize);
        content.write(&bytes[..written], position);
        match fate {
            Fate::Done if missing > 0 => Err(io::ErrorKind::StorageFull.into()),
            Fate::Done => Ok(()),
            Fate::Failed(error) => Err(error),
            Fate::Off => Err(off()),
        }
    }

    fn read_exact_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        self.disk.sim().readable()?;
        let content = locked(&self.content);
        let start = position as usize;
        let found = content.now.get(start..start + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(locked(&self.content).now.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.sim().change(Op::SetLen, |sim| {
            let mut content = locked(&self.content);
            let before = content.now.len() as u64;
            content.set_len(bytes);
            sim.give_room_back(before.saturating_sub(bytes));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let gate = self.disk.sim().gate.take();
        if let Some(gate) = gate {
            gate.pass();
        }
        let mut sim = self.disk.sim();
        sim.powered()?;
        let fate = sim.fate(Op::Sync);
        let mut content = locked(&self.content);
        match fate {
            Fate::Done => {
                content.sync();
                Ok(())
            }
            Fate::Failed(error) => {
                content.fail_sync(&mut sim.chance);
                Err(error)
            }
            Fate::Off => Err(off()),
        }
    }
}
