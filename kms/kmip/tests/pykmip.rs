//! The provider against PyKMIP's server: its contract, the life of its keys, fail-over, and each thing that can be wrong.

mod support;

use caisson_keys::{
    Context, KeyError, KeyProvider, ProviderStatus, Purpose, Reason, Secret, contract, create_pool_keys,
    unlock, wrap_pool_keys,
};
use caisson_kmip::Kmip;
use std::io::{Read, Write};
use std::net::TcpListener;
use support::{Site, free_port};

fn context() -> Context {
    Context { purpose: Purpose::Domain, pool: [4; 16], domain: 1, epoch: 0 }
}

fn secret() -> Secret {
    Secret::take(&mut [7; 32])
}

/// A provider with one root key.
fn with_root(site: &Site, port: u16) -> Kmip {
    let mut kmip = Kmip::open(&site.uri(&[port], "root", "client")).unwrap();
    kmip.add_root().unwrap_or_else(|e| panic!("{e}"));
    kmip
}

#[test]
fn keeps_the_contract_and_rotates_with_a_server_that_wraps() {
    let site = Site::new("contract");
    let server = site.server("server", None);
    let mut kmip = Kmip::open(&site.uri(&[server.port], "root", "client")).unwrap();
    assert_eq!((kmip.status(), kmip.roots()), (ProviderStatus::Ready, Ok(vec![])));
    let none = kmip.wrap(&secret(), &context()).unwrap_err();
    assert!(matches!(&none, KeyError::NoSuchKey { root, .. } if root == "root"), "{none}");
    let first = kmip.add_root().unwrap();
    contract::check(&kmip).unwrap();
    assert_eq!(kmip.wrap(&secret(), &context()).unwrap().blob[0], 1, "the server wraps");
    let mut random = |b: &mut [u8]| {
        b.fill(9);
        Ok(())
    };
    let (made, old) = create_pool_keys(&kmip, [3; 16], &mut random).unwrap();
    let second = kmip.add_root().unwrap();
    assert_eq!(kmip.roots().unwrap(), [first.clone(), second.clone()]);
    let new = wrap_pool_keys(&kmip, &made).unwrap();
    assert_eq!((&old[0].wrapped.root, &new[0].wrapped.root), (&first, &second));
    // Found again by another client, by name.
    let again = Kmip::open(&site.uri(&[server.port], "root", "client")).unwrap();
    for slots in [&old, &new] {
        assert!(unlock(&[&again], [3; 16], slots).unwrap().epochs().eq(made.epochs()));
    }
}

#[test]
fn a_server_that_does_not_wrap_lends_its_key() {
    let site = Site::new("fetched");
    let server = site.server("server", Some("1.2"));
    let mut kmip = with_root(&site, server.port);
    contract::check(&kmip).unwrap();
    let wrapped = kmip.wrap(&secret(), &context()).unwrap();
    assert_eq!(wrapped.blob[0], 2, "wrapped here");
    // A key that was revoked is not used, though the server would still give it out.
    kmip.revoke(&wrapped.root, Reason::Cessation).unwrap();
    let error = kmip.unwrap(&wrapped, &context()).unwrap_err();
    assert!(matches!(&error, KeyError::Revoked { state, .. } if state == "deactivated"), "{error}");
}

#[test]
fn revoked_and_destroyed_keys_say_so() {
    let site = Site::new("revoked");
    let server = site.server("server", None);
    let reasons = [
        (Reason::Cessation, "old", "deactivated"),
        (Reason::Superseded, "followed", "deactivated"),
        (Reason::Compromise, "bad", "compromised"),
    ];
    for (why, object, want) in reasons {
        let mut kmip = Kmip::open(&site.uri(&[server.port], object, "client")).unwrap();
        kmip.add_root().unwrap();
        let wrapped = kmip.wrap(&secret(), &context()).unwrap();
        kmip.revoke(&wrapped.root, why).unwrap();
        kmip.revoke(&wrapped.root, why).unwrap_or_else(|e| panic!("again: {e}"));
        for error in
            [kmip.unwrap(&wrapped, &context()).unwrap_err(), kmip.wrap(&secret(), &context()).unwrap_err()]
        {
            assert!(matches!(&error, KeyError::Revoked { state, .. } if state == want), "{error}");
            assert!(!error.may_pass() && error.remedy().contains("recovery"));
        }
        kmip.destroy(&wrapped.root).unwrap();
        let error = kmip.unwrap(&wrapped, &context()).unwrap_err();
        assert!(matches!(&error, KeyError::NoSuchKey { root, .. } if *root == wrapped.root), "{error}");
    }
}

