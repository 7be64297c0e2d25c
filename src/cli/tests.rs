use std::net::IpAddr;

use dtun_client::RouteWhat;
use dtun_shared::leaving::Bind;
use proptest::prelude::*;

use super::table::Takes;
use super::*;

fn with_env(args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, String> {
    parse(args.iter().map(OsString::from), |name| {
        env.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| OsString::from(value))
    })
    .map_err(|usage| usage.to_string())
}

fn parsed(line: &str) -> Result<Invocation, String> {
    let args: Vec<_> = line.split_whitespace().collect();
    with_env(&args, &[])
}

fn hub(line: &str) -> HubConfig {
    let Order::Hub(config) = parsed(line).unwrap().order else {
        panic!("{line} is no hub");
    };
    *config
}

fn spoke(line: &str) -> SpokeConfig {
    let Order::Spoke(config) = parsed(line).unwrap().order else {
        panic!("{line} is no spoke");
    };
    *config
}

fn refused(line: &str) -> String {
    parsed(line).unwrap_err()
}

/// A file of this test's own, removed at its end.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str, mode: u32) -> Self {
        use std::os::unix::fs::PermissionsExt;

        let path = std::env::temp_dir().join(format!("dtun-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn a_key_alone_makes_a_hub_with_the_defaults() {
    let config = hub("-key foo");

    assert_eq!(config.psk.as_bytes(), b"foo");
    assert_eq!(config.listen, None);
    assert_eq!(config.pool4, None);
    assert_eq!(config.pool6, Pool6::Default);
    assert_eq!(config.lease, Duration::from_secs(3600));
    assert_eq!(config.keepalive, Duration::from_secs(25));
    assert!(config.spoke_to_spoke);
    assert_eq!(config.nat, None);
    assert_eq!(config.suites, CipherSuite::ALL);
}

#[test]
fn connect_makes_a_spoke_with_the_defaults() {
    let config = spoke("-connect vpn.example.com:443 -key foo");

    assert_eq!(config.connect, "vpn.example.com:443");
    assert_eq!(config.hint, None);
    assert_eq!(config.peernet, []);
    assert_eq!(config.tun, None);
    assert_eq!(config.fallback, Some(Duration::from_secs(60)));
    assert!(!config.once);
}

#[test]
fn every_flag_of_a_hub_arrives() {
    let config = hub(
        "-key=foo --listen 192.0.2.1:4433 -pool4 10.9.8.7/24 -pool6 fd00:9::/64 -lease 10m \
         -allow-peernet 100.64.0.0/10,2001:db8::/32 -no-spoke-to-spoke -mtu 1300 -up /bin/true \
         -nat -nat-except 192.168.0.0/16 \
         -down /bin/false -keepalive 5s -state /var/lib/dtun -id ignored",
    );

    assert_eq!(config.listen, Some("192.0.2.1:4433".parse().unwrap()));
    assert_eq!(config.pool4, Some("10.9.8.0/24".parse().unwrap()));
    assert_eq!(config.pool6, Pool6::Net("fd00:9::/64".parse().unwrap()));
    assert_eq!(config.lease, Duration::from_secs(600));
    assert_eq!(
        config.allow_peernet,
        ["100.64.0.0/10", "2001:db8::/32"].map(|net| net.parse().unwrap())
    );
    assert!(!config.spoke_to_spoke);
    let except = vec!["192.168.0.0/16".parse().unwrap()];
    assert_eq!(config.nat, Some(NatConfig { except }));
    assert_eq!(config.mtu, Some(1300));
    assert_eq!(config.up, Some("/bin/true".into()));
    assert_eq!(config.down, Some("/bin/false".into()));
    assert_eq!(config.keepalive, Duration::from_secs(5));
    assert_eq!(config.state, Some("/var/lib/dtun".into()));
}

#[test]
fn every_flag_of_a_spoke_arrives() {
    let config = spoke(
        "-connect [2001:db8::1]:443 -key foo -id laptop -peernet 192.168.1.9/24,192.168.1.0/24 \
         -tun tun7 -fallback never -once -mtu 1280 -up /bin/true -down /bin/false -keepalive 1m \
         -state /tmp",
    );

    assert_eq!(config.hint.as_deref(), Some("laptop"));
    assert_eq!(config.peernet, ["192.168.1.0/24".parse().unwrap()]);
    assert_eq!(config.tun.as_deref(), Some("tun7"));
    assert_eq!(config.fallback, None);
    assert!(config.once);
    assert_eq!(config.mtu, Some(1280));
    assert_eq!(config.up, Some("/bin/true".into()));
    assert_eq!(config.down, Some("/bin/false".into()));
    assert_eq!(config.keepalive, Duration::from_secs(60));
    assert_eq!(config.state, Some("/tmp".into()));
}

#[test]
fn flags_have_the_syntax_of_the_go_program() {
    assert_eq!(hub("-key=a=b").psk.as_bytes(), b"a=b");
    assert_eq!(hub("--key -dashed").psk.as_bytes(), b"-dashed");
    assert_eq!(hub("-key -once").psk.as_bytes(), b"-once");
    assert_eq!(hub("-key one -key two").psk.as_bytes(), b"two");
    assert!(spoke("-once=true -connect h:1 -key foo").once);
    assert!(!spoke("-once -once=false -connect h:1 -key foo").once);
    assert_eq!(
        hub("-listen :443 -key foo").listen.unwrap().to_string(),
        "[::]:443"
    );
    assert_eq!(spoke("-connect h:1 -key foo -peernet empty").peernet, []);
}

#[test]
fn a_mistake_is_one_line_that_names_the_flag_and_the_fix() {
    for (line, said) in [
        (
            "-pool4 10.0.0.0/33 -key foo",
            "-pool4 10.0.0.0/33: not a network such as 10.0.0.0/24",
        ),
        (
            "-pool4 10.0.0.0/31 -key foo",
            "-pool4 10.0.0.0/31: no room for a spoke: /30 at least, /24 for 253 of them",
        ),
        (
            "-pool4 127.0.0.0/24 -key foo",
            "-pool4 127.0.0.0/24: addresses no device can have: use a private network such as 10.0.0.0/24",
        ),
        (
            "-pool6 10.0.0.0/24 -key foo",
            "-pool6 10.0.0.0/24: neither a network such as fd00:77::/120 nor the word none",
        ),
        (
            "-listen 443 -key foo",
            "-listen 443: not an address and port such as [::]:443 or 192.0.2.1:443",
        ),
        (
            "-connect example.com -key foo",
            "-connect example.com: the port is missing: example.com:443",
        ),
        (
            "-connect 2001:db8::1 -key foo",
            "-connect 2001:db8::1: an IPv6 address goes in brackets, with a port: [2001:db8::1]:443",
        ),
        (
            "-connect h:0 -key foo",
            "-connect h:0: no port from 1 to 65535 after the colon: h:443",
        ),
        (
            "-key foo -nat-except 10.0.0.0/8",
            "-nat-except: names networks that -nat leaves alone: give -nat as well",
        ),
        (
            "-connect= -key foo",
            "-connect: empty: give the hub as HOST:PORT, or leave the flag out to be the hub",
        ),
        (
            "-peernet 192.168.1.7 -key foo",
            "-peernet 192.168.1.7: 192.168.1.7 has no prefix length: 192.168.1.7/32 for the one address",
        ),
        (
            "-peernet lan -key foo",
            "-peernet lan: \"lan\" is not a network such as 192.168.1.0/24",
        ),
        (
            "-tun a/b -key foo",
            "-tun a/b: not a device's name such as dtun0: 1 to 15 bytes, no blank, / : or %",
        ),
        ("-id= -key foo", "-id: 0 bytes: a name has 1 to 128"),
        (
            "-keepalive 25 -key foo",
            "-keepalive 25: not a time with its unit, such as 25s, 10m or 1h",
        ),
        (
            "-keepalive 1ms -key foo",
            "-keepalive 1ms: not within 1s and 20m",
        ),
        (
            "-fallback soon -key foo",
            "-fallback soon: not a time with its unit, such as 25s, 10m or 1h, or the word never",
        ),
        (
            "-mtu 1279 -key foo",
            "-mtu 1279: not a number from 1280 to 16384, or without it what the path carries",
        ),
        (
            "-mtu 16385 -key foo",
            "-mtu 16385: not a number from 1280 to 16384, or without it what the path carries",
        ),
        (
            "-log-format xml -key foo",
            "-log-format xml: neither text nor json",
        ),
        (
            "-offload maybe -key foo",
            "-offload maybe: neither on nor off",
        ),
        (
            "-suite CCM -key foo",
            "-suite CCM: none of gcm, ccm and ccm8",
        ),
        (
            "-once=maybe -key foo",
            "-once maybe: neither true nor false",
        ),
        (
            "-up /nowhere/up.sh -key foo",
            "-up /nowhere/up.sh: No such file or directory (os error 2)",
        ),
        (
            "-up /etc/passwd -key foo",
            "-up /etc/passwd: cannot be run: chmod +x /etc/passwd",
        ),
        (
            "-key foo -frobnicate 7",
            "-frobnicate: no such flag: dtun -h lists them",
        ),
        ("-key", "-key: needs a value after it"),
        (
            "-key foo -key-file bar",
            "-key and -key-file: give one of them",
        ),
        (
            "-key-file /nowhere/key",
            "-key-file /nowhere/key: No such file or directory (os error 2)",
        ),
        (
            "serve",
            "the first argument: not a flag: dtun -h lists them",
        ),
        ("routes add", "routes: use: dtun routes add|del FILE"),
        (
            "",
            "no key: give -key-file PATH, -key S or DTUN_KEY; openssl rand -base64 32 > PATH makes one",
        ),
    ] {
        assert_eq!(refused(line), said, "for {line}");
    }
}

#[test]
fn an_empty_key_is_refused_wherever_it_comes_from() {
    let empty = File::new("empty", "\n", 0o600);
    let path = empty.0.to_str().unwrap();

    assert!(refused("-key=").starts_with("-key: the key is empty"));
    assert!(refused(&format!("-key-file {path}")).contains("the key is empty"));
    assert!(
        with_env(&[], &[("DTUN_KEY", "")])
            .unwrap_err()
            .starts_with("DTUN_KEY: the key is empty")
    );
}

#[test]
fn the_words_of_a_key_that_the_shell_split_are_not_said() {
    let said = refused("-key hunter2 correct horse");

    assert_eq!(
        said,
        "after -key: a word that is no flag: quote a value that has blanks"
    );
}

#[test]
fn a_key_file_loses_one_newline_and_no_more() {
    let one = File::new("one", "foo\n", 0o600);
    let two = File::new("two", " foo\n\n", 0o600);

    assert_eq!(
        hub(&format!("-key-file {}", one.0.display()))
            .psk
            .as_bytes(),
        b"foo"
    );
    assert_eq!(
        hub(&format!("-key-file {}", two.0.display()))
            .psk
            .as_bytes(),
        b" foo\n"
    );
}

#[test]
fn a_key_file_that_others_can_read_is_warned_of() {
    let open = File::new("open", "foo", 0o640);
    let closed = File::new("closed", "foo", 0o600);
    let warnings = |file: &File| {
        parsed(&format!("-key-file {}", file.0.display()))
            .unwrap()
            .warnings
    };

    assert_eq!(
        warnings(&open),
        [format!(
            "{} can be read by other users: chmod 600 {0}",
            open.0.display()
        )]
    );
    assert_eq!(warnings(&closed), [""; 0]);
}

#[test]
fn a_file_holds_the_same_flags_one_a_line() {
    let file = File::new(
        "spoke.conf",
        "# a laptop\nconnect vpn.example.com:443\nkey 'f o o'\n\nid = lap # top\nonce\nstrict=false\n",
        0o600,
    );
    let config = spoke(&format!("-config {}", file.0.display()));

    assert_eq!(config.connect, "vpn.example.com:443");
    assert_eq!(config.psk.as_bytes(), b"f o o");
    assert_eq!(config.hint.as_deref(), Some("lap"));
    assert!(config.once && !config.strict);
}

#[test]
fn lines_for_the_shell_may_be_given_several_times_in_a_file_too() {
    let file = File::new(
        "lines.conf",
        "key foo\npost-up 'one %i'\npost-down \"no one\"\npost-up 'two; three'\n",
        0o600,
    );
    let path = file.0.display();
    let lines = hub(&format!("-config {path}")).lines;
    assert_eq!(lines.up, ["one %i", "two; three"]);
    assert_eq!(lines.down, ["no one"]);

    let lines = hub(&format!("-post-up a -config {path} -post-up b")).lines;
    assert_eq!(lines.up, ["a", "b"]);
    assert_eq!(lines.down, ["no one"]);
}

#[test]
fn the_command_line_beats_the_file_wherever_it_stands() {
    let file = File::new("hub.conf", "key foo\nlease 2h\npool4 nonsense\nv\n", 0o600);
    let path = file.0.display();
    let config = hub(&format!(
        "-lease 10m -pool4 10.1.0.0/24 -key bar -config {path}"
    ));
    assert_eq!(config.lease, Duration::from_secs(600));
    assert_eq!(config.psk.as_bytes(), b"bar");

    let key = File::new("other.key", "baz", 0o600);
    let config = hub(&format!(
        "-config {path} -key-file {} -pool4 10.1.0.0/24",
        key.0.display()
    ));
    assert_eq!(config.psk.as_bytes(), b"baz");
    assert_eq!(config.lease, Duration::from_secs(7200));
}

#[test]
fn a_mistake_in_a_file_names_file_and_line_and_never_a_key() {
    for (text, said) in [
        (
            "\npool4 10.0.0.0/33\nkey foo",
            ":2: -pool4 10.0.0.0/33: not a network such as 10.0.0.0/24",
        ),
        (
            "c2VjcmV0=\n",
            ":1: no flag has this name: dtun -h lists them",
        ),
        (
            "key c2Vj cmV0",
            ":1: more than one word: put quotes around a value that has blanks",
        ),
        ("key\n", ":1: -key: needs a value after it"),
        ("config x", ":1: -config is for the command line"),
        (
            "v\n\nroute default\nroute fd00::/8",
            ":4: -route stands in line 3 as well: put all that it says into one line",
        ),
        (
            "key foo\nconnect h:1\nstrict",
            ":3: -strict: stops all that does not go into the tunnel, so something must: \
             -route default",
        ),
        (
            "key-file /no/such/key",
            ":1: -key-file /no/such/key: No such file or directory (os error 2)",
        ),
    ] {
        let file = File::new("wrong.conf", text, 0o600);
        let path = file.0.display();
        assert_eq!(refused(&format!("-config {path}")), format!("{path}{said}"));
    }
    let file = File::new("right.conf", "key foo\npool4 10.0.0.0/24", 0o600);
    assert_eq!(
        refused(&format!("-config {} -pool4 x", file.0.display())),
        "-pool4 x: not a network such as 10.0.0.0/24"
    );
    assert_eq!(
        refused("-config /no/such/file"),
        "-config /no/such/file: No such file or directory (os error 2)"
    );
    assert!(matches!(
        parsed("-config /no/such/file -h").unwrap().order,
        Order::Help
    ));
}

#[test]
fn a_file_with_a_key_that_others_can_read_is_warned_of() {
    let warnings = |text: &str, mode: u32| {
        let file = File::new("open.conf", text, mode);
        let path = file.0.display().to_string();
        (
            parsed(&format!("-key foo -config {path}"))
                .unwrap()
                .warnings,
            path,
        )
    };

    let (said, path) = warnings("key bar", 0o640);
    assert_eq!(
        said,
        [format!(
            "{path} can be read by other users: chmod 600 {path}"
        )]
    );
    assert!(warnings("key bar", 0o600).0.is_empty());
    assert!(warnings("lease 1h", 0o644).0.is_empty());
}

#[test]
fn the_environment_has_the_key_when_no_flag_has() {
    let of = |args: &[&str]| {
        let Order::Hub(config) = with_env(args, &[("DTUN_KEY", "env")]).unwrap().order else {
            panic!("no hub");
        };
        config.psk.as_bytes().to_vec()
    };

    assert_eq!(of(&[]), b"env");
    assert_eq!(of(&["-key", "flag"]), b"flag");
}

#[test]
fn a_credential_of_the_service_is_the_key_when_nothing_else_is() {
    let folder = std::env::temp_dir().join(format!("dtun-credentials-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("key"), "secret\n").unwrap();
    let directory = ("CREDENTIALS_DIRECTORY", folder.to_str().unwrap());
    let of = |args: &[&str], env: &[(&str, &str)]| {
        let Order::Hub(config) = with_env(args, env).unwrap().order else {
            panic!("no hub");
        };
        config.psk.as_bytes().to_vec()
    };

    assert_eq!(of(&[], &[directory]), b"secret");
    assert_eq!(of(&[], &[directory, ("DTUN_KEY", "env")]), b"env");
    assert_eq!(of(&["-key", "flag"], &[directory]), b"flag");
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(with_env(&[], &[directory]).is_err(), "no such credential");
}

#[test]
fn offloads_are_on_unless_they_are_switched_off() {
    assert!(hub("-key foo").offload);
    assert!(!hub("-key foo -offload off").offload);
    assert!(!spoke("-connect a:1 -key foo --offload=off").offload);
}

#[test]
fn a_suite_that_is_named_is_the_only_one() {
    assert_eq!(hub("-key foo -suite ccm8").suites, [CipherSuite::Ccm8]);
    assert_eq!(hub("-key foo -suite=ccm").suites, [CipherSuite::Ccm]);
    assert_eq!(
        spoke("-connect a:1 -key foo -suite gcm").suites,
        [CipherSuite::Gcm]
    );
}

#[test]
fn the_state_directory_of_systemd_is_taken_unless_one_is_given() {
    let of = |args: &[&str]| {
        let Order::Hub(config) = with_env(args, &[("STATE_DIRECTORY", "/var/lib/dtun:/other")])
            .unwrap()
            .order
        else {
            panic!("no hub");
        };
        config.state
    };

    assert_eq!(of(&["-key", "foo"]), Some("/var/lib/dtun".into()));
    assert_eq!(of(&["-key", "foo", "-state", "/srv"]), Some("/srv".into()));
}

#[test]
fn a_flag_of_the_other_role_is_ignored_and_said() {
    assert_eq!(
        parsed("-key foo -connect h:1 -pool4 10.0.0.0/24 -id x")
            .unwrap()
            .warnings,
        ["-pool4 is for a hub and does nothing on a spoke"]
    );
    assert_eq!(
        parsed("-key foo -peernet empty -once -id x")
            .unwrap()
            .warnings,
        [
            "-peernet is for a spoke and does nothing on a hub",
            "-once is for a spoke and does nothing on a hub"
        ]
    );
}

#[test]
fn help_and_version_need_no_key() {
    assert!(matches!(parsed("-h").unwrap().order, Order::Help));
    assert!(matches!(parsed("--help").unwrap().order, Order::Help));
    for order in ["lock", "unlock", "clean", "routes"] {
        let asked = parsed(&format!("{order} -h")).unwrap().order;
        assert!(matches!(asked, Order::Help), "{order}");
    }
    assert!(matches!(parsed("-version").unwrap().order, Order::Version));
}

#[test]
fn help_fits_one_screen() {
    let help = help();

    assert!(help.lines().count() <= 60);
    for line in help.lines() {
        assert!(line.chars().count() < 80, "too long: {line}");
    }
}

#[test]
fn the_table_has_the_flags_of_the_parser_and_no_others() {
    let described = GROUPS.iter().flat_map(|group| group.flags);
    let mut described: Vec<_> = described
        .map(|flag| {
            (
                flag.name,
                flag.takes != Takes::Nothing,
                !flag.value.is_empty(),
            )
        })
        .collect();
    let command = Flags::command();
    let mut parsed: Vec<_> = command
        .get_arguments()
        .map(|arg| (arg.get_long().unwrap(), !arg.is_require_equals_set()))
        .filter(|(name, _)| *name != "help")
        .map(|(name, takes)| (name, takes, takes))
        .collect();
    described.sort_unstable();
    parsed.sort_unstable();

    assert_eq!(described, parsed);
}

#[test]
fn the_readmes_name_every_flag() {
    let [english, chinese] =
        ["README.md", "README.zh.md"].map(|name| std::fs::read_to_string(name).unwrap());
    for flag in GROUPS.iter().flat_map(|group| group.flags) {
        let named = [" ", "`", "="].map(|end| format!("`-{}{end}", flag.name));
        for readme in [&english, &chinese] {
            assert!(
                named.iter().any(|name| readme.contains(name)),
                "-{} is not in a README",
                flag.name
            );
        }
    }
}

#[test]
fn the_key_is_in_no_debug_output() {
    let invocation = parsed("-key hunter2").unwrap();

    assert!(!format!("{invocation:?}").contains("hunter2"));
}

fn word() -> impl Strategy<Value = OsString> {
    use std::os::unix::ffi::OsStringExt;

    let flags: Vec<_> = Flags::command()
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(|long| format!("-{long}")))
        .collect();
    let value = "[0-9a-f.:/,=%\\[\\] -]{0,12}|none|never|true|[0-9]{1,30}(s|h|y)|\\PC{0,4}";

    prop_oneof![
        prop::sample::select(flags.clone()).prop_map(OsString::from),
        (prop::sample::select(flags), value)
            .prop_map(|(flag, value)| format!("{flag}={value}").into()),
        value.prop_map(OsString::from),
        prop::collection::vec(any::<u8>(), 0..6).prop_map(OsString::from_vec),
    ]
}

proptest! {
    #[test]
    fn no_arguments_panic_and_every_error_is_one_line(
        args in prop::collection::vec(word(), 0..6),
    ) {
        if let Err(usage) = parse(args, |_| None) {
            prop_assert_eq!(usage.to_string().lines().count(), 1);
        }
    }
}

#[test]
fn a_strict_spoke_never_falls_back() {
    let config = spoke(&format!("{SPOKE} -route default -strict"));
    assert!(config.strict);
    assert_eq!(config.fallback, None);

    let asked = parsed(&format!("{SPOKE} -route default -strict -fallback 1m")).unwrap();
    assert_eq!(asked.warnings, ["-fallback does nothing with -strict"]);
    assert_eq!(
        refused(&format!("{SPOKE} -strict")),
        "-strict: stops all that does not go into the tunnel, so something must: -route default"
    );
    assert_eq!(
        refused(&format!(
            "{SPOKE} -route default -route-from forwarded -strict"
        )),
        "-strict: stops what does not go into the tunnel, and with -route-from most does not: \
         leave one of them out"
    );
}

#[test]
fn lock_takes_the_spokes_flags_and_unlock_a_time() {
    let Order::Lock(config) = parsed("lock -route default -bypass @private -fwmark 7")
        .unwrap()
        .order
    else {
        panic!("another order");
    };
    assert_eq!(config.bypass.unwrap().words.len(), 1);
    assert_eq!(config.fwmark, "7".parse().ok());
    let said = |line: &str| parsed(line).unwrap().warnings;
    assert_eq!(
        said("lock -v -strict -bypass @private -tun dtun7 -dns 10.0.0.1 -fwmark 7 -strict"),
        ["-strict, -tun: nothing to a lock, which looks at -bypass, -dns and -fwmark alone"]
    );
    assert_eq!(said("lock -bypass @private"), [""; 0]);

    let file = File::new("lock.conf", "route default\nbypass @private\nstrict", 0o600);
    let order = parsed(&format!("lock -config {}", file.0.display()))
        .unwrap()
        .order;
    assert!(matches!(
        order,
        Order::Lock(LockConfig {
            bypass: Some(_),
            ..
        })
    ));

    for (line, time) in [
        ("unlock", None),
        ("unlock -for 5m", Some(300)),
        ("unlock --for=1h", Some(3600)),
    ] {
        let Order::Unlock(asked) = parsed(line).unwrap().order else {
            panic!("another order");
        };
        assert_eq!(asked, time.map(Duration::from_secs), "{line}");
    }
    assert_eq!(
        refused("unlock -for 5"),
        "unlock -for: not a time with its unit, such as 25s, 10m or 1h"
    );
    assert_eq!(
        refused("unlock all"),
        "unlock: use: dtun unlock [-for TIME]"
    );
}

#[test]
fn routes_bypass_table_and_preference_are_read() {
    let list = File::new("list", "192.0.2.0/24\n", 0o644);
    let bypass = format!("10.0.0.0/8,@private,{}", list.0.display());
    let config = spoke(&format!(
        "{SPOKE} -route default -bypass {bypass} -table 500 -rule-pref 100"
    ));

    assert_eq!(config.route, Some(RouteWhat::Everything(Vec::new())));
    assert_eq!(config.bypass.unwrap().words.len(), 3);
    assert_eq!((config.table, config.rule_pref), (Some(500), Some(100)));

    let config = spoke(&format!("{SPOKE} -route 10.1.2.3/8,fd00::/8"));
    let nets = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
    assert_eq!(config.route, Some(RouteWhat::Nets(nets.to_vec())));

    let config = spoke(&format!("{SPOKE} -route default,10.1.2.3/8,fd00::/8"));
    assert_eq!(config.route, Some(RouteWhat::Everything(nets.to_vec())));
    assert!(refused(&format!("{SPOKE} -route default,")).contains("empty"));
}

#[test]
fn an_uplink_is_an_address_or_a_device() {
    let bind = |value: &str| spoke(&format!("{SPOKE} -bind {value}")).bind;

    assert_eq!(bind("wwan0"), Some(Bind::Device("wwan0".to_owned())));
    let address = Bind::Address("192.0.2.7".parse().unwrap());
    assert_eq!(bind("192.0.2.7"), Some(address.clone()));
    assert_eq!(bind("::ffff:192.0.2.7"), Some(address));
    for wrong in ["0.0.0.0", "ff02::1", "no/device"] {
        assert!(refused(&format!("{SPOKE} -bind {wrong}")).starts_with("-bind"));
    }
}

#[test]
fn a_mark_is_for_both_roles() {
    let mark = "0x640000/0xff0000".parse().ok();

    assert_eq!(hub("-key foo -fwmark 0x640000/0xff0000").fwmark, mark);
    assert_eq!(
        spoke(&format!("{SPOKE} -fwmark=6553600/16711680")).fwmark,
        mark
    );
    assert_eq!(
        refused("-key foo -fwmark 0"),
        "-fwmark 0: every packet without a mark has 0: choose another value"
    );
}

#[test]
fn routes_that_cannot_be_are_refused_with_the_fix() {
    for (flags, line) in [
        (
            "-route 0.0.0.0/0",
            "-route 0.0.0.0/0: a prefix of length 0 is everything: -route default",
        ),
        (
            "-route all",
            "-route all: \"all\" is not a network such as 192.168.1.0/24, or the word default",
        ),
        (
            "-bypass @private",
            "-bypass: keeps networks out of what -route takes in: -route default",
        ),
        (
            "-route default -bypass /no/such/list",
            "-bypass /no/such/list: neither a network, nor @private, nor a file \
             (/no/such/list: No such file or directory (os error 2))",
        ),
        (
            "-route default -bypass /dev/null",
            "-bypass /dev/null: /dev/null is no regular file, and it is read again whenever it changes",
        ),
        (
            "-route default -table 252",
            "-table 252: not a number from 1 to 250 or from 256 on: three tables begin there",
        ),
        (
            "-route default -rule-pref 32760",
            "-rule-pref 32760: not a number from 1 to 32750: sixteen rules begin there",
        ),
    ] {
        assert_eq!(refused(&format!("{SPOKE} {flags}")), line);
    }
}

#[test]
fn resolvers_are_addresses_and_at_most_three() {
    let config = spoke(&format!("{SPOKE} -dns 10.0.0.1,fc00::1,10.0.0.1"));
    assert_eq!(
        config.dns,
        ["10.0.0.1", "fc00::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
    assert!(spoke(SPOKE).dns.is_empty());

    for (text, error) in [
        (
            "one.one",
            "-dns one.one: \"one.one\" is not an address such as 1.1.1.1",
        ),
        (
            "0.0.0.0",
            "-dns 0.0.0.0: 0.0.0.0 is nobody's address: give one such as 1.1.1.1",
        ),
        (
            ",",
            "-dns ,: empty: give an address such as 1.1.1.1, or leave the flag out",
        ),
        (
            "1.1.1.1,1.0.0.1,8.8.8.8,8.8.4.4",
            "-dns 1.1.1.1,1.0.0.1,8.8.8.8,8.8.4.4: 4 addresses: the C library asks the first 3 at most",
        ),
    ] {
        assert_eq!(refused(&format!("{SPOKE} -dns {text}")), error);
    }
}

#[test]
fn clean_takes_the_places_of_what_is_left_from_the_spokes_own_file() {
    let clean = |line: &str| {
        let parsed = parsed(line).unwrap();
        let Order::Clean(config) = parsed.order else {
            panic!("{line} is another order");
        };
        (config, parsed.warnings)
    };
    let text = "connect vpn:443\nkey foo\nstate /x\ntable 500\nroute default\n";
    let file = File::new("clean", text, 0o600);
    let file = file.0.display();
    let places = CleanConfig {
        state: Some("/x".into()),
        table: Some(500),
        rule_pref: None,
    };

    assert_eq!(clean("clean"), (CleanConfig::default(), vec![]));
    assert_eq!(clean(&format!("clean -config {file}")), (places, vec![]));
    let (config, warnings) = clean(&format!("clean -config {file} -state=/y -key foo"));
    assert_eq!(config.state, Some("/y".into()));
    assert!(warnings[0].starts_with("-key: nothing to"), "{warnings:?}");
    assert!(matches!(
        parsed("clean -when-over /x").unwrap().order,
        Order::Guard { .. }
    ));

    // A start fails with such a file, and something may have to be cleaned up.
    let bad = File::new("clean-bad", "key foo\nstat /x\n", 0o600);
    let bad = bad.0.display();
    let (config, warnings) = clean(&format!("clean -config {bad} -state /y"));
    assert_eq!(config.state, Some("/y".into()));
    assert!(warnings[0].contains(&format!("{bad}:2")), "{warnings:?}");
}

#[test]
fn a_later_reading_is_told_by_what_it_takes_over_and_what_needs_a_restart() {
    let file = File::new("reload", "", 0o600);
    let read = |text: &str, line: &str| {
        let base = "connect vpn:443\nkey foo\n";
        std::fs::write(&file.0, format!("{base}{text}")).unwrap();
        let parsed = parsed(&format!("-config {} {line}", file.0.display())).unwrap();
        parsed.settings.expect("those of a file")
    };
    let mut running = read("route default\ndns 10.0.0.1\nmtu 1300\n", "-keepalive 9s");
    let new = read(
        "route 10.0.0.0/8\ntable 500\nv\nkeepalive 8s\n",
        "-keepalive 9s",
    );

    let changes = running.changes(&new);
    assert_eq!(changes.taken, ["dns", "route", "v"]);
    assert_eq!(changes.restart, ["mtu", "table"]);
    running.take_over(&new, &changes);
    let changes = running.changes(&new);
    assert_eq!(changes.taken, [""; 0]);
    assert_eq!(changes.restart, ["mtu", "table"]);

    // With no route at all another part of the machine is ours.
    let changes = running.changes(&read("", "-keepalive 9s -key bar"));
    assert_eq!(changes.restart, ["key", "mtu", "route"]);
    assert!(parsed("-key foo").unwrap().settings.is_none());
}

const SPOKE: &str = "-connect vpn.example.com:443 -key foo";
