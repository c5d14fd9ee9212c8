//! What the data services cost: a pool driven on one thread, with each service off and on, beside the stages alone and
//! beside plain volumes.
//!
//! `cargo run --release -p caisson-engine --example poolspeed -- [FOLDER] [MIB] [REPEATS] [CASE]`, FOLDER on a file system in
//! memory (/dev/shm) so that the processor is measured and not a disk. Prints nanoseconds of the one thread on the
//! processor for each 4 KiB block: medians of REPEATS turns, each of which measures everything once. With CASE only the cases
//! whose names begin so (several, with `|` between), for a profiler.
//!
//! A file in memory takes its pages from the system when they are written first, which costs more than the copy, and which neither a
//! disk does nor a pool in use. So all is measured on files that have their pages, and the first writes also on new ones.

#[path = "../../tests/common/mod.rs"]
mod common;
mod contents;
mod drive;
mod stages;

use contents::Kind;
use drive::{Cost, Over};
use stages::Stages;
use std::path::Path;

/// Where the real data is.
const REAL: &str = "/usr/bin";

struct Case {
    name: &'static str,
    over: Over,
    kind: Kind,
    /// Which of the rows of stages are its.
    stages: usize,
}

/// Contents that the stages are measured on.
fn kinds(mib: u64) -> Vec<(&'static str, Kind)> {
    let made = |ratio| Kind::Made { ratio, dup: 0 };
    let files = contents::files(Path::new(REAL), (mib as usize * 256) / 4 * 5);
    vec![("1x", made(1)), ("2x", made(2)), ("4x", made(4)), (REAL, Kind::Files(files))]
}

fn cases(real: &Kind) -> Vec<Case> {
    let all = caisson_engine::Settings::default();
    let none = Over::Pool(caisson_engine::Settings { compression: None, dedup: false, ..all });
    let zstd = Over::Pool(caisson_engine::Settings { dedup: false, ..all });
    let dedup = Over::Pool(caisson_engine::Settings { compression: None, ..all });
    let all = Over::Pool(all);
    let case = |name, over, ratio: usize, dup| {
        let stages = ratio.ilog2() as usize;
        Case { name, over, kind: Kind::Made { ratio, dup }, stages }
    };
    vec![
        case("plain, in memory", Over::Ram, 2, 0),
        case("plain, over a file", Over::File, 2, 0),
        case("sealing only, 1x", none, 1, 0),
        case("dedup, 1x, 0 %", dedup, 1, 0),
        case("zstd:1, 2x", zstd, 2, 0),
        case("all, 1x, 0 %", all, 1, 0),
        case("all, 2x, 0 %", all, 2, 0),
        case("all, 2x, 50 %", all, 2, 50),
        case("all, 2x, 90 %", all, 2, 90),
        case("all, 2x, 100 %", all, 2, 100),
        case("all, 4x, 0 %", all, 4, 0),
        case("all, 4x, 90 %", all, 4, 90),
        case("all, 4x, 100 %", all, 4, 100),
        Case { name: "all, /usr/bin", over: all, kind: real.clone(), stages: 3 },
    ]
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap_or_else(|| "/dev/shm".into());
    let mut number = |default| args.next().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (mib, repeats) = (number(128), number(5));
    let only = args.next().unwrap_or_default();
    let folder = Path::new(&folder);
    let kinds = kinds(mib);
    let cases: Vec<Case> =
        cases(&kinds[3].1).into_iter().filter(|c| only.split('|').any(|o| c.name.starts_with(o))).collect();
    let mut alone = vec![Vec::new(); kinds.len()];
    let (mut device, mut index, mut costs) = (Vec::new(), Vec::new(), vec![Vec::new(); cases.len()]);
    for _ in 0..repeats {
        device.push(stages::device(folder, mib));
        index.push(stages::lookup());
        for ((_, kind), figures) in kinds.iter().zip(&mut alone) {
            if only.is_empty() || figures.is_empty() {
                figures.push(stages::stages(kind.clone()).figures());
            }
        }
        for (case, figures) in cases.iter().zip(&mut costs) {
            figures.push(drive::run(folder, mib, case.over, &case.kind).figures());
        }
    }
    let stages: Vec<Stages> = alone.iter().map(|f| Stages::of(medians(f))).collect();
    let costs: Vec<Cost> = costs.iter().map(|f| Cost::of(medians(f))).collect();
    let [append, again, read] = medians(&device);
    let index @ [found, new, insert] = medians(&index);
    print_stages(&kinds, &stages);
    println!(
        "append alone: {again:.0} ns for 4 KiB, to a new file {append:.0}; read of 4 KiB at random alone {read:.0} ns"
    );
    println!(
        "index alone: {found:.0} ns for a print that is known, {new:.0} for one that is not, {insert:.0} to insert one\n"
    );
    print_cases(&cases, &costs);
    print_sums("first writes of 128 KiB", (&cases, &costs, &stages), |c| c.seq_write, (again, index));
    print_sums("the same, to a new file", (&cases, &costs, &stages), |c| c.new_write, (append, index));
    print_claims(&cases, &costs, &stages);
}

