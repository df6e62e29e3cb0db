//! Schedules against the arrays of `tests/golden/optim.py`.

use super::*;
use tch::Tensor;

fn config(text: &str) -> ScheduleConfig {
    let config: ScheduleConfig = toml::from_str(text).unwrap();
    config.check().unwrap();
    config
}

fn golden(name: &str) -> Vec<f64> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/optim.safetensors");
    let arrays = Tensor::read_safetensors(path).unwrap();
    let (_, rates) = arrays.into_iter().find(|(found, _)| found == name).unwrap();
    Vec::try_from(rates).unwrap()
}

fn follows(schedule: &Schedule, stride: u64, expected: &[f64]) {
    for (index, expected) in expected.iter().enumerate() {
        for step in index as u64 * stride..(index as u64 + 1) * stride {
            let found = schedule.at(step);
            assert!((found - expected).abs() < 1e-12, "step {step}: {found}, not {expected}");
        }
    }
}

#[test]
fn cosine_equals_the_official_simclr_code() {
    let cosine = config("name = 'cosine'\nwarmup_epochs = 3");
    follows(&Schedule::new(cosine, 4.8, 10, 110), 1, &golden("schedule.cosine_tf"));
    let cosine = config("name = 'cosine'\nwarmup_epochs = 10");
    let schedule = Schedule::new(cosine, 1.0, 1, 110);
    assert!((schedule.at(60) - 0.5).abs() < 1e-15);
    assert!(schedule.at(0).abs() < f64::MIN_POSITIVE && (schedule.at(10) - 1.0).abs() < 1e-15);
}

#[test]
fn cosine_and_steps_equal_pytorch() {
    let laid = |text: &str, per_epoch, total| Schedule::new(config(text), 0.3, per_epoch, total);
    follows(&laid("name = 'cosine'", 5, 60), 1, &golden("schedule.cosine_step"));
    let last = "name = 'cosine'\nfinal_fraction = 0.01";
    follows(&laid(last, 5, 60), 1, &golden("schedule.cosine_final"));
    let epochs = "name = 'cosine'\nper = 'epoch'";
    follows(&laid(epochs, 7, 84), 7, &golden("schedule.cosine_epoch"));
    let steps = "name = 'steps'\nmilestones_epochs = [6, 9]";
    follows(&laid(steps, 7, 84), 7, &golden("schedule.steps"));
}

/// The table of [`ScheduleConfig`], row by row: 12 epochs of 5 steps, 3 of them warm-up, peak 0.3.
#[test]
fn every_published_schedule_has_its_settings() {
    for (published, settings) in [
        ("simclr_v2", "warmup_fraction = 0.05"),
        ("byol", "warmup_epochs = 3"),
        ("barlow", "warmup_epochs = 3\nfinal_fraction = 0.001"),
        ("moco", "per = 'epoch'"),
        ("moco_demo", "per = 'epoch'\ndecay_ends = 'last'"),
        ("pycontrast", "per = 'epoch'\ndecay_ends = 'last'\nfinal_fraction = 0.001"),
        (
            "pycontrast_warm",
            "per = 'epoch'\ndecay_ends = 'last'\nfinal_fraction = 0.001\nwarmup_epochs = 3\n\
             warmup_start_learning_rate = 0.01\ndecay_over = 'run'",
        ),
        ("cld", "warmup_epochs = 3\nwarmup_start_fraction = 0.01\nfinal_learning_rate = 1e-6"),
        (
            "lightly",
            "warmup_epochs = 3\nwarmup_ends = 'last'\ndecay_ends = 'both'\nfinal_fraction = 0.001",
        ),
        (
            "lightly_vicreg",
            "warmup_epochs = 3\nwarmup_ends = 'last'\ndecay_ends = 'both'\nfinal_fraction = 0.01",
        ),
        ("lightly_cold", "decay_ends = 'both'\nfinal_fraction = 0.001"),
        ("solo", "warmup_epochs = 3\nwarmup_ends = 'both'\nwarmup_start_learning_rate = 3e-5"),
    ] {
        let config = config(&format!("name = 'cosine'\n{settings}"));
        holds(published, &Schedule::new(config, 0.3, 5, 60));
    }
    let swav = config(
        "name = 'cosine'\nwarmup_epochs = 3\nwarmup_ends = 'both'\nwarmup_start_learning_rate = 0.3\n\
         final_learning_rate = 0.0048",
    );
    holds("swav", &Schedule::new(swav, 4.8, 5, 60));
    let steps = "name = 'steps'\nmilestones_epochs = [6, 9]";
    holds("moco_steps", &Schedule::new(config(steps), 0.3, 5, 60));
    let npid = "name = 'steps'\nmilestones_epochs = [120, 160]";
    holds("npid", &Schedule::new(config(npid), 0.3, 5, 1000));
    let warm = format!("{steps}\nwarmup_epochs = 3\nwarmup_start_learning_rate = 0.01");
    holds("pycontrast_steps", &Schedule::new(config(&warm), 0.3, 5, 60));
    holds("linear", &Schedule::new(config("name = 'linear'"), 0.3, 5, 60));
}

fn holds(published: &str, schedule: &Schedule) {
    for (step, expected) in golden(&format!("schedule.{published}")).into_iter().enumerate() {
        let found = schedule.at(step as u64);
        let off = (found - expected).abs();
        assert!(off < 1e-12, "{published}, step {step}: {found}, not {expected}");
    }
}

