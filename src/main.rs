//! The `im-gateway` binary: parse, run, map errors to exit codes.

use std::io::Write;
use std::process::ExitCode;

use im_gateway::cli;

fn main() -> ExitCode {
    match cli::dispatch(cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // There is nobody left to tell if standard error is closed.
            let _ = writeln!(std::io::stderr(), "im-gateway: {error}");
            ExitCode::from(error.code as u8)
        }
    }
}
