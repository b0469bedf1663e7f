//! What members say to each other, and how it looks on the wire.

use crate::addr::{Addr, Peer};
use crate::wire::{DecodeError, Frame, Reader, Writer};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Most addresses in one message.
pub const ADDRS_MAX: usize = 64;

/// Most hops that a walk may still have before it.
pub const HOPS_MAX: u8 = 32;

/// What a walk, or somebody who dials, is looking for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Two links: a place in the middle of an existing link.
    Two,
    /// One link: with somebody who has too few, or the end of a link of somebody who has too many.
    One,
}

/// A message between members. Tags `0x00` to `0x1F`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `0x00 |`: the sender lives.
    Beat,
    /// `0x01 |`: the sender has heard nothing for a while and wants to.
    Probe,
    /// `0x10 |`: the sender, who has no links, asks to be spread over the network.
    Join,
    /// `0x11 | hops: u8 | peer |`: a joiner on its way to where its walks part.
    Spread {
        /// Hops before it parts.
        hops: u8,
        /// The joiner.
        joiner: Peer,
    },
    /// `0x12 for two, 0x13 for one | hops: u8 | peer |`: a random walk that looks for links.
    Walk {
        /// What for.
        want: Want,
        /// Hops before it ends.
        hops: u8,
        /// For whom.
        joiner: Peer,
    },
    /// `0x14 for two, 0x15 for one |`: the sender looks for links, here.
    Neighbour {
        /// How many.
        want: Want,
    },
    /// `0x16 | addresses |`: the sender has taken the receiver for a neighbour.
    Link {
        /// Others that the receiver may want to know.
        known: Vec<Addr>,
    },
    /// `0x17 |` or `0x18 | peer |`: the sender has dropped the link, and perhaps says whom to take instead.
    Unlink {
        /// Who expects a link from the receiver.
        instead: Option<Peer>,
    },
    /// `0x19 |` or `0x1A | peer |`: the same, and the sender is about to stop.
    Leave {
        /// Who expects a link from the receiver.
        instead: Option<Peer>,
    },
    /// `0x1B | hops: u8 | count: u8 | address |`: somebody on the way to a random peer to exchange contacts with.
    Shuffle {
        /// Hops before it ends.
        hops: u8,
        /// How many contacts are wanted.
        count: u8,
        /// Who wants to.
        origin: Addr,
    },
    /// `0x1C | addresses |`: contacts for somebody whose shuffle ended here, who is expected to send some back.
    Offer {
        /// Contacts.
        known: Vec<Addr>,
    },
    /// `0x1D | addresses |`: contacts in return.
    Return {
        /// Contacts.
        known: Vec<Addr>,
    },
}

impl Message {
    /// The tag.
    pub fn tag(&self) -> u8 {
        match self {
            Self::Beat => 0x00,
            Self::Probe => 0x01,
            Self::Join => 0x10,
            Self::Spread { .. } => 0x11,
            Self::Walk { want: Want::Two, .. } => 0x12,
            Self::Walk { want: Want::One, .. } => 0x13,
            Self::Neighbour { want: Want::Two } => 0x14,
            Self::Neighbour { want: Want::One } => 0x15,
            Self::Link { .. } => 0x16,
            Self::Unlink { instead: None } => 0x17,
            Self::Unlink { instead: Some(_) } => 0x18,
            Self::Leave { instead: None } => 0x19,
            Self::Leave { instead: Some(_) } => 0x1A,
            Self::Shuffle { .. } => 0x1B,
            Self::Offer { .. } => 0x1C,
            Self::Return { .. } => 0x1D,
        }
    }

    /// As bytes, tag first.
    pub fn encode(&self) -> Frame {
        let mut writer = Writer::new(self.tag(), 12);
        match self {
            Self::Beat | Self::Probe | Self::Join | Self::Neighbour { .. } => {}
            Self::Spread { hops, joiner } | Self::Walk { hops, joiner, .. } => {
                writer.u8(*hops);
                writer.peer(*joiner);
            }
            Self::Shuffle { hops, count, origin } => {
                writer.u8(*hops);
                writer.u8(*count);
                writer.addr(*origin);
            }
            Self::Unlink { instead } | Self::Leave { instead } => {
                if let Some(peer) = instead {
                    writer.peer(*peer);
                }
            }
            Self::Link { known } | Self::Offer { known } | Self::Return { known } => {
                write_addrs(&mut writer, known)
            }
        }
        writer.frame()
    }

