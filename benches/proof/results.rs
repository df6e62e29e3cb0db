//! Where results go: `PART.md` for people and `PART.json` with every run.

use diptych::error::Result;
use diptych::files::replace_text;
use serde_json::Value;
use std::path::Path;

/// Writes a part. An earlier result gives way only to a whole one: a part of which runs failed is written beside it, as
/// `PART.partial.md` and `PART.partial.json`, which a whole one removes. Each file is at every moment the old or the new.
pub(crate) fn publish(
    folder: &Path,
    part: &str,
    markdown: &str,
    raw: &Value,
    whole: bool,
) -> Result<()> {
    let partial = |end: &str| folder.join(format!("{part}.partial.{end}"));
    let place = |end: &str| {
        if whole { folder.join(format!("{part}.{end}")) } else { partial(end) }
    };
    replace_text(&place("json"), &format!("{raw:#}\n"))?;
    replace_text(&place("md"), markdown)?;
    if whole {
        for end in ["json", "md"] {
            // There may be none.
            let _ = std::fs::remove_file(partial(end));
        }
    }
    Ok(())
}
