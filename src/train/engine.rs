//! The border to libtorch: what it throws becomes one of our errors.

use crate::error::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs libtorch work. A panic of `tch` (its plain operators have no other way to report) becomes an [`Error::Engine`] or
/// [`Error::OutOfMemory`] that starts with `what`; any other panic goes on, since it is our own bug.
///
/// # Errors
/// Those two and whatever `work` returns.
pub fn guard<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or_default();
            match explain(text) {
                Some(Explained::Memory(text)) => Err(Error::OutOfMemory(format!("{what}: {text}"))),
                Some(Explained::Other(text)) => Err(Error::Engine(format!("{what}: {text}"))),
                None => std::panic::resume_unwind(payload),
            }
        }
    }
}

enum Explained {
    Memory(String),
    Other(String),
}

/// What libtorch said, without the C++ frames it appends. `None` when it was not libtorch that panicked.
fn explain(text: &str) -> Option<Explained> {
    let (_, message) = text.split_once("Torch(\"")?;
    let message = message.split("Exception raised from").next().unwrap_or(message);
    // The allocator's own words are behind the name of the check that failed.
    let message = message.find("DefaultCPUAllocator").map_or(message, |start| &message[start..]);
    let message = message.split("\\n").next().unwrap_or(message).trim_end_matches("\")").trim();
    // The last is all that oneDNN says when it gets no memory for its code or its scratch.
    let memory = [
        "not enough memory",
        "out of memory",
        "can't allocate memory",
        "bad_alloc",
        "could not create a primitive",
    ]
    .iter()
    .any(|sign| message.contains(sign));
    Some(if memory {
        Explained::Memory(message.to_owned())
    } else {
        Explained::Other(message.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    /// Panics of these tests are expected: nothing is printed for them.
    fn quietly<T>(work: impl FnOnce() -> T) -> T {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let result = work();
        std::panic::set_hook(hook);
        result
    }

    #[test]
    fn a_refused_operation_is_one_short_line() {
        let tensor = |size: i64| Tensor::zeros([size], (Kind::Float, Device::Cpu));
        let error = quietly(|| guard("step 3", || Ok(tensor(2) + tensor(3))).unwrap_err());
        assert!(matches!(error, Error::Engine(_)));
        let text = error.to_string();
        assert!(text.starts_with("step 3: The size of tensor a (2) must match"), "{text}");
        assert!(!text.contains("frame") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn an_impossible_allocation_is_out_of_memory() {
        let huge = || Ok(Tensor::zeros([1 << 60], (Kind::Uint8, Device::Cpu)));
        let error = quietly(|| guard("step 3", huge).unwrap_err());
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        assert_eq!(error.exit_code(), 7);
    }

    #[test]
    fn a_bug_of_our_own_is_not_hidden() {
        let caught = quietly(|| catch_unwind(|| guard::<()>("step 3", || panic!("our bug"))));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"our bug"));
    }
}
