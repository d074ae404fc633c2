//! A host in a process of its own: the real binary, measured from outside.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{client::Client, cpu, rig};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A host, which is killed when this is dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    _dir: TempDir,
}

impl Process {
    /// Starts a host with a plugin, and waits until it is ready.
    pub fn start(runtime: &Runtime) -> Self {
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the data");
        let slot = dir.path().join("plugins.d/scores");
        std::fs::create_dir_all(&slot).expect("a plugin directory");
        std::fs::write(slot.join("default.wasm"), rig::plugin()).expect("a plugin file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_courtside"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .arg("--plugin-dir")
            .arg(dir.path().join("plugins.d"))
            .args(["--set", "logging.format=json"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the host starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let address = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let event: serde_json::Value = serde_json::from_str(&line).ok()?;
                let listens = event["message"] == "listening";
                listens.then(|| event["address"].as_str()?.parse().ok())?
            })
            .expect("a host that listens");
        // The host's later log is shown, and never fills the pipe.
        std::thread::spawn(move || {
            log.map_while(Result::ok)
                .for_each(|line| eprintln!("{line}"))
        });
        let process = Self {
            child,
            address,
            _dir: dir,
        };
        runtime.block_on(async {
            let ready = async {
                let mut client = Client::connect(address).await;
                while client.ask(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await != 200 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(READY_WITHIN, ready)
                .await
                .expect("a host that is ready");
        });
        process
    }

    /// The memory that the host has resident, in KB.
    pub fn resident_kb(&self) -> u64 {
        let status = self.proc("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a figure");
        let number = line.split_whitespace().next();
        number.and_then(|kb| kb.parse().ok()).expect("a number")
    }

    /// The CPU time that the host has had of all cores together.
    pub fn cpu(&self) -> Duration {
        cpu::of_process(self.child.id())
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(path).expect("the host runs")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The host may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
