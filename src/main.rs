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
    // On a worker of the pool, parallel operations begin without waking another thread first: a third
    // of a training step on a busy machine. Its stack is as deep as that of a main thread.
    let pool = rayon::ThreadPoolBuilder::new().stack_size(8 << 20);
    let result = match pool.build_global() {
        Ok(()) => rayon::scope(|_| cli::run(&command)),
        Err(_) => cli::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
