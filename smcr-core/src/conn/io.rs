//! Where the bytes of a send come from, and where those of a receive go.

use rustix::io::Errno;

/// The bytes of one send call.
pub trait Source {
    /// Bytes left to take.
    fn left(&self) -> usize;

    /// Copies the next `len` (at most `left()`) bytes to `to` and moves on; returns how many it
    /// copied, which is less only at the end of a file.
    ///
    /// # Safety
    /// `to` is valid for writes of `len` bytes. The memory may be shared with another process.
    unsafe fn take(&mut self, to: *mut u8, len: usize) -> Result<usize, Errno>;

    /// Goes back `len` bytes, all of which were taken just now.
    fn back(&mut self, len: usize);
}

/// The room of one receive call.
pub trait Sink {
    /// Room left, in bytes.
    fn left(&self) -> usize;

    /// Copies `len` (at most `left()`) bytes from `from` and moves on; returns how many it took.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` bytes. The memory may be shared with another process.
    unsafe fn put(&mut self, from: *const u8, len: usize) -> Result<usize, Errno>;
}

/// Memory of the program: a list of (pointer, length) as in `struct iovec`.
#[derive(Debug)]
pub struct Slices<'a> {
    iov: &'a [libc::iovec],
    /// Position: which entry, and how far into it.
    entry: usize,
    offset: usize,
    left: usize,
}

impl<'a> Slices<'a> {
    /// # Safety
    /// Each entry is valid for the reads (a source) or writes (a sink) of its length while the
    /// value lives, as the program promised to the kernel by its call.
    ///
    /// # Errors
    /// As the kernel: `EINVAL` for a length beyond `isize::MAX`, `EFAULT` for memory that ends
    /// beyond every address.
    pub unsafe fn new(iov: &'a [libc::iovec]) -> Result<Self, Errno> {
        let mut left = 0usize;
        for entry in iov {
            let end = (entry.iov_base as usize).saturating_add(entry.iov_len);
            if end > isize::MAX as usize {
                let too_long = iov.iter().any(|entry| entry.iov_len > isize::MAX as usize);
                return Err(if too_long { Errno::INVAL } else { Errno::FAULT });
            }
            left = left.saturating_add(entry.iov_len);
        }
        // The kernel never moves more than this in one call (MAX_RW_COUNT).
        Ok(Self {
            iov,
            entry: 0,
            offset: 0,
            left: left.min(0x7fff_f000),
        })
    }

    /// Calls `piece(pointer into the program's memory, length)` until `len` bytes are covered.
    #[inline]
    fn walk(&mut self, len: usize, mut piece: impl FnMut(*mut u8, usize)) {
        let mut todo = len.min(self.left);
        self.left -= todo;
        while todo > 0 {
            let entry = &self.iov[self.entry];
            let here = (entry.iov_len - self.offset).min(todo);
            if here > 0 {
                piece(entry.iov_base.cast::<u8>().wrapping_add(self.offset), here);
            }
            self.offset += here;
            todo -= here;
            if self.offset == entry.iov_len && todo > 0 {
                self.entry += 1;
                self.offset = 0;
            }
        }
    }
}

impl Source for Slices<'_> {
    fn left(&self) -> usize {
        self.left
    }

    #[inline]
    unsafe fn take(&mut self, to: *mut u8, len: usize) -> Result<usize, Errno> {
        let mut done = 0;
        self.walk(len, |from, here| {
            // SAFETY: `to` by this function's contract, `from` by that of `new`; the program's
            // memory and the ring do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(from, to.add(done), here) };
            done += here;
        });
        Ok(done)
    }

    fn back(&mut self, len: usize) {
        self.left += len;
        let mut todo = len;
        while todo > 0 {
            let here = self.offset.min(todo);
            self.offset -= here;
            todo -= here;
            if todo > 0 {
                self.entry -= 1;
                self.offset = self.iov[self.entry].iov_len;
            }
        }
    }
}

impl Sink for Slices<'_> {
    fn left(&self) -> usize {
        self.left
    }

    #[inline]
    unsafe fn put(&mut self, from: *const u8, len: usize) -> Result<usize, Errno> {
        let mut done = 0;
        self.walk(len, |to, here| {
            // SAFETY: `from` by this function's contract, `to` by that of `new`.
            unsafe { std::ptr::copy_nonoverlapping(from.add(done), to, here) };
            done += here;
        });
        Ok(done)
    }
}

/// A sink that forgets what it gets (`MSG_TRUNC` on a stream).
#[derive(Debug)]
pub struct Discard(pub usize);

impl Sink for Discard {
    fn left(&self) -> usize {
        self.0
    }

    unsafe fn put(&mut self, _from: *const u8, len: usize) -> Result<usize, Errno> {
        self.0 -= len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::{Slices, Source};

    #[test]
    fn slices_walk_over_empty_entries_and_back() {
        let mut parts = [b"ab".to_vec(), Vec::new(), b"cde".to_vec(), b"f".to_vec()];
        let iov: Vec<libc::iovec> = parts
            .iter_mut()
            .map(|part| libc::iovec {
                iov_base: part.as_mut_ptr().cast(),
                iov_len: part.len(),
            })
            .collect();
        // SAFETY: the entries point into `parts`.
        let mut source = unsafe { Slices::new(&iov) }.unwrap();
        let mut out = [0u8; 6];
        for split in 0..=6 {
            // SAFETY: `out` has room for 6.
            unsafe {
                assert_eq!(source.take(out.as_mut_ptr(), split), Ok(split));
                assert_eq!(source.take(out.as_mut_ptr().add(split), 6), Ok(6 - split));
            }
            assert_eq!(&out, b"abcdef");
            assert_eq!(source.left(), 0);
            source.back(3);
            // SAFETY: as above.
            unsafe { assert_eq!(source.take(out.as_mut_ptr(), 3), Ok(3)) };
            assert_eq!(&out[..3], b"def");
            source.back(6);
        }
    }
}
