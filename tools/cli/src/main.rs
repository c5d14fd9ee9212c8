//! The caisson program: exports disks over NVMe/TCP, manages a running target, and drives any target as a host.
//!
//! Standard output is for what was asked, standard error for the log and for what went wrong.

mod args;
mod domains;
mod erase;
mod failure;
mod guard;
mod host;
mod keys;
mod kms;
mod local;
mod output;
mod pools;
mod quickstart;
mod remote;
mod roots;
mod status;

use args::{Cli, Command, ConfigCommand};
use caisson_daemon::Refusal;
use caisson_daemon::model::Lookup;
use clap::{CommandFactory, Parser};
use failure::Failure;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before there is any secret, whatever the command: several read passphrases.
    if let Err(e) = guard::against_dumps(cli.allow_core_dumps) {
        eprintln!(
            "core dumps cannot be switched off: {e}\n  remedy: add --allow-core-dumps to go on without that"
        );
        return ExitCode::FAILURE;
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if std::env::args().any(|a| a == "--json") {
                output::json(&e.json());
            }
            eprintln!("{e}");
            ExitCode::from(e.status())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let (socket, dumps) = (cli.socket, cli.allow_core_dumps);
    let client = || remote::client(socket.as_deref());
    match cli.command {
        Command::Export(a) => local::export(&a, socket, dumps),
        Command::Serve(a) => local::serve(&a, socket, dumps),
        Command::Quickstart(a) => quickstart::run(&a, socket, dumps),
        Command::Pool(c) => pools::run(&client(), c),
        Command::Key(c) => keys::run(&client, c),
        Command::Kms(c) => kms::run(c, dumps),
        Command::Check(a) => pools::check(&a),
        Command::Inspect(a) => pools::inspect(&a),
        Command::Volume(c) => remote::volume(&client(), c),
        Command::Subsystem(c) => remote::subsystem(&client(), c),
        Command::Host(c) => remote::host(&client(), c),
        Command::Listener(c) => remote::listener(&client(), c),
        Command::Referral(c) => remote::referral(&client(), c),
        Command::Status(a) => status::run(&client(), &a),
        Command::Connections(o) => remote::connections(&client(), o),
        Command::Metrics => {
            output::print(&client().text("/metrics")?);
            Ok(())
        }
        Command::Identify(a) => Ok(caisson_initiator::cli::identify(&a)?),
        Command::Discover(a) => Ok(caisson_initiator::cli::discover(&a)?),
        Command::Perf(a) => {
            caisson_initiator::cli::stop_at_interrupt();
            Ok(caisson_initiator::cli::perf(&a)?)
        }
        Command::Bench(a) => Ok(caisson_initiator::cli::bench(&a)?),
        Command::Config(ConfigCommand::Check { file, output }) => {
            let c = local::check(&file)?;
            let counts =
                (c.objects.volumes().count(), c.objects.subsystems().count(), c.objects.listeners().count());
            if output.json {
                output::json(&serde_json::json!({ "problems": [] }));
            } else {
                output::line(format!(
                    "{}: good; {}, {}, {}",
                    file.display(),
                    output::count(counts.0 as u64, "volume", "volumes"),
                    output::count(counts.1 as u64, "subsystem", "subsystems"),
                    output::count(counts.2 as u64, "listener", "listeners")
                ));
            }
            Ok(())
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "caisson", &mut text);
            output::print(&String::from_utf8_lossy(&text));
            Ok(())
        }
        Command::Man { dir } => man(dir.as_deref()),
    }
}

/// Writes the manual pages into `dir`, or the first one to standard output.
fn man(dir: Option<&Path>) -> Result<(), Failure> {
    let fail = |e: &std::io::Error| Refusal::system("the manual pages cannot be written", e);
    match dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|e| fail(&e))?;
            clap_mangen::generate_to(Cli::command(), dir).map_err(|e| fail(&e))?;
            output::line(format!("manual pages are in {}", dir.display()));
        }
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(|e| fail(&e))?;
            output::print(&String::from_utf8_lossy(&text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
