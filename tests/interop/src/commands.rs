//! Every `caisson` command line and configuration file the suites use, and nothing else: when the command line
//! changes, this is the file to change.

use std::path::Path;

use crate::scenario::{Export, HOST_NQN, Store, Transport};

/// What the program prints once for each listener that accepts connections.
pub const LISTENING: &str = "listening";

/// `caisson export`: one namespace, in the foreground, no configuration.
///
/// `path` is the backing file, where there is one; a pool's key file and passphrase stand beside it. The addresses are
/// `ADDRESS:PORT`.
pub fn export(
    export: &Export,
    transport: Transport,
    path: &Path,
    io: &str,
    discovery: Option<&str>,
    allow: Option<&str>,
) -> Vec<String> {
    let scheme = transport.name();
    let mut words = vec!["export".to_owned()];
    let size = ["--size".to_owned(), export.size.to_string()];
    match export.store {
        Store::File => {
            words.push(path.display().to_string());
            words.extend(size);
        }
        Store::Memory => words.push(format!("ram:{}", export.size)),
        Store::Pool { write_cache } => {
            words.push(format!("pool:{}", path.display()));
            words.extend(size);
            let beside = |extension: &str| path.with_extension(extension).display().to_string();
            words.extend(["--key-file".to_owned(), beside("keys")]);
            words.extend(["--passphrase-file".to_owned(), beside("passphrase")]);
            words.extend(["--write-cache".to_owned(), (if write_cache { "on" } else { "off" }).to_owned()]);
        }
    }
    words.extend(["--listen".to_owned(), format!("{scheme}://{io}")]);
    if let Some(discovery) = discovery {
        words.extend(["--discovery".to_owned(), format!("{scheme}://{discovery}")]);
    }
    words.extend(["--nqn".to_owned(), export.nqn.clone()]);
    words.extend(["--block-size".to_owned(), export.block.to_string()]);
    if let Some(host) = allow {
        words.extend(["--allow".to_owned(), host.to_owned()]);
    }
    words
}

/// `caisson serve`: a target managed over its socket.
pub fn serve(config: &Path) -> Vec<String> {
    vec!["serve".to_owned(), "--config".to_owned(), config.display().to_string()]
}

/// The name of the pool that [`config`] and [`config_in_guest`] declare where something is kept in one.
const POOL: &str = "main";
/// Its sealed key file in the target's folder. What it is opened with stands beside it, in [`PASSPHRASE`].
pub const KEY_FILE: &str = "pool.keys";
/// See [`KEY_FILE`].
pub const PASSPHRASE: &str = "pool.passphrase";

fn in_pool(export: &Export) -> bool {
    matches!(export.store, Store::Pool { .. })
}

/// The pool's table, where one is needed.
fn pool(exports: &[Export], folder: &Path) -> String {
    if !exports.iter().any(in_pool) {
        return String::new();
    }
    let at = |name: &str| folder.join(name).display().to_string();
    format!(
        "\n[[pool]]\nname = \"{POOL}\"\nkey_file = \"{}\"\npassphrase_file = \"{}\"\nmemory = \"32M\"\n\
         device = [{{ path = \"{}\", size = \"512M\" }}]\n",
        at(KEY_FILE),
        at(PASSPHRASE),
        at("pool.img")
    )
}

/// The configuration file of [`serve`]: listeners, the management socket, and a pool where one is needed; the rest comes over the socket.
pub fn config(folder: &Path, socket: &Path, io: &str, discovery: &str, exports: &[Export]) -> String {
    let base = format!(
        "data_dir = \"{}\"\n\n[management]\nsocket = \"{}\"\n\n[metrics]\naddress = \"\"\n\n\
         [[listener]]\naddress = \"tcp://{io}\"\nserves = \"both\"\n\n\
         [[listener]]\naddress = \"tcp://{discovery}\"\nserves = \"discovery\"\n",
        folder.display(),
        socket.display()
    );
    base + &pool(exports, folder)
}

