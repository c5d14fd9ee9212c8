//! A key file that a TPM opens, as one provider: the providers' contract, and another opening by either way.

#[path = "../../tpm/tests/support/mod.rs"]
mod support;

use caisson_keys::{KeyUri, contract, create_pool_keys, unlock};
use caisson_providers::{How, open};
use support::Machine;

#[test]
fn keeps_the_contract_of_providers_and_opens_again_by_tpm_or_passphrase() {
    let dir = std::env::temp_dir().join(format!("caisson-provider-tpm-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let mut machine = Machine::new(&dir.join("tpm"));
    std::fs::write(dir.join("pass"), "correct horse\n").unwrap();
    let uri = |tcti: &str| -> KeyUri {
        let (file, pass) = (dir.join("key"), dir.join("pass"));
        let text = format!(
            "tpm2:pcrs=sha256+4,7?file={}&tcti={tcti}&passphrase-file={}",
            file.display(),
            pass.display()
        );
        text.parse().unwrap()
    };
    let made = open(&uri(&machine.tcti()), How { make: true, ask: false }).unwrap();
    assert!(made.made);
    contract::check(&*made.provider).unwrap();
    let (keys, slots) =
        create_pool_keys(&*made.provider, [3; 16], &mut caisson_providers::os_random).unwrap();
    drop(made);
    // After a restart of the machine, and without its TPM.
    machine.restart();
    for tcti in [machine.tcti(), "none".into()] {
        let again = open(&uri(&tcti), How { make: false, ask: false }).unwrap();
        assert!(!again.made);
        contract::check(&*again.provider).unwrap();
        let unlocked = unlock(&[&*again.provider], [3; 16], &slots).unwrap();
        assert!(unlocked.epochs().eq(keys.epochs()), "{tcti}");
    }
    // A root key is destroyed in the file; what seals the file stays, and opens the rest.
    let mut provider = open(&uri(&machine.tcti()), How { make: false, ask: false }).unwrap().provider;
    provider.add_root().unwrap();
    let new = caisson_keys::wrap_pool_keys(&*provider, &keys).unwrap();
    provider.destroy(&slots[0].wrapped.root).unwrap();
    let again = open(&uri(&machine.tcti()), How { make: false, ask: false }).unwrap().provider;
    assert_eq!(again.roots().unwrap(), [new[0].wrapped.root.clone()]);
    assert!(unlock(&[&*again], [3; 16], &new).unwrap().epochs().eq(keys.epochs()));
    assert!(unlock(&[&*again], [3; 16], &slots).is_err());
    drop(machine);
    let _ = std::fs::remove_dir_all(&dir);
}
