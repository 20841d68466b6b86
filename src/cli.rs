//! The command line: which commands there are, and what each one does.
//!
//! Owns what is printed on standard output. Never decides how the gateway runs: that is
//! [`crate::app`].

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;

use clap::{Args, Parser, Subcommand};

use crate::{
    app::{self, doctor},
    base::{
        error::{ExitCode, StartupError},
        secret::Secret,
    },
    config::{self, Environment, Settings},
    contract::methods::Service,
    logging,
    machine::preflight::Verdict,
    service::backup,
};

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The front door of an instant-messaging system: serves the line protocol on 127.0.0.1:6000 unless
/// told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "im-gateway", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
struct RunOptions {
    #[command(flatten)]
    file: ConfigFile,
    /// Begin with a new, empty database where the one is missing that was there before
    #[arg(long)]
    new: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
struct ConfigFile {
    /// The configuration file; without it the defaults hold
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Run the gateway (this is what happens without a command)
    Run(RunOptions),
    /// Run the services as a process of their own, for the gateways of a cluster
    Backend {
        #[command(flatten)]
        file: ConfigFile,
        /// A service to offer, instead of those configured: user, presence, message or group; may
        /// be repeated
        #[arg(long = "service", value_name = "SERVICE", value_parser = service)]
        services: Vec<Service>,
    },
    /// Check a configuration, and the files it names, and exit: 0 if it is valid, 3 with all
    /// mistakes if not
    CheckConfig(ConfigFile),
    /// Copy the database in the data directory to FILE, whether it is in use or not
    Backup {
        #[command(flatten)]
        file: ConfigFile,
        /// The copy; it must not be there yet
        #[arg(value_name = "FILE")]
        target: PathBuf,
    },
    /// Print the default configuration, every key with its meaning
    DefaultConfig,
    /// Check whether this machine can run the gateway: 0 if so, 4 if not
    Doctor(ConfigFile),
    /// Make a token, or say what one says
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Print the version
    Version {
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum TokenCommand {
    /// Print a token for a user: whoever has it is that user until it expires
    Make {
        #[command(flatten)]
        file: ConfigFile,
        /// The user's number
        #[arg(long, value_name = "UID", value_parser = clap::value_parser!(i64).range(1..))]
        user: i64,
    },
    /// Say whether the token on standard input is good, and whom it logs in: 0 if it is, 1 if not
    Check(ConfigFile),
}

/// Reads the arguments of the process. Wrong ones end it with a message and exit code 2.
pub fn parse() -> Cli {
    Cli::parse()
}

/// Does what the arguments ask for; the error carries its exit code.
pub fn dispatch(cli: Cli) -> Result<process::ExitCode, StartupError> {
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(options) => {
            let settings = settings(&options.file)?;
            begin_log(&settings);
            app::run(settings, options.new)?;
        }
        Command::Backend { file, services } => {
            let mut settings = settings(&file)?;
            if !services.is_empty() {
                settings.backend.offer(services).map_err(|problem| {
                    let what = "cannot offer what --service asks for with backend.foreign_users";
                    StartupError::new(ExitCode::Config, what, problem, "")
                })?;
            }
            begin_log(&settings);
            app::backend::run(settings)?;
        }
        Command::CheckConfig(file) => check_config(&file)?,
        Command::Backup { file, target } => {
            let settings = settings(&file)?;
            let bytes = backup::run(&settings.gateway_service.data_dir, &target)?;
            print(&format!("{}: {bytes} bytes\n", target.display()))?;
        }
        Command::DefaultConfig => print(config::DEFAULT_TOML)?,
        Command::Doctor(file) => {
            let checks = doctor::examine(&settings(&file)?);
            print(&doctor::table(&checks))?;
            if doctor::any_failed(&checks) {
                return Ok(process::ExitCode::from(ExitCode::Preflight as u8));
            }
        }
        Command::Token {
            command: TokenCommand::Make { file, user },
        } => {
            let token = app::tokens::make(&settings(&file)?, user)?;
            print(&format!("{}\n", token.expose()))?;
        }
        Command::Token {
            command: TokenCommand::Check(file),
        } => {
            let verdict = app::tokens::check(&settings(&file)?, &read_token()?)?;
            print(&format!("{verdict}\n"))?;
            if !verdict.is_good() {
                return Ok(process::ExitCode::from(ExitCode::Runtime as u8));
            }
        }
        Command::Version { json: true } => {
            let version = serde_json::json!({ "name": "im-gateway", "version": VERSION });
            print(&format!("{version}\n"))?;
        }
        Command::Version { json: false } => print(&format!("im-gateway {VERSION}\n"))?,
    }
    Ok(process::ExitCode::SUCCESS)
}

/// A token on standard input: as an argument, others on this machine could see it.
fn read_token() -> Result<Secret<String>, StartupError> {
    /// More than any token is good with.
    const TOKEN_BYTES_MAX: u64 = 64 * 1024;
    let mut token = String::new();
    let read = io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut token);
    read.map_err(|error| {
        let what = "cannot read a token from standard input";
        StartupError::new(ExitCode::Runtime, what, error, "")
    })?;
    Ok(Secret::new(token.trim().to_owned()))
}

/// Begins to log, with what may be wrong in the configuration and is no error.
fn begin_log(settings: &Settings) {
    logging::init(settings.log.level);
    for warning in misspelt_variables() {
        log::warn!("{warning}");
    }
}

fn misspelt_variables() -> impl Iterator<Item = String> {
    config::misspelt_variables(&Environment::of_process())
        .into_iter()
        .map(|(name, meant)| {
            format!("environment variable {name} does nothing; {meant} is the name of a key")
        })
}

fn check_config(file: &ConfigFile) -> Result<(), StartupError> {
    let settings = settings(file)?;
    let files = doctor::named_files(&settings);
    let mistakes: Vec<String> = files
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .map(|check| format!("{}\n  remedy: {}", check.detail, check.remedy))
        .collect();
    if !mistakes.is_empty() {
        return Err(StartupError::new(
            ExitCode::Config,
            mistakes.join("\n"),
            "",
            "",
        ));
    }
    let warnings: String = misspelt_variables()
        .map(|warning| format!("warning: {warning}\n"))
        .collect();
    let valid = match &file.config {
        Some(path) => format!("configuration {} is valid\n", path.display()),
        None => "configuration is valid (defaults and environment)\n".to_owned(),
    };
    print(&format!("{warnings}{valid}"))
}

fn service(word: &str) -> Result<Service, String> {
    Service::ALL
        .into_iter()
        .find(|service| service.word() == word)
        .ok_or_else(|| "it is not one of user, presence, message and group".to_owned())
}

fn settings(file: &ConfigFile) -> Result<Settings, StartupError> {
    let path: Option<&Path> = file.config.as_deref();
    config::load(path, &Environment::of_process())
}

fn print(text: &str) -> Result<(), StartupError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough: `im-gateway default-config | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| {
            let what = "cannot write to standard output";
            StartupError::new(ExitCode::Runtime, what, error, "")
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, clap::error::ErrorKind> {
        Cli::try_parse_from([&["im-gateway"], arguments].concat())
            .map(|cli| cli.command.unwrap_or(Command::Run(cli.run)))
            .map_err(|error| error.kind())
    }

    fn file(path: &str) -> ConfigFile {
        ConfigFile {
            config: Some(PathBuf::from(path)),
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_what_happens_without_a_command() {
        let run = |file, new| Ok(Command::Run(RunOptions { file, new }));
        let none = ConfigFile { config: None };
        assert_eq!(parsed(&[]), run(none.clone(), false));
        assert_eq!(parsed(&["run"]), run(none.clone(), false));
        assert_eq!(parsed(&["--new"]), run(none, true));
        assert_eq!(parsed(&["-c", "x"]), run(file("x"), false));
        assert_eq!(parsed(&["run", "-c", "x"]), run(file("x"), false));
        assert_eq!(parsed(&["run", "--new", "-c", "x"]), run(file("x"), true));
        assert_eq!(parsed(&["--config", "x"]), run(file("x"), false));
    }

    #[test]
    fn other_commands_take_their_own_options() {
        assert_eq!(
            parsed(&["check-config", "-c", "x"]),
            Ok(Command::CheckConfig(file("x")))
        );
        assert_eq!(
            parsed(&["doctor", "-c", "x"]),
            Ok(Command::Doctor(file("x")))
        );
        assert_eq!(parsed(&["default-config"]), Ok(Command::DefaultConfig));
        assert_eq!(
            parsed(&["version", "--json"]),
            Ok(Command::Version { json: true })
        );
    }

    #[test]
    fn a_backend_offers_what_it_is_told_to() {
        let backend = |services: &[Service]| Command::Backend {
            file: file("x"),
            services: services.to_vec(),
        };
        assert_eq!(parsed(&["backend", "-c", "x"]), Ok(backend(&[])));
        let two = [
            "backend",
            "--service",
            "message",
            "-c",
            "x",
            "--service",
            "user",
        ];
        assert_eq!(
            parsed(&two),
            Ok(backend(&[Service::Message, Service::User]))
        );
        assert!(parsed(&["backend", "--service", "mail"]).is_err());
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        assert!(parsed(&["default-config", "-c", "x"]).is_err());
        assert!(parsed(&["-c", "x", "version"]).is_err());
        assert!(parsed(&["-c"]).is_err());
        assert!(parsed(&["serve"]).is_err());
        assert!(parsed(&["run", "file"]).is_err());
    }
}
