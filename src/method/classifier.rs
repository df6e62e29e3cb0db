//! Classifier: a linear layer on the backbone learns labels, alone or together with everything below it.
//!
//! **Paper.** Not one paper's: supervised training (He et al. 2016, arXiv:1512.03385), linear evaluation (Zhang et al. 2016,
//! arXiv:1603.08511) and fine-tuning with few labels (Chen et al. 2020, arXiv:2002.05709, appendix B.5; from the middle of
//! the projector: arXiv:2006.10029, section 2) are this method with other settings.
//!
//! **Idea.** One view of an image, a linear layer with a bias, cross-entropy with the label; where an image may show several
//! classes, binary cross-entropy with each (Ericsson et al. 2021, arXiv:2011.13377). From random weights it is the
//! supervised baseline; from pre-trained ones (`backbone.weights`) fine-tuning; with `frozen` the linear evaluation.
//!
//! **Symbols.** h = f(x) features; t = the tap: h, or the output of a projector layer with its norm and `ReLU`;
//! z = W t + b logits `[N, C]`. `L = -mean_i ln softmax(z_i)[y_i]`, or with several classes an image, `s_ic` 1 where c is
//! shown, `L = -mean_ic [s_ic ln σ(z_ic) + (1 - s_ic) ln(1 - σ(z_ic))]`.
//!
//! **Deviations.** A frozen backbone is in evaluation mode and its rows carry no graph; so is what the tap keeps of the
//! projector. Where a part of it is frozen (google-research/simclr, `fine_tune_after_block`), that part is. What is not
//! frozen is in training mode and its running statistics move.
//!
//! **Cost.** Fine-tuning: a forward and a backward pass of one view, the latter down to what is frozen. All frozen: a forward pass, in the memory of evaluation.

use super::passes;
use super::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, require,
};
use crate::error::{Error, Result};
use crate::loss::cross_entropy::{marks, top1, with_labels, with_shown};
use crate::model::heads::{Head, HeadConfig};
use crate::model::layers::{Initialization, Linear};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Frozen, Parameters, Phase, Place, Statistics};
use crate::plugin::Plugins;
use crate::shape;
use serde::{Deserialize, Serialize};
use std::f64::consts::LN_2;
use tch::Tensor;

/// Settings of the classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the linear layer sits: `h`, or `g1`, `g2`, … behind so many layers of the projector.
    pub tap: Tap,
    /// What stays as it is: nothing, the backbone up to one of its groups, or all of it with what the tap keeps of the
    /// projector.
    pub frozen: Frozen,
    /// How the linear layer starts.
    pub initialization: Start,
    /// g of the model that was pre-trained, for a tap within it. Layers above the tap are not made.
    pub projector: HeadConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tap: Tap::H,
            frozen: Frozen::Nothing,
            initialization: Start::PyTorch,
            projector: HeadConfig::default(),
        }
    }
}

/// Layers of the projector below the linear layer; written `h`, `g1`, `g2`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Tap(usize);

impl Tap {
    /// The features of the backbone.
    pub const H: Self = Self(0);

    /// Behind so many layers of the projector.
    pub fn behind(layers: usize) -> Self {
        Self(layers)
    }

    /// How many layers of the projector lie below.
    pub fn layers(self) -> usize {
        self.0
    }
}

impl From<Tap> for String {
    fn from(tap: Tap) -> Self {
        if tap == Tap::H { "h".to_owned() } else { format!("g{}", tap.0) }
    }
}

impl TryFrom<String> for Tap {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let layer = |text: &str| text.strip_prefix('g')?.parse().ok().filter(|layer| *layer > 0);
        match text.as_str() {
            "h" => Ok(Self::H),
            other => layer(other).map(Self).ok_or_else(|| {
                format!("the tap must be h, or g1, g2, ... for a layer of the projector, found `{other}`")
            }),
        }
    }
}

