//! What can go wrong, sorted by who must act.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure the library reports. Each message names the thing, what was expected and found, and the way out.
///
/// [`Error::exit_code`] is the program's exit status for it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is unknown, has the wrong type or lies outside its range: the caller mends the recipe.
    #[error("{0}")]
    Recipe(String),
    /// A data source is missing, damaged or of an unknown kind.
    #[error("{0}")]
    Data(String),
    /// A tensor or array has another shape than the function promises to take.
    #[error("{0}")]
    Shape(String),
    /// A checkpoint, weights or feature file is damaged, foreign or does not match.
    #[error("{0}")]
    Weights(String),
    /// A run folder is busy, holds another run, or cannot be written.
    #[error("{0}")]
    Run(String),
    /// The machine lacks something: a device, a library, memory limits.
    #[error("{0}")]
    Environment(String),
    /// The loss or a gradient became NaN or infinite and the policy says stop.
    #[error("{0}")]
    NonFinite(String),
    /// A sentinel saw the network collapse or stop learning and the policy says stop.
    #[error("{0}")]
    Collapsed(String),
    /// libtorch could not allocate what the step needs.
    #[error("{0}")]
    OutOfMemory(String),
    /// A signal asked for a stop; the run was checkpointed and can be resumed.
    #[error("{0}")]
    Interrupted(String),
    /// libtorch refused an operation.
    #[error("{0}")]
    Engine(String),
    /// A file or folder could not be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Wraps an I/O error with what was tried and where; use as `map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The program's exit status: 2 usage or recipe, 3 data, 4 non-finite or collapsed, 6 weights, 7 memory, 75 stopped, else
    /// 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Recipe(_) => 2,
            Self::Data(_) => 3,
            Self::NonFinite(_) | Self::Collapsed(_) => 4,
            Self::Weights(_) => 6,
            Self::OutOfMemory(_) => 7,
            Self::Interrupted(_) => 75,
            Self::Shape(_)
            | Self::Run(_)
            | Self::Environment(_)
            | Self::Engine(_)
            | Self::Io { .. } => 1,
        }
    }
}
