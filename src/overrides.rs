//! `key=value` overrides of settings, with errors that name the nearest key.

use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Applies `key=value` texts to settings, one by one. Keys are dotted; a number in one is a position in a list
/// (`view.0.count=2`). A value is TOML, or a plain string if it is none (`train.device=cpu`). `optional` names keys that
/// the settings leave out while they have no value.
///
/// # Errors
/// [`Error::Recipe`] naming the override and, for an unknown key, the nearest known one.
pub fn apply<T>(settings: &T, overrides: &[String], optional: &[&str]) -> Result<T>
where
    T: Serialize + DeserializeOwned + Clone,
{
    let mut result = settings.clone();
    for text in overrides {
        let table = edit(&result, text, optional)?;
        let known = flatten(&result);
        result = T::deserialize(Value::Table(table)).map_err(|error| {
            Error::Recipe(refused(text, error.message().trim(), &known, optional))
        })?;
    }
    Ok(result)
}

/// Every setting as (dotted key, TOML value).
pub fn flatten(settings: &impl Serialize) -> Vec<(String, String)> {
    fn walk(prefix: &str, value: &Value, into: &mut Vec<(String, String)>) {
        let below = |key: &dyn std::fmt::Display| {
            if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") }
        };
        match value {
            Value::Table(table) => {
                for (key, value) in table {
                    walk(&below(key), value, into);
                }
            }
            Value::Array(list) if list.iter().any(Value::is_table) => {
                for (index, value) in list.iter().enumerate() {
                    walk(&below(&index), value, into);
                }
            }
            other => into.push((prefix.to_owned(), other.to_string())),
        }
    }
    let mut found = Vec::new();
    if let Ok(value) = Value::try_from(settings) {
        walk("", &value, &mut found);
    }
    found
}

/// The candidate most like `name`, if any is alike enough to be meant. The last part of a dotted key counts by itself,
/// so that `epochs` finds `train.epochs`.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |candidate: &str| {
        let tail = candidate.rsplit('.').next().unwrap_or(candidate);
        strsim::jaro_winkler(name, candidate).max(strsim::jaro_winkler(name, tail) - 0.01)
    };
    candidates
        .map(|candidate| (likeness(candidate), candidate))
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .filter(|(likeness, _)| *likeness > 0.75)
        .map(|(_, candidate)| candidate)
}

/// The key that serde does not know, out of its message.
pub fn unknown_key(message: &str) -> Option<&str> {
    message.split("unknown field `").nth(1)?.split('`').next()
}

/// Why settings with this override are none, out of what serde says of them.
fn refused(text: &str, message: &str, known: &[(String, String)], optional: &[&str]) -> String {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let (key, value) = (key.trim(), value.trim().trim_matches('"'));
    match (key.rsplit_once('.'), unknown_key(message)) {
        (Some((table, last)), Some(unknown)) if last == unknown => {
            // What serde knows beside it, of a table that has only just come into being too.
            let expected = message.split_once("expected").map_or("", |(_, expected)| expected);
            let beside = expected.split('`').skip(1).step_by(2).map(|key| format!("{table}.{key}"));
            let beside: Vec<String> = beside.collect();
            let beside = beside.iter().map(String::as_str).chain(optional.iter().copied());
            no_such_key(text, known, &beside.collect::<Vec<&str>>())
        }
        (None, Some(unknown)) if key == unknown => no_such_key(text, known, optional),
        // The settings beside it are those of another kind of thing.
        (Some((table, "name")), Some(unknown)) => format!(
            "`{key}={value}` does not go with `{table}.{unknown}`; set all of it together, \
             '{table}={{ name = \"{value}\", ... }}'"
        ),
        _ => wrong_type(text, message).unwrap_or_else(|| format!("`{text}`: {message}")),
    }
}

/// What serde says of a value that does not fit, in words for people.
fn wrong_type(text: &str, message: &str) -> Option<String> {
    let (key, found) = text.split_once('=')?;
    let (problem, expected) = message.split_once(", expected ")?;
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, at least 0",
        "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        _ => return None,
    };
    let kind = problem.starts_with("invalid type") || problem.starts_with("invalid value");
    kind.then(|| format!("`{}` must be {expected}, found `{}`", key.trim(), found.trim()))
}

/// The settings as a table with one key changed.
fn edit(settings: &impl Serialize, text: &str, optional: &[&str]) -> Result<Table> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        Error::Recipe(format!("`{text}` is not an override; write key=value, `train.epochs=100`"))
    })?;
    let mut table = Table::try_from(settings).map_err(|error| Error::Recipe(error.to_string()))?;
    let unknown = || Error::Recipe(no_such_key(text, &flatten(settings), optional));
    let mut place = &mut table;
    let parts: Vec<&str> = key.trim().split('.').collect();
    let (last, path) = parts.split_last().ok_or_else(unknown)?;
    // A table that may be left out, or that holds one, comes into being with its first key.
    let may_begin = |depth: usize| {
        let table = parts[..depth].join(".");
        let below = |key: &str| key.strip_prefix(&table).is_some_and(|rest| rest.starts_with('.'));
        optional.iter().any(|key| *key == table || below(key))
    };
    let mut path = path.iter().enumerate();
    while let Some((depth, part)) = path.next() {
        if !place.contains_key(*part) && may_begin(depth + 1) {
            place.insert((*part).to_owned(), Value::Table(Table::new()));
        }
        let entry = match place.get_mut(*part) {
            Some(Value::Array(list)) => {
                let index = path.next().and_then(|(_, index)| index.parse::<usize>().ok());
                index.and_then(|index| list.get_mut(index))
            }
            other => other,
        };
        place = entry.and_then(Value::as_table_mut).ok_or_else(unknown)?;
    }
    place.insert((*last).to_owned(), parse(value.trim()));
    Ok(table)
}

