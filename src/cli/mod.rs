//! The command line: one file per command. Human text goes to stderr, `--json` prints one object to stdout.

mod analyze;
mod attempt;
mod completions;
mod data;
mod doctor;
mod embed;
mod evaluate;
mod memory;
mod monitor;
mod plan;
mod pretrain;
mod profile;
mod recipes;
mod report;
mod runs;
mod storage;
mod subset;
mod table;
mod views;
mod weights;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use diptych::error::Error;
use std::io::Write;
use std::panic;
use std::process::ExitCode;

/// Learn visual representations without labels, and judge them.
#[derive(Parser)]
#[command(name = "diptych", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    /// Print exactly one JSON object to stdout
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pre-train a backbone; the same command again goes on where it stopped
    Pretrain(pretrain::Arguments),
    /// Store the features of every image of a data source
    Embed(embed::Arguments),
    /// Judge a representation by a protocol
    #[command(subcommand, after_help = evaluate::EXAMPLES)]
    Evaluate(evaluate::Command),
    /// See what a representation learned: parts, scores, gradients, maps, neighbours
    #[command(subcommand)]
    Analyze(analyze::Command),
    /// Weights of other systems in, ours out
    #[command(subcommand)]
    Weights(weights::Command),
    /// Draw augmented views, with the sampled values, as a contact sheet
    Views(views::Arguments),
    /// Look at a data source
    #[command(subcommand)]
    Data(data::Command),
    /// The recipes that come with the program
    #[command(subcommand)]
    Recipes(recipes::Command),
    /// What is in a folder of runs
    #[command(subcommand)]
    Runs(runs::Command),
    /// Write the page of a run, or one page over several
    Report(report::Arguments),
    /// What this machine offers, and the batch it can train
    Doctor(doctor::Arguments),
    /// Print the script with which a shell completes commands and recipes
    Completions(completions::Arguments),
}

/// What a command has to say: text for people, an object for programs.
#[derive(Debug)]
struct Answer {
    text: String,
    json: serde_json::Value,
}

/// An answer that is no success: printed like any other, and the error's exit code is the program's.
#[derive(Debug)]
struct Finding {
    answer: Answer,
    error: Error,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Finding {}

/// Parses, dispatches, prints. Exit codes are those of `Error::exit_code`; clap's own usage errors are 2 as well.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(error),
    };
    // libtorch's panics become errors where they are caught; a bug of ours is told below. Neither needs a backtrace.
    panic::set_hook(Box::new(|_| ()));
    let outcome = panic::catch_unwind(|| run(&cli.command));
    let (code, failure) = match outcome {
        Ok(Ok(answer)) => {
            print(&answer, cli.json);
            return ExitCode::SUCCESS;
        }
        Ok(Err(error)) => {
            if let Some(Finding { answer, error }) = error.downcast_ref::<Finding>() {
                print(answer, cli.json);
                return ExitCode::from(error.exit_code());
            }
            // Ours say all there is; those of others hide the cause.
            match error.downcast_ref::<Error>() {
                Some(error) => (error.exit_code(), error.to_string()),
                None => (1, format!("{error:#}")),
            }
        }
        Err(payload) => {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            let text = text.split("Exception raised from").next().unwrap_or(text);
            (1, format!("internal error, please report it: {text}"))
        }
    };
    if cli.json {
        let object = serde_json::json!({ "error": failure, "exit_code": code });
        let _ = writeln!(std::io::stdout(), "{object}");
    }
    // What was asked for by a signal is no error.
    tell(&if code == STOPPED { failure } else { format!("error: {failure}") });
    ExitCode::from(code)
}

/// Exit code of a run that was stopped by a signal and can go on.
const STOPPED: u8 = 75;

/// Clap's error. An option that is none may be meant as a setting (`--epochs 4`), of which clap knows nothing.
fn wrong_usage(mut error: clap::Error) -> ExitCode {
    let unknown = matches!(error.kind(), ErrorKind::UnknownArgument)
        && error.get(ContextKind::SuggestedArg).is_none();
    if unknown {
        error.remove(ContextKind::Suggested);
        let hint = "settings of a recipe are given as key=value: `train.epochs=4`".into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint]));
    }
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Says something to people. A terminal that went away is no failure of ours: the run goes on.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn print(answer: &Answer, json: bool) {
    let printed = if json {
        writeln!(std::io::stdout(), "{}", answer.json)
    } else {
        writeln!(std::io::stdout(), "{}", answer.text.trim_end())
    };
    // A reader that went away (`diptych … | head`) is no failure of ours.
    drop(printed);
}

fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Pretrain(arguments) => pretrain::run(arguments),
        Command::Embed(arguments) => embed::run(arguments),
        Command::Evaluate(command) => evaluate::run(command),
        Command::Analyze(command) => analyze::run(command),
        Command::Weights(command) => weights::run(command),
        Command::Views(arguments) => views::run(arguments),
        Command::Data(command) => data::run(command),
        Command::Recipes(command) => recipes::run(command),
        Command::Runs(command) => runs::run(command),
        Command::Report(arguments) => report::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
    }
}
