//! Probes: how much of a transformation can still be read off a representation.
//!
//! **Papers.** Chen et al. 2020 (SimCLR, arXiv:2002.05709), section 4.2 and table 3: a small network learns to tell from h,
//! and from z = g(h), what was done to the image. The head throws away what the contrastive loss asks it to be invariant
//! to, so h keeps more than z.
//!
//! An image is cut and coloured as for training, then the transformation in question is put on it or not, anew in every
//! epoch. The label is what was drawn. The representation is frozen.

use super::scores::{Ranks, judged};
use crate::augment::{
    Adjustment, Drawn, GaussianNoise, Grayscale, Noise, Operation, Pipeline, Rotation, Scratch,
    Sobel, Step, ViewRecipe,
};
use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use crate::model::Parameters;
use crate::model::layers::{Initialization, Linear};
use crate::random::{Purpose, Scope, Stream};
use crate::train::optim::{Adam, Optimizer, OptimizerConfig};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use tch::{Device, Kind, Tensor};

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// What is asked about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// In colour, or grey? One in five is grey, as in training; who always says "colour" is right in 80 %.
    Color,
    /// Turned by 0, 90, 180 or 270 degrees?
    Rotation,
    /// Original, or with Gaussian noise on it?
    Noise,
    /// Original, or Sobel edges?
    Sobel,
}

impl Question {
    /// All of them, in the order of the paper's table.
    pub const ALL: [Self; 4] = [Self::Color, Self::Rotation, Self::Noise, Self::Sobel];

    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Color => "color",
            Self::Rotation => "rotation",
            Self::Noise => "noise",
            Self::Sobel => "sobel",
        }
    }

    /// The answers.
    pub fn answers(self) -> &'static [&'static str] {
        match self {
            Self::Color => &["color", "gray"],
            Self::Rotation => &["0", "90", "180", "270"],
            Self::Noise => &["original", "noisy"],
            Self::Sobel => &["original", "edges"],
        }
    }

    /// Share of right answers without looking.
    pub fn chance(self) -> f64 {
        match self {
            Self::Color => 0.8,
            Self::Rotation => 0.25,
            Self::Noise | Self::Sobel => 0.5,
        }
    }

    /// Whether the transformation belongs to the views the network was trained on; otherwise the paper trains a network
    /// with it, and the probe of another network is a weaker statement.
    pub fn asks_about(self, step: &Step) -> bool {
        match self {
            Self::Color => matches!(step, Step::Grayscale(_)),
            Self::Rotation => matches!(step, Step::Rotation(_)),
            Self::Noise => matches!(step, Step::GaussianNoise(_)),
            Self::Sobel => matches!(step, Step::Sobel(_)),
        }
    }

    /// The transformation, drawn so that every answer is as likely as in the paper.
    fn step(self, noise_std: f64) -> Step {
        match self {
            Self::Color => Step::Grayscale(Grayscale { probability: 0.2 }),
            Self::Rotation => {
                Step::Rotation(Rotation { probability: 1.0, angles: vec![0, 90, 180, 270] })
            }
            Self::Noise => Step::GaussianNoise(GaussianNoise { probability: 0.5, std: noise_std }),
            Self::Sobel => Step::Sobel(Sobel { probability: 0.5 }),
        }
    }

    /// The answer to what was drawn.
    fn answer(self, drawn: &Drawn) -> usize {
        let operations = drawn.operations.iter();
        let found = operations.rev().find_map(|operation| match (self, operation) {
            (Self::Color, Operation::Color(Adjustment::Grayscale))
            | (Self::Noise, Operation::Noise(_))
            | (Self::Sobel, Operation::Sobel) => Some(1),
            (Self::Rotation, Operation::Rotate(quarters)) => Some(usize::from(*quarters)),
            _ => None,
        });
        found.unwrap_or(0)
    }

    /// What is drawn for a view in evaluation, in place of chance: every answer once.
    fn force(self, drawn: &mut Drawn, answer: usize, noise: impl FnOnce() -> Operation) {
        match self {
            Self::Color => return,
            Self::Rotation => drawn.operations.retain(|it| !matches!(it, Operation::Rotate(_))),
            Self::Noise => drawn.operations.retain(|it| !matches!(it, Operation::Noise(_))),
            Self::Sobel => drawn.operations.retain(|it| !matches!(it, Operation::Sobel)),
        }
        drawn.operations.extend(match (self, answer) {
            (_, 0) => None,
            (Self::Rotation, quarters) => Some(Operation::Rotate(quarters as u8)),
            (Self::Noise, _) => Some(noise()),
            _ => Some(Operation::Sobel),
        });
    }
}

