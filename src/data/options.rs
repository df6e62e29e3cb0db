//! Settings of made data: what stands behind the `?` of `synthetic:scenes?train=600&size=48`.

use crate::error::{Error, Result};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The settings of one made data set, taken one by one.
pub(super) struct Options<'a> {
    set: &'a str,
    given: Vec<(&'a str, &'a str)>,
    asked: Vec<&'static str>,
}

impl<'a> Options<'a> {
    /// Splits `key=value&key=value`; `set` names the data set in messages.
    ///
    /// # Errors
    /// [`Error::Data`] when a key is given twice.
    pub(super) fn parse(set: &'a str, text: &'a str) -> Result<Self> {
        let mut given: Vec<(&str, &str)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if given.iter().any(|(known, _)| *known == key) {
                return Err(Error::Data(format!("`{key}` of `{set}` is given twice")));
            }
            given.push((key, value));
        }
        Ok(Self { set, given, asked: Vec::new() })
    }

    /// The value of a key, if it is given.
    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.asked.push(key);
        let place = self.given.iter().position(|(known, _)| *known == key)?;
        Some(self.given.remove(place).1)
    }

    /// A whole number within a range, if it is given.
    ///
    /// # Errors
    /// [`Error::Data`] naming the range and what was found.
    pub(super) fn number<T: FromStr + PartialOrd + Display>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(Error::Data(format!(
                "`{key}` of `{}` must be a whole number from {} to {}, found `{text}`",
                self.set,
                range.start(),
                range.end()
            ))),
        }
    }

    /// One of some words, the first of them if none is given.
    ///
    /// # Errors
    /// [`Error::Data`] listing the words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<T> {
        let Some(text) = self.text(key) else { return Ok(words[0].1) };
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            Error::Data(format!(
                "`{key}` of `{}` must be one of {}, found `{text}`",
                self.set,
                known.join(", ")
            ))
        })
    }

    /// Checks that nothing is left over.
    ///
    /// # Errors
    /// [`Error::Data`] naming the key and those that there are.
    pub(super) fn finish(self) -> Result<()> {
        let Some((key, _)) = self.given.first() else { return Ok(()) };
        let (last, others) = self.asked.split_last().expect("a made data set has settings");
        let others: Vec<String> = others.iter().map(|key| format!("`{key}`")).collect();
        let or = if others.is_empty() { "" } else { " or " };
        Err(Error::Data(format!(
            "`{}` has no setting `{key}`, expected {}{or}`{last}`",
            self.set,
            others.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::failure_of;
    use super::*;

    #[test]
    fn settings_are_taken_and_checked() {
        let mut options = Options::parse("made", "size=7&tail=step&&path=a=b").unwrap();
        assert_eq!(options.number("size", 1..=9).unwrap(), Some(7));
        assert_eq!(options.number::<u64>("seed", 0..=9).unwrap(), None);
        assert_eq!(options.word("tail", &[("long", 1), ("step", 2)]).unwrap(), 2);
        assert_eq!(options.word("way", &[("up", 1), ("down", 2)]).unwrap(), 1);
        assert_eq!(options.text("path"), Some("a=b"));
        options.finish().unwrap();

        let options = |text| Options::parse("made", text).unwrap();
        for (text, value) in
            [("size=0", "`0`"), ("size=x", "`x`"), ("size", "``"), ("size=-1", "`-1`")]
        {
            let found = failure_of(options(text).number::<u32>("size", 1..=9));
            let expected =
                format!("`size` of `made` must be a whole number from 1 to 9, found {value}");
            assert_eq!(found, expected);
        }
        let found = failure_of(options("way=left").word("way", &[("up", 1), ("down", 2)]));
        assert_eq!(found, "`way` of `made` must be one of `up`, `down`, found `left`");
        assert_eq!(failure_of(Options::parse("made", "a=1&a=2")), "`a` of `made` is given twice");
        let mut some = options("seeed=1");
        let _ = (some.text("size"), some.text("seed"));
        assert_eq!(
            failure_of(some.finish()),
            "`made` has no setting `seeed`, expected `size` or `seed`"
        );
    }
}
