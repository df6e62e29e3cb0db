//! The only file with unsafe code: what no safe library offers.

#![expect(unsafe_code, reason = "see each block")]

/// Tells the allocator to keep memory that is freed, in place of giving it back to the system after every use.
///
/// A training step frees and takes the same large maps again and again. By default glibc maps each anew, and the kernel
/// fills every page with zeros first: a quarter of all processor time of a `ResNet`-18 step at width 0.25. Kept, the
/// pages are there; the process holds somewhat more memory in return. Call it first thing in the program.
pub fn keep_freed_memory() {
    const PAD: i32 = 256 << 20;
    for (setting, value) in
        [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_TOP_PAD, PAD)]
    {
        // SAFETY: `mallopt` takes two plain integers, touches only the allocator's own settings, under its own lock, and
        // reports an unknown setting by its return value, which leaves everything as it was.
        unsafe { libc::mallopt(setting, value) };
    }
}
