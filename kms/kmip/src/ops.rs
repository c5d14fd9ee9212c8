//! The operations that are needed, as payloads.
//!
//! Owns the numbers and the order of fields (KMIP Specification 1.4, sections 4 and 9.1.3), and nothing of what they are for.

use crate::client::Session;
use crate::error::Fault;
use crate::ttlv::{Item, Value, bytes, enumeration, integer, structure, text};
use caisson_keys::Secret;

/// Tags (9.1.3.1).
pub mod tag {
    pub const ATTRIBUTE: u32 = 0x420008;
    pub const ATTRIBUTE_NAME: u32 = 0x42000a;
    pub const ATTRIBUTE_VALUE: u32 = 0x42000b;
    pub const BATCH_COUNT: u32 = 0x42000d;
    pub const BATCH_ITEM: u32 = 0x42000f;
    pub const BLOCK_CIPHER_MODE: u32 = 0x420011;
    pub const CRYPTOGRAPHIC_ALGORITHM: u32 = 0x420028;
    pub const CRYPTOGRAPHIC_PARAMETERS: u32 = 0x42002b;
    pub const IV_COUNTER_NONCE: u32 = 0x42003d;
    pub const KEY_BLOCK: u32 = 0x420040;
    pub const KEY_FORMAT_TYPE: u32 = 0x420042;
    pub const KEY_MATERIAL: u32 = 0x420043;
    pub const KEY_VALUE: u32 = 0x420045;
    pub const MAXIMUM_RESPONSE_SIZE: u32 = 0x420050;
    pub const NAME_TYPE: u32 = 0x420054;
    pub const NAME_VALUE: u32 = 0x420055;
    pub const OBJECT_TYPE: u32 = 0x420057;
    pub const OPERATION: u32 = 0x42005c;
    pub const PROTOCOL_VERSION: u32 = 0x420069;
    pub const PROTOCOL_VERSION_MAJOR: u32 = 0x42006a;
    pub const PROTOCOL_VERSION_MINOR: u32 = 0x42006b;
    pub const QUERY_FUNCTION: u32 = 0x420074;
    pub const REQUEST_HEADER: u32 = 0x420077;
    pub const REQUEST_MESSAGE: u32 = 0x420078;
    pub const REQUEST_PAYLOAD: u32 = 0x420079;
    pub const RESPONSE_MESSAGE: u32 = 0x42007b;
    pub const RESPONSE_PAYLOAD: u32 = 0x42007c;
    pub const RESULT_MESSAGE: u32 = 0x42007d;
    pub const RESULT_REASON: u32 = 0x42007e;
    pub const RESULT_STATUS: u32 = 0x42007f;
    pub const REVOCATION_REASON: u32 = 0x420081;
    pub const REVOCATION_REASON_CODE: u32 = 0x420082;
    pub const SYMMETRIC_KEY: u32 = 0x42008f;
    pub const TEMPLATE_ATTRIBUTE: u32 = 0x420091;
    pub const UNIQUE_IDENTIFIER: u32 = 0x420094;
    pub const DATA: u32 = 0x4200c2;
    pub const TAG_LENGTH: u32 = 0x4200ce;
    pub const ADDITIONAL_DATA: u32 = 0x4200fe;
    pub const ENCRYPTION_TAG: u32 = 0x4200ff;
}

/// Operations (9.1.3.2.27).
pub mod operation {
    pub const CREATE: u32 = 0x01;
    pub const LOCATE: u32 = 0x08;
    pub const GET: u32 = 0x0a;
    pub const GET_ATTRIBUTES: u32 = 0x0b;
    pub const ACTIVATE: u32 = 0x12;
    pub const REVOKE: u32 = 0x13;
    pub const DESTROY: u32 = 0x14;
    pub const QUERY: u32 = 0x18;
    pub const DISCOVER_VERSIONS: u32 = 0x1e;
    pub const ENCRYPT: u32 = 0x1f;
    pub const DECRYPT: u32 = 0x20;
}

