//! What both ends say before anything else. Its layout is the same in all wire versions: new fields come behind the old ones, and
//! who does not know them skips them.
//!
//! ```text
//! | magic: 8 bytes | kind: u8 | len of body: u16 le | crc32c of kind, len and body: u32 le | body |
//! hello:   | versions min, max: u16 le | cell, host, store, life: u64 le | expected host: u64 le, 0 for anybody's
//!          | number: u64 le, of the connection among those of the connector's process; the listener says 0
//!          | share: 16 bytes IPv6 (or IPv4 mapped), port u16 le | len of build: u8 | build |
//! ready:   empty
//! refusal: | reason: u8 | len of text: u16 le | text |
//! ```

use crate::api::Identity;
use crate::refusal::Reason;
use skein_model::{CellId, HostId, StoreId};
use std::net::{IpAddr, SocketAddr};

/// Longest build text.
pub const BUILD_BYTES_MAX: usize = 64;
/// Longest text of a refusal; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 512;
/// Longest body that is read at all.
pub const BODY_BYTES_MAX: usize = 1024;
/// Bytes before the body.
pub const HEAD_BYTES: usize = 15;
/// How a peer of Skein begins. Not the beginning of anything in TLS or HTTP.
pub const MAGIC: [u8; 8] = *b"SKEINpr\n";

const HELLO: u8 = 1;
const READY: u8 = 2;
const REFUSAL: u8 = 3;

/// One end introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest wire version it speaks.
    pub version_min: u16,
    /// Newest wire version it speaks.
    pub version_max: u16,
    /// Who it is.
    pub identity: Identity,
    /// Which run of its process.
    pub life: u64,
    /// Whom it means to reach; `None`: whoever listens.
    pub expected: Option<HostId>,
    /// Which of the connections that its process opened; later ones have higher numbers.
    pub number: u64,
    /// Where it takes connections itself.
    pub share: SocketAddr,
    /// Its build.
    pub build: String,
}

/// What is said before the first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// Who is here.
    Hello(Hello),
    /// The connector agrees to what the listener said; frames follow.
    Ready,
    /// No. The connection is closed behind it.
    Refusal {
        /// What kind of no.
        reason: Reason,
        /// For humans.
        text: String,
    },
}

/// Why bytes are not a greeting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// Something else than a peer talks to us.
    #[error("it does not begin as a peer of Skein does")]
    Magic,
    /// Longer than anything that is said here.
    #[error("a greeting of {bytes} bytes; at most {BODY_BYTES_MAX} are taken")]
    TooLong {
        /// What it claims.
        bytes: usize,
    },
    /// Damaged on the way.
    #[error("the checksum of a greeting is wrong")]
    Checksum,
    /// Not one of ours.
    #[error("a greeting cannot be read: {0}")]
    Malformed(&'static str),
}

/// The first [`HEAD_BYTES`] of a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    kind: u8,
    checksum: u32,
    /// How many bytes of body follow; at most [`BODY_BYTES_MAX`].
    pub body_bytes: usize,
}

impl Head {
    /// Reads them.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Head, GreetingError> {
        if bytes[..8] != MAGIC {
            return Err(GreetingError::Magic);
        }
        let body_bytes = usize::from(u16::from_le_bytes([bytes[9], bytes[10]]));
        if BODY_BYTES_MAX < body_bytes {
            return Err(GreetingError::TooLong { bytes: body_bytes });
        }
        let checksum = u32::from_le_bytes([bytes[11], bytes[12], bytes[13], bytes[14]]);
        Ok(Head { kind: bytes[8], checksum, body_bytes })
    }
}

fn checksum(kind: u8, body: &[u8]) -> u32 {
    let len = (body.len() as u16).to_le_bytes();
    crc32c::crc32c_append(crc32c::crc32c(&[kind, len[0], len[1]]), body)
}

impl Greeting {
    /// As bytes, head and all.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Greeting::Hello(hello) => (HELLO, hello.encode()),
            Greeting::Ready => (READY, Vec::new()),
            Greeting::Refusal { reason, text } => (REFUSAL, encode_refusal(*reason, text)),
        };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(kind);
        bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&checksum(kind, &body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// From its head and the body that the head announced.
    pub fn decode(head: Head, body: &[u8]) -> Result<Greeting, GreetingError> {
        if body.len() != head.body_bytes || checksum(head.kind, body) != head.checksum {
            return Err(GreetingError::Checksum);
        }
        match head.kind {
            HELLO => Ok(Greeting::Hello(Hello::decode(body)?)),
            READY => Ok(Greeting::Ready),
            REFUSAL => {
                let mut body = Fields(body);
                let reason = Reason::from_code(body.take::<1>("reason")?[0]);
                let len = usize::from(u16::from_le_bytes(body.take("length of text")?));
                let text = body.text(len, TEXT_BYTES_MAX, "text")?;
                Ok(Greeting::Refusal { reason, text })
            }
            _ => Err(GreetingError::Malformed("its kind is unknown")),
        }
    }
}

/// The body of a refusal, which may also come as a frame later.
pub(crate) fn encode_refusal(reason: Reason, text: &str) -> Vec<u8> {
    let text = cut(text, TEXT_BYTES_MAX);
    let mut body = vec![reason.code()];
    body.extend_from_slice(&(text.len() as u16).to_le_bytes());
    body.extend_from_slice(text.as_bytes());
    body
}

