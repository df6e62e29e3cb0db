//! A linear layer on a frozen backbone against logistic regression in plain arithmetic, and a teacher that stays.

use crate::made::{BATCH, CLASSES, Case, GROUP, config, copied, labels, plugins};
use diptych::augment::Views;
use diptych::model::Phase;
use diptych::train::{Precision, checkpoint};
use tch::{Device, Kind, Tensor};

fn case(name: &str, changes: &[&str]) -> Case {
    let config = config(name, changes);
    Case { label: name.to_owned(), config, plugins: plugins(""), main: false }
}

/// Hash of the tensors whose names begin so.
fn hash(case: &std::collections::BTreeMap<String, Tensor>, prefix: &str) -> String {
    let named = case.iter().filter(|(name, _)| name.starts_with(prefix));
    checkpoint::hash(named.map(|(name, tensor)| (name.as_str(), tensor)))
}

/// A layer of `CLASSES` rows, the bias behind the weights, and its momentum.
struct Layer {
    theta: Vec<f64>,
    velocity: Vec<f64>,
}

impl Layer {
    /// One step of SGD with momentum and decay on rows x with labels y.
    fn step(&mut self, x: &[Vec<f64>], y: &[u32], rate: f64, momentum: f64, decay: f64) {
        let width = x[0].len() + 1;
        let mut gradient = vec![0.0; self.theta.len()];
        for (x, y) in x.iter().zip(y) {
            let x: Vec<f64> = x.iter().copied().chain([1.0]).collect();
            let logit = |row: &[f64]| x.iter().zip(row).map(|(x, w)| x * w).sum::<f64>();
            let logits: Vec<f64> = self.theta.chunks(width).map(logit).collect();
            let total: f64 = logits.iter().map(|z| z.exp()).sum();
            for (class, part) in gradient.chunks_mut(width).enumerate() {
                let wanted = if class == *y as usize { 1.0 } else { 0.0 };
                let error = logits[class].exp() / total - wanted;
                part.iter_mut().zip(&x).for_each(|(g, x)| *g += error * x);
            }
        }
        for ((w, v), g) in self.theta.iter_mut().zip(&mut self.velocity).zip(gradient) {
            *v = momentum * *v + g / x.len() as f64 + decay * *w;
            *w -= rate * *v;
        }
    }
}

#[test]
fn on_a_frozen_backbone_it_is_logistic_regression_on_its_rows() {
    let case = case("classifier", &["frozen=true"]);
    let layout = case.layout(Precision::Float64, BATCH / 2, GROUP);
    let mut trained = case.trained(Precision::Float64, GROUP);
    let start = copied(&trained);
    let numbers = |tensor: &Tensor| Vec::<f64>::try_from(tensor.contiguous().view([-1])).unwrap();
    let width = trained.method.backbone().features() as usize;
    let (weight, bias) = (numbers(&start["classifier.weight"]), numbers(&start["classifier.bias"]));
    let theta: Vec<f64> = (0..CLASSES)
        .flat_map(|c| weight[c * width..(c + 1) * width].iter().copied().chain([bias[c]]))
        .collect();
    let mut layer = Layer { velocity: vec![0.0; theta.len()], theta };
    let steps = 5;
    for step in 0..steps {
        let batch = case.batch(step);
        let bytes = batch.bytes(0, case.side(0), 0, BATCH, Device::Cpu).unwrap();
        let images = (bytes.to_kind(Kind::Double) / 255.0 - 0.5) / 0.25;
        let images = images.permute([0, 3, 1, 2]);
        let rows = trained.method.backbone().forward(&images, Phase::Evaluation);
        let rows: Vec<Vec<f64>> = numbers(&rows).chunks(width).map(<[f64]>::to_vec).collect();
        let all = labels();
        let all = all.one().unwrap();
        let y: Vec<u32> = batch.indices.iter().map(|image| all[*image]).collect();
        layer.step(&rows, &y, 0.05, 0.9, 1e-4);
        case.train(&mut trained, step..step + 1, &layout);
        // Frozen is frozen, after every step.
        assert_eq!(hash(&copied(&trained), "backbone."), hash(&start, "backbone."));
    }
    let end = copied(&trained);
    let (weight, bias) = (numbers(&end["classifier.weight"]), numbers(&end["classifier.bias"]));
    let mut moved: f64 = 0.0;
    for (class, row) in layer.theta.chunks(width + 1).enumerate() {
        let found = weight[class * width..(class + 1) * width].iter().chain([&bias[class]]);
        for (found, expected) in found.zip(row) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        moved = moved.max((bias[class] - numbers(&start["classifier.bias"])[class]).abs());
    }
    assert!(moved > 1e-3, "nothing was learned");
}

#[test]
fn fine_tuning_moves_everything_below_the_layer() {
    let case = case("classifier", &["tap=g1", "projector.hidden=24"]);
    let layout = case.layout(Precision::Float32, BATCH, GROUP);
    let mut trained = case.trained(Precision::Float32, GROUP);
    let start = copied(&trained);
    case.train(&mut trained, 0..2, &layout);
    let end = copied(&trained);
    for (name, tensor) in &start {
        assert_ne!(*tensor, end[name], "`{name}` did not move");
    }
    assert!(start.keys().any(|name| name == "projector.layers.0.norm.running_mean"));
}

#[test]
fn a_student_moves_and_its_teacher_does_not() {
    let case = case("distill", &["temperature=2.0"]);
    let layout = case.layout(Precision::Float32, BATCH / 2, GROUP);
    let mut trained = case.trained(Precision::Float32, GROUP);
    let start = copied(&trained);
    case.train(&mut trained, 0..2, &layout);
    let end = copied(&trained);
    assert_eq!(hash(&end, "teacher."), hash(&start, "teacher."));
    assert_ne!(hash(&end, "backbone."), hash(&start, "backbone."));
    // It is not the student that gave the targets.
    assert_ne!(start["teacher.backbone.conv1.weight"], start["backbone.conv1.weight"]);
}