/// The median of each figure.
fn medians<const N: usize>(turns: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|i| {
        let mut all: Vec<f64> = turns.iter().map(|t| t[i]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    })
}

fn print_stages(kinds: &[(&str, Kind)], stages: &[Stages]) {
    let names = ["print", "together", "zstd:1", "no look", "unpack", "seal", "seal raw", "open", "bytes"];
    let heads: String = names.iter().map(|n| format!("{n:>9}")).collect();
    println!("{:<20}{heads}", "stage alone, ns");
    for ((name, _), stages) in kinds.iter().zip(stages) {
        let figures: String = stages.figures().iter().map(|f| format!("{f:>9.0}")).collect();
        println!("{name:<20}{figures}");
    }
}

fn print_cases(cases: &[Case], costs: &[Cost]) {
    println!(
        "{:<20} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8}",
        "case, ns",
        "new file",
        "seq write",
        "seq over",
        "rand write",
        "rand read",
        "seq read",
        "stored",
        "log B"
    );
    for (case, c) in cases.iter().zip(costs) {
        println!(
            "{:<20} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>7.1}% {:>8.0}",
            case.name,
            c.new_write,
            c.seq_write,
            c.over_write,
            c.rand_write,
            c.rand_read,
            c.seq_read,
            c.stored * 100.0,
            c.log
        );
    }
}

/// A load of each case against the sum of its stages alone, weighed by how many blocks went through them.
fn print_sums(
    what: &str,
    (cases, costs, stages): (&[Case], &[Cost], &[Stages]),
    of: impl Fn(&Cost) -> f64,
    (append, [found, new, insert]): (f64, [f64; 3]),
) {
    println!(
        "\n{what:<24} {:>10} {:>9} {:>9} {:>9} {:>7} {:>11} {:>10}",
        "cost", "stages", "append", "index", "beside", "and append", "and index"
    );
    for (case, c) in cases.iter().zip(costs) {
        let Over::Pool(settings) = case.over else { continue };
        let s = &stages[case.stages];
        let zstd = settings.compression.is_some();
        let print = if settings.dedup { s.prints * c.filled } else { 0.0 };
        let pack = if zstd { s.zstd * c.stored } else { 0.0 };
        let seal = if zstd { s.seal } else { s.seal_raw } * c.stored;
        let (sum, append) = (print + pack + seal, append * c.log / contents::BLOCK as f64);
        let again = (c.filled - c.stored).max(0.0);
        let index = if settings.dedup { found * again + (new + insert) * c.stored } else { 0.0 };
        let beside = |sum: f64| format!("{:.0} %", (of(c) / sum - 1.0) * 100.0);
        println!(
            "{:<24} {:>10.0} {sum:>9.0} {append:>9.0} {index:>9.0} {:>7} {:>11} {:>10}",
            case.name,
            of(c),
            beside(sum),
            beside(sum + append),
            beside(sum + append + index)
        );
    }
}

/// What is claimed of the pool, in ratios of this run.
fn print_claims(cases: &[Case], costs: &[Cost], stages: &[Stages]) {
    let cost = |name: &str| cases.iter().position(|c| c.name == name).map(|i| costs[i]);
    println!();
    for (name, stages) in [("all, 2x, 0 %", &stages[1]), ("all, /usr/bin", &stages[3])] {
        let Some(c) = cost(name) else { continue };
        let bound = stages.zstd * c.stored;
        let only = stages.zstd_only * c.stored;
        println!(
            "{name}: {:.2} of what zstd:1 alone would allow ({:.2} without its look at each block); to a new file {:.2} ({:.2})",
            bound / c.seq_write,
            only / c.seq_write,
            bound / c.new_write,
            only / c.new_write
        );
    }
    println!(
        "\n{:<20} {:>10} {:>10} {:>10} {:>10}",
        "of the plain speed", "new file", "first", "over", "random"
    );
    for plain in ["plain, over a file", "plain, in memory", "sealing only, 1x"] {
        for case in cases.iter().filter(|c| c.name.ends_with("90 %") || c.name.ends_with("100 %")) {
            let (Some(p), Some(c)) = (cost(plain), cost(case.name)) else { continue };
            println!(
                "{:<20} {:>10.2} {:>10.2} {:>10.2} {:>10.2}   {plain}",
                case.name,
                p.new_write / c.new_write,
                p.seq_write / c.seq_write,
                p.over_write / c.over_write,
                p.rand_write / c.rand_write
            );
        }
    }
}
