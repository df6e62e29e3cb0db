//! How long a run takes.

use std::time::Instant;

/// Time of the run and speed of this process. It looks at the monotonic clock only, so a clock that is set does not show.
pub(super) struct Clock {
    started: Instant,
    earlier_seconds: f64,
    views_per_step: usize,
    steps: u64,
    views: u64,
    third_step: Option<Instant>,
    last_step: Instant,
}

impl Clock {
    pub(super) fn new(views_per_step: usize, earlier_seconds: f64) -> Self {
        let started = Instant::now();
        Self {
            started,
            earlier_seconds,
            views_per_step,
            steps: 0,
            views: 0,
            third_step: None,
            last_step: started,
        }
    }

    /// A step is over; one that was left out adds no views.
    pub(super) fn step(&mut self, taken: bool) {
        self.steps += 1;
        self.last_step = Instant::now();
        if self.third_step.is_some() {
            self.views += if taken { self.views_per_step as u64 } else { 0 };
        } else if self.steps == 3 {
            self.third_step = Some(self.last_step);
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.earlier_seconds + self.started.elapsed().as_secs_f64()
    }

    pub(super) fn views_per_second(&self) -> Option<f64> {
        let seconds = (self.last_step - self.third_step?).as_secs_f64();
        (self.views > 0).then(|| self.views as f64 / seconds)
    }
}
