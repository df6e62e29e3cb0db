//! `docs/plugins.md` says of every plug-in what it is, of every method which go with it, and so do the errors.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use diptych::method::{Config, NAMES};
use diptych::overrides::flatten;
use diptych::plugin::Plugins;
use diptych::plugin::cross_level::CrossLevel;
use diptych::plugin::feature_transformation::FeatureTransformation;
use diptych::plugin::guided_stop_gradient::GuidedStopGradient;
use diptych::recipe::Recipe;
use std::collections::{BTreeMap, BTreeSet};

const GUIDE: &str = include_str!("../docs/plugins.md");
const PLUGINS: [&str; 3] = ["feature_transformation", "cross_level", "guided_stop_gradient"];

fn method(name: &str) -> Config {
    toml::from_str(&format!("name = \"{name}\"")).unwrap()
}

fn plugins(names: &[&str]) -> Plugins {
    let tables: Vec<String> = names.iter().map(|name| format!("[{name}]\n")).collect();
    toml::from_str(&tables.concat()).unwrap()
}

/// The rows of the table that begins so, as they stand.
fn rows(header: &str) -> BTreeSet<String> {
    let rows = GUIDE.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

#[test]
fn the_guide_says_of_every_method_and_plug_in_whether_and_where_they_go_together() {
    let row = |name: &&str| {
        let fits = method(name).settings().fits().named();
        assert_eq!(fits.map(|(plugin, _)| plugin), PLUGINS);
        let cells = fits.map(|(_, fit)| match fit {
            Ok(place) => format!("yes: {place}"),
            Err(why) => format!("no: {why}"),
        });
        format!("| `{name}` | {} |", cells.join(" | "))
    };
    let expected: BTreeSet<String> = NAMES.iter().map(row).collect();
    let header = "| method | `feature_transformation` |";
    assert_eq!(
        rows(header),
        expected,
        "to be told:\n{}",
        Vec::from_iter(expected.clone()).join("\n")
    );
}

#[test]
fn the_guide_says_how_many_views_a_method_takes_with_a_plug_in() {
    let row = |name: &&str| {
        let config = method(name);
        let views = |names: &[&str]| {
            let goes = config.check(&plugins(names)).is_ok();
            // A method that takes as many as there are says what it needs at least.
            let views = config.settings().wiring(&plugins(names), 2).views();
            if goes { views.to_string() } else { "–".to_owned() }
        };
        let cells = [views(&[]), views(&["cross_level"]), views(&["guided_stop_gradient"])];
        format!("| `{name}` | {} |", cells.join(" | "))
    };
    let expected: BTreeSet<String> = NAMES.iter().map(row).collect();
    let told = rows("| method | views |");
    assert_eq!(told, expected, "to be told:\n{}", Vec::from_iter(expected.clone()).join("\n"));
}

/// Key and default of each row of a section's table.
fn told(section: &str) -> BTreeMap<String, String> {
    let section = GUIDE.split("\n## ").find(|text| text.starts_with(section)).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("| key |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|');
            let mut cell = || cells.next().unwrap().trim().trim_matches('`').to_owned();
            (cell(), cell())
        })
        .collect()
}

#[test]
fn every_setting_of_a_plug_in_is_told_with_its_default_and_its_choices() {
    let without_value = |settings: Vec<(String, String)>, keys: &[&str]| -> BTreeMap<_, _> {
        let none = keys.iter().map(|key| ((*key).to_owned(), "none".to_owned()));
        settings.into_iter().chain(none).collect()
    };
    let mixing = flatten(&FeatureTransformation::default());
    assert_eq!(told("Feature transformation"), without_value(mixing, &["renormalize"]));
    let groups = flatten(&CrossLevel::default());
    assert_eq!(told("Cross-level"), without_value(groups, &["k_eigen"]));
    let guided = flatten(&GuidedStopGradient::default());
    assert_eq!(told("Guided stop-gradient"), without_value(guided, &[]));

    let mut found = 0;
    for (plugin, section) in PLUGINS.iter().zip(["Feature transf", "Cross-level", "Guided stop"]) {
        for key in told(section).keys() {
            let wrong = toml::from_str::<Plugins>(&format!("{plugin} = {{ {key} = \"?\" }}"));
            let message = wrong.unwrap_err().to_string();
            let Some(expected) = message.split("unknown variant `?`, expected").nth(1) else {
                continue;
            };
            let text = GUIDE.split(&format!("\n## {section}")).nth(1).unwrap();
            let row = text.lines().find(|line| line.starts_with(&format!("| `{key}` |"))).unwrap();
            // `negative_level` has those of `positive_level`, right above.
            let row = if key == "negative_level" { &text[..text.find(row).unwrap()] } else { row };
            for choice in expected.split('`').skip(1).step_by(2) {
                let named = [format!("`{choice}`"), format!("`\"{choice}\"`")];
                assert!(named.iter().any(|name| row.contains(name)), "{key}: {choice}");
                found += 1;
            }
        }
    }
    assert!(found >= 23, "only {found} choices");
}