/// States of an object (9.1.3.2.18).
pub mod state {
    pub const PRE_ACTIVE: u32 = 1;
    pub const ACTIVE: u32 = 2;
    pub const DEACTIVATED: u32 = 3;
    pub const COMPROMISED: u32 = 4;
    pub const DESTROYED: u32 = 5;
    pub const DESTROYED_COMPROMISED: u32 = 6;
}

/// Revocation reason codes (9.1.3.2.19).
pub mod revocation {
    pub const KEY_COMPROMISE: u32 = 2;
    pub const SUPERSEDED: u32 = 5;
    pub const CESSATION_OF_OPERATION: u32 = 6;
}

const SYMMETRIC_KEY: u32 = 2;
const AES: u32 = 3;
const GCM: u32 = 9;
const RAW: u32 = 1;
const ENCRYPT_AND_DECRYPT: i32 = 0x4 | 0x8;
const QUERY_OPERATIONS: u32 = 1;
const UNINTERPRETED_TEXT: u32 = 1;
/// Bytes of a GCM tag.
pub const TAG_LEN: usize = 16;

fn attribute(name: &str, value: Value) -> Item {
    structure(tag::ATTRIBUTE, [text(tag::ATTRIBUTE_NAME, name), Item { tag: tag::ATTRIBUTE_VALUE, value }])
}

fn name(name: &str) -> Item {
    let value = vec![text(tag::NAME_VALUE, name), enumeration(tag::NAME_TYPE, UNINTERPRETED_TEXT)];
    attribute("Name", Value::Structure(value))
}

fn id(uid: &str) -> Item {
    text(tag::UNIQUE_IDENTIFIER, uid)
}

/// AES-256-GCM with a tag of 16 bytes.
fn parameters() -> Item {
    structure(
        tag::CRYPTOGRAPHIC_PARAMETERS,
        [
            enumeration(tag::BLOCK_CIPHER_MODE, GCM),
            enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, AES),
            integer(tag::TAG_LENGTH, TAG_LEN as i32),
        ],
    )
}

/// What a server sealed.
pub struct Sealed {
    pub text: Vec<u8>,
    pub tag: [u8; TAG_LEN],
}

impl Session {
    /// Whether the server encrypts with additional data, which KMIP has since 1.4.
    pub fn encrypts(&mut self) -> Result<bool, Fault> {
        let answer = self.ask(operation::QUERY, vec![enumeration(tag::QUERY_FUNCTION, QUERY_OPERATIONS)])?;
        let can = |op| answer.items().iter().any(|i| i.tag == tag::OPERATION && i.enumeration() == Some(op));
        Ok(self.version >= (1, 4) && can(operation::ENCRYPT) && can(operation::DECRYPT))
    }

    /// Makes an AES-256 key of that name; its identifier.
    pub fn create(&mut self, called: &str) -> Result<String, Fault> {
        let attributes = [
            attribute("Cryptographic Algorithm", Value::Enumeration(AES)),
            attribute("Cryptographic Length", Value::Integer(256)),
            attribute("Cryptographic Usage Mask", Value::Integer(ENCRYPT_AND_DECRYPT)),
            name(called),
        ];
        let payload = vec![
            enumeration(tag::OBJECT_TYPE, SYMMETRIC_KEY),
            structure(tag::TEMPLATE_ATTRIBUTE, attributes),
        ];
        let answer = self.ask(operation::CREATE, payload)?;
        let uid = answer.get(tag::UNIQUE_IDENTIFIER).and_then(Item::text);
        uid.map(str::to_string).ok_or_else(|| self.lacks("the new key's identifier"))
    }

    /// The identifiers of the keys of that name that this client may see.
    pub fn locate(&mut self, called: &str) -> Result<Vec<String>, Fault> {
        let kind = attribute("Object Type", Value::Enumeration(SYMMETRIC_KEY));
        let answer = self.ask(operation::LOCATE, vec![name(called), kind])?;
        let ids = answer.items().iter().filter(|i| i.tag == tag::UNIQUE_IDENTIFIER);
        Ok(ids.filter_map(Item::text).map(str::to_string).collect())
    }

