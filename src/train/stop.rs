//! Signals that end a run politely.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by SIGINT, SIGTERM or SIGUSR1; the run looks at it between micro-batches.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A stop that only [`Stop::ask`] sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// A stop that the three signals set. A second SIGINT leaves the program at once, with status 130.
    ///
    /// # Errors
    /// [`Error::Environment`] if the system refuses a handler.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::new();
        let refused = |error| Error::Environment(format!("cannot listen for signals: {error}"));
        // In this order: at the first SIGINT the flag is still down.
        signal_hook::flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&stop.0))
            .map_err(refused)?;
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            signal_hook::flag::register(signal, Arc::clone(&stop.0)).map_err(refused)?;
        }
        // A file beyond the size limit shall be a failed write, which is told, not the end of the process; and a run goes
        // on when its terminal is closed.
        for signal in [SIGXFSZ, SIGHUP] {
            signal_hook::flag::register(signal, Arc::default()).map_err(refused)?;
        }
        Ok(stop)
    }

    /// Asks for a stop.
    pub fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
