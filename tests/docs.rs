//! The guides in `docs/` name every setting with its default, every step, set of views, sentinel and exit code.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use diptych::analyze::{gradients, scores};
use diptych::augment::{NAMED, Preprocess, Step};
use diptych::data::transfer::suite::Suite;
use diptych::data::transfer::{self, Metric, published};
use diptych::error::Error;
use diptych::evaluate::probe::Probe;
use diptych::evaluate::unlabelled::{Alignment, Invariance, Unlabelled};
use diptych::evaluate::{Clusters, FewShot, Knn, Linear, Logistic, Retrieval, knn};
use diptych::method::NAMES;
use diptych::overrides::flatten;
use diptych::recipe::protocol::{Epochs, PROTOCOLS, Protocol};
use diptych::recipe::{BUILT_IN, Recipe};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

const RECIPES: &str = include_str!("../docs/recipes.md");
const METHODS: &str = include_str!("../docs/methods.md");
const VIEWS: &str = include_str!("../docs/views.md");
const ANALYSES: &str = include_str!("../docs/analyses.md");
const DATA: &str = include_str!("../docs/data.md");
const EVALUATION: &str = include_str!("../docs/evaluation.md");
const FINETUNING: &str = include_str!("../docs/finetuning.md");
const RUNNING: &str = include_str!("../docs/running.md");
const TRANSFER: &str = include_str!("../docs/transfer.md");

/// The rows of the table whose header begins so, as cells without backticks.
fn table(text: &str, header: &str) -> Vec<Vec<String>> {
    let rows = text.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let line = line.trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "no table `{header}`");
    rows
}

/// Keys and defaults of settings of which only the required ones were `given`, these with an empty default.
fn defaults(settings: &impl Serialize, given: &[&str]) -> BTreeMap<String, String> {
    let values = flatten(settings).into_iter();
    values
        .map(|(key, value)| {
            let required = given.contains(&key.as_str());
            (key, if required { String::new() } else { value })
        })
        .collect()
}

/// What serde expects where it meets a name that is none.
fn variants<T: DeserializeOwned>(text: &str) -> BTreeSet<String> {
    let message = toml::from_str::<T>(text).err().unwrap().to_string();
    let expected = message.split("expected").nth(1).unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn recipe(optimizer: &str, schedule: &str) -> Recipe {
    parsed("simclr_cifar", "name = \"simclr\"", optimizer, schedule)
}

/// A recipe that says of its method only what is given.
fn with_method(method: &str) -> Recipe {
    let views = match method.split('"').nth(1).unwrap() {
        "npid" | "classifier" | "distill" => "npid_cifar",
        "infomin" => "infomin_jigsaw",
        _ => "simclr_cifar",
    };
    parsed(views, method, "name = \"sgd\"", "name = \"constant\"")
}

fn parsed(views: &str, method: &str, optimizer: &str, schedule: &str) -> Recipe {
    let text = format!(
        "view = \"{views}\"\n[data]\nbatch_size = 2\n[backbone]\nname = \"resnet18\"\n[method]\n{method}\n\
         [train]\nepochs = 1\noptimizer = {{ {optimizer}, learning_rate = 1.0, weight_decay = 0.0 }}\n\
         schedule = {{ {schedule} }}\n"
    );
    Recipe::parse(&text, "of a test", &[]).unwrap()
}

/// Settings that have no value unless one is given, so that they are not among those of a recipe.
const WITHOUT_VALUE: [&str; 7] = [
    "data.source",
    "data.limit",
    "data.subset",
    "data.label_fraction",
    "data.classes",
    "backbone.weights",
    "train.max_steps",
];

/// Key to default of a column of the table whose header begins so; keys that the column has not are left out.
fn column(header: &str, column: usize) -> BTreeMap<String, String> {
    let rows = table(RECIPES, header).into_iter();
    rows.map(|row| (row[0].clone(), row[column].clone())).filter(|(_, d)| d != "–").collect()
}

/// Keys below `start` and their defaults, without `name`.
fn below(recipe: &Recipe, start: &str, given: &[&str]) -> BTreeMap<String, String> {
    let given: Vec<String> = given.iter().map(|key| format!("{start}{key}")).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let all = defaults(recipe, &given).into_iter();
    all.filter_map(|(key, value)| Some((key.strip_prefix(start)?.to_owned(), value)))
        .filter(|(key, _)| key != "name")
        .collect()
}

/// Adds the settings of these that `recipe` knows, though they have no value.
fn add_without_value(
    recipe: &Recipe,
    start: &str,
    keys: &[&str],
    to: &mut BTreeMap<String, String>,
) {
    for key in keys.iter().filter(|key| !to.contains_key(**key)).collect::<Vec<_>>() {
        let change = format!("{start}{key}=[]");
        let set = Recipe::parse(&recipe.to_toml().unwrap(), "of a test", &[change]);
        if set.err().unwrap().to_string().contains("found `[]`") {
            to.insert((*key).to_owned(), "none".to_owned());
        }
    }
}

#[test]
fn every_setting_of_an_analysis_of_runs_is_told_with_its_default() {
    for (start, expected) in [
        ("## Scores", defaults(&scores::Settings::default(), &[])),
        ("## Gradients", defaults(&gradients::Settings::default(), &[])),
    ] {
        let part = &ANALYSES[ANALYSES.find(start).unwrap()..];
        let rows = table(part, "| setting | default |").into_iter();
        let found: BTreeMap<String, String> =
            rows.map(|row| (row[0].clone(), row[1].clone())).collect();
        assert_eq!(found, expected, "{start}");
    }
}

#[test]
fn every_setting_of_a_recipe_is_told_with_its_default() {
    let plain = recipe("name = \"sgd\"", "name = \"constant\"");
    let given = ["data.batch_size", "backbone.name", "method.name", "train.epochs"];
    let mut expected = defaults(&plain, &given);
    let elsewhere = ["view.", "train.optimizer.", "train.schedule.", "method."];
    expected.retain(|key, _| {
        key == "method.name" || !elsewhere.iter().any(|start| key.starts_with(start))
    });
    for key in WITHOUT_VALUE {
        assert!(expected.insert(key.to_owned(), "none".to_owned()).is_none(), "{key}");
        let set = Recipe::parse(&plain.to_toml().unwrap(), "of a test", &[format!("{key}=true")]);
        let message = set.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!message.contains("is not a setting"), "{message}");
    }
    assert_eq!(column("| key | default |", 1), expected);
}

