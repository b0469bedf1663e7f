//! Bytes, shares of memory and durations as people write them in flags, environment and file.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written `512MiB`, `2GB`, `64k` or `1048576`.
///
/// `KiB`, `MiB`, `GiB`, `TiB` count in 1024s, `kB`, `MB`, `GB`, `TB` in 1000s, a lone letter as the former.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A text that is not an amount of the wanted kind; the message says how one is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Bytes, UnitError> {
        let wrong =
            || UnitError(format!("{text:?} is not a number of bytes; write for example 512MiB or 2GB"));
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let scale: u64 = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(scale).map(Bytes).ok_or_else(wrong)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >> shift != 0 {
                let whole = self.0 as f64 / (1u64 << shift) as f64;
                return if whole.fract() < 0.05 {
                    write!(f, "{} {unit}", whole.trunc())
                } else {
                    write!(f, "{whole:.1} {unit}")
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// How much memory a server may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// A share of what the machine or the control group has; 1 to 100.
    Percent(u8),
    /// So many bytes.
    Bytes(Bytes),
}

impl FromStr for Memory {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Memory, UnitError> {
        let Some(share) = text.trim().strip_suffix('%') else {
            return text.parse().map(Memory::Bytes).map_err(|_| {
                UnitError(format!("{text:?} is not an amount of memory; write for example 25% or 512MiB"))
            });
        };
        match share.trim().parse::<u8>() {
            Ok(share @ 1..=100) => Ok(Memory::Percent(share)),
            _ => Err(UnitError(format!("{text:?} is not a share of memory; write 1% to 100%"))),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memory::Percent(share) => write!(f, "{share}%"),
            Memory::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

/// How fast copies of replicas leave a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyRate {
    /// As fast as those who write meanwhile bear.
    Adaptive,
    /// As fast as can be.
    Unlimited,
    /// So many bytes each second.
    Bytes(Bytes),
}

impl FromStr for CopyRate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<CopyRate, UnitError> {
        match text.trim() {
            "adaptive" => Ok(CopyRate::Adaptive),
            "unlimited" => Ok(CopyRate::Unlimited),
            other => match other.parse() {
                Ok(bytes) if bytes >= COPY_RATE_MIN => Ok(CopyRate::Bytes(bytes)),
                Ok(_) => {
                    Err(UnitError(format!("a copy at less than {COPY_RATE_MIN} each second might never end")))
                }
                Err(_) => Err(UnitError(format!(
                    "{text:?} is not a rate; write adaptive, unlimited, or the bytes of a second, for example 50MB"
                ))),
            },
        }
    }
}

/// The slowest rate that may be asked for.
const COPY_RATE_MIN: Bytes = Bytes(1 << 20);

impl fmt::Display for CopyRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyRate::Adaptive => f.write_str("adaptive"),
            CopyRate::Unlimited => f.write_str("unlimited"),
            CopyRate::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

/// A duration, written `5s`, `1m 30s` or `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Span, UnitError> {
        humantime::parse_duration(text.trim()).map(Span).map_err(|e| {
            UnitError(format!("{text:?} is not a duration ({e}); write for example 5s or 250ms"))
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

macro_rules! deserialize_from_str {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
deserialize_from_str!(Bytes, CopyRate, Memory, Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("512MiB", 512 << 20),
            ("2 GB", 2_000_000_000),
            ("64k", 64 << 10),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1XB", "99999999999TiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_print_in_the_unit_that_fits() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (512 << 20, "512 MiB"), (1_900_000_000, "1.8 GiB")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn memory_is_a_share_or_an_amount() {
        assert_eq!("25%".parse(), Ok(Memory::Percent(25)));
        assert_eq!("1GiB".parse(), Ok(Memory::Bytes(Bytes(1 << 30))));
        for text in ["0%", "101%", "%", "a quarter"] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_copy_rate_is_a_word_or_the_bytes_of_a_second() {
        for (text, rate) in [
            ("adaptive", CopyRate::Adaptive),
            ("unlimited", CopyRate::Unlimited),
            ("50MB", CopyRate::Bytes(Bytes(50_000_000))),
        ] {
            assert_eq!(text.parse(), Ok(rate), "{text}");
        }
        for text in ["", "fast", "0", "1000"] {
            assert!(text.parse::<CopyRate>().is_err(), "{text}");
        }
    }
}
