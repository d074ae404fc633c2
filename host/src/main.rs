//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use courtside::cli;
use courtside_play as play;
use courtside_plugin_host::wasm::{COMPILE_COMMAND, compile_process};

/// A stream processor for Kafka whose logic is WebAssembly plugins.
#[derive(Parser)]
#[command(name = "courtside", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a host: the HTTP server, the record log, and the pipelines' workers.
    Serve(cli::serve::ServeArgs),
    /// Play game files, or invented games, into a host.
    Play(play::PlayArgs),
    /// Ask a host whether it is well; for container health checks.
    Health(cli::health::HealthArgs),
    /// List, describe, create, alter and delete topics.
    Topics(cli::topics::TopicsArgs),
    /// Show the games: scores, one game's line score and leaders, or what changes.
    Games(cli::games::GamesArgs),
    /// Show the groups: their members, what these are assigned, and the lag.
    Groups(cli::groups::GroupsArgs),
    /// Show what runs in the slots and what ran; put a plugin in force, and go back.
    Plugins(cli::plugins::PluginsArgs),
    /// Have a pipeline process its input again, or skip it: moves its committed
    /// offsets and deletes its checkpoints, both or neither.
    Reset(cli::reset::ResetArgs),
    /// Compute one game again from the log, and compare it with what was
    /// published; touches nothing.
    Replay(cli::replay::ReplayArgs),
    /// Write all that a replay of one game needs to a file.
    Export(cli::replay::ExportArgs),
    /// Check a plugin's file before it is put in force.
    Plugin(cli::plugin::PluginArgs),
    /// Show what could not be processed, and have it processed after all.
    DeadLetter(cli::dead_letters::LettersArgs),
    /// Copy a host's data directory while the host runs, and check such a copy.
    Backup(cli::backup::BackupArgs),
    /// Make a bearer token, and the entry of it in the host's file of tokens.
    Token(cli::token::TokenArgs),
    /// Compile a plugin for a host, which starts this.
    #[command(name = COMPILE_COMMAND, hide = true)]
    CompilePlugin,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::usage::answer::<Cli>(&error),
    };
    let result = match cli.command {
        Command::Serve(args) => cli::serve::run(&args),
        Command::Play(args) => cli::block_on(play::run(args)).and_then(|code| code),
        Command::Health(args) => cli::block_on(cli::health::run(args)).and_then(|code| code),
        Command::Topics(args) => cli::topics::run(&args),
        Command::Games(args) => cli::block_on(cli::games::run(args)).and_then(|code| code),
        Command::Groups(args) => cli::groups::run(&args),
        Command::Plugins(args) => cli::block_on(cli::plugins::run(args)).and_then(|code| code),
        Command::Reset(args) => cli::reset::run(&args),
        Command::Replay(args) => Ok(cli::replay::run(&args)),
        Command::Export(args) => Ok(cli::replay::export(&args)),
        Command::Plugin(args) => Ok(cli::plugin::run(&args)),
        Command::Backup(args) => cli::backup::run(&args),
        Command::CompilePlugin => Ok(compile_process()),
        Command::Token(args) => cli::token::run(args),
        Command::DeadLetter(args) => {
            cli::block_on(cli::dead_letters::run(args)).and_then(|code| code)
        }
    };
    result.unwrap_or_else(|error| {
        cli::failure::complain(&error);
        ExitCode::FAILURE
    })
}
