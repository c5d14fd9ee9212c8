//! One TPM: sealing and unsealing, what its registers hold, and how its lockout stands.
//!
//! Owns the order of commands. An object and a session live for one call, and are flushed whatever comes of it. It must never try a
//! PIN where the next wrong one would lock the TPM.

use crate::codes;
use crate::pcr::{Pcrs, SHA256};
use crate::seal::Seal;
use crate::session::{DECRYPT, ENCRYPT, LEN, Nonces, Point, Session, salt};
use crate::transport::{Transport, connect};
use crate::wire::{HEADER, NO_SESSIONS, Params, Reader, SESSIONS, response};
use aws_lc_rs::rand;
use caisson_keys::{KeyError, Secret};
use sha2::{Digest, Sha256};
use std::io::ErrorKind;
use zeroize::Zeroizing;

const CREATE_PRIMARY: (u32, &str) = (0x131, "TPM2_CreatePrimary");
const CREATE: (u32, &str) = (0x153, "TPM2_Create");
const LOAD: (u32, &str) = (0x157, "TPM2_Load");
const UNSEAL: (u32, &str) = (0x15e, "TPM2_Unseal");
const FLUSH: (u32, &str) = (0x165, "TPM2_FlushContext");
const POLICY_AUTH_VALUE: (u32, &str) = (0x16b, "TPM2_PolicyAuthValue");
const START_AUTH_SESSION: (u32, &str) = (0x176, "TPM2_StartAuthSession");
const GET_CAPABILITY: (u32, &str) = (0x17a, "TPM2_GetCapability");
const PCR_READ: (u32, &str) = (0x17e, "TPM2_PCR_Read");
const POLICY_PCR: (u32, &str) = (0x17f, "TPM2_PolicyPCR");

const OWNER: u32 = 0x4000_0001;
const NULL: u32 = 0x4000_0007;
/// TPM_RS_PW: an authorisation by a value, here always the empty one.
const PASSWORD: u32 = 0x4000_0009;
const SE_HMAC: u8 = 0;
const SE_POLICY: u8 = 1;
/// No algorithm, AES, CFB, and objects of ECC and of sealed data (part 2, 6.3).
const ALG_NULL: u16 = 0x10;
const ALG_AES: u16 = 0x06;
const ALG_CFB: u16 = 0x43;
const ALG_ECC: u16 = 0x23;
const ALG_KEYEDHASH: u16 = 0x08;
const P256: u16 = 3;
/// Attributes of objects (part 2, 8.3): bound to this TPM and parent; outside of the lockout.
const FIXED: u32 = 1 << 1 | 1 << 4;
const NO_DA: u32 = 1 << 10;
/// Those of a storage key: its secret comes from the TPM, its user has a value, restricted, decrypts.
const STORAGE: u32 = FIXED | 1 << 5 | 1 << 6 | NO_DA | 1 << 16 | 1 << 17;
/// TPM_CAP_TPM_PROPERTIES, and those of the lockout (part 2, 6.13).
const PROPERTIES: u32 = 6;
const PT_PERMANENT: u32 = 0x200;
const PT_LOCKOUT_COUNTER: u32 = 0x20e;
/// TPMA_PERMANENT.inLockout.
const IN_LOCKOUT: u32 = 1 << 9;
/// Registers that one TPM2_PCR_Read gives at most.
const PCRS_AT_ONCE: usize = 8;

/// How the lockout of a TPM stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lockout {
    /// Whether it is locked out.
    pub locked: bool,
    /// Wrong values that count at present.
    pub failures: u32,
    /// How many lock it.
    pub most: u32,
    /// Seconds after which one of them is forgiven.
    pub interval_s: u32,
}

/// A TPM.
pub struct Tpm {
    called: String,
    way: Box<dyn Transport>,
}

type What = (u32, &'static str);

/// What a command is authorised with.
enum Auth<'a> {
    None,
    /// The empty value.
    Empty,
    /// A session: the value that goes into its HMAC and its encryption, and its attributes.
    Session(&'a mut Session, &'a [u8], u8),
}

/// The storage key that seals are under: made anew for each call from the TPM's own seed, and so always the same.
struct Parent {
    handle: u32,
    name: [u8; 34],
    point: Point,
}

struct Answer {
    handle: u32,
    params: Zeroizing<Vec<u8>>,
}

impl Tpm {
    /// Goes to the TPM that `tcti` names; see [`connect`].
    ///
    /// # Errors
    /// As [`connect`].
    pub fn open(tcti: Option<&str>) -> Result<Tpm, KeyError> {
        let (called, way) = connect(tcti)?;
        Ok(Tpm { called, way })
    }

