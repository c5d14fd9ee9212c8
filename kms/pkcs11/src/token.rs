//! One token as a key provider.
//!
//! Owns the session, and which of the token's keys are root keys: AES-256 secret keys of one label, told apart by CKA_ID, the
//! greatest of which wraps. One that is made here has the time in front of its id, so a newer one is greater. It must never
//! log in by itself where a wrong PIN could be the last.

use crate::error;
use caisson_keys::{
    CONTEXT_LEN, Context, KeyError, KeyProvider, KeyUri, ProviderStatus, Scheme, Secret, Wrapped,
};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::{RawAuthPin, Ulong};
use std::collections::BTreeMap;
use std::ffi::c_ulong;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The provider's name, as pools remember it.
pub const NAME: &str = Scheme::Pkcs11.name();

/// The label of root keys where none is named.
const DEFAULT_LABEL: &str = "caisson-root";

/// The first byte of what is wrapped.
const WRAP_VERSION: u8 = 1;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Longest secret that is wrapped.
const MAX_SECRET: usize = 256;
/// Root keys of one label that are looked at.
const MAX_ROOTS: usize = 256;
/// Longest CKA_ID in bytes: what a pool's key slot has room for, in hexadecimal.
const MAX_ID: usize = 128;

/// Modules are loaded once a process, and stay: what a module's own threads and handlers do after it is unloaded, nobody knows.
static MODULES: Mutex<BTreeMap<String, Pkcs11>> = Mutex::new(BTreeMap::new());

/// A token that this process is logged in to.
pub struct Token {
    called: String,
    label: String,
    /// The one key that was named, where one was.
    pinned: Option<Vec<u8>>,
    module: Pkcs11,
    slot: Slot,
    /// A session is used by one call at a time (PKCS#11 2.40, 5.6.1 leaves the rest to the module).
    session: Mutex<Session>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, {:?})", self.called, self.label)
    }
}

/// One root key.
struct Root {
    id: Vec<u8>,
    handle: ObjectHandle,
}

impl Token {
    /// Logs in to the token that `uri` names (`token=LABEL`, `module-path=FILE`), with the PIN that `pin` gives. It is asked for
    /// only when all else is well, and tried once.
    ///
    /// # Errors
    /// [`KeyError::NotInstalled`] without the module, [`KeyError::NoSuchToken`], [`KeyError::WrongSecret`], [`KeyError::Locked`]
    /// where the PIN is locked or the next wrong one would lock it, [`KeyError::Unavailable`].
    pub fn open(uri: &KeyUri, pin: impl FnOnce(&str) -> Result<Secret, KeyError>) -> Result<Token, KeyError> {
        let token = uri.required("token")?.to_string();
        let module = module(uri.required("module-path")?)?;
        let called = format!("{NAME} token {token}");
        let (slot, info) = find(&module, &called, uri, &token)?;
        let fail = |e: &Error| error::of(&called, e);
        let session = module.open_rw_session(slot).map_err(|e| fail(&e))?;
        if info.login_required() {
            log_in(&session, &called, &info, pin)?;
        }
        Ok(Token {
            label: uri.attribute("object").unwrap_or(DEFAULT_LABEL).to_string(),
            pinned: uri.bytes("id").map(<[u8]>::to_vec),
            called,
            module,
            slot,
            session: Mutex::new(session),
        })
    }

    /// How the token that `uri` names is, without logging in.
    ///
    /// # Errors
    /// [`KeyError::NotInstalled`], [`KeyError::NoSuchToken`], [`KeyError::Unavailable`].
    pub fn examine(uri: &KeyUri) -> Result<ProviderStatus, KeyError> {
        let module = module(uri.required("module-path")?)?;
        let (_, info) = find(&module, NAME, uri, uri.required("token")?)?;
        Ok(match () {
            () if info.user_pin_locked() => {
                ProviderStatus::Locked { remedy: "have the token's security officer set a new PIN".into() }
            }
            () if info.user_pin_final_try() => ProviderStatus::Locked {
                remedy: "log in once with the token's own tool: one more wrong PIN would lock it".into(),
            },
            () => ProviderStatus::Ready,
        })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, e: &Error) -> KeyError {
        error::of(&self.called, e)
    }

