//! What names a key provider: one line of text in the configuration or on the command line.
//!
//! Owns its form, which is RFC 7512's for PKCS#11 and alike for the others: a scheme, attributes of the key before `?` with
//! `;` between them, attributes of the way there behind it with `&` between them, and %XX for any byte. It must never hold a
//! secret: where a PIN or passphrase is, is an attribute; the PIN itself (`pin-value`) is refused.
//!
//! ```text
//! file:/etc/caisson/pool.key?passphrase-file=/etc/caisson/pool.passphrase
//! pkcs11:token=Caisson;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/caisson/pin
//! kmip:object=caisson?server=kms1.example:5696&server=kms2.example:5696&ca=ca.pem&cert=client.pem&key=client.key
//! tpm2:pcrs=sha256+7?file=/etc/caisson/tpm.key
//! kms:key=main?socket=/run/caisson-kms/kms.sock
//! ```

use crate::KeyError;
use std::fmt;
use std::str::FromStr;

/// Longest text of one in bytes.
const MAX: usize = 4096;

/// The kinds of providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// A sealed key file.
    File,
    /// A PKCS#11 token.
    Pkcs11,
    /// A KMIP server.
    Kmip,
    /// A TPM 2.0.
    Tpm2,
    /// A key service in a process of its own.
    Kms,
}

impl Scheme {
    /// Its word, which is also the name under which pools remember the provider.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::File => "file",
            Scheme::Pkcs11 => "pkcs11",
            Scheme::Kmip => "kmip",
            Scheme::Tpm2 => "tpm2",
            Scheme::Kms => "kms",
        }
    }

    /// What it understands: attributes of the key, and of the way there. The path of a file is no attribute.
    const fn known(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Scheme::File => (&[], &["passphrase-file"]),
            Scheme::Pkcs11 => (
                &["token", "manufacturer", "model", "serial", "object", "id", "type"],
                &["module-path", "pin-source"],
            ),
            Scheme::Kmip => (&["object"], &["server", "ca", "cert", "key", "timeout"]),
            Scheme::Tpm2 => (&["pcrs", "auth"], &["file", "tcti", "passphrase-file", "pin-source"]),
            Scheme::Kms => (&["key"], &["socket", "uid"]),
        }
    }

    const ALL: [Scheme; 5] = [Scheme::File, Scheme::Pkcs11, Scheme::Kmip, Scheme::Tpm2, Scheme::Kms];
}

/// What names a provider and a root key in it. Holds no secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyUri {
    scheme: Scheme,
    path: Vec<(String, Vec<u8>)>,
    query: Vec<(String, Vec<u8>)>,
}

impl KeyUri {
    /// The one of a sealed key file.
    pub fn file(path: &str, passphrase_file: Option<&str>) -> KeyUri {
        let query = passphrase_file.map(|p| ("passphrase-file".to_string(), p.as_bytes().to_vec()));
        let path = vec![(String::new(), path.as_bytes().to_vec())];
        KeyUri { scheme: Scheme::File, path, query: query.into_iter().collect() }
    }

    /// Which kind of provider.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The path of a key file; `None` for the others.
    pub fn path(&self) -> Option<&str> {
        self.attribute("")
    }

