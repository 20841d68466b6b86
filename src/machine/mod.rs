//! What the machine offers and what the process keeps on it.

pub mod data_dir;
pub mod preflight;
pub mod random_seed;
pub mod secret_file;
pub mod sys;
pub mod unix_time;
pub mod watched_files;
