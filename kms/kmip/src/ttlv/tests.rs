//! The encoding against the specification's own examples, and against anything.

use super::*;
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().filter(|w| *w != "|").collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

/// KMIP Specification 1.4, 9.1.2: the examples of each type.
#[test]
fn the_examples_of_the_specification() {
    let examples: [(Value, &str); 10] = [
        (Value::Integer(8), "42 00 20 | 02 | 00 00 00 04 | 00 00 00 08 00 00 00 00"),
        (Value::Long(123456789000000000), "42 00 20 | 03 | 00 00 00 08 | 01 B6 9B 4B A5 74 92 00"),
        (
            Value::Big(hex("00 00 00 00 03 FD 35 EB 6B C2 DF 46 18 08 00 00")),
            "42 00 20 | 04 | 00 00 00 10 | 00 00 00 00 03 FD 35 EB 6B C2 DF 46 18 08 00 00",
        ),
        (Value::Enumeration(255), "42 00 20 | 05 | 00 00 00 04 | 00 00 00 FF 00 00 00 00"),
        (Value::Boolean(true), "42 00 20 | 06 | 00 00 00 08 | 00 00 00 00 00 00 00 01"),
        (
            Value::Text("Hello World".into()),
            "42 00 20 | 07 | 00 00 00 0B | 48 65 6C 6C 6F 20 57 6F 72 6C 64 00 00 00 00 00",
        ),
        (
            Value::Bytes(Zeroizing::new(vec![1, 2, 3])),
            "42 00 20 | 08 | 00 00 00 03 | 01 02 03 00 00 00 00 00",
        ),
        (Value::Time(0x47DA67F8), "42 00 20 | 09 | 00 00 00 08 | 00 00 00 00 47 DA 67 F8"),
        (Value::Interval(864000), "42 00 20 | 0A | 00 00 00 04 | 00 0D 2F 00 00 00 00 00"),
        (
            Value::Structure(vec![enumeration(0x420004, 254), integer(0x420005, 255)]),
            "42 00 20 | 01 | 00 00 00 20 | 42 00 04 | 05 | 00 00 00 04 | 00 00 00 FE 00 00 00 00 |
             42 00 05 | 02 | 00 00 00 04 | 00 00 00 FF 00 00 00 00",
        ),
    ];
    for (value, bytes) in examples {
        let (item, bytes) = (Item { tag: 0x420020, value }, hex(bytes));
        assert_eq!(item.encode()[..], bytes[..], "{item:?}");
        assert_eq!(Item::decode(&bytes), Ok(item));
    }
}

#[test]
fn what_is_no_item_is_refused() {
    let good = structure(0x420078, [text(0x420055, "name"), bytes(0x420043, &[9; 32])]).encode();
    for len in 0..good.len() {
        assert!(Item::decode(&good[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(Item::decode(&[&good[..], &[0]].concat()), Err(TtlvError::Long));
    let of = |text: &str| Item::decode(&hex(text)).unwrap_err();
    let tag = 0x420020;
    assert_eq!(of("42 00 20 | 02 | 00 00 00 08 | 00 00 00 08 00 00 00 00"), TtlvError::Length { tag });
    assert_eq!(of("42 00 20 | 02 | FF FF FF FF | 00 00 00 08 00 00 00 00"), TtlvError::Length { tag });
    assert_eq!(of("42 00 20 | 02 | 00 00 00 04 | 00 00 00 08 00 00 00 01"), TtlvError::Value { tag });
    assert_eq!(of("42 00 20 | 06 | 00 00 00 08 | 00 00 00 00 00 00 00 02"), TtlvError::Value { tag });
    assert_eq!(of("42 00 20 | 07 | 00 00 00 01 | FF 00 00 00 00 00 00 00"), TtlvError::Value { tag });
    assert_eq!(of("42 00 20 | 0B | 00 00 00 00"), TtlvError::Type { tag, kind: 11 });
    let mut deep = bytes(1, b"x");
    for _ in 0..=MAX_DEPTH {
        deep = structure(2, [deep]);
    }
    assert_eq!(Item::decode(&deep.encode()), Err(TtlvError::Deep));
}

#[test]
fn keys_are_not_shown_and_lengths_not_believed() {
    let key = structure(0x420045, [bytes(0x420043, b"a secret key")]);
    assert!(!format!("{key:?}").contains("97") && format!("{key:?}").contains("12 bytes"), "{key:?}");
    let head = |len: u32| {
        let mut h = [0x42, 0, 0x7b, 1, 0, 0, 0, 0];
        h[4..].copy_from_slice(&len.to_be_bytes());
        h
    };
    assert_eq!(message_len(&head(16), 0x42007b), Some(24));
    assert_eq!(message_len(&head(16), 0x420078), None);
    for len in [1, 12, MAX_MESSAGE as u32, u32::MAX] {
        assert_eq!(message_len(&head(len), 0x42007b), None, "{len}");
    }
}

fn item() -> impl Strategy<Value = Item> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Value::Integer),
        any::<i64>().prop_map(Value::Long),
        any::<u32>().prop_map(Value::Enumeration),
        any::<bool>().prop_map(Value::Boolean),
        ".{0,20}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|b| Value::Bytes(Zeroizing::new(b))),
        any::<i64>().prop_map(Value::Time),
        any::<u32>().prop_map(Value::Interval),
    ];
    let tag = 0..=0xff_ffffu32;
    let leaf = (tag.clone(), leaf).prop_map(|(tag, value)| Item { tag, value });
    leaf.prop_recursive(6, 40, 5, move |inner| {
        (0..=0xff_ffffu32, prop::collection::vec(inner, 0..5)).prop_map(|(tag, items)| structure(tag, items))
    })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(item in item()) {
        let bytes = item.encode();
        prop_assert_eq!(bytes.len() % 8, 0);
        prop_assert_eq!(Item::decode(&bytes), Ok(item));
    }

    #[test]
    fn what_is_decoded_is_encoded_alike(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(item) = Item::decode(&bytes) {
            prop_assert_eq!(&item.encode()[..], &bytes[..]);
        }
    }
}
