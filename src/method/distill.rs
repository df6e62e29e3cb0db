//! Distillation: a network learns the class probabilities of a fine-tuned one, without labels.
//!
//! **Paper.** Chen et al. 2020, "Big Self-Supervised Models are Strong Semi-Supervised Learners" (`SimCLRv2`),
//! arXiv:2006.10029, section 2 and Eq. 2, 3; Hinton et al. 2015, arXiv:1503.02531. Code: google-research/simclr,
//! `colabs/distillation_self_training.ipynb`.
//!
//! **Idea.** What few labels taught a network it hands on with every unlabelled image. A student of its own size takes it
//! further (self-distillation), a smaller one becomes as good.
//!
//! **Symbols.** x one view of an image, the same for both; P(·|x; T) = softmax(logits / T). `L = -T² mean_i Σ_y
//! P_teacher(y|x_i; T) ln P_student(y|x_i; T)`; with labels `(1 - α) · cross-entropy + α · L`.
//!
//! **Deviations.** The factor T² is the code's, not the paper's. With labels (α below 1) every image of the data set has
//! one, and the teacher is asked about all of them.
//!
//! **Cost.** A forward and a backward pass of the student, a forward pass of the teacher, which is stored in every
//! checkpoint, so that a run needs nothing but its folder to go on.

use super::classifier::{self, Network, Start, Tap};
use super::passes;
use super::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, require,
};
use crate::error::{Error, Result};
use crate::loss::cross_entropy::{top1, with_labels, with_teacher};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Phase, Statistics};
use crate::plugin::Plugins;
use crate::shape;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Settings of distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A run of method `classifier`, or one of its checkpoints: the teacher. Needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// T, above 0: 0.1 for a student like its teacher, 1 for a smaller one (our choice, after `SimCLRv2`).
    pub temperature: f64,
    /// α, share of the teacher in the loss, in [0, 1]; below 1 the labels have the rest.
    pub alpha: f64,
    /// How the student's linear layer, which sits on its features h, starts.
    pub initialization: Start,
}

impl Default for Config {
    fn default() -> Self {
        Self { teacher: None, temperature: 1.0, alpha: 1.0, initialization: Start::PyTorch }
    }
}

impl Config {
    /// The student as a classifier.
    fn student(&self) -> classifier::Config {
        classifier::Config {
            tap: Tap::H,
            initialization: self.initialization,
            ..classifier::Config::default()
        }
    }
}

/// A trained classifier, read from where it lies: what a student is built beside.
#[derive(Debug)]
pub struct Teacher {
    /// Its backbone.
    pub backbone: BackboneConfig,
    /// What sits on it.
    pub classifier: classifier::Config,
    /// C.
    pub classes: usize,
    /// Whether it learned images that may show several classes each.
    pub several_classes: bool,
    /// Its tensors, `backbone.…`, `projector.…` and `classifier.…`.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Name below which the teacher lies.
pub const PLACE: &str = "teacher";

impl Settings for Config {
    fn wiring(&self, _plugins: &Plugins, _views: usize) -> Wiring {
        Wiring { online: vec![0], targets: vec![0] }
    }

    fn held(&self, backbone: &BackboneConfig, _: usize, _batch: usize, _images: usize) -> Held {
        // Nobody has looked at the teacher yet: taken for one of the student's size.
        Held { columns: 0, state: backbone.parameter_count() }
    }

    fn fits(&self) -> Fits {
        let teacher = "it learns from a teacher's classes; plug-ins are for learning without";
        Fits {
            feature_transformation: Err(teacher),
            cross_level: Err(teacher),
            guided_stop_gradient: Err(teacher),
        }
    }

