//! An event that is written without escapes is decoded without an allocation, and so are its rejects.
#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tidemark_core::event::{Limits, decode, id_hash};

const NOW: i64 = 1_795_564_800_000;

struct Counting;

thread_local! {
    /// This thread's allocations: the test harness has threads of its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // An allocation while the thread is being taken down is nobody's.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often decoding the text, and reading all of the event, allocates.
fn allocations(text: &str, accepted: bool) -> usize {
    let limits = Limits::default();
    let before = ALLOCATIONS.get();
    let event = decode(Some(text.as_bytes()), NOW, &limits);
    if let Ok(event) = &event {
        std::hint::black_box(event.event_id.as_deref().map(id_hash));
        std::hint::black_box(event.properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>());
    }
    let allocated = ALLOCATIONS.get() - before;
    assert_eq!(event.is_ok(), accepted, "{text}: {event:?}");
    allocated
}

#[test]
fn an_event_without_escapes_is_decoded_without_allocation() {
    let plain = r#" {"event_id":"nyc-000000","event_type":"UA","timestamp":"2013-01-01T10:15:00.000Z","product_id":"EWR-IAH","user_id":"Zoë","order_amount":-2.5e1,"properties":{"flight":1545,"a":"b","c":[1,{}]},"other":[[{"x":null}]]} "#;
    assert_eq!(allocations(plain, true), 0);
    for rejected in ["", "{", "[]", "{}", r#"{"event_type":"a","timestamp":"yesterday"}"#, r#"{"a":1,"a":"\ud800"}"#] {
        assert_eq!(allocations(rejected, false), 0, "{rejected}");
    }
    // The counter counts: only the strings with escapes are copied.
    let escaped = plain.replace("UA", r"\u0055A").replace("Zoë", r"Zo\u00eb");
    assert_eq!(allocations(&escaped, true), 2);
}
