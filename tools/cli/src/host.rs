//! What to type on a host: `nvme discover` and `nvme connect` lines with addresses by which it can reach this machine.

use crate::output::line;
use caisson_daemon::model::text::{Address, Scheme};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// A subsystem, and where it can be connected to.
pub struct Hint<'a> {
    /// As bound.
    pub address: Address,
    /// The subsystem.
    pub nqn: &'a str,
}

/// The addresses of this machine that others may reach, the one of the default route first; loopback when there is none.
pub fn addresses() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    // No packet is sent: connecting a datagram socket only chooses the route.
    let route = UdpSocket::bind("0.0.0.0:0").and_then(|s| {
        s.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        s.local_addr()
    });
    if let Ok(a) = route {
        found.push(a.ip());
    }
    if let Ok(text) = std::fs::read_to_string("/proc/net/fib_trie") {
        found.extend(local_v4(&text).into_iter().map(IpAddr::V4));
    }
    if let Ok(text) = std::fs::read_to_string("/proc/net/if_inet6") {
        found.extend(global_v6(&text).into_iter().map(IpAddr::V6));
    }
    let mut unique = Vec::new();
    for a in found {
        if !a.is_loopback() && !a.is_unspecified() && !unique.contains(&a) {
            unique.push(a);
        }
    }
    if unique.is_empty() {
        unique.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    unique
}

/// The addresses of a routing table (proc_net_fib_trie): those that a line `/32 host LOCAL` follows.
fn local_v4(text: &str) -> Vec<Ipv4Addr> {
    let mut out = Vec::new();
    let mut last = None;
    for line in text.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse().ok();
        } else if line.trim() == "/32 host LOCAL"
            && let Some(a) = last
            && !out.contains(&a)
        {
            out.push(a);
        }
    }
    out
}

/// The addresses of global scope (if_inet6: address, index, prefix length, scope, flags, name).
fn global_v6(text: &str) -> Vec<Ipv6Addr> {
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = u128::from_str_radix(fields.first()?, 16).ok()?;
        (fields.get(3) == Some(&"00")).then(|| Ipv6Addr::from(address))
    };
    text.lines().filter_map(read).collect()
}

/// The addresses by which hosts reach a listener bound to `address`.
pub fn reachable(address: SocketAddr) -> Vec<IpAddr> {
    if !address.ip().is_unspecified() {
        return vec![address.ip()];
    }
    addresses().into_iter().filter(|a| a.is_ipv4() || address.is_ipv6()).collect()
}

/// How a host discovers what is at the addresses, each once, however many subsystems are there.
fn discoveries(hints: &[Hint<'_>]) -> Vec<String> {
    let mut lines = Vec::new();
    for (n, h) in hints.iter().enumerate() {
        if hints[..n].iter().any(|earlier| earlier.address == h.address) {
            continue;
        }
        let (transport, port) = (h.address.scheme.name(), h.address.socket.port());
        for (i, ip) in reachable(h.address.socket).iter().enumerate().take(3) {
            let or = if i > 0 { "   # or" } else { "" };
            lines.push(format!("  nvme discover -t {transport} -a {ip} -s {port}{or}"));
        }
    }
    lines
}

/// Says what to type on a host.
pub fn explain(hints: &[Hint<'_>], restricted: bool) {
    let Some(first) = hints.first() else { return };
    let mut modules: Vec<String> =
        hints.iter().map(|h| format!("nvme-{}", h.address.scheme.name())).collect();
    modules.sort();
    modules.dedup();
    let modules = modules.join(" ");
    line(format!("\nOn a Linux host, as root (modprobe {modules}; package nvme-cli):"));
    discoveries(hints).into_iter().for_each(line);
    for h in hints {
        let (transport, port) = (h.address.scheme.name(), h.address.socket.port());
        if let Some(ip) = reachable(h.address.socket).first() {
            line(format!("  nvme connect -t {transport} -a {ip} -s {port} -n {}", h.nqn));
        }
    }
    line(format!("  nvme disconnect -n {}", first.nqn));
    if restricted {
        line("Only the hosts named with --allow may connect; a host's name is in its /etc/nvme/hostnqn.");
    }
    // By TCP where there is a choice: it takes no device.
    let first = hints.iter().find(|h| h.address.scheme == Scheme::Tcp).unwrap_or(first);
    line("From here, without a kernel initiator:");
    let at = first.address.socket;
    let ip = if at.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { at.ip() };
    let here = SocketAddr::new(ip, at.port());
    let scheme = first.address.scheme.name();
    line(format!("  {} identify {scheme}://{here} --nqn {}\n", program(), first.nqn));
}

/// What starts this very program at a prompt: its name where the search path leads to it, its whole path elsewhere.
pub fn program() -> String {
    let Ok(me) = std::env::current_exe() else { return "caisson".into() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("caisson")).find(|p| p.is_file());
    match found.and_then(|p| p.canonicalize().ok()) {
        Some(found) if me.canonicalize().is_ok_and(|me| me == found) => "caisson".into(),
        _ => me.display().to_string(),
    }
}

/// Whether this kernel can be an NVMe/TCP host: the fabrics class is there, or the module is to be had.
pub fn kernel_has_initiator() -> bool {
    if std::path::Path::new("/sys/module/nvme_tcp").exists() {
        return true;
    }
    let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") else { return false };
    let modules = format!("/lib/modules/{}/modules.dep", release.trim());
    std::fs::read_to_string(modules).is_ok_and(|deps| deps.lines().any(|l| l.contains("/nvme-tcp.ko")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_discovered_once_however_many_subsystems_it_serves() {
        let at = |text: &str| text.parse::<Address>().unwrap();
        let hint = |address, nqn| Hint { address, nqn };
        let (one, two) = (at("tcp://127.0.0.1:4420"), at("tcp://127.0.0.1:4421"));
        let said = discoveries(&[hint(one, "a"), hint(two, "a"), hint(one, "b"), hint(two, "b")]);
        let line = |port| format!("  nvme discover -t tcp -a 127.0.0.1 -s {port}");
        assert_eq!(said, [line(4420), line(4421)]);
    }

    #[test]
    fn reads_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\nLocal:\n        |-- \
                    10.0.0.5\n           /32 host LOCAL\n        |-- 10.0.0.255\n           /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(10, 0, 0, 5)]);
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                  20010db8000000000000000000000007 02 40 00 00     eth0\n\
                  fe800000000000000000000000000001 02 40 20 80     eth0\n";
        assert_eq!(global_v6(v6), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
        assert!(!addresses().is_empty());
    }
}
