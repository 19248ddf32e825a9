//! The bytes of a section file, in a mapped file or in memory, and typed views of them.
//!
//! A view keeps its bytes alive and is checked for bounds and alignment when it is made, so that the
//! rest of genret needs no unsafe code to read them. Only numbers for which every bit pattern is
//! valid can be viewed: wrong bytes give wrong numbers, nothing worse. A mapped file must not be
//! changed or cut while it is open; genret itself only ever replaces index files by renaming.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::Mmap;

use crate::types::TokenId;

/// All bytes of a section file.
pub(crate) enum Bytes {
    /// A file mapped into memory.
    Mapped(Mmap),
    /// Memory of the process, aligned to eight bytes, with the number of bytes in use.
    Owned(Box<[u64]>, usize),
}

impl Bytes {
    /// A copy of `bytes` in memory.
    pub(crate) fn owned(bytes: &[u8]) -> Self {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(padded);
        }
        Self::Owned(words.into(), bytes.len())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            // SAFETY: `len` is at most the bytes of `words`, and any byte is a valid u8.
            Self::Owned(words, len) => unsafe {
                debug_assert!(*len <= words.len() * 8);
                std::slice::from_raw_parts(words.as_ptr().cast(), *len)
            },
        }
    }
}

/// Numbers that may be read from any bytes.
///
/// # Safety
/// Every bit pattern is a valid value, and the type has no padding.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: numbers, a transparent wrapper of one, and arrays of them.
unsafe impl Plain for u8 {}
unsafe impl Plain for u16 {}
unsafe impl Plain for u32 {}
unsafe impl Plain for u64 {}
unsafe impl Plain for i8 {}
unsafe impl Plain for f32 {}
unsafe impl Plain for TokenId {}
unsafe impl Plain for [u32; 2] {}
unsafe impl Plain for [u32; 3] {}

/// Part of the bytes of a file, or a list in memory, as a slice of `T`. Cheap to clone.
pub(crate) struct View<T> {
    start: *const T,
    len: usize,
    _owner: Arc<dyn Any + Send + Sync>,
    _items: PhantomData<T>,
}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self {
            _owner: self._owner.clone(),
            ..*self
        }
    }
}

impl<T: Plain> From<Vec<T>> for View<T> {
    fn from(items: Vec<T>) -> Self {
        Self {
            start: items.as_ptr(),
            len: items.len(),
            _owner: Arc::new(items),
            _items: PhantomData,
        }
    }
}

// SAFETY: a view is a shared slice of plain numbers in bytes that never change or move.
unsafe impl<T: Plain> Send for View<T> {}
unsafe impl<T: Plain> Sync for View<T> {}

impl<T: Plain> View<T> {
    /// The items at `range` of `bytes`; `None` if it is out of bounds, cut or misaligned.
    pub(crate) fn new(bytes: &Arc<Bytes>, range: Range<usize>) -> Option<Self> {
        let part = bytes.get(range)?;
        let start = part.as_ptr().cast::<T>();
        let whole = part.len() % size_of::<T>() == 0 && start.is_aligned();
        whole.then(|| Self {
            start,
            len: part.len() / size_of::<T>(),
            _owner: bytes.clone(),
            _items: PhantomData,
        })
    }
}

impl<T> Deref for View<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` checked bounds and alignment; the Arc keeps the bytes, which neither move nor
        // change; `T: Plain` accepts any bytes.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

/// The items of `slice` as bytes in this machine's order.
pub(crate) fn as_bytes<T: Plain>(slice: &[T]) -> &[u8] {
    // SAFETY: `T: Plain` has no padding, and any byte is a valid u8.
    unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), size_of_val(slice)) }
}

/// Asks the processor to load `slice[index]` soon; does nothing where `index` is out of bounds.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching reads nothing architecturally; any address is allowed.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(slice.as_ptr().wrapping_add(index).cast(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}
