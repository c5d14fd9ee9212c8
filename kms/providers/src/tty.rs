//! Asking a person at the terminal.
//!
//! Owns switching the echo off and back on again, also when the person gives up with ^C. It must never read a passphrase from
//! anything but the terminal itself: standard input may be a pipe.

use crate::passphrase::{Ask, MAX_PASSPHRASE, PassphraseError, accept};
use caisson_keys::Secret;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read, Write};
use zeroize::Zeroize;

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;

/// The terminal that the program was started from, whatever its standard input is.
fn terminal() -> std::io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

/// Whether there is one.
pub fn there_is_one() -> bool {
    terminal().is_ok()
}

/// Asks at the terminal; twice where something is created.
pub fn prompt(ask: Ask<'_>) -> Result<Secret, PassphraseError> {
    prompt_at(&mut terminal().map_err(failed)?, ask)
}

fn prompt_at(tty: &mut File, ask: Ask<'_>) -> Result<Secret, PassphraseError> {
    match ask {
        Ask::Pin(token) => question(tty, &format!("PIN for {token}: ")),
        Ask::Open(path) => question(tty, &format!("Passphrase for {}: ", path.display())),
        Ask::Create(path) => {
            let first = question(tty, &format!("New passphrase for {}: ", path.display()))?;
            let second = question(tty, "The same again: ")?;
            if first == second { Ok(first) } else { Err(PassphraseError::Differ) }
        }
    }
}

/// Switches the echo back on when dropped.
struct Quiet<'a> {
    tty: &'a File,
    before: Termios,
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.tty, OptionalActions::Flush, &self.before);
    }
}

fn question(tty: &mut File, text: &str) -> Result<Secret, PassphraseError> {
    let mut keyboard = tty.try_clone().map_err(failed)?;
    let before = tcgetattr(&*tty).map_err(failed)?;
    let mut quiet = before.clone();
    // Without signals, ^C arrives as a character, and as one that ends a line: so the echo comes back before the program ends.
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG);
    quiet.local_modes.insert(LocalModes::ICANON);
    quiet.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
    tcsetattr(&*tty, OptionalActions::Flush, &quiet).map_err(failed)?;
    let line = {
        let _quiet = Quiet { tty, before };
        let asked = (&*tty).write_all(text.as_bytes()).map_err(failed);
        asked.and_then(|()| read_line(&mut keyboard))
    };
    let _ = tty.write_all(b"\n");
    line.and_then(|bytes| accept(bytes, "the terminal".into()))
}

fn read_line(keyboard: &mut File) -> Result<Vec<u8>, PassphraseError> {
    let mut line = vec![0; MAX_PASSPHRASE + 2];
    let mut len = 0;
    let result = loop {
        match keyboard.read(&mut line[len..]) {
            Ok(0) => break Err(PassphraseError::Cancelled),
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => break Err(failed(e)),
        }
        match line[len.saturating_sub(1)] {
            CTRL_C | CTRL_D => break Err(PassphraseError::Cancelled),
            b'\n' => break Ok(()),
            _ if len == line.len() => break Err(PassphraseError::TooLong { from: "the terminal".into() }),
            _ => {}
        }
    };
    if result.is_err() {
        line.zeroize();
    }
    result.map(|()| {
        line.truncate(len - 1);
        line
    })
}

fn failed(e: impl ToString) -> PassphraseError {
    PassphraseError::Terminal { cause: e.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::path::Path;

    /// A terminal, and the hands and eyes of who sits at it.
    fn pair() -> (File, File) {
        let hands = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&hands).unwrap();
        unlockpt(&hands).unwrap();
        let name = ptsname(&hands, Vec::new()).unwrap();
        let tty = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        (hands.into(), tty.into())
    }

    /// Waits for each prompt, types an answer, and gives the result with all that was seen.
    fn sit(ask: Ask<'static>, answers: &[&[u8]]) -> (Result<Secret, PassphraseError>, String) {
        let (mut hands, mut tty) = pair();
        let echo = |tty: &File| tcgetattr(tty).unwrap().local_modes.contains(LocalModes::ECHO);
        assert!(echo(&tty));
        let asking = std::thread::spawn(move || {
            let result = prompt_at(&mut tty, ask);
            assert!(echo(&tty), "the echo is on again");
            result
        });
        let mut seen = String::new();
        for answer in answers {
            let from = seen.len();
            while !seen[from..].contains(": ") {
                let mut some = [0; 256];
                let n = hands.read(&mut some).unwrap();
                seen += std::str::from_utf8(&some[..n]).unwrap();
            }
            hands.write_all(answer).unwrap();
        }
        (asking.join().unwrap(), seen)
    }

    #[test]
    fn one_question_to_open() {
        let (result, seen) = sit(Ask::Open(Path::new("/k")), &[b"open sesame\n"]);
        assert_eq!(result.unwrap().expose(), b"open sesame");
        assert_eq!(seen, "Passphrase for /k: ");
    }

    #[test]
    fn two_to_create_and_they_must_agree() {
        let (result, seen) = sit(Ask::Create(Path::new("/k")), &[b"one\x7fe two\n", b"one two\n"]);
        assert_eq!(result.unwrap().expose(), b"one two");
        assert!(seen.contains("New passphrase for /k: ") && seen.contains("The same again: "), "{seen}");
        assert!(!seen.contains("two"), "no echo: {seen}");
        let (result, _) = sit(Ask::Create(Path::new("/k")), &[b"one\n", b"other\n"]);
        assert_eq!(result.unwrap_err(), PassphraseError::Differ);
    }

    #[test]
    fn giving_up_and_nothing_are_errors() {
        let ask = Ask::Open(Path::new("/k"));
        assert_eq!(sit(ask, &[b"hal\x03"]).0.unwrap_err(), PassphraseError::Cancelled);
        assert_eq!(sit(ask, &[b"\x04"]).0.unwrap_err(), PassphraseError::Cancelled);
        assert!(matches!(sit(ask, &[b"\n"]).0.unwrap_err(), PassphraseError::Empty { .. }));
    }
}
