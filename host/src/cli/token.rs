//! `courtside token`: makes a bearer token, and its entry for the host's file
//! of tokens.

use std::process::ExitCode;

use clap::Args;
use courtside_client::terminal::{say_line, write_out};
use courtside_http::{Scope, Token, TokensFile};
use courtside_types::coded;
use serde::Serialize;

use super::operator::{Output, OutputArgs};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  courtside token grafana --scope read >> tokens.toml\n  courtside token ci --scope write,read --output json\n\nThe host reads tokens.toml as access.tokens_file, and again when it changes. A\nclient sends the token from COURTSIDE_TOKEN or --token-file, as the header\nAuthorization: Bearer TOKEN."
)]
pub struct TokenArgs {
    /// The holder's name, which the host's log will show.
    name: String,
    /// The scopes that it opens; none implies another.
    #[arg(long, value_enum, required = true, value_delimiter = ',')]
    scope: Vec<Scope>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The new token, for programs.
#[derive(Serialize)]
struct Made<'a> {
    token: &'a str,
    #[serde(flatten)]
    entry: &'a Token,
}

pub fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    let mut scopes = args.scope;
    scopes.sort_unstable();
    scopes.dedup();
    let (entry, secret) = Token::generate(&args.name, scopes)
        .map_err(|reason| coded!("tokens-invalid", "{reason}"))?;
    if args.output.format() == Output::Json {
        let made = Made {
            token: &secret,
            entry: &entry,
        };
        args.output.show(&made, String::new)?;
        return Ok(ExitCode::SUCCESS);
    }
    let file = TokensFile {
        tokens: vec![entry],
    };
    let entry = toml::to_string(&file)?;
    // The secret goes to standard error, so that a file which gets the entry
    // does not get it, too.
    say_line(&format!(
        "the token, which is shown only now:\n\n  {secret}\n\nits entry in the file of tokens:\n"
    ));
    write_out(format!("{entry}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
