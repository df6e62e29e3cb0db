//! The program `diptych`: parse, dispatch, print the error once, exit.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
