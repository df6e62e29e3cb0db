//! The only file with unsafe code: what no safe library offers.

#![expect(unsafe_code, reason = "see each block")]

/// Loads libtorch's GPU part, its symbols visible to the part already loaded. The program links the CPU part only, so that
/// one program serves machines with and without CUDA libraries. It must come before the first question about devices, whose
/// answer libtorch remembers. Loading it again costs nothing.
///
/// # Errors
/// What the loader says, which names the missing library.
pub fn load_cuda() -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the library's initialisers are those that a program linked against it would run at its start; they come from
    // the same libtorch build. It is never unloaded, so nothing it registered can dangle.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
    // The name of the missing library is in what lies behind the error.
    library.map(std::mem::forget).map_err(|error| {
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })
}

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

/// Version of the C library the program runs on, `2.36`.
pub fn glibc_version() -> Option<String> {
    // SAFETY: the call takes nothing and gives a string that is part of the library: never freed, never changed, ended by
    // a zero.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    version.to_str().ok().map(str::to_owned)
}
