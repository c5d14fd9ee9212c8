//! Root keys on the command line: taken out of use, or destroyed, in the provider that holds them.

use crate::args::{Output, Reason};
use crate::domains::asked;
use crate::failure::Failure;
use crate::remote::told;
use caisson_daemon::manage::ask::{RootAsk, Why};
use caisson_daemon::manage::client::{Client, segment};
use caisson_keys::KeyUri;

/// Which root key, and why it is to end.
pub struct Root {
    pub root: String,
    pub key: Option<KeyUri>,
    /// None where it is destroyed.
    pub reason: Option<Why>,
    pub confirm: Option<String>,
}

/// What the API calls a reason.
pub fn why(reason: Reason) -> Why {
    match reason {
        Reason::Cessation => Why::Cessation,
        Reason::Superseded => Why::Superseded,
        Reason::Compromise => Why::Compromise,
    }
}

/// `key revoke POOL --root NAME` and `key destroy POOL --root NAME`.
pub fn end(c: &Client, pool: &str, r: Root, output: Output) -> Result<(), Failure> {
    let Root { root, key, reason, confirm } = r;
    let (verb, done) = if reason.is_some() { ("revoke", "revoked") } else { ("destroy", "destroyed") };
    let confirm = match confirm {
        Some(confirm) => confirm,
        None => asked(
            &format!("{verb} root key {root}"),
            &root,
            &format!(
                "What root key {root} wrapped, older copies of pools included, is not unwrapped by it any more, for good."
            ),
        )?,
    };
    let path = format!("/v1/pools/{}/keys/{verb}", segment(pool));
    let said = format!(
        "root key {root} is {done}: what it wrapped, in older copies of pools, too, opens with it no more"
    );
    let ask = RootAsk { root, key: key.map(|k| k.to_string()), reason, confirm };
    told(output, &c.send("POST", &path, &ask)?, &said);
    Ok(())
}
