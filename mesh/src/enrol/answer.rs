//! The answering side of a join: little is read, little is kept, and not for long.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lineside_wire::{
    CSR_BYTES_MAX, EncodedFrame, Enrolled, Fault, FaultCode, JoinParams, Message, PayloadBuilder, RequestId,
    decode_part, method,
};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::debug;

use super::{JOIN_TIME_MAX, exporter, limits, tries::Tries};
use crate::{
    CloseCode, Enrolment,
    frames::{Frame, FrameError, FrameReader, oversize, write_frames},
    mesh::Inner,
};

/// Machines that may join at once. With the bound on the tries of an address no single one can take all places.
const PLACES: usize = 8;

/// Refusals for too many tries that are told at once, and how long telling one may take. They take no place from others.
const REFUSALS: usize = 8;
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);

/// Joins that run now, and the tries of the last minute.
pub(crate) struct Joins {
    places: Semaphore,
    refusals: Semaphore,
    /// The lock is held for a look-up.
    tries: Mutex<Tries>,
}

impl Default for Joins {
    fn default() -> Self {
        let (places, refusals) = (Semaphore::new(PLACES), Semaphore::new(REFUSALS));
        Self { places, refusals, tries: Mutex::default() }
    }
}

/// Why a join ended without an answer.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
    #[error("no request came")]
    NoRequest,
    #[error("it did something else beside its one call")]
    Beside,
}

impl Joins {
    /// Answers one stranger, and ends its connection.
    pub(crate) async fn answer(&self, inner: &Inner, connection: Connection) {
        let remote = connection.remote_address();
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        // Nobody answers joiners any more; the handshake began before.
        let Some(enrolment) = inner.enrolment.borrow().clone() else {
            return close(&connection, CloseCode::NoCertificate, "nobody can join here now");
        };
        let now = Instant::now();
        let admitted = self.tries.lock().unwrap_or_else(PoisonError::into_inner).take(remote.ip(), now);
        let (places, within) = match admitted {
            Ok(()) => (&self.places, JOIN_TIME_MAX),
            Err(_) => (&self.refusals, REFUSAL_TIME_MAX),
        };
        let Ok(_place) = places.try_acquire() else {
            debug!(%remote, "join refused: too many at once");
            return close(&connection, CloseCode::TooManyConnections, "too many join at once");
        };
        let (code, told) = tokio::select! {
            ended = timeout(within, one_call(&connection, enrolment, admitted, remote)) => match ended {
                Ok(Ok(())) => (CloseCode::Bye, "done"),
                Ok(Err(error)) => {
                    debug!(%remote, %error, "a join ended early");
                    (CloseCode::ProtocolError, "one stream, one call of enrol.join, and nothing else")
                }
                Err(_) => (CloseCode::NoHello, "the join took too long"),
            },
            () = inner.closing.cancelled() => return,
        };
        close(&connection, code, told);
    }
}

fn close(connection: &Connection, code: CloseCode, reason: &str) {
    connection.close(VarInt::from(code), reason.as_bytes());
}

/// Serves the one stream. Whatever else the joiner begins ends the connection.
async fn one_call(
    connection: &Connection,
    enrolment: Arc<dyn Enrolment>,
    admitted: Result<(), Duration>,
    remote: SocketAddr,
) -> Result<(), Ended> {
    let (send, recv) = tokio::select! {
        stream = connection.accept_bi() => stream?,
        packet = connection.read_datagram() => return Err(packet.map_or_else(Ended::from, |_| Ended::Beside)),
    };
    tokio::select! {
        served = serve(connection, send, recv, enrolment, admitted, remote) => served,
        second = connection.accept_bi() => Err(second.map_or_else(Ended::from, |_| Ended::Beside)),
        packet = connection.read_datagram() => Err(packet.map_or_else(Ended::from, |_| Ended::Beside)),
    }
}

async fn serve(
    connection: &Connection,
    mut send: SendStream,
    recv: RecvStream,
    enrolment: Arc<dyn Enrolment>,
    admitted: Result<(), Duration>,
    remote: SocketAddr,
) -> Result<(), Ended> {
    let limits = limits().without_answers();
    let frame = FrameReader::new(recv, limits, JOIN_TIME_MAX).next().await?.ok_or(Ended::NoRequest)?;
    let (id, answer) = match read(&frame) {
        Ok((id, _)) if admitted.is_err() => (Some(id), Err(too_often(admitted.err().unwrap_or_default()))),
        Ok((id, params)) => match exporter(connection, params.token.into_array()) {
            Some(exporter) => (Some(id), enrolment.join(params, exporter, remote).await),
            None => {
                (Some(id), Err(Fault::new(FaultCode::Internal, "TLS gives no value to bind the proof to")))
            }
        },
        Err((id, fault)) => (id, Err(fault)),
    };
    write_frames(&mut send, std::iter::once(encode(id, answer))).await?;
    // Finishing fails, and waiting ends, only when the joiner has gone: there is nothing left to do for it.
    drop(send.finish());
    drop(send.stopped().await);
    Ok(())
}