    /// The message that follows a tag. Any bytes give a message or an error.
    pub fn decode(tag: u8, mut reader: Reader) -> Result<Self, DecodeError> {
        let message = match tag {
            0x00 => Self::Beat,
            0x01 => Self::Probe,
            0x10 => Self::Join,
            0x11 => Self::Spread { hops: read_hops(&mut reader)?, joiner: reader.peer("joiner")? },
            0x12 | 0x13 => Self::Walk {
                want: if tag == 0x12 { Want::Two } else { Want::One },
                hops: read_hops(&mut reader)?,
                joiner: reader.peer("joiner")?,
            },
            0x14 => Self::Neighbour { want: Want::Two },
            0x15 => Self::Neighbour { want: Want::One },
            0x16 => Self::Link { known: read_addrs(&mut reader)? },
            0x17 => Self::Unlink { instead: None },
            0x18 => Self::Unlink { instead: Some(reader.peer("substitute")?) },
            0x19 => Self::Leave { instead: None },
            0x1A => Self::Leave { instead: Some(reader.peer("substitute")?) },
            0x1B => Self::Shuffle {
                hops: read_hops(&mut reader)?,
                count: match reader.u8("count")? {
                    count if usize::from(count) <= ADDRS_MAX => count,
                    _ => return Err(DecodeError::Range("count")),
                },
                origin: reader.addr("origin")?,
            },
            0x1C => Self::Offer { known: read_addrs(&mut reader)? },
            0x1D => Self::Return { known: read_addrs(&mut reader)? },
            _ => return Err(DecodeError::Tag(tag)),
        };
        reader.end()?;
        Ok(message)
    }
}

fn read_hops(reader: &mut Reader) -> Result<u8, DecodeError> {
    match reader.u8("hops")? {
        hops @ 0..=HOPS_MAX => Ok(hops),
        _ => Err(DecodeError::Range("hops")),
    }
}

/// `| short: u8 | long: u8 | port: u16 be, if short > 0 | IPv4: 4 bytes × short | address × long |`: most peers
/// listen on the same port, which is then said once.
fn write_addrs(writer: &mut Writer, addrs: &[Addr]) {
    let addrs = &addrs[..addrs.len().min(ADDRS_MAX)];
    let port = addrs.iter().find(|addr| addr.ip().is_ipv4()).map(|addr| addr.port());
    let short = |addr: &Addr| match addr.ip() {
        IpAddr::V4(ip) if Some(addr.port()) == port => Some(ip),
        _ => None,
    };
    let shorts = addrs.iter().filter_map(short).count();
    writer.u8(shorts as u8);
    writer.u8((addrs.len() - shorts) as u8);
    if let Some(port) = port {
        writer.raw(&port.to_be_bytes());
    }
    addrs.iter().filter_map(short).for_each(|ip| writer.raw(&ip.octets()));
    addrs.iter().filter(|addr| short(addr).is_none()).for_each(|addr| writer.addr(*addr));
}

fn read_addrs(reader: &mut Reader) -> Result<Vec<Addr>, DecodeError> {
    let (short, long) =
        (usize::from(reader.u8("short addresses")?), usize::from(reader.u8("long addresses")?));
    if short + long > ADDRS_MAX {
        return Err(DecodeError::Range("addresses"));
    }
    let mut addrs = Vec::with_capacity(short + long);
    if short > 0 {
        let port = u16::from_be_bytes(reader.array("port")?);
        for _ in 0..short {
            let ip = Ipv4Addr::from(reader.array::<4>("address")?);
            if port == 0 || ip.is_unspecified() {
                return Err(DecodeError::Range("address"));
            }
            addrs.push(SocketAddr::from((ip, port)).into());
        }
    }
    for _ in 0..long {
        addrs.push(reader.addr("address")?);
    }
    Ok(addrs)
}

#[cfg(test)]
mod tests;
