//! The memory allocator of programs that use this library: the command line and the benches.

use std::ffi::{c_int, c_long};

/// Keeps large blocks instead of returning each to the system; a training step allocates its
/// activations anew, and page faults on them cost more than the arithmetic saved.
pub use mimalloc::MiMalloc as Allocator;

/// Keeps freed memory for ten seconds instead of one before it goes back to the system, so that the
/// steps of a training run, which free and allocate the same again, find it mapped.
///
/// Without it a step spends 5 to 25 percent of its time on pages that were given away, the more the
/// longer it takes. The peak of memory stays as it is. Only where [`Allocator`] is the global one.
pub fn keep_freed_memory() {
    unsafe extern "C" {
        fn mi_option_set(option: c_int, value: c_long);
    }
    /// `mi_option_purge_delay` of mimalloc's header, in milliseconds.
    const PURGE_DELAY: c_int = 15;
    // SAFETY: mimalloc, which `Allocator` links, documents the call as allowed at any time; it
    // stores a number.
    unsafe { mi_option_set(PURGE_DELAY, 10_000) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_of_that_name() {
        unsafe extern "C" {
            fn mi_option_get(option: c_int) -> c_long;
        }
        // The default of this release, which no neighbouring option has.
        // SAFETY: as in `keep_freed_memory`.
        assert_eq!(unsafe { mi_option_get(15) }, 1000);
        keep_freed_memory();
        // SAFETY: as above.
        assert_eq!(unsafe { mi_option_get(15) }, 10_000);
    }
}
