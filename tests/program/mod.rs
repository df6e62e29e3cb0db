//! The program as several tests call it.

use assert_cmd::Command;
use serde_json::Value;

/// The program with its arguments.
pub(crate) fn diptych(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("diptych").unwrap();
    command.args(arguments);
    command
}

/// What it prints with `--json`; it must succeed.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let output = diptych(arguments).arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Its exit code and what it says where it fails, which must not be a panic.
pub(crate) fn failure(arguments: &[&str]) -> (i32, String) {
    let output = diptych(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("panicked") && !text.contains("internal error"), "{text}");
    (output.status.code().unwrap(), text)
}
