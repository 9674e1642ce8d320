//! A wall clock that a test sets, for one process: preloaded C, since a process asks its C library for the time.

use std::{
    io::{Seek as _, Write as _},
    path::PathBuf,
    process::Command,
    sync::OnceLock,
};

use tempfile::{NamedTempFile, TempDir};

use super::program::root;

/// See the module. It goes right until it is set.
pub(crate) struct WallClock {
    ahead: NamedTempFile,
}

impl WallClock {
    /// A clock that is right.
    pub(crate) fn right() -> Self {
        let ahead = NamedTempFile::new().expect("a file for the clock");
        let clock = Self { ahead };
        clock.set(0);
        clock
    }

    /// From now on it is so many seconds ahead, or behind.
    pub(crate) fn set(&self, seconds: i64) {
        let mut file = self.ahead.reopen().expect("the file is there");
        file.rewind().and_then(|()| file.write_all(&seconds.to_ne_bytes())).expect("the file takes eight bytes");
    }

    /// The environment of a process that goes by it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        let path = |path: &std::path::Path| path.to_str().expect("paths of tests are text").to_owned();
        [("LD_PRELOAD", path(&library())), ("CLOCK_AHEAD_FILE", path(self.ahead.path()))]
    }
}

/// Built once per run of the tests.
fn library() -> PathBuf {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for the library");
        let library = folder.path().join("clock.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library);
        let built = compiler.arg(root().join("tests/support/clock.c")).status().expect("a C compiler is installed");
        assert!(built.success(), "tests/support/clock.c cannot be compiled");
        (folder, library)
    });
    library.clone()
}
