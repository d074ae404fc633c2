//! The files that the build left for the suite.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The binary under test.
#[must_use]
pub fn courtside() -> PathBuf {
    let path =
        env::var_os("COURTSIDE_BIN").map_or_else(|| profile_dir().join("courtside"), PathBuf::from);
    there(path)
}

/// A plugin's bytes, by the name of its crate.
#[must_use]
pub fn plugin(name: &str) -> Vec<u8> {
    let file = format!("wasm32-wasip2/release/{}.wasm", name.replace('-', "_"));
    let path = there(target_dir().join(file));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The directory for tests' own files, inside the target directory.
#[must_use]
pub fn scratch_dir() -> PathBuf {
    target_dir().join("tmp")
}

fn there(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is not built: run `make test`, which builds what the tests need",
        path.display()
    );
    path
}

/// `target/<profile>`: this executable is `target/<profile>/deps/…`.
fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("this executable has a path");
    let profile = exe.parent().and_then(Path::parent);
    profile.expect("tests run in target/<profile>/deps").into()
}

fn target_dir() -> PathBuf {
    let profile = profile_dir();
    profile.parent().expect("target/<profile>").into()
}
