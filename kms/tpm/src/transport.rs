//! The way to a TPM: a device of the kernel, or a simulator's socket.
//!
//! Owns one exchange of bytes at a time, and the errors of getting there. It must never wait for an answer without a bound.

use crate::codes;
use crate::codes::AT_ONCE;
use crate::wire::{self, HEADER};
use caisson_keys::KeyError;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a TPM may take for one command: those that are asked for here take below a second, on slow ones some.
const PATIENCE: Duration = Duration::from_secs(60);

/// The device that goes through the kernel's resource manager, so that others may use the TPM as well.
const DEVICE: &str = "device:/dev/tpmrm0";

/// What a command that the TPM puts off waits before it is sent again: some 3 s in all.
const PAUSES_MS: [u64; 6] = [20, 50, 150, 400, 900, 1500];

/// A way to a TPM.
pub trait Transport: Send {
    /// Sends a command, and gives the response, a whole one by its header.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::InvalidData`] for what is no response.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

fn odd() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "what came back is no response of a TPM")
}

/// A character device gives a response in one read.
struct Device(std::fs::File);

impl Transport for Device {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut bytes = vec![0; wire::MAX_MESSAGE];
        let n = self.0.read(&mut bytes)?;
        bytes.truncate(n);
        let len = bytes.first_chunk::<HEADER>().and_then(wire::response_len);
        if len == Some(n) { Ok(bytes) } else { Err(odd()) }
    }
}

/// A stream gives it in pieces.
struct Stream<S>(S);

impl<S: Read + Write + Send> Transport for Stream<S> {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut header = [0; HEADER];
        self.0.read_exact(&mut header)?;
        let len = wire::response_len(&header).ok_or_else(odd)?;
        let mut bytes = header.to_vec();
        bytes.resize(len, 0);
        self.0.read_exact(&mut bytes[HEADER..])?;
        Ok(bytes)
    }
}

/// Goes to the TPM that `tcti` names, in the form of the TPM2 software stack: `device:PATH`, `swtpm:host=ADDRESS,port=N` or
/// `swtpm:path=SOCKET`; /dev/tpmrm0 where nothing is named. Gives what errors call it, too.
///
/// # Errors
/// [`KeyError::NotInstalled`] where there is none, [`KeyError::Refused`] where this user may not use it,
/// [`KeyError::Unavailable`] where it is busy, [`KeyError::BadUri`].
pub fn connect(tcti: Option<&str>) -> Result<(String, Box<dyn Transport>), KeyError> {
    let tcti = tcti.unwrap_or(DEVICE);
    let called = format!("{} {tcti}", crate::NAME);
    let fail = |e: io::Error| cannot_open(&called, &e);
    let bad = || {
        KeyError::BadUri {
        uri: called.clone(),
        cause: "`tcti` names no way to a TPM".into(),
        remedy: "write tcti=device:/dev/tpmrm0, or for swtpm tcti=swtpm:host=127.0.0.1,port=N or tcti=swtpm:path=SOCKET".into(),
    }
    };
    let (kind, rest) = tcti.split_once(':').ok_or_else(bad)?;
    let option = |name: &str| rest.split(',').find_map(|o| o.strip_prefix(name)?.strip_prefix('='));
    let way: Box<dyn Transport> = match (kind, option("path"), option("host"), option("port")) {
        ("device", ..) => {
            Box::new(Device(OpenOptions::new().read(true).write(true).open(rest).map_err(fail)?))
        }
        ("swtpm", Some(path), ..) => {
            let stream = UnixStream::connect(path).map_err(fail)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
            stream.set_write_timeout(Some(PATIENCE)).map_err(fail)?;
            Box::new(Stream(stream))
        }
        ("swtpm", None, host, Some(port)) => {
            let port: u16 = port.parse().map_err(|_| bad())?;
            let stream = TcpStream::connect((host.unwrap_or("127.0.0.1"), port)).map_err(fail)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
            stream.set_write_timeout(Some(PATIENCE)).map_err(fail)?;
            Box::new(Stream(stream))
        }
        _ => return Err(bad()),
    };
    Ok((called, Box::new(Patient(way))))
}

fn cannot_open(called: &str, e: &io::Error) -> KeyError {
    // A simulator is a program, which may be started yet; a device is there or not.
    let is_device = called.contains(" device:");
    let (provider, cause) = (called.to_string(), format!("it cannot be opened: {e}"));
    match e.kind() {
        ErrorKind::NotFound if is_device => KeyError::NotInstalled {
            provider,
            cause: "there is no TPM 2.0 here".into(),
            remedy: "switch the TPM on in the machine's firmware (it may be called fTPM, PTT or Security Device), see that there is a \
                     /dev/tpmrm0; or open the key file with its recovery passphrase: tcti=none"
                .into(),
        },
        ErrorKind::PermissionDenied => KeyError::Refused {
            provider,
            cause,
            remedy: "let the target's user use it: usermod -a -G tss USER, or run it as root".into(),
        },
        _ => KeyError::Unavailable { provider, cause },
    }
}

/// A way to a TPM that may put a command off: it is sent again a bounded number of times, with pauses. Anything else is given as it
/// is, a refusal too.
struct Patient(Box<dyn Transport>);

impl Transport for Patient {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        patiently(self.0.as_mut(), command)
    }
}

fn patiently(way: &mut dyn Transport, command: &[u8]) -> io::Result<Vec<u8>> {
    for pause in PAUSES_MS {
        let answer = way.exchange(command)?;
        let code = wire::response(&answer, false).map(|r| codes::plain(r.code));
        if !code.is_some_and(|c| AT_ONCE.contains(&c)) {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(pause));
    }
    way.exchange(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Params;

    #[test]
    fn what_names_no_tpm_and_one_that_is_not_there_are_told_apart() {
        for wrong in ["", "mssim", "device", "swtpm:host=a", "swtpm:port=x"] {
            assert!(matches!(connect(Some(wrong)), Err(KeyError::BadUri { .. })), "{wrong}");
        }
        let error = connect(Some("device:/nonexistent/tpm")).err().unwrap();
        assert!(matches!(&error, KeyError::NotInstalled { .. }), "{error}");
        assert!(error.remedy().contains("tcti=none"));
        assert!(connect(Some("swtpm:path=/nonexistent/s")).err().unwrap().may_pass());
    }

    struct PutsOff {
        times: usize,
        asked: usize,
    }

    impl Transport for PutsOff {
        fn exchange(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
            self.asked += 1;
            let code = if self.asked > self.times { 0x101 } else { 0x922 };
            Ok(Params::default().u16(wire::NO_SESSIONS).u32(10).u32(code).0)
        }
    }

    #[test]
    fn a_command_that_is_put_off_is_sent_again_a_few_times_and_a_refused_one_is_not() {
        let mut way = PutsOff { times: 2, asked: 0 };
        assert_eq!(wire::response(&patiently(&mut way, b"").unwrap(), false).unwrap().code, 0x101);
        assert_eq!(way.asked, 3);
        let mut way = PutsOff { times: usize::MAX, asked: 0 };
        assert_eq!(wire::response(&patiently(&mut way, b"").unwrap(), false).unwrap().code, 0x922);
        assert_eq!(way.asked, PAUSES_MS.len() + 1);
    }
}
