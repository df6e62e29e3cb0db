//! Optimizers against PyTorch, lightly and the rules written out in `tests/golden/optim.py`.

use super::*;
use crate::model::Role;
use crate::train::checkpoint;
use crate::train::journal::Journal;
use std::collections::HashMap;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/optim.safetensors");
const NAMES: [&str; 5] = ["kernel", "matrix", "bias", "scale", "shift"];

fn golden() -> HashMap<String, Tensor> {
    Tensor::read_safetensors(GOLDEN).unwrap().into_iter().collect()
}

/// A network of the golden file's tensors at their starting values, and one running mean.
fn network(golden: &HashMap<String, Tensor>) -> Parameters {
    network_of(golden, Kind::Double)
}

fn network_of(golden: &HashMap<String, Tensor>, kind: Kind) -> Parameters {
    let mut parameters = Parameters::new(0, Device::Cpu, kind);
    let roles = [Role::Weight, Role::Weight, Role::Bias, Role::NormScale, Role::NormShift];
    let mut values = BTreeMap::new();
    for (name, role) in NAMES.iter().zip(roles) {
        let start = &golden[&format!("{name}.start")];
        let _ = parameters.root().at("net").add(name, role, &start.size(), |_| 0.0);
        values.insert(format!("net.{name}"), start.shallow_clone());
    }
    let _ = parameters.root().at("net").add("mean", Role::Buffer, &[2], |_| 0.0);
    values.insert("net.mean".to_owned(), Tensor::from_slice(&[1.0, 2.0]));
    parameters.load(&values).unwrap();
    parameters
}

fn set_gradients(parameters: &Parameters, golden: &HashMap<String, Tensor>, step: usize) {
    parameters.zero_grad();
    for (parameter, name) in parameters.trainable().zip(NAMES) {
        let gradient = &golden[&format!("{name}.gradient.{step}")];
        (&parameter.tensor * gradient).sum(None).backward();
    }
}

fn rates(golden: &HashMap<String, Tensor>) -> Vec<f64> {
    Vec::try_from(&golden["rates"]).unwrap()
}

fn config(text: &str) -> OptimizerConfig {
    let config: OptimizerConfig = toml::from_str(text).unwrap();
    config.check().unwrap();
    config
}

/// All steps of the golden file, in f64 to the stored digits and in f32 to its rounding.
fn run(text: &str, case: &str) {
    run_with(|parameters| Optimizer::new(config(text), parameters), case);
}

fn run_with(make: impl Fn(&Parameters) -> Optimizer, case: &str) {
    let golden = golden();
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-5)] {
        let parameters = network_of(&golden, kind);
        let mut optimizer = make(&parameters);
        for (step, rate) in rates(&golden).into_iter().enumerate() {
            set_gradients(&parameters, &golden, step);
            optimizer.step(rate);
        }
        for (parameter, name) in parameters.trainable().zip(NAMES) {
            let expected = &golden[&format!("{case}.{name}")];
            let size = expected.abs().max().double_value(&[]).max(1.0);
            let off = (&parameter.tensor - expected).abs().max().double_value(&[]) / size;
            assert!(off < tolerance, "{case}.{name} in {kind:?} is off by {off}");
            assert_eq!(parameter.tensor.kind(), kind);
        }
        let mean = &parameters.all()[NAMES.len()].tensor;
        assert_eq!(mean.to_kind(Kind::Double), Tensor::from_slice(&[1.0, 2.0]), "a buffer moved");
    }
}

#[test]
fn sgd_equals_pytorch() {
    let sgd = "name = 'sgd'\nlearning_rate = 1.0\n";
    run(&format!("{sgd} momentum = 0.0\n weight_decay = 0.0"), "sgd.plain");
    run(&format!("{sgd} weight_decay = 0.1"), "sgd.decayed");
    run(&format!("{sgd} weight_decay = 0.1\n nesterov = true"), "sgd.nesterov");
}