    /// A TPM over any transport.
    pub fn over(called: &str, way: Box<dyn Transport>) -> Tpm {
        Tpm { called: called.into(), way }
    }

    /// What errors call it.
    pub fn called(&self) -> &str {
        &self.called
    }

    fn odd(&self, what: &What) -> KeyError {
        KeyError::Refused {
            provider: self.called.clone(),
            cause: format!(
                "its answer to {} is not in the form that the specification gives, or was changed on the way",
                what.1
            ),
            remedy: "see that it is a TPM 2.0; look for what stands between it and the processor".into(),
        }
    }

    fn random(&self) -> Result<[u8; LEN], KeyError> {
        let mut out = [0; LEN];
        rand::fill(&mut out)
            .map_err(|_| KeyError::NoRandom { cause: "the system's generator failed".into() })?;
        Ok(out)
    }

    /// One command: its handles with the names of what they stand for, and its parameters. `gives` says whether it gives a handle.
    fn run(
        &mut self,
        what: What,
        handles: &[(u32, &[u8])],
        params: Params,
        auth: Auth<'_>,
        gives: bool,
    ) -> Result<Answer, KeyError> {
        let mut params = Zeroizing::new(params.0);
        let mut auth = auth;
        let mut area = None;
        match &mut auth {
            Auth::None => {}
            Auth::Empty => area = Some(Params::default().u32(PASSWORD).u16(0).u8(0).u16(0)),
            Auth::Session(session, value, attributes) => {
                session.renew(self.random()?);
                if *attributes & DECRYPT != 0 {
                    let len = Reader(&params).u16().map_or(0, usize::from);
                    let first = params.get_mut(2..2 + len).ok_or_else(|| self.odd(&what))?;
                    session.hide(value, first).ok_or_else(|| self.odd(&what))?;
                }
                let names: Vec<u8> = handles.iter().flat_map(|(_, name)| name.iter().copied()).collect();
                let mac = session.sign(value, what.0, &names, &params, *attributes);
                let signed = Params::default().u32(session.handle).sized(session.nonce()).u8(*attributes);
                area = Some(signed.sized(&mac));
            }
        }
        let tag = if area.is_some() { SESSIONS } else { NO_SESSIONS };
        let mut body = Params::default();
        for (handle, _) in handles {
            body = body.u32(*handle);
        }
        if let Some(area) = area {
            body = body.u32(area.0.len() as u32).raw(&area.0);
        }
        let body = body.raw(&params).0;
        let len = (HEADER + body.len()) as u32;
        let command = Zeroizing::new(Params::default().u16(tag).u32(len).u32(what.0).raw(&body).0);
        let bytes = self.way.exchange(&command).map_err(|e| match e.kind() {
            ErrorKind::InvalidData => self.odd(&what),
            _ => KeyError::Unavailable { provider: self.called.clone(), cause: format!("{}: {e}", what.1) },
        })?;
        let answer = response(&bytes, gives).ok_or_else(|| self.odd(&what))?;
        if answer.code != 0 {
            return Err(codes::of(&self.called, what.1, answer.code));
        }
        let mut params = Zeroizing::new(answer.params.to_vec());
        if let Auth::Session(session, value, attributes) = &mut auth {
            let came = answer.auth.ok_or_else(|| self.odd(&what))?;
            if !session.verify(value, what.0, answer.params, came) {
                return Err(self.odd(&what));
            }
            if *attributes & ENCRYPT != 0 {
                let len = Reader(&params).u16().map_or(0, usize::from);
                let first = params.get_mut(2..2 + len).ok_or_else(|| self.odd(&what))?;
                session.show(value, first).ok_or_else(|| self.odd(&what))?;
            }
        }
        Ok(Answer { handle: answer.handle.unwrap_or_default(), params })
    }

    /// Nothing may be left behind; one that cannot be flushed is the resource manager's.
    fn flush(&mut self, handle: u32) {
        let _ = self.run(FLUSH, &[], Params::default().u32(handle), Auth::None, false);
    }

    /// How the lockout stands. Nothing that counts.
    ///
    /// # Errors
    /// The way's; the TPM's.
    pub fn lockout(&mut self) -> Result<Lockout, KeyError> {
        let permanent = self.properties(PT_PERMANENT, 1)?;
        let counts = self.properties(PT_LOCKOUT_COUNTER, 3)?;
        let at = |list: &[(u32, u32)], n: u32| list.iter().find(|(p, _)| *p == n).map_or(0, |(_, v)| *v);
        Ok(Lockout {
            locked: at(&permanent, PT_PERMANENT) & IN_LOCKOUT != 0,
            failures: at(&counts, PT_LOCKOUT_COUNTER),
            most: at(&counts, PT_LOCKOUT_COUNTER + 1),
            interval_s: at(&counts, PT_LOCKOUT_COUNTER + 2),
        })
    }

