//! Files that something is made of, and is made of again when they change.
//!
//! Owns what was in them and what was made of it. Invariant: what is in use was made of files that
//! were good together; bad ones change nothing.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// No such file is longer.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Something made of files.
pub struct Files<T> {
    paths: Vec<PathBuf>,
    state: Mutex<State<T>>,
}

struct State<T> {
    made: Arc<T>,
    /// What the files had in them.
    contents: Vec<Vec<u8>>,
    /// Why they could not be read again.
    trouble: Option<String>,
}

impl<T> Files<T> {
    /// Reads the files and has `make` make something of what is in them, in the same order.
    ///
    /// # Errors
    /// Which file is of no use, and why.
    pub fn load(
        paths: Vec<PathBuf>,
        make: impl FnOnce(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<Self, String> {
        let contents = read_all(&paths)?;
        let made = Arc::new(make(&contents)?);
        let trouble = None;
        let state = State {
            made,
            contents,
            trouble,
        };
        Ok(Self {
            paths,
            state: Mutex::new(state),
        })
    }

    /// What is in use.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.state().made)
    }

    /// Reads the files again, and uses what `make` makes of them from now on if they have something
    /// else in them; says whether they have.
    ///
    /// # Errors
    /// As [`Files::load`], said once: what was in use stays.
    pub fn reload(
        &self,
        make: impl FnOnce(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<bool, String> {
        let outcome = self.try_reload(make);
        let mut state = self.state();
        let trouble = outcome.as_ref().err().cloned();
        if trouble.is_some() && trouble == state.trouble {
            return Ok(false);
        }
        state.trouble = trouble;
        outcome
    }

    /// Has `look` look at each file and what was in it.
    pub fn each<O>(&self, mut look: impl FnMut(&Path, &[u8]) -> O) -> Vec<O> {
        let state = self.state();
        let files = self.paths.iter().zip(&state.contents);
        files.map(|(path, bytes)| look(path, bytes)).collect()
    }

    fn try_reload(
        &self,
        make: impl FnOnce(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<bool, String> {
        let contents = read_all(&self.paths)?;
        if contents == self.state().contents {
            return Ok(false);
        }
        let made = Arc::new(make(&contents)?);
        let mut state = self.state();
        state.made = made;
        state.contents = contents;
        Ok(true)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Each change is one assignment after another of whole values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    paths.iter().map(|path| read(path)).collect()
}

/// What is in a file of configuration, which is bounded.
///
/// # Errors
/// Which file it is, and why it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 <= FILE_MAX_BYTES => Ok(bytes),
        Ok(_) => Err(format!("{}: it is longer than 1 MiB", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
