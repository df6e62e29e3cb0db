//! The only file with unsafe code: what no safe library offers.

#![expect(unsafe_code, reason = "see each block")]

use libc::{c_char, c_int};
use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

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

/// The command line that takes over when this process crashes for want of memory: pointers that end with a null.
static SUCCESSOR: AtomicPtr<*const c_char> = AtomicPtr::new(ptr::null_mut());

/// Lets a crash at the memory limit end in `/proc/self/exe` with these words (the first is its name) in this process's
/// place. Where libtorch cannot allocate a tensor it says so, but its kernels are compiled while it runs, and one for which
/// there was no memory is called all the same. A crash with memory to spare stays a crash.
pub fn succeed_after_crash(words: Vec<CString>) {
    let mut pointers: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(ptr::null());
    // A handler may need them at any time from now on.
    std::mem::forget(words);
    SUCCESSOR.store(Vec::leak(pointers).as_mut_ptr(), Ordering::SeqCst);
    let handler: extern "C" fn(c_int) = crashed;
    for signal in [libc::SIGSEGV, libc::SIGABRT, libc::SIGBUS] {
        // SAFETY: `action` is a valid `sigaction` with an empty mask (all its bits zero are), and its handler does only
        // what a signal handler may (see there). Not deferring the signal leaves it unblocked in the successor.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_NODEFER | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

extern "C" fn crashed(signal: c_int) {
    let successor = SUCCESSOR.load(Ordering::SeqCst);
    // SAFETY: only functions that are safe in a signal handler (signal-safety(7)) and plain memory on the stack; the words
    // of the successor were leaked, so they live as long as the process.
    unsafe {
        if !successor.is_null() && near_memory_limit() {
            libc::execve(c"/proc/self/exe".as_ptr(), successor, environ);
        }
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Whether three quarters of the data limit are in use.
///
/// # Safety
/// Safe anywhere; called from a signal handler, so it must not allocate.
unsafe fn near_memory_limit() -> bool {
    let mut text = [0u8; 128];
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the buffer and the structure are ours, and of the sizes given.
    let (read, page) = unsafe {
        libc::getrlimit(libc::RLIMIT_DATA, &raw mut limit);
        let file = libc::open(c"/proc/self/statm".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        (libc::read(file, text.as_mut_ptr().cast(), text.len()), libc::sysconf(libc::_SC_PAGESIZE))
    };
    // size resident shared text lib data dirty, in pages
    let text = text.get(..usize::try_from(read).unwrap_or(0)).unwrap_or_default();
    let data = text.split(|byte| *byte == b' ').nth(5).unwrap_or_default();
    let pages = data.iter().fold(0u64, |sum, digit| 10 * sum + u64::from(digit.wrapping_sub(b'0')));
    limit.rlim_cur != libc::RLIM_INFINITY && pages * page as u64 >= limit.rlim_cur / 4 * 3
}

/// Version of the C library the program runs on, `2.36`.
pub fn glibc_version() -> Option<String> {
    // SAFETY: the call takes nothing and gives a string that is part of the library: never freed, never changed, ended by
    // a zero.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    version.to_str().ok().map(str::to_owned)
}
