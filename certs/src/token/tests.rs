//! One spelling, and a sentence for each that is none.

use proptest::prelude::*;

use super::*;

const LINE: &str =
    "ls1.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8.q6urq6urq6s.zc3Nzc3Nzc3Nzc3Nzc3NzQ@10.0.0.7:7443";

fn token() -> Token {
    let authority = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let secret = Zeroizing::new([0xcd; 16]);
    Token { authority, id: TokenId([0xab; 8]), secret, addresses: vec!["10.0.0.7:7443".to_owned()] }
}

fn refused(text: &str) -> InvalidToken {
    text.parse::<Token>().expect_err(text)
}

#[test]
fn a_token_reads_as_it_was_written() {
    assert_eq!(token().to_string(), LINE);
    let read: Token = LINE.parse().unwrap();
    assert_eq!((read.authority(), read.id()), (token().authority(), token().id()));
    assert_eq!((&*read.secret, read.addresses()), (&*token().secret, token().addresses()));
}

#[test]
fn no_other_text_is_the_same_token() {
    let before_at = LINE.find('@').unwrap();
    for at in 0..before_at {
        for other in (0x20..0x7f).map(char::from).filter(|other| !LINE[at..].starts_with(*other)) {
            let mut neighbour = LINE.to_owned();
            neighbour.replace_range(at..=at, other.encode_utf8(&mut [0; 4]));
            if let Ok(read) = neighbour.parse::<Token>() {
                let differs = read.authority != token().authority
                    || read.id != token().id
                    || read.secret != token().secret;
                assert!(differs, "{neighbour} was read as the same token");
                assert_eq!(read.to_string(), neighbour);
            }
        }
        let (shorter, doubled) =
            (format!("{}{}", &LINE[..at], &LINE[at + 1..]), format!("{}{}", &LINE[..=at], &LINE[at..]));
        assert!(shorter.parse::<Token>().is_err(), "{shorter}");
        assert!(doubled.parse::<Token>().is_err(), "{doubled}");
    }
}

#[test]
fn a_token_that_was_cut_off_is_no_token() {
    let without_port = LINE.find(":7443").unwrap();
    for length in 0..LINE.len() {
        let cut = &LINE[..length];
        match cut.parse::<Token>() {
            // Behind the `@` a shorter text can be the address of another machine; nothing can tell.
            Ok(read) => assert!(without_port <= length && read.id() == token().id(), "{cut}"),
            Err(error) => assert!(error.to_string().contains(':'), "{error}"),
        }
    }
    assert_eq!(refused(&LINE[..40]), InvalidToken::CutOff);
    assert_eq!(refused(&LINE[..LINE.find('@').unwrap()]), InvalidToken::NoAddress);
    assert_eq!(refused(&LINE[..=LINE.find('@').unwrap()]), InvalidToken::NoAddress);
}

