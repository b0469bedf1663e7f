//! The number grammar that IDs and times share on the wire (`docs/HTTP.md`).

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_base_is_told_by_its_prefix() {
        let cases: [(&str, u64); 14] = [
            ("0", 0),
            ("00", 0),
            ("7", 7),
            ("10", 10),
            ("010", 8),
            ("0777", 0o777),
            ("0x10", 16),
            ("0X1f", 31),
            ("#1F", 31),
            ("0x0000000000000001", 1),
            ("0xffffFFFFffffFFFF", u64::MAX),
            ("18446744073709551615", u64::MAX),
            ("01777777777777777777777", u64::MAX),
            ("1436030454000000", 1_436_030_454_000_000),
        ];
        for (text, number) in cases {
            assert_eq!(parse_u64(text), Ok(number), "{text}");
        }
    }

    #[test]
    fn one_plus_sign_is_accepted_and_no_minus_sign() {
        assert_eq!(parse_u64("+5"), Ok(5));
        assert_eq!(parse_u64("+0x5"), Ok(5));
        for text in ["-5", "-0", "++5", "+-5", "0x+5", "0x-5", "#+5", "0+5"] {
            assert_eq!(parse_u64(text), Err(NumberError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_digit_its_base_lacks_is_malformed() {
        for text in
            ["09", "08", "1a", "0xg", "#g", "abc", " 1", "1 ", "1_000", "1.0", "1e3", "0b1", "٣", "0x٣"]
        {
            assert_eq!(parse_u64(text), Err(NumberError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_text_without_digits_is_empty() {
        for text in ["", "+", "0x", "0X", "#", "+#"] {
            assert_eq!(parse_u64(text), Err(NumberError::Empty), "{text}");
        }
    }

    #[test]
    fn one_past_the_largest_number_is_too_large() {
        for text in
            ["18446744073709551616", "0x10000000000000000", "#10000000000000000", "02000000000000000000000"]
        {
            assert_eq!(parse_u64(text), Err(NumberError::TooLarge), "{text}");
        }
        assert_eq!(parse_u64(&"9".repeat(1 << 20)), Err(NumberError::TooLarge));
        assert_eq!(parse_u64(&"0".repeat(1 << 20)), Ok(0));
    }

    proptest! {
        #[test]
        fn every_number_reads_back_in_every_base(n: u64) {
            for text in [format!("{n}"), format!("0x{n:x}"), format!("0X{n:016X}"), format!("#{n:X}"), format!("0{n:o}")] {
                prop_assert_eq!(parse_u64(&text), Ok(n), "{}", text);
            }
        }

        #[test]
        fn any_text_is_a_number_or_an_error(text in "\\PC{0,30}") {
            if let Ok(n) = parse_u64(&text) {
                let digits = text.trim_start_matches('+').trim_start_matches('#').to_ascii_lowercase();
                let digits = digits.trim_start_matches("0x");
                prop_assert!(digits.bytes().all(|b| b.is_ascii_hexdigit()));
                prop_assert!(n == 0 || digits.bytes().any(|b| b != b'0'));
            }
        }
    }
}
