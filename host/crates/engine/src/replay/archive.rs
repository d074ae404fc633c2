//! An export: a recording as one file, which `courtside replay --from` reads
//! anywhere.
//!
//! It is a tar archive of plain files, the first of which says what it is:
//!
//! | file | holds |
//! | --- | --- |
//! | `export.json` | `format` (`courtside-export/1`), the host's version, the key, the pipeline, the entity (bounds, committed offset, checkpoint, takeovers), and how much follows |
//! | `events.ndjson` | the events, a record a line |
//! | `published.ndjson` | what was published, a record a line |
//! | `plugins/<digest>.wasm` | the plugins that processed them |
//!
//! A later version of this format has another number; files that a version does not know
//! are ignored. A recording always makes the same bytes.
//!
//! The format is tar and not zip: an archive is written and read as a stream, and every
//! machine has `tar`.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read, Write},
};

use bytes::Bytes;
use courtside_types::Digest;
use serde::{Deserialize, Serialize};

use super::{
    entity::{EntityPartition, PipelineView},
    error::ReplayError,
    line::Line,
    recording::{RECORDING_BYTES_MAX, Recording},
};

const FORMAT: &str = "courtside-export/1";
const MANIFEST: &str = "export.json";
const EVENTS: &str = "events.ndjson";
const PUBLISHED: &str = "published.ndjson";
const PLUGINS: &str = "plugins/";
const EXTENSION: &str = ".wasm";
/// Most bytes of one file in an archive. The archive may come from anybody, and the file
/// is read into memory.
const MEMBER_BYTES_MAX: u64 = RECORDING_BYTES_MAX as u64;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: String,
    /// Version of the program that made the export.
    courtside: String,
    key: String,
    pipeline: PipelineView,
    entity: EntityPartition,
    /// Counts of what follows, by which a file that was cut short is recognised.
    events: usize,
    published: usize,
    plugins: Vec<String>,
}

pub fn write(recording: &Recording, to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        courtside: env!("CARGO_PKG_VERSION").to_owned(),
        key: recording.key.clone(),
        pipeline: recording.pipeline.clone(),
        entity: recording.at.clone(),
        events: recording.events.len(),
        published: recording.published.len(),
        plugins: recording.plugins.keys().map(Digest::to_string).collect(),
    };
    append(
        &mut archive,
        MANIFEST,
        &serde_json::to_vec_pretty(&manifest)?,
    )?;
    for (name, lines) in [
        (EVENTS, &recording.events),
        (PUBLISHED, &recording.published),
    ] {
        let text: String = lines.iter().map(Line::to_json).collect();
        append(&mut archive, name, text.as_bytes())?;
    }
    for (digest, bytes) in &recording.plugins {
        append(
            &mut archive,
            &format!("{PLUGINS}{digest}{EXTENSION}"),
            bytes,
        )?;
    }
    archive.into_inner()?.flush()
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, bytes)
}

pub fn read(from: impl Read) -> Result<Recording, ReplayError> {
    let unreadable = |error: io::Error| ReplayError::Export(format!("no tar archive: {error}"));
    let mut archive = tar::Archive::new(from);
    let mut manifest: Option<Manifest> = None;
    let (mut events, mut published, mut plugins) = (None, None, BTreeMap::new());
    for member in archive.entries().map_err(unreadable)? {
        let mut member = member.map_err(unreadable)?;
        let name = member.path_bytes().into_owned();
        let name = String::from_utf8_lossy(&name).into_owned();
        if member.size() > MEMBER_BYTES_MAX {
            let problem = format!("{name} is over {MEMBER_BYTES_MAX} bytes");
            return Err(ReplayError::Export(problem));
        }
        match &*name {
            MANIFEST => manifest = Some(read_manifest(&mut member)?),
            // The manifest says what the other files are, so it must come first.
            _ if manifest.is_none() => break,
            EVENTS => events = Some(read_lines(EVENTS, &mut member)?),
            PUBLISHED => published = Some(read_lines(PUBLISHED, &mut member)?),
            _ => {
                if let Some(digest) = digest_of(&name) {
                    plugins.insert(digest, read_plugin(digest, &mut member)?);
                }
            }
        }
    }
    let missing = |name: &str| ReplayError::Export(format!("it has no {name}"));
    let manifest = manifest.ok_or_else(|| missing(MANIFEST))?;
    let recording = Recording {
        pipeline: manifest.pipeline,
        key: manifest.key,
        at: manifest.entity,
        events: events.ok_or_else(|| missing(EVENTS))?,
        published: published.ok_or_else(|| missing(PUBLISHED))?,
        plugins,
    };
    let digests = recording.plugins.keys().map(Digest::to_string);
    let is_whole = recording.events.len() == manifest.events
        && recording.published.len() == manifest.published
        && digests.eq(manifest.plugins);
    if !is_whole {
        let problem = "its contents differ from its manifest: the file was cut short";
        return Err(ReplayError::Export(problem.to_owned()));
    }
    Ok(recording)
}

fn read_manifest(member: &mut impl Read) -> Result<Manifest, ReplayError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: String,
    }
    let invalid = |error: serde_json::Error| ReplayError::Export(format!("{MANIFEST}: {error}"));
    let mut text = Vec::new();
    member
        .read_to_end(&mut text)
        .map_err(|error| ReplayError::Export(format!("{MANIFEST}: {error}")))?;
    let Versioned { format } = serde_json::from_slice(&text).map_err(invalid)?;
    if format != FORMAT {
        let problem = format!("its format is {format:?}, this program reads {FORMAT}");
        return Err(ReplayError::Export(problem));
    }
    serde_json::from_slice(&text).map_err(invalid)
}

fn read_lines(name: &str, member: &mut impl Read) -> Result<Vec<Line>, ReplayError> {
    let lines = BufReader::new(member).lines().zip(1..);
    let parsed = lines.map(|(line, number)| {
        let invalid = |why: String| ReplayError::Export(format!("{name}: line {number}: {why}"));
        let line = line.map_err(|error| invalid(error.to_string()))?;
        serde_json::from_str(&line).map_err(|error| invalid(error.to_string()))
    });
    parsed.collect()
}

fn digest_of(name: &str) -> Option<Digest> {
    let stem = name.strip_prefix(PLUGINS)?.strip_suffix(EXTENSION)?;
    stem.parse().ok()
}

fn read_plugin(digest: Digest, member: &mut impl Read) -> Result<Bytes, ReplayError> {
    let mut bytes = Vec::new();
    member
        .read_to_end(&mut bytes)
        .map_err(|error| ReplayError::Export(format!("plugin {digest}: {error}")))?;
    if Digest::of(&bytes) != digest {
        let problem = format!("the bytes of the plugin {digest} do not have this digest");
        return Err(ReplayError::Export(problem));
    }
    Ok(bytes.into())
}
