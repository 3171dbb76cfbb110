//! `BACKUP TO 'folder or URL'`.

use std::sync::Arc;

use arrow::array::StringArray;

use super::{Database, explain, rows};
use crate::{Error, Outcome};

impl Database {
    /// Ends without a backup if whoever asked goes away.
    pub(super) async fn backup(&self, target: &str) -> Result<Outcome, Error> {
        let made = self.lifecycle()?.backup(target).await?;
        let mut lines = vec![
            ("backup", made.backup),
            ("target", made.target),
            ("frontier", made.frontier),
            ("files", made.files_total.to_string()),
            ("bytes", made.bytes_total.to_string()),
            ("bytes copied", made.bytes_copied.to_string()),
        ];
        lines.extend(made.notes.into_iter().map(|note| ("note", note)));
        let (names, values): (Vec<&str>, Vec<String>) = lines.into_iter().unzip();
        let names = Arc::new(StringArray::from(names));
        let values = Arc::new(StringArray::from(values));
        rows(explain::schema(), vec![names, values])
    }
}
