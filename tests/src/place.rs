//! Where a host lives: its directories, its settings, its address.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{Host, built};

/// Directories and settings that one host after another runs with.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    data: PathBuf,
    settings: Vec<(String, String)>,
    config: Option<PathBuf>,
    listen: String,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// An empty one. Its hosts look at their plugins more often than by
    /// default, and leave the log's old records alone, so that tests can read
    /// them.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = Self {
            data: dir.path().join("data"),
            dir,
            settings: Vec::new(),
            config: None,
            listen: "127.0.0.1:0".to_owned(),
        };
        fs::create_dir_all(&place.data).expect("a data directory");
        fs::create_dir_all(place.plugin_dir()).expect("a plugin directory");
        place.share_compiled();
        place
            .set("logging.format", "json")
            .set("slots.settle", "20ms")
            .set("slots.poll_interval", "50ms")
            .set("log.cleanup_interval", "1h")
            .set("log.disk_free_min", "1MiB")
    }

    /// One whose pipeline `scores` has a plugin.
    #[must_use]
    pub fn with_plugin(plugin: &[u8]) -> Self {
        let place = Self::new();
        place.put("scores/default", plugin);
        place
    }

    /// Another value for a setting.
    #[must_use]
    pub fn set(mut self, path: &str, value: &str) -> Self {
        self.settings.push((path.to_owned(), value.to_owned()));
        self
    }

    /// A `courtside.toml`.
    #[must_use]
    pub fn configured(mut self, toml: &str) -> Self {
        let path = self.path("courtside.toml");
        fs::write(&path, toml).expect("a configuration file");
        self.config = Some(path);
        self
    }

    /// Another data directory.
    #[must_use]
    pub fn with_data_dir(mut self, data: impl Into<PathBuf>) -> Self {
        self.data = data.into();
        self
    }

    /// Another address.
    #[must_use]
    pub fn listening_at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// Hosts that come back at the same address. Its port is below those that
    /// port 0 is answered with, so that nobody takes it while a host is down.
    #[must_use]
    pub fn with_fixed_port(mut self) -> Self {
        self.listen = loop {
            let port = rand::random_range(10_000..30_000_u16);
            let address = format!("127.0.0.1:{port}");
            if std::net::TcpListener::bind(&address).is_ok() {
                break address;
            }
        };
        self
    }

    /// Compiled plugins are shared by all tests, for most run the same few.
    fn share_compiled(&self) {
        let shared = built::scratch_dir().join("courtside-compiled");
        fs::create_dir_all(&shared).expect("a directory for compiled plugins");
        symlink(shared, self.data.join("compiled")).expect("a link to compiled plugins");
    }

    /// Something in the place's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    #[must_use]
    pub fn plugin_dir(&self) -> PathBuf {
        self.path("plugins.d")
    }

    /// Where the host listens, if its port is fixed.
    #[must_use]
    pub fn url(&self) -> String {
        assert!(!self.listen.ends_with(":0"), "the port is not fixed");
        format!("http://{}", self.listen)
    }

    /// The file of a slot: `scores/default`, `scores/keys/LAL-BOS`.
    #[must_use]
    pub fn slot_file(&self, slot: &str) -> PathBuf {
        let path = self.plugin_dir().join(format!("{slot}.wasm"));
        fs::create_dir_all(path.parent().expect("a directory")).expect("a slot's directory");
        path
    }

    /// Puts a file into a slot, whole from its first moment.
    pub fn put(&self, slot: &str, bytes: &[u8]) {
        let path = self.slot_file(slot);
        let draft = path.with_extension("wasm.draft");
        fs::write(&draft, bytes).expect("a plugin's file");
        fs::rename(draft, path).expect("a plugin's file in its place");
    }

    /// Writes into a slot's file where it is, and leaves it open for more.
    #[must_use]
    pub fn begin(&self, slot: &str, bytes: &[u8]) -> fs::File {
        let mut file = fs::File::create(self.slot_file(slot)).expect("a plugin's file");
        file.write_all(bytes).expect("a part of a plugin");
        file.sync_all().expect("a part of a plugin on disk");
        file
    }

    pub fn remove(&self, slot: &str) {
        fs::remove_file(self.slot_file(slot)).expect("a plugin's file to remove");
    }

    /// `courtside serve` here, not started.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = courtside("serve");
        command
            .current_dir(self.dir.path())
            .args(["--listen", &self.listen])
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--plugin-dir")
            .arg(self.plugin_dir());
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        for (path, value) in &self.settings {
            command.args(["--set", &format!("{path}={value}")]);
        }
        command
    }

    /// Starts a host that is about to listen, or not.
    #[must_use]
    pub fn spawn(&self) -> Host {
        Host::spawn(self.command())
    }

    /// Starts a host that listens.
    pub async fn start(&self) -> Host {
        let mut host = self.spawn();
        host.listens().await;
        host
    }

    /// Starts a host that has its plugins and takes events.
    pub async fn start_ready(&self) -> Host {
        let host = self.start().await;
        host.is_ready().await;
        host
    }
}

/// A command of the binary, with nothing of the environment that would
/// configure it.
#[must_use]
pub fn courtside(command: &str) -> Command {
    let mut process = Command::new(built::courtside());
    process.arg(command).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COURTSIDE_") {
            process.env_remove(name);
        }
    }
    process
}

/// Runs a command to its end, which must come by itself.
#[must_use]
pub fn output(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}