/// Settings of a probe.
///
/// The paper leaves open what classifier is put on top and how it is trained; all of this is ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// What is asked.
    pub questions: Vec<Question>,
    /// Width of the hidden layer, at least 1.
    pub hidden: usize,
    /// Passes over the references, at least 1; each image is transformed anew in each.
    pub epochs: u64,
    /// Images in a step, at least 1.
    pub batch_size: usize,
    /// Learning rate of Adam, above 0; it falls to 0 along half a cosine.
    pub learning_rate: f64,
    /// Weight decay, at least 0.
    pub weight_decay: f64,
    /// Standard deviation of the noise on values in \[0, 1\], above 0.
    pub noise_std: f64,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            questions: Question::ALL.to_vec(),
            hidden: 2048,
            epochs: 30,
            batch_size: 256,
            learning_rate: 1e-3,
            weight_decay: 1e-6,
            noise_std: 0.1,
        }
    }
}

/// How well a question is answered from one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// What was asked.
    pub question: Question,
    /// Place of the layer among those that the network gives.
    pub layer: usize,
    /// The answers.
    pub ranks: Ranks,
    /// References and queries that could not be read; they are left out.
    pub damaged: [usize; 2],
}

/// Gives the features of prepared images `[n, side, side, 3]`, 8 bits: `[n, D]` for each layer that is asked about.
pub type Forward<'a> = dyn FnMut(&[u8], usize) -> Result<Vec<Tensor>> + 'a;

