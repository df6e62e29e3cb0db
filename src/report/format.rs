//! Numbers and values as a reader wants them, never with more than the files say.

use serde_json::{Map, Value};

/// Whether values of this metric are fractions of one, which are shown in percent.
pub(super) fn is_fraction(metric: &str) -> bool {
    let last = metric.rsplit('/').next().unwrap_or(metric).trim_start_matches("train_");
    let top = |word: &str| {
        word.strip_prefix("top").is_some_and(|k| k.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let shares = ["accuracy", "recall", "precision", "per_class", "map_at"];
    last.split('_').any(top) || shares.iter().any(|word| last.contains(word))
}

/// A value of this metric, with its unit.
pub fn measured(metric: &str, value: f64) -> String {
    if is_fraction(metric) { percent(value) } else { significant(value) }
}

/// A fraction in percent with two decimals, such as `45.10 %`.
pub(super) fn percent(fraction: f64) -> String {
    format!("{:.2}\u{202f}%", 100.0 * fraction)
}

/// A number with up to five significant digits, without trailing zeros; integers are kept whole and grouped.
pub fn significant(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && size < 1e15 {
        return grouped(value);
    }
    if !(1e-4..1e7).contains(&size) {
        return format!("{value:.3e}");
    }
    let decimals = (4 - size.log10().floor() as i32).max(0) as usize;
    if decimals == 0 {
        return grouped(value);
    }
    trimmed(&format!("{value:.decimals$}"))
}

/// Cuts the zeros that end a decimal fraction.
pub(super) fn trimmed(text: &str) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text.to_owned()
    }
}

/// A number rounded to an integer, with groups of three digits: `50,000`.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 && digits != "0" { format!("\u{2212}{text}") } else { text }
}

/// How many of a thing: `1 point`, `2,000 points`.
pub(super) fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(count as f64))
}

/// A time span in its two largest units: `8 min 32 s`, and seconds with one decimal below ten.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    if days > 0 {
        format!("{days} d {hours} h")
    } else if hours > 0 {
        format!("{hours} h {minutes} min")
    } else if minutes > 0 {
        format!("{minutes} min {} s", whole % 60)
    } else if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{whole} s")
    }
}

/// A JSON value on one line: text as it is, lists with commas between.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "not known".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A JSON object as pairs, nested names joined with dots.
pub(super) fn flattened(object: &Map<String, Value>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (key, value) in object {
        match value {
            Value::Object(inner) => pairs.extend(
                flattened(inner).into_iter().map(|(name, text)| (format!("{key}.{name}"), text)),
            ),
            value => pairs.push((key.clone(), plain(value))),
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(grouped(50_000.0), "50,000");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(-1_234_567.0), "\u{2212}1,234,567");
        assert_eq!(significant(4.212_345), "4.2123");
        assert_eq!(significant(0.05), "0.05");
        assert_eq!(significant(0.000_012_3), "1.230e-5");
        assert_eq!(significant(781.26), "781.26");
        assert_eq!(significant(1_234_567.9), "1,234,568");
        assert_eq!(percent(0.451), "45.10\u{202f}%");
        assert_eq!(duration(512.0), "8 min 32 s");
        assert_eq!(duration(3.21), "3.2 s");
        assert_eq!(duration(90_000.0), "1 d 1 h");
    }

    #[test]
    fn only_accuracies_are_shown_in_percent() {
        for name in [
            "top1",
            "top5",
            "knn/top1",
            "train/contrastive_accuracy",
            "per_class_accuracy",
            "color_h_top1",
            "map_at_r",
        ] {
            assert!(is_fraction(name), "{name}");
        }
        for name in ["train/loss", "topology", "nmi", "train/top1/loss"] {
            assert!(!is_fraction(name), "{name}");
        }
    }
}