#[test]
fn lines_of_a_single_step_stay_finite() {
    for ends in ["first", "both", "last"] {
        let text = format!(
            "name = 'linear'\nwarmup_epochs = 1\nwarmup_ends = '{ends}'\ndecay_ends = '{ends}'"
        );
        let schedule = Schedule::new(config(&text), 2.0, 1, 2);
        for step in 0..4 {
            assert!((0.0..=2.0).contains(&schedule.at(step)), "{ends} {step}");
        }
    }
}

#[test]
fn warm_up_is_a_straight_line_from_0_and_rounds_to_steps() {
    let steps = "name = 'steps'\nmilestones_epochs = [2]\nfactor = 0.5\nwarmup_epochs = 0.26";
    let schedule = Schedule::new(config(steps), 8.0, 10, 40);
    assert_eq!(schedule.warmup_steps(), 3);
    let found: Vec<f64> = [0, 1, 2, 3, 19, 20, 39].map(|step| schedule.at(step)).to_vec();
    for (found, expected) in found.iter().zip([0.0, 8.0 / 3.0, 16.0 / 3.0, 8.0, 8.0, 4.0, 4.0]) {
        assert!((found - expected).abs() < 1e-12);
    }
}

#[test]
fn the_end_stays_and_a_run_within_warm_up_stays_finite() {
    let schedule = Schedule::new(config("name = 'cosine'\nfinal_fraction = 0.001"), 2.0, 10, 50);
    for step in [50, 51, 1000] {
        assert!((schedule.at(step) - 0.002).abs() < 1e-12);
    }
    let short = Schedule::new(config("name = 'cosine'\nwarmup_epochs = 10"), 2.0, 10, 100);
    assert!((short.at(99) - 1.98).abs() < 1e-12);
    assert!((short.at(100) - 2.0).abs() < 1e-12);
    let constant = Schedule::new(config("name = 'constant'"), 2.0, 10, 100);
    assert!((0..200).all(|step| (constant.at(step) - 2.0).abs() < 1e-15));
}

#[test]
fn what_stays_constant_is_told_and_does_not_change_the_rest() {
    let start = ["predictor.".to_owned()];
    for text in ["name = 'cosine'", "name = 'linear'", "name = 'steps'\nmilestones_epochs = [2]"] {
        let (with, without) = (config(&format!("{text}\nconstant = ['predictor.']")), config(text));
        assert_eq!((with.constant(), without.constant()), (start.as_slice(), [].as_slice()));
        let (with, without) = (Schedule::new(with, 0.3, 5, 60), Schedule::new(without, 0.3, 5, 60));
        assert!((0..60).all(|step| with.at(step).to_bits() == without.at(step).to_bits()));
    }
    assert!(config("name = 'constant'").constant().is_empty());
}

#[test]
fn settings_out_of_range_or_unknown_are_refused() {
    for (text, part) in [
        ("name = 'cosine'\nwarmup_epochs = -1", "warmup_epochs` must be at least 0"),
        ("name = 'linear'\nwarmup_fraction = 1.0", "warmup_fraction` must be in [0, 1)"),
        (
            "name = 'cosine'\nwarmup_fraction = 0.1\nwarmup_epochs = 1",
            "must be 0 where `warmup_epochs` is given, found `0.1`",
        ),
        (
            "name = 'cosine'\nfinal_learning_rate = 0.1\nfinal_fraction = 0.1",
            "final_learning_rate` must be 0 where `final_fraction` is given",
        ),
        (
            "name = 'cosine'\nwarmup_start_learning_rate = 0.1\nwarmup_start_fraction = 0.1",
            "must be 0 where `warmup_start_fraction` is given",
        ),
        (
            "name = 'steps'\nmilestones_epochs = [3]\nwarmup_start_learning_rate = nan",
            "warmup_start_learning_rate` must be at least 0",
        ),
        ("name = 'cosine'\nfinal_fraction = 1.5", "final_fraction` must be in [0, 1]"),
        ("name = 'steps'\nmilestones_epochs = [3]\nfactor = 0.0", "factor` must be in (0, 1]"),
        ("name = 'steps'\nmilestones_epochs = [3, 3]", "must be increasing, found `[3, 3]`"),
        (
            "name = 'cosine'\nconstant = ['predictor.', '']",
            "constant` must be beginnings of names (`predictor.`), none of them empty, found `[\"predictor.\", \"\"]`",
        ),
        ("name = 'steps'\nmilestones_epochs = [3]\nconstant = ['']", "constant` must be"),
    ] {
        let config: ScheduleConfig = toml::from_str(text).unwrap();
        let message = config.check().unwrap_err().to_string();
        assert!(message.starts_with("`train.schedule.") && message.contains(part), "{message}");
    }
    for text in [
        "name = 'constant'\nfactor = 0.1",
        "name = 'constant'\nconstant = ['predictor.']",
        "name = 'cosine'\nwarmup = 1",
    ] {
        let message = toml::from_str::<ScheduleConfig>(text).unwrap_err().to_string();
        assert!(message.contains("unknown field"), "{message}");
    }
}

#[test]
fn a_written_config_reads_back() {
    for text in [
        "name = 'constant'",
        "name = 'cosine'\nwarmup_epochs = 10",
        "name = 'linear'\nwarmup_fraction = 0.05\ndecay_over = 'run'\ndecay_ends = 'both'",
        "name = 'steps'\nmilestones_epochs = [60, 80]",
        "name = 'cosine'\nper = 'epoch'\nconstant = ['predictor.']",
    ] {
        let config = config(text);
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ScheduleConfig>(&written).unwrap(), config);
    }
}
