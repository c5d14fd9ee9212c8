//! The sealed key file, what key managers send, and what people type, of any bytes.

use caisson_keys::{KeyUri, Secret};
use caisson_kmip::ttlv;
use caisson_providers::{Share, format};
use caisson_service::wire::{Answer, Request};
use sha2::{Digest, Sha256};

/// As they are, and with the checksum and the length set right, so that what is behind them is reached.
pub fn key_file(data: &[u8]) {
    open(data);
    if data.len() >= 136 + 32 {
        let mut whole = data.to_vec();
        whole[..8].copy_from_slice(&format::MAGIC);
        whole[8..10].copy_from_slice(&format::VERSION.to_le_bytes());
        let len = whole.len();
        whole[12..16].copy_from_slice(&(len as u32).to_le_bytes());
        whole[28..32].fill(0);
        let digest = Sha256::digest(&whole[..len - 32]);
        whole[len - 32..].copy_from_slice(&digest);
        open(&whole);
    }
}

fn open(bytes: &[u8]) {
    let Ok(header) = format::decode_header(bytes) else { return };
    assert!(header.cost.is_allowed() && (1..=format::MAX_ROOTS).contains(&header.roots));
    assert!(bytes.len() <= format::MAX_FILE);
    // Only what costs nothing is stretched, or the fuzzer would do nothing else.
    if header.cost.memory_kib * header.cost.passes <= 256 {
        let opened = format::decode(bytes, &Secret::take(&mut b"fixture passphrase".to_vec()));
        if let Ok((_, roots, _)) = opened {
            assert_eq!(roots.len(), header.roots);
        }
    }
}

/// A TPM, or what stands in front of it, that answers with these bytes: half of a length, and then so many, again and again.
struct Owned(Vec<u8>);

impl caisson_tpm::Transport for Owned {
    fn exchange(&mut self, _: &[u8]) -> std::io::Result<Vec<u8>> {
        if self.0.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let n = usize::from(self.0.remove(0)) * 2;
        Ok(self.0.drain(..n.min(self.0.len())).collect())
    }
}

/// What a TPM sends, the file that its seal is kept in, and what the key service and those who ask it say to each other.
pub fn key_frames(data: &[u8]) {
    for handle in [false, true] {
        if let Some(r) = caisson_tpm::response(data, handle) {
            assert!(r.params.len() <= data.len());
        }
    }
    let seal = caisson_tpm::Seal::decode(data);
    if let Ok(seal) = &seal {
        assert_eq!(&seal.encode()[..], data);
    }
    let mut tpm = caisson_tpm::Tpm::over("fuzz", Box::new(Owned(data.to_vec())));
    let _ = tpm.lockout();
    let mut tpm = caisson_tpm::Tpm::over("fuzz", Box::new(Owned(data.to_vec())));
    assert!(tpm.seal([0; 16], &Secret::take(&mut [1; 32]), caisson_tpm::Pcrs::DEFAULT, None).is_err());
    if let Some(request) = Request::decode(data) {
        assert_eq!(&request.encode().expose()[4..], data);
    }
    if let Some(answer) = Answer::decode(data) {
        assert!(Answer::decode(&answer.encode().expose()[4..]).is_some());
    }
}

/// What a KMIP server sends, a recovery share that somebody typed, the name of a key provider, and an audit log.
pub fn keys_text(data: &[u8]) {
    if let Ok(item) = ttlv::Item::decode(data) {
        assert_eq!(&item.encode()[..], data, "what decodes goes back to the same bytes");
    }
    if let Some(head) = data.first_chunk::<{ ttlv::HEADER }>() {
        let tag = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        assert!(ttlv::message_len(head, tag).is_none_or(|len| len <= ttlv::MAX_MESSAGE));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(uri) = text.parse::<KeyUri>() {
        assert_eq!(uri.to_string().parse(), Ok(uri), "what is written is read alike");
    }
    if let Ok(share) = text.parse::<Share>() {
        assert_eq!(share.text().parse::<Share>().as_ref(), Ok(&share));
    }
    assert!(caisson_audit::verify(text, None).is_err(), "nobody's signature is guessed");
}