fn starts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn held_parameters_keep_their_learning_rate_as_a_group_of_pytorch_does() {
    let text = "name = 'sgd'\nlearning_rate = 1.0\nweight_decay = 0.1";
    let held = starts(&["net.mat", "net.scale"]);
    run_with(|p| Optimizer::new(config(text), p).hold(&held, 0.5).unwrap(), "sgd.held");
    // None of them is nothing at all.
    run_with(|p| Optimizer::new(config(text), p).hold(&[], 0.5).unwrap(), "sgd.decayed");
}

#[test]
fn biases_may_have_a_learning_rate_of_their_own() {
    let sgd = "name = 'sgd'\nlearning_rate = 2.0\nbias_learning_rate = 0.5\nweight_decay = 0.1";
    run(&format!("{sgd}\nnesterov = true"), "sgd.bias");
    let lars = "name = 'lars'\nform = 'byol'\nlearning_rate = 0.2\nweight_decay = 0.1";
    run(&format!("{lars}\nbias_learning_rate = 0.0048"), "lars.barlow");
    // That of the others is none.
    run(&format!("{lars}\nbias_learning_rate = 0.2"), "lars.byol");
    // A bias that is held is so at its own rate.
    let golden = golden();
    let parameters = network(&golden);
    parameters.all()[2].tensor.sum(None).backward();
    let plain = sgd.replace("weight_decay = 0.1", "weight_decay = 0.0");
    let held = starts(&["net."]);
    Optimizer::new(config(&plain), &parameters).hold(&held, 0.8).unwrap().step(0.1);
    let expected = &golden["bias.start"] - 0.8 * 0.25;
    assert!((&parameters.all()[2].tensor - expected).abs().max().double_value(&[]) < 1e-12);
}

#[test]
fn a_name_to_hold_that_no_parameter_has_is_refused() {
    let golden = golden();
    let mut parameters = network(&golden);
    let _ = parameters.root().at("predictor").add("weight", Role::Weight, &[2], |_| 0.0);
    let text = "name = 'sgd'\nlearning_rate = 1.0\nweight_decay = 0.1";
    let hold = |names: &[&str]| {
        Optimizer::new(config(text), &parameters).hold(&starts(names), 0.5).map(|_| ())
    };
    assert!(hold(&["predictor.", "net.kernel"]).is_ok());
    // A running mean is no parameter.
    for (names, wrong) in [(["net.", "predictr."], "predictr."), (["net.mean", "net."], "net.mean")]
    {
        let error = hold(&names).unwrap_err();
        assert!(matches!(error, Error::Recipe(_)));
        assert_eq!(
            error.to_string(),
            format!(
                "`train.schedule.constant`: no parameter's name starts with `{wrong}`; \
                 they start with `net.`, `predictor.`"
            )
        );
    }
}

#[test]
fn adam_equals_pytorch() {
    let adam = "name = 'adam'\nlearning_rate = 1.0\n";
    run(&format!("{adam} weight_decay = 0.0"), "adam.plain");
    let settings = "betas = [0.8, 0.95]\nepsilon = 1e-3\nweight_decay = 0.1";
    run(&format!("{adam} {settings}"), "adam.decayed");
    run("name = 'adamw'\nlearning_rate = 1.0\nweight_decay = 0.1", "adamw");
}

#[test]
fn lars_equals_the_published_rules() {
    let lars = "name = 'lars'\nlearning_rate = 1.0\nweight_decay = 0.1\n";
    for (settings, case) in [
        ("", "lars.bn_bias"),
        ("exclude = 'ndim1'", "lars.bn_bias"),
        ("exclude = 'none'", "lars.none"),
        ("form = 'popular'", "lars.popular"),
        ("form = 'popular'\nexclude = 'none'", "lars.popular.none"),
        ("form = 'byol'", "lars.byol"),
        ("form = 'byol'\nexclude = 'none'", "lars.byol.none"),
        ("form = 'lightly'", "lars.lightly"),
        ("form = 'solo'", "lars.solo"),
        ("form = 'solo'\ntrust = 0.5\nclip = false", "lars.solo.unclipped"),
        ("form = 'larc'", "lars.larc"),
        ("form = 'larc'\ntrust = 0.02\nclip = true", "lars.larc.clipped"),
    ] {
        run(&format!("{lars} {settings}"), case);
    }
    let undecayed = lars.replace("0.1", "0.0");
    run(&format!("{undecayed} form = 'lightly'\nexclude = 'none'"), "lars.lightly.undecayed");
}