impl Probe {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn check(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let checks = [
            (
                !self.questions.is_empty(),
                "questions",
                "a list of color, rotation, noise, sobel",
                "[]".to_owned(),
            ),
            (self.hidden > 0, "hidden", "at least 1", self.hidden.to_string()),
            (self.epochs > 0, "epochs", "at least 1", self.epochs.to_string()),
            (self.batch_size > 0, "batch_size", "at least 1", self.batch_size.to_string()),
            (
                positive(self.learning_rate),
                "learning_rate",
                "above 0",
                self.learning_rate.to_string(),
            ),
            (
                self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
                "weight_decay",
                "at least 0",
                self.weight_decay.to_string(),
            ),
            (
                positive(self.noise_std) && self.noise_std <= 10.0,
                "noise_std",
                "above 0, at most 10",
                self.noise_std.to_string(),
            ),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, key, range, found)) => {
                Err(Error::Recipe(format!("`probe.{key}` must be {range}, found `{found}`")))
            }
        }
    }

    /// Asks every question of every layer. `view` is how images are cut and coloured, with its own steps of the kind in
    /// question left out; `progress` gets epochs done and in all.
    ///
    /// Every evaluation image counts once per answer, so that answers are balanced; for [`Question::Color`] it counts once,
    /// grey or not as drawn.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if a side has no readable image;
    /// [`Error::NonFinite`] if training diverges; whatever `forward` fails with.
    pub fn evaluate(
        &self,
        forward: &mut Forward<'_>,
        view: &ViewRecipe,
        [references, queries]: [&dyn Dataset; 2],
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Answered>> {
        self.check()?;
        let all = self.epochs * self.questions.len() as u64;
        let mut answered = Vec::new();
        for (asked, question) in self.questions.iter().enumerate() {
            let views = Views::new(*question, view, self.noise_std, seed)?;
            let mut done = asked as u64 * self.epochs;
            let (layers, unread) = self.train(forward, &views, references, &mut || {
                done += 1;
                progress(done, all);
            })?;
            let (judged, missed) = self.judge(forward, &views, queries, &layers)?;
            let damaged = [unread, missed];
            let of = |(layer, ranks)| Answered { question: *question, layer, ranks, damaged };
            answered.extend(judged.into_iter().enumerate().map(of));
        }
        Ok(answered)
    }

    /// One classifier for each layer, and how many images could not be read.
    fn train(
        &self,
        forward: &mut Forward<'_>,
        views: &Views,
        images: &dyn Dataset,
        epoch_done: &mut dyn FnMut(),
    ) -> Result<(Vec<Classifier>, usize)> {
        let mut classifiers: Vec<Classifier> = Vec::new();
        let steps = self.epochs * images.len().div_ceil(self.batch_size) as u64;
        let (mut step, mut damaged) = (0u64, 0);
        for epoch in 0..self.epochs {
            let order = Stream::open(views.seed, Purpose::Evaluation, Scope::Item(epoch))
                .permutation(images.len());
            for batch in order.chunks(self.batch_size) {
                let rate =
                    0.5 * self.learning_rate * (1.0 + (PI * step as f64 / steps as f64).cos());
                step += 1;
                damaged += batch.len();
                let drawn = |index: usize, image: &Image| views.draw(epoch as u32, index, image);
                let made = views.make(images, batch, drawn)?;
                damaged -= made.answers.len();
                if made.answers.is_empty() {
                    continue;
                }
                let rows = forward(&made.pixels, made.answers.len())?;
                if classifiers.is_empty() {
                    let classifier = |rows: &Tensor| {
                        Classifier::new(self, rows, views.question.answers().len(), views.seed)
                    };
                    classifiers = rows.iter().map(classifier).collect();
                }
                for (classifier, rows) in classifiers.iter_mut().zip(&rows) {
                    classifier.step(rows, &made.answers, rate)?;
                }
            }
            epoch_done();
        }
        if classifiers.is_empty() {
            return Err(Error::Data("there are no readable images to train a probe on".to_owned()));
        }
        Ok((classifiers, damaged / self.epochs as usize))
    }

    fn judge(
        &self,
        forward: &mut Forward<'_>,
        views: &Views,
        images: &dyn Dataset,
        classifiers: &[Classifier],
    ) -> Result<(Vec<Ranks>, usize)> {
        let answers = views.question.answers().len();
        let rounds = if views.question == Question::Color { 1 } else { answers };
        let mut found = vec![Ranks::none(answers, answers); classifiers.len()];
        let mut damaged = 0;
        let all: Vec<usize> = (0..images.len()).collect();
        for round in 0..rounds {
            for batch in all.chunks(self.batch_size) {
                let drawn = |index: usize, image: &Image| views.draw_for(round, index, image);
                let made = views.make(images, batch, drawn)?;
                damaged += batch.len() - made.answers.len();
                if made.answers.is_empty() {
                    continue;
                }
                let rows = forward(&made.pixels, made.answers.len())?;
                for ((classifier, rows), found) in classifiers.iter().zip(&rows).zip(&mut found) {
                    let logits = tch::no_grad(|| classifier.logits(rows)).to_device(Device::Cpu);
                    let logits = Vec::<Vec<f32>>::try_from(&logits)
                        .map_err(|error| Error::Shape(error.to_string()))?;
                    for (scores, answer) in logits.iter().zip(&made.answers) {
                        found.push(judged(scores, *answer), *answer as u32);
                    }
                }
            }
        }
        if found.iter().any(|ranks| ranks.labels.is_empty()) {
            return Err(Error::Data("there are no readable images to judge a probe on".to_owned()));
        }
        Ok((found, damaged / rounds))
    }
}

/// How views for a question are drawn.
struct Views {
    question: Question,
    pipeline: Pipeline,
    noise_std: f64,
    seed: u64,
}

/// Views and what was done to them.
struct Made {
    pixels: Vec<u8>,
    answers: Vec<usize>,
}

impl Views {
    fn new(question: Question, view: &ViewRecipe, noise_std: f64, seed: u64) -> Result<Self> {
        let normalizes = matches!(view.steps.last(), Some(Step::Normalize(_)));
        let end = view.steps.len() - usize::from(normalizes);
        let kept = view.steps[..end].iter().filter(|step| !question.asks_about(step));
        let mut steps: Vec<Step> = kept.cloned().collect();
        steps.push(question.step(noise_std));
        steps.extend(view.steps[end..].iter().cloned());
        let pipeline = Pipeline::new(&[ViewRecipe { count: 1, steps }])?;
        Ok(Self { question, pipeline, noise_std, seed })
    }

