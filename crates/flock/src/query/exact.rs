//! Sums of floats that do not depend on the order in which they are added.

use super::value::Number;
use crate::wire::{DecodeError, Reader, Writer};

/// 2098 bits hold every finite `f64` as a multiple of 2^-1074; the rest is room for the carries of 2^32 of them, once more as
/// many partial sums from a message, and the sign.
const LIMBS: usize = 34;

/// Bits of the highest limb that a partial sum from a message may use: 2098 + 32 bits in all.
const TOP_BITS: u32 = 2098 + 32 - 64 * (LIMBS as u32 - 1);

/// Bit of 1.0, as 0 is that of 2^-1074.
const ONE: usize = 1074;

/// The exact sum of any finite numbers: one long integer, as in a Kulisch accumulator (Kulisch, "Computer Arithmetic and
/// Validity", 2008, chapter 8). Addition of integers is associative and commutative, so the tree's shape cannot show in a sum.
///
/// 272 bytes in memory, as many limbs on the wire as are not zero or sign.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ExactSum {
    /// Two's complement, lowest first; nothing allocated for zero.
    limbs: Option<Box<[u64; LIMBS]>>,
}

impl ExactSum {
    /// Adds a number.
    pub fn add(&mut self, number: Number) {
        match number {
            Number::Int(value) => self.add_int(value.into()),
            Number::Float(value) => self.add_float(value),
        }
    }

    fn add_float(&mut self, value: f64) {
        let bits = value.to_bits();
        let (exponent, fraction) = ((bits >> 52 & 0x7FF) as usize, bits & ((1 << 52) - 1));
        let (mantissa, shift) = match exponent {
            0 => (fraction, 0),
            _ => (fraction | 1 << 52, exponent - 1),
        };
        self.add_at(mantissa.into(), shift, value.is_sign_negative());
    }

    /// Adds a whole number of any size.
    pub fn add_int(&mut self, value: i128) {
        let magnitude = value.unsigned_abs();
        self.add_at(magnitude & u128::from(u64::MAX), ONE, value < 0);
        self.add_at(magnitude >> 64, ONE + 64, value < 0);
    }

    /// Adds or takes off `magnitude << shift`; `magnitude` has at most 64 bits.
    fn add_at(&mut self, magnitude: u128, shift: usize, negative: bool) {
        if magnitude == 0 {
            return;
        }
        let limbs = self.limbs.get_or_insert_with(|| Box::new([0; LIMBS]));
        let wide = magnitude << (shift % 64);
        let mut rest = [wide as u64, (wide >> 64) as u64].into_iter();
        let mut carry = false;
        for limb in &mut limbs[shift / 64..] {
            let part = rest.next();
            if part.is_none() && !carry {
                break;
            }
            let (sum, first, second);
            if negative {
                (sum, first) = limb.overflowing_sub(part.unwrap_or(0));
                (*limb, second) = sum.overflowing_sub(carry.into());
            } else {
                (sum, first) = limb.overflowing_add(part.unwrap_or(0));
                (*limb, second) = sum.overflowing_add(carry.into());
            }
            carry = first || second;
        }
        self.settle();
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        let Some(other) = &other.limbs else { return };
        let limbs = self.limbs.get_or_insert_with(|| Box::new([0; LIMBS]));
        let mut carry = false;
        for (limb, part) in limbs.iter_mut().zip(other.iter()) {
            let (sum, first) = limb.overflowing_add(*part);
            let (sum, second) = sum.overflowing_add(carry.into());
            *limb = sum;
            carry = first || second;
        }
        self.settle();
    }

    /// Zero is always the same zero.
    fn settle(&mut self) {
        if self.limbs.as_ref().is_some_and(|limbs| limbs.iter().all(|limb| *limb == 0)) {
            self.limbs = None;
        }
    }

    /// The `f64` nearest to the exact sum, ties to even; infinite beyond what an `f64` holds.
    pub fn to_f64(&self) -> f64 {
        let Some(limbs) = &self.limbs else { return 0.0 };
        let mut limbs = **limbs;
        let negative = limbs[LIMBS - 1] >> 63 == 1;
        if negative {
            let mut carry = true;
            for limb in &mut limbs {
                (*limb, carry) = (!*limb).overflowing_add(carry.into());
            }
        }
        let bit = |at: usize| limbs[at / 64] >> (at % 64) & 1;
        let top = (0..LIMBS * 64).rev().find(|at| bit(*at) == 1).unwrap_or(0);
        let magnitude = if top < 53 {
            f64::from_bits(limbs[0])
        } else {
            let cut = top - 52;
            let mut mantissa = (cut..=top).rev().fold(0, |mantissa: u64, at| mantissa << 1 | bit(at));
            let sticky = || (0..cut - 1).any(|at| bit(at) == 1);
            if bit(cut - 1) == 1 && (mantissa & 1 == 1 || sticky()) {
                mantissa += 1;
            }
            // A mantissa rounded up to 2^53 carries into the exponent, which is what it should do.
            let bits = ((cut as u64) << 52) + mantissa;
            if bits < f64::INFINITY.to_bits() { f64::from_bits(bits) } else { f64::INFINITY }
        };
        if negative { -magnitude } else { magnitude }
    }

