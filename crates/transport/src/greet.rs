//! The handshake: both ends say who they are and check each other, before anything else is believed.
//!
//! The connector speaks first; the listener answers with the same or a refusal; the connector confirms with its first bytes.

use crate::api::PeerInfo;
use crate::conn::{Conn, Origin};
use crate::hello::{Greeting, GreetingError, HEAD_BYTES, Head, Hello, MAGIC};
use crate::network::Io;
use crate::refusal::{By, Reason};
use crate::switchboard::Switchboard;
use crate::tls::{Tls, any_host};
use crate::wire::Frame;
use bytes::{Bytes, BytesMut};
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use skein_model::HostId;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// A connection whose ends know each other.
pub(crate) struct Greeted {
    pub(crate) io: Box<dyn Io>,
    /// To be written before any frame.
    pub(crate) first: Bytes,
    peer: PeerInfo,
    /// What the other end said of its process and connection.
    life: u64,
    number: u64,
    tls: bool,
}

/// A handshake that came to nothing.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) by: By,
    pub(crate) reason: Reason,
    pub(crate) text: String,
}

impl Refused {
    fn us(reason: Reason, text: impl Into<String>) -> Refused {
        Refused { by: By::Us, reason, text: text.into() }
    }
}

impl From<GreetingError> for Refused {
    fn from(error: GreetingError) -> Refused {
        Refused::us(Reason::Malformed, error.to_string())
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        use rustls::Error;
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return Refused::us(Reason::Other, format!("the connection broke in the handshake: {error}"));
        };
        match tls {
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => {
                Refused::us(Reason::Certificate, format!("its certificate cannot be trusted: {tls}"))
            }
            Error::AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateRequired
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied,
            ) => Refused {
                by: By::Them,
                reason: Reason::Certificate,
                text: format!("it does not trust our certificate: {tls}"),
            },
            Error::InvalidMessage(_) => Refused::us(
                Reason::Tls,
                format!("it does not speak TLS, and this peer takes nothing else: {tls}"),
            ),
            _ => Refused::us(Reason::Tls, format!("TLS failed: {tls}")),
        }
    }
}

impl Greeted {
    /// `failures`: attempts in a row that failed before this one.
    pub(crate) fn conn(&self, board: &Switchboard, origin: Origin, failures: u32) -> Arc<Conn> {
        Arc::new(Conn::new(
            board.next_id(),
            self.peer.clone(),
            self.life,
            origin,
            failures,
            board.options.limits.clone(),
            board.options.timeouts.clone(),
            !self.tls,
        ))
    }

    /// Says no to an end that takes the connection for agreed. Whether it is heard is not known.
    pub(crate) async fn refuse_late(&mut self, reason: Reason, text: &str, patience: Duration) {
        let mut bytes = BytesMut::new();
        Frame::Refusal { reason, text }.encode(&mut bytes, !self.tls);
        write_and_close(&mut self.io, &bytes, patience).await;
    }

    /// How the connection came to be, at the listener.
    pub(crate) fn accepted(&self) -> Origin {
        Origin { opener: self.peer.identity.host, number: self.number, dialled: None }
    }
}

/// The connector's side, up to where it agrees: its `first` says so.
pub(crate) async fn connect(
    board: &Switchboard,
    io: Box<dyn Io>,
    number: u64,
    expected: Option<HostId>,
) -> Result<Greeted, Refused> {
    let (mut io, certificate): (Box<dyn Io>, _) = match &board.options.tls {
        None => (io, None),
        Some(tls) => {
            let stream = tls.connector.connect(any_host(), io).await?;
            let certificate = first(stream.get_ref().1.peer_certificates());
            (Box::new(stream), certificate)
        }
    };
    say(&mut io, &Greeting::Hello(hello(board, number, expected))).await?;
    let theirs = match hear(&mut io, None).await? {
        Greeting::Hello(theirs) => theirs,
        Greeting::Refusal { reason, text } => return Err(Refused { by: By::Them, reason, text }),
        Greeting::Ready => return Err(GreetingError::Malformed("it came out of turn").into()),
    };
    let checked = check(board, &theirs, expected, certificate.as_ref());
    let peer = match checked {
        Ok(peer) => peer,
        Err(refused) => {
            refuse(&mut io, refused.reason, &refused.text, board.options.timeouts.handshake).await;
            return Err(refused);
        }
    };
    let first = Greeting::Ready.encode().into();
    Ok(Greeted { io, first, peer, life: theirs.life, number, tls: board.options.tls.is_some() })
}

