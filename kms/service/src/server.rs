//! The service's side: providers, and who may ask them.
//!
//! Owns the socket, judging who connects, the opened providers, and the bounds: connections at once, the time one may be silent, the
//! length of what it says. It must never try a secret again that was wrong: what opens a provider is tried at the start, and after
//! that only where the provider was away. Nor may it end a root key for a user that was not named for that: whoever may ask parses what
//! hosts send, and one that was taken over could then destroy what pools need.

use crate::wire::{Answer, Request, frame_len};
use caisson_keys::{KeyError, KeyProvider, KeyUri, Secret};
use rustix::net::sockopt::socket_peercred;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections at once; a target has one for each call.
const CONNECTIONS: usize = 16;

/// How long a connection may say nothing, or not take what it is told.
const SILENCE: Duration = Duration::from_secs(5);

/// How a provider is opened.
pub type Open = dyn Fn(&KeyUri) -> Result<Box<dyn KeyProvider>, KeyError> + Send + Sync;

/// What was asked, for the record.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The operation.
    pub op: &'static str,
    /// The pool in whose name.
    pub pool: Option<[u8; 16]>,
    /// With which provider, by whom, and what came of it.
    pub what: &'a str,
    /// Whether it was done; false for what is about to be.
    pub done: bool,
}

