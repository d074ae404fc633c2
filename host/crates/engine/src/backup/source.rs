//! A backup at the host: its copies of plugins, then the rows of its log.
//!
//! The notes of what runs in the slots are read before the log's moment, so they
//! may be behind the log and never ahead of it, as after a kill of the host.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use courtside_log::{LogError, backup::BackupRows};

use super::{PLUGINS, frames::FrameWriter};
use crate::slots::store::{ACTIVE_FILE, is_copy};

/// The pages of a backup, in order.
pub struct Source {
    data_dir: PathBuf,
    rows: Box<dyn BackupRows>,
    frames: FrameWriter,
    /// The pipelines whose plugins are still to come; none before the first page.
    pipelines: Option<Vec<String>>,
    ended: bool,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Source {
    #[must_use]
    pub fn new(data_dir: &Path, rows: Box<dyn BackupRows>) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            rows,
            frames: FrameWriter::default(),
            pipelines: None,
            ended: false,
        }
    }

    /// The next page, or none after the last. A failure is a page as well, and the
    /// last one.
    pub fn next_page(&mut self) -> Option<Vec<u8>> {
        if !self.ended
            && let Err(error) = self.fill()
        {
            tracing::warn!(code = error.code(), %error, "backup cut short by an error");
            self.fail(error.code(), &error.to_string());
        }
        let page = self.frames.take_page();
        (!self.ended || !page.is_empty()).then_some(page)
    }

    /// Ends the backup with an error as its last page, unless the backup has ended
    /// already.
    pub fn fail(&mut self, code: &str, reason: &str) {
        if !self.ended {
            self.frames.failure(code, reason);
            self.ended = true;
        }
    }

    fn fill(&mut self) -> Result<(), LogError> {
        let dir = self.data_dir.join(PLUGINS);
        let failed = |error: io::Error| LogError::Unavailable {
            reason: format!("the copies of plugins in {}: {error}", dir.display()),
        };
        if self.pipelines.is_none() {
            self.pipelines = Some(names(&dir).map_err(failed)?.into_iter().collect());
        }
        if let Some(pipeline) = self.pipelines.as_mut().and_then(Vec::pop) {
            return self.pipeline(&dir, &pipeline).map_err(failed);
        }
        let frames = &mut self.frames;
        let more = self.rows.next(&mut |space, key, value| {
            frames.row(space, key, value);
            Ok(())
        })?;
        if !more {
            self.frames.end();
            self.ended = true;
        }
        Ok(())
    }

    /// Sends the plugins of one pipeline. The note is read first, because the host
    /// makes a copy before the note that names it.
    fn pipeline(&mut self, dir: &Path, pipeline: &str) -> io::Result<()> {
        let dir = dir.join(pipeline);
        let active = read(&dir.join(ACTIVE_FILE))?;
        for name in names(&dir)?.iter().filter(|name| is_copy(name)) {
            // The host may remove a copy that is no longer wanted meanwhile.
            if let Some(bytes) = read(&dir.join(name))? {
                self.frames
                    .file(&format!("{PLUGINS}/{pipeline}/{name}"), &bytes);
            }
        }
        if let Some(bytes) = active {
            self.frames
                .file(&format!("{PLUGINS}/{pipeline}/{ACTIVE_FILE}"), &bytes);
        }
        Ok(())
    }
}

/// The names in a directory; no names where the directory is missing.
fn names(dir: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if is_missing(&error) => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.insert(name);
        }
    }
    Ok(names)
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