    /// The keys of the label, oldest first.
    fn find(&self, session: &Session) -> Result<Vec<Root>, KeyError> {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Label(self.label.clone().into_bytes()),
        ];
        template.extend(self.pinned.clone().map(Attribute::Id));
        let handles = session.find_objects(&template).map_err(|e| self.fail(&e))?;
        let mut roots = Vec::new();
        for handle in handles.into_iter().take(MAX_ROOTS) {
            let found = session.get_attributes(handle, &[AttributeType::Id]).map_err(|e| self.fail(&e))?;
            for attribute in found {
                if let Attribute::Id(id) = attribute
                    && id.len() <= MAX_ID
                {
                    roots.push(Root { id, handle });
                }
            }
        }
        roots.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(roots)
    }

    fn name_of(&self, id: &[u8]) -> String {
        let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
        format!("{}:{id}", self.label)
    }

    fn no_key(&self, root: &str) -> KeyError {
        KeyError::NoSuchKey { provider: self.called.clone(), root: root.into() }
    }

    /// That a key can be taken out of the token is a reason not to use it: what it wraps would be worth no more than its copy.
    fn check_kept_inside(&self, session: &Session, root: &Root) -> Result<(), KeyError> {
        let found =
            session.get_attributes(root.handle, &[AttributeType::Extractable, AttributeType::Sensitive]);
        for attribute in found.map_err(|e| self.fail(&e))? {
            if matches!(attribute, Attribute::Extractable(true) | Attribute::Sensitive(false)) {
                return Err(KeyError::Refused {
                    provider: self.called.clone(),
                    cause: format!("key {} can be taken out of the token", self.name_of(&root.id)),
                    remedy: "make another with `caisson key create`, which the token keeps to itself".into(),
                });
            }
        }
        Ok(())
    }
}

/// The token's slot, by the label, and the serial number and such where they are named.
fn find(module: &Pkcs11, called: &str, uri: &KeyUri, token: &str) -> Result<(Slot, TokenInfo), KeyError> {
    let fail = |e: &Error| error::of(called, e);
    let mut others = Vec::new();
    for slot in module.get_slots_with_token().map_err(|e| fail(&e))? {
        // A token that is being pulled out is not there.
        let Ok(info) = module.get_token_info(slot) else { continue };
        let fits = |name: &str, value: &str| uri.attribute(name).is_none_or(|v| v == value);
        if info.label() == token
            && fits("serial", info.serial_number())
            && fits("model", info.model())
            && fits("manufacturer", info.manufacturer_id())
        {
            return Ok((slot, info));
        }
        if info.token_initialized() {
            others.push(format!("{:?}", info.label()));
        }
    }
    let found = if others.is_empty() { "none".into() } else { others.join(", ") };
    Err(KeyError::NoSuchToken { provider: NAME.into(), token: token.into(), found })
}

fn log_in(
    session: &Session,
    called: &str,
    info: &TokenInfo,
    pin: impl FnOnce(&str) -> Result<Secret, KeyError>,
) -> Result<(), KeyError> {
    let locked = |cause: &str, remedy: &str| KeyError::Locked {
        provider: called.into(),
        cause: cause.into(),
        remedy: remedy.into(),
    };
    if info.user_pin_locked() {
        return Err(error::of(
            called,
            &Error::Pkcs11(RvError::PinLocked, cryptoki::context::Function::Login),
        ));
    }
    if info.user_pin_final_try() {
        return Err(locked(
            "one more wrong PIN would lock it, so none is tried",
            "log in once with the token's own tool and the right PIN (pkcs11-tool --login), which sets the count back",
        ));
    }
    if info.protected_authentication_path() {
        // The token has a keypad of its own.
        return accept(called, session.login(UserType::User, None));
    }
    let pin = RawAuthPin::new(Box::new(pin(called)?.expose().to_vec()));
    accept(called, session.login_with_raw(UserType::User, &pin))
}

/// Another session of this process may have logged in before: that counts for all of them (PKCS#11 2.40, 5.6).
fn accept(called: &str, result: Result<(), Error>) -> Result<(), KeyError> {
    match result {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(e) => Err(error::of(called, &e)),
    }
}

/// The module at `path`, loaded and initialised.
fn module(path: &str) -> Result<Pkcs11, KeyError> {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let missing = |cause: String| KeyError::NotInstalled {
        provider: NAME.into(),
        cause,
        remedy:
            "install the token's PKCS#11 module, and name its file (module-path=...); for softhsm2 that is \
                 /usr/lib/softhsm/libsofthsm2.so"
                .into(),
    };
    let module =
        Pkcs11::new(path).map_err(|e| missing(format!("the module {path} cannot be loaded: {e}")))?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(e) => return Err(missing(format!("the module {path} cannot be started: {e}"))),
    }
    modules.insert(path.to_string(), module.clone());
    Ok(module)
}

/// What is authenticated with a wrapped secret: its place, and which root key wrapped it.
fn associated(context: &Context, root: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(CONTEXT_LEN + root.len());
    out.extend(context.encode());
    out.extend(root.as_bytes());
    out
}

/// AES-GCM with a tag of 16 bytes, which PKCS#11 puts behind the ciphertext.
fn gcm<'a>(nonce: &'a mut [u8], aad: &'a [u8]) -> Result<Mechanism<'a>, Error> {
    let bits = Ulong::from((TAG_LEN * 8) as c_ulong);
    Ok(Mechanism::AesGcm(GcmParams::new(nonce, aad, bits)?))
}

