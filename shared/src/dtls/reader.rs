//! Reads big-endian fields off the front of a slice.

/// What is left to parse; every method takes from the front or says `None`.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;

        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;

        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u24(&mut self) -> Option<usize> {
        let [a, b, c] = self.array()?;

        Some(usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))
    }

    /// A vector with a one-byte length.
    pub(super) fn vec8(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;

        self.take(len.into())
    }

    /// A vector with a two-byte length.
    pub(super) fn vec16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;

        self.take(len.into())
    }

    /// Says that the fields filled the message.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

pub(super) fn put_vec8(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(u8::try_from(bytes.len()).expect("the field is at most 255 bytes long"));
    out.extend_from_slice(bytes);
}

pub(super) fn put_vec16(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(bytes.len()).expect("the field is at most 65535 bytes long");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}
