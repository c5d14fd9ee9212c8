//! Rules for the text of the source: headers, unfinished work, `unsafe`, lengths, words.
//!
//! Owns the lists of exceptions, each with its reason. An exception that is needed no more is itself a fault.

use caisson_tidy::{Code, Faults, File, files, strip};

#[test]
fn every_source_file_says_what_it_is_for() {
    let mut faults = Faults::default();
    for f in files().iter().filter(|f| f.is_rust()) {
        if !f.text.starts_with("//! ") {
            faults.add(&f.path);
        }
    }
    faults.report("Files whose first line is not a `//!` header:");
}

/// Marks of unfinished work. Spelt in two halves, so that this file passes its own rule.
const UNFINISHED: &[(&str, &str)] =
    &[("TO", "DO"), ("FIX", "ME"), ("unimpl", "emented!"), ("to", "do!("), ("db", "g!("), ("#[ig", "nore")];

#[test]
fn nothing_is_left_unfinished() {
    let mut faults = Faults::default();
    for f in files().iter().filter(|f| f.is_rust() || f.path.starts_with("tools/") || f.ends(".toml")) {
        for (n, line) in f.text.lines().enumerate() {
            for (a, b) in UNFINISHED {
                if contains_word(line, &format!("{a}{b}")) {
                    faults.add(format!("{}:{}: {}", f.path, n + 1, line.trim()));
                }
            }
        }
    }
    faults.report("Marks of unfinished work:");
}

/// Whether `word` stands in `line` and is not the middle of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part_of_word);
        let after = line[at + word.len()..].chars().next().is_some_and(part_of_word);
        let ends_open = word.ends_with(|c: char| !part_of_word(c));
        !(before && word.starts_with(part_of_word)) && (ends_open || !after)
    })
}

/// Where `unsafe` may stand, and why it must. A path that ends in `/` covers what is below it.
const UNSAFE_IN: &[(&str, &str)] = &[
    ("datapath/block/src/buf.rs", "counted references to slices of pool memory, without a copy"),
    ("datapath/block/src/mapping.rs", "the mapping itself, and advice about its pages"),
    ("datapath/block/src/pool.rs", "one mapping shared by buffers, given back from any thread"),
    ("datapath/device/src/", "pages swapped under their locks; I/O on raw descriptors and buffers"),
    (
        "datapath/log/src/expanded.rs",
        "ciphers' expanded keys in locked memory, which AWS-LC's safe crate cannot place",
    ),
    ("dedupe/index/tests/memory.rs", "an allocator that counts, to hold the index to its budget"),
    ("kms/keys/src/locked.rs", "memory for secrets that the system does not swap out or dump"),
    ("datapath/volume/tests/", "an allocator that counts, to hold the hot path at none"),
    ("tests/conformance/tests/limits.rs", "reads the CPU clock of a process that can open no file"),
    ("tests/conformance/tests/steady.rs", "an allocator that counts, over the whole target"),
    ("target/core/tests/steady.rs", "an allocator that counts, to hold the hot path at none"),
    ("transports/tcp/tests/alloc.rs", "an allocator that counts, to hold the hot path at none"),
    ("tests/fuzz/src/loopback.rs", "looks at what a Tx gathers, as the kernel would"),
    (
        "transports/tcp/src/tx.rs",
        "headers that stay where the kernel was told while more are queued behind them",
    ),
    (
        "transports/rdma/tests/device/",
        "a simulated device, which reaches memory by address as a real one does",
    ),
    (
        "transports/verbs/src/",
        "rdma-core's functions and structures, loaded at run time; nothing of RDMA is unsafe elsewhere",
    ),
    (
        "transports/verbs/examples/bare/",
        "the least that a target over verbs does: posts and registers as the daemon does",
    ),
    ("target/daemon/src/reactor/", "io_uring's rings, buffer rings and descriptors"),
    ("tools/initiator/src/", "system calls that no safe crate covers: affinity, usage, busy polling"),
];

/// Whether a line of code has the keyword (and not, say, `unsafe_shutdowns` or the lint `unsafe_code`).
fn has_unsafe(line: &str) -> bool {
    contains_word(line, "unsafe")
}

/// Whether the reason stands right above, on the same line, or, for what is declared unsafe, in its documentation. A
/// statement that starts some lines higher carries the comment there.
fn has_reason(code: &Code, n: usize) -> bool {
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let mut first = n;
    // Up to where the statement or item begins.
    while first > 0
        && !code.is_annotation(first - 1)
        && !code.code[first - 1].trim().is_empty()
        && !code.code[first - 1].trim_end().ends_with([';', '{', '}', ','])
    {
        first -= 1;
    }
    says(&code.raw[n]) || code.above(n).any(says) || code.above(first).any(says)
}

