//! The target's side: a key provider that asks the service.
//!
//! Owns one connection for each call, so that a service that was started again is found again. It must never send a secret to a
//! service that another user runs.

use crate::wire::{Answer, MAX_FRAME, Request, frame_len};
use caisson_keys::{Context, KeyError, KeyProvider, KeyUri, ProviderStatus, Reason, Scheme, Secret, Wrapped};
use rustix::net::sockopt::socket_peercred;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The provider's name, as pools remember it.
pub const NAME: &str = Scheme::Kms.name();

/// How long the service may take for one call: as long as the slowest provider behind it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A provider in a key service.
pub struct Remote {
    called: String,
    key: String,
    socket: String,
    /// The user that runs it, beside root and this one.
    uid: Option<u32>,
}

impl Remote {
    /// The provider that `uri` names (`kms:key=NAME?socket=PATH`). Nothing is asked yet.
    ///
    /// # Errors
    /// [`KeyError::BadUri`].
    pub fn open(uri: &KeyUri) -> Result<Remote, KeyError> {
        let (key, socket) = (uri.required("key")?.to_string(), uri.required("socket")?.to_string());
        let uid = uri.query("uid").map(str::parse).transpose().map_err(|_| KeyError::BadUri {
            uri: uri.to_string(),
            cause: "`uid` is no number of a user".into(),
            remedy: "write the number that `id -u USER` prints".into(),
        })?;
        Ok(Remote { called: format!("{NAME} {key} at {socket}"), key, socket, uid })
    }

    fn away(&self, e: &io::Error) -> KeyError {
        let provider = self.called.clone();
        match e.kind() {
            ErrorKind::PermissionDenied => KeyError::Refused {
                provider,
                cause: "this user may not open its socket".into(),
                remedy: "run the target as the user that owns the socket: the service gives it to the first of --allow-uid".into(),
            },
            ErrorKind::InvalidData => KeyError::Refused {
                provider,
                cause: "what answers there does not speak the key service's protocol".into(),
                remedy: "name the socket of `caisson kms serve`, of the same version".into(),
            },
            _ => KeyError::Unavailable { provider, cause: e.to_string() },
        }
    }

    fn ask(&self, request: Request) -> Result<Answer, KeyError> {
        let away = |e: io::Error| self.away(&e);
        let mut stream = UnixStream::connect(&self.socket).map_err(away)?;
        let peer = socket_peercred(&stream).map_err(|e| away(e.into()))?.uid.as_raw();
        if peer != 0 && peer != rustix::process::geteuid().as_raw() && Some(peer) != self.uid {
            return Err(KeyError::Refused {
                provider: self.called.clone(),
                cause: format!("user {peer} runs it, and was not named"),
                remedy: format!("see who that is; where it is right, add uid={peer} to what names the key"),
            });
        }
        stream.set_read_timeout(Some(PATIENCE)).map_err(away)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(away)?;
        stream.write_all(request.encode().expose()).map_err(away)?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).map_err(away)?;
        let odd = || away(ErrorKind::InvalidData.into());
        let len = frame_len(head).ok_or_else(odd)?;
        debug_assert!(len <= MAX_FRAME);
        let frame = Secret::filled(len, |out| stream.read_exact(out)).map_err(away)?;
        match Answer::decode(frame.expose()).ok_or_else(odd)? {
            Answer::Error(e) => Err(e),
            answer => Ok(answer),
        }
    }

    fn end(&self, request: Request) -> Result<(), KeyError> {
        match self.ask(request)? {
            Answer::Ended => Ok(()),
            _ => self.odd(),
        }
    }

    fn odd<T>(&self) -> Result<T, KeyError> {
        Err(self.away(&ErrorKind::InvalidData.into()))
    }
}

impl KeyProvider for Remote {
    fn name(&self) -> &str {
        NAME
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        let copy = Secret::filled(secret.len(), |out| {
            out.copy_from_slice(secret.expose());
            Ok::<(), KeyError>(())
        })?;
        match self.ask(Request::Wrap(self.key.clone(), *context, copy))? {
            Answer::Wrapped(wrapped) => Ok(wrapped),
            _ => self.odd(),
        }
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        match self.ask(Request::Unwrap(self.key.clone(), *context, wrapped.clone()))? {
            Answer::Secret(secret) => Ok(secret),
            _ => self.odd(),
        }
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        match self.ask(Request::Roots(self.key.clone()))? {
            Answer::Roots(roots) => Ok(roots),
            _ => self.odd(),
        }
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        match self.ask(Request::AddRoot(self.key.clone()))? {
            Answer::Root(root) => Ok(root),
            _ => self.odd(),
        }
    }

    /// Where the service was told that this user may.
    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        self.end(Request::Destroy(self.key.clone(), root.into()))
    }

    fn revoke(&mut self, root: &str, why: Reason) -> Result<(), KeyError> {
        self.end(Request::Revoke(self.key.clone(), root.into(), why))
    }

    fn status(&self) -> ProviderStatus {
        match self.ask(Request::Status(self.key.clone())) {
            Ok(Answer::Status(status)) => status,
            Ok(_) => ProviderStatus::Unavailable { cause: format!("{} gave another answer", self.called) },
            Err(e) if e.may_pass() => ProviderStatus::Unavailable { cause: e.to_string() },
            Err(e) => ProviderStatus::Locked { remedy: format!("{e}; {}", e.remedy()) },
        }
    }
}
