//! Known answers: each primitive against its own document.

use crate::aead::{Refused, hkdf_sha256, xopen, xseal};
use crate::expanded::Context;
use crate::{Cipher, TAG};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().unwrap()
}

const SUNSCREEN: &[u8] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
future, sunscreen would be it.";

/// Seals, compares, opens both ways, and sees that each changed bit is refused.
fn check(cipher: Cipher, key: &str, nonce: &str, aad: &str, plain: &[u8], want: &str) {
    let (context, nonce, aad, want) = (Context::new(cipher, &array(key)), array(nonce), hex(aad), hex(want));
    let mut sealed = vec![0; plain.len() + TAG];
    context.seal(nonce, &aad, plain, &mut sealed);
    assert_eq!(sealed, want);
    assert_eq!(context.open(nonce, &aad, &mut sealed.clone()), Ok(&mut plain.to_vec()[..]));
    let mut out = vec![0; plain.len()];
    assert_eq!(context.open_into(nonce, &aad, &sealed, &mut out), Ok(()));
    assert_eq!(out, plain);
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(context.open_into(nonce, &aad, &changed, &mut out), Err(Refused), "bit {bit}");
        assert_eq!(context.open(nonce, &aad, &mut changed), Err(Refused), "bit {bit}");
    }
}

/// RFC 8439, 2.8.2.
#[test]
fn chacha20_poly1305_as_in_its_rfc() {
    check(
        Cipher::ChaCha20Poly1305,
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        SUNSCREEN,
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6
         3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36
         92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
         3ff4def08e4b7a9de576d26586cec64b6116 1ae10b594f09e26a7e902ecbd0600691",
    );
}

/// The GCM specification's test case 16 (McGrew and Viega, as submitted to NIST): a 256-bit key, a 96-bit nonce, data that ends within a block.
#[test]
fn aes_256_gcm_as_in_its_specification() {
    check(
        Cipher::Aes256Gcm,
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        &hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
              1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"),
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662 76fc6ece0f4e1768cddf8853bb2d551b",
    );
}

/// draft-irtf-cfrg-xchacha-03, A.3.1.
#[test]
fn xchacha20_poly1305_as_in_its_draft() {
    let key = array("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce = array("404142434445464748494a4b4c4d4e4f5051525354555657");
    let aad = hex("50515253c0c1c2c3c4c5c6c7");
    let mut body = SUNSCREEN.to_vec();
    let tag = xseal(&key, &nonce, &aad, &mut body);
    let want = hex("bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb
                    731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452
                    2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
                    21f9664c97637da9768812f615c68b13b52e");
    assert_eq!((&body, tag), (&want, array("c0875924c1c7987947deafd8780acf49")));
    let mut wrong = tag;
    wrong[15] ^= 0x80;
    assert_eq!(xopen(&key, &nonce, &aad, &mut body.clone(), &wrong), Err(Refused));
    assert_eq!(xopen(&key, &nonce, &aad, &mut body, &tag), Ok(()));
    assert_eq!(body, SUNSCREEN);
}

/// RFC 5869, A.1 to A.3.
#[test]
fn hkdf_sha256_as_in_its_rfc() {
    let ikm = [0x0b; 22];
    let info = hex("f0f1f2f3f4f5f6f7f8f9");
    let okm = hkdf_sha256::<42>(&ikm, &hex("000102030405060708090a0b0c"), &[&info]);
    let want = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(okm[..], hex(want)[..]);

    let bytes = |range: std::ops::RangeInclusive<u8>| range.collect::<Vec<u8>>();
    // In pieces, which must be as good as in one.
    let info = [&bytes(0xb0..=0xbf)[..], &bytes(0xc0..=0xff)];
    let okm = hkdf_sha256::<82>(&bytes(0x00..=0x4f), &bytes(0x60..=0xaf), &info);
    let want = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c
                59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71
                cc30c58179ec3e87c14c01d5c1f3434f1d87";
    assert_eq!(okm[..], hex(want)[..]);

    let okm = hkdf_sha256::<42>(&ikm, &[], &[]);
    let want = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    assert_eq!(okm[..], hex(want)[..]);
}

#[test]
fn stored_ciphers_are_those_that_were() {
    assert_eq!([1, 2].map(Cipher::from_code), [Some(Cipher::ChaCha20Poly1305), Some(Cipher::Aes256Gcm)]);
    assert!((0..=255).filter(|code| Cipher::from_code(*code).is_some()).all(|code| (1..=2).contains(&code)));
    assert_eq!(Cipher::from_code(Cipher::auto().code()), Some(Cipher::auto()));
}
