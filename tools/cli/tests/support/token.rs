//! A softhsm2 token for the tests of the program.

use super::Dir;
use std::process::Command;

pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const PIN: &str = "8642-pin";

/// Makes a token `label` in `dir`, with its PIN in `dir/pin`; gives the path of softhsm2's configuration.
pub fn token(dir: &Dir, label: &str) -> String {
    let (conf, tokens) = (dir.path("softhsm2.conf"), dir.path("tokens"));
    std::fs::create_dir_all(&tokens).unwrap();
    std::fs::write(&conf, format!("directories.tokendir = {tokens}\nlog.level = ERROR\n")).unwrap();
    std::fs::write(dir.path("pin"), format!("{PIN}\n")).unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", label, "--so-pin", "13579", "--pin", PIN])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .expect("softhsm2-util runs (tools/setup test installs softhsm2)");
    assert!(made.status.success(), "{made:?}");
    conf
}

/// The URI of a key in it.
pub fn uri(dir: &Dir, label: &str, pin: &str) -> String {
    format!("pkcs11:token={label};object=root?module-path={MODULE}&pin-source=file:{}", dir.path(pin))
}
