//! The peer: lightly on PyTorch, run by our own programs in `benches/peers/`.

use crate::child;
use crate::figures::{json_line, without_places};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How to get what is missing.
const HOW: &str = "`python3 -m venv .venv-peer && .venv-peer/bin/pip install -r benches/peers/requirements.txt`, then \
                   `make bench PEER_PYTHON=.venv-peer/bin/python`";

/// A Python that has what the peer needs.
pub(crate) struct Peer {
    python: OsString,
    programs: PathBuf,
    /// Package to version.
    pub(crate) versions: Value,
    /// Versions other than those the project's figures were measured beside.
    pub(crate) differs: Vec<String>,
}

impl Peer {
    /// Tries `python` with the programs of a folder; the error says in one line what is missing and how to get it.
    pub(crate) fn find(
        python: OsString,
        programs: PathBuf,
        stop: &AtomicBool,
    ) -> Result<Self, String> {
        let mut peer = Self { python, programs, versions: Value::Null, differs: Vec::new() };
        let places = [
            (peer.python.to_string_lossy().into_owned(), "PEER_PYTHON"),
            (peer.programs.display().to_string(), "benches/peers"),
        ];
        let missing = |what: &str| {
            let what = without_places(what, &places);
            format!("left out, {what}; to have it: {HOW}")
        };
        let ended = child::run(peer.script("check.py"), Duration::from_mins(5), stop)
            .map_err(|error| missing(&format!("{error:#}")))?;
        let found = json_line(&ended.output).unwrap_or_default();
        let words = |key: &str| -> Vec<String> {
            let list = found[key].as_array().into_iter().flatten();
            list.filter_map(|word| word.as_str().map(str::to_owned)).collect()
        };
        if !ended.status.success() {
            let what = match &words("missing")[..] {
                [] => ended.answer().err().unwrap_or_default(),
                packages => format!("its Python lacks {}", packages.join(", ")),
            };
            return Err(missing(&what));
        }
        peer.differs = words("differs");
        peer.versions = found["versions"].clone();
        Ok(peer)
    }

    /// One of its programs, to run on a folder of pictures.
    pub(crate) fn program(
        &self,
        name: &str,
        pictures: &Path,
        options: &[(&str, &dyn Display)],
    ) -> Command {
        let mut command = self.script(name);
        command.arg(pictures);
        for (option, value) in options {
            command.args([option, &value.to_string()[..]]);
        }
        command
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.programs.join(name)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}
