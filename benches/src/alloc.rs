//! An allocator that can count: the bytes that are live, or the allocations.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering},
};

/// The system's allocator. It counts only while a [`Count`] or [`Allocations`] lives, so that nothing else pays for it.
pub struct Counting;

static WHAT: AtomicU8 = AtomicU8::new(NOTHING);
static LIVE: AtomicI64 = AtomicI64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(0, layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(0, layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(layout.size(), 0);
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(layout.size(), size);
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Takes down that a block of one size becomes one of another; none is of size 0.
fn note(old: usize, new: usize) {
    match WHAT.load(Ordering::Relaxed) {
        LIVE_BYTES => {
            LIVE.fetch_add(signed(new) - signed(old), Ordering::Relaxed);
        }
        EVERY_ALLOCATION if new > 0 => {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            ALLOCATED.fetch_add(new.saturating_sub(old) as u64, Ordering::Relaxed);
        }
        _ => {}
    }
}

fn signed(size: usize) -> i64 {
    size.try_into().unwrap_or(i64::MAX)
}

/// Counts the live bytes as long as it lives.
pub struct Count(Session);

impl Count {
    pub fn begin() -> Self {
        LIVE.store(0, Ordering::Relaxed);
        Self(Session::begin(LIVE_BYTES))
    }

    /// The bytes allocated since the beginning less those freed.
    pub fn live(&self) -> i64 {
        LIVE.load(Ordering::Relaxed)
    }
}

/// Counts the allocations as long as it lives.
pub struct Allocations(Session);

impl Allocations {
    pub fn begin() -> Self {
        ALLOCATIONS.store(0, Ordering::Relaxed);
        ALLOCATED.store(0, Ordering::Relaxed);
        Self(Session::begin(EVERY_ALLOCATION))
    }

    /// How often memory was allocated since the beginning; a block that grows counts again.
    pub fn number(&self) -> u64 {
        ALLOCATIONS.load(Ordering::Relaxed)
    }

    /// The bytes allocated since the beginning; of a block that grows, what it grows by.
    pub fn bytes(&self) -> u64 {
        ALLOCATED.load(Ordering::Relaxed)
    }
}

/// The time that something is counted. There is one at a time.
struct Session;

impl Session {
    fn begin(what: u8) -> Self {
        let before = WHAT.swap(what, Ordering::SeqCst);
        assert!(before == NOTHING, "one count at a time");
        Self
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        WHAT.store(NOTHING, Ordering::SeqCst);
    }
}

const NOTHING: u8 = 0;
const LIVE_BYTES: u8 = 1;
const EVERY_ALLOCATION: u8 = 2;
