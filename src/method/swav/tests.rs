//! `SwAV` against the method written out from its named tensors, and slopes.

use super::super::testing::{
    IMAGES, build, distance, head_gradients, hold_slopes, named, objective, projector, refused,
    rows, step, tensors,
};
use super::*;
use std::collections::VecDeque;
use tch::{Device, Kind};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

const SMALL: &str = "name = 'swav'\nprototypes = 5\nfreeze_prototypes_steps = 3\nqueue_start_epoch = 1\n\
                     projector = { hidden = 7, output = 4, output_batch_norm = 'none', initialization = 'pytorch' }\n";

/// The official code's codes: `Q` `[K, B]` scaled in turn, of which the last rows are the batch.
fn official_codes(scores: &Tensor, epsilon: f64, rounds: usize, batch: i64) -> Tensor {
    let mut q = (scores.detach() / epsilon).exp().tr();
    q = &q / q.sum(None);
    let (k, b) = (q.size()[0] as f64, q.size()[1] as f64);
    for _ in 0..rounds {
        q = &q / q.sum_dim_intlist(1, true, None) / k;
        q = &q / q.sum_dim_intlist(0, true, None) / b;
    }
    (q * b).tr().narrow(0, scores.size()[0] - batch, batch)
}

/// Unit embeddings of each view, from the named tensors.
fn embeddings(method: &dyn Method, rows: &Rows) -> Vec<Tensor> {
    let z = projector(method, 2, &rows.online.flatten(0, 1));
    (&z / z.square().sum_dim_intlist(1, true, None).sqrt()).split(IMAGES as i64, 0)
}

/// The loss of embeddings whose codes are these.
fn textbook(z: &[Tensor], prototypes: &Tensor, codes: &[Tensor]) -> f64 {
    let mut sum = 0.0;
    for (a, codes) in codes.iter().enumerate() {
        for (_, z) in z.iter().enumerate().filter(|(view, _)| *view != a) {
            let predicted = (z.matmul(&prototypes.tr()) / 0.1).softmax(1, None).log();
            sum -= (codes * predicted).sum(None).double_value(&[]);
        }
    }
    sum / (codes.len() * (z.len() - 1) * IMAGES) as f64
}

fn codes(z: &[Tensor], prototypes: &Tensor) -> Vec<Tensor> {
    let batch = IMAGES as i64;
    z.iter().map(|z| official_codes(&z.matmul(&prototypes.tr()), 0.05, 3, batch)).collect()
}

#[test]
fn the_objective_is_the_papers_and_gradients_are_its_slopes() {
    for (views, assigned) in [(2, 2), (2, 1), (4, 2), (3, 3)] {
        let settings = format!("{SMALL}assigned_crops = {assigned}");
        let method = build(&settings, "", views);
        let rows = rows(views as i64, 1);
        let found = objective(method.as_ref(), &rows, 3);
        let prototypes = named(method.as_ref(), "prototypes.weight");
        let codes = codes(&embeddings(method.as_ref(), &rows)[..assigned], &prototypes);
        // Codes are constants.
        let loss = || textbook(&embeddings(method.as_ref(), &rows), &prototypes, &codes);
        let expected = loss();
        assert!((found.loss - expected).abs() < 1e-11, "{} {expected}", found.loss);
        let mut gradients = head_gradients(method.as_ref());
        assert_eq!(gradients.len(), 2 + 1 + 2 + 1, "linear, norm, linear with bias, prototypes");
        gradients.push(("rows", rows.online.shallow_clone(), found.rows_gradient.copy()));
        hold_slopes(&gradients, loss);
    }
}

#[test]
fn prototypes_are_of_unit_length_and_frozen_at_the_start() {
    let method = build(SMALL, "", 2);
    let prototypes = named(method.as_ref(), "prototypes.weight");
    let lengths = || prototypes.square().sum_dim_intlist(1, false, None).sqrt();
    let unit = || assert!(distance(&lengths(), &Tensor::ones_like(&lengths())) < 1e-14);
    unit();
    let start = prototypes.detach().copy();
    for index in 0..4 {
        let found = objective(method.as_ref(), &rows(2, 2), index);
        assert_eq!(prototypes.detach(), start, "a step that may yet be left out");
        if index < 3 {
            // The optimizer leaves what has no gradient alone.
            assert!(!prototypes.grad().defined(), "step {index}");
            assert!(named(method.as_ref(), "projector.layers.1.linear.weight").grad().defined());
            method.after_step(&found.carried, &step(index));
            assert_eq!(prototypes.detach(), start);
        } else {
            assert!(prototypes.grad().abs().max().double_value(&[]) > 1e-3);
            let _ = no_grad(|| prototypes.shallow_clone().g_mul_scalar_(3.0));
            method.after_step(&found.carried, &step(index));
            unit();
            assert!(distance(&prototypes.detach(), &start) < 1e-14);
        }
    }
}

