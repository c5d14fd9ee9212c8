//! PyKMIP servers for tests: started on ports of their own, with certificates of their own, and ended with the test.

#![allow(dead_code, reason = "each test uses some of it")]

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The folder of the project; this file is part of the tests of several of its crates.
fn project() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().find(|dir| dir.join("kms/kmip").is_dir()).expect("the project's folder")
}

/// Where tools/setup installs PyKMIP.
fn python() -> PathBuf {
    let path = project().join("build/pykmip/bin/python");
    assert!(path.exists(), "there is no {} (tools/setup test makes it)", path.display());
    path
}

fn script(name: &str) -> PathBuf {
    project().join("kms/kmip/tests/pykmip").join(name)
}

/// A folder with certificates, and the keys of its servers.
pub struct Site(pub PathBuf);

impl Site {
    pub fn new(name: &str) -> Site {
        // Two of one name in a process have two folders.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("caisson-kmip-{name}-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("policies")).unwrap();
        let made = Command::new(python()).arg(script("pki.py")).arg(&dir).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        Site(dir)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The URI of the key `object` at these servers, for `client`.
    pub fn uri(&self, servers: &[u16], object: &str, client: &str) -> caisson_keys::KeyUri {
        let servers: String = servers.iter().map(|p| format!("server=127.0.0.1:{p}&")).collect();
        let (ca, cert, key) =
            (self.path("ca.pem"), self.path(&format!("{client}.pem")), self.path(&format!("{client}.key")));
        format!("kmip:object={object}?{servers}ca={ca}&cert={cert}&key={key}&timeout=20").parse().unwrap()
    }

    /// Starts a server that has the certificate `cert`; with `only`, of that version alone. All of a site share their keys.
    pub fn server(&self, cert: &str, only: Option<&str>) -> Server {
        self.server_at(free_port(), cert, only)
    }

    /// The same, at this port.
    pub fn server_at(&self, port: u16, cert: &str, only: Option<&str>) -> Server {
        let config = self.path(&format!("{port}.conf"));
        let text = format!(
            "[server]\nhostname=127.0.0.1\nport={port}\ncertificate_path={}\nkey_path={}\nca_path={}\nauth_suite=TLS1.2\n\
             policy_path={}\nenable_tls_client_auth=True\ndatabase_path={}\nlogging_level=INFO\n\
             tls_cipher_suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\n",
            self.path(&format!("{cert}.pem")),
            self.path(&format!("{cert}.key")),
            self.path("ca.pem"),
            self.path("policies"),
            self.path("keys.db"),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(python());
        command.arg(script("serve.py")).args(["-f", &config, "-l", &self.path(&format!("{port}.log"))]);
        if let Some(only) = only {
            command.env("KMIP_ONLY", only);
        }
        // It has processes of its own, which are ended with it.
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server { child, port };
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let listens = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            // One that found the port taken ends: then it is another's that listens.
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended: {}", self.log(port));
            if listens {
                break;
            }
            assert!(Instant::now() < end, "the server does not listen: {}", self.log(port));
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn log(&self, port: u16) -> String {
        std::fs::read_to_string(self.path(&format!("{port}.log"))).unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that nobody listens on now, and that no other test was given, of this process or of another: a server takes a second to listen,
/// and until then a second one could be given the port, whose client then met a server with certificates of another site. Below those that
/// the system gives to outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(64).wrapping_add(n) % 12_000) as u16;
        // Held until this process ends.
        let lock = std::env::temp_dir().join(format!("caisson-test-port-{port}"));
        let Ok(file) = File::create(lock) else { continue };
        let own = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if own && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            HELD.lock().unwrap().push(file);
            return port;
        }
    }
}

/// A running server.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let kill = format!("kill -9 -{}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).status();
        let _ = self.child.wait();
    }
}
