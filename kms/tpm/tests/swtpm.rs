//! Sealing and unsealing against swtpm: a machine that is restarted, changed, locked out, exchanged, and listened to.

mod support;

use caisson_keys::{KeyError, Secret};
use caisson_tpm::{Pcrs, Seal, Tpm, Transport};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use support::Machine;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("caisson-tpm-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const PLAIN: &[u8; 32] = b"a secret that is worth a machine";
const PIN: &[u8] = b"8642-pin";

fn secret() -> Secret {
    Secret::take(&mut PLAIN.to_vec())
}

fn pin(text: &[u8]) -> Secret {
    Secret::take(&mut text.to_vec())
}

fn none(_: &str) -> Result<Secret, KeyError> {
    panic!("nobody is asked for a PIN");
}

fn pcrs() -> Pcrs {
    Pcrs::parse("sha256+0,1,2,3,4,5,6,7,8,14").unwrap()
}

fn open(m: &Machine) -> Tpm {
    Tpm::open(Some(&m.tcti())).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn what_was_sealed_comes_back_after_a_restart_and_not_in_another_state() {
    let dir = Dir::new("state");
    let mut m = Machine::new(&dir.0);
    let seal = open(&m).seal([1; 16], &secret(), pcrs(), None).unwrap();
    let stored = seal.encode();
    m.restart();
    let seal = Seal::decode(&stored).unwrap();
    // Often enough that anything left behind would have filled the TPM.
    for _ in 0..8 {
        assert_eq!(open(&m).unseal(&seal, none).unwrap(), secret());
    }
    assert_eq!(open(&m).changed(&seal), Ok(vec![]));
    m.measure(4);
    let error = open(&m).unseal(&seal, none).unwrap_err();
    assert!(matches!(&error, KeyError::StateChanged { .. }), "{error}");
    assert!(error.to_string().contains("register 4") && error.remedy().contains("reseal"), "{error}");
    // Even where it is believed that nothing changed, the TPM does not give it.
    let lie = Seal { values: open(&m).read(pcrs()).unwrap(), ..seal.clone() };
    for _ in 0..8 {
        let error = open(&m).unseal(&lie, none).unwrap_err();
        assert!(matches!(&error, KeyError::StateChanged { .. }), "{error}");
    }
    // Nor under a policy that the seal was not made with.
    let lie = Seal { pcrs: Pcrs::DEFAULT, values: open(&m).read(Pcrs::DEFAULT).unwrap(), ..seal.clone() };
    assert!(matches!(open(&m).unseal(&lie, none), Err(KeyError::StateChanged { .. })));
    m.restart();
    assert_eq!(open(&m).unseal(&seal, none).unwrap(), secret());
}

#[test]
fn a_seal_that_was_changed_or_is_of_another_tpm_is_refused() {
    let dir = Dir::new("changed");
    let mut m = Machine::new(&dir.0);
    let seal = open(&m).seal([1; 16], &secret(), pcrs(), None).unwrap();
    let refused = |m: &Machine, seal: &Seal, at: usize| {
        let error = open(m).unseal(seal, none).unwrap_err();
        assert!(matches!(&error, KeyError::Refused { .. } | KeyError::StateChanged { .. }), "{at}: {error}");
        assert!(error.remedy().contains("reseal"), "{at}: {error}: {}", error.remedy());
    };
    for at in 0..seal.private.len() {
        let mut changed = seal.clone();
        changed.private[at] ^= 1;
        refused(&m, &changed, at);
    }
    for at in 0..seal.public.len() {
        let mut changed = seal.clone();
        changed.public[at] ^= 1;
        refused(&m, &changed, 1000 + at);
    }
    let mut changed = seal.clone();
    changed.parent[33] ^= 1;
    refused(&m, &changed, 2000);
    assert_eq!(open(&m).unseal(&seal, none).unwrap(), secret(), "and nothing of it counted");
    assert_eq!(open(&m).lockout().unwrap().failures, 0);
    m.replace();
    refused(&m, &seal, 3000);
}

#[test]
fn a_wrong_pin_is_tried_once_and_never_locks_the_tpm() {
    let dir = Dir::new("pin");
    let mut m = Machine::new(&dir.0);
    m.locks_after(3, 1000);
    let seal = open(&m).seal([1; 16], &secret(), Pcrs::DEFAULT, Some(&pin(PIN))).unwrap();
    assert_eq!(open(&m).unseal(&seal, |_| Ok(pin(PIN))).unwrap(), secret());
    let wrong = |m: &Machine| open(m).unseal(&seal, |_| Ok(pin(b"1"))).unwrap_err();
    for failures in 1..=2 {
        let error = wrong(&m);
        assert!(matches!(&error, KeyError::WrongSecret { what: "PIN", .. }) && !error.may_pass(), "{error}");
        assert_eq!(open(&m).lockout().unwrap().failures, failures);
    }
    // One more would lock it: nobody is asked, and nothing counts.
    for _ in 0..5 {
        let asked = Cell::new(false);
        let error = open(&m)
            .unseal(&seal, |_| {
                asked.set(true);
                Ok(pin(PIN))
            })
            .unwrap_err();
        assert!(matches!(&error, KeyError::LockedOut { seconds: 1000, .. }) && !asked.get(), "{error}");
        assert_eq!((error.may_pass(), error.wait_s()), (true, Some(1000)));
    }
    let stands = open(&m).lockout().unwrap();
    assert_eq!((stands.locked, stands.failures, stands.most), (false, 2, 3));
    // A machine in another state says that first, and counts nothing.
    m.forgive();
    m.measure(7);
    assert!(matches!(wrong(&m), KeyError::StateChanged { .. }));
    assert_eq!(open(&m).lockout().unwrap().failures, 0);
    // Locked by somebody else: the same object, loaded and asked for past our guard.
    m.restart();
    m.locks_after(1, 1000);
    let error = wrong(&m);
    assert!(matches!(&error, KeyError::LockedOut { .. }), "{error}");
}

/// Keeps all that crosses the bus.
struct Sniffer {
    way: Box<dyn Transport>,
    heard: Arc<Mutex<Vec<u8>>>,
    /// Changes the byte behind so many, once.
    flip: Option<(u32, usize)>,
}

impl Transport for Sniffer {
    fn exchange(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        self.heard.lock().unwrap().extend(command);
        let mut answer = self.way.exchange(command)?;
        if let Some((code, at)) = self.flip
            && command[6..10] == code.to_be_bytes()
            && at < answer.len()
        {
            answer[at] ^= 1;
        }
        self.heard.lock().unwrap().extend(&answer);
        Ok(answer)
    }
}

fn listening(m: &Machine, flip: Option<(u32, usize)>) -> (Tpm, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::default();
    let (called, way) = caisson_tpm::connect(Some(&m.tcti())).unwrap();
    let sniffer = Sniffer { way, heard: Arc::clone(&heard), flip };
    (Tpm::over(&called, Box::new(sniffer)), heard)
}

#[test]
fn who_listens_on_the_bus_hears_no_secret_and_who_changes_it_is_found() {
    let dir = Dir::new("bus");
    let m = Machine::new(&dir.0);
    let (mut tpm, heard) = listening(&m, None);
    let seal = tpm.seal([1; 16], &secret(), pcrs(), Some(&pin(PIN))).unwrap();
    assert_eq!(tpm.unseal(&seal, |_| Ok(pin(PIN))).unwrap(), secret());
    drop(tpm);
    let heard = heard.lock().unwrap();
    assert!(heard.len() > 2000, "something was heard");
    let hears = |what: &[u8]| heard.windows(what.len()).any(|w| w == what);
    assert!(!hears(&PLAIN[..8]) && !hears(PIN), "a secret crossed the bus in the clear");
    assert!(hears(&seal.private), "what crosses it in the clear is found");
    // What comes back is authenticated, down to the last byte: of TPM2_Unseal, and of the storage key.
    for (code, bytes) in [(0x15e, 117), (0x131, 120)] {
        for at in 10..bytes {
            let (mut tpm, _) = listening(&m, Some((code, at)));
            match tpm.unseal(&seal, |_| Ok(pin(PIN))) {
                Err(_) => {}
                // Behind the public part of a key is what nobody looks at.
                Ok(got) => assert!(code == 0x131 && got == secret(), "{code:#x} at {at}"),
            }
        }
    }
}
