//! What analyses of whole runs take from the command line: run folders, settings, and a place for the result.

use anyhow::Result;
use diptych::analyze::{Analysis, Form};
use diptych::error::Error;
use diptych::overrides;
use diptych::report::runs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::path::{Path, PathBuf};

use super::models::renew;
use crate::cli::{Answer, tell};

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Run folders, or a folder that holds some; and settings to change, `key=value`
    #[arg(required = true, value_name = "RUN")]
    words: Vec<String>,
    /// Where the pictures and their data go [default: analyses/ in the folder of the run, here for several]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Draws what was asked for by `draw`, whose results go into a folder of that `name`.
pub(super) fn run<S>(
    arguments: &Arguments,
    name: &str,
    settings: &S,
    draw: impl FnOnce(&[PathBuf], &S, &Path) -> diptych::error::Result<Analysis>,
) -> Result<Answer>
where
    S: Serialize + DeserializeOwned + Clone,
{
    let is_path = |word: &&String| !word.contains('=') || Path::new(word).exists();
    let (paths, changes): (Vec<&String>, Vec<&String>) = arguments.words.iter().partition(is_path);
    let changes: Vec<String> = changes.into_iter().cloned().collect();
    let settings = overrides::apply(settings, &changes, &[])?;
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths.into_iter().map(PathBuf::from) {
        let inside = runs::find(&path)?;
        // What holds no run is told by whoever reads it.
        found.extend(if inside.is_empty() { vec![path] } else { inside });
    }
    let folder = match (&arguments.out, found.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, []) => {
            return Err(
                Error::Recipe("no run; name the folder that `pretrain` wrote".to_owned()).into()
            );
        }
        (None, [run]) => run.join("analyses").join(name),
        (None, _) => Path::new("analyses").join(name),
    };
    let analysis = draw(&found, &settings, &folder)?;
    renew(&folder, &found)?;
    tell(&format!("{}, {} files", analysis.title, analysis.files.len()));
    for file in analysis.files.iter().filter(|file| file.form == Form::Picture) {
        if !file.description.is_empty()
            && Path::new(&file.file).extension().is_some_and(|end| end == "svg")
        {
            tell(&format!("  {}: {}", file.file, file.description));
        }
    }
    let text = folder.display().to_string();
    Ok(Answer { text, json: json!({ "folder": folder, "runs": found, "analysis": analysis }) })
}
