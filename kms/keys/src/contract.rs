//! What every key provider must do, as a check that its own tests run.
//!
//! Owns the contract of [`KeyProvider`] in executable form. It must never be called with keys that matter: it wraps
//! values of its own.

use crate::{Context, KeyError, KeyProvider, ProviderStatus, Purpose, Secret, Wrapped};

/// Runs a ready `provider` through its contract; the error says which rule was broken.
pub fn check(provider: &dyn KeyProvider) -> Result<(), String> {
    let context = Context { purpose: Purpose::Domain, pool: [0x5a; 16], domain: 7, epoch: 3 };
    if provider.name().is_empty() {
        return Err("a provider has a name".into());
    }
    if provider.status() != ProviderStatus::Ready {
        return Err(format!("the provider is not ready: {:?}", provider.status()));
    }
    for len in [32, 64] {
        let secret = sample(len);
        let wrapped = provider.wrap(&secret, &context).map_err(|e| format!("wrapping {len} bytes: {e}"))?;
        if wrapped.blob.windows(len).any(|w| w == secret.expose()) {
            return Err("the blob holds the secret in the clear".into());
        }
        let back = provider.unwrap(&wrapped, &context).map_err(|e| format!("unwrapping {len} bytes: {e}"))?;
        if back != secret {
            return Err(format!("{len} bytes came back changed"));
        }
        refuses_other_contexts(provider, &wrapped, &context)?;
        refuses_changes(provider, &wrapped, &context)?;
    }
    Ok(())
}

fn sample(len: usize) -> Secret {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(73) ^ 0xc3).collect();
    Secret::take(&mut bytes)
}

fn refuses_other_contexts(
    provider: &dyn KeyProvider,
    wrapped: &Wrapped,
    context: &Context,
) -> Result<(), String> {
    for other in [
        Context { purpose: Purpose::Map, ..*context },
        Context { pool: [0x5b; 16], ..*context },
        Context { domain: context.domain + 1, ..*context },
        Context { epoch: context.epoch + 1, ..*context },
    ] {
        match provider.unwrap(wrapped, &other) {
            Err(KeyError::NotAuthentic) => {}
            other_result => return Err(format!("under {other:?}: {other_result:?}, not NotAuthentic")),
        }
    }
    Ok(())
}

fn refuses_changes(provider: &dyn KeyProvider, wrapped: &Wrapped, context: &Context) -> Result<(), String> {
    let mut changed: Vec<Vec<u8>> = (0..wrapped.blob.len())
        .map(|at| {
            let mut blob = wrapped.blob.clone();
            blob[at] ^= 1;
            blob
        })
        .collect();
    changed.push(wrapped.blob[..wrapped.blob.len().saturating_sub(1)].to_vec());
    changed.push([&wrapped.blob[..], &[0]].concat());
    changed.push(Vec::new());
    for blob in changed {
        let len = blob.len();
        match provider.unwrap(&Wrapped { blob, ..wrapped.clone() }, context) {
            Err(KeyError::NotAuthentic) => {}
            result => return Err(format!("a changed blob of {len} bytes: {result:?}, not NotAuthentic")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Mutex;

    /// A token in miniature: it keeps the secrets itself and gives out handles. `flaw` breaks one rule of the contract.
    struct Token {
        flaw: Flaw,
        kept: Mutex<HashMap<Vec<u8>, Kept>>,
    }

    type Kept = (Context, Vec<u8>);

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Flaw {
        None,
        Clear,
        IgnoresContext,
        IgnoresTail,
        Locked,
    }

    impl Token {
        fn new(flaw: Flaw) -> Token {
            Token { flaw, kept: Mutex::default() }
        }
    }

    impl KeyProvider for Token {
        fn name(&self) -> &str {
            "token"
        }

        fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
            let mut kept = self.kept.lock().unwrap();
            let blob = match self.flaw {
                Flaw::Clear => secret.expose().to_vec(),
                // Far apart, so that a changed handle is nobody else's.
                _ => format!("handle {:08x}", (kept.len() as u32 + 1).wrapping_mul(0x9e37_79b9)).into_bytes(),
            };
            kept.insert(blob.clone(), (*context, secret.expose().to_vec()));
            Ok(Wrapped { root: "root".into(), blob })
        }

        fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
            let kept = self.kept.lock().unwrap();
            let cut = match self.flaw {
                Flaw::IgnoresTail => wrapped.blob.len().min(15),
                _ => wrapped.blob.len(),
            };
            let (bound, bytes) = kept.get(&wrapped.blob[..cut]).ok_or(KeyError::NotAuthentic)?;
            if bound != context && self.flaw != Flaw::IgnoresContext {
                return Err(KeyError::NotAuthentic);
            }
            Ok(Secret::take(&mut bytes.clone()))
        }

        fn roots(&self) -> Result<Vec<String>, KeyError> {
            Ok(vec!["root".into()])
        }

        fn add_root(&mut self) -> Result<String, KeyError> {
            Ok("root".into())
        }

        fn status(&self) -> ProviderStatus {
            match self.flaw {
                Flaw::Locked => ProviderStatus::Locked { remedy: "enter the PIN".into() },
                _ => ProviderStatus::Ready,
            }
        }
    }

    #[test]
    fn a_sound_provider_passes_and_each_flaw_is_found() {
        assert_eq!(check(&Token::new(Flaw::None)), Ok(()));
        for (flaw, says) in [
            (Flaw::Clear, "in the clear"),
            (Flaw::IgnoresContext, "under Context"),
            (Flaw::IgnoresTail, "a changed blob"),
            (Flaw::Locked, "not ready"),
        ] {
            let error = check(&Token::new(flaw)).unwrap_err();
            assert!(error.contains(says), "{flaw:?}: {error}");
        }
    }

    #[test]
    fn errors_say_what_to_do_and_which_may_pass() {
        let away = KeyError::Unavailable { provider: "kmip".into(), cause: "connection refused".into() };
        assert_eq!(away.to_string(), "key provider kmip does not answer: connection refused");
        assert!(away.may_pass());
        let (cause, remedy) = ("too many tries".to_string(), "wait 10 minutes".to_string());
        let locked = KeyError::Locked { provider: "tpm".into(), cause, remedy };
        assert_eq!(locked.remedy(), "wait 10 minutes");
        assert!(!locked.may_pass() && !KeyError::NotAuthentic.may_pass());
        let wrapped = Wrapped { root: "r".into(), blob: vec![1; 40] };
        assert_eq!(format!("{wrapped:?}"), "Wrapped(\"r\", 40 bytes)");
    }
}