    pub fn activate(&mut self, uid: &str) -> Result<(), Fault> {
        self.ask(operation::ACTIVATE, vec![id(uid)]).map(drop)
    }

    /// Takes a key out of use. `reason` is of [`revocation`].
    pub fn revoke(&mut self, uid: &str, reason: u32) -> Result<(), Fault> {
        let why = structure(tag::REVOCATION_REASON, [enumeration(tag::REVOCATION_REASON_CODE, reason)]);
        self.ask(operation::REVOKE, vec![id(uid), why]).map(drop)
    }

    pub fn destroy(&mut self, uid: &str) -> Result<(), Fault> {
        self.ask(operation::DESTROY, vec![id(uid)]).map(drop)
    }

    /// A key's state, of [`state`].
    pub fn state(&mut self, uid: &str) -> Result<u32, Fault> {
        let payload = vec![id(uid), text(tag::ATTRIBUTE_NAME, "State")];
        let answer = self.ask(operation::GET_ATTRIBUTES, payload)?;
        let value = answer.at(&[tag::ATTRIBUTE, tag::ATTRIBUTE_VALUE]).and_then(Item::enumeration);
        value.ok_or_else(|| self.lacks("the key's state"))
    }

    /// The key itself.
    pub fn get(&mut self, uid: &str) -> Result<Secret, Fault> {
        let answer = self.ask(operation::GET, vec![id(uid), enumeration(tag::KEY_FORMAT_TYPE, RAW)])?;
        let path = [tag::SYMMETRIC_KEY, tag::KEY_BLOCK, tag::KEY_VALUE, tag::KEY_MATERIAL];
        let key = answer.at(&path).and_then(Item::bytes).filter(|k| k.len() == 32);
        let key = key.ok_or_else(|| self.lacks("a key of 32 bytes"))?;
        Ok(Secret::take(&mut zeroize::Zeroizing::new(key.to_vec())))
    }

    /// Has the server encrypt.
    pub fn encrypt(&mut self, uid: &str, nonce: &[u8], aad: &[u8], plain: &[u8]) -> Result<Sealed, Fault> {
        let payload = vec![
            id(uid),
            parameters(),
            bytes(tag::DATA, plain),
            bytes(tag::IV_COUNTER_NONCE, nonce),
            bytes(tag::ADDITIONAL_DATA, aad),
        ];
        let answer = self.ask(operation::ENCRYPT, payload)?;
        let part = |tag| answer.get(tag).and_then(Item::bytes);
        let sealed = part(tag::DATA).filter(|t| t.len() == plain.len()).zip(part(tag::ENCRYPTION_TAG));
        let sealed =
            sealed.and_then(|(text, tag)| Some(Sealed { text: text.to_vec(), tag: tag.try_into().ok()? }));
        sealed.ok_or_else(|| self.lacks("the ciphertext and a tag of 16 bytes"))
    }

    /// Has the server decrypt.
    pub fn decrypt(
        &mut self,
        uid: &str,
        nonce: &[u8],
        aad: &[u8],
        text: &[u8],
        tag_: &[u8],
    ) -> Result<Secret, Fault> {
        let payload = vec![
            id(uid),
            parameters(),
            bytes(tag::DATA, text),
            bytes(tag::IV_COUNTER_NONCE, nonce),
            bytes(tag::ADDITIONAL_DATA, aad),
            bytes(tag::ENCRYPTION_TAG, tag_),
        ];
        let answer = self.ask(operation::DECRYPT, payload)?;
        let plain = answer.get(tag::DATA).and_then(Item::bytes).filter(|p| p.len() == text.len());
        let plain = plain.ok_or_else(|| self.lacks("the plaintext"))?;
        Ok(Secret::take(&mut zeroize::Zeroizing::new(plain.to_vec())))
    }
}