    /// An attribute of the key, as bytes: a PKCS#11 `id` is any.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.path.iter().find(|(n, _)| n == name).map(|(_, v)| &v[..])
    }

    /// An attribute of the key; `None` where there is none, or it is not text.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    /// The attributes of that name of the way there, in their order.
    pub fn queries<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(n, _)| n == name).filter_map(|(_, v)| std::str::from_utf8(v).ok())
    }

    /// The first of them.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).and_then(|(_, v)| std::str::from_utf8(v).ok())
    }

    /// The attribute that must be there.
    ///
    /// # Errors
    /// [`KeyError::BadUri`].
    pub fn required(&self, name: &str) -> Result<&str, KeyError> {
        self.attribute(name).or_else(|| self.query(name)).filter(|v| !v.is_empty()).ok_or_else(|| {
            KeyError::BadUri {
                uri: self.to_string(),
                cause: format!("`{name}` is missing"),
                remedy: format!("add {name}=..., as kms/README.md shows"),
            }
        })
    }

    /// Every path of this machine that it names, changed by `f`: relative ones are relative to something.
    pub fn map_paths(&mut self, f: impl Fn(&str) -> String) {
        let change = |v: &mut Vec<u8>| {
            if let Ok(text) = std::str::from_utf8(v) {
                *v = match text.strip_prefix("file:") {
                    Some(rest) => format!("file:{}", f(rest)).into_bytes(),
                    None => f(text).into_bytes(),
                };
            }
        };
        if self.scheme == Scheme::File {
            self.path.iter_mut().for_each(|(_, v)| change(v));
        }
        let names = ["file", "socket", "passphrase-file", "module-path", "pin-source", "ca", "cert", "key"];
        self.query.iter_mut().filter(|(n, _)| names.contains(&&n[..])).for_each(|(_, v)| change(v));
    }
}

fn bad(text: &str, cause: String, remedy: &str) -> KeyError {
    // Somebody may have written a secret into it: what is not understood is not repeated whole.
    let shown = text.split_once(':').map_or("key", |(scheme, _)| scheme);
    let uri = if shown.len() <= 16 { format!("{shown}:...") } else { "key".into() };
    KeyError::BadUri { uri, cause, remedy: remedy.into() }
}

const FORMS: &str = "write file:PATH, pkcs11:token=LABEL;object=LABEL?module-path=PATH, kmip:object=NAME?server=HOST:PORT&..., tpm2:pcrs=sha256+7?file=PATH, or kms:key=NAME?socket=PATH";

impl FromStr for KeyUri {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<KeyUri, KeyError> {
        if text.len() > MAX {
            return Err(bad(text, format!("more than {MAX} bytes"), FORMS));
        }
        let scheme = text.split_once(':').and_then(|(word, rest)| {
            let scheme = Scheme::ALL.into_iter().find(|s| s.name() == word)?;
            Some((scheme, rest))
        });
        let Some((scheme, rest)) = scheme else {
            return Err(bad(text, "no kind of key provider".into(), FORMS));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (of_path, of_query) = scheme.known();
        let path = if scheme == Scheme::File {
            if path.is_empty() {
                return Err(bad(text, "the path is missing".into(), "write file:PATH"));
            }
            vec![(String::new(), decode(text, path)?)]
        } else {
            attributes(text, path, ';', of_path)?
        };
        let query = attributes(text, query, '&', of_query)?;
        let uri = KeyUri { scheme, path, query };
        // Written out, what has to be escaped is longer; it must be possible to read that again.
        if uri.to_string().len() > MAX {
            return Err(bad(text, format!("more than {MAX} bytes when it is written out"), FORMS));
        }
        Ok(uri)
    }
}

fn attributes(
    text: &str,
    list: &str,
    between: char,
    known: &[&str],
) -> Result<Vec<(String, Vec<u8>)>, KeyError> {
    let mut out: Vec<(String, Vec<u8>)> = Vec::new();
    for part in list.split(between).filter(|p| !p.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| bad(text, "an attribute without `=`".into(), "write NAME=VALUE for each"))?;
        if name == "pin-value" {
            return Err(bad(
                text,
                "`pin-value` would put the PIN where it can be read".into(),
                "put the PIN into a file, and name that: pin-source=file:PATH",
            ));
        }
        if !known.contains(&name) {
            let short: String = name.chars().filter(|c| c.is_ascii_graphic()).take(24).collect();
            let remedy = format!("the attributes here are {}", known.join(", "));
            return Err(bad(text, format!("no attribute `{short}` is known here"), &remedy));
        }
        if name != "server" && out.iter().any(|(n, _)| n == name) {
            return Err(bad(text, format!("`{name}` is there twice"), "write it once"));
        }
        out.push((name.to_string(), decode(text, value)?));
    }
    Ok(out)
}

/// Takes %XX out.
fn decode(text: &str, value: &str) -> Result<Vec<u8>, KeyError> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high << 4 | low) as u8),
            _ => return Err(bad(text, "`%` without two hexadecimal digits".into(), "write %25 for %")),
        }
    }
    Ok(out)
}

