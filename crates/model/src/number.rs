//! The number grammar that IDs and times share on the wire (`spec/treode.md` §1).

/// Why a text is not an unsigned 64-bit number of the shared grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// The text is empty, or only a prefix such as `0x`.
    #[error("the number is empty")]
    Empty,
    /// The text holds a character that its base does not have.
    #[error("it is not a decimal, 0x or # hexadecimal, or leading-0 octal number")]
    Malformed,
    /// The number needs more than 64 bits.
    #[error("the number does not fit in 64 bits")]
    TooLarge,
}

/// Parses `0x…`/`0X…`/`#…` as hexadecimal, a leading `0` as octal, anything else as decimal.
///
/// A leading `+` is accepted, a leading `-` is not. `0` is zero; `09` is an error.
pub fn parse_u64(text: &str) -> Result<u64, NumberError> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = if let Some(hex) =
        text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).or_else(|| text.strip_prefix('#'))
    {
        (hex, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        (&text[1..], 8)
    } else {
        (text, 10)
    };
    if digits.is_empty() {
        return Err(NumberError::Empty);
    }
    // `from_str_radix` would accept a second sign.
    if !digits.bytes().all(|b| (b as char).is_digit(radix)) {
        return Err(NumberError::Malformed);
    }
    u64::from_str_radix(digits, radix).map_err(|_| NumberError::TooLarge)
}