/// Where it is recorded. Where that fails nothing is done.
pub type Record = dyn Fn(&Asked<'_>) -> Result<(), String> + Send + Sync;

/// Who may ask, by the kernel's word for who it is.
#[derive(Clone, Debug, Default)]
pub struct Users {
    /// Those that may ask; the first owns the socket.
    pub ask: Vec<u32>,
    /// Those of them that may end root keys, too.
    pub end: Vec<u32>,
}

enum Held {
    Open(Box<dyn KeyProvider>),
    Not(KeyError),
}

/// A service that listens.
pub struct Server {
    listener: UnixListener,
    inner: Arc<Inner>,
}

struct Inner {
    users: Users,
    keys: BTreeMap<String, (KeyUri, Mutex<Held>)>,
    open: Box<Open>,
    record: Box<Record>,
    connections: AtomicUsize,
}

impl Server {
    /// Opens the providers of these names, and listens at `socket`, which only its owner may open.
    ///
    /// # Errors
    /// A provider's, but where it is only away; then it is opened when it is asked. The system's.
    pub fn start(
        socket: &Path,
        users: Users,
        keys: Vec<(String, KeyUri)>,
        open: Box<Open>,
        record: Box<Record>,
    ) -> Result<Server, KeyError> {
        let mut held = BTreeMap::new();
        for (name, uri) in keys {
            let opened = match open(&uri) {
                Ok(provider) => Held::Open(provider),
                Err(e) if e.may_pass() => Held::Not(e),
                Err(e) => return Err(e),
            };
            held.insert(name, (uri, Mutex::new(opened)));
        }
        let listener = listen(socket, users.ask.first().copied()).map_err(|e| KeyError::Local {
            provider: "kms".into(),
            cause: format!("{} cannot be listened at: {e}", socket.display()),
            remedy: "check the path, its folder and the permissions, and that no other service has it".into(),
        })?;
        let connections = AtomicUsize::new(0);
        Ok(Server { listener, inner: Arc::new(Inner { users, keys: held, open, record, connections }) })
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// The system's, where nobody can connect any more.
    pub fn run(&self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(e) => return Err(e),
            };
            let inner = Arc::clone(&self.inner);
            if inner.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                // Closed as it comes: who asked tries again with its own back-off.
                inner.connections.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            std::thread::spawn(move || {
                // What went wrong with one connection is its own.
                let _ = inner.serve(stream);
                inner.connections.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

/// Binds a socket that is private before anybody can connect, over one that nobody listens at any more.
fn listen(socket: &Path, owner: Option<u32>) -> io::Result<UnixListener> {
    if UnixStream::connect(socket).is_ok() {
        return Err(ErrorKind::AddrInUse.into());
    }
    if std::fs::symlink_metadata(socket)
        .is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_socket(&m.file_type()))
    {
        std::fs::remove_file(socket)?;
    }
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    rustix::process::umask(mask);
    let listener = listener?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600))?;
    if let Some(uid) = owner.filter(|uid| *uid != rustix::process::geteuid().as_raw()) {
        std::os::unix::fs::chown(socket, Some(uid), None)?;
    }
    Ok(listener)
}

impl Inner {
    fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let uid = socket_peercred(&stream)?.uid.as_raw();
        if !self.users.ask.contains(&uid) {
            let refused = format!("user {uid} is not allowed to ask");
            // Recorded as well as it can be: nothing is done either way.
            let _ = (self.record)(&Asked { op: "refused", pool: None, what: &refused, done: false });
            let e = KeyError::Refused {
                provider: "kms".into(),
                cause: refused,
                remedy: format!("let the service know of the target's user: --allow-uid {uid}"),
            };
            return stream.write_all(Answer::Error(e).encode().expose());
        }
        loop {
            let mut head = [0; 4];
            stream.read_exact(&mut head)?;
            let len = frame_len(head).ok_or(ErrorKind::InvalidData)?;
            let frame = Secret::filled(len, |out| stream.read_exact(out))?;
            let request = Request::decode(frame.expose()).ok_or(ErrorKind::InvalidData)?;
            drop(frame);
            let answer = self.answer(request, uid).unwrap_or_else(Answer::Error);
            stream.write_all(answer.encode().expose())?;
        }
    }

    fn answer(&self, request: Request, uid: u32) -> Result<Answer, KeyError> {
        let Some((uri, held)) = self.keys.get(request.key()) else {
            let short: String = request.key().chars().take(64).collect();
            return Err(KeyError::NoSuchToken {
                provider: "kms".into(),
                token: short,
                found: self.keys.keys().cloned().collect::<Vec<_>>().join(", "),
            });
        };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let key = request.key().to_string();
        if let Request::Revoke(_, root, _) | Request::Destroy(_, root) = &request {
            self.may_end(uid, &key, root)?;
        }
        let provider = self.opened(uri, &mut held)?;
        let what = format!("{key}, for user {uid}");
        let told = |op, pool, result: &Result<Answer, KeyError>| {
            let what = match result {
                Ok(_) => what.clone(),
                Err(e) => format!("failed: {what}: {e}"),
            };
            self.recorded(&Asked { op, pool, what: &what, done: result.is_ok() })
        };
        match request {
            Request::Status(_) => Ok(Answer::Status(provider.status())),
            Request::Roots(_) => provider.roots().map(Answer::Roots),
            Request::AddRoot(_) => {
                // What changes keys is recorded before it is done.
                let begins = format!("begins: {what}");
                self.recorded(&Asked { op: "add-root", pool: None, what: &begins, done: false })?;
                let made = provider.add_root().map(Answer::Root);
                told("add-root", None, &made)?;
                made
            }
            Request::Wrap(_, context, secret) => {
                let wrapped = provider.wrap(&secret, &context).map(Answer::Wrapped);
                told("wrap", Some(context.pool), &wrapped)?;
                wrapped
            }
            Request::Unwrap(_, context, wrapped) => {
                let secret = provider.unwrap(&wrapped, &context).map(Answer::Secret);
                // Before the secret is given out.
                told("unwrap", Some(context.pool), &secret)?;
                secret
            }
            Request::Revoke(_, root, why) => {
                let what = format!("{what}: root key {root}, {why:?}");
                self.ended("revoke-root", &what, || provider.revoke(&root, why))
            }
            Request::Destroy(_, root) => {
                self.ended("destroy-root", &format!("{what}: root key {root}"), || provider.destroy(&root))
            }
        }
    }

    /// Whether this user may end root keys.
    fn may_end(&self, uid: u32, key: &str, root: &str) -> Result<(), KeyError> {
        if self.users.end.contains(&uid) {
            return Ok(());
        }
        let cause = format!("user {uid} may not end root keys");
        let what = format!("{cause}: {key}, root key {root}");
        let _ = (self.record)(&Asked { op: "refused", pool: None, what: &what, done: false });
        Err(KeyError::Refused {
            provider: "kms".into(),
            cause,
            remedy: format!(
                "end it in the key manager behind the service, with its own means; or start the service with --allow-end {uid} for as long as it takes"
            ),
        })
    }

    /// Ends a root key, recorded before and after.
    fn ended(
        &self,
        op: &'static str,
        what: &str,
        end: impl FnOnce() -> Result<(), KeyError>,
    ) -> Result<Answer, KeyError> {
        self.recorded(&Asked { op, pool: None, what: &format!("begins: {what}"), done: false })?;
        let ended = end();
        let said = match &ended {
            Ok(()) => what.to_owned(),
            Err(e) => format!("failed: {what}: {e}"),
        };
        // It is done or not, whatever becomes of the record.
        let told = self.recorded(&Asked { op, pool: None, what: &said, done: ended.is_ok() });
        ended.and(told).map(|()| Answer::Ended)
    }

    fn recorded(&self, asked: &Asked<'_>) -> Result<(), KeyError> {
        (self.record)(asked).map_err(|cause| KeyError::Local {
            provider: "kms".into(),
            cause: format!("the operation cannot be recorded: {cause}"),
            remedy: "check the folder of the service's audit log, and that there is room".into(),
        })
    }

    /// The provider, opened now where it was away before.
    fn opened<'a>(
        &self,
        uri: &KeyUri,
        held: &'a mut MutexGuard<'_, Held>,
    ) -> Result<&'a mut Box<dyn KeyProvider>, KeyError> {
        if let Held::Not(e) = &**held {
            if !e.may_pass() {
                return Err(e.clone());
            }
            match (self.open)(uri) {
                Ok(provider) => **held = Held::Open(provider),
                Err(e) => {
                    **held = Held::Not(e.clone());
                    return Err(e);
                }
            }
        }
        match &mut **held {
            Held::Open(provider) => Ok(provider),
            Held::Not(e) => Err(e.clone()),
        }
    }
}
