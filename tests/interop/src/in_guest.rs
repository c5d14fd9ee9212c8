//! A target that runs inside the guest: what it is started from, laid out in the shared folder.

use std::fs;
use std::io;
use std::path::Path;

use crate::commands;
use crate::paths;
use crate::scenario::{Ports, Scenario};

/// Where the guest has the folder `target` of the share.
const FOLDER: &str = "/tmp/target";

/// Puts the program and its configuration into `share`, and says how to start it: assignments for the guest's shell.
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
    let listeners = [
        format!("rdma://{}", ports.listener(ports.io[0])),
        format!("tcp://{}", ports.listener(ports.tcp)),
        format!("rdma://{}", ports.listener(ports.discovery)),
    ];
    let config = commands::config_in_guest(&scenario.exports, &listeners, scenario.restricted);
    fs::write(folder.join("caisson.toml"), config)?;
    let words = commands::serve(&Path::new(FOLDER).join("caisson.toml")).join(" ");
    Ok(Ok(format!("TARGET_WORDS='{words}'\nTARGET_LISTENERS='{}'\n", listeners.len())))
}