fn random(out: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(out).map_err(|e| KeyError::NoRandom { cause: e.to_string() })
}

impl KeyProvider for Token {
    fn name(&self) -> &str {
        NAME
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        if !(1..=MAX_SECRET).contains(&secret.len()) {
            return Err(KeyError::BadLength { provider: self.called.clone(), len: secret.len() });
        }
        let session = self.session();
        let roots = self.find(&session)?;
        let root = roots.last().ok_or_else(|| self.no_key(&self.label))?;
        self.check_kept_inside(&session, root)?;
        let name = self.name_of(&root.id);
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce)?;
        let mut blob = vec![WRAP_VERSION];
        blob.extend(nonce);
        let aad = associated(context, &name);
        let mechanism = gcm(&mut nonce, &aad).map_err(|e| self.fail(&e))?;
        let sealed = session.encrypt(&mechanism, root.handle, secret.expose()).map_err(|e| self.fail(&e))?;
        blob.extend(sealed);
        Ok(Wrapped { root: name, blob })
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        let session = self.session();
        let roots = self.find(&session)?;
        let root = roots
            .iter()
            .find(|r| self.name_of(&r.id) == wrapped.root)
            .ok_or_else(|| self.no_key(&wrapped.root))?;
        let parts = || {
            let (version, rest) = wrapped.blob.split_first()?;
            let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
            let len = sealed.len().checked_sub(TAG_LEN)?;
            (*version == WRAP_VERSION && (1..=MAX_SECRET).contains(&len)).then_some((*nonce, sealed))
        };
        let (mut nonce, sealed) = parts().ok_or(KeyError::NotAuthentic)?;
        let aad = associated(context, &wrapped.root);
        let mechanism = gcm(&mut nonce, &aad).map_err(|e| self.fail(&e))?;
        let opened = session.decrypt(&mechanism, root.handle, sealed);
        let mut secret = opened.map_err(|e| error::of_decrypt(&self.called, &e))?;
        if secret.len() != sealed.len() - TAG_LEN {
            Secret::take(&mut secret);
            return Err(KeyError::NotAuthentic);
        }
        Ok(Secret::take(&mut secret))
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        Ok(self.find(&self.session())?.iter().map(|r| self.name_of(&r.id)).collect())
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        let id = match &self.pinned {
            Some(id) if !self.find(&self.session())?.is_empty() => {
                return Err(KeyError::Unsupported {
                    provider: self.called.clone(),
                    what: format!("make another key of id {}", self.name_of(id)),
                    remedy: "leave id= out of what names the key, so that the newest of its label wraps"
                        .into(),
                });
            }
            Some(id) => id.clone(),
            None => {
                let since = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
                let mut id = since.to_be_bytes().to_vec();
                let mut tail = [0; 8];
                random(&mut tail)?;
                id.extend(tail);
                // A clock that was put back must not make an old key the newest.
                if let Some(last) = self.find(&self.session())?.last()
                    && last.id >= id
                {
                    id = greater(&last.id);
                }
                id
            }
        };
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(Ulong::from(32 as c_ulong)),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Label(self.label.clone().into_bytes()),
            Attribute::Id(id.clone()),
        ];
        self.session().generate_key(&Mechanism::AesKeyGen, &template).map_err(|e| self.fail(&e))?;
        Ok(self.name_of(&id))
    }

    /// By C_DestroyObject. A token knows no key that is revoked and still there.
    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        let session = self.session();
        let roots = self.find(&session)?;
        let found = roots.iter().find(|r| self.name_of(&r.id) == root).ok_or_else(|| self.no_key(root))?;
        session.destroy_object(found.handle).map_err(|e| self.fail(&e))
    }

    /// Asks what slot and token say of themselves: nothing that counts as a try.
    fn status(&self) -> ProviderStatus {
        match self.module.get_token_info(self.slot) {
            Ok(info) if info.user_pin_locked() => {
                ProviderStatus::Locked { remedy: "have the token's security officer set a new PIN".into() }
            }
            Ok(_) => match self.session().get_session_info() {
                Ok(_) => ProviderStatus::Ready,
                Err(e) => ProviderStatus::Unavailable { cause: e.to_string() },
            },
            Err(e) => ProviderStatus::Unavailable { cause: e.to_string() },
        }
    }
}

/// An id that is greater than `id` as bytes are compared.
fn greater(id: &[u8]) -> Vec<u8> {
    let mut more = id.to_vec();
    if more.len() < MAX_ID {
        more.push(0);
        return more;
    }
    for b in more.iter_mut().rev() {
        *b = b.wrapping_add(1);
        if *b != 0 {
            break;
        }
    }
    more
}