/// What is destroyed leaves a gap in the names, at their beginning and within: the keys behind it are found, and the last still wraps.
#[test]
fn after_a_rotation_the_old_key_is_destroyed_and_the_others_are_found() {
    let site = Site::new("life");
    let server = site.server("server", None);
    let mut kmip = with_root(&site, server.port);
    let first = kmip.wrap(&secret(), &context()).unwrap();
    let roots: Vec<String> = (0..3).map(|_| kmip.add_root().unwrap()).collect();
    // In use, the server would refuse: it is taken out of use before.
    kmip.destroy(&first.root).unwrap();
    assert_eq!(kmip.roots().unwrap(), roots);
    let error = kmip.unwrap(&first, &context()).unwrap_err();
    assert!(matches!(&error, KeyError::NoSuchKey { .. }), "{error}");
    kmip.destroy(&roots[1]).unwrap();
    assert_eq!(kmip.roots().unwrap(), [&roots[0][..], &roots[2]]);
    let wrapped = kmip.wrap(&secret(), &context()).unwrap();
    assert_eq!((&wrapped.root, kmip.unwrap(&wrapped, &context())), (&roots[2], Ok(secret())));
    let next = kmip.add_root().unwrap();
    assert_eq!(kmip.wrap(&secret(), &context()).unwrap().root, next);
    // Taken out of use, the newest wraps no more, and no older one in its place: that is for a person to decide.
    kmip.revoke(&next, Reason::Superseded).unwrap();
    let error = kmip.wrap(&secret(), &context()).unwrap_err();
    assert!(matches!(&error, KeyError::Revoked { root, .. } if *root == next), "{error}");
    let none = kmip.destroy(&first.root).unwrap_err();
    assert!(matches!(&none, KeyError::NoSuchKey { .. }), "{none}");
}

#[test]
fn another_server_takes_over_and_none_is_said() {
    let site = Site::new("failover");
    let (one, two) = (site.server("server", None), site.server("server", None));
    let dead = free_port();
    let mut kmip = Kmip::open(&site.uri(&[dead, one.port, two.port], "root", "client")).unwrap();
    kmip.add_root().unwrap();
    let wrapped = kmip.wrap(&secret(), &context()).unwrap();
    drop(one);
    assert_eq!(kmip.unwrap(&wrapped, &context()).unwrap(), secret());
    assert_eq!(kmip.status(), ProviderStatus::Ready);
    drop(two);
    let error = kmip.unwrap(&wrapped, &context()).unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert!(matches!(kmip.status(), ProviderStatus::Unavailable { .. }));
}

#[test]
fn certificates_that_do_not_fit_say_which() {
    let site = Site::new("certificates");
    let server = site.server("server", None);
    let status = |client: &str| {
        let kmip = Kmip::open(&site.uri(&[server.port], "root", client)).unwrap();
        kmip.roots().map(drop)
    };
    status("client").unwrap();
    let error = status("client-expired").unwrap_err();
    assert!(matches!(&error, KeyError::Expired { what, .. } if what.contains("client")), "{error}");
    let error = status("client-stranger").unwrap_err();
    assert!(matches!(&error, KeyError::Refused { cause, .. } if cause.contains("this client's")), "{error}");
    let error = status("nobody").unwrap_err();
    assert!(matches!(&error, KeyError::Local { .. }) && error.to_string().contains("nobody"), "{error}");
    let old = site.server("server-expired", None);
    let kmip = Kmip::open(&site.uri(&[old.port], "root", "client")).unwrap();
    let error = kmip.roots().unwrap_err();
    assert!(matches!(&error, KeyError::Expired { what, .. } if what.contains("server's")), "{error}");
    assert!(error.remedy().contains("need not be restarted"));
    // An authority that did not sign the server's.
    let text = site.uri(&[server.port], "root", "client").to_string();
    let other = text.replace("/ca.pem", "/other-ca.pem").parse().unwrap();
    let error = Kmip::open(&other).unwrap().roots().unwrap_err();
    assert!(matches!(&error, KeyError::Refused { cause, .. } if cause.contains("UnknownIssuer")), "{error}");
    // A key that others can read.
    let loose = site.path("client.key");
    std::fs::set_permissions(&loose, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = status("client").unwrap_err();
    assert!(error.to_string().contains("others can read") && error.remedy().contains("chmod 600"), "{error}");
}

/// A certificate that was renewed counts from the next call on.
#[test]
fn renewed_certificates_take_no_restart() {
    let site = Site::new("renewed");
    let server = site.server("server", None);
    let kmip = with_root(&site, server.port);
    let wrapped = kmip.wrap(&secret(), &context()).unwrap();
    let copy = |from: &str| {
        for kind in ["pem", "key"] {
            std::fs::copy(site.path(&format!("{from}.{kind}")), site.path(&format!("client.{kind}")))
                .unwrap();
        }
    };
    for kind in ["pem", "key"] {
        std::fs::copy(site.path(&format!("client.{kind}")), site.path(&format!("good.{kind}"))).unwrap();
    }
    copy("client-expired");
    assert!(matches!(kmip.unwrap(&wrapped, &context()), Err(KeyError::Expired { .. })));
    copy("good");
    assert_eq!(kmip.unwrap(&wrapped, &context()).unwrap(), secret());
}

/// What listens there and is no server, or says nothing, holds nobody up and breaks nothing.
#[test]
fn what_is_no_server_is_away() {
    let site = Site::new("strange");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        for (n, stream) in listener.incoming().take(2).enumerate() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(if n == 0 { b"220 mail.example ESMTP\r\n" } else { b"" });
            // Silent until the other side gives up.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let text = site.uri(&[port], "root", "client").to_string().replace("timeout=20", "timeout=1");
    let kmip = Kmip::open(&text.parse().unwrap()).unwrap();
    for _ in 0..2 {
        let error = kmip.roots().unwrap_err();
        assert!(error.may_pass(), "{error}");
    }
    serving.join().unwrap();
}