/// How the linear layer starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Weights and bias zero (google-research/simclr, `zero_init_logits_layer`).
    Zeros,
    /// Weights normal with standard deviation 0.01, bias zero (SimCLR's dense layers, MoCo, `SimSiam`).
    Normal,
    /// Both uniform in ±1/√F, as PyTorch's layers.
    PyTorch,
}

impl From<Start> for Initialization {
    fn from(start: Start) -> Self {
        match start {
            Start::Zeros => Self::Zeros,
            Start::Normal => Self::Normal(0.01),
            Start::PyTorch => Self::Uniform,
        }
    }
}

impl Settings for Config {
    fn wiring(&self, _plugins: &Plugins, _views: usize) -> Wiring {
        if self.frozen == Frozen::All {
            Wiring { online: Vec::new(), targets: vec![0] }
        } else {
            Wiring::online(1)
        }
    }

    fn held(&self, backbone: &BackboneConfig, _: usize, _batch: usize, _images: usize) -> Held {
        let kept = if self.tap == Tap::H {
            0
        } else {
            self.projector.parameter_count(backbone.features())
        };
        Held { columns: 0, state: Held::TRAINED * kept }
    }

    fn fits(&self) -> Fits {
        let labels = "it learns from labels; plug-ins are for learning without";
        Fits {
            feature_transformation: Err(labels),
            cross_level: Err(labels),
            guided_stop_gradient: Err(labels),
        }
    }

    fn frozen(&self) -> Frozen {
        self.frozen
    }

    fn check(&self, _plugins: &Plugins) -> Result<()> {
        self.projector.check("method.projector")?;
        require(
            self.tap.0 <= self.projector.layers,
            "method.tap",
            &format!("h or a layer of the projector, which has {}", self.projector.layers),
            String::from(self.tap),
        )
    }
}

/// A backbone, what a tap keeps of its projector, and a linear layer: `backbone.…`, `projector.…`, `classifier.weight`
/// and `classifier.bias` below a place.
#[derive(Debug)]
pub struct Network {
    backbone: ResNet,
    projector: Head,
    linear: Linear,
    classes: usize,
}

impl Network {
    /// Makes the network for `classes` classes.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the settings do not fit; [`Error::Data`] if there are no classes.
    pub fn build(
        place: &mut Place<'_>,
        backbone: &BackboneConfig,
        config: &Config,
        classes: usize,
    ) -> Result<Self> {
        if classes == 0 {
            return Err(Error::Data(
                "a classifier learns from labels, and not every training image has one; take `simclr` for data without \
                 labels"
                    .to_owned(),
            ));
        }
        let frozen = config.frozen;
        let backbone = ResNet::build_frozen(&mut place.at("backbone"), backbone, frozen)?;
        let projector = Head::build_first(
            &mut place.at("projector").frozen_if(frozen == Frozen::All),
            backbone.features(),
            &config.projector,
            config.tap.0,
        )?;
        let linear = Linear::build(
            &mut place.at("classifier"),
            projector.outputs(),
            classes as i64,
            true,
            config.initialization.into(),
        );
        Ok(Self { backbone, projector, linear, classes })
    }

    /// Features h `[N, F]` of images `[N, 3, h, w]`.
    pub fn features(&self, images: &Tensor, phase: Phase) -> Tensor {
        self.backbone.forward(images, phase)
    }

    /// Logits `[N, C]` of features h `[N, F]`.
    pub fn logits(&self, features: &Tensor, phase: Phase) -> Tensor {
        self.linear.forward(&self.projector.forward(features, phase))
    }

    /// C.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// f.
    pub fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}

/// A network that learns labels.
pub struct Classifier {
    parameters: Parameters,
    wiring: Wiring,
    network: Network,
    config: Config,
    multi_label: bool,
}

impl Classifier {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let network =
            Network::build(&mut parameters.root(), setup.backbone, config, setup.classes)?;
        let wiring = config.wiring(setup.plugins, setup.views);
        let multi_label = setup.multi_label;
        Ok(Self { parameters, wiring, network, config: config.clone(), multi_label })
    }

    /// The parts of a pre-trained model below the linear layer.
    fn below(&self) -> Vec<String> {
        std::iter::once("backbone.".to_owned()).chain(self.layers()).collect()
    }

    /// What the tap keeps of the projector.
    fn layers(&self) -> impl Iterator<Item = String> {
        (0..self.config.tap.0).map(|layer| format!("projector.layers.{layer}."))
    }

    /// Whether only the linear layer learns.
    fn all_frozen(&self) -> bool {
        self.config.frozen == Frozen::All
    }
}

