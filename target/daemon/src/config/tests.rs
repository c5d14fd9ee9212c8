//! The example is sound; each error says file, line and remedy.

use super::*;
use crate::model::{Backing, Lookup, Serves};

fn parse(text: &str) -> Result<Config, Rejected> {
    Config::parse(Path::new("/etc/caisson.toml"), text)
}

/// What a person sees for a bad file.
fn said(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(r) => r.to_string(),
    }
}

#[test]
fn the_example_is_sound() {
    let text = include_str!("../../../../docs/caisson.example.toml");
    let c = parse(text).unwrap_or_else(|r| panic!("{r}"));
    assert!(c.objects.volumes().count() >= 3 && c.objects.listeners().count() >= 2);
    assert!(c.objects.subsystems().count() >= 2 && c.objects.referrals().count() >= 1);
    // Every line that is commented out as an alternative is a key that exists, too.
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("#: ") {
            let (key, value) = rest.split_once(" = ").unwrap();
            assert!(
                !key.is_empty() && toml::from_str::<toml::Table>(&format!("x = {value}")).is_ok(),
                "{line}"
            );
        }
    }
}

#[test]
fn a_small_file_is_enough() {
    let c = parse(
        "data_dir = 'data'\n[[volume]]\nname = 'a'\nsize = '1G'\n[[subsystem]]\nnqn = 'nqn.2024-01.com.example:a'\n\
         allow_any_host = true\nnamespace = [{ volume = 'a' }]\n[[listener]]\naddress = 'tcp://0.0.0.0'\n",
    )
    .unwrap_or_else(|r| panic!("{r}"));
    assert_eq!(c.settings.data_dir.as_deref(), Some(Path::new("/etc/data")));
    assert_eq!(c.settings.socket.as_deref(), Some(Path::new("/etc/data/caisson.sock")));
    let v = c.objects.volume("a").unwrap();
    assert_eq!(
        (v.size, v.block_size, &v.backing),
        (1 << 30, 4096, &Backing::Pool { pool: "default".into() })
    );
    assert_eq!(c.objects.namespaces().next().map(|n| n.nsid), Some(1));
    let l = c.objects.listeners().next().unwrap();
    assert_eq!((l.address.to_string().as_str(), l.serves), ("tcp://0.0.0.0:4420", Serves::Both));
}

/// The whole message, letter by letter, for one of each family.
#[test]
fn errors_are_golden() {
    assert_eq!(
        said("data_dir = 'd'\n[[volume]]\nname = 'a'\nszie = '1G'\n"),
        "/etc/caisson.toml:4:1: [[volume]] has no key `szie`\n  4 | szie = '1G'\n    | ^^^^\n  remedy: did you mean `size`?"
    );
    assert_eq!(
        said("data_dir = 'd'\n[[volume]]\nname = 'a'\nsize = '1X'\n"),
        "/etc/caisson.toml:4:8: 'X' in '1X' is no unit of size: K, M, G, T, P or KiB, MiB, GiB, TiB, PiB are powers of \
         1024; KB, MB, GB, TB, PB are powers of 1000; B or nothing is bytes\n  4 | size = '1X'\n    |        ^^^^\n  remedy: \
         write size = \"10G\"; units are K, M, G, T (of 1024) and KB, MB, GB, TB (of 1000)"
    );
    assert_eq!(
        said(
            "[[subsystem]]\nnqn = 'nqn.2024-01.com.example:a'\n\n[[subsystem]]\nnqn = 'nqn.2024-01.com.example:a'\n"
        ),
        "/etc/caisson.toml:5:7: subsystem nqn.2024-01.com.example:a is declared twice\n  5 | nqn = \
         'nqn.2024-01.com.example:a'\n    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^\n  remedy: it is first declared on line 2: remove \
         one, or give this one another name"
    );
    assert_eq!(
        said("[[listener]]\naddress = 'tcp://10.0.0.999:4420'\n"),
        "/etc/caisson.toml:2:11: `tcp://10.0.0.999:4420` is not an address and port\n  2 | address = \
         'tcp://10.0.0.999:4420'\n    |           ^^^^^^^^^^^^^^^^^^^^^^^\n  remedy: write address = \"tcp://0.0.0.0:4420\""
    );
}

