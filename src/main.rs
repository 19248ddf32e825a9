//! The `genret` command line: parse, call, print the error chain, exit code.

use std::process::ExitCode;

use clap::Parser;
use genret::allocator::{self, Allocator};
use genret::cli::{self, Command};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Nothing is left to tell anyone if the terminal itself is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match cli::run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