    /// `| limbs left out below: u8 | limbs that follow: u8 | limbs: u64 le each |`; the last one's sign goes on above.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        let Some(limbs) = &self.limbs else {
            writer.u8(0);
            writer.u8(0);
            return;
        };
        let first = limbs.iter().position(|limb| *limb != 0).unwrap_or(0);
        let extends = |end: usize| limbs[end..].iter().all(|limb| *limb == sign(limbs[end - 1]));
        let end = (first + 1..LIMBS).find(|end| extends(*end)).unwrap_or(LIMBS);
        writer.u8(first as u8);
        writer.u8((end - first) as u8);
        limbs[first..end].iter().for_each(|limb| writer.u64(*limb));
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let first = usize::from(reader.u8("exact sum")?);
        let count = usize::from(reader.u8("exact sum")?);
        if first + count > LIMBS {
            return Err(DecodeError::Range("exact sum"));
        }
        let mut limbs = Box::new([0; LIMBS]);
        for limb in &mut limbs[first..first + count] {
            *limb = reader.u64("exact sum")?;
        }
        if count > 0 {
            let above = sign(limbs[first + count - 1]);
            limbs[first + count..].fill(above);
        }
        // Nobody adds up more than that honestly, and a few such lies must not reach the sign bit.
        if !matches!(limbs[LIMBS - 1] as i64 >> TOP_BITS, 0 | -1) {
            return Err(DecodeError::Range("exact sum"));
        }
        let mut sum = Self { limbs: Some(limbs) };
        sum.settle();
        Ok(sum)
    }
}

/// What every limb above one is when that one is the highest that says something.
fn sign(limb: u64) -> u64 {
    ((limb as i64) >> 63) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::value::tests::numbers;
    use proptest::prelude::*;

    fn sum(numbers: &[Number]) -> ExactSum {
        let mut sum = ExactSum::default();
        numbers.iter().for_each(|number| sum.add(*number));
        sum
    }

    fn floats(values: &[f64]) -> f64 {
        sum(&values.iter().map(|value| Number::float(*value).unwrap()).collect::<Vec<_>>()).to_f64()
    }

    #[test]
    fn what_plain_addition_would_round_away_is_kept() {
        assert_eq!(floats(&[1e300, 1.0, -1e300]), 1.0);
        assert_eq!(floats(&[0.1; 10]), 1.0);
        assert_eq!(floats(&[5e-324, 5e-324]), 1e-323);
        assert_eq!(floats(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
        assert_eq!(floats(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(floats(&[-1.5, 0.25]), -1.25);
        assert_eq!(floats(&[1.0, -1.0]), 0.0);
    }

    #[test]
    fn a_sum_is_rounded_to_nearest_with_ties_to_even() {
        let one = 2.0_f64.powi(53);
        assert_eq!(floats(&[one, 1.0]), one);
        assert_eq!(floats(&[one, 1.0, 5e-324]), one + 2.0);
        assert_eq!(floats(&[one + 2.0, 1.0]), one + 4.0);
    }

    #[test]
    fn a_sum_so_large_that_nobody_can_mean_it_is_refused() {
        for top in [0x7FFF_FFFF_FFFF_FFFF_u64, 1 << 10, 0x8000_0000_0000_0000] {
            let mut writer = Writer::new(0, 300);
            writer.u8(33);
            writer.u8(1);
            writer.u64(top);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            let refused = ExactSum::decode(&mut reader).is_err();
            assert_eq!(refused, top != 1 << 10, "{top:x}");
        }
    }

    proptest! {
        #[test]
        fn one_number_is_its_own_sum(number in numbers()) {
            prop_assert_eq!(sum(&[number]).to_f64(), number.as_f64());
        }

        #[test]
        fn neither_order_nor_grouping_shows_in_a_sum(
            numbers in prop::collection::vec(numbers(), 0..20), cut: prop::sample::Index,
        ) {
            let cut = cut.index(numbers.len() + 1);
            let mut backwards = sum(&numbers[cut..]);
            backwards.merge(&sum(&numbers[..cut]));
            prop_assert_eq!(backwards, sum(&numbers));
        }

        #[test]
        fn taking_off_what_was_added_gives_nothing(numbers in prop::collection::vec(numbers(), 0..20)) {
            let mut both = sum(&numbers);
            for number in &numbers {
                match number {
                    Number::Int(value) => both.add_int(-i128::from(*value)),
                    Number::Float(value) => both.add_float(-value),
                }
            }
            prop_assert_eq!(both, ExactSum::default());
        }

        #[test]
        fn a_sum_reads_back_as_written(numbers in prop::collection::vec(numbers(), 0..20)) {
            let sum = sum(&numbers);
            let mut writer = Writer::new(0, 16);
            sum.encode(&mut writer);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            prop_assert_eq!(ExactSum::decode(&mut reader), Ok(sum));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