#[test]
fn every_setting_of_every_method_is_told_with_its_default() {
    for name in NAMES {
        let recipe = with_method(&format!("name = \"{name}\""));
        let mut expected = below(&recipe, "method.", &[]);
        expected.retain(|key, _| !key.starts_with("projector.") && !key.starts_with("predictor."));
        let taught = Recipe::parse(
            &recipe.to_toml().unwrap(),
            "of a test",
            &["method.teacher=runs/a".to_owned()],
        );
        if taught.is_ok() {
            expected.insert("teacher".to_owned(), "none".to_owned());
        }
        assert_eq!(column(&format!("| `{name}` | default |"), 1), expected, "{name}");
    }
}

#[test]
fn every_setting_of_the_heads_is_told_with_its_default() {
    for head in ["projector", "predictor"] {
        let header = RECIPES.lines().find(|line| line.starts_with(&format!("| `{head}` |")));
        let methods: Vec<&str> = header.unwrap().split('`').skip(3).step_by(2).collect();
        for (index, name) in methods.iter().enumerate() {
            let recipe = with_method(&format!("name = \"{name}\""));
            let start = format!("method.{head}.");
            let mut expected = below(&recipe, &start, &[]);
            add_without_value(&recipe, &start, &["hidden"], &mut expected);
            // It is written only where it is on.
            expected.insert("norm_linear".to_owned(), "false".to_owned());
            let told = column(&format!("| `{head}` |"), index + 1);
            assert_eq!(told, expected, "{head} of {name}");
        }
        let has = |name: &&&str| {
            let recipe = with_method(&format!("name = \"{name}\""));
            !below(&recipe, &format!("method.{head}."), &[]).is_empty()
        };
        assert_eq!(methods.len(), NAMES.iter().filter(has).count(), "methods with a {head}");
    }
}