/// A stranger's text with nothing in it that could garble a log.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// As much of a text as fits, in whole characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(128);
        body.extend_from_slice(&self.version_min.to_le_bytes());
        body.extend_from_slice(&self.version_max.to_le_bytes());
        let Identity { cell, host, store } = self.identity;
        for number in
            [cell.0, host.0, store.0, self.life, self.expected.map_or(0, |host| host.0), self.number]
        {
            body.extend_from_slice(&number.to_le_bytes());
        }
        let ip = match self.share.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        body.extend_from_slice(&ip.octets());
        body.extend_from_slice(&self.share.port().to_le_bytes());
        let build = cut(&self.build, BUILD_BYTES_MAX);
        body.push(build.len() as u8);
        body.extend_from_slice(build.as_bytes());
        body
    }

    fn decode(body: &[u8]) -> Result<Hello, GreetingError> {
        let mut body = Fields(body);
        let version_min = u16::from_le_bytes(body.take("versions")?);
        let version_max = u16::from_le_bytes(body.take("versions")?);
        if version_max < version_min {
            return Err(GreetingError::Malformed("its newest version is before its oldest"));
        }
        let mut number = |what| body.take(what).map(u64::from_le_bytes);
        let identity = Identity {
            cell: CellId(number("cell")?),
            host: HostId(number("host")?),
            store: StoreId(number("store")?),
        };
        let life = number("life")?;
        let expected = Some(HostId(number("expected host")?)).filter(|host| host.0 != 0);
        let number = number("number")?;
        let ip = IpAddr::from(body.take::<16>("address")?).to_canonical();
        let share = SocketAddr::new(ip, u16::from_le_bytes(body.take("port")?));
        let len = usize::from(body.take::<1>("length of build")?[0]);
        if BUILD_BYTES_MAX < len {
            return Err(GreetingError::Malformed("its build text is too long"));
        }
        let build = body.text(len, BUILD_BYTES_MAX, "build")?;
        Ok(Hello { version_min, version_max, identity, life, expected, number, share, build })
    }
}

/// Reads fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GreetingError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(GreetingError::Malformed(what))?;
        self.0 = rest;
        Ok(*field)
    }

    /// Text of a stranger, for logs: what is not printable is replaced, and what that makes longer than allowed is cut.
    fn text(&mut self, len: usize, max: usize, what: &'static str) -> Result<String, GreetingError> {
        let (text, rest) = self.0.split_at_checked(len).ok_or(GreetingError::Malformed(what))?;
        self.0 = rest;
        let text = String::from_utf8_lossy(text);
        Ok(cut(&printable(&text), max).to_owned())
    }
}

/// Any bytes, as the fuzzer brings them: what reads, reads again as the same once written.
pub fn fuzz(data: &[u8]) {
    let mut stream = data;
    while let Some((head, rest)) = stream.split_first_chunk::<HEAD_BYTES>() {
        let Ok(head) = Head::decode(head) else { return };
        let Some((body, rest)) = rest.split_at_checked(head.body_bytes) else { return };
        stream = rest;
        // Nobody guesses a checksum, so the body is also tried under the right one.
        let right = Head { checksum: checksum(head.kind, body), ..head };
        for head in [head, right] {
            if let Ok(greeting) = Greeting::decode(head, body) {
                let bytes = greeting.encode();
                let (head, body) = bytes.split_first_chunk().map_or_else(
                    || panic!("a greeting is at least a head"),
                    |(head, body)| (Head::decode(head), body),
                );
                assert_eq!(head.and_then(|head| Greeting::decode(head, body)), Ok(greeting));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Greeting, GreetingError> {
        let (head, body) = bytes.split_first_chunk().expect("a head");
        Greeting::decode(Head::decode(head)?, body)
    }

    fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 3,
            identity: Identity { cell: CellId(7), host: HostId(8), store: StoreId(9) },
            life: 10,
            expected: Some(HostId(11)),
            number: 12,
            share: "10.1.2.3:6278".parse().expect("an address"),
            build: "0.1.0 (abc)".into(),
        }
    }

    #[test]
    fn greetings_read_as_written() {
        let refusal = Greeting::Refusal { reason: Reason::Cell, text: "another cell".into() };
        let six = Hello { expected: None, share: "[2001:db8::1]:1".parse().unwrap(), ..hello() };
        for greeting in [Greeting::Hello(hello()), Greeting::Hello(six), Greeting::Ready, refusal] {
            assert_eq!(read(&greeting.encode()), Ok(greeting));
        }
    }

    #[test]
    fn a_later_release_may_say_more_than_we_understand() {
        let mut body = hello().encode();
        body.extend_from_slice(b"and another thing");
        let head = Head { kind: HELLO, checksum: checksum(HELLO, &body), body_bytes: body.len() };
        assert_eq!(Greeting::decode(head, &body), Ok(Greeting::Hello(hello())));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let bytes = Greeting::Hello(hello()).encode();
        for end in HEAD_BYTES..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_refusal_with_a_long_text_is_cut_at_a_character() {
        let text = "ü".repeat(TEXT_BYTES_MAX);
        let Ok(Greeting::Refusal { text: read, .. }) =
            read(&Greeting::Refusal { reason: Reason::Admission, text }.encode())
        else {
            panic!("a refusal")
        };
        assert_eq!(read, "ü".repeat(TEXT_BYTES_MAX / 2));
    }

    #[test]
    fn a_text_that_is_not_text_is_replaced_and_still_fits() {
        let mut body = hello().encode();
        let at = body.len() - hello().build.len() - 1;
        body.truncate(at);
        body.push(BUILD_BYTES_MAX as u8);
        body.extend_from_slice(&[0xFF; BUILD_BYTES_MAX]);
        let read = Hello::decode(&body).unwrap();
        assert_eq!(read.build, "\u{FFFD}".repeat(BUILD_BYTES_MAX / 3));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..5) {
            let mut bytes = MAGIC.to_vec();
            bytes.push(kind);
            bytes.extend_from_slice(&(data.len() as u16).to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&data);
            fuzz(&bytes);
            fuzz(&data);
        }
    }
}