    fn properties(&mut self, first: u32, count: u32) -> Result<Vec<(u32, u32)>, KeyError> {
        let params = Params::default().u32(PROPERTIES).u32(first).u32(count);
        let answer = self.run(GET_CAPABILITY, &[], params, Auth::None, false)?;
        let mut r = Reader(&answer.params);
        let mut read = || {
            r.u8()?;
            let (_, n) = (r.u32()?, r.u32()?);
            (0..n.min(64)).map(|_| Some((r.u32()?, r.u32()?))).collect::<Option<Vec<_>>>()
        };
        read().ok_or_else(|| self.odd(&GET_CAPABILITY))
    }

    /// That another wrong PIN would not lock the TPM, nor that it is locked.
    fn may_try(&mut self) -> Result<(), KeyError> {
        let l = self.lockout()?;
        let cause = match l {
            Lockout { locked: true, .. } => "too many wrong values were tried".to_string(),
            Lockout { failures, most, .. } if most > 0 && failures + 1 >= most => {
                format!("{failures} wrong values of {most} were tried, so one more is not")
            }
            _ => return Ok(()),
        };
        // Where nothing is forgiven by itself, somebody must; that is seen a day later at the latest.
        let seconds = if l.interval_s == 0 { 86_400 } else { l.interval_s };
        Err(KeyError::LockedOut { provider: self.called.clone(), cause, seconds })
    }

    /// The values of registers, in the order of their numbers.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] where the TPM has no SHA-256 bank; the way's.
    pub fn read(&mut self, pcrs: Pcrs) -> Result<Vec<[u8; 32]>, KeyError> {
        let numbers: Vec<u32> = pcrs.numbers().collect();
        let mut values = Vec::new();
        for some in numbers.chunks(PCRS_AT_ONCE) {
            let mask = some.iter().fold(0, |m, n| m | 1 << n);
            let selection = Pcrs::from_mask(mask).unwrap_or(Pcrs::DEFAULT).selection();
            let answer = self.run(PCR_READ, &[], Params(selection), Auth::None, false)?;
            let mut r = Reader(&answer.params);
            let mut read = || {
                r.u32()?;
                let got = Pcrs::read_selection(&mut r)?;
                let n = r.u32()?.min(64);
                let all = (0..n).map(|_| r.sized()?.try_into().ok()).collect::<Option<Vec<[u8; 32]>>>()?;
                Some((got, all))
            };
            let (got, mut all) = read().ok_or_else(|| self.odd(&PCR_READ))?;
            if got != mask || all.len() != some.len() {
                return Err(KeyError::Unsupported {
                    provider: self.called.clone(),
                    what: format!("give registers {pcrs}"),
                    remedy: "switch its SHA-256 bank on, in the machine's firmware or with tpm2_pcrallocate, and restart".into(),
                });
            }
            values.append(&mut all);
        }
        Ok(values)
    }

    /// The registers whose values are not those of the seal.
    ///
    /// # Errors
    /// As [`Tpm::read`].
    pub fn changed(&mut self, seal: &Seal) -> Result<Vec<u32>, KeyError> {
        let now = self.read(seal.pcrs)?;
        let pairs = seal.values.iter().zip(&now).zip(seal.pcrs.numbers());
        Ok(pairs.filter(|((then, now), _)| then != now).map(|(_, n)| n).collect())
    }

    /// Makes the storage key: the template for ECC of the TCG's EK Credential Profile, B.4.2, in the owner hierarchy.
    fn parent(&mut self) -> Result<Parent, KeyError> {
        let point = Params::default().sized(&[0; 32]).sized(&[0; 32]).0;
        let template = Params::default().u16(ALG_ECC).u16(SHA256).u32(STORAGE).u16(0);
        let template = template.u16(ALG_AES).u16(128).u16(ALG_CFB);
        let template = template.u16(ALG_NULL).u16(P256).u16(ALG_NULL).raw(&point).0;
        // Neither a value of authorisation nor data, no outside information, no registers.
        let params = Params::default().sized(&[0; 4]).sized(&template).u16(0).u32(0);
        let answer = self.run(CREATE_PRIMARY, &[(OWNER, &OWNER.to_be_bytes())], params, Auth::Empty, true)?;
        let read = || {
            let public = Reader(&answer.params).sized()?;
            let point = public_point(public)?;
            let mut name = [0; 34];
            name[..2].copy_from_slice(&SHA256.to_be_bytes());
            name[2..].copy_from_slice(&Sha256::digest(public));
            Some(Parent { handle: answer.handle, name, point })
        };
        let parent = read();
        if parent.is_none() {
            self.flush(answer.handle);
        }
        parent.ok_or_else(|| self.odd(&CREATE_PRIMARY))
    }

