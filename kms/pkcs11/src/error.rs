//! What a token's refusals mean.
//!
//! Owns the one mapping from PKCS#11's return values to [`KeyError`]. Where a value may mean "away" and "no", it says "no": what
//! is said to pass is tried again by itself.

use caisson_keys::KeyError;
use cryptoki::error::{Error, RvError};

/// An error of a call on the token that `called` names.
pub fn of(called: &str, e: &Error) -> KeyError {
    let provider = called.to_string();
    let Error::Pkcs11(rv, function) = e else {
        return KeyError::Unsupported {
            provider,
            what: format!("do that: {e}"),
            remedy: "see that the module is the token's own, and of PKCS#11 2.40 or later".into(),
        };
    };
    let cause = format!("{function} gives {rv:?}");
    match rv {
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => KeyError::WrongSecret {
            provider,
            what: "PIN",
            remedy: "correct the PIN; it was tried once, and the token counts wrong ones".into(),
        },
        RvError::PinLocked => KeyError::Locked {
            provider,
            cause: "its PIN is locked after too many wrong ones".into(),
            remedy: "have the token's security officer set a new PIN, with the token's own tool".into(),
        },
        RvError::PinExpired | RvError::UserPinNotInitialized => KeyError::Locked {
            provider,
            cause: "its user PIN was never set, or has expired".into(),
            remedy: "set a user PIN with the token's own tool".into(),
        },
        RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::DeviceRemoved
        | RvError::DeviceError
        | RvError::DeviceMemory
        | RvError::SessionClosed
        | RvError::SessionHandleInvalid
        | RvError::SessionCount
        | RvError::SlotIdInvalid
        | RvError::HostMemory
        | RvError::CryptokiNotInitialized => KeyError::Unavailable { provider, cause },
        RvError::UserNotLoggedIn
        | RvError::KeyFunctionNotPermitted
        | RvError::TokenWriteProtected
        | RvError::SessionReadOnly
        | RvError::ActionProhibited
        | RvError::AttributeReadOnly => KeyError::Refused {
            provider,
            cause,
            remedy: "see that the token lets its user make and use AES keys (CKA_ENCRYPT, CKA_DECRYPT)"
                .into(),
        },
        RvError::MechanismInvalid | RvError::FunctionNotSupported | RvError::KeySizeRange => {
            KeyError::Unsupported {
                provider,
                what: format!("do that: {cause}"),
                remedy: "use a token that has AES-256 keys and CKM_AES_GCM".into(),
            }
        }
        _ => KeyError::Refused {
            provider,
            cause,
            remedy: "see the token's own log, and what its documentation says of this value".into(),
        },
    }
}

/// An error of C_Decrypt: tokens differ in what they say of a ciphertext that does not authenticate, down to
/// CKR_GENERAL_ERROR, so whatever does not say that the token is gone, or unwilling, says that.
pub fn of_decrypt(called: &str, e: &Error) -> KeyError {
    match of(called, e) {
        gone @ KeyError::Unavailable { .. } => gone,
        unwilling @ (KeyError::Unsupported { .. } | KeyError::Locked { .. }) => unwilling,
        refused @ KeyError::Refused { .. }
            if matches!(e, Error::Pkcs11(RvError::UserNotLoggedIn | RvError::KeyFunctionNotPermitted, _)) =>
        {
            refused
        }
        _ => KeyError::NotAuthentic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    fn rv(rv: RvError) -> Error {
        Error::Pkcs11(rv, Function::Login)
    }

    /// softhsm2 never locks a PIN, so what a token says then is put in its mouth here.
    #[test]
    fn each_refusal_is_its_own_error() {
        let said = |e: RvError| of("pkcs11 t", &rv(e));
        assert!(matches!(said(RvError::PinIncorrect), KeyError::WrongSecret { what: "PIN", .. }));
        assert!(matches!(said(RvError::PinLocked), KeyError::Locked { .. }));
        assert!(said(RvError::PinLocked).remedy().contains("security officer"));
        assert!(matches!(said(RvError::UserPinNotInitialized), KeyError::Locked { .. }));
        assert!(matches!(said(RvError::MechanismInvalid), KeyError::Unsupported { .. }));
        assert!(matches!(said(RvError::GeneralError), KeyError::Refused { .. }));
        for gone in [RvError::TokenNotPresent, RvError::DeviceRemoved, RvError::SessionHandleInvalid] {
            assert!(said(gone).may_pass());
            assert!(of_decrypt("t", &rv(gone)).may_pass());
        }
        for wrong in [RvError::PinIncorrect, RvError::PinLocked, RvError::GeneralError] {
            assert!(!said(wrong).may_pass(), "{wrong:?} is never tried again by itself");
        }
    }

    #[test]
    fn what_does_not_authenticate_is_no_reason_to_give_the_token_up() {
        for vague in [RvError::GeneralError, RvError::EncryptedDataInvalid, RvError::FunctionFailed] {
            assert_eq!(of_decrypt("t", &rv(vague)), KeyError::NotAuthentic);
        }
        assert!(matches!(of_decrypt("t", &rv(RvError::UserNotLoggedIn)), KeyError::Refused { .. }));
    }
}
