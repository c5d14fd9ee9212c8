//! The initiator's commands by themselves, as `caisson` mounts them: `host perf ...`, `host identify ...`.

use caisson_initiator::cli;
use clap::Parser;

#[derive(Parser)]
enum Command {
    Perf(Box<cli::PerfArgs>),
    Bench(Box<cli::BenchArgs>),
    Identify(cli::IdentifyArgs),
    Discover(cli::DiscoverArgs),
}

fn main() -> std::process::ExitCode {
    let done = match Command::parse() {
        Command::Perf(args) => {
            cli::stop_at_interrupt();
            cli::perf(&args)
        }
        Command::Bench(args) => cli::bench(&args),
        Command::Identify(args) => cli::identify(&args),
        Command::Discover(args) => cli::discover(&args),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("host: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}