#[test]
fn every_setting_of_simclrs_losses_is_told_with_its_default() {
    let header = RECIPES.lines().find(|line| line.starts_with("| key | `nt_xent` |")).unwrap();
    let losses: Vec<&str> = header.split('`').skip(1).step_by(2).collect();
    let known = choices(&with_method("name = \"simclr\""), "method.loss.name").unwrap();
    assert_eq!(losses.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), known);
    for (index, name) in losses.iter().enumerate() {
        let recipe = with_method(&format!("name = \"simclr\"\nloss = {{ name = \"{name}\" }}"));
        let mut expected = below(&recipe, "method.loss.", &[]);
        let optional = ["sigma", "margin", "swd_dim"];
        add_without_value(&recipe, "method.loss.", &optional, &mut expected);
        assert_eq!(column("| key | `nt_xent` |", index + 1), expected, "{name}");
    }
}

#[test]
fn every_setting_of_optimizers_and_schedules_is_told_with_its_default() {
    for (place, name) in (1..).zip(["sgd", "lars", "adam", "adamw"]) {
        let recipe = recipe(&format!("name = \"{name}\""), "name = \"constant\"");
        let mut expected = below(&recipe, "train.optimizer.", &["learning_rate", "weight_decay"]);
        // It has no value unless one is given, so that it is not among those of a recipe.
        for key in ["bias_learning_rate", "classifier_learning_rate"] {
            let change = format!("train.optimizer.{key}=true");
            let set = Recipe::parse(&recipe.to_toml().unwrap(), "of a test", &[change]);
            if set.err().unwrap().to_string().contains("must be a number, found `true`") {
                expected.insert(key.to_owned(), "none".to_owned());
            }
        }
        assert_eq!(column("| key | `sgd` |", place), expected, "{name}");
    }
    let schedules = ["cosine", "linear", "steps"];
    for (place, name) in (1..).zip(schedules) {
        let needed = if name == "steps" { ", milestones_epochs = [1]" } else { "" };
        let recipe = recipe("name = \"sgd\"", &format!("name = \"{name}\"{needed}"));
        let expected = below(&recipe, "train.schedule.", &["milestones_epochs"]);
        assert_eq!(column("| key | `cosine` |", place), expected, "{name}");
    }
    let known = variants::<diptych::train::schedule::ScheduleConfig>("name = \"?\"");
    assert_eq!(known.len(), schedules.len() + 1, "{known:?} and `constant`");
}