#[test]
fn the_published_step_of_lars_is_met() {
    let mut parameters = Parameters::new(0, Device::Cpu, Kind::Double);
    let mut values = [3.0, 4.0].into_iter();
    let weight = parameters.root().add("w", Role::Weight, &[2], |_| values.next().unwrap());
    (&weight * Tensor::from_slice(&[0.6, 0.8])).sum(None).backward();
    let text = "name = 'lars'\nlearning_rate = 1.0\nweight_decay = 0.1";
    Optimizer::new(config(text), &parameters).step(1.0);
    let off = (weight - Tensor::from_slice(&[2.997, 3.996])).abs().max().double_value(&[]);
    assert!(off < 1e-12);
}

#[test]
fn lars_moves_a_classifier_by_the_plain_rule_in_the_forms_of_simclr() {
    let moved = |name: &str, form: &str| {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Double);
        let weight = parameters.root().at(name).add("weight", Role::Weight, &[2], |_| 2.0);
        (&weight * Tensor::from_slice(&[1.0, 3.0])).sum(None).backward();
        let text =
            format!("name = 'lars'\nform = '{form}'\nlearning_rate = 1.0\nweight_decay = 0.1");
        Optimizer::new(config(&text), &parameters).step(0.5);
        Vec::<f64>::try_from(weight.detach()).unwrap()
    };
    for form in ["tf", "popular"] {
        // w − lr (g + wd·w), without the trust that the backbone's weight has.
        for (found, expected) in moved("classifier", form).into_iter().zip([1.4, 0.4]) {
            assert!((found - expected).abs() < 1e-12, "{form}: {found}");
        }
        assert_ne!(moved("backbone", form), moved("classifier", form), "{form}");
    }
    for form in ["byol", "lightly", "solo", "larc"] {
        assert_eq!(moved("backbone", form), moved("classifier", form), "{form}");
    }
}

#[test]
fn excluded_parameters_do_not_decay() {
    let golden = golden();
    for (exclude, expected) in [
        ("none", [true; 5]),
        ("bn", [true, true, true, false, false]),
        ("bn_bias", [true, true, false, false, false]),
        ("ndim1", [true, true, false, false, false]),
    ] {
        let parameters = network(&golden);
        // A gradient of zeros: only decay can move a weight.
        for parameter in parameters.trainable() {
            (&parameter.tensor * 0.0).sum(None).backward();
        }
        let text =
            format!("name = 'sgd'\nlearning_rate = 1.0\nweight_decay = 0.1\nexclude = '{exclude}'");
        Optimizer::new(config(&text), &parameters).step(1.0);
        for ((parameter, name), decays) in parameters.trainable().zip(NAMES).zip(expected) {
            let share = if decays { 0.9 } else { 1.0 };
            let off = &parameter.tensor - &golden[&format!("{name}.start")] * share;
            assert!(off.abs().max().double_value(&[]) < 1e-12, "{exclude} {name}");
        }
    }
}

#[test]
fn a_parameter_without_a_gradient_stays() {
    let golden = golden();
    for name in ["sgd", "lars", "adam", "adamw"] {
        let parameters = network(&golden);
        let text = format!("name = '{name}'\nlearning_rate = 1.0\nweight_decay = 0.1");
        let mut optimizer = Optimizer::new(config(&text), &parameters);
        let moved = &parameters.all()[0].tensor;
        moved.sum(None).backward();
        optimizer.step(0.1);
        assert_ne!(moved, &golden["kernel.start"]);
        assert_eq!(parameters.all()[1].tensor, golden["matrix.start"]);
    }
}

