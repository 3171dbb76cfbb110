//! Reads everything as clients do, and compares it with the model.

use lambic_model::Offset;

use crate::{
    history::{Failure, History},
    model::{Records, Row, STREAMS},
    views::SHAPES,
};

/// Of the log.
pub(crate) const CURSOR: &str = "position";

impl History {
    /// After a start: what was not answered is settled, then all must be as the model says.
    pub(crate) async fn compare_after_start(&mut self) -> Result<(), Failure> {
        if self.node().stream("other").is_none() {
            // The streams are declared in order, and the views after them.
            return Ok(());
        }
        let (found, cursor) = (self.records().await?, self.cursor());
        let open = self.model.settle(&found, cursor)?;
        self.again.extend(open);
        for shape in 0..SHAPES.len() {
            self.settle_view(shape)?;
        }
        self.compare_streams().await?;
        self.compare_views().await?;
        let damaged = self.node().damaged_files().await;
        match damaged.first() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} sealed files are damaged: {first}",
                damaged.len()
            )),
        }
    }

    /// The catalog says which version of a view there is, of those that may be.
    fn settle_view(&mut self, shape: usize) -> Result<(), Failure> {
        let found = self.node().definition(SHAPES[shape].name);
        let versions = &SHAPES[shape].versions;
        let version = found
            .as_ref()
            .map(|sql| versions.iter().position(|version| version.sql == *sql));
        let candidates = &mut self.versions[shape];
        match version {
            Some(None) => Err(format!("view {} is {found:?}", SHAPES[shape].name)),
            other if !candidates.contains(&other.flatten()) => Err(format!(
                "view {} is {found:?}, not one of {candidates:?}",
                SHAPES[shape].name
            )),
            other => {
                *candidates = vec![other.flatten()];
                Ok(())
            }
        }
    }

    pub(crate) async fn compare_streams(&mut self) -> Result<(), Failure> {
        let (found, cursor) = (self.records().await?, self.cursor());
        self.figures.comparisons += STREAMS.len() as u64;
        if (&self.model.records, self.model.cursor) != (&found, cursor) {
            let difference = self.model.difference(&found, cursor);
            return Err(format!(
                "the streams are not what was acknowledged: {difference}"
            ));
        }
        Ok(())
    }

    pub(crate) async fn compare_views(&mut self) -> Result<(), Failure> {
        for shape in 0..SHAPES.len() {
            self.compare_view(shape).await?;
        }
        Ok(())
    }

    pub(crate) async fn compare_view(&mut self, shape: usize) -> Result<(), Failure> {
        let name = SHAPES[shape].name;
        // While a change failed, the view is what it was before.
        let Some(version) = self.versions[shape][0] else {
            return Ok(());
        };
        let found = self.node().sql(&format!("SELECT * FROM {name}")).await;
        let mut found = match found {
            Ok(found) => found,
            Err(error) => return self.forgive(&format!("reading view {name}"), &error),
        };
        let mut expected = (SHAPES[shape].versions[version].rows)(&self.model);
        found.sort();
        expected.sort();
        self.figures.comparisons += 1;
        if found == expected {
            return Ok(());
        }
        let missing = expected.iter().find(|row| !found.contains(row));
        let extra = found.iter().find(|row| !expected.contains(row));
        Err(format!(
            "view {name} has {} rows, not {}; missing {missing:?}, extra {extra:?}",
            found.len(),
            expected.len()
        ))
    }

    fn cursor(&self) -> Option<u64> {
        let cursor = self.node().log.cursor(CURSOR)?;
        cursor.frontier.0.first().map(|Offset(at)| *at)
    }

    /// All streams from the first record on: dataset and log together.
    async fn records(&self) -> Result<Records, Failure> {
        let mut records = Records::new();
        for (stream, (name, _)) in STREAMS.iter().enumerate() {
            let sql = format!("SELECT id, k, v, _partition, _offset FROM {name}");
            let rows = self.node().sql(&sql).await;
            let rows = rows.map_err(|error| format!("reading stream {name}: {error}"))?;
            let mut placed = Vec::with_capacity(rows.len());
            for row in rows {
                placed.push(as_row(&row).ok_or_else(|| format!("{name} has a row {row:?}"))?);
            }
            placed.sort();
            for (partition, offset, row) in placed {
                let rows = records.entry((stream, partition)).or_default();
                if offset != rows.len() as u64 {
                    return Err(format!(
                        "{name} partition {partition} has offset {offset} after {} records",
                        rows.len()
                    ));
                }
                rows.push(row);
            }
        }
        Ok(records)
    }
}

fn as_row(values: &[String]) -> Option<(u32, u64, Row)> {
    let [id, k, v, partition, offset] = values else {
        return None;
    };
    let some = |value: &String| (value != "NULL").then(|| value.clone());
    let row = Row {
        id: id.clone(),
        k: some(k),
        v: some(v).map(|v| v.parse()).transpose().ok()?,
    };
    Some((partition.parse().ok()?, offset.parse().ok()?, row))
}
