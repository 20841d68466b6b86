//! The size of a run and the place it works in.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::report::Sample;

/// How much is measured, and where.
pub struct Setup {
    /// Measured rounds of each scenario, after one that is not counted.
    pub rounds: usize,
    /// How long a round lasts.
    pub round: Duration,
    /// Receivers of a group message.
    pub members: usize,
    /// Group messages in a round.
    pub group_messages: usize,
    /// Connections that do nothing.
    pub idle_connections: usize,
    /// How long they are watched.
    pub idle_duration: Duration,
    /// Pairs of the larger durable chat, alone and in a cluster.
    pub pairs: usize,
    /// Worker threads of the gateway in the durable chat.
    pub chat_threads: usize,
    /// The one core of the server, except in the durable chat and in the cluster.
    pub server_core: usize,
    /// Everything a run writes; gone after it.
    pub directory: PathBuf,
}

impl Setup {
    /// What the promises are measured with.
    pub fn full(server_core: usize, directory: &Path) -> Self {
        Self {
            rounds: 7,
            round: Duration::from_secs(2),
            members: 1000,
            group_messages: 300,
            idle_connections: 15_000,
            idle_duration: Duration::from_secs(10),
            pairs: 1000,
            chat_threads: 1,
            server_core,
            directory: directory.to_owned(),
        }
    }

    /// A look in well under a minute: everything runs, the numbers are rough.
    pub fn quick(server_core: usize, directory: &Path) -> Self {
        Self {
            rounds: 3,
            round: Duration::from_millis(500),
            members: 200,
            group_messages: 50,
            idle_connections: 2000,
            idle_duration: Duration::from_secs(3),
            pairs: 100,
            ..Self::full(server_core, directory)
        }
    }

    /// Milliseconds that appending a page and making it durable takes here: what a commit costs the
    /// disk alone.
    pub fn sync_ms(&self) -> Result<Sample> {
        const APPENDS: usize = 50;
        let path = self.directory.join("sync-probe");
        let mut file = File::create(&path)?;
        let mut times = Vec::with_capacity(APPENDS);
        for _ in 0..APPENDS {
            let start = Instant::now();
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        std::fs::remove_file(&path)?;
        Ok(Sample::new(times))
    }
}