/// Reads the one request; what is wrong with it is for its sender.
fn read(frame: &Frame) -> Result<(RequestId, JoinParams), (Option<RequestId>, Fault)> {
    let message = Message::decode(frame.kind, &frame.document)
        .map_err(|error| (None, Fault::new(error.fault_code(), error.to_string())))?;
    let Message::Request { id, method, params, .. } = message else {
        return Err((None, Fault::new(FaultCode::InvalidRequest, "only a request can be answered here")));
    };
    let refuse = |code, text: String| Err((Some(id), Fault::new(code, text)));
    if method != method::ENROL_JOIN {
        let text = format!("nothing but {} can be called without a certificate", method::ENROL_JOIN);
        return refuse(FaultCode::MethodNotFound, text);
    }
    let params: JoinParams = decode_part(params).map_err(|fault| (Some(id), fault))?;
    if CSR_BYTES_MAX < params.csr.len() {
        let text = format!("a certificate request has at most {CSR_BYTES_MAX} bytes");
        return refuse(FaultCode::LimitExceeded, text);
    }
    Ok((id, params))
}

fn too_often(wait: Duration) -> Fault {
    let text = format!(
        "too many tries to join from this address; the next one is taken in {} s",
        wait.as_secs() + 1
    );
    Fault::new(FaultCode::RateLimited, text)
        .retry_after_ms(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

fn encode(id: Option<RequestId>, answer: Result<Enrolled, Fault>) -> EncodedFrame {
    let fault = match (id, answer) {
        (Some(id), Ok(enrolled)) => {
            let frame = EncodedFrame::response(id, &enrolled, None, PayloadBuilder::new());
            match oversize(&frame, &limits()) {
                None => return frame,
                Some(fault) => fault,
            }
        }
        (_, Err(fault)) => fault,
        (None, Ok(_)) => unreachable!("only a request that could be read is answered"),
    };
    EncodedFrame::error(id, &fault, None)
}

#[cfg(test)]
mod tests {
    use lineside_wire::{CallContext, FRAME_HEAD_BYTES, FrameKind, Role};
    use serde_bytes::{ByteArray, ByteBuf};

    use super::*;

    const ID: RequestId = RequestId(1);

    fn params(csr_bytes: usize) -> JoinParams {
        JoinParams {
            token: ByteArray::new([1; 8]),
            role: Role::Node,
            name: "press".to_owned(),
            csr: ByteBuf::from(vec![0; csr_bytes]),
            proof: ByteArray::new([2; 32]),
        }
    }

    fn frame(kind: FrameKind, encoded: &EncodedFrame) -> Frame {
        let document = encoded.start.slice(FRAME_HEAD_BYTES..);
        Frame { kind, document, payload: bytes::Bytes::new(), is_without_payload: false }
    }

    fn request<P: serde::Serialize>(method: &str, params: &P) -> Frame {
        let encoded =
            EncodedFrame::request(ID, method, &CallContext::default(), params, PayloadBuilder::new());
        frame(FrameKind::Request, &encoded)
    }

    #[test]
    fn the_one_request_is_read_and_nothing_else() {
        assert_eq!(read(&request(method::ENROL_JOIN, &params(300))), Ok((ID, params(300))));
        let code = |frame: &Frame| read(frame).map(|_| ()).map_err(|(_, fault)| fault.code).unwrap_err();
        assert_eq!(code(&request(method::HELLO, &params(1))), FaultCode::MethodNotFound);
        assert_eq!(code(&request(method::ENROL_JOIN, &"x")), FaultCode::InvalidParams);
        assert_eq!(code(&request(method::ENROL_JOIN, &params(CSR_BYTES_MAX + 1))), FaultCode::LimitExceeded);
        let told = EncodedFrame::notification(method::ENROL_JOIN, &params(1));
        assert_eq!(code(&frame(FrameKind::Notification, &told)), FaultCode::InvalidRequest);
    }

    #[test]
    fn a_request_of_the_largest_size_fits() {
        let encoded = EncodedFrame::request(
            ID,
            method::ENROL_JOIN,
            &CallContext::default(),
            &JoinParams { name: "x".repeat(64), ..params(CSR_BYTES_MAX) },
            PayloadBuilder::new(),
        );
        assert_eq!(oversize(&encoded, &limits().without_answers()), None);
    }

    #[test]
    fn who_tries_too_often_is_told_when_to_come_again() {
        let fault = too_often(Duration::from_millis(12_300));
        assert_eq!((fault.code, fault.retry_after_ms), (FaultCode::RateLimited, Some(12_300)));
        assert!(fault.message.contains("13 s"), "{fault}");
    }
}