/// The configuration file of a target inside the guest, which has all that is there at the start: volumes in memory or in files
/// of `folder`, a subsystem each, and listeners, the last of which is for discovery only.
pub fn config_in_guest(exports: &[Export], folder: &Path, listeners: &[String], restricted: bool) -> String {
    let mut text = String::new();
    if exports.iter().any(in_pool) {
        // What is kept over restarts: the status of what hosts erase, and the record of what was done with keys.
        text += &format!("data_dir = \"{}\"\n\n", folder.join("data").display());
    }
    text += "[management]\nsocket = \"/tmp/caisson.sock\"\n\n[metrics]\naddress = \"\"\n";
    text += &pool(exports, folder);
    for (index, export) in exports.iter().enumerate() {
        let allow =
            if restricted { format!("hosts = [\"{HOST_NQN}\"]") } else { "allow_any_host = true".to_owned() };
        let backing = match export.store {
            Store::Memory => "backing = \"ram\"".to_owned(),
            Store::Pool { write_cache } => format!("pool = \"{POOL}\"\nwrite_cache = {write_cache}"),
            Store::File => format!("path = \"{}\"", folder.join(format!("v{index}-1.img")).display()),
        };
        text += &format!(
            "\n[[volume]]\nname = \"v{index}-1\"\nsize = {}\n{backing}\nblock_size = {}\n\n[[subsystem]]\nnqn = \"{}\"\n{allow}\nallow_erase = {}\n\
             namespace = [{{ volume = \"v{index}-1\", nsid = 1 }}]\n",
            export.size, export.block, export.nqn, export.allow_erase
        );
    }
    for (index, address) in listeners.iter().enumerate() {
        let serves = if index + 1 == listeners.len() { "discovery" } else { "both" };
        text += &format!("\n[[listener]]\naddress = \"{address}\"\nserves = \"{serves}\"\n");
    }
    text
}

/// A change of a running target over its management socket, as one `caisson` command line after `--socket PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// Make a volume kept in a file, or in the pool.
    CreateVolume { name: &'a str, size: u64, store: Store },
    /// Grow or shrink a volume (which may lose what lies beyond).
    ResizeVolume { name: &'a str, size: u64 },
    /// Make a subsystem; `open` lets any host connect, `erase` lets hosts erase.
    CreateSubsystem { nqn: &'a str, open: bool, erase: bool },
    /// Delete a subsystem.
    DeleteSubsystem { nqn: &'a str },
    /// Export a volume as a namespace.
    AddNamespace { nqn: &'a str, volume: &'a str, nsid: u32 },
    /// Withdraw a namespace.
    RemoveNamespace { nqn: &'a str, nsid: u32 },
    /// Let a host connect.
    AllowHost { nqn: &'a str, host: &'a str },
    /// Take that back; a connected host is disconnected.
    RemoveHost { nqn: &'a str, host: &'a str },
}

impl Change<'_> {
    /// The command's words.
    pub fn words(&self) -> Vec<String> {
        let line = match self {
            Self::CreateVolume { name, size, store: Store::Pool { write_cache } } => {
                let cache = if *write_cache { "on" } else { "off" };
                format!("volume create {name} --size {size} --pool {POOL} --write-cache {cache}")
            }
            Self::CreateVolume { name, size, .. } => {
                format!("volume create {name} --size {size} --backing file")
            }
            Self::ResizeVolume { name, size } => format!("volume resize {name} {size} --shrink"),
            Self::CreateSubsystem { nqn, open, erase } => {
                let open = if *open { " --allow-any-host" } else { "" };
                let erase = if *erase { " --allow-erase" } else { "" };
                format!("subsystem create {nqn}{open}{erase}")
            }
            Self::DeleteSubsystem { nqn } => format!("subsystem delete {nqn}"),
            Self::AddNamespace { nqn, volume, nsid } => {
                format!("subsystem add-ns {nqn} {volume} --nsid {nsid}")
            }
            Self::RemoveNamespace { nqn, nsid } => format!("subsystem remove-ns {nqn} {nsid}"),
            Self::AllowHost { nqn, host } => format!("host allow {nqn} {host}"),
            Self::RemoveHost { nqn, host } => format!("host remove {nqn} {host}"),
        };
        line.split(' ').map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_names_store_and_addresses() {
        let export = Export { store: Store::Memory, ..Export::new(0, 1 << 20, 512) };
        for transport in [Transport::Tcp, Transport::Rdma] {
            let (io, discovery) = ("10.0.0.1:4420", Some("10.0.0.1:8009"));
            let words = super::export(&export, transport, Path::new("/s"), io, discovery, None).join(" ");
            let t = transport.name();
            assert!(words.starts_with(&format!(
                "export ram:1048576 --listen {t}://10.0.0.1:4420 --discovery {t}://10.0.0.1:8009"
            )));
        }
    }

    #[test]
    fn changes_are_words() {
        let change = Change::AddNamespace { nqn: "nqn.a", volume: "v2", nsid: 2 };
        assert_eq!(change.words(), ["subsystem", "add-ns", "nqn.a", "v2", "--nsid", "2"]);
    }
}
