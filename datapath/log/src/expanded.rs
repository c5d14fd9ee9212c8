//! A cipher's expanded key in locked memory.
//!
//! Owns the only calls into AWS-LC that its safe crate does not offer: to set up an AEAD's context in memory of our own, which is not swapped
//! out, not dumped, and erased (`caisson_keys::LockedBytes`). What is computed, and how fast, is as with `aws_lc_rs::aead`, whose contexts
//! lie in ordinary memory. It must never move a context that was set up, nor show it.

use crate::aead::{Cipher, NONCE, Refused, TAG};
use aws_lc_sys::{
    EVP_AEAD_CTX, EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open_gather,
    EVP_AEAD_CTX_seal_scatter, EVP_aead_aes_256_gcm, EVP_aead_chacha20_poly1305,
};
use caisson_keys::LockedBytes;
use std::ptr::{null, null_mut};

/// Bytes of a key of either cipher.
const KEY: usize = 32;

// Cells of locked memory begin at multiples of 64 bytes.
const _: () = assert!(align_of::<EVP_AEAD_CTX>() <= 64);

/// An expanded key. Any number of threads use it at once.
pub(crate) struct Context(LockedBytes);

impl Context {
    pub(crate) fn new(cipher: Cipher, key: &[u8; KEY]) -> Context {
        let mut memory = LockedBytes::zeroes(size_of::<EVP_AEAD_CTX>());
        let at = memory.as_mut_ptr().cast::<EVP_AEAD_CTX>();
        debug_assert!(at.is_aligned());
        // SAFETY: `at` is as many zeroes as a context has bytes, aligned for one, and ours alone: what EVP_AEAD_CTX_zero makes. The key has the
        // length that is said. The memory is never moved while the context lives, and the context refers to nothing else.
        let done = unsafe {
            aws_lc_sys::init();
            let algorithm = match cipher {
                Cipher::ChaCha20Poly1305 => EVP_aead_chacha20_poly1305(),
                Cipher::Aes256Gcm => EVP_aead_aes_256_gcm(),
            };
            EVP_AEAD_CTX_init(at, algorithm, key.as_ptr(), KEY, TAG, null_mut())
        };
        assert_eq!(done, 1, "both ciphers take keys of 32 bytes and tags of 16");
        Context(memory)
    }

    fn context(&self) -> *const EVP_AEAD_CTX {
        self.0.as_ptr().cast()
    }

    /// Seals `plain` into `out`, which is [`TAG`] bytes longer.
    ///
    /// # Panics
    /// When the lengths do not agree, which callers have checked.
    #[inline]
    pub(crate) fn seal(&self, nonce: [u8; NONCE], aad: &[u8], plain: &[u8], out: &mut [u8]) {
        assert_eq!(out.len(), plain.len() + TAG, "lengths agree");
        let (body, tag) = out.split_at_mut(plain.len());
        let mut tag_len = 0;
        // SAFETY: the context was set up and only read here, as AWS-LC allows from any number of threads. `body` has as many bytes as `plain`,
        // and `tag` as many as are said; nothing overlaps, for `out` is borrowed alone.
        let done = unsafe {
            EVP_AEAD_CTX_seal_scatter(
                self.context(),
                body.as_mut_ptr(),
                tag.as_mut_ptr(),
                &raw mut tag_len,
                TAG,
                nonce.as_ptr(),
                NONCE,
                plain.as_ptr(),
                plain.len(),
                null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        assert!(done == 1 && tag_len == TAG, "lengths are far below the ciphers' limits");
    }

    /// Opens in place; the plaintext is the front of `sealed`. What was refused is left without meaning.
    #[inline]
    pub(crate) fn open<'a>(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Refused> {
        let len = sealed.len().checked_sub(TAG).ok_or(Refused)?;
        let (body, tag) = sealed.split_at_mut(len);
        let at = body.as_mut_ptr();
        // SAFETY: the context as in `seal`. In place means that input and output are the same `len` bytes, which AWS-LC allows; `tag` has TAG
        // bytes beside them.
        let done = unsafe { self.gather(at, nonce, (at.cast_const(), len), tag.as_ptr(), aad) };
        if done { Ok(body) } else { Err(Refused) }
    }

    /// Opens into `out`, which is [`TAG`] bytes shorter than `sealed`, and leaves `sealed` as it is.
    #[inline]
    pub(crate) fn open_into(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Refused> {
        let (body, tag) =
            sealed.split_at_checked(out.len()).filter(|(_, t)| t.len() == TAG).ok_or(Refused)?;
        // SAFETY: the context as in `seal`; `out` has as many bytes as `body` and overlaps nothing, and `tag` has TAG bytes.
        let done =
            unsafe { self.gather(out.as_mut_ptr(), nonce, (body.as_ptr(), body.len()), tag.as_ptr(), aad) };
        if done { Ok(()) } else { Err(Refused) }
    }

    /// Opens `from` to `to`; whether it authenticates.
    ///
    /// # Safety
    /// `from` is readable for its length, `to` writable for the same, and they are the same or do not overlap; `tag` is readable for [`TAG`]
    /// bytes that `to` does not overlap.
    unsafe fn gather(
        &self,
        to: *mut u8,
        nonce: [u8; NONCE],
        (from, len): (*const u8, usize),
        tag: *const u8,
        aad: &[u8],
    ) -> bool {
        // SAFETY: the caller's; the context was set up and is only read.
        let opened = unsafe {
            EVP_AEAD_CTX_open_gather(
                self.context(),
                to,
                nonce.as_ptr(),
                NONCE,
                from,
                len,
                tag,
                TAG,
                aad.as_ptr(),
                aad.len(),
            )
        };
        opened == 1
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was set up, and nobody uses it any more. The memory is erased and given back after this.
        unsafe { EVP_AEAD_CTX_cleanup(self.0.as_mut_ptr().cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_keys::locked_memory;

    /// What the kernel says of the memory at `address`.
    fn flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|r| r.split_once('-'));
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((first, end)) = range.and_then(|(a, b)| Some((number(a)?, number(b)?))) {
                inside = (first..end).contains(&address);
            } else if inside && line.starts_with("VmFlags:") {
                return format!("{line} ");
            }
        }
        panic!("no mapping has {address:#x}");
    }

    /// As many as a pool caches, of both ciphers: each in locked memory, none in a dump, and all of what a key was expanded to within it.
    #[test]
    fn expanded_keys_are_locked_and_not_dumped() {
        let ciphers = [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm];
        let contexts: Vec<Context> =
            (0..256).map(|n| Context::new(ciphers[n % 2], &[n as u8; KEY])).collect();
        for context in &contexts {
            let flags = flags(context.context().addr());
            assert!(flags.contains(" dd ") && flags.contains(" dc "), "{flags}");
            assert!(flags.contains(" lo ") || locked_memory().open > 0, "{flags}");
        }
        // ChaCha20's key is used as it is: it stands in the context, and not behind a pointer.
        let held = &contexts[2 * 33].0;
        assert!(held.windows(KEY).any(|w| w == [66; KEY]));
        // Copied byte by byte to another place, a context of either cipher computes the same: it refers to nothing but itself.
        for (n, context) in contexts.iter().enumerate().take(2) {
            let mut copy = LockedBytes::zeroes(context.0.len());
            copy.copy_from_slice(&context.0);
            let copy = Context(copy);
            let sealed = [context, &copy].map(|c| {
                let mut out = [0; 20 + TAG];
                c.seal([7; NONCE], b"aad", &[n as u8; 20], &mut out);
                out
            });
            assert_eq!(sealed[0], sealed[1]);
        }
    }
}
