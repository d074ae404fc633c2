//! Shared by the operator's commands: how they write an answer, and how they ask.
//!
//! Tables are drawn by comfy-table, without its terminal part; tabled is larger, for no
//! use here. Columns are measured with unicode-width, which comfy-table has anyway,
//! because names are not all Latin.

use std::io::{BufRead as _, IsTerminal as _};

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use courtside_client::terminal::{Words, say, write_out};
use courtside_log::LogError;
use courtside_types::{
    coded,
    failure::{Failure, OrFail as _},
};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::plain;

#[derive(Args, Debug)]
pub struct OutputArgs {
    /// How to answer.
    #[arg(long, short, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[value(alias = "text")]
    Table,
    Json,
}

impl OutputArgs {
    pub const fn format(&self) -> Output {
        self.output
    }

    /// Writes the answer, as JSON for programs or as text for people.
    pub fn show<T: Serialize>(
        &self,
        answer: &T,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let text = match self.output {
            Output::Table => plain::lines(&text()).into_owned(),
            Output::Json => plain::json_lines(&serde_json::to_string_pretty(answer)?) + "\n",
        };
        write_out(text.as_bytes())
    }

    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Logs only errors, to standard error. The embedded engine's database logs nothing,
/// because the command reports its errors in words of its own.
pub fn start_logging() {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("error,fjall=off,lsm_tree=off"))
        .with_writer(|| Words)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// A table without lines.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| plain::line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .flat_map(|line| [line.trim_end().to_owned(), "\n".to_owned()])
        .collect()
}

/// The value as text, or a dash if there is none.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The word for a state or a kind, as the host's JSON has it.
pub fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Asks a person to confirm. Without a terminal, the command line must have confirmed
/// it.
pub fn confirm(question: &str, is_told: bool) -> anyhow::Result<()> {
    if is_told {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(coded!(
            "confirmation-needed",
            "{question} Confirm with --yes: standard input is no terminal to ask at"
        ));
    }
    say(&format!("{question} [y/N] "));
    let mut answer = String::new();
    // Bytes that are no text are not a yes.
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.or_fail("not-confirmed", "the answer cannot be read")?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(coded!("not-confirmed", "nothing was done")),
    }
}

/// An error of the log, with its code first.
pub fn coded(error: LogError) -> anyhow::Error {
    Failure::of(error).into()
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _, Parser};

    use crate::cli::{
        backup::BackupArgs,
        dead_letters::LettersArgs,
        games::GamesArgs,
        groups::GroupsArgs,
        plugin::PluginArgs,
        plugins::PluginsArgs,
        replay::{ExportArgs, ReplayArgs},
        reset::ResetArgs,
        topics::TopicsArgs,
    };

    #[derive(Parser)]
    #[command(name = "courtside")]
    enum Operator {
        Topics(TopicsArgs),
        Games(GamesArgs),
        Groups(GroupsArgs),
        Plugins(PluginsArgs),
        Reset(ResetArgs),
        Replay(ReplayArgs),
        Export(ExportArgs),
        Plugin(PluginArgs),
        DeadLetter(LettersArgs),
        Backup(BackupArgs),
    }

    /// The example command lines in the help of a command and of its subcommands.
    fn examples(command: &Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        let lines = help.lines().map(str::trim);
        let own = lines.filter(|line| line.starts_with("courtside "));
        let below = command.get_subcommands().flat_map(examples);
        own.map(str::to_owned).chain(below).collect()
    }

    #[test]
    fn the_examples_of_the_help_are_commands() {
        let mut named = 0;
        for command in Operator::command().get_subcommands() {
            let examples = examples(command);
            assert!(!examples.is_empty(), "{}", command.get_name());
            for example in examples {
                let parsed = Operator::try_parse_from(example.split_whitespace());
                let parsed = parsed.unwrap_or_else(|error| panic!("{example}: {error}"));
                // `--config` names a file and takes any text, so it would also parse
                // in place of `--topic-config`.
                if let Operator::Topics(_) = parsed {
                    assert!(!example.contains("--config "), "{example}");
                }
                named += 1;
            }
        }
        assert!(named >= 8, "{named} examples");
    }
}