    /// As in training.
    fn draw(&self, epoch: u32, index: usize, image: &Image) -> (Drawn, usize) {
        let size = (image.width, image.height);
        let drawn = self.pipeline.sample(self.seed, epoch, index as u32, 0, 0, size);
        let answer = self.question.answer(&drawn);
        (drawn, answer)
    }

    /// As in training, in an epoch that training does not have, but with this answer.
    fn draw_for(&self, answer: usize, index: usize, image: &Image) -> (Drawn, usize) {
        let (mut drawn, by_chance) = self.draw(u32::MAX, index, image);
        let key = Scope::Image { epoch: u32::MAX, index: index as u32, view: 1 };
        self.question.force(&mut drawn, answer, || {
            let seed = Stream::open(self.seed, Purpose::Augment, key).next_u64();
            Operation::Noise(Noise { std: self.noise_std as f32, seed })
        });
        let answer = if self.question == Question::Color { by_chance } else { answer };
        (drawn, answer)
    }

    /// Decodes and draws on all cores; images that cannot be read are left out.
    fn make(
        &self,
        images: &dyn Dataset,
        batch: &[usize],
        draw: impl Fn(usize, &Image) -> (Drawn, usize) + Sync,
    ) -> Result<Made> {
        let side = self.pipeline.size_px(0);
        let view = |index: &usize| {
            let image = images.image(*index)?;
            let (drawn, answer) = draw(*index, &image);
            let mut pixels = vec![0; 3 * side * side];
            SCRATCH.with_borrow_mut(|scratch| drawn.apply(&image, scratch, &mut pixels));
            // A view carries what its image carries beside its pixels, as in training.
            pixels.extend(images.constants(*index, &image));
            Ok((pixels, answer))
        };
        let views: Vec<Result<_>> = batch.par_iter().map(view).collect();
        let mut made = Made { pixels: Vec::new(), answers: Vec::new() };
        for view in views {
            match view {
                Ok((pixels, answer)) => {
                    made.pixels.extend(pixels);
                    made.answers.push(answer);
                }
                Err(Error::Data(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(made)
    }
}

thread_local!(static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default());

/// D to hidden to answers, with a `ReLU` between.
struct Classifier {
    parameters: Parameters,
    hidden: Linear,
    output: Linear,
    optimizer: Optimizer,
}

impl Classifier {
    fn new(settings: &Probe, rows: &Tensor, answers: usize, seed: u64) -> Self {
        let mut parameters = Parameters::new(seed, rows.device(), Kind::Float);
        let (inputs, width) = (rows.size()[1], settings.hidden as i64);
        let place = &mut parameters.root();
        let start = Initialization::Uniform;
        let hidden = Linear::build(&mut place.at("hidden"), inputs, width, true, start);
        let output = Linear::build(&mut place.at("output"), width, answers as i64, true, start);
        let adam =
            Adam { weight_decay: settings.weight_decay, ..Adam::constant(settings.learning_rate) };
        let optimizer = Optimizer::new(OptimizerConfig::Adam(adam), &parameters);
        Self { parameters, hidden, output, optimizer }
    }

    fn logits(&self, rows: &Tensor) -> Tensor {
        self.output.forward(&self.hidden.forward(&rows.to_kind(Kind::Float)).relu())
    }

    fn step(&mut self, rows: &Tensor, answers: &[usize], rate: f64) -> Result<()> {
        let answers: Vec<i64> = answers.iter().map(|answer| *answer as i64).collect();
        let answers = Tensor::from_slice(&answers).to_device(rows.device());
        let loss = self.logits(&rows.detach()).log_softmax(-1, Kind::Float).nll_loss(&answers);
        if !loss.double_value(&[]).is_finite() {
            return Err(Error::NonFinite(
                "the probe diverged; lower `probe.learning_rate`".to_owned(),
            ));
        }
        self.parameters.zero_grad();
        loss.backward();
        self.optimizer.step(rate);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
