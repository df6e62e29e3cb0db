//! What happened to a run beside training: kept in the checkpoint, so that a number made from it can tell.

use super::gradients::Sums;
use serde::{Deserialize, Serialize};

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Optimizer steps taken when it took effect.
    pub step: u64,
    /// What happened, for people.
    pub text: String,
}

/// What a checkpoint remembers of the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Changes of how the run was computed and steps that were left out, in order.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Steps that a roll-back left out: first and last, both included. The weights stay as they are there.
    #[serde(default)]
    pub skipped: Vec<[u64; 2]>,
    /// Number of steps that left the weights as they were, whatever the reason.
    #[serde(default)]
    pub left_out: u64,
    /// How often the run was rolled back.
    #[serde(default)]
    pub roll_backs: u32,
    /// What the sentinels have counted so far, so that a resumed run judges as one that never stopped.
    #[serde(default)]
    pub counts: Counts,
    /// Norms of the gradient in the epoch so far, see [`super::gradients`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradients: Option<Sums>,
    /// Where an epoch has ended with this step: the values of the step, names and bits of f64. What ends an epoch, the
    /// monitor, its line of metrics and the kept copy, comes after the checkpoint, and may have to be done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_end: Option<Vec<(String, u64)>>,
}

/// For how long each sentinel has seen something wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Steps in a row with a loss or gradient that is not finite.
    #[serde(default)]
    pub non_finite: u32,
    /// Steps in a row with the loss at its constant.
    #[serde(default)]
    pub stuck: u32,
    /// Looks at the projections in a row with too little spread.
    #[serde(default)]
    pub collapse: u32,
    /// ... of too low a rank.
    #[serde(default)]
    pub rank: u32,
    /// ... with too few prototypes in use.
    #[serde(default)]
    pub prototypes: u32,
    /// ... with positives no closer than negatives.
    #[serde(default)]
    pub gap: u32,
}

impl Journal {
    /// Whether a roll-back left out this step (counted from 0).
    pub fn skips(&self, step: u64) -> bool {
        self.skipped.iter().any(|[first, last]| (*first..=*last).contains(&step))
    }

    /// Adds an event unless it is there.
    pub fn add(&mut self, event: Event) {
        if !self.events.contains(&event) {
            self.events.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_steps_include_both_ends_and_an_event_is_told_once() {
        let mut journal = Journal { skipped: vec![[3, 5], [9, 9]], ..Journal::default() };
        let found: Vec<u64> = (0..12).filter(|step| journal.skips(*step)).collect();
        assert_eq!(found, [3, 4, 5, 9]);
        for _ in 0..2 {
            journal.add(Event { step: 1, text: "micro-batch 8 -> 4".to_owned() });
        }
        assert_eq!(journal.events.len(), 1);
    }

    #[test]
    fn an_older_header_without_a_journal_reads_as_an_empty_one() {
        assert_eq!(serde_json::from_str::<Journal>("{}").unwrap(), Journal::default());
    }
}
