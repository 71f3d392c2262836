//! A hint to the processor: data that will be needed soon.

/// Asks for a place of memory to be brought into the cache. Changes nothing but the time that a later read takes.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "the one stable way to prefetch")]
        // SAFETY: a prefetch reads nothing that the program can see, and never faults.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
