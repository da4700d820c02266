use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn document(frame: &EncodedFrame) -> &[u8] {
    &frame.start[FRAME_HEAD_BYTES..]
}

#[test]
fn a_request_without_context_takes_its_defaults() {
    let frame = EncodedFrame::request(
        RequestId(7),
        "ping",
        &CallContext::default(),
        &BTreeMap::<String, u8>::new(),
        PayloadBuilder::new(),
    );
    let message = Message::decode(FrameKind::Request, document(&frame)).unwrap();
    let Message::Request { id, method, context, params } = message else { panic!("{message:?}") };
    assert_eq!((id, method, params), (RequestId(7), "ping", NO_PARAMS));
    assert!(context.is_default());
}

#[test]
fn a_fault_comes_back_as_it_went() {
    for code in FaultCode::ALL {
        let fault = Fault::new(*code, "press is busy").retry_after_ms(20);
        let frame = EncodedFrame::error(Some(RequestId(1)), &fault, None);
        let message = Message::decode(FrameKind::Error, document(&frame)).unwrap();
        assert_eq!(message, Message::Error { id: Some(RequestId(1)), fault, report: None });
    }
}

#[test]
fn a_batch_is_its_calls_in_order() {
    let none = BTreeMap::<String, u8>::new();
    let ping = |id| {
        EncodedFrame::request(RequestId(id), "ping", &CallContext::default(), &none, PayloadBuilder::new())
    };
    let batch = EncodedFrame::batch(&[ping(1), EncodedFrame::notification("log", &none), ping(2)]);
    let Message::Batch(calls) = Message::decode(FrameKind::Batch, document(&batch)).unwrap() else {
        panic!("no batch")
    };
    assert!(matches!(calls[0], Message::Request { id: RequestId(1), .. }));
    assert!(matches!(calls[1], Message::Notification { method: "log", .. }));
    assert!(matches!(calls[2], Message::Request { id: RequestId(2), .. }));
    assert_eq!(Message::decode(FrameKind::Batch, &[0x90]), Err(InvalidMessage::BatchLength(0)));
}

#[test]
fn each_broken_message_says_what_is_wrong() {
    let decode = |bytes| Message::decode(FrameKind::Request, bytes);
    assert_eq!(decode(b"\x81\xa2id\x01"), Err(InvalidMessage::MissingMember("method")));
    assert_eq!(decode(b"\x81\xa2xx\x01"), Err(InvalidMessage::UnknownMember("xx".into())));
    assert!(matches!(decode(b"\x82\xa2id\xa1a\xa6method\xa1m"), Err(InvalidMessage::InvalidMember { .. })));
    assert!(matches!(decode(b"\x93\x01\x02\x03"), Err(InvalidMessage::Document(_))));
}

#[test]
fn a_member_of_another_kind_is_unknown() {
    let both = b"\x83\xa2id\x01\xa6method\xa4ping\xa6result\x80";
    for kind in [FrameKind::Request, FrameKind::Response] {
        assert!(matches!(Message::decode(kind, both), Err(InvalidMessage::UnknownMember(_))), "{kind:?}");
    }
    // With an id it would want an answer: the head and the document disagree.
    let call = b"\x82\xa2id\x01\xa6method\xa4ping";
    assert_eq!(
        Message::decode(FrameKind::Notification, call),
        Err(InvalidMessage::UnknownMember("id".into()))
    );
}

#[test]
fn every_member_of_a_kind_has_its_place() {
    use FrameKind::{Batch, Error, Item, Notification, Request, Response};
    for kind in [Request, Notification, Response, Error, Item, Batch] {
        for name in members_of(kind) {
            let mut document = vec![0x81, 0xa0 | name.len() as u8];
            document.extend_from_slice(name.as_bytes());
            document.push(0xc0);
            assert!(Members::read(kind, &document).is_ok(), "{name}");
        }
    }
}

#[test]
fn a_part_from_elsewhere_cannot_exhaust_the_stack() {
    let mut deep = b"\x81\xa1x".to_vec();
    deep.extend([0x91; 100_000]);
    deep.push(0xc0);
    assert!(decode_part::<crate::Empty>(&deep).is_err());
}

#[test]
fn a_fault_that_repeats_what_it_was_sent_stays_short() {
    let fault = Fault::new(FaultCode::InvalidParams, "\u{e9}".repeat(60_000));
    let frame = EncodedFrame::error(Some(RequestId(1)), &fault, None);
    assert!(frame.len() < 3000);
    let message = Message::decode(FrameKind::Error, document(&frame)).unwrap();
    let Message::Error { fault, .. } = message else { panic!("{message:?}") };
    assert!(fault.message.len() <= crate::FAULT_MESSAGE_BYTES_MAX);
}

proptest! {
    #[test]
    fn arbitrary_documents_never_panic(kind in 0_usize..6, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let kinds = [FrameKind::Request, FrameKind::Notification, FrameKind::Response, FrameKind::Error, FrameKind::Item, FrameKind::Batch];
        let _decoded = Message::decode(kinds[kind], &bytes);
    }
}