/// The official code's queue: the batch in front, the last rows out, in use once its last row is not zero.
#[test]
fn codes_see_the_queue_of_earlier_steps_once_it_is_full() {
    let method = build(&format!("{SMALL}queue_length = 12"), "", 3);
    let mut queues = [0, 1].map(|_| VecDeque::from([0, 1].map(|_| Tensor::zeros([6, 4], DOUBLE))));
    let mut used = Vec::new();
    for index in 8..16 {
        let rows = rows(3, index);
        let found = objective(method.as_ref(), &rows, index);
        let prototypes = named(method.as_ref(), "prototypes.weight");
        let z = embeddings(method.as_ref(), &rows);
        let full = queues[0][1].abs().sum(None).double_value(&[]) > 0.0;
        used.push(full);
        let codes: Vec<Tensor> = queues
            .iter_mut()
            .zip(&z)
            .map(|(queue, z)| {
                let mut all: Vec<Tensor> =
                    if full { queue.iter().map(Tensor::shallow_clone).collect() } else { vec![] };
                all.push(z.shallow_clone());
                let scores = Tensor::cat(&all, 0).matmul(&prototypes.tr());
                official_codes(&scores, 0.05, 3, IMAGES as i64)
            })
            .collect();
        let expected = textbook(&z, &prototypes, &codes);
        assert!((found.loss - expected).abs() < 1e-11, "{index}: {} {expected}", found.loss);
        method.after_step(&found.carried, &step(index));
        // Ten steps are an epoch, and the queue starts with the second.
        if index >= 10 {
            for (queue, z) in queues.iter_mut().zip(&z) {
                queue.push_front(z.detach());
                let _ = queue.pop_back();
            }
        }
        // A step moves the prototypes; the queue is compared with those of now.
        no_grad(|| prototypes.shallow_clone().copy_(&prototypes.roll(1, 1)));
    }
    assert_eq!(used, [false, false, false, false, true, true, true, true]);
}

#[test]
fn everything_that_moves_is_named_and_goes_on_where_it_was() {
    let settings = format!("{SMALL}queue_length = 8");
    let (first, second) = (build(&settings, "", 2), build(&settings, "", 2));
    let taken = |method: &dyn Method, index| {
        let found = objective(method, &rows(2, index), index);
        // For an optimizer.
        let prototypes = named(method, "prototypes.weight");
        let _ = no_grad(|| prototypes.shallow_clone().g_add_scalar_(0.1));
        method.after_step(&found.carried, &step(index));
        found.loss
    };
    let before = tensors(first.as_ref());
    for index in 10..13 {
        let _ = taken(first.as_ref(), index);
    }
    let after = tensors(first.as_ref());
    let moved: Vec<&str> = after
        .iter()
        .filter(|(name, tensor)| **tensor != before[*name] && !name.contains("running"))
        .map(|(name, _)| name.as_str())
        .collect();
    let queues = ["queue.0.pointer", "queue.0.rows", "queue.1.pointer", "queue.1.rows"];
    assert_eq!(moved, [["prototypes.weight"].as_slice(), &queues].concat());
    second.parameters().load(&after).unwrap();
    assert_eq!(taken(first.as_ref(), 13).to_bits(), taken(second.as_ref(), 13).to_bits());
}

