//! The `im-gateway` binary: parse, run, map errors to exit codes.

use std::process::ExitCode;

use im_gateway::{cli, logging};

fn main() -> ExitCode {
    // The log is written by a thread that ends with the process; also where this one panics.
    let _flush = FlushLog;
    match cli::dispatch(cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            logging::say_last(&format_args!("im-gateway: {error}"));
            ExitCode::from(error.code as u8)
        }
    }
}

struct FlushLog;

impl Drop for FlushLog {
    fn drop(&mut self) {
        logging::flush();
    }
}