    fn check(&self, _plugins: &Plugins) -> Result<()> {
        let fits = self.temperature.is_finite() && self.temperature > 0.0;
        require(fits, "method.temperature", "above 0", self.temperature)?;
        require((0.0..=1.0).contains(&self.alpha), "method.alpha", "from 0 to 1", self.alpha)
    }
}

/// A student and its teacher.
pub struct Distill {
    parameters: Parameters,
    wiring: Wiring,
    student: Network,
    teacher: Network,
    config: Config,
}

impl Distill {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let found = setup.teacher.ok_or_else(|| {
            Error::Recipe(
                "method distill needs a teacher: set `method.teacher` to a run of method classifier".to_owned(),
            )
        })?;
        if found.several_classes {
            return Err(Error::Weights(
                "the teacher learned images that may show several classes each; what it says are no class probabilities, which \
                 method distill learns"
                    .to_owned(),
            ));
        }
        let classes = found.classes;
        if config.alpha < 1.0 && setup.multi_label {
            return Err(Error::Data(
                "these images may show several classes each, and method distill learns one class an image: set \
                 `method.alpha=1` to leave labels out"
                    .to_owned(),
            ));
        }
        if config.alpha < 1.0 && setup.classes != classes {
            return Err(Error::Data(format!(
                "the teacher knows {classes} classes and the data set has {}; labels count only where both are the same: \
                 set `method.alpha=1`",
                setup.classes
            )));
        }
        let student =
            Network::build(&mut parameters.root(), setup.backbone, &config.student(), classes)?;
        let mut root = parameters.root();
        let mut place = root.at(PLACE).frozen();
        let teacher = Network::build(&mut place, &found.backbone, &found.classifier, classes)?;
        let prefix = format!("{PLACE}.");
        let named = found.tensors.iter().map(|(name, t)| (format!("{prefix}{name}"), t.detach()));
        parameters.load_part(&prefix, &named.collect())?;
        let wiring = config.wiring(setup.plugins, setup.views);
        Ok(Self { parameters, wiring, student, teacher, config: config.clone() })
    }
}

