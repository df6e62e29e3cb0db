//! `diptych completions`: what a shell needs to complete our commands, options and recipes.

use super::{Answer, Cli};
use anyhow::Result;
use clap::CommandFactory;
use clap::builder::PossibleValuesParser;
use clap_complete::{Shell, generate};
use diptych::recipe::BUILT_IN;
use serde_json::json;

#[derive(clap::Args)]
#[command(after_help = "Examples (then open a new shell):
  diptych completions bash > ~/.local/share/bash-completion/completions/diptych
  diptych completions zsh > \"${fpath[1]}/_diptych\"
  diptych completions fish > ~/.config/fish/completions/diptych.fish")]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let mut command = with_recipes(Cli::command());
    let mut script = Vec::new();
    generate(arguments.shell, &mut command, "diptych", &mut script);
    let mut text = String::from_utf8(script)?;
    for option in hidden(&command) {
        text = without(&text, option, arguments.shell);
    }
    if arguments.shell == Shell::Zsh {
        // Where bash falls back on files, zsh must be told.
        let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        let names = format!("({})", names.join(" "));
        let files = format!("{{_alternative \"recipes:recipe:{names}\" \"files:file:_files\"}}");
        text = text.replace(&names, &files);
    }
    let json = json!({ "shell": arguments.shell.to_string(), "script": text });
    Ok(Answer { text, json })
}

/// Long names of the options that help does not show.
fn hidden(command: &clap::Command) -> Vec<&str> {
    let here = command.get_arguments().filter(|argument| argument.is_hide_set());
    let here = here.filter_map(clap::Arg::get_long);
    here.chain(command.get_subcommands().flat_map(hidden)).collect()
}

/// A script that does not offer an option: bash has a list of words, the others a line for each.
fn without(script: &str, option: &str, shell: Shell) -> String {
    let words = [format!("--{option}"), format!("-l {option} ")];
    let offers = |line: &&str| shell != Shell::Bash && words.iter().any(|word| line.contains(word));
    let lines: Vec<&str> = script.lines().filter(|line| !offers(line)).collect();
    lines.join("\n").replace(&format!(" --{option} "), " ") + "\n"
}

/// The command line with the built-in recipes in the place of every recipe. Only for the scripts: a recipe may be a file
/// as well.
fn with_recipes(command: clap::Command) -> clap::Command {
    let names: Vec<String> =
        command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let mut command =
        names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_recipes));
    if command.get_arguments().any(|argument| argument.get_id() == "recipe") {
        let recipes = PossibleValuesParser::new(BUILT_IN.iter().map(|(name, _)| *name));
        command = command.mut_arg("recipe", |argument| argument.value_parser(recipes));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_every_command_and_where_recipes_go() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let script = run(&Arguments { shell }).unwrap().text;
            assert!(script.contains("fresh") && !script.contains("trial"), "{shell}: {script}");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
        for shell in [Shell::Bash, Shell::Zsh] {
            let script = run(&Arguments { shell }).unwrap().text;
            assert!(script.contains("cifar10/simclr"), "{shell} completes no recipe");
            let files = script.matches("\"files:file:_files\"").count();
            assert!(shell == Shell::Bash || files >= 3, "{files} recipes may be files in zsh");
        }
    }

    #[test]
    fn the_command_line_itself_still_takes_files() {
        let matches = Cli::command().try_get_matches_from(["diptych", "pretrain", "my.toml"]);
        assert!(matches.is_ok());
    }
}
