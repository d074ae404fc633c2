//! Small disks, for hosts that run out of room.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

/// A file system of its own in memory, gone with this handle.
#[derive(Debug)]
pub struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a small disk. Where this process may not mount one, the function
    /// says so and returns `None`.
    #[must_use]
    pub fn mount(size_mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir }),
            _ => {
                eprintln!("skipped: needs root, to mount a small disk");
                None
            }
        }
    }

    /// Lets nobody write to the disk any longer.
    pub fn make_read_only(&self) {
        let remounted = Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(self.path())
            .status();
        assert!(remounted.expect("mount runs").success());
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Fills the disk until `free_bytes` bytes are free; with 0, until a write
    /// finds it full.
    pub fn fill_but(&self, free_bytes: u64) {
        const PIECE: usize = 64 * 1024;
        let mut file = File::create(self.ballast()).expect("a file to fill the disk with");
        let mut piece = PIECE;
        loop {
            let free = self.free_bytes();
            if free <= free_bytes {
                break;
            }
            piece = piece.min(usize::try_from(free - free_bytes).unwrap_or(PIECE));
            match file.write_all(&vec![0xa5; piece]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull && free_bytes == 0 => break,
                Err(error) => panic!("the disk does not fill: {error}"),
            }
        }
    }

    /// Makes room again.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the file that fills the disk");
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("the disk's figures");
        stat.f_bavail * stat.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}