impl Method for Distill {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::together(self.student.backbone(), views, groups, statistics)
    }

    /// The teacher's logits.
    fn targets(&self, views: &[Tensor], _groups: i64, _statistics: Statistics) -> Tensor {
        let h = self.teacher.features(&views[0], Phase::Evaluation);
        self.teacher.logits(&h, Phase::Evaluation).unsqueeze(0)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        let (features, classes) = (self.backbone().features(), self.student.classes() as i64);
        shape::check("rows", &rows.online, &[1, -1, features])?;
        shape::check("the teacher's logits", rows.targets()?, &[1, -1, classes])?;
        let Config { temperature, alpha, .. } = self.config;
        let taught = rows.targets()?.squeeze_dim(0);
        let h = rows.online.detach().set_requires_grad(true);
        let logits = self.student.logits(&h.squeeze_dim(0), Phase::Evaluation);
        let distillation = with_teacher(&logits, &taught, temperature)?;
        let agreement = top1(&logits, &taught.argmax(1, false));
        let mut scalars =
            vec![("distillation", distillation.double_value(&[])), ("agreement", agreement)];
        let mut loss = distillation * alpha;
        if alpha < 1.0 {
            let labels = step.labels_of_batch("distill with `method.alpha` below 1", h.device())?;
            let supervised = with_labels(&logits, &labels)?;
            scalars.push(("cross_entropy", supervised.double_value(&[])));
            scalars.push(("top1", top1(&logits, &labels)));
            loss += supervised.to_kind(Kind::Double) * (1.0 - alpha);
        }
        Ok(Objective::backward(&loss, &h, &logits).with(scalars))
    }

    /// A student that gives every class the same.
    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        let Config { temperature, alpha, .. } = self.config;
        let classes = (self.student.classes() as f64).ln();
        let value = (1.0 - alpha + alpha * temperature * temperature) * classes;
        Some(Constant { value, formula: "(1 - α + α T²) ln C" })
    }

    fn frozen(&self) -> Vec<String> {
        vec![format!("{PLACE}.")]
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        self.student.backbone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        CLASSES, IMAGES, build, head_gradients, hold_slopes, named, refused, rows, step, teacher,
        tensors,
    };
    use super::super::{Config as AnyConfig, Setup};
    use super::*;
    use crate::data::Labels;
    use std::sync::LazyLock;
    use tch::Device;

    const LABELS: &[u32] = &[2, 0, 1, 1, 0, 2];

    fn at(index: u64) -> Step<'static> {
        static ONE: LazyLock<Labels> = LazyLock::new(|| Labels::One(LABELS.into()));
        Step { labels: Some(&ONE), ..step(index) }
    }

    /// Rows of a student and logits of a teacher.
    fn seen() -> Rows {
        let taught = rows(1, 4).online.narrow(2, 0, CLASSES as i64) * 3.0;
        Rows { targets: Some(taught), ..rows(1, 3) }
    }

    #[test]
    fn the_objective_is_the_formula_and_gradients_are_its_slopes() {
        for (temperature, alpha) in [(1.0, 1.0), (0.5, 1.0), (2.0, 0.3), (1.0, 0.0)] {
            let text = format!("name = 'distill'\ntemperature = {temperature}\nalpha = {alpha}");
            let method = build(&text, "", 1);
            let rows = seen();
            let get = |part: &str| named(method.as_ref(), &format!("classifier.{part}"));
            let z = rows.online.get(0).matmul(&get("weight").tr()) + get("bias");
            let taught = rows.targets().unwrap().get(0);
            let probability = |z: &Tensor, row: i64, t: f64| -> Vec<f64> {
                let e = |class| (z.double_value(&[row, class]) / t).exp();
                let sum: f64 = (0..CLASSES as i64).map(e).sum();
                (0..CLASSES as i64).map(|class| e(class) / sum).collect()
            };
            let (mut soft, mut hard) = (0.0, 0.0);
            for row in 0..IMAGES as i64 {
                let p = probability(&taught, row, temperature);
                let q = probability(&z, row, temperature);
                soft -= p.iter().zip(&q).map(|(p, q)| p * q.ln()).sum::<f64>() / IMAGES as f64;
                hard -=
                    probability(&z, row, 1.0)[LABELS[row as usize] as usize].ln() / IMAGES as f64;
            }
            let expected = alpha * temperature * temperature * soft + (1.0 - alpha) * hard;
            let found = method.objective(&rows, &at(0)).unwrap();
            assert!((found.loss - expected).abs() < 1e-12, "{} {expected}", found.loss);
            let mut held = head_gradients(method.as_ref());
            held.retain(|(name, ..)| name.starts_with("classifier."));
            held.push(("rows", rows.online.shallow_clone(), found.rows_gradient));
            assert_eq!(held.len(), 3);
            hold_slopes(&held, || method.objective(&rows, &at(0)).unwrap().loss);
            // Labels are asked for only where they count.
            assert_eq!(method.objective(&rows, &step(0)).is_ok(), alpha >= 1.0);
        }
    }

    #[test]
    fn the_teacher_judges_in_evaluation_and_never_moves() {
        let method = build("name = 'distill'", "", 1);
        let before = tensors(method.as_ref());
        let images = Tensor::arange(4 * 3 * 16 * 16, (Kind::Double, Device::Cpu)).sin();
        let images = images.view([4, 3, 16, 16]);
        let statistics = Statistics::Move { seen: 0, of: 1 };
        let whole = method.targets(&[images.shallow_clone()], 1, statistics);
        assert_eq!(whole.size(), [1, 4, CLASSES as i64]);
        // What one image gets does not hang on the others.
        let alone = method.targets(&[images.narrow(0, 2, 1)], 1, statistics);
        assert!((alone.select(1, 0) - whole.select(1, 2)).abs().max().double_value(&[]) < 1e-9);
        assert_eq!(tensors(method.as_ref()), before);
        let teachers = method.parameters().all().iter().filter(|p| p.name.starts_with("teacher."));
        assert!(teachers.clone().count() > 60 && teachers.clone().all(|p| !p.trained));
        assert_eq!(method.frozen(), ["teacher."]);
    }

    #[test]
    fn without_a_teacher_with_half_of_one_and_with_other_classes_it_is_refused() {
        let backbone = toml::from_str("name = 'resnet18'\nwidth = 0.125\nstem = 'cifar'").unwrap();
        let plugins = Plugins::default();
        let setup = Setup {
            backbone: &backbone,
            plugins: &plugins,
            views: 1,
            images: 24,
            batch: IMAGES,
            classes: CLASSES,
            multi_label: false,
            teacher: None,
            seed: 5,
            device: Device::Cpu,
            kind: Kind::Double,
        };
        let refuse = |config: &str, setup: &Setup<'_>| {
            let config: AnyConfig = toml::from_str(config).unwrap();
            config.build(setup).err().unwrap().to_string()
        };
        let plain = "name = 'distill'";
        assert!(refuse(plain, &setup).contains("set `method.teacher` to a run"));
        let mut half = teacher(&setup);
        assert!(half.tensors.remove("classifier.bias").is_some());
        let text = refuse(plain, &Setup { teacher: Some(&half), ..setup });
        assert!(text.contains("no tensor for `teacher.classifier.bias`"), "{text}");
        let whole = teacher(&setup);
        let other = Setup { teacher: Some(&whole), classes: 7, ..setup };
        let text = refuse("name = 'distill'\nalpha = 0.5", &other);
        assert!(text.contains("knows 3 classes and the data set has 7"), "{text}");
        let unlabelled: AnyConfig = toml::from_str(plain).unwrap();
        assert!(unlabelled.build(&Setup { classes: 0, ..other }).is_ok(), "labels do not count");
        assert!(refused("name = 'distill'\nalpha = 1.5", "").contains("`method.alpha` must be"));
        assert!(refused("name = 'distill'\ntemperature = 0.0", "").contains("above 0"));
    }
}