fn parse(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// More settings than this are not listed one by one.
const MOST_LISTED: usize = 20;

fn no_such_key(text: &str, known: &[(String, String)], optional: &[&str]) -> String {
    let key = text.split('=').next().unwrap_or(text).trim();
    let candidates = known.iter().map(|(key, _)| key.as_str()).chain(optional.iter().copied());
    if let Some(near) = nearest(key, candidates) {
        return format!("`{key}` is not a setting, did you mean `{near}`?");
    }
    let keys: Vec<&str> = known.iter().map(|(key, _)| key.as_str()).collect();
    if keys.len() <= MOST_LISTED {
        return format!("`{key}` is not a setting; the settings are {}", keys.join(", "));
    }
    let mut parts: Vec<&str> = keys.iter().filter_map(|key| Some(key.split_once('.')?.0)).collect();
    parts.dedup();
    format!(
        "`{key}` is not a setting; most begin with `{}.`, and `diptych recipes show` shows those of a recipe",
        parts.join(".`, `")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
        train: Train,
        #[serde(default, skip_serializing_if = "More::is_empty")]
        more: More,
        view: Vec<Train>,
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct More {
        extra: Option<Extra>,
    }

    impl More {
        fn is_empty(&self) -> bool {
            self.extra.is_none()
        }
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Extra {
        rate: f64,
        weight: f64,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Train {
        epochs: u32,
        rate: f64,
    }

    fn settings() -> Settings {
        let train = Train { epochs: 1, rate: 0.5 };
        let (view, more) = (vec![train.clone()], More::default());
        Settings { name: "a".into(), limit: None, train, more, view }
    }

    fn with(overrides: &[&str]) -> Result<Settings> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        apply(&settings(), &overrides, &["limit", "more.extra"])
    }

    fn message(text: &str) -> String {
        with(&[text]).unwrap_err().to_string()
    }

    #[test]
    fn keys_values_and_lists_are_reached() {
        let changed =
            with(&["train.epochs = 9", "name=b c", "limit=3", "view.0.rate=1e-3"]).unwrap();
        assert_eq!((changed.train.epochs, changed.name.as_str()), (9, "b c"));
        assert_eq!((changed.limit, changed.view[0].rate), (Some(3), 1e-3));
    }

    #[test]
    fn a_table_that_was_left_out_begins_with_its_first_key() {
        let changed = with(&["more.extra.rate=0.5"]).unwrap();
        assert_eq!(changed.more.extra, Some(Extra { rate: 0.5, weight: 0.0 }));
        let changed = with(&["more.extra={}", "more.extra.weight=2.0"]).unwrap();
        assert_eq!(changed.more.extra, Some(Extra { rate: 0.0, weight: 2.0 }));
        assert_eq!(
            message("more.extra.wieght=2.0"),
            "`more.extra.wieght` is not a setting, did you mean `more.extra.weight`?"
        );
        assert_eq!(
            message("more.extr={}"),
            "`more.extr` is not a setting, did you mean `more.extra`?"
        );
        assert!(message("limit.low=3").contains("limit"));
    }

    #[test]
    fn a_wrong_key_names_the_nearest() {
        assert_eq!(
            message("train.epoch=3"),
            "`train.epoch` is not a setting, did you mean `train.epochs`?"
        );
        assert_eq!(message("epochs=3"), "`epochs` is not a setting, did you mean `train.epochs`?");
        assert_eq!(message("limits=3"), "`limits` is not a setting, did you mean `limit`?");
        assert_eq!(
            message("trian.epochs=3"),
            "`trian.epochs` is not a setting, did you mean `train.epochs`?"
        );
        assert!(message("view.7.rate=3").contains("`view.0.rate`"));
        assert!(message("qqq=3").contains("the settings are name, train.epochs"));
    }

    #[test]
    fn a_wrong_type_says_what_is_expected() {
        let whole = "`train.epochs` must be a whole number, at least 0, found ";
        for found in ["many", "-1", "2.5", "true"] {
            assert_eq!(message(&format!("train.epochs={found}")), format!("{whole}`{found}`"));
        }
        assert_eq!(message("train.rate=fast"), "`train.rate` must be a number, found `fast`");
        assert!(message("train={ epochs = 1, rat = 0.5 }").contains("unknown field `rat`"));
        assert!(message("name=3").starts_with("`name=3`: invalid type: integer `3`"));
        assert!(message("train.epochs").contains("write key=value"));
    }
}
