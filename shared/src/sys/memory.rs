//! Anonymous memory of which only the touched pages cost anything, and which
//! gives them back.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

use super::check;

/// Private memory, zero until it is written to.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// `len` is in bytes and not 0.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: an anonymous mapping at a place of the kernel's choice
        // touches no memory that is in use.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }

        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }

    /// Where it starts, for the kernel to write to; page-aligned.
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Gives every page back: all bytes are zero again.
    pub(crate) fn discard(&mut self) -> io::Result<()> {
        // SAFETY: the range is this mapping, which nobody else sees, and zeros
        // are bytes like any others.
        check(unsafe { libc::madvise(self.start().cast(), self.len, libc::MADV_DONTNEED) })?;

        Ok(())
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `len` readable bytes until it is dropped.
        unsafe { slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `len` writable bytes until it is dropped, and
        // the borrow is the only one.
        unsafe { slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start().cast(), self.len) };
    }
}

// SAFETY: a mapping is owned memory, as a `Vec<u8>` is.
unsafe impl Send for Mapping {}

// SAFETY: a shared borrow only reads.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_discarded_is_zero_and_can_be_written_again() {
        let mut mapping = Mapping::new(3 << 16).unwrap();
        assert_eq!(mapping.len(), 3 << 16);
        mapping.fill(7);

        mapping.discard().unwrap();

        assert!(mapping.iter().all(|byte| *byte == 0));
        mapping[70_000] = 1;
        assert_eq!(mapping[70_000], 1);
    }
}
