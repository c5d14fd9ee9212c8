//! The provider against softhsm2: its contract, the life of its keys, and each thing that can be wrong.
//!
//! A module reads its configuration from the environment when it is loaded, once a process. So each test runs itself again in a
//! process of its own, with tokens in a folder of its own.

use caisson_keys::{
    Context, KeyError, KeyProvider, KeyUri, ProviderStatus, Purpose, Reason, Secret, contract,
    create_pool_keys, unlock, wrap_pool_keys,
};
use caisson_pkcs11::Token;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "8642-pin";

/// Runs `body` in a process that has a fresh set of tokens, `Caisson` and `other`, to itself.
fn alone(test: &str, body: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os("CAISSON_SOFTHSM_DIR") {
        return body(Path::new(&dir));
    }
    let dir = std::env::temp_dir().join(format!("caisson-softhsm-{test}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("tokens")).unwrap();
    let conf = dir.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", dir.join("tokens").display());
    std::fs::write(&conf, text).unwrap();
    for label in ["other", "Caisson"] {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "13579", "--pin", PIN])
            .env("SOFTHSM2_CONF", &conf)
            .output()
            .expect("softhsm2-util runs (tools/setup test installs softhsm2)");
        assert!(made.status.success(), "{made:?}");
    }
    let own = std::env::current_exe().unwrap();
    let run = Command::new(own)
        .args(["--exact", test, "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env("CAISSON_SOFTHSM_DIR", &dir)
        .output()
        .unwrap();
    let _ = std::fs::remove_dir_all(&dir);
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "the test of that name ran: {out}");
    assert!(!out.contains(PIN) && !err.contains(PIN), "no PIN is shown");
}

fn uri(text: &str) -> KeyUri {
    format!("pkcs11:{text}?module-path={MODULE}").parse().unwrap()
}

fn pin(text: &str) -> impl FnOnce(&str) -> Result<Secret, KeyError> {
    let mut bytes = text.as_bytes().to_vec();
    move |_| Ok(Secret::take(&mut bytes))
}

fn open(text: &str) -> Token {
    Token::open(&uri(text), pin(PIN)).unwrap_or_else(|e| panic!("{e}"))
}

fn context() -> Context {
    Context { purpose: Purpose::Domain, pool: [4; 16], domain: 1, epoch: 0 }
}

#[test]
fn a_root_key_is_destroyed_and_the_others_stay() {
    alone("a_root_key_is_destroyed_and_the_others_stay", |_| {
        let mut token = open("token=Caisson;object=root");
        let (first, second) = (token.add_root().unwrap(), token.add_root().unwrap());
        let wrapped = token.wrap(&Secret::take(&mut [1; 32]), &context()).unwrap();
        assert_eq!(wrapped.root, second);
        // A token has no such state.
        let error = token.revoke(&first, Reason::Compromise).unwrap_err();
        assert!(
            matches!(&error, KeyError::Unsupported { .. }) && error.remedy().contains("destroy"),
            "{error}"
        );
        token.destroy(&first).unwrap();
        assert_eq!(token.roots().unwrap(), std::slice::from_ref(&second));
        let error = token.destroy(&first).unwrap_err();
        assert!(matches!(&error, KeyError::NoSuchKey { root, .. } if *root == first), "{error}");
        // Another login sees the same.
        let mut again = open("token=Caisson;object=root");
        assert_eq!(again.unwrap(&wrapped, &context()), Ok(Secret::take(&mut [1; 32])));
        again.destroy(&second).unwrap();
        let error = token.unwrap(&wrapped, &context()).unwrap_err();
        assert!(matches!(&error, KeyError::NoSuchKey { root, .. } if *root == second), "{error}");
    });
}

#[test]
fn keeps_the_contract_of_providers_and_rotates() {
    alone("keeps_the_contract_of_providers_and_rotates", |_| {
        let mut token = open("token=Caisson;object=root");
        assert_eq!((token.roots(), token.status()), (Ok(vec![]), ProviderStatus::Ready));
        let none = token.wrap(&Secret::take(&mut [1; 32]), &context()).unwrap_err();
        assert!(matches!(none, KeyError::NoSuchKey { .. }), "{none}");
        let first = token.add_root().unwrap();
        assert!(first.starts_with("root:"), "{first}");
        contract::check(&token).unwrap();
        let (made, old) = create_pool_keys(&token, [3; 16], &mut |b| {
            b.fill(9);
            Ok(())
        })
        .unwrap();
        let second = token.add_root().unwrap();
        assert_eq!(token.roots().unwrap(), [first.clone(), second.clone()]);
        let new = wrap_pool_keys(&token, &made).unwrap();
        assert_eq!((&old[0].wrapped.root, &new[0].wrapped.root), (&first, &second));
        contract::check(&token).unwrap();
        drop(token);
        // Another opening, as after a restart.
        let token = open("token=Caisson;object=root");
        for slots in [&old, &new] {
            assert!(unlock(&[&token], [3; 16], slots).unwrap().epochs().eq(made.epochs()));
        }
        // A key that is named by its id is the only one.
        let id: String = first.as_bytes()["root:".len()..]
            .chunks(2)
            .fold(String::new(), |all, byte| all + "%" + std::str::from_utf8(byte).unwrap());
        let mut pinned = open(&format!("token=Caisson;object=root;id={id}"));
        assert_eq!(pinned.roots().unwrap(), [first]);
        assert!(unlock(&[&pinned], [3; 16], &old).is_ok());
        let error = unlock(&[&pinned], [3; 16], &new).unwrap_err();
        assert!(matches!(error, KeyError::NoSuchKey { .. }), "{error}");
        assert!(matches!(pinned.add_root(), Err(KeyError::Unsupported { .. })));
        // The same label in another token is another key.
        let mut other = open("token=other;object=root");
        other.add_root().unwrap();
        let error = unlock(&[&other], [3; 16], &old).unwrap_err();
        assert!(
            matches!(&error, KeyError::NoSuchKey { provider, .. } if provider.contains("other")),
            "{error}"
        );
        // Of several, the one that holds the key opens.
        assert!(unlock(&[&other, &token], [3; 16], &new).is_ok());
    });
}

#[test]
fn a_wrong_pin_is_tried_once_and_said() {
    alone("a_wrong_pin_is_tried_once_and_said", |_| {
        let asked = Cell::new(0);
        let error = Token::open(&uri("token=Caisson"), |called| {
            asked.set(asked.get() + 1);
            assert_eq!(called, "pkcs11 token Caisson");
            Ok(Secret::take(&mut *b"wrong pin".to_owned().as_mut()))
        })
        .unwrap_err();
        assert_eq!(asked.get(), 1);
        assert_eq!(error.to_string(), "key provider pkcs11 token Caisson: the PIN is wrong");
        assert!(!error.may_pass() && error.remedy().contains("counts wrong ones"));
        open("token=Caisson");
        // Without a PIN there is no try.
        let nobody = KeyError::Local { provider: "p".into(), cause: "nobody".into(), remedy: "r".into() };
        let error = Token::open(&uri("token=other"), |_| Err(nobody.clone())).unwrap_err();
        assert_eq!(error, nobody);
    });
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    alone("what_is_not_there_is_said_with_what_is", |_| {
        let never = |_: &str| -> Result<Secret, KeyError> { panic!("no PIN is asked for") };
        let error = Token::open(&uri("token=Casson"), never).unwrap_err();
        let KeyError::NoSuchToken { token, found, .. } = &error else { panic!("{error}") };
        assert_eq!(token, "Casson");
        assert!(found.contains("\"Caisson\"") && found.contains("\"other\""), "{error}");
        let error = Token::open(&uri("token=Caisson;serial=0000"), never).unwrap_err();
        assert!(matches!(error, KeyError::NoSuchToken { .. }), "{error}");
        let missing: KeyUri = "pkcs11:token=Caisson?module-path=/no/such/module.so".parse().unwrap();
        let error = Token::open(&missing, never).unwrap_err();
        assert!(
            matches!(error, KeyError::NotInstalled { .. }) && error.remedy().contains("softhsm"),
            "{error}"
        );
        let not_one: KeyUri = "pkcs11:token=Caisson?module-path=/etc/hostname".parse().unwrap();
        assert!(matches!(Token::open(&not_one, never), Err(KeyError::NotInstalled { .. })));
        for lacks in ["pkcs11:object=a?module-path=/m", "pkcs11:token=a"] {
            let error = Token::open(&lacks.parse().unwrap(), never).unwrap_err();
            assert!(matches!(error, KeyError::BadUri { .. }), "{error}");
        }
        let token = open("token=Caisson;object=none");
        let wrapped = caisson_keys::Wrapped { root: "none:00".into(), blob: vec![1; 61] };
        let error = token.unwrap(&wrapped, &context()).unwrap_err();
        assert_eq!(error.to_string(), "key provider pkcs11 token Caisson has no key \"none:00\"");
    });
}

/// The key's value cannot be read, and a key that could be is not used.
#[test]
fn root_keys_stay_in_the_token() {
    alone("root_keys_stay_in_the_token", |_| {
        let mut token = open("token=Caisson;object=root");
        token.add_root().unwrap();
        let module = Pkcs11::new(MODULE).unwrap();
        let _ = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let slots = module.get_slots_with_token().unwrap();
        let slot =
            slots.into_iter().find(|s| module.get_token_info(*s).unwrap().label() == "Caisson").unwrap();
        let session = module.open_rw_session(slot).unwrap();
        let _ = session.login(UserType::User, Some(&AuthPin::from(PIN)));
        let label = |l: &str| Attribute::Label(l.as_bytes().to_vec());
        let keys = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), label("root")]).unwrap();
        assert_eq!(keys.len(), 1);
        let kinds = [AttributeType::Value, AttributeType::Extractable, AttributeType::NeverExtractable];
        let seen = session.get_attributes(keys[0], &kinds).unwrap();
        assert!(!seen.iter().any(|a| matches!(a, Attribute::Value(_))), "{seen:?}");
        assert!(
            seen.contains(&Attribute::Extractable(false))
                && seen.contains(&Attribute::NeverExtractable(true))
        );
        let template = [
            Attribute::Token(true),
            Attribute::ValueLen(32.into()),
            Attribute::Extractable(true),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Id(vec![1]),
            label("loose"),
        ];
        session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
        let loose = open("token=Caisson;object=loose");
        let error = loose.wrap(&Secret::take(&mut [1; 32]), &context()).unwrap_err();
        assert!(error.to_string().contains("can be taken out"), "{error}");
    });
}

/// The token's files go away under a session that is open: an error, never a panic, and the process lives on.
#[test]
fn a_token_that_goes_away_is_an_error() {
    alone("a_token_that_goes_away_is_an_error", |dir| {
        let mut token = open("token=Caisson;object=root");
        token.add_root().unwrap();
        let wrapped = token.wrap(&Secret::take(&mut [7; 32]), &context()).unwrap();
        let away: PathBuf = dir.join("away");
        std::fs::rename(dir.join("tokens"), &away).unwrap();
        assert!(token.wrap(&Secret::take(&mut [7; 32]), &context()).is_err());
        assert!(token.unwrap(&wrapped, &context()).is_err() && token.add_root().is_err());
        assert!(matches!(Token::open(&uri("token=Caisson"), pin("wrong")), Err(e) if !e.remedy().is_empty()));
    });
}