    /// Starts a session whose key only the TPM that holds `parent` knows.
    fn session(&mut self, parent: &Parent, kind: u8) -> Result<Session, KeyError> {
        let (salt, sent) = salt(&parent.point).ok_or_else(|| self.odd(&START_AUTH_SESSION))?;
        let caller = self.random()?;
        let params = Params::default().sized(&caller).sized(&sent).u8(kind);
        let params = params.u16(ALG_AES).u16(128).u16(ALG_CFB).u16(SHA256);
        let handles: [(u32, &[u8]); 2] = [(parent.handle, &parent.name), (NULL, &[])];
        let answer = self.run(START_AUTH_SESSION, &handles, params, Auth::None, true)?;
        match Reader(&answer.params).sized() {
            Some(tpm) if tpm.len() >= 16 => {
                Ok(Session::new(answer.handle, &salt, Nonces { caller, tpm: tpm.to_vec() }))
            }
            _ => {
                self.flush(answer.handle);
                Err(self.odd(&START_AUTH_SESSION))
            }
        }
    }

    /// Seals `secret` (at most 128 bytes) to the values that the registers have now, and to `pin` where there is one.
    ///
    /// # Errors
    /// The TPM's.
    pub fn seal(
        &mut self,
        of: [u8; 16],
        secret: &Secret,
        pcrs: Pcrs,
        pin: Option<&Secret>,
    ) -> Result<Seal, KeyError> {
        let values = self.read(pcrs)?;
        let parent = self.parent()?;
        let sealed = self.session(&parent, SE_HMAC).and_then(|mut session| {
            let policy = pcrs.policy(&values, pin.is_some());
            let made = self.create(&parent, &mut session, secret, &policy, pin);
            // Gone already where the command was done.
            if made.is_err() {
                self.flush(session.handle);
            }
            made
        });
        self.flush(parent.handle);
        let (public, private) = sealed?;
        Ok(Seal { of, pcrs, values, pin: pin.is_some(), parent: parent.name, public, private })
    }

    fn create(
        &mut self,
        parent: &Parent,
        session: &mut Session,
        secret: &Secret,
        policy: &[u8; 32],
        pin: Option<&Secret>,
    ) -> Result<(Vec<u8>, Vec<u8>), KeyError> {
        let auth = pin.map(auth_value).unwrap_or_default();
        let sensitive = Zeroizing::new(Params::default().sized(&auth).sized(secret.expose()).0);
        let attributes = if pin.is_some() { FIXED } else { FIXED | NO_DA };
        let public = Params::default().u16(ALG_KEYEDHASH).u16(SHA256).u32(attributes);
        let public = public.sized(policy).u16(ALG_NULL).u16(0).0;
        let params = Params::default().sized(&sensitive).sized(&public).u16(0).u32(0);
        let auth = Auth::Session(session, &[], DECRYPT);
        let answer = self.run(CREATE, &[(parent.handle, &parent.name)], params, auth, false)?;
        let mut r = Reader(&answer.params);
        let parts = r.sized().zip(r.sized());
        let (private, public) = parts.ok_or_else(|| self.odd(&CREATE))?;
        Ok((public.to_vec(), private.to_vec()))
    }

    /// Has the TPM give out what it sealed.
    ///
    /// # Errors
    /// [`KeyError::StateChanged`] where the machine is in another state, [`KeyError::WrongSecret`], [`KeyError::LockedOut`], and
    /// [`KeyError::Refused`] where another TPM made the seal.
    pub fn unseal(
        &mut self,
        seal: &Seal,
        pin: impl FnOnce(&str) -> Result<Secret, KeyError>,
    ) -> Result<Secret, KeyError> {
        // Said in words, and before anybody is asked for a PIN. The TPM judges by its own.
        self.examine(seal)?;
        let parent = self.parent()?;
        let opened = self.unseal_under(&parent, seal, pin);
        self.flush(parent.handle);
        match opened {
            Err(KeyError::StateChanged { .. }) => Err(self.state_changed(&[])),
            Err(KeyError::LockedOut { provider, cause, .. }) => {
                let seconds = self.lockout().map_or(60, |l| l.interval_s.max(1));
                Err(KeyError::LockedOut { provider, cause, seconds })
            }
            opened => opened,
        }
    }

