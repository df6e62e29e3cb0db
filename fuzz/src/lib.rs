//! What every fuzz target needs: panics that cross our border, memory out of proportion, and files for readers that take
//! paths.
//!
//! libFuzzer's own panic hook aborts on every panic, also on those of foreign crates that are caught at our border; and
//! without a sanitizer it does not see allocations. Both are therefore watched here.

use diptych::error::Error;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts the bytes that Rust code holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

fn take(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    let limit = LIMIT.load(Relaxed);
    if held > limit {
        LIMIT.store(usize::MAX, Relaxed);
        eprintln!("finding: {bytes} more bytes asked for, {held} held, {limit} allowed");
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
        std::process::abort();
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

thread_local! {
    static LAST_PANIC: Cell<String> = const { Cell::new(String::new()) };
}

/// Bytes that a reader may hold for an input of that many: a small factor, and room for what does not depend on it.
pub fn in_proportion(input: usize) -> usize {
    (8 << 20) + 64 * input
}

/// Room for the largest image accepted (178 million pixels) in its widest form, its 8-bit form and RGB.
pub const IMAGE: usize = 178_000_000 * 15 + (64 << 20);

/// Runs a reader that may hold `bytes` more than are held now and must not panic, else the process ends here.
pub fn tried<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            LAST_PANIC.set(panic.to_string());
        }));
    });
    LIMIT.store(HELD.load(Relaxed) + bytes, Relaxed);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    LIMIT.store(usize::MAX, Relaxed);
    outcome.unwrap_or_else(|_| {
        eprintln!("finding: a panic crossed our border: {}", LAST_PANIC.take());
        std::process::abort()
    })
}

/// The value, or none for an error of the right kind; any other kind is a finding.
pub fn judged<T>(outcome: diptych::error::Result<T>, right: fn(&Error) -> bool) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) if right(&error) => None,
        Err(error) => {
            eprintln!("finding: an error of another kind: {error:?}");
            std::process::abort()
        }
    }
}

/// Whether an error blames the data.
pub fn is_data(error: &Error) -> bool {
    matches!(error, Error::Data(_))
}

/// Whether an error blames a weights, checkpoint or feature file.
pub fn is_weights(error: &Error) -> bool {
    matches!(error, Error::Weights(_))
}

/// An input of two files: the length of the first in two bytes, lowest first, then both.
pub fn two(input: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = input.split_first_chunk::<2>() else { return (input, &[]) };
    rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))))
}

/// A folder for inputs, in the system's place for temporary files; the script that starts the target takes it away.
pub struct Folder(PathBuf);

impl Folder {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for inputs").keep())
    }

    /// A copy of a folder of tests/golden.
    pub fn copy(golden: &str) -> Self {
        let folder = Self::new();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(golden);
        for entry in std::fs::read_dir(&from).expect("a folder of tests/golden") {
            let path = entry.expect("an entry").path();
            folder.put(
                &path.file_name().expect("a name").to_string_lossy(),
                &std::fs::read(&path).expect("a file of tests/golden"),
            );
        }
        folder
    }

    /// Writes a file of it.
    pub fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder for inputs");
        std::fs::write(&path, content).expect("room for an input");
        path
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

/// Opens a data source and decodes its first images; opening may hold `source_bytes`, reading an image `image_bytes`.
pub fn read_source(location: &Path, source_bytes: usize, image_bytes: usize) {
    let location = location.to_str().expect("a name in UTF-8");
    let opened = tried(source_bytes, || diptych::data::open(location));
    let Some(source) = judged(opened, is_data) else { return };
    for (_, split) in &source.splits {
        for index in 0..split.len().min(32) {
            let image = tried(image_bytes, || {
                (split.label(index), split.path(index), split.codec(index));
                split.image(index)
            });
            if let Some(image) = judged(image, is_data) {
                assert_eq!(image.pixels.len(), 3 * image.width * image.height);
            }
        }
    }
}