#[test]
fn unsafe_has_its_place_and_its_reason() {
    let mut faults = Faults::default();
    let mut used = vec![false; UNSAFE_IN.len()];
    for f in files().iter().filter(|f| f.is_rust()) {
        let code = strip(&f.text);
        for (n, _) in code.code.iter().enumerate().filter(|(_, line)| has_unsafe(line)) {
            let line = code.raw[n].trim();
            match UNSAFE_IN.iter().position(|(place, _)| &f.path == place || f.path.starts_with(place)) {
                Some(at) => used[at] = true,
                None => faults.add(format!("{}:{}: no place for it: {line}", f.path, n + 1)),
            }
            // A type `unsafe fn(..)` asks nothing, and what a trait or a private function asks stands where it is declared
            // or called; a block, an impl and a function that others can call do ask.
            let private = line.contains("unsafe fn") && !line.starts_with("pub");
            if !private && !has_reason(&code, n) {
                faults.add(format!("{}:{}: no SAFETY comment: {line}", f.path, n + 1));
            }
        }
    }
    for ((place, reason), _) in UNSAFE_IN.iter().zip(used).filter(|(_, used)| !used) {
        faults.add(format!("{place}: listed ({reason}) but has none: strike it off the list"));
    }
    faults.report("`unsafe` out of place (tests/tidy/tests/source.rs lists the places):");
}

/// How many lines a source file has at most. 150 to 500 is what we aim at.
const LONGEST: usize = 700;

/// Files that are longer, and why they are not split.
const LONGER: &[(&str, &str)] = &[];

#[test]
fn files_have_one_idea() {
    let mut faults = Faults::default();
    for f in files().iter().filter(|f| f.is_rust()) {
        let lines = f.text.lines().count();
        let listed = LONGER.iter().any(|(path, _)| *path == f.path);
        match (lines > LONGEST, listed) {
            (true, false) => faults.add(format!("{}: {lines} lines", f.path)),
            (false, true) => faults.add(format!("{}: {lines} lines: strike it off the list", f.path)),
            _ => {}
        }
    }
    for (path, _) in LONGER.iter().filter(|(path, _)| !files().iter().any(|f| f.path == *path)) {
        faults.add(format!("{path}: listed and gone"));
    }
    faults.report("Files of more than 700 lines:");
}

/// Words that belong to the workplace and not to the project, spelt backwards.
const WORKPLACE: &[&str] = &["hcneb-mraf", "yrarbil./", "derahs/..", "/krow/", "rorrim./"];

#[test]
fn the_workplace_stays_outside() {
    let mut faults = Faults::default();
    for f in files() {
        for (n, line) in f.text.lines().enumerate() {
            let found = WORKPLACE.iter().any(|w| line.contains(&w.chars().rev().collect::<String>()));
            if found {
                faults.add(format!("{}:{}: {}", f.path, n + 1, line.trim()));
            }
        }
    }
    faults.report("Paths and names of the workplace:");
}

/// Crates whose code must not panic on what a peer sends: no `unwrap()` outside their tests. An `expect` says which of
/// our own invariants it relies on.
const NO_UNWRAP: &[&str] = &["transports/", "target/", "datapath/", "dedupe/", "kms/"];

#[test]
fn libraries_do_not_unwrap() {
    let mut faults = Faults::default();
    let shipped = |f: &&File| f.is_rust() && !f.is_test() && NO_UNWRAP.iter().any(|n| f.path.starts_with(n));
    for f in files().iter().filter(shipped) {
        let code = strip(&f.text);
        for (n, line) in code.code[..code.tests_start()].iter().enumerate() {
            if line.contains(".unwrap()") {
                faults.add(format!("{}:{}: {}", f.path, n + 1, code.raw[n].trim()));
            }
        }
    }
    faults.report("`unwrap()` in a library: return an error, or `expect` with the invariant that holds:");
}

#[test]
fn words_are_found_whole() {
    assert!(contains_word("x unsafe {", "unsafe") && !contains_word("unsafe_code", "unsafe"));
    assert!(!contains_word("not_unsafe", "unsafe") && contains_word("(unsafe)", "unsafe"));
    assert!(contains_word("a!(x)", "a!(") && !contains_word("ba!(x)", "a!("));
}
