//! Promises about what stands beside a number: confusions, classes, sweeps.

use super::{RECIPE, page_of};

const RECORD: &str = r#"{"protocol":"logistic","version":1,"metric":"top1","value":0.5}"#;

fn page(details: &str) -> String {
    page_of(
        "one",
        &[
            ("recipe.toml", RECIPE),
            ("evaluations/logistic.json", RECORD),
            ("evaluations/details/logistic.json", details),
        ],
    )
}

#[test]
fn which_class_was_taken_for_which_is_a_table() {
    let page = page(r#"{"confusion":[[3,1],[0,4]],"classes":["cat","<b>dog</b>"]}"#);
    assert!(page.contains(r#"style="--share: 75%" title="75 % of cat">3</td>"#), "{page}");
    assert!(page.contains("<th scope=\"row\">&#60;b&#62;dog&#60;/b&#62;</th>"), "names are text");
    assert!(!page.contains("<b>dog</b>"));
    // Wilson's interval of 3 of 4, and of 4 of 4.
    assert!(page.contains("30.1 to 95.4") && page.contains("51.0 to 100.0"), "{page}");
    assert!(page.contains("Accuracy by class"));
}

#[test]
fn counts_of_several_seeds_say_so_and_their_intervals_are_those_of_one() {
    let one = page(r#"{"confusion":[[3,1],[0,4]],"classes":["cat","dog"]}"#);
    assert!(!one.contains("Counts are sums"));
    let two = page(r#"{"confusion":[[6,2],[0,8]],"classes":["cat","dog"],"seeds":[4,5]}"#);
    assert!(
        two.contains("Counts are sums over the seeds 4, 5; what was swept is of seed 4."),
        "{two}"
    );
    assert!(two.contains("30.1 to 95.4") && two.contains(">6</td>"), "{two}");
    let first = page(r#"{"confusion":[[6,2]],"columns":["0","1"],"seeds":[4]}"#);
    assert!(first.contains("Of seed 4 alone."), "{first}");
}

#[test]
fn of_many_classes_the_worst_are_listed() {
    let row = |class: usize| {
        let mut counts = vec![0; 40];
        counts[class] = 10;
        counts[(class + 1) % 40] = class;
        format!("{counts:?}")
    };
    let rows: Vec<String> = (0..40).map(row).collect();
    let page = page(&format!(r#"{{"confusion":[{}]}}"#, rows.join(",")));
    assert!(!page.contains("class=\"confusion\""), "a table of 1,600 cells helps nobody");
    assert!(page.contains("The classes that fare worst"));
    // Of class 39, ten of 49 are right; 39 times it is taken for class 0.
    assert!(page.contains("20.41\u{202f}%") && page.contains("taken for 0, 39 times"), "{page}");
    assert!(!page.contains("taken for 2, 1 times"), "only the most frequent");
}

#[test]
fn average_precision_is_told_by_class_without_an_interval() {
    let page = page(r#"{"precision":[0.625,null,1.0],"classes":["cat","cow","dog"]}"#);
    assert!(
        page.contains("Average precision by class") && page.contains("62.50\u{202f}%"),
        "{page}"
    );
    assert!(page.contains(">dog</th>") && !page.contains(">cow</th>"), "no image shows a cow");
    assert!(!page.contains("interval</th><th scope=\"col\">Images"), "{page}");
}

/// A page with a sweep of two curves.
pub(super) fn sweep() -> String {
    let sweep = r#"{"sweeps":[{"setting":"weight_decay","measure":"top1 on the validation part","logarithmic":true,
        "at":[1e-6,1e-3,1.0],"curves":[["a",[0.25,0.5,0.375]],["b",[0.25,null,0.5]]],"chosen":0.001}]}"#;
    page(&sweep.replace("null", "0.125"))
}

#[test]
fn a_sweep_is_a_curve_and_a_table() {
    let page = sweep();
    assert!(page.contains("weight decay <span>top1 on the validation part</span>"), "{page}");
    assert!(page.contains("taken: <b>0.001</b>"));
    assert_eq!(page.matches("<polyline class=\"line s0 r0\"").count(), 1);
    assert_eq!(page.matches("<circle").count() - page.matches("class=\"spot\"").count(), 6);
    assert!(page.contains("<td>37.50\u{202f}%</td><td>50.00\u{202f}%</td>"), "{page}");
}

#[test]
fn damaged_details_are_named_and_empty_ones_left_out() {
    assert!(page("{").contains("evaluations/details/logistic.json could not be understood"));
    assert!(!page("{}").contains("class=\"detail\""));
    for odd in [
        r#"{"confusion":[[],[1,2,3]],"classes":["a"]}"#,
        r#"{"confusion":[[0,0],[0,0]]}"#,
        r#"{"sweeps":[{"setting":"k","measure":"m","logarithmic":true,"at":[0,-1],"curves":[["",[1]]]}]}"#,
        r#"{"sweeps":[{"setting":"k","measure":"m","logarithmic":false,"at":[],"curves":[]}]}"#,
    ] {
        page(odd);
    }
}