#[test]
fn what_is_wrong_with_a_token_is_said_and_what_to_do() {
    let parts = |authority: &str, id: &str, secret: &str| format!("ls1.{authority}.{id}.{secret}@press");
    let [authority, id, secret] = ["A".repeat(43), "A".repeat(11), "A".repeat(22)];
    parts(&authority, &id, &secret).parse::<Token>().unwrap();
    let damaged = |part: &'static str| InvalidToken::Part { part };
    let cases = [
        (String::new(), InvalidToken::NotAToken),
        ("press:7443".to_owned(), InvalidToken::NotAToken),
        (LINE.to_uppercase(), InvalidToken::NotAToken),
        (format!(" {LINE}"), InvalidToken::NotAToken),
        (format!("lineside up --join {LINE}"), InvalidToken::NotAToken),
        (LINE.replace("ls1", "ls2"), InvalidToken::OtherVersion),
        (LINE.replace("ls1", "ls10"), InvalidToken::OtherVersion),
        (format!("{LINE} "), InvalidToken::StrayCharacter),
        (format!("{LINE}\n"), InvalidToken::StrayCharacter),
        (LINE.replace('@', " @"), InvalidToken::StrayCharacter),
        (LINE.replace('@', "\u{200b}@"), InvalidToken::StrayCharacter),
        (LINE.replace("7443", "74\u{0664}3"), InvalidToken::StrayCharacter),
        ("ls1.".to_owned(), InvalidToken::CutOff),
        (LINE.replace('@', ".@"), InvalidToken::TooManyParts),
        (
            LINE.replace('@', "@@"),
            InvalidToken::Address {
                address: "@10.0.0.7:7443".to_owned(),
                reason: "a host's name has letters, digits, '-', '_', and single dots between them",
            },
        ),
        // The last character of each part has bits that mean nothing and have to be zero.
        (parts(&"A".repeat(42), &id, &secret), damaged("the authority's fingerprint")),
        (parts(&format!("{}B", "A".repeat(42)), &id, &secret), damaged("the authority's fingerprint")),
        (parts(&authority, &format!("{}B", "A".repeat(10)), &secret), damaged("the id")),
        (parts(&authority, &id, &format!("{}B", "A".repeat(21))), damaged("the secret")),
        (parts(&format!("{authority}="), &id, &secret), damaged("the authority's fingerprint")),
        (parts(&authority, &format!("{id}="), &secret), damaged("the id")),
        (parts(&authority, &id, &format!("{secret}==")), damaged("the secret")),
        (parts(&authority.replacen('A', "+", 1), &id, &secret), damaged("the authority's fingerprint")),
        (parts(&authority, &id.replacen('A', "/", 1), &secret), damaged("the id")),
        (parts(&authority, "", &secret), damaged("the id")),
        (parts(&secret, &id, &authority), damaged("the authority's fingerprint")),
        ("x".repeat(TOKEN_BYTES_MAX + 1), InvalidToken::TooLong),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(&text), expected, "{text:?}");
        let sentence = expected.to_string();
        assert!(sentence.contains(": ") && sentence.len() < 300, "{sentence}");
    }
}

#[test]
fn a_refusal_repeats_no_secret() {
    let secret = LINE.split('.').nth(3).unwrap().split('@').next().unwrap();
    for wrong in
        [LINE.replace("7443", "0"), LINE.replace('@', "=@"), LINE.replace("ls1", "ls2"), format!("{LINE},")]
    {
        let error = refused(&wrong);
        assert!(!format!("{error} {error:?}").contains(&secret[..8]), "{error:?}");
    }
    assert!(!format!("{:?}", token()).contains(&secret[..8]));
    assert!(!format!("{:?}", token()).contains("205"), "the secret's bytes");
}

#[test]
fn an_address_without_a_port_has_the_usual_one() {
    let cases = [
        ("press", "press:7443"),
        ("press:1", "press:1"),
        ("PRESS-2.line_4.example:65535", "PRESS-2.line_4.example:65535"),
        ("10.0.0.7", "10.0.0.7:7443"),
        ("[fd00::7]", "[fd00::7]:7443"),
        ("[FD00:0:0::7]:80", "[fd00::7]:80"),
        ("127.0.0.1:50123", "127.0.0.1:50123"),
    ];
    for (text, expected) in cases {
        assert_eq!(Token::address(text).as_deref(), Ok(expected), "{text}");
        assert_eq!(Token::address(expected).as_deref(), Ok(expected), "{text}");
        let line = LINE.replace("10.0.0.7:7443", text);
        assert_eq!(line.parse::<Token>().unwrap().addresses(), [expected]);
    }
}

#[test]
fn what_is_no_address_is_refused() {
    let long = format!("{}.example", "x".repeat(250));
    let label = format!("{}.example", "x".repeat(64));
    let wrong = [
        "",
        ":7443",
        "press:",
        "press:0",
        "press:65536",
        "press:07443",
        "press:+7443",
        "press:http",
        "press: 7443",
        "press:7443:7443",
        "fd00::7",
        "[fd00::7",
        "fd00::7]",
        "[fd00::7]7443",
        "[fd00::7]:",
        "[fe80::1%eth0]:7443",
        "[10.0.0.7]:7443",
        "[press]:7443",
        "[]:7443",
        "[::]:7443",
        "0.0.0.0:7443",
        "10.0.0:7443",
        "10.0.0.256:7443",
        "10.0.0.07:7443",
        "1234:7443",
        "-press:7443",
        "press-:7443",
        "press..line:7443",
        ".press:7443",
        "press.:7443",
        "press/line:7443",
        "user@press:7443",
        "quic://press:7443",
        "prêss:7443",
        &long,
        &label,
    ];
    for address in wrong {
        let error = Token::address(address).expect_err(address);
        assert!(error.to_string().contains("write host:7443"), "{error}");
        assert!(LINE.replace("10.0.0.7:7443", address).parse::<Token>().is_err(), "{address}");
    }
}