#[test]
fn stopping_and_loading_the_state_changes_no_bit() {
    let golden = golden();
    for name in ["sgd", "lars", "adam", "adamw"] {
        let text = format!("name = '{name}'\nlearning_rate = 1.0\nweight_decay = 0.1");
        let steady = network(&golden);
        let mut optimizer = Optimizer::new(config(&text), &steady);
        let mut resumed = network(&golden);
        for (step, rate) in rates(&golden).into_iter().enumerate() {
            set_gradients(&steady, &golden, step);
            optimizer.step(rate);
            if step == 2 {
                // Copies, as a checkpoint on disk would be.
                let copy = |(name, tensor): (String, Tensor)| (name, tensor.copy());
                let state: BTreeMap<_, _> = optimizer.state().into_iter().map(copy).collect();
                let weights = steady.all().iter();
                let weights: BTreeMap<_, _> =
                    weights.map(|p| (p.name.clone(), p.tensor.detach().copy())).collect();
                resumed = network(&golden);
                resumed.load(&weights).unwrap();
                let mut other = Optimizer::new(config(&text), &resumed);
                other.load_state(&state).unwrap();
                for (step, rate) in rates(&golden).into_iter().enumerate().skip(3) {
                    set_gradients(&resumed, &golden, step);
                    other.step(rate);
                }
            }
        }
        for (steady, resumed) in steady.trainable().zip(resumed.trainable()) {
            assert_eq!(steady.tensor, resumed.tensor, "{name} {}", steady.name);
        }
    }
}

#[test]
fn the_moments_and_the_step_count_survive_a_checkpoint() {
    let golden = golden();
    let parameters = network(&golden);
    let text = "name = 'adam'\nlearning_rate = 1.0\nweight_decay = 0.0";
    let mut optimizer = Optimizer::new(config(text), &parameters);
    for step in 0..3 {
        set_gradients(&parameters, &golden, step);
        optimizer.step(0.1);
    }
    let state: BTreeMap<String, Tensor> = optimizer.state().into_iter().collect();
    assert_eq!(state.len(), 3 * NAMES.len());
    let kernel = |what: &str| &state[&format!("optimizer.net.kernel.{what}")];
    for moment in ["first_moment", "second_moment"] {
        assert_eq!(kernel(moment).stride(), parameters.all()[0].tensor.stride());
    }
    assert_eq!((kernel("steps").kind(), kernel("steps").int64_value(&[])), (Kind::Int64, 3));

    let folder = tempfile::tempdir().unwrap();
    checkpoint::save(folder.path(), 3, (&serde_json::json!({}), &Journal::default()), &state)
        .unwrap();
    let found = checkpoint::load(&folder.path().join("last.safetensors")).unwrap();
    let mut other = Optimizer::new(config(text), &network(&golden));
    other.load_state(&found.tensors).unwrap();
    assert_eq!(other.state().into_iter().collect::<BTreeMap<_, _>>(), state);
    let sgd = "name = 'sgd'\nlearning_rate = 1.0\nweight_decay = 0.0";
    let mut other = Optimizer::new(config(sgd), &parameters);
    let message = other.load_state(&found.tensors).unwrap_err().to_string();
    assert_eq!(message, "no tensor named `optimizer.net.kernel.momentum`");
}

#[test]
fn state_is_named_lies_like_its_weight_and_must_fit() {
    let golden = golden();
    let parameters = network(&golden);
    let text = "name = 'sgd'\nlearning_rate = 1.0\nweight_decay = 0.1";
    let mut optimizer = Optimizer::new(config(text), &parameters);
    let state = optimizer.state();
    assert_eq!(state.len(), NAMES.len());
    assert_eq!(state[0].0, "optimizer.net.kernel.momentum");
    for ((_, momentum), parameter) in state.iter().zip(parameters.trainable()) {
        assert_eq!(momentum.stride(), parameter.tensor.stride());
        assert!(!momentum.requires_grad());
    }
    let mut values: BTreeMap<_, _> =
        state.iter().map(|(name, tensor)| (name.clone(), tensor.ones_like())).collect();
    let bias = values.remove("optimizer.net.bias.momentum").unwrap();
    let message = optimizer.load_state(&values).unwrap_err().to_string();
    assert_eq!(message, "no tensor named `optimizer.net.bias.momentum`");
    values.insert("optimizer.net.bias.momentum".to_owned(), bias.narrow(0, 0, 2));
    let message = optimizer.load_state(&values).unwrap_err().to_string();
    assert!(message.contains("must have shape [4], found [2]"), "{message}");
    for (_, momentum) in &state {
        assert!(momentum.abs().max().double_value(&[]) < f64::MIN_POSITIVE, "changed anyway");
    }
}

