//! What is no frame and no message: an error or a closed stream for whoever sent it, and nothing for anybody else.

use std::time::Duration;

use lineside_tests::{Addends, Floor, Outsider, add_by_http};
use lineside_wire::{Empty, FrameHead, FrameKind, Role, method};
use tokio::time::timeout;

/// Longer than the time that the mesh gives a frame to arrive.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

fn frame(kind: FrameKind, document: &[u8]) -> Vec<u8> {
    let document_length = u32::try_from(document.len()).unwrap();
    let head = FrameHead { kind, document_length, payload_length: 0 };
    [&head.encode()[..], document].concat()
}

/// Frames that nobody should send, each with a name.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let head = |version: u8, kind: u8, document: u32, payload: u32| {
        [&[version, kind, 0, 0][..], &document.to_le_bytes(), &payload.to_le_bytes()].concat()
    };
    let deep = [vec![0x91; 60_000], vec![0xc0]].concat();
    vec![
        ("nothing", Vec::new()),
        ("half a head", vec![1, 1, 0]),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another version", head(9, 1, 5, 0)),
        ("an unknown kind", head(1, 77, 5, 0)),
        ("a document of four gigabytes", head(1, 1, u32::MAX, 0)),
        ("a payload of four gigabytes", head(1, 1, 1, u32::MAX)),
        ("a head without its document", head(1, 1, 100, 0)),
        ("a document that ends early", frame(FrameKind::Request, &[0x82, 0xa2, b'i', b'd'])),
        ("a reserved byte", frame(FrameKind::Request, &[0xc1])),
        ("a hundred thousand nested arrays", frame(FrameKind::Request, &deep)),
        ("an array of four billion", frame(FrameKind::Request, &[0xdd, 0xff, 0xff, 0xff, 0xff])),
        ("bytes behind the document", frame(FrameKind::Request, &[0x80, 0x80])),
        ("an answer to nothing", frame(FrameKind::Response, &[0x80])),
        ("an empty batch", frame(FrameKind::Batch, &[0x90])),
        // {"id": 1, "method": "ping", "params": {}}
        ("a call before hello", frame(FrameKind::Request, b"\x83\xa2id\x01\xa6method\xa4ping\xa6params\x80")),
    ]
}

#[tokio::test]
async fn malformed_frames_end_their_stream_and_nothing_else() {
    let mut floor = Floor::with_nodes(["press"]).await;
    let stranger = Outsider::new(floor.identity(Role::Client));
    let neighbour = Outsider::new(floor.identity(Role::Client));
    for name in ["press", "door"] {
        let address = floor.member(name).address();
        for (what, bytes) in malformed() {
            let (_endpoint, connection) = stranger.bare(address).await;
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            // Refused while it is written, perhaps.
            drop(send.finish());
            // An error frame, a reset or a closed connection: an end, in any case.
            let ended = timeout(ANSWER_WITHIN, receive.read_to_end(64 << 10)).await;
            assert!(ended.is_ok(), "{name} left {what} open");
            connection.close(0_u32.into(), b"");
            let _: Empty = neighbour.ask(address, method::PING, &Empty {}).await.unwrap();
        }
        assert!(floor.member_mut(name).runs());
        assert!(!floor.member(name).log().contains("panicked"), "{}", floor.member(name).log());
    }
    let addends = Addends::new(2.0, 3.0);
    let answer = add_by_http(&mut floor.http("door"), addends, &[]).await.unwrap();
    assert!(answer.added(addends).unwrap().right);
}