/// The listener's side, all of it.
pub(crate) async fn listen(board: &Switchboard, io: Box<dyn Io>) -> Result<Greeted, Refused> {
    let patience = board.options.timeouts.handshake;
    let mut io = io;
    let mut byte = [0];
    io.read_exact(&mut byte).await?;
    let mut heard = Some(byte[0]);
    let mut certificate = None;
    match (&board.options.tls, byte[0]) {
        // How a TLS client begins: a record of a handshake.
        (Some(tls), 0x16) => {
            let stream = tls.acceptor.accept(Prefixed { first: heard.take(), io }).await?;
            certificate = first(stream.get_ref().1.peer_certificates());
            io = Box::new(stream);
        }
        (Some(_), byte) if byte == MAGIC[0] => {
            let text =
                "it does not use TLS, and this peer takes nothing else: give it certificates (skein cert)";
            hear(&mut io, heard).await?;
            refuse(&mut io, Reason::Tls, text, patience).await;
            return Err(Refused::us(Reason::Tls, text));
        }
        (None, 0x16) => {
            let text = "it uses TLS, and this peer does not: give all peers certificates, or none";
            refuse(&mut io, Reason::Tls, text, patience).await;
            return Err(Refused::us(Reason::Tls, text));
        }
        _ => {}
    }
    let theirs = match hear(&mut io, heard).await? {
        Greeting::Hello(theirs) => theirs,
        Greeting::Refusal { reason, text } => return Err(Refused { by: By::Them, reason, text }),
        Greeting::Ready => return Err(GreetingError::Malformed("it came out of turn").into()),
    };
    let us = board.options.identity.host;
    let checked = match theirs.expected {
        Some(expected) if expected != us && theirs.identity.cell == board.options.identity.cell => {
            let them = theirs.identity.host;
            let text = format!(
                "host {them} looked for host {expected} at the address of host {us}: mend the ID or the address in its --hail"
            );
            Err(Refused::us(Reason::Host, text))
        }
        _ => check(board, &theirs, None, certificate.as_ref()),
    };
    let checked = checked.and_then(|peer| match board.room_for(peer.identity.host, theirs.life) {
        Ok(()) => Ok(peer),
        Err((reason, text)) => Err(Refused::us(reason, text)),
    });
    let peer = match checked {
        Ok(peer) => peer,
        Err(refused) => {
            refuse(&mut io, refused.reason, &refused.text, patience).await;
            return Err(refused);
        }
    };
    say(&mut io, &Greeting::Hello(hello(board, 0, None))).await?;
    match hear(&mut io, None).await? {
        Greeting::Ready => {}
        Greeting::Refusal { reason, text } => return Err(Refused { by: By::Them, reason, text }),
        Greeting::Hello(_) => return Err(GreetingError::Malformed("it came out of turn").into()),
    }
    let tls = board.options.tls.is_some();
    Ok(Greeted { io, first: Bytes::new(), peer, life: theirs.life, number: theirs.number, tls })
}

/// Says no, and closes. Whether it is heard is not known.
pub(crate) async fn refuse(io: &mut Box<dyn Io>, reason: Reason, text: &str, patience: Duration) {
    let bytes = Greeting::Refusal { reason, text: text.to_owned() }.encode();
    write_and_close(io, &bytes, patience).await;
}

async fn write_and_close(io: &mut Box<dyn Io>, bytes: &[u8], patience: Duration) {
    let said = async {
        io.write_all(bytes).await?;
        io.flush().await?;
        io.shutdown().await
    };
    // It is refused either way.
    let _ = timeout(patience, said).await;
}

async fn say(io: &mut Box<dyn Io>, greeting: &Greeting) -> io::Result<()> {
    io.write_all(&greeting.encode()).await?;
    io.flush().await
}

