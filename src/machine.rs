//! What this machine has: processor, memory, devices. Everything here is read, never assumed.

use crate::error::{Error, Result};
use crate::ffi;
use crate::memory::available_bytes;
use std::fs;
use tch::Device;

/// Bytes that must stay free for the system and for what libtorch does not count.
pub const MARGIN: u64 = 512 << 20;

/// Version of the libtorch this program was built with, `2.11.0+cu130`; empty if it did not say.
pub const LIBTORCH: &str = env!("DIPTYCH_LIBTORCH");

/// Revision this program was built from; empty outside a checkout.
pub const REVISION: &str = env!("DIPTYCH_REVISION");

/// Model name of the processor, if the system tells.
pub fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The vector extensions of the processor that matter here, widest last.
pub fn vector_extensions() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut found = vec!["sse2"];
        for (name, present) in [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
            ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ] {
            if present {
                found.push(name);
            }
        }
        found
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Vec::new()
    }
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bytes of memory the machine has in all.
pub fn total_memory() -> Option<u64> {
    line_bytes("/proc/meminfo", "MemTotal:")
}

/// The most memory this process has held so far, in bytes.
pub fn peak_memory() -> Option<u64> {
    line_bytes("/proc/self/status", "VmHWM:")
}

/// Memory this process holds now, in bytes.
pub fn held_memory() -> Option<u64> {
    line_bytes("/proc/self/status", "VmRSS:")
}

/// Lets an allocation beyond the memory that is left fail, where it can be caught and explained; without this limit the
/// kernel kills the process. Returns the limit in bytes. Only for training on the CPU.
pub fn limit_memory() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let held = line_bytes("/proc/self/status", "VmData:")?;
    let limit = held + available_bytes()?.saturating_sub(MARGIN);
    let now = getrlimit(Resource::Data);
    if now.current.is_some_and(|current| current <= limit) {
        return now.current;
    }
    setrlimit(Resource::Data, Rlimit { current: Some(limit), maximum: now.maximum }).ok()?;
    Some(limit)
}

/// Resolves `auto`, `cpu`, `cuda` or `cuda:N`. A CUDA device loads libtorch's GPU part; `auto` tries so where an NVIDIA
/// driver is loaded, and takes the CPU otherwise.
///
/// # Errors
/// [`Error::Recipe`] for another name, [`Error::Environment`] for a device that is not there or a library that is missing.
pub fn device(name: &str) -> Result<Device> {
    let index = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" => return Ok(if cuda_devices() > 0 { Device::Cuda(0) } else { Device::Cpu }),
        "cuda" => 0,
        other => {
            other.strip_prefix("cuda:").and_then(|n| n.parse::<u32>().ok()).ok_or_else(|| {
                Error::Recipe(format!(
                    "`train.device` must be auto, cpu, cuda or cuda:N, found `{other}`"
                ))
            })?
        }
    };
    ffi::load_cuda().map_err(|error| {
        Error::Environment(format!(
            "device `{name}` needs libtorch's CUDA part, which does not load: {error}; `make cuda` fetches what it needs"
        ))
    })?;
    let count = tch::Cuda::device_count();
    if i64::from(index) >= count {
        return Err(Error::Environment(format!(
            "device `{name}` is not there: libtorch sees {count} CUDA devices; use `train.device=cpu`"
        )));
    }
    Ok(Device::Cuda(index as usize))
}

/// Number of CUDA devices that can be used: 0 without a loaded NVIDIA driver or without libtorch's GPU part.
pub fn cuda_devices() -> i64 {
    let driver = std::path::Path::new("/proc/driver/nvidia/version").exists();
    if driver && ffi::load_cuda().is_ok() { tch::Cuda::device_count() } else { 0 }
}

/// The name a device goes by in recipes and records.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// The value of a `Name:  123 kB` line, in bytes.
fn line_bytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes_and_is_plausible() {
        let (available, total, peak) =
            (available_bytes().unwrap(), total_memory().unwrap(), peak_memory().unwrap());
        assert!(total > 256 << 20, "{total}");
        assert!(available <= total, "{available} of {total}");
        assert!((1 << 20..total).contains(&peak), "{peak}");
    }

    #[test]
    fn devices_are_named_and_an_unknown_name_is_refused() {
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
        assert_eq!(device_name(Device::Cuda(2)), "cuda:2");
        assert!(device("tpu").unwrap_err().to_string().contains("auto, cpu, cuda or cuda:N"));
        // Whether the libraries or the device are missing, both are told.
        let message = device("cuda:99").unwrap_err().to_string();
        assert!(message.contains("cuda:99") && message.contains("cuda"), "{message}");
    }
}