#[test]
fn the_gradient_norm_sees_every_gradient_and_every_nan() {
    let golden = golden();
    let parameters = network(&golden);
    assert!(gradient_norm(&parameters) < f64::MIN_POSITIVE);
    set_gradients(&parameters, &golden, 0);
    let squares = NAMES.iter().map(|name| {
        let values: Vec<f64> =
            Vec::try_from(golden[&format!("{name}.gradient.0")].flatten(0, -1)).unwrap();
        values.iter().map(|value| value * value).sum::<f64>()
    });
    let expected = squares.sum::<f64>().sqrt();
    assert!((gradient_norm(&parameters) - expected).abs() < 1e-12);
    for wrong in [f64::NAN, f64::NEG_INFINITY] {
        let _ = parameters.all()[2].tensor.grad().get(1).fill_(wrong);
        assert!(!gradient_norm(&parameters).is_finite());
    }
}

#[test]
fn a_large_finite_gradient_has_a_finite_norm() {
    let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
    let weight = parameters.root().add("w", Role::Weight, &[4], |_| 1.0);
    (weight * 1e30).sum(None).backward();
    assert!((gradient_norm(&parameters) / 2e30 - 1.0).abs() < 1e-6);
}

#[test]
fn the_learning_rate_follows_the_batch() {
    let peak = |text: &str, batch| config(text).peak_learning_rate(batch);
    let lars = "name = 'lars'\nweight_decay = 1e-6\n";
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12);
    close(peak(&format!("{lars} learning_rate = 0.3"), 4096), 4.8);
    close(peak(&format!("{lars} learning_rate = 0.075\n scaling = 'sqrt'"), 4096), 4.8);
    let sgd = "name = 'sgd'\nweight_decay = 1e-4\n";
    close(peak(&format!("{sgd} learning_rate = 0.03\n scaling = 'none'"), 512), 0.03);
    close(peak(&format!("{sgd} learning_rate = 0.06"), 512), 0.12);
}

#[test]
fn the_layer_of_a_classifier_moves_at_its_own_rate_and_nothing_else_does() {
    let rate = 0.01;
    for multiplier in [1.0, 10.0, 100.0] {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Double);
        let names =
            [("backbone", Role::Weight), ("classifier", Role::Weight), ("classifier", Role::Bias)];
        for (place, role) in names {
            let name = format!("{role:?}").to_lowercase();
            let _ = parameters.root().at(place).add(&name, role, &[2], |_| 1.0);
        }
        let settings = format!(
            "name = 'sgd'\nlearning_rate = {rate}\nbias_learning_rate = 0.5\nscaling = 'none'\nmomentum = 0.9\n\
             weight_decay = 0.0\nclassifier_learning_rate = {}",
            rate * multiplier
        );
        let mut optimizer = Optimizer::new(config(&settings), &parameters);
        let gradient = 2.0;
        for learning_rate in [rate, rate / 5.0] {
            parameters.zero_grad();
            for parameter in parameters.trainable() {
                (&parameter.tensor * gradient).sum(None).backward();
            }
            optimizer.step(learning_rate);
        }
        // v1 = g, v2 = 1.9 g; the second step has a fifth of the rate.
        let path = gradient * rate * (1.0 + 1.9 / 5.0);
        for (parameter, share) in parameters.all().iter().zip([1.0, multiplier, multiplier]) {
            let expected = 1.0 - share * path;
            let found = parameter.tensor.double_value(&[1]);
            assert!((found - expected).abs() < 1e-12, "{}: {found} {expected}", parameter.name);
        }
    }
}