/// Reads one greeting, whose first byte may have been read before.
async fn hear(io: &mut Box<dyn Io>, first: Option<u8>) -> Result<Greeting, Refused> {
    let mut head = [0; HEAD_BYTES];
    let mut filled = 0;
    if let Some(first) = first {
        head[0] = first;
        filled = 1;
    }
    // What cannot become a greeting is noticed at once, not when enough of it has come.
    while filled < HEAD_BYTES {
        let known = filled.min(MAGIC.len());
        if head[..known] != MAGIC[..known] {
            return Err(GreetingError::Magic.into());
        }
        let read = io.read(&mut head[filled..]).await?;
        if read == 0 {
            return Err(Refused::us(Reason::Other, "it closed the connection in the handshake"));
        }
        filled += read;
    }
    let head = Head::decode(&head)?;
    let mut body = vec![0; head.body_bytes];
    io.read_exact(&mut body).await?;
    Ok(Greeting::decode(head, &body)?)
}

fn hello(board: &Switchboard, number: u64, expected: Option<HostId>) -> Hello {
    Hello {
        version_min: *board.options.versions.start(),
        version_max: *board.options.versions.end(),
        identity: board.options.identity,
        life: board.options.seed,
        expected,
        number,
        share: board.share,
        build: board.options.build.to_string(),
    }
}

/// Whether we talk to who says this.
fn check(
    board: &Switchboard,
    theirs: &Hello,
    expected: Option<HostId>,
    certificate: Option<&CertificateDer<'static>>,
) -> Result<PeerInfo, Refused> {
    let ours = board.options.identity;
    let Hello { identity, .. } = *theirs;
    if identity.cell != ours.cell {
        let text = format!(
            "foreign cell: host {} belongs to cell {}, and host {} to cell {}: mend the address in --hail, or start the one \
             that is wrong with a directory made for the other cell (--cell)",
            identity.host, identity.cell, ours.host, ours.cell
        );
        return Err(Refused::us(Reason::Cell, text));
    }
    let (min, max) = (*board.options.versions.start(), *board.options.versions.end());
    let version = max.min(theirs.version_max);
    if version < min.max(theirs.version_min) {
        return Err(Refused::us(
            Reason::Version,
            format!(
                "no common wire version: its build {:?} speaks {} to {}, ours speaks {min} to {max}",
                theirs.build, theirs.version_min, theirs.version_max
            ),
        ));
    }
    if identity.host == ours.host {
        return Err(if theirs.life == board.options.seed {
            Refused::us(Reason::Oneself, "this is ourselves")
        } else {
            let host = ours.host;
            Refused::us(
                Reason::Duplicate,
                format!(
                    "another process goes by our host ID {host}: give one of the two another by skein init"
                ),
            )
        });
    }
    if let Some(expected) = expected
        && expected != identity.host
    {
        let text = format!("expected host {expected}, and found {}: is the hail right?", identity.host);
        return Err(Refused::us(Reason::Host, text));
    }
    if board.options.tls.is_some()
        && !certificate.is_some_and(|certificate| Tls::names(certificate, identity.host))
    {
        let text = format!(
            "it says that it is host {}, and its certificate does not: {} is missing among the DNS names",
            identity.host,
            crate::host_name(identity.host)
        );
        return Err(Refused::us(Reason::CertificateHost, text));
    }
    let peer = PeerInfo { identity, addr: theirs.share, version, build: theirs.build.as_str().into() };
    let Some(handler) = board.handler() else {
        return Err(Refused::us(Reason::Closing, "this peer is closing"));
    };
    match handler.admit(&peer) {
        Ok(()) => Ok(peer),
        Err(text) => Err(Refused::us(Reason::Admission, text)),
    }
}

fn first(chain: Option<&[CertificateDer<'_>]>) -> Option<CertificateDer<'static>> {
    chain?.first().map(|certificate| certificate.clone().into_owned())
}

/// Gives a byte back to the stream it was read from.
struct Prefixed {
    first: Option<u8>,
    io: Box<dyn Io>,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if 0 < buf.remaining()
            && let Some(byte) = self.first.take()
        {
            buf.put_slice(&[byte]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
