//! Rules for the tree: what stands in each folder, what is ignored, how scripts begin, where links lead.

use caisson_tidy::{Faults, files, root, top_folders};

#[test]
fn every_top_folder_explains_itself() {
    let mut faults = Faults::default();
    for top in top_folders() {
        if !root().join(&top).join("README.md").is_file() {
            faults.add(&top);
        }
    }
    for file in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "deny.toml"] {
        if !root().join(file).is_file() {
            faults.add(file);
        }
    }
    faults.report("Folders without a README.md, and files that the root lacks:");
}

#[test]
fn no_rule_ignores_the_source_folder_target() {
    let mut faults = Faults::default();
    for f in files().iter().filter(|f| f.path == ".gitignore" || f.ends("/.gitignore")) {
        for (n, line) in f.text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with('#')) {
            if line.split('/').any(|part| part.trim().trim_matches('*') == "target") {
                faults.add(format!("{}:{}: {line}", f.path, n + 1));
            }
        }
    }
    faults.report("`target/` is source here; these rules would hide it:");
    let config = std::fs::read_to_string(root().join(".cargo/config.toml")).expect("Cargo has its settings");
    assert!(config.contains("target-dir = \"build\""), "Cargo must build outside target/");
}

#[test]
fn scripts_stop_at_the_first_error() {
    let mut faults = Faults::default();
    for f in
        files().iter().filter(|f| f.text.starts_with("#!") && f.text.lines().next().unwrap().contains("bash"))
    {
        if !f.text.lines().any(|l| l.starts_with("set -euo pipefail")) {
            faults.add(&f.path);
        }
    }
    faults.report("Bash scripts without `set -euo pipefail`:");
}

/// The targets of the `[text](target)` links in a Markdown text, code blocks left out.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        found.extend(targets.map(|(target, _)| target));
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Faults::default();
    for f in files().iter().filter(|f| f.ends(".md")) {
        let folder = root().join(&f.path).parent().expect("a file has a folder").to_path_buf();
        for link in links(&f.text) {
            let path = link.split('#').next().expect("split gives one");
            let outside = link.contains("://") || link.starts_with("mailto:");
            if !outside && !path.is_empty() && !folder.join(path).exists() {
                faults.add(format!("{}: {link}", f.path));
            }
        }
    }
    faults.report("Links to files that are not there:");
    assert_eq!(links("a [b](c.md#d) [e](f)\n```\n[g](h)\n```"), ["c.md#d", "f"]);
}

#[test]
fn only_the_public_registry_is_locked() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    let mut faults = Faults::default();
    for line in lock.lines().filter(|l| l.starts_with("source = ")) {
        if line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"" {
            faults.add(line);
        }
    }
    faults.report("Sources in Cargo.lock other than crates.io:");
}