impl Method for Classifier {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::together(&self.network.backbone, views, groups, statistics)
    }

    fn targets(&self, views: &[Tensor], _groups: i64, _statistics: Statistics) -> Tensor {
        self.network.features(&views[0], Phase::Evaluation).unsqueeze(0)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        let features = self.network.backbone.features();
        let (h, phase) = if self.all_frozen() {
            (rows.targets()?.shallow_clone(), Phase::Evaluation)
        } else {
            let statistics = Statistics::Move { seen: 0, of: 1 };
            let leaf = rows.online.detach().set_requires_grad(true);
            (leaf, Phase::Training { groups: 1, statistics })
        };
        shape::check("rows", &h, &[1, -1, features])?;
        let logits = self.network.logits(&h.squeeze_dim(0), phase);
        let shown = step.shown_in_batch((logits.device(), logits.kind()));
        let (loss, scalar) = if let Some(shown) = shown {
            (with_shown(&logits, &shown)?, ("marks", marks(&logits, &shown)))
        } else {
            let labels = step.labels_of_batch("classifier", logits.device())?;
            (with_labels(&logits, &labels)?, ("top1", top1(&logits, &labels)))
        };
        let leaf = if self.all_frozen() { &rows.online } else { &h };
        Ok(Objective::backward(&loss, leaf, &logits).with([scalar]))
    }

    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        if self.multi_label {
            return Some(Constant { value: LN_2, formula: "ln 2" });
        }
        let value = (self.network.classes as f64).ln();
        Some(Constant { value, formula: "ln C" })
    }

    fn inherits(&self) -> Vec<String> {
        self.below()
    }

    fn frozen(&self) -> Vec<String> {
        let backbone = self.config.frozen.prefixes();
        let backbone = backbone.iter().map(|prefix| format!("backbone.{prefix}"));
        backbone.chain(self.layers().filter(|_| self.all_frozen())).collect()
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.network.backbone
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        CLASSES, IMAGES, build, head_gradients, hold_slopes, named, refused, rows, step, tensors,
    };
    use super::*;
    use crate::data::{Labels, MultiLabels, Presence};
    use crate::model::{Parameter, Role};
    use std::sync::{Arc, LazyLock};

    const LABELS: &[u32] = &[2, 0, 1, 1, 0, 2];

    fn at(index: u64) -> Step<'static> {
        static ONE: LazyLock<Labels> = LazyLock::new(|| Labels::One(LABELS.into()));
        Step { labels: Some(&ONE), ..step(index) }
    }

    /// Logits of an independent loop, and their mean cross-entropy.
    fn by_hand(x: &Tensor, weight: &Tensor, bias: &Tensor) -> f64 {
        let mut sum = 0.0;
        for (row, label) in (0..).zip(LABELS) {
            let logit = |class: i64| {
                let products = (0..x.size()[1])
                    .map(|d| x.double_value(&[row, d]) * weight.double_value(&[class, d]));
                products.sum::<f64>() + bias.double_value(&[class])
            };
            let logits: Vec<f64> = (0..CLASSES as i64).map(logit).collect();
            let total: f64 = logits.iter().map(|z| z.exp()).sum();
            sum += total.ln() - logits[*label as usize];
        }
        sum / LABELS.len() as f64
    }

    #[test]
    fn the_objective_is_cross_entropy_and_gradients_are_its_slopes() {
        let method = build("name = 'classifier'", "", 1);
        let rows = rows(1, 1);
        let found = method.objective(&rows, &at(0)).unwrap();
        let [weight, bias] =
            ["weight", "bias"].map(|name| named(method.as_ref(), &format!("classifier.{name}")));
        let expected = by_hand(&rows.online.get(0), &weight, &bias);
        assert!((found.loss - expected).abs() < 1e-12, "{} {expected}", found.loss);
        let mut held = head_gradients(method.as_ref());
        assert_eq!(held.len(), 2);
        held.push(("rows", rows.online.shallow_clone(), found.rows_gradient));
        hold_slopes(&held, || method.objective(&rows, &at(0)).unwrap().loss);
    }

    #[test]
    fn a_tap_keeps_the_first_layer_with_its_norm_and_relu() {
        let text = "name = 'classifier'\ntap = 'g1'\nprojector = { layers = 2, hidden = 7 }";
        let method = build(text, "", 1);
        let names: Vec<String> =
            tensors(method.as_ref()).into_keys().filter(|n| !n.starts_with("backbone.")).collect();
        let expected = [
            "classifier.bias",
            "classifier.weight",
            "projector.layers.0.linear.weight",
            "projector.layers.0.norm.bias",
            "projector.layers.0.norm.running_mean",
            "projector.layers.0.norm.running_var",
            "projector.layers.0.norm.weight",
        ];
        assert_eq!(names, expected);
        assert_eq!(method.inherits(), ["backbone.", "projector.layers.0."]);
        // In training the norm has the statistics of the batch.
        let rows = rows(1, 2);
        let get = |name: &str| named(method.as_ref(), name);
        let x = rows.online.get(0).matmul(&get(expected[2]).tr());
        let centred = &x - x.mean_dim(0, true, None);
        let x = &centred / (centred.square().mean_dim(0, true, None) + 1e-5).sqrt();
        let x = (x * get(expected[6]) + get(expected[3])).clamp_min(0.0);
        let (weight, bias) = (get("classifier.weight"), get("classifier.bias"));
        let loss = by_hand(&x, &weight, &bias);
        let found = method.objective(&rows, &at(0)).unwrap();
        assert!((found.loss - loss).abs() < 1e-12, "{} {loss}", found.loss);
        let logits = x.matmul(&weight.tr()) + bias;
        assert!((found.projections - logits).abs().max().double_value(&[]) < 1e-12);
        assert!((get(expected[4]).abs().max().double_value(&[])) > 0.0, "statistics moved");
    }

    #[test]
    fn a_frozen_network_is_seen_without_a_graph_and_only_the_layer_is_trained() {
        let text = "name = 'classifier'\nfrozen = true\ntap = 'g2'\ninitialization = 'zeros'\n\
                    projector = { layers = 2, hidden = 7, output = 5 }";
        let method = build(text, "", 1);
        assert_eq!(method.wiring(), &Wiring { online: vec![], targets: vec![0] });
        let trained: Vec<&str> = method.parameters().trainable().map(|p| p.name.as_str()).collect();
        assert_eq!(trained, ["classifier.weight", "classifier.bias"]);
        assert_eq!(method.frozen(), ["backbone.", "projector.layers.0.", "projector.layers.1."]);
        let before = tensors(method.as_ref());
        let h = rows(1, 3).online;
        let seen = Rows { online: h.narrow(0, 0, 0), targets: Some(h) };
        let found = method.objective(&seen, &at(0)).unwrap();
        // Zeros give every class the same, and the projector its running statistics: mean 0, variance 1.
        assert!((found.loss - 3f64.ln()).abs() < 1e-12);
        assert_eq!(found.rows_gradient.size(), [0, IMAGES as i64, 64]);
        assert_eq!(tensors(method.as_ref()), before);
        assert_eq!(method.stuck_at(IMAGES).unwrap().value.to_bits(), 3f64.ln().to_bits());
    }

    #[test]
    fn a_part_that_is_frozen_is_named_and_the_rest_has_a_gradient() {
        let text = "name = 'classifier'\nfrozen = 'group1'\ntap = 'g1'\n\
                    projector = { layers = 2, hidden = 7, output = 5 }";
        let method = build(text, "", 1);
        assert_eq!(method.wiring(), &Wiring::online(1));
        assert_eq!(method.frozen(), ["backbone.conv1", "backbone.bn1", "backbone.layer1."]);
        assert_eq!(method.inherits(), ["backbone.", "projector.layers.0."]);
        let starts = |name: &str| method.frozen().iter().any(|prefix| name.starts_with(prefix));
        let all = method.parameters().all().iter();
        let trained = |p: &&Parameter| p.trained == (!starts(&p.name) && p.role != Role::Buffer);
        assert_eq!(all.clone().filter(trained).count(), all.count());
        let found = method.objective(&rows(1, 1), &at(0)).unwrap();
        assert!(found.rows_gradient.abs().max().double_value(&[]) > 0.0);
    }

    #[test]
    fn layers_start_as_they_are_told() {
        let start = |name: &str| {
            let method = build(&format!("name = 'classifier'\ninitialization = '{name}'"), "", 1);
            ["weight", "bias"].map(|part| named(method.as_ref(), &format!("classifier.{part}")))
        };
        let most = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
        assert_eq!(start("zeros").map(|t| most(&t).to_bits()), [0, 0]);
        let [weight, bias] = start("normal");
        let deviation = weight.std(false).double_value(&[]);
        assert!((deviation / 0.01 - 1.0).abs() < 0.15 && most(&bias) == 0.0, "{deviation}");
        let [weight, bias] = start("pytorch");
        let bound = 1.0 / 8.0; // 64 features
        assert!(most(&weight) <= bound && most(&weight) > 0.9 * bound);
        assert!(most(&bias) <= bound && most(&bias) > 0.0);
    }

    #[test]
    fn images_of_several_classes_have_a_binary_cross_entropy_for_each() {
        use Presence::{Absent, Difficult, Present};
        let rows_of = [[Present, Absent, Present], [Difficult, Present, Absent], [Absent; 3]];
        let all = [rows_of, rows_of].concat().concat();
        let labels = Labels::Several(Arc::new(MultiLabels::new(CLASSES, all).unwrap()));
        let at = Step { labels: Some(&labels), ..step(0) };
        let method = build("name = 'classifier'", "", 1);
        let rows = rows(1, 1);
        let found = method.objective(&rows, &at).unwrap();
        let logits = &found.projections;
        let mut expected = 0.0;
        for image in 0..IMAGES {
            for (class, mark) in rows_of[image % 3].iter().enumerate() {
                let z = logits.double_value(&[image as i64, class as i64]);
                // A class that is only shown in a difficult way is learned as absent.
                expected += (1.0 + z.exp()).ln() - if *mark == Present { z } else { 0.0 };
            }
        }
        expected /= (IMAGES * CLASSES) as f64;
        assert!((found.loss - expected).abs() < 1e-12, "{} {expected}", found.loss);
        let mut held = head_gradients(method.as_ref());
        held.push(("rows", rows.online.shallow_clone(), found.rows_gradient));
        hold_slopes(&held, || method.objective(&rows, &at).unwrap().loss);
        let other = build("name = 'supcon'", "", 2);
        let error =
            other.objective(&super::super::testing::rows(2, 1), &at).unwrap_err().to_string();
        assert!(error.contains("supcon learns one class an image"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let text = refused("name = 'classifier'\ntap = 'g3'", "");
        assert!(
            text.contains("`method.tap` must be h or a layer of the projector, which has 2"),
            "{text}"
        );
        for wrong in ["g0", "z", "g", "g-1"] {
            let text = format!("name = 'classifier'\ntap = '{wrong}'");
            let error = toml::from_str::<super::super::Config>(&text).unwrap_err().to_string();
            assert!(
                error.contains("the tap must be h, or g1, g2") && error.contains(wrong),
                "{error}"
            );
        }
        let method = build("name = 'classifier'", "", 1);
        let error = method.objective(&rows(1, 1), &step(0)).unwrap_err().to_string();
        assert!(error.contains("method classifier learns from labels"), "{error}");
        assert!(matches!(method.objective(&rows(2, 1), &at(0)), Err(Error::Shape(_))));
    }
}