#[test]
fn settings_out_of_range_or_unknown_are_refused() {
    let sgd = "name = 'sgd'\nlearning_rate = 0.1\nweight_decay = 0.0\n";
    let lars = "name = 'lars'\nlearning_rate = 0.1\nweight_decay = 0.0\n";
    let adam = "name = 'adam'\nlearning_rate = 0.1\nweight_decay = 0.0\n";
    for (text, part) in [
        (format!("{sgd} momentum = 1.0"), "momentum` must be in [0, 1), found `1`"),
        (format!("{sgd} momentum = 0.0\n nesterov = true"), "above 0 for `nesterov`"),
        (
            format!("{sgd} bias_learning_rate = 0.0"),
            "bias_learning_rate` must be above 0, found `0`",
        ),
        (format!("{lars} bias_learning_rate = -1.0"), "bias_learning_rate` must be above 0"),
        (
            format!("{sgd} classifier_learning_rate = 0.0"),
            "classifier_learning_rate` must be above 0",
        ),
        (format!("{lars} trust = -0.1"), "trust` must be above 0, found `-0.1`"),
        (format!("{lars} clip = true"), "clip` must be false, except with `form` solo or larc"),
        (format!("{adam} betas = [0.9, 1.0]"), "betas[1]` must be in [0, 1), found `1`"),
        (format!("{adam} epsilon = 0.0"), "epsilon` must be above 0, found `0`"),
        (sgd.replace("0.1", "nan"), "learning_rate` must be above 0"),
        (sgd.replace("decay = 0.0", "decay = -1.0"), "weight_decay` must be at least 0"),
    ] {
        let config: OptimizerConfig = toml::from_str(&text).unwrap();
        let message = config.check().unwrap_err().to_string();
        assert!(message.starts_with("`train.optimizer.") && message.contains(part), "{message}");
    }
    for (text, part) in [
        (format!("{adam} bias_learning_rate = 0.1"), "unknown field `bias_learning_rate`"),
        (format!("{sgd} trust = 0.1"), "unknown field `trust`"),
        ("name = 'sgd'\nweight_decay = 0.0".to_owned(), "missing field `learning_rate`"),
        (sgd.replace("sgd", "adamax"), "unknown variant `adamax`"),
        (format!("{lars} form = 'spij'"), "unknown variant `spij`"),
        (format!("{lars} eta = 0.02"), "unknown field `eta`"),
    ] {
        let message = toml::from_str::<OptimizerConfig>(&text).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_written_config_reads_back_with_every_default_spelt_out() {
    let lars = config("name = 'lars'\nlearning_rate = 0.3\nweight_decay = 1e-6");
    let text = toml::to_string(&lars).unwrap();
    for line in
        ["name = \"lars\"", "scaling = \"linear\"", "trust = 0.001", "exclude = \"bn_bias\""]
    {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(config(&text), lars);
    assert!(!text.contains("bias_learning_rate"), "{text}");
    let barlow = config(&format!("{text}bias_learning_rate = 0.0048"));
    assert_eq!(config(&toml::to_string(&barlow).unwrap()), barlow);
    assert_ne!(barlow, lars);
    let solo = config("name = 'lars'\nform = 'solo'\nlearning_rate = 0.3\nweight_decay = 1e-5");
    let text = toml::to_string(&solo).unwrap();
    for line in ["form = \"solo\"", "trust = 0.02", "clip = true", "exclude = \"bn_bias\""] {
        assert!(text.contains(line), "{text}");
    }
    let larc = "name = 'lars'\nform = 'larc'\nlearning_rate = 0.3\nweight_decay = 1e-5";
    assert!(toml::to_string(&config(larc)).unwrap().contains("exclude = \"none\""));
    let adam = config("name = 'adamw'\nlearning_rate = 1e-3\nweight_decay = 0.05");
    assert_eq!(config(&toml::to_string(&adam).unwrap()), adam);
}
