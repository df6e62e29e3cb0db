//! What raw runs become: medians with their spread, ratios of runs side by side, claims, tables. Pure functions.

use serde_json::{Value, json};
use std::fmt;

/// The middle value; of an even number the mean of the middle two. `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

/// The mean. `None` of nothing.
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A median with the least and the most it was found among.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            median: median(values)?,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    pub(crate) fn to_json(self) -> Value {
        json!({ "median": self.median, "least": self.least, "most": self.most })
    }
}

/// `455.5 (443.6 to 458.3)`.
impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, least, most] = [self.median, self.least, self.most].map(rounded);
        if least == most {
            return write!(formatter, "{median}");
        }
        write!(formatter, "{median} ({least} to {most})")
    }
}

/// Four significant digits, no fewer than all before the point: `0.01235`, `1.713`, `455.5`, `12,346`.
pub(crate) fn rounded(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let first = whole.bytes().position(|byte| byte.is_ascii_digit()).unwrap_or(0);
    let mut grouped = whole[..first].to_owned();
    for (position, digit) in whole[first..].chars().enumerate() {
        if position > 0 && (whole.len() - first - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// What a run gave, or why it gave nothing.
pub(crate) type Outcome = Result<Value, String>;

/// The numbers under a key of each run; `None` where the run failed or says no such number.
pub(crate) fn numbers(runs: &[Outcome], key: &str) -> Vec<Option<f64>> {
    runs.iter().map(|run| run.as_ref().ok()?[key].as_f64()).collect()
}

/// The spread of a key over the runs that have it.
pub(crate) fn spread(runs: &[Outcome], key: &str) -> Option<Spread> {
    Spread::of(&numbers(runs, key).into_iter().flatten().collect::<Vec<_>>())
}

/// Runs of both programs in turns, in the order in which they ran.
#[derive(Default)]
pub(crate) struct Pair {
    pub(crate) ours: Vec<Outcome>,
    /// Empty where the peer was left out.
    pub(crate) peer: Vec<Outcome>,
}

impl Pair {
    /// Our median over the peer's; its spread is that of the ratios of runs that followed one another.
    pub(crate) fn ratio(&self, key: &str) -> Option<Spread> {
        self.ratio_of(key, key)
    }

    /// The same for a number that each side calls otherwise.
    pub(crate) fn ratio_of(&self, our_key: &str, peer_key: &str) -> Option<Spread> {
        let (ours, peer) = (spread(&self.ours, our_key)?, spread(&self.peer, peer_key)?);
        let neighbours =
            numbers(&self.ours, our_key).into_iter().zip(numbers(&self.peer, peer_key));
        let ratios: Vec<f64> = neighbours.filter_map(|(ours, peer)| Some(ours? / peer?)).collect();
        let median = ours.median / peer.median;
        Some(match Spread::of(&ratios) {
            Some(ratios) => Spread { median, ..ratios },
            None => Spread { median, least: median, most: median },
        })
    }

    /// Every run, for the record.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "diptych": runs_json(&self.ours), "lightly": runs_json(&self.peer) })
    }

    /// Why runs failed.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = |name: &str, runs: &[Outcome]| -> Vec<String> {
            let runs = runs.iter().enumerate();
            runs.filter_map(|(n, run)| Some((n, run.as_ref().err()?)))
                .map(|(n, error)| format!("{name}, run {}: {error}", n + 1))
                .collect()
        };
        [failed("diptych", &self.ours), failed("lightly", &self.peer)].concat()
    }
}

/// Runs as they are stored: what each gave, or `{"failed": why}`.
pub(crate) fn runs_json(runs: &[Outcome]) -> Value {
    runs.iter().map(|run| run.clone().unwrap_or_else(|error| json!({ "failed": error }))).collect()
}

/// What the project claims of a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claim {
    AtLeast(f64),
    Below(f64),
    /// Away from 0 by no more than this.
    Within(f64),
}

impl Claim {
    /// `at least 1.6: holds`; a dash where the number is missing.
    pub(crate) fn judge(self, value: Option<f64>) -> String {
        let Some(value) = value else { return "–".to_owned() };
        let (text, holds) = match self {
            Self::AtLeast(limit) => (format!("at least {limit}"), value >= limit),
            Self::Below(limit) => (format!("below {limit}"), value < limit),
            Self::Within(limit) => (format!("within ±{limit}"), value.abs() <= limit),
        };
        format!("{text}: {}", if holds { "holds" } else { "**does not hold**" })
    }
}

/// Text of a number that may be missing.
pub(crate) fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or("–".to_owned(), |value| value.to_string())
}

/// A table in Markdown.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let rule = format!("|{}\n", "---|".repeat(header.len()));
    let rows: String = rows
        .iter()
        .map(|row| {
            assert_eq!(row.len(), header.len(), "a row of this table");
            line(row)
        })
        .collect();
    line(&header) + &rule + &rows
}

/// The JSON object on the last line that has one; programs may say other things before it.
pub(crate) fn json_line(output: &str) -> Result<Value, String> {
    let objects = output.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let object = objects.into_iter().find(Value::is_object);
    object.ok_or_else(|| match output.lines().last() {
        Some(line) => format!("no JSON object in what it printed, which ends with `{line}`"),
        None => "it printed nothing".to_owned(),
    })
}

/// A text in which no place of this machine is left: each path becomes the word beside it, longer paths first.
pub(crate) fn without_places(text: &str, places: &[(String, &str)]) -> String {
    let mut places: Vec<&(String, &str)> =
        places.iter().filter(|(path, _)| path.len() > 1).collect();
    places.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    places.iter().fold(text.to_owned(), |text, (path, word)| text.replace(path.as_str(), word))
}