fn encode(f: &mut fmt::Formatter<'_>, value: &[u8]) -> fmt::Result {
    for &b in value {
        if b.is_ascii_alphanumeric() || b"/:._-+,@[]~ ".contains(&b) && b != b' ' {
            write!(f, "{}", char::from(b))?;
        } else {
            write!(f, "%{b:02X}")?;
        }
    }
    Ok(())
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme.name())?;
        for (list, first, between) in [(&self.path, "", ";"), (&self.query, "?", "&")] {
            for (i, (name, value)) in list.iter().enumerate() {
                f.write_str(if i == 0 { first } else { between })?;
                if !name.is_empty() {
                    write!(f, "{name}=")?;
                }
                encode(f, value)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyUri({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> KeyUri {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn every_kind_is_read_and_written_alike() {
        for text in [
            "file:/etc/caisson/pool.key",
            "file:pool.key?passphrase-file=/p",
            "pkcs11:token=Caisson;object=root?module-path=/usr/lib/x.so&pin-source=file:/pin",
            "pkcs11:token=two%20words;id=%00%FF",
            "kmip:object=caisson?server=a:5696&server=[::1]:5696&ca=ca.pem&cert=c.pem&key=k.pem",
            "tpm2:pcrs=sha256+0,7?file=/etc/caisson/tpm.key&tcti=device:/dev/tpmrm0",
            "tpm2:auth=pin?file=k",
            "kms:key=main?socket=/run/kms.sock&uid=7",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        let uri = parse("pkcs11:token=two%20words;id=%00%ff?module-path=/a%3Fb");
        assert_eq!(uri.scheme(), Scheme::Pkcs11);
        assert_eq!(uri.attribute("token"), Some("two words"));
        assert_eq!(uri.bytes("id"), Some(&[0, 255][..]));
        assert_eq!((uri.attribute("id"), uri.attribute("object")), (None, None));
        assert_eq!(uri.query("module-path"), Some("/a?b"));
        let uri = parse("kmip:object=n?server=a:1&server=b:2");
        assert_eq!(uri.queries("server").collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(uri.required("object"), Ok("n"));
        assert!(uri.required("cert").unwrap_err().to_string().contains("`cert` is missing"));
        assert_eq!(KeyUri::file("/a b", Some("/p")).to_string(), "file:/a%20b?passphrase-file=/p");
        assert_eq!(KeyUri::file("k", None).path(), Some("k"));
    }

    #[test]
    fn what_is_not_understood_is_said_and_no_secret_repeated() {
        for (text, says) in [
            ("", "no kind"),
            ("pool.key", "no kind"),
            ("vault:x", "no kind"),
            ("file:", "path is missing"),
            ("pkcs11:token", "without `=`"),
            ("pkcs11:token=a;token=b", "twice"),
            ("pkcs11:label=a", "no attribute `label`"),
            ("pkcs11:token=a?pin-value=hunter2", "pin-value"),
            ("pkcs11:token=a%2", "two hexadecimal"),
            ("tpm2:?server=a", "no attribute `server`"),
        ] {
            let error = text.parse::<KeyUri>().unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert!(!error.to_string().contains("hunter2") && !error.remedy().is_empty());
        }
        assert!("x".repeat(MAX + 1).parse::<KeyUri>().is_err());
        let escaped = format!("kmip:object={}", "{".repeat(MAX / 2));
        assert!(escaped.parse::<KeyUri>().is_err(), "too long when it is written out");
    }

    #[test]
    fn relative_paths_are_made_whole() {
        let mut uri = parse("pkcs11:token=t?module-path=m.so&pin-source=file:pin");
        uri.map_paths(|p| format!("/base/{p}"));
        assert_eq!(uri.to_string(), "pkcs11:token=t?module-path=/base/m.so&pin-source=file:/base/pin");
        let mut uri = parse("file:k?passphrase-file=p");
        uri.map_paths(|p| format!("/base/{p}"));
        assert_eq!(uri.to_string(), "file:/base/k?passphrase-file=/base/p");
    }
}
