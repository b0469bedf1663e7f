//! Turning a fuzzer's bytes into numbers.

/// Takes fields off the front of the bytes; past their end everything is zero, so that any bytes will do.
pub struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// At most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// A number that is mostly small, sometimes one at which arithmetic goes wrong, sometimes any.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            0xF8 => u64::MAX,
            0xF9 => u64::MAX - 1,
            0xFA => 1 << 63,
            0xFB => 1 << 48,
            0xFC => 1 << 32,
            0xFD => u64::from(u32::MAX),
            0xFE => 1 << 16,
            0xFF => {
                let mut number = [0; 8];
                let bytes = self.bytes(8);
                number[..bytes.len()].copy_from_slice(bytes);
                u64::from_le_bytes(number)
            }
            small => u64::from(small),
        }
    }
}
