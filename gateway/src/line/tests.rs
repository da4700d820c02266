use std::net::Ipv4Addr;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::shared::Shared;

/// What is read at a time.
const READ_BYTES: usize = 16 << 10;

#[tokio::test]
async fn a_client_that_never_stops_sending_leaves_others_their_turn() {
    const SENT: usize = 8 * TURN_BYTES;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a client");
    let (stream, peer) = listener.accept().await.expect("its connection");
    let config = GatewayConfig::default();
    let patience = Patience::from(&config);
    let place = Shared::new(config).connect(peer.ip()).expect("a place");
    let mut stream = WatchedStream::new(Socket::Plain(stream), Protocol::Http1, patience, place);
    stream.line().begin();

    let (mut all, mut longest) = (0, 0);
    let reading = std::future::poll_fn(|cx| {
        let mut in_one_go = 0;
        while all < SENT {
            let mut waste = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut waste);
            let Poll::Ready(read) = Pin::new(&mut stream).poll_read(cx, &mut buffer) else {
                return Poll::Pending;
            };
            read.expect("the client is there");
            in_one_go += buffer.filled().len();
            all += buffer.filled().len();
            longest = longest.max(in_one_go);
        }
        Poll::Ready(())
    });
    let sending = async {
        client.write_all(&vec![0; SENT]).await.expect("the door is there");
    };
    // Without tokio's own budget, which counts reads and not what is in them.
    tokio::task::unconstrained(async { tokio::join!(sending, reading) }).await;
    assert_eq!(all, SENT);
    assert!(longest < TURN_BYTES + READ_BYTES, "{longest} bytes in one go");
}