/// The values that a setting of this key can have, if it is one of a few.
fn choices(recipe: &Recipe, key: &str) -> Option<BTreeSet<String>> {
    let wrong = Recipe::parse(&recipe.to_toml().unwrap(), "of a test", &[format!("{key}=?")]);
    let message = wrong.err()?.to_string();
    let expected = message.split("unknown variant `?`, expected").nth(1)?;
    Some(expected.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// The words in backticks of the cells behind the first of the row of a key.
fn words(header: &str, key: &str) -> BTreeSet<String> {
    let start = format!("| `{key}` |");
    let mut rows = RECIPES.lines().skip_while(|line| !line.starts_with(header));
    let row = rows.find_map(|line| line.strip_prefix(&start)).unwrap();
    row.split('`').skip(1).step_by(2).map(|word| word.trim_matches('"').to_owned()).collect()
}

#[test]
fn every_choice_of_a_setting_is_told() {
    let mut found = 0;
    let mut check = |recipe: &Recipe, header: &str, start: &str| {
        for row in table(RECIPES, header) {
            let key = format!("{start}{}", row[0]);
            if let Some(choices) = choices(recipe, &key) {
                // The policies of sentinels have a table of their own.
                if !key.starts_with("train.sentinels.") {
                    let told = words(header, &row[0]);
                    assert_eq!(told, choices, "{key}");
                    found += 1;
                }
            }
        }
    };
    let plain = recipe("name = \"lars\"", "name = \"cosine\"");
    check(&plain, "| key | default |", "");
    check(&plain, "| key | `sgd` |", "train.optimizer.");
    check(&plain, "| key | `cosine` |", "train.schedule.");
    for name in NAMES {
        let recipe = with_method(&format!("name = \"{name}\""));
        check(&recipe, &format!("| `{name}` | default |"), "method.");
        check(&recipe, "| `projector` |", "method.projector.");
    }
    for name in ["simsiam", "byol"] {
        let recipe = with_method(&format!("name = \"{name}\""));
        check(&recipe, "| `predictor` |", "method.predictor.");
    }
    let of_loss =
        |name: &str| with_method(&format!("name = \"simclr\"\nloss = {{ name = \"{name}\" }}"));
    let logistic = of_loss("nt_logistic");
    for (recipe, key) in [
        (&logistic, "negatives"),
        (&logistic, "empty"),
        (&of_loss("generalized"), "distribution"),
        (&of_loss("generalized"), "convention"),
    ] {
        let choices = choices(recipe, &format!("method.loss.{key}")).unwrap();
        assert_eq!(words("| key | `nt_xent` |", key), choices, "{key}");
        found += 1;
    }
    assert!(found >= 50, "only {found} settings with choices");
}

#[test]
fn every_step_is_told_with_its_keys_and_defaults() {
    let mut told: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut step = String::new();
    for row in table(VIEWS, "| step | key |") {
        if !row[0].is_empty() {
            step.clone_from(&row[0]);
        }
        told.entry(step.clone()).or_default().insert(row[1].clone(), row[2].clone());
    }
    let names: BTreeSet<String> = told.keys().cloned().collect();
    assert_eq!(names, variants::<Step>("name = \"?\""));
    for (name, keys) in told {
        let needed = match name.as_str() {
            "random_resized_crop" | "resize" => "size_px = 9",
            "normalize" => "mean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]",
            _ => "",
        };
        let parsed: Step = toml::from_str(&format!("name = \"{name}\"\n{needed}")).unwrap();
        let given = if needed.is_empty() { vec![] } else { vec!["size_px", "mean", "std"] };
        let mut expected = defaults(&parsed, &given);
        expected.remove("name");
        if name == "blur" {
            expected.insert("kernel_px".to_owned(), "none".to_owned());
        }
        assert_eq!(keys, expected, "{name}");
    }
}

#[test]
fn every_named_set_of_views_is_told() {
    for (name, _) in NAMED {
        assert!(VIEWS.contains(&format!("`{name}`")), "docs/views.md does not name `{name}`");
    }
}

#[test]
fn every_sentinel_policy_and_exit_code_is_told() {
    let recipe = recipe("name = \"sgd\"", "name = \"constant\"");
    let sentinels = defaults(&recipe.train.sentinels, &[]);
    let told: BTreeMap<String, String> = table(RUNNING, "| `train.sentinels.` |")
        .into_iter()
        .map(|row| (row[0].clone(), format!("\"{}\"", row[2])))
        .collect();
    assert_eq!(told, sentinels);
    let first = |header: &str| -> BTreeSet<String> {
        table(RUNNING, header).into_iter().map(|row| row[0].clone()).collect()
    };
    let known = variants::<BTreeMap<String, diptych::train::sentinel::Policy>>("a = \"?\"");
    assert_eq!(first("| policy |"), known);
    let errors = [
        Error::Recipe,
        Error::Data,
        Error::Shape,
        Error::Weights,
        Error::Run,
        Error::Environment,
        Error::NonFinite,
        Error::Collapsed,
        Error::OutOfMemory,
        Error::Interrupted,
        Error::Engine,
    ];
    let codes = errors.map(|error| error(String::new()).exit_code().to_string());
    // 0 is no error, and 130 leaves at once.
    let mut codes = BTreeSet::from(codes);
    codes.extend(["0", "130"].map(str::to_owned));
    assert_eq!(first("| code |"), codes);
}

#[test]
fn every_method_and_every_built_in_recipe_is_told() {
    let told: BTreeSet<String> = table(METHODS, "| name | paper |")
        .into_iter()
        .map(|row| row[0].split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(told, NAMES.iter().map(|name| (*name).to_owned()).collect());

    let header = METHODS.lines().find(|line| line.starts_with("| recipe |")).unwrap();
    let folders: Vec<&str> = header.split('`').skip(1).step_by(2).collect();
    let mut told = BTreeSet::from(["folder/simclr", "mnist/randbits"].map(str::to_owned));
    assert!(told.iter().all(|name| METHODS.contains(&format!("`{name}`"))));
    for row in table(METHODS, "| recipe |") {
        let filled = folders.iter().zip(&row[1..]).filter(|(_, cell)| !cell.is_empty());
        told.extend(filled.map(|(folder, _)| format!("{folder}{}", row[0])));
    }
    assert_eq!(told, BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn every_protocol_that_trains_is_told_with_its_batch_and_epochs() {
    let told = table(FINETUNING, "| protocol | trains |").into_iter();
    let told: Vec<(String, String, String)> =
        told.map(|row| (row[0].clone(), row[5].clone(), row[6].clone())).collect();
    let expected = PROTOCOLS.iter().map(|(id, _)| {
        let protocol = Protocol::named(id).unwrap();
        let number = |epochs: Option<u32>| epochs.map_or("–".to_owned(), |e| e.to_string());
        let Epochs { one_percent, ten_percent, all } = &protocol.epochs;
        let length = match protocol.max_steps {
            Some(steps) => format!("{},000 steps", steps / 1_000),
            None => [one_percent, ten_percent, all].map(|epochs| number(*epochs)).join(" / "),
        };
        ((*id).to_owned(), length, protocol.batch_size.to_string())
    });
    assert_eq!(told, expected.collect::<Vec<_>>());
}

#[test]
fn every_transfer_set_is_told_with_its_counts_and_metric() {
    let thousands = |count: usize| match count {
        1_000.. => format!("{},{:03}", count / 1_000, count % 1_000),
        _ => count.to_string(),
    };
    let told: Vec<Vec<String>> = table(TRANSFER, "| name | set |")
        .into_iter()
        .map(|row| [&row[..1], &row[2..]].concat())
        .collect();
    let mut expected = Vec::new();
    for (name, classes, counts, metric) in published() {
        let metric = match metric {
            Metric::Top1 => "top-1",
            Metric::MeanPerClass => "mean per class",
            Metric::VocMap => "11-point mAP",
        };
        let validation = counts.validation.map_or(String::new(), thousands);
        let chosen = if validation.is_empty() { "a fifth of train" } else { "validation" };
        let [classes, train, test] = [classes, counts.train, counts.test].map(thousands);
        let row = [name, &classes, &train, &validation, &test, metric, chosen];
        expected.push(row.map(str::to_owned).to_vec());
    }
    assert_eq!(told, expected);
    let layouts = TRANSFER.split("```text").nth(1).unwrap().split("```").next().unwrap();
    for name in transfer::NAMES {
        assert!(layouts.contains(&format!("\n{name} ")), "the layout of `{name}` is not told");
    }
    let keys: Vec<String> =
        table(TRANSFER, "| key | default | |").into_iter().map(|row| row[0].clone()).collect();
    let wrong = Suite::parse("[[set]]\nwrong = 1", "".into()).unwrap_err().to_string();
    let known = wrong.split("expected one of").nth(1).unwrap();
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    assert_eq!(keys, known);
}

#[test]
fn every_target_of_make_that_is_named_exists() {
    let makefile = include_str!("../Makefile");
    let targets = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).unwrap();
    let targets: Vec<&str> = targets.split(' ').collect();
    let peers = include_str!("../benches/peers/README.md");
    let guides = [RECIPES, VIEWS, RUNNING, include_str!("../README.md"), peers];
    let commands = guides.iter().flat_map(|text| {
        ["`make ", "\nmake "].into_iter().flat_map(|start| text.split(start).skip(1))
    });
    let named: BTreeSet<&str> = commands
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next())
        .collect();
    assert!(named.contains("demo") && named.contains("bench-accuracy"), "{named:?}");
    for name in named {
        assert!(targets.contains(&name), "there is no target `{name}`");
    }
}

#[test]
fn the_script_of_the_benches_knows_every_part_of_them() {
    let script = include_str!("../scripts/bench.sh");
    let known = |start: &str| -> BTreeSet<String> {
        let line = script.lines().find(|line| line.trim_start().starts_with(start)).unwrap();
        let words = line.split(')').next().unwrap().split('|');
        words.map(|word| word.trim().to_owned()).collect()
    };
    let proof = include_str!("../benches/proof/main.rs");
    let parts = proof.split("enum Part {").nth(1).unwrap().split('}').next().unwrap();
    let parts = parts.lines().filter_map(|line| line.trim().strip_suffix(','));
    assert_eq!(known("speed |"), parts.map(str::to_lowercase).collect());

    let manifest: toml::Value = toml::from_str(include_str!("../Cargo.toml")).unwrap();
    let benches = manifest["bench"].as_array().unwrap().iter();
    let mut benches: BTreeSet<String> =
        benches.map(|bench| bench["name"].as_str().unwrap().to_owned()).collect();
    assert!(benches.remove("proof"));
    // Hours of training, which no one wants among the benches.
    assert!(benches.remove("learns"));
    assert_eq!(known("augment |"), benches);
}

#[test]
fn every_setting_of_made_data_is_told() {
    let told = table(DATA, "| set | setting |");
    for set in ["digits-on", "multi-digits", "random-bits"] {
        let settings = told.iter().filter(|row| row[0] == set).map(|row| format!("`{}`", row[1]));
        let settings: BTreeSet<String> = settings.collect();
        // Each variant has settings of its own.
        let mut known = BTreeSet::new();
        for variant in ["", "variant=grid&", "variant=place&", "variant=sizes&"] {
            let spec =
                format!("{set}:synthetic:digits?bits=1&digits=synthetic:digits&{variant}zzz=1");
            let spec = if set == "random-bits" {
                spec.replace("&digits=synthetic:digits", "")
            } else {
                spec.replace("bits=1&", "")
            };
            let spec = if set == "multi-digits" {
                spec.replace("digits=synthetic:digits&", "")
            } else {
                spec
            };
            let message = diptych::data::open(&spec).err().map(|error| error.to_string());
            let message = message.unwrap_or_default();
            let expected = message.split("expected ").nth(1).unwrap_or_default();
            known.extend(expected.split('`').skip(1).step_by(2).map(|key| format!("`{key}`")));
        }
        assert!(!known.is_empty());
        assert_eq!(settings, known, "{set}");
    }
}

/// Settings that are left out while they have no value.
const UNSET: [&str; 4] =
    ["logistic.lambda", "logistic.max_iterations", "clusters.k", "alignment.views"];

#[test]
fn every_setting_of_an_evaluation_is_told_with_its_default() {
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |table: &str, settings: Vec<(String, String)>| {
        expected.extend(settings.into_iter().map(|(key, value)| (format!("{table}.{key}"), value)));
    };
    add("knn", flatten(&Knn::default()));
    add("sweep", flatten(&knn::Sweep::default()));
    add("linear", flatten(&Linear::features()));
    add("logistic", flatten(&Logistic::default()));
    add("retrieval", flatten(&Retrieval::default()));
    add("clusters", flatten(&Clusters::default()));
    add("few_shot", flatten(&FewShot::default()));
    add("probe", flatten(&Probe::default()));
    add("quality", flatten(&Unlabelled::default()));
    add("invariance", flatten(&Invariance::default()));
    add("alignment", flatten(&Alignment::default()));
    expected.extend(UNSET.map(|key| (key.to_owned(), "none".to_owned())));
    let told = table(EVALUATION, "| setting |");
    let told: BTreeMap<String, String> =
        told.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    for (key, value) in &expected {
        let told = told.get(key).unwrap_or_else(|| panic!("`{key}` is not told"));
        let number = |text: &str| text.parse::<f64>().ok();
        let same = told == value || number(told).is_some_and(|told| number(value) == Some(told));
        assert!(same, "{key}: {told} is told, it is {value}");
    }
    assert_eq!(told.len(), expected.len());
}

#[test]
fn every_preparation_is_told() {
    let told = table(EVALUATION, "| `--preprocess` |");
    let told: BTreeSet<String> = told.into_iter().map(|row| row[0].clone()).collect();
    let sized = ["resize-S", "center-S", "short-S"];
    let known = Preprocess::IDS.into_iter().chain(sized).map(str::to_owned);
    assert_eq!(told, known.collect());
}

#[test]
fn every_guide_exists_and_every_recipe_that_is_named() {
    let guides =
        [RECIPES, METHODS, VIEWS, RUNNING, DATA, EVALUATION, FINETUNING, TRANSFER, ANALYSES];
    for text in guides.into_iter().chain([include_str!("../README.md")]) {
        for name in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if name.starts_with("https://") {
                continue;
            }
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
            let found = ["", "docs/"]
                .iter()
                .any(|folder| std::path::Path::new(&format!("{root}{folder}{name}")).exists());
            assert!(found, "`{name}` is linked and does not exist");
        }
        for command in text.lines().filter_map(|line| line.strip_prefix("diptych pretrain ")) {
            let name = command.split(' ').next().unwrap();
            assert!(BUILT_IN.iter().any(|(known, _)| *known == name), "{command}");
        }
    }
}
