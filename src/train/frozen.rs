//! Proof that what is frozen stays as it is.

use super::checkpoint;
use crate::error::{Error, Result};
use crate::method::Method;

/// What a method never moves, proved by its hash.
pub(super) struct Frozen {
    prefixes: Vec<String>,
    hash: Option<String>,
}

impl Frozen {
    pub(super) fn of(method: &dyn Method) -> Self {
        let mut frozen = Self { prefixes: method.frozen(), hash: None };
        frozen.hash = frozen.now(method);
        frozen
    }

    /// The hash of all parameters and buffers; none where nothing is frozen.
    fn now(&self, method: &dyn Method) -> Option<String> {
        let named = |name: &str| self.prefixes.iter().any(|prefix| name.starts_with(prefix));
        let tensors = method.parameters().all().iter().filter(|p| named(&p.name));
        (!self.prefixes.is_empty())
            .then(|| checkpoint::hash(tensors.map(|p| (p.name.as_str(), &p.tensor))))
    }

    /// # Errors
    /// [`Error::Weights`] if anything of it has moved.
    pub(super) fn check(&self, method: &dyn Method) -> Result<()> {
        let now = self.now(method);
        if now == self.hash {
            return Ok(());
        }
        let short = |hash: &Option<String>| format!("{:.16}", hash.as_deref().unwrap_or("none"));
        Err(Error::Weights(format!(
            "`{}*` is frozen and changed while training (hash `{}` before, `{}` after); please report this",
            self.prefixes.join("*`, `"),
            short(&self.hash),
            short(&now)
        )))
    }
}
