//! An allocator that can count the bytes that are live.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
};

/// The system's allocator. It counts only while a [`Count`] lives, so that the other scenarios do not pay for it.
pub struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(signed(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(signed(layout.size()));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        add(-signed(layout.size()));
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(signed(size) - signed(layout.size()));
        unsafe { System.realloc(block, layout, size) }
    }
}

fn add(bytes: i64) {
    if COUNTS.load(Ordering::Relaxed) {
        LIVE.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn signed(size: usize) -> i64 {
    size.try_into().unwrap_or(i64::MAX)
}

/// Counts the live bytes as long as it lives. There is one at a time.
pub struct Count(());

impl Count {
    pub fn begin() -> Self {
        LIVE.store(0, Ordering::Relaxed);
        let was_counting = COUNTS.swap(true, Ordering::SeqCst);
        assert!(!was_counting, "one count at a time");
        Self(())
    }

    /// The bytes allocated since the beginning less those freed.
    pub fn live(&self) -> i64 {
        LIVE.load(Ordering::Relaxed)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        COUNTS.store(false, Ordering::SeqCst);
    }
}