#[test]
fn a_token_has_one_to_eight_addresses() {
    let addresses: Vec<String> = (1..=9).map(|last| format!("10.0.0.{last}:7443")).collect();
    for count in 1..=8 {
        let line = token().at(addresses[..count].to_vec()).to_string();
        assert_eq!(line.parse::<Token>().unwrap().addresses(), &addresses[..count]);
    }
    let nine = LINE.replace("10.0.0.7:7443", &addresses.join(","));
    assert_eq!(refused(&nine), InvalidToken::TooManyAddresses(9));
    assert_eq!(token().at(addresses.clone()).addresses(), &addresses[..8]);
    for odd in [format!("{LINE},"), LINE.replace('@', "@,"), LINE.replace('@', "@10.0.0.1,,")] {
        assert!(matches!(refused(&odd), InvalidToken::Address { .. }), "{odd}");
    }
}

#[test]
fn the_longest_token_is_read() {
    let host = [&"x".repeat(63)[..], &"y".repeat(63), &"z".repeat(63), &"w".repeat(61)].join(".");
    assert_eq!(host.len(), address::HOST_BYTES_MAX);
    let line = token().at(vec![format!("{host}:65535"); 8]).to_string();
    assert!(line.len() <= TOKEN_BYTES_MAX, "{}", line.len());
    assert_eq!(line.parse::<Token>().unwrap().addresses().len(), 8);
}

#[test]
fn a_proof_holds_for_one_connection_role_name_and_request() {
    let (exporter, csr) = ([7; 32], b"request".to_vec());
    let proof = token().proof(&exporter, Role::Node, "press", &csr);
    let key = token().key();
    assert!(key.accepts(&proof, &exporter, Role::Node, "press", &csr));
    assert!(!key.accepts(&proof, &[8; 32], Role::Node, "press", &csr), "another connection");
    assert!(!key.accepts(&proof, &exporter, Role::Gateway, "press", &csr), "another role");
    assert!(!key.accepts(&proof, &exporter, Role::Node, "pres", &csr), "another name");
    assert!(!key.accepts(&proof, &exporter, Role::Node, "press", b"another"), "another request");
    let mut other = token();
    other.secret[15] ^= 1;
    assert!(!other.key().accepts(&proof, &exporter, Role::Node, "press", &csr), "another secret");
    for bit in 0..256 {
        let mut wrong = proof;
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(!key.accepts(&wrong, &exporter, Role::Node, "press", &csr), "bit {bit}");
    }
}

#[test]
fn an_id_is_sixteen_digits() {
    let id = TokenId([0, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd]);
    assert_eq!((id.to_string().as_str(), "000123456789abcd".parse()), ("000123456789abcd", Ok(id)));
    for wrong in [
        "",
        "000123456789ABCD",
        "000123456789abc",
        "000123456789abcd0",
        "+00123456789abcd",
        "g00123456789abcd",
    ] {
        assert!(wrong.parse::<TokenId>().is_err(), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_reading_it_panic(text in ".{0,200}", tail in "[a-zA-Z0-9.:,@\\[\\]%-]{0,60}") {
        let _ = text.parse::<Token>();
        let _ = format!("ls1.{text}").parse::<Token>();
        if let Ok(read) = format!("{}{tail}", &LINE[..LINE.find('@').unwrap()]).parse::<Token>() {
            let again: Token = read.to_string().parse().unwrap();
            prop_assert_eq!(again.to_string(), read.to_string());
        }
    }

    #[test]
    fn every_token_reads_as_it_was_written(authority: [u8; 32], id: [u8; 8], secret: [u8; 16]) {
        let secret = Zeroizing::new(secret);
        let made = Token { authority, id: TokenId(id), secret, ..token() };
        prop_assert_eq!(made.to_string().parse::<Token>().unwrap().to_string(), made.to_string());
    }
}
