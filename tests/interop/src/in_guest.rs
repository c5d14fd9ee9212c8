//! What runs inside the guest beside the host: a target, or test programs with targets of their own. Laid out in the shared
//! folder.

use std::fs;
use std::io;
use std::path::Path;

use crate::commands;
use crate::paths;
use crate::programs;
use crate::scenario::{HOST_NQN, Mode, Ports, Scenario, Store};

/// Where the guest has the folder `target` of the share.
const FOLDER: &str = "/tmp/target";

/// Puts the program and what it is started from into `share`, and says how to start it: assignments for the guest's shell.
///
/// # Errors
/// Any failure to write, outside; a sentence on what is missing, inside.
pub fn lay_out(scenario: &Scenario, ports: &Ports, share: &Path) -> io::Result<Result<String, String>> {
    let program = match paths::caisson() {
        Ok(program) => program,
        Err(why) => return Ok(Err(why)),
    };
    let folder = share.join("target");
    fs::create_dir_all(&folder)?;
    fs::copy(program, share.join("caisson"))?;
    let inside = Path::new(FOLDER);
    let mut processes = Vec::new();
    if scenario.mode == Mode::Serve {
        let listeners = [
            format!("rdma://{}", ports.listener(ports.io[0])),
            format!("tcp://{}", ports.listener(ports.tcp)),
            format!("rdma://{}", ports.listener(ports.discovery)),
        ];
        let config = commands::config_in_guest(&scenario.exports, inside, &listeners, scenario.restricted);
        fs::write(folder.join("caisson.toml"), config)?;
        fs::write(folder.join(commands::PASSPHRASE), "a passphrase of the test\n")?;
        processes.push((commands::serve(&inside.join("caisson.toml")), listeners.len()));
    } else {
        for (index, export) in scenario.exports.iter().enumerate() {
            let path = inside.join(format!("store-{index}.img"));
            if matches!(export.store, Store::Pool { .. }) {
                fs::write(folder.join(format!("store-{index}.passphrase")), "a passphrase of the test\n")?;
            }
            let io = ports.listener(ports.io[index]);
            let discovery = (index == 0).then(|| ports.listener(ports.discovery));
            let allow = scenario.restricted.then_some(HOST_NQN);
            let words = commands::export(export, scenario.transport, &path, &io, discovery.as_deref(), allow);
            processes.push((words, 1 + usize::from(discovery.is_some())));
        }
    }
    let mut text = format!("TARGET_PROCESSES='{}'\n", processes.len());
    for (index, (words, listeners)) in processes.iter().enumerate() {
        text += &format!("TARGET_WORDS_{index}='{}'\n", words.join(" "));
        text += &format!("TARGET_LISTENERS_{index}='{listeners}'\n");
    }
    Ok(Ok(text))
}

/// Puts the conformance programs into `share`, and says which there are.
///
/// # Errors
/// As [`lay_out`].
pub fn lay_out_programs(share: &Path) -> io::Result<Result<String, String>> {
    let folder = share.join("programs");
    fs::create_dir_all(&folder)?;
    let built = match programs::build() {
        Ok(built) => built,
        Err(why) => return Ok(Err(why)),
    };
    for (name, path) in &built {
        programs::strip(path, &folder.join(name))?;
    }
    let names: Vec<&str> = programs::over_rdma().collect();
    Ok(Ok(format!("PROGRAMS='{}'\n", names.join(" "))))
}
