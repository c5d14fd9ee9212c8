//! What a TPM's refusals mean.
//!
//! Owns the one mapping from response codes (part 2, 6.6) to [`KeyError`]. What takes a person is never said to pass.

use caisson_keys::KeyError;

/// Failure of an authorisation that counts towards the lockout.
pub const AUTH_FAIL: u32 = 0x08e;
/// The same where it does not count.
pub const BAD_AUTH: u32 = 0x0a2;
/// A policy that does not hold.
pub const POLICY_FAIL: u32 = 0x09d;
/// Something that this TPM did not seal.
pub const INTEGRITY: u32 = 0x09f;
/// Locked out.
pub const LOCKOUT: u32 = 0x921;
/// Passes at once: yielded, testing, retry.
pub const AT_ONCE: [u32; 3] = [0x908, 0x90a, 0x922];
/// Passes when others are done: no room for objects or sessions, too many writes.
const BUSY: [u32; 7] = [0x902, 0x903, 0x904, 0x905, 0x906, 0x920, 0x923];

/// The code without the number of the handle, session or parameter that it is about, and without the layer that says it.
pub fn plain(code: u32) -> u32 {
    let code = code & 0xfff;
    if code & 0x080 != 0 { code & 0x0bf } else { code }
}

/// The error of a command that was refused. `called` names the TPM, `doing` the command.
pub fn of(called: &str, doing: &str, code: u32) -> KeyError {
    let provider = called.to_string();
    let cause = format!("{doing} gives {code:#05x}");
    match plain(code) {
        LOCKOUT => KeyError::LockedOut { provider, cause: "too many wrong values were tried".into(), seconds: 60 },
        AUTH_FAIL | BAD_AUTH if doing == "TPM2_CreatePrimary" => KeyError::Refused {
            provider,
            cause: "its owner hierarchy has an authorisation value".into(),
            remedy: "take it away (tpm2_changeauth -c owner -p OLD), as is usual where an operating system owns the TPM".into(),
        },
        AUTH_FAIL | BAD_AUTH => KeyError::WrongSecret {
            provider,
            what: "PIN",
            remedy: "correct the PIN; it was tried once, and the TPM counts wrong ones".into(),
        },
        POLICY_FAIL => KeyError::StateChanged { provider, cause },
        INTEGRITY => foreign(called),
        // Whatever else it finds wrong with an object's bytes (part 2, 6.6.2: such codes have bit 7).
        c if c & 0x080 != 0 && doing == "TPM2_Load" => foreign(called),
        c if AT_ONCE.contains(&c) || BUSY.contains(&c) => KeyError::Unavailable { provider, cause },
        0x100 | 0x130 => KeyError::Refused {
            provider,
            cause: format!("{cause}: it was not started, or wants a restart"),
            remedy: "restart the machine, so that its firmware starts the TPM".into(),
        },
        0x101 => KeyError::Refused {
            provider,
            cause: format!("{cause}: it is in failure mode"),
            remedy: "switch the machine off and on; where that does not help, the TPM is broken: open the key file with its recovery \
                     passphrase (tcti=none)"
                .into(),
        },
        _ => KeyError::Refused {
            provider,
            cause,
            remedy: "see what the code means (tpm2_rc_decode CODE), and that it is a TPM 2.0 with ECC on P-256".into(),
        },
    }
}

/// A seal that this TPM did not make, or does not know any more.
pub fn foreign(called: &str) -> KeyError {
    KeyError::Refused {
        provider: called.into(),
        cause: "this TPM did not make the seal: it is another one, or was cleared, or the seal's file was changed".into(),
        remedy: "seal it anew with the recovery passphrase: caisson key reseal --key URI".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_its_own_error() {
        let of = |doing, code| of("tpm2 device:/dev/tpmrm0", doing, code);
        // With the number of a session or parameter in it, and the layer of the kernel's resource manager.
        for code in [0x98e, 0x9a2, 0x000b_098e] {
            assert!(
                matches!(of("TPM2_Unseal", code), KeyError::WrongSecret { what: "PIN", .. }),
                "{code:#x}"
            );
            assert!(matches!(of("TPM2_CreatePrimary", code), KeyError::Refused { .. }));
        }
        assert!(matches!(of("TPM2_Unseal", 0x99d), KeyError::StateChanged { .. }));
        assert!(matches!(of("TPM2_Unseal", 0x921), KeyError::LockedOut { .. }));
        assert!(of("TPM2_Load", 0x1df).to_string().contains("did not make the seal"));
        assert!(of("TPM2_Load", 0x2d5).remedy().contains("reseal"));
        for passes in [0x902, 0x903, 0x922, 0x908, 0x90a] {
            assert!(of("TPM2_Load", passes).may_pass(), "{passes:#x}");
        }
        for person in [0x100, 0x101, 0x130, 0x98e, 0x99d, 0x1df, 0x143] {
            assert!(!of("TPM2_Unseal", person).may_pass(), "{person:#x}");
        }
        assert!(of("TPM2_Unseal", 0x101).remedy().contains("recovery passphrase"));
    }
}