    /// Whether it would be unsealed now, as far as that is seen without trying.
    ///
    /// # Errors
    /// [`KeyError::StateChanged`], [`KeyError::LockedOut`]; the way's.
    pub fn examine(&mut self, seal: &Seal) -> Result<(), KeyError> {
        let changed = self.changed(seal)?;
        if !changed.is_empty() {
            return Err(self.state_changed(&changed));
        }
        if seal.pin { self.may_try() } else { Ok(()) }
    }

    fn state_changed(&self, registers: &[u32]) -> KeyError {
        let list: Vec<String> = registers.iter().map(u32::to_string).collect();
        let which = if list.is_empty() { String::new() } else { format!(" (register {})", list.join(", ")) };
        KeyError::StateChanged {
            provider: self.called.clone(),
            cause: format!("the machine's measured state has changed since the key was sealed{which}"),
        }
    }

    fn unseal_under(
        &mut self,
        parent: &Parent,
        seal: &Seal,
        pin: impl FnOnce(&str) -> Result<Secret, KeyError>,
    ) -> Result<Secret, KeyError> {
        if parent.name != seal.parent {
            return Err(codes::foreign(&self.called));
        }
        let params = Params::default().sized(&seal.private).sized(&seal.public);
        let loaded = self.run(LOAD, &[(parent.handle, &parent.name)], params, Auth::Empty, true)?;
        let mut name = SHA256.to_be_bytes().to_vec();
        name.extend(Sha256::digest(&seal.public));
        let opened = self.session(parent, SE_POLICY).and_then(|mut session| {
            let opened = self.unseal_loaded((loaded.handle, &name), &mut session, seal, pin);
            if opened.is_err() {
                self.flush(session.handle);
            }
            opened
        });
        self.flush(loaded.handle);
        opened
    }

    fn unseal_loaded(
        &mut self,
        object: (u32, &[u8]),
        session: &mut Session,
        seal: &Seal,
        pin: impl FnOnce(&str) -> Result<Secret, KeyError>,
    ) -> Result<Secret, KeyError> {
        let auth = if seal.pin { auth_value(&pin(&self.called)?) } else { Zeroizing::default() };
        let handle = [(session.handle, &[][..])];
        let params = Params::default().u16(0).raw(&seal.pcrs.selection());
        self.run(POLICY_PCR, &handle, params, Auth::None, false)?;
        if seal.pin {
            self.run(POLICY_AUTH_VALUE, &handle, Params::default(), Auth::None, false)?;
        }
        let mut answer =
            self.run(UNSEAL, &[object], Params::default(), Auth::Session(session, &auth, ENCRYPT), false)?;
        let len = Reader(&answer.params).u16().map_or(0, usize::from);
        let odd = self.odd(&UNSEAL);
        answer.params.get_mut(2..2 + len).map(Secret::take).ok_or(odd)
    }
}

/// The point of an ECC key's TPMT_PUBLIC (part 2, 12.2.4), uncompressed; `None` where it is another kind of key.
fn public_point(public: &[u8]) -> Option<Point> {
    let mut r = Reader(public);
    let (kind, hash, _, _) = (r.u16()?, r.u16()?, r.u32()?, r.sized()?);
    // The symmetric algorithm with size and mode, scheme, curve, derivation.
    let rest = (r.u16()?, r.u16()?, r.u16()?, r.u16()?, r.u16()?, r.u16()?);
    let known =
        (kind, hash) == (ALG_ECC, SHA256) && rest == (ALG_AES, 128, ALG_CFB, ALG_NULL, P256, ALG_NULL);
    let (x, y) = (r.sized()?, r.sized()?);
    if !known || !r.is_empty() || x.len() > 32 || y.len() > 32 {
        return None;
    }
    let mut point = [0; 65];
    point[0] = 4;
    point[33 - x.len()..33].copy_from_slice(x);
    point[65 - y.len()..].copy_from_slice(y);
    Some(point)
}

/// A PIN as a value of authorisation, which has at most 32 bytes, and loses zeroes at its end in the TPM (part 1, 19.6.4.3).
fn auth_value(pin: &Secret) -> Zeroizing<Vec<u8>> {
    let mut hash = Sha256::new();
    hash.update(b"caisson tpm pin v1");
    hash.update(pin.expose());
    let mut value = Zeroizing::new(hash.finalize().to_vec());
    while value.last() == Some(&0) {
        value.pop();
    }
    value
}
