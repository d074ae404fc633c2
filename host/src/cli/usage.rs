//! Answers a command line that does not parse: in one line, as every other error.
//! Help that was asked for is an answer, and no error.

use std::{io, process::ExitCode};

use clap::{CommandFactory, error::ErrorKind};
use courtside_client::terminal::judge;
use courtside_types::coded;

use super::failure::complain;

/// Status of a command whose arguments are wrong.
const WRONG: u8 = 2;

/// Reports the parser's error, or prints the help that was asked for.
pub fn answer<C: CommandFactory>(error: &clap::Error) -> ExitCode {
    let is_asked_for = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if is_asked_for {
        let printed = error
            .print()
            .and_then(|()| io::Write::flush(&mut io::stdout()));
        return match judge(printed) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::FAILURE
            }
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Standard error is gone, so the failure has no reader.
        let _ = error.print();
    } else {
        let command = named(&C::command(), words().skip(1));
        let what = in_one_line(&error.render().to_string());
        complain(&coded!(
            "arguments-invalid",
            "{what}; `{command} --help` says what it takes"
        ));
    }
    ExitCode::from(WRONG)
}

/// The command line. Bytes of it that are not UTF-8 are replaced.
pub fn words() -> impl Iterator<Item = String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned())
}

/// The command that the words lead to.
fn named(root: &clap::Command, words: impl Iterator<Item = String>) -> String {
    let mut command = root;
    let mut name = root.get_name().to_owned();
    for word in words {
        let Some(below) = command.find_subcommand(word) else {
            break;
        };
        name = format!("{name} {}", below.get_name());
        command = below;
    }
    name
}

/// The parser's paragraphs on one line, without the usage.
fn in_one_line(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(str::trim);
    let told = paragraphs.filter(|paragraph| {
        !paragraph.is_empty()
            && !paragraph.starts_with("Usage:")
            && !paragraph.starts_with("For more information")
    });
    let lines = told.map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let text = lines.collect::<Vec<_>>().join("; ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "courtside")]
    enum Some {
        Play {
            #[arg(long)]
            batch: Option<u16>,
            #[arg(long, required = true)]
            url: String,
        },
    }

    fn told(words: &[&str]) -> String {
        let error = Some::try_parse_from(words).unwrap_err();
        in_one_line(&error.render().to_string())
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        let cases: [(&[&str], &str); 3] = [
            (
                &["courtside", "play", "--url", "x", "--batch", "many"],
                "'many'",
            ),
            (&["courtside", "play"], "--url <URL>"),
            (&["courtside", "play", "--urll", "x"], "tip: "),
        ];
        for (words, part) in cases {
            let told = told(words);
            assert!(told.contains(part), "{told}");
            assert!(!told.contains(['\n', '\u{1b}']), "{told}");
            assert!(
                !told.starts_with("error") && !told.contains("Usage"),
                "{told}"
            );
        }
    }

    #[test]
    fn the_command_is_named_as_far_as_there_is_one() {
        let words = |text: &str| -> Vec<String> {
            text.split_whitespace().map(ToOwned::to_owned).collect()
        };
        let name = |text| named(&Some::command(), words(text).into_iter());
        assert_eq!(name("play --batch many"), "courtside play");
        assert_eq!(name("plays"), "courtside");
        assert_eq!(name("--verbose play"), "courtside");
    }
}
