//! `caisson-reduction`: how small real data becomes, here, under dm-vdo's design, and under zstd by the file.
//!
//! Owns the command line and the tables. A tool for development; it is not shipped.

mod dictionary;
mod measure;
mod ours;
mod sets;
mod spent;
mod stream;
mod vdo;

use clap::Parser;
use measure::Report;
use std::path::PathBuf;
use std::process::ExitCode;

/// How many times more dm-vdo is to take than Caisson, on each compressible set.
const GOAL: f64 = 1.3;

/// Measures data reduction on real data.
///
/// Builds sets of files (fetching Debian packages with apt-get where they are needed), lays each out as a stream of 4 KiB
/// blocks as a disk image would be, and says how many bytes they take under Caisson, under dm-vdo's published
/// design, and under `zstd -1` file by file.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Where fetched and made files are kept
    #[arg(long, default_value = "build/reduction")]
    data: PathBuf,
    /// Only this set (may be given several times)
    #[arg(long = "set", value_parser = clap::builder::PossibleValuesParser::new(sets::NAMES))]
    sets: Vec<String>,
    /// Also the files of this folder, as a set
    #[arg(long)]
    folder: Vec<PathBuf>,
    /// At most so many MiB of each set
    #[arg(long, default_value_t = 512)]
    limit: u64,
    /// Without trained dictionaries
    #[arg(long)]
    no_dictionaries: bool,
    /// Print all numbers as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Fail unless Caisson is ahead of dm-vdo by 1.3 on each compressible set, at level 1
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut reports = Vec::new();
    let chosen = |name: &&&str| match (&options.sets[..], &options.folder[..]) {
        ([], folders) => folders.is_empty(),
        (sets, _) => sets.iter().any(|s| s == **name),
    };
    let mut all: Vec<sets::Set> = Vec::new();
    for name in sets::NAMES.iter().filter(chosen) {
        match sets::set(name, &options.data) {
            Ok(set) => all.push(set),
            Err(e) => eprintln!("{name}: left out: {e}"),
        }
    }
    for folder in &options.folder {
        let folders = vec![folder.clone()];
        all.push(sets::Set { name: "folder", about: "files of a folder", compressed: false, folders });
    }
    for set in &all {
        eprintln!("measuring {}", set.name);
        reports.push(measure::measure(set, options.limit << 20, !options.no_dictionaries));
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&reports).expect("reports are plain data"));
    } else {
        print(&reports);
    }
    let short = |r: &&Report| !r.compressed && r.ours.iter().any(|o| o.level == 1 && o.over_vdo < GOAL);
    let behind: Vec<&str> = reports.iter().filter(short).map(|r| &r.set[..]).collect();
    if options.check && !behind.is_empty() {
        eprintln!("less than {GOAL} times better than dm-vdo: {}", behind.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn print(reports: &[Report]) {
    println!(
        "Logical size over stored size. Ours: batches of 64 .. 256 blocks; in brackets, how many times more dm-vdo takes.\n"
    );
    println!(
        "| set | files | logical MiB | zero | duplicate | dm-vdo | ours, level 1 | ours, level 3 | `zstd -1` by the file |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |");
    for r in reports {
        let blocks = (r.logical / 4096).max(1) as f64;
        let ratio = |bytes: u64| r.logical as f64 / bytes.max(1) as f64;
        let ours = |level| {
            let at: Vec<_> = r.ours.iter().filter(|o| o.level == level).collect();
            let (a, b) = (at[0], at[at.len() - 1]);
            format!("{:.2} .. {:.2} ({:.2} .. {:.2})", ratio(a.bytes), ratio(b.bytes), a.over_vdo, b.over_vdo)
        };
        println!(
            "| {} | {} | {:.0} | {:.1} % | {:.1} % | {:.2} | {} | {} | {:.2} |",
            r.set,
            r.files,
            mib(r.logical),
            r.zero_blocks as f64 * 100.0 / blocks,
            r.duplicate_blocks as f64 * 100.0 / blocks,
            ratio(r.vdo_bytes),
            ours(1),
            ours(3),
            ratio(r.zstd_files_bytes),
        );
    }
    println!("\nTimes in ns for a block, and the early exit at level 1.\n");
    println!(
        "| set | blake3 | lz4 | zstd 1 | zstd 3 | estimate | exits | zstd 1 with early exit | bytes lost |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for r in reports {
        let e = &r.early_exit;
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} % | {:.0} | {:.3} % |",
            r.set,
            r.fingerprint_ns,
            r.lz4_ns,
            r.zstd_ns[0],
            r.zstd_ns[1],
            e.estimate_ns,
            e.exits as f64 * 100.0 / r.unique_blocks.max(1) as f64,
            e.on_ns,
            e.share_lost * 100.0,
        );
    }
    println!(
        "\nTrained 64 KiB dictionaries: 4096 over the mean stored length of blocks that did not train them.\n"
    );
    println!("| set | level | without | with | ns without | ns with |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (r, d) in reports.iter().flat_map(|r| r.dictionaries.iter().map(move |d| (r, d))) {
        let ratio = |bytes: u64| d.blocks as f64 * 4096.0 / bytes.max(1) as f64;
        let (plain, trained) = (ratio(d.plain_bytes), ratio(d.trained_bytes));
        println!(
            "| {} | {} | {plain:.2} | {trained:.2} | {:.0} | {:.0} |",
            r.set, d.level, d.plain_ns, d.trained_ns
        );
    }
}
