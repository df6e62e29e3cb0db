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

/// A string of C that a static can hold.
#[repr(transparent)]
pub struct AllocatorSettings(*const c_char);

// SAFETY: it points to a constant, which nobody changes.
unsafe impl Sync for AllocatorSettings {}

/// What jemalloc, the allocator of the whole process, libtorch included, reads before its first allocation.
///
/// A training step frees and takes the same large maps again and again. By default they would go back to the system after
/// every use, and the kernel fills every page with zeros before it hands it out again: a quarter of all processor time of
/// a `ResNet`-18 step at width 0.25. Kept for good, the pages are there. glibc can be told the same, but its heap needs
/// 1.7 times the room for the same maps. Huge pages make that step another twentieth faster.
// SAFETY: jemalloc declares this name for programs to define, as a pointer to a C string.
#[unsafe(export_name = "malloc_conf")]
pub static ALLOCATOR_SETTINGS: AllocatorSettings =
    AllocatorSettings(c"dirty_decay_ms:-1,muzzy_decay_ms:-1,retain:false,thp:always".as_ptr());

/// Whether the allocator is the one that keeps freed memory: jemalloc, with [`ALLOCATOR_SETTINGS`].
pub fn keeps_freed_memory() -> bool {
    let mut decay: isize = 0;
    let mut size = size_of::<isize>();
    std::hint::black_box(&ALLOCATOR_SETTINGS);
    // SAFETY: the name is a C string, the value read is of the type and size that jemalloc documents for it (`ssize_t`),
    // and nothing is written.
    let code = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"opt.dirty_decay_ms".as_ptr(),
            (&raw mut decay).cast(),
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    code == 0 && decay == -1
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

#[cfg(test)]
mod tests {
    use std::ptr;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn one_allocator_serves_libtorch_too_and_keeps_what_is_freed() {
        assert!(super::keeps_freed_memory());
        let tensor = Tensor::zeros([1 << 20], (Kind::Uint8, Device::Cpu));
        let (mut memory, mut arena, mut size) = (tensor.data_ptr(), 0u32, size_of::<u32>());
        // SAFETY: the types are those that jemalloc documents for this name: in goes a pointer, which is only looked up, out
        // comes the number of its arena.
        let code = unsafe {
            tikv_jemalloc_sys::mallctl(
                c"arenas.lookup".as_ptr(),
                (&raw mut arena).cast(),
                &raw mut size,
                (&raw mut memory).cast(),
                size_of::<*mut libc::c_void>(),
            )
        };
        assert_eq!(code, 0, "libtorch's memory is not jemalloc's");
        assert_ne!(memory, ptr::null_mut());
    }
}