/// A recipe of these tables, of two crops and more changes.
fn recipe(method: &str, changes: &[&str]) -> Result<Recipe, String> {
    let text = "view = \"simclr_cifar\"\n[data]\nbatch_size = 4\n[backbone]\nname = \"resnet18\"\n[method]\nname = \"simclr\"\n\
         [train]\nepochs = 1\noptimizer = { name = \"sgd\", learning_rate = 1.0, weight_decay = 0.0 }\n\
         schedule = { name = \"constant\" }\n";
    let text = text.replace("name = \"simclr\"", method);
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    Recipe::parse(&text, "of a test", &changes).map_err(|error| error.to_string())
}

const GUIDED: &str = "plugins.guided_stop_gradient={}";
const MIXING: &str = "plugins.feature_transformation={}";
const GROUPS: &str = "plugins.cross_level={}";

#[test]
fn a_plug_in_that_does_not_go_with_a_method_is_refused_with_the_reason() {
    let refused = |text: &str, changes: &[&str]| recipe(text, changes).unwrap_err();
    let mut without_reason = 0;
    for name in NAMES {
        for (plugin, fit) in method(name).settings().fits().named() {
            let change = format!("plugins.{plugin}={{}}");
            if let Err(why) = fit {
                let message = refused(&format!("name = \"{name}\""), &[&change]);
                let expected = format!("`plugins.{plugin}` does not go with method {name}: {why}");
                assert!(message.contains(&expected), "{message}");
                without_reason += 1;
            }
        }
    }
    assert!(without_reason >= 8);
    for (method, change, parts) in [
        ("name = \"moco\"\nnormalize = false", MIXING, ["unit rows", "`method.normalize = true`"]),
        (
            "name = \"simclr\"\nloss = { name = \"decoupled\" }",
            MIXING,
            ["`method.loss.name = \"nt_xent\"` alone", "what is mixed"],
        ),
        (
            "name = \"simsiam\"\nstop_gradient = false",
            GUIDED,
            ["`method.stop_gradient = false` goes with neither", "constants"],
        ),
        (
            "name = \"byol\"",
            "plugins.feature_transformation={ positive = \"none\" }",
            ["`extrapolate` for a method without negatives", "found `none`"],
        ),
    ] {
        let message = refused(method, &["view.0.count=4", change]);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn too_few_views_for_a_plug_in_are_told_with_the_way_out() {
    let error =
        |name: &str, changes: &[&str]| recipe(&format!("name = \"{name}\""), changes).unwrap_err();
    assert_eq!(
        error("simsiam", &[GUIDED]),
        "`view` must be 4 views in all for method simsiam with `plugins.guided_stop_gradient` (2 without), found `2`; set \
         `view.0.count=4`"
    );
    assert_eq!(
        error("moco", &[GROUPS, MIXING]),
        "`view` must be 3 views in all for method moco with `plugins.cross_level` (2 without), found `2`; set \
         `view.0.count=3`"
    );
    assert_eq!(
        error("npid", &["view.0.count=3"]),
        "`view` must be 1 views in all for method npid, found `3`; set `view.0.count=1`"
    );
    assert!(error("simclr", &["view=swav_mc"]).contains("found `8`; it is the sum of the `count`"));
    // What the messages say helps.
    let taken = |name: &str, changes: &[&str]| recipe(&format!("name = \"{name}\""), changes);
    taken("simsiam", &["plugins.guided_stop_gradient={ partner_views = \"reuse\" }"]).unwrap();
    assert!(error("simsiam", &["view.0.count=4"]).contains("2 views in all"));
}

#[test]
fn infomin_needs_its_jigsaw_last() {
    let taken = |settings: &str, view: &str| {
        let settings = format!("name = \"infomin\"{settings}");
        recipe(&settings, &[&format!("view={view}")])
    };
    taken("", "infomin_jigsaw").unwrap();
    taken("\njigsaw_weight = 0.0", "infomin").unwrap();
    let crops = recipe("name = \"infomin\"", &["view=infomin", "view.0.count=3"]).unwrap_err();
    assert!(crops.contains("2 whole images and then a `jigsaw` of grid 3"), "{crops}");
    let grid = |grid: usize| {
        let text = diptych::augment::named("infomin_jigsaw").unwrap();
        let last = text.len() - 1;
        let at = text[last].steps.len() - 2;
        let change = format!("view.{last}.steps.{at}.grid={grid}");
        recipe("name = \"infomin\"", &["view=infomin_jigsaw", &change])
    };
    grid(3).unwrap();
    assert!(grid(2).unwrap_err().contains("a `jigsaw` of grid 3"));
}