#[test]
fn mixed_embeddings_are_scored_and_the_queue_gets_the_original_ones() {
    let plugins = "feature_transformation = { start_epoch = 1 }";
    let method = build(&format!("{SMALL}queue_length = 60"), plugins, 3);
    let config: Plugins = toml::from_str(plugins).unwrap();
    let rows = rows(3, 1);
    for (index, mixed) in [(9, false), (10, true)] {
        let found = objective(method.as_ref(), &rows, index);
        let prototypes = named(method.as_ref(), "prototypes.weight");
        let mut z = embeddings(method.as_ref(), &rows);
        for (carried, z) in found.carried.iter().zip(&z) {
            assert!(distance(carried, z) < 1e-13);
        }
        assert_eq!(found.carried.len(), 2);
        if mixed {
            let plugin = config.feature_transformation.as_ref().unwrap();
            let mut stream = step(index).stream(Purpose::Mix, 0);
            let before = z[0].copy();
            (z[0], z[1]) = plugin.crops(&z[0], &z[1], &mut stream).unwrap();
            assert!(distance(&before, &z[0]) > 1e-2);
        }
        let expected = textbook(&z, &prototypes, &codes(&z[..2], &prototypes));
        assert!((found.loss - expected).abs() < 1e-11, "{} {expected}", found.loss);
    }
}

#[test]
fn groups_of_images_add_their_loss() {
    let plugins = "cross_level = { groups = 2, weight = 0.5 }";
    let (method, without) = (build(SMALL, plugins, 3), build(SMALL, "", 3));
    let with = objective(method.as_ref(), &rows(3, 3), 0);
    let more = with.scalars.iter().find(|(name, _)| name == "cross_level_loss").unwrap().1;
    let alone = objective(without.as_ref(), &rows(3, 3), 0).loss;
    assert!(more > 0.1 && (with.loss - alone - 0.5 * more).abs() < 1e-12);
    assert!(method.stuck_at(6).is_none());
}

#[test]
fn a_collapsed_network_has_the_told_loss_and_uses_one_prototype() {
    let method = build(SMALL, "", 2);
    let usage = |found: &Objective| {
        found.scalars.iter().find(|(name, _)| name == "prototype_usage").unwrap().1
    };
    let healthy = usage(&objective(method.as_ref(), &rows(2, 2), 0));
    assert!((0.4..=1.0).contains(&healthy), "{healthy}");
    for name in ["weight", "bias"] {
        let last = named(method.as_ref(), &format!("projector.layers.1.linear.{name}"));
        let _ = no_grad(|| last.shallow_clone().zero_());
    }
    let found = objective(method.as_ref(), &rows(2, 2), 0);
    let told = method.stuck_at(6).unwrap().value;
    assert!((found.loss - told).abs() < 1e-12 && (told - 5.0f64.ln()).abs() < 1e-12);
    assert!((usage(&found) - 0.2).abs() < 1e-12);
    // Of a thousand prototypes twelve rows can use twelve.
    let many = build(&SMALL.replace("prototypes = 5", "prototypes = 1000"), "", 2);
    let found = usage(&objective(many.as_ref(), &rows(2, 2), 0));
    assert!((0.4..=1.0).contains(&found), "{found}");
}

#[test]
fn every_view_counts_and_what_does_not_fit_is_refused() {
    let config = Config::default();
    let views = |config: &Config, made| config.wiring(&Plugins::default(), made).online.len();
    assert_eq!([0, 2, 8].map(|made| views(&config, made)), [2, 2, 8]);
    assert_eq!(views(&Config { assigned_crops: 3, ..config.clone() }, 2), 3);
    // Table 3.2 of the published heads has 2048 biases more, in front of the batch norm.
    assert_eq!(config.projector.parameter_count(2048), 4_462_720 - 2048);
    let found = |setting: &str| refused(&format!("name = 'swav'\n{setting}"), "");
    for (setting, key) in [
        ("temperature = 0.0", "method.temperature"),
        ("epsilon = -1.0", "method.epsilon"),
        ("prototypes = 1", "method.prototypes"),
        ("sinkhorn_iterations = 1001", "method.sinkhorn_iterations"),
        ("assigned_crops = 0", "method.assigned_crops"),
        ("queue_length = 16777217", "method.queue_length"),
        ("projector = { output = 0 }", "method.projector.output"),
    ] {
        let message = found(setting);
        assert!(message.starts_with(&format!("`{key}` must")), "{message}");
    }
    let message = refused(SMALL, "guided_stop_gradient = {}");
    assert!(message.contains("does not go with method swav: what is predicted"), "{message}");
    let message = refused(SMALL, "feature_transformation = { positive = 'none' }");
    assert!(message.starts_with("`plugins.feature_transformation.positive` must"), "{message}");
    let suspects = |setting: &str| build(&format!("{SMALL}{setting}"), "", 2).suspects();
    assert_eq!(suspects("sinkhorn_iterations = 0"), ["`method.sinkhorn_iterations = 0`"]);
    assert!(suspects("").is_empty());
}
