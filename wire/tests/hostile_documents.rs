//! What strict MessagePack forbids is refused wherever it stands: as every kind of message, and by the check alone.

use lineside_wire::{
    FaultCode,
    FrameKind::{Batch, Error, Item, Notification, Request, Response},
    Message, check_document,
};

#[test]
fn hostile_documents_are_refused_as_every_kind() {
    let ping = b"\xa2id\x02\xa6method\xa4ping\xa6params";
    let within = |entries: u8, value: &[u8]| [&[0x80 | entries], &ping[..], value].concat();
    let hostile: [(&str, Vec<u8>); 8] = [
        ("100,000 arrays within each other", within(3, &[0x91; 100_000])),
        ("100,000 maps within each other", within(3, &b"\x81\xa1a".repeat(100_000))),
        ("an array of 4,294,967,295 elements without any", within(3, b"\xdd\xff\xff\xff\xff")),
        ("a map of 4,294,967,295 entries without any", within(3, b"\xdf\xff\xff\xff\xff")),
        ("a text of 4 GiB without any", within(3, b"\xdb\xff\xff\xff\xff")),
        ("bytes behind the end", within(3, b"\x80\x80")),
        ("the same key twice, three levels down", within(3, b"\x91\x81\xa1p\x82\xa1a\xc0\xa1a\xc0")),
        ("the byte 0xc1", within(3, b"\x91\xc1")),
    ];
    assert_eq!(check_document(&within(3, b"\x80")), Ok(()), "the neighbour of them all is sound");
    for (what, document) in hostile {
        assert!(check_document(&document).is_err(), "{what}");
        for kind in [Request, Notification, Response, Error, Item, Batch] {
            let batch = [&[0x91][..], &document].concat();
            let document = if kind == Batch { &batch } else { &document };
            let code = Message::decode(kind, document).expect_err(what).fault_code();
            assert_eq!(code, FaultCode::ParseError, "{what}, as {kind:?}");
        }
    }
}
