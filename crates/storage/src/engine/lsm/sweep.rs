//! Removes what failed flushes and compactions leave behind.
//!
//! A table that could not be finished for lack of space stays in its folder, unlisted, until the next open. Since both
//! are retried, they would otherwise eat up whatever space is freed, and never succeed.

use super::{Shared, lock, version_file};
use crate::engine::{EngineError, Keyspace};
use lsm_tree::{AbstractTree, Table};
use std::collections::HashSet;
use std::sync::Mutex;

/// IDs of all tables that any list of tables ever had since the engine was opened, by [`Keyspace::slot`].
///
/// Views and reads under way may need such a table after it is no longer listed; it is deleted when they are done, and
/// not by us.
#[derive(Default)]
pub(super) struct SeenTables([Mutex<HashSet<u64>>; 4]);

impl Shared {
    /// Remembers which tables a tree has; to be called whenever that may have changed.
    pub(super) fn see_tables(&self, keyspace: Keyspace) {
        let version = self.tree(keyspace).current_version();
        lock(&self.seen.0[keyspace.slot()]).extend(version.iter_tables().map(Table::id));
    }

    /// Removes unfinished tables, if nobody is writing any at the moment. To be called after a failure.
    pub(super) fn sweep(&self) {
        let (Ok(_no_checkpoint), Ok(_no_compaction)) =
            (self.checkpoint.try_lock(), self.compacting.try_write())
        else {
            return;
        };
        for keyspace in Keyspace::ALL {
            if let Err(e) = self.sweep_one(keyspace) {
                tracing::warn!(keyspace = keyspace.name(), error = %e, "could not remove unfinished tables");
            }
        }
    }

    fn sweep_one(&self, keyspace: Keyspace) -> Result<(), EngineError> {
        self.see_tables(keyspace);
        let seen = lock(&self.seen.0[keyspace.slot()]).clone();
        for file in version_file::table_files(&self.path(keyspace))? {
            let id =
                file.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u64>().ok());
            if id.is_none_or(|id| seen.contains(&id)) || !file.is_file() {
                continue;
            }
            std::fs::remove_file(&file)
                .map_err(|e| EngineError::io(format!("remove {}", file.display()), e))?;
            tracing::info!(table = %file.display(), "removed an unfinished table");
        }
        Ok(())
    }
}
