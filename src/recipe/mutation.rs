//! Mutants of every built-in recipe and of overrides: each is accepted, and then can be used, or is a recipe error.

use super::*;
use crate::augment::Pipeline;
use crate::data::mutation::Mutator;

/// Whether a recipe was accepted. One that was can be written, read back, resolved and built from.
fn accepted(outcome: Result<Recipe>) -> bool {
    let mut recipe = match outcome {
        Ok(recipe) => recipe,
        Err(Error::Recipe(message)) => {
            assert!(!message.is_empty());
            return false;
        }
        Err(other) => panic!("{other:?} is no recipe error"),
    };
    let written = recipe.to_toml().unwrap();
    assert_eq!(Recipe::parse(&written, "written", &[]).unwrap(), recipe, "{written}");
    if let Err(error) = Pipeline::new(&recipe.view) {
        assert!(matches!(error, Error::Recipe(_)), "{error:?}");
    }
    assert!(recipe.backbone.parameter_count() > 0);
    if let Err(error) = recipe.resolve() {
        assert!(matches!(error, Error::Environment(_) | Error::Recipe(_)), "{error:?}");
    }
    true
}

#[test]
fn mutants_of_every_recipe() {
    for (name, text) in BUILT_IN {
        let mut mutator = Mutator::new(text.as_bytes(), 1);
        let read = (0..400).filter(|_| {
            let mutant = mutator.next_mutant();
            accepted(Recipe::parse(&String::from_utf8_lossy(&mutant), name, &[]))
        });
        let read = read.count();
        assert!((8..200).contains(&read), "{name}: {read} of 400 accepted");
    }
}

/// Values at the edges of every type, and none of any.
const EDGES: [&str; 14] = [
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "1e308",
    "-1e-320",
    "nan",
    "-inf",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\u{1F41B}",
];

#[test]
fn every_setting_at_every_edge() {
    let name = "cifar10/simclr";
    let text = built_in(name).unwrap();
    let recipe = Recipe::parse(text, name, &[]).unwrap();
    let settings = overrides::flatten(&recipe);
    let keys = settings.iter().map(|(key, _)| key.as_str()).chain(OPTIONAL.iter().copied());
    let (mut tried, mut read) = (0, 0);
    for (key, value) in keys.flat_map(|key| EDGES.map(|value| (key, value))) {
        tried += 1;
        read += usize::from(accepted(Recipe::parse(text, name, &[format!("{key}={value}")])));
    }
    assert!(tried > 700 && (50..tried / 2).contains(&read), "{read} of {tried} accepted");
}

#[test]
fn mutants_of_overrides() {
    let name = "cifar10/simclr";
    let text = built_in(name).unwrap();
    let recipe = Recipe::parse(text, name, &[]).unwrap();
    let mut read = 0;
    for (seed, (key, value)) in overrides::flatten(&recipe).into_iter().enumerate() {
        let line = format!("{key}={value}");
        let mut mutator = Mutator::new(line.as_bytes(), seed as u64);
        for _ in 0..10 {
            let change = String::from_utf8_lossy(&mutator.next_mutant()).into_owned();
            read += usize::from(accepted(Recipe::parse(text, name, &[change])));
        }
    }
    assert!(read > 20, "{read} accepted");
}

#[test]
fn an_override_cannot_make_a_recipe_of_a_newer_format() {
    let name = "cifar10/simclr";
    let text = built_in(name).unwrap();
    let message = Recipe::parse(text, name, &["format=4".to_owned()]).unwrap_err().to_string();
    assert!(message.contains("`format` must be at most 1"), "{message}");
}
