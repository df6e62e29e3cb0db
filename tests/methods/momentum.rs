//! Networks that follow others.

use crate::hand::Named;
use crate::made::{BATCH, Case, GROUP, STEPS, at, config, labels};
use diptych::method::Config;
use diptych::method::momentum::MomentumSchedule;
use diptych::plugin::Plugins;
use diptych::train::Precision;

#[test]
fn the_momentum_rises_along_half_a_cosine() {
    let at = |progress| MomentumSchedule::Cosine.at([0.99, 1.0], progress);
    for (progress, expected) in [(0.0, 0.99), (1.0 / 3.0, 0.9925), (0.5, 0.995), (1.0, 1.0)] {
        assert!((at(progress) - expected).abs() < 1e-12, "{progress}");
    }
    assert!((MomentumSchedule::Constant.at([0.99, 1.0], 0.5) - 0.99).abs() < 1e-15);
    // solo-learn's MoCo v2.
    let at = |progress| MomentumSchedule::Cosine.at([0.99, 0.999], progress);
    for (progress, expected) in [(0.0, 0.99), (0.5, 0.9945), (1.0, 0.999)] {
        assert!((at(progress) - expected).abs() < 1e-12, "{progress}");
    }
}

#[test]
fn a_momentum_that_nothing_goes_to_is_refused() {
    let check = |name: &str, settings: &str| {
        let text = format!("name = '{name}'\n{settings}");
        let config: Config = toml::from_str(&text).unwrap();
        config.check(&Plugins::default()).map_err(|error| error.to_string())
    };
    for name in ["moco", "byol"] {
        let ends = "momentum_schedule = 'cosine'\nmomentum_end = 0.999";
        check(name, ends).unwrap();
        let constant = check(name, &ends.replace("cosine", "constant")).unwrap_err();
        assert!(constant.contains("`method.momentum_end`"), "{constant}");
        let beyond = check(name, &ends.replace("0.999", "1.5")).unwrap_err();
        assert!(beyond.starts_with("`method.momentum_end` must"), "{beyond}");
    }
}

#[test]
fn the_heads_of_byol_are_those_of_the_paper() {
    let Config::Byol(byol) = toml::from_str("name = 'byol'").unwrap() else { unreachable!() };
    // Counts of the official code less the 4,096 biases before the batch norm.
    assert_eq!(byol.projector.parameter_count(2048), 9_449_472 - 4096);
    assert_eq!(byol.predictor.parameter_count(256), 2_109_440 - 4096);
}

#[test]
fn what_follows_takes_its_share_of_the_weights_as_the_optimizer_left_them() {
    let schedule = |step: u64| {
        1.0 - 0.1 * ((std::f64::consts::PI * step as f64 / STEPS as f64).cos() + 1.0) / 2.0
    };
    let cases: [(&str, &[&str], bool); 4] = [
        ("moco", &["queue_length=24"], false),
        ("moco", &["queue_length=24", "momentum_schedule=cosine"], true),
        ("byol", &[], true),
        ("byol", &["momentum_schedule=constant", "target_start=own"], false),
    ];
    for (name, changes, rises) in cases {
        let momentum = |step: u64| if rises { schedule(step) } else { 0.9 };
        let sizes: &[&str] = &["momentum=0.9", "projector.hidden=24"];
        let config = config(name, &[sizes, changes].concat());
        let label = format!("{name} {changes:?}");
        let case = Case { label, config, plugins: Plugins::default(), main: true };
        let layout = case.layout(Precision::Float64, BATCH, GROUP);
        let mut trained = case.trained(Precision::Float64, GROUP);
        let start = Named::of(trained.method.as_ref());
        let copied = !changes.contains(&"target_start=own");
        for (name, follower) in start.iter() {
            let Some(leader) = name.strip_prefix("momentum.") else { continue };
            // Own weights are drawn, the rest starts at the same constants.
            let drawn = leader.ends_with("conv1.weight") || leader.ends_with("linear.weight");
            if copied || drawn {
                assert_eq!(start.get(leader) == follower, copied, "{}: {name}", case.label);
            }
        }
        for step in 0..4 {
            let found = case.gradient(trained.method.as_ref(), step, &layout);
            let before = Named::of(trained.method.as_ref());
            trained.optimizer.step(0.05);
            let stepped = Named::of(trained.method.as_ref());
            let (batch, labels) = (case.batch(step), labels());
            let at = at(step, &batch.indices, &labels, BATCH / GROUP);
            trained.method.after_step(&found.objective.carried, &at);
            let after = Named::of(trained.method.as_ref());
            let m = momentum(step);
            for (name, now) in after.iter() {
                let Some(leader) = name.strip_prefix("momentum.") else { continue };
                let expected = if leader.contains(".running_") {
                    // Statistics are the network's own; equal networks have equal ones on equal views.
                    assert!(step == 0 || stepped.get(leader) != now, "{name}");
                    before.get(name).copy()
                } else {
                    assert_ne!(before.get(leader), stepped.get(leader), "{name}");
                    before.get(name) * m + stepped.get(leader) * (1.0 - m)
                };
                let off = (now - expected).abs().max().double_value(&[]);
                assert!(off < 1e-12, "{} step {step}: {name} {off:e}", case.label);
            }
        }
    }
}
