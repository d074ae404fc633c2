//! The places of the parts of a store in the data directory.

use std::path::PathBuf;

/// Where the parts of a store are in the data directory.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub dir: PathBuf,
}

impl Paths {
    pub fn db(&self) -> PathBuf {
        self.dir.join("db")
    }

    /// A database that is being created.
    pub fn creating(&self) -> PathBuf {
        self.dir.join("db.new")
    }

    /// Links to the tables, while they are checked.
    pub fn aside(&self) -> PathBuf {
        self.dir.join("db.check")
    }

    pub fn mark(&self) -> PathBuf {
        self.dir.join("mark")
    }

    /// A mark that is being created.
    pub fn creating_mark(&self) -> PathBuf {
        self.dir.join("mark.new")
    }
}