/// Where, which word of the error, which word of the remedy.
#[test]
fn every_error_has_place_and_remedy() {
    let ns = "[[subsystem]]\nnqn = 'nqn.2024-01.com.example:a'\n";
    let cases: Vec<(String, usize, &str, &str)> = vec![
        ("x = 1".into(), 1, "no key `x`", "remove it"),
        ("data_dri = 'd'".into(), 1, "no key `data_dri`", "did you mean `data_dir`"),
        ("data_dir = 5".into(), 1, "whole number, not a string", "data_dir = "),
        ("data_dir = 'd'\nfoo = ".into(), 2, "not TOML", "example"),
        ("[[volume]]\nname = 'a'\nsize = 4096".into(), 2, "no pool default", "data_dir"),
        (
            "data_dir='d'\n[[volume]]\nname = 'a'\npool = 'defualt'\nsize = 4096".into(),
            4,
            "no pool defualt",
            "did you mean",
        ),
        ("[[volume]]\nsize = 4096\nbacking = 'ram'".into(), 1, "lacks `name`", "add name"),
        ("[[volume]]\nname = 'a'\nbacking = 'ram'".into(), 2, "no size", "size ="),
        (
            "[[volume]]\nname = 'a'\nbacking = 'rma'\nsize = 4096".into(),
            3,
            "cannot be \"rma\"",
            "did you mean \"ram\"",
        ),
        ("[[volume]]\nname = 'a'\nbacking = 'ram'\nsize = 4097".into(), 2, "not a multiple", "8192"),
        (
            "[[volume]]\nname = 'a'\nbacking = 'ram'\nsize = 4096\nblock_size = 1024".into(),
            2,
            "block size 1024",
            "4096",
        ),
        ("[[volume]]\nname = 'a/b'\nbacking = 'ram'\nsize = 4096".into(), 2, "volume's name", "letters"),
        ("[[volume]]\nname = 'a'\nbacking = 'file'\nsize = 4096".into(), 3, "needs a `path`", "path ="),
        (
            "[[volume]]\nname = 'a'\nbacking = 'ram'\npath = '/x'\nsize = 4096".into(),
            4,
            "does not go",
            "remove",
        ),
        ("[volume]\nname = 'a'".into(), 1, "one table", "[[volume]]"),
        (
            "[[volume]]\nname = 'a'\nbacking = 'ram'\nsize = 4096\nblock_size = '4K'".into(),
            5,
            "not a whole number",
            "block_size = NUMBER, without quotes: 512 to 4096",
        ),
        (format!("{ns}namespace = [{{ volume = 'gone' }}]"), 3, "does not exist", "caisson volume create"),
        (format!("{ns}[[subsystem.namespace]]\nnsid = 0\nvolume = 'v'"), 4, "out of range", "1 to 1024"),
        (format!("{ns}[[subsystem.namespace]]\nvolume = 'v'\nuuid = 'x'"), 5, "not a UUID", "uuid ="),
        (format!("{ns}hosts = ['iqn.bad']"), 3, "does not begin", "hostnqn"),
        (format!("{ns}hosts = [3]"), 3, "not a string", "hosts"),
        (
            format!("{ns}allow_any_host = true\nhosts = ['nqn.2024-01.com.example:h']"),
            3,
            "also names hosts",
            "remove",
        ),
        ("[[subsystem]]\nnqn = 'nqn.2014-08.org.nvmexpress.discovery'".into(), 2, "discovery", "another NQN"),
        (
            "[[subsystem]]\nnqn = 'nqn.2024-01.com.example:a'\nserial = 'much too long for a serial'".into(),
            2,
            "serial",
            "20",
        ),
        ("[[listener]]\naddress = 'fc://1.2.3.4:4420'".into(), 2, "rdma", "tcp://"),
        ("[[listener]]\ntrtype = 'rdma'\naddress = 'tcp://1.2.3.4:4420'".into(), 3, "trtype", "rdma://"),
        ("[[listener]]\ntrtype = 'fc'\naddress = '1.2.3.4:4420'".into(), 2, "fc", "rdma"),
        (
            "[[listener]]\naddress = '1.2.3.4'\n[[listener]]\naddress = 'tcp://1.2.3.4:4420'".into(),
            4,
            "twice",
            "line 2",
        ),
        ("[reactor]\ncores = '0-'".into(), 2, "not a core number", "0-3"),
        ("[reactor]\npolling = 'allways'".into(), 2, "allways", "did you mean \"always\""),
        ("[limits]\nconnections = 0".into(), 2, "out of range", "use 1 to"),
        ("[limits]\nin_capsule_data = '4097'".into(), 2, "multiple of 16", "16K"),
        ("[metrics]\naddress = 'localhost'".into(), 2, "not an address", "127.0.0.1:9899"),
        (format!("[management]\nsocket = '/{}'", "x".repeat(120)), 2, "more than 107", "shorter"),
        ("[log]\nformat = 'xml'".into(), 2, "cannot be \"xml\"", "\"text\""),
    ];
    for (text, line, error, remedy) in cases {
        let r = parse(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        let said = r.to_string();
        assert!(said.starts_with(&format!("/etc/caisson.toml:{line}:")), "line {line} wanted: {said}");
        assert!(r.problems[0].error.contains(error), "{error}: {said}");
        assert!(r.problems[0].remedy.contains(remedy), "{remedy}: {said}");
    }
}

#[test]
fn all_problems_at_once() {
    let r = parse("[reactor]\ncores = 'x'\n[log]\nformat = 'y'\nwhat = 1\n").unwrap_err();
    assert_eq!(r.problems.len(), 3);
    // A backing that is misspelt says nothing against the keys that go with it when it is not.
    let r = parse(
        "[[volume]]\nname = 'v'\nbacking = 'poool'\nsize = '1G'\ncompression = 'zstd:3'\ndedup = true\n\
         write_cache = true\nverify = true\ndomain = 'd'\n",
    )
    .unwrap_err();
    assert_eq!(r.problems.len(), 1, "{r}");
}

#[test]
fn keys_are_listed_once() {
    let at = "address = 'tcp://192.0.2.1:4420'\n";
    for (text, keys) in [
        (format!("[[listener]]\n{at}x = 1"), "the keys here are serves, trtype, address\n"),
        ("[[listener]]\nx = 1".into(), "the keys here are serves, trtype, address\n"),
        (format!("[[referral]]\n{at}x = 1"), "the keys here are address\n"),
    ] {
        let said = format!("{}\n", said(&text));
        assert!(said.contains(keys), "{said}");
    }
}

#[test]
fn pools_of_devices_and_what_they_do_with_volumes() {
    use crate::model::{Compression, Device, Pool, Services};
    let c = parse(
        "data_dir = 'd'\n[[pool]]\nname = 'main'\nkey_file = 'main.key'\npassphrase_file = '/p'\nmemory = '1G'\n\
         [[pool.device]]\npath = '/dev/a'\n[[pool.device]]\npath = 'b.pool'\nsize = '10G'\n\
         [[volume]]\nname = 'v'\npool = 'main'\nsize = '1G'\ncompression = 'zstd:-3'\ndedup = false\nverify = true\n\
         [[volume]]\nname = 'w'\npool = 'main'\nsize = '1G'\n[[volume]]\nname = 'x'\nsize = '1G'\n",
    )
    .unwrap_or_else(|r| panic!("{r}"));
    let device = |path: &str, size| Device { path: path.into(), size };
    assert_eq!(
        c.objects.pool("main"),
        Some(&Pool {
            name: "main".into(),
            devices: vec![device("/dev/a", 0), device("/etc/b.pool", 10 << 30)],
            key_file: Some("/etc/main.key".into()),
            passphrase_file: Some("/p".into()),
            keys: Vec::new(),
            memory: 1 << 30,
        })
    );
    let of = |name: &str| c.objects.volume(name).unwrap().services;
    let all = Services::default();
    assert_eq!(
        of("v"),
        Some(Services { compression: Compression::Zstd(-3), dedup: false, verify: true, ..all })
    );
    assert_eq!((of("w"), of("x")), (Some(all), None));
    assert_eq!(c.objects.volume("v").unwrap().domain, None);
    assert!(c.settings.pools.contains_key("default") && !c.settings.pools.contains_key("main"));
}

#[test]
fn pools_have_keys_from_tokens_and_servers() {
    let text =
        |keys: &str| format!("[[pool]]\nname = 'm'\nkeys = [{keys}]\ndevice = [{{ path = '/dev/a' }}]\n");
    let c = parse(&text("'pkcs11:token=T;object=r?module-path=/m.so&pin-source=file:pin', 'file:spare.key'"))
        .unwrap_or_else(|r| panic!("{r}"));
    let pool = c.objects.pool("m").unwrap();
    let named: Vec<String> = pool.providers().iter().map(ToString::to_string).collect();
    let want = "pkcs11:token=T;object=r?module-path=/m.so&pin-source=file:/etc/pin";
    assert_eq!(named, [want, "file:/etc/spare.key"]);
    for (keys, words) in [
        ("'pkcs11:token=T?pin-value=1234'", "pin-source"),
        ("'vault:x'", "write file:PATH"),
        ("1", "a string"),
        ("'file:a', 'file:a'", "twice"),
    ] {
        let said = said(&text(keys));
        assert!(said.contains(words) && said.contains("remedy:"), "{keys}: {said}");
    }
}

#[test]
fn errors_of_pools_name_the_line_and_the_remedy() {
    let pool = "[[pool]]\nname = 'm'\nkey_file = 'k'\ndevice = [{ path = '/dev/a' }]\n";
    for (text, place, words) in [
        ("[[pool]]\nkey_file = 'k'\n", ":1:", "lacks a device"),
        ("[[pool]]\ndevice = [{ path = '/a' }]\n", ":1:", "lacks a `key_file`"),
        ("[[pool]]\npath = 'p'\nmemory = '1G'\n", ":3:10", "does not go with a pool that is a folder"),
        ("[[pool]]\npath = 'p'\nkey_file = 'k'\n", ":2:8", "write [[pool.device]]"),
        ("[[pool]]\nkey_file = 'k'\ndevice = [{ path = '/a', sise = 1 }]\n", ":3:", "did you mean `size`?"),
        ("[[pool]]\nkey_file = 'k'\nmemory = 1\ndevice = [{ path = '/a' }]\n", ":3:10", "out of range"),
        (&format!("{pool}{pool}"), ":6:8", "pool m is declared twice"),
        (&format!("{pool}[[pool]]\nname = 'm'\npath = 'p'\n"), ":6:8", "pool m is declared twice"),
        (&format!("{pool}[[volume]]\nname = 'v'\nsize = 4096\npool = 'n'\n"), ":8:8", "did you mean \"m\"?"),
        (
            &format!("{pool}[[volume]]\nname = 'v'\nsize = 4096\npool = 'm'\ncompression = 'lz4'\n"),
            ":9:15",
            "zstd:LEVEL",
        ),
        ("[[volume]]\nname = 'v'\nbacking = 'ram'\nsize = 4096\ndedup = true\n", ":5:9", "put the volume in"),
        (
            "[[volume]]\nname = 'v'\nbacking = 'ram'\nsize = 4096\ndomain = 'a'\n",
            ":5:10",
            "put the volume in",
        ),
        (&format!("{pool}[[volume]]\nname = 'v'\npath = '/dev/a'\n"), ":6:8", "which pool m is on"),
    ] {
        let said = said(text);
        assert!(
            said.contains(&format!("/etc/caisson.toml{place}")) && said.contains(words),
            "{text}\n{said}"
        );
        assert!(said.contains("remedy:"), "{said}");
    }
}
