//! Promises of logistic regression: its minimum, its sweep, several labels an image.

use super::super::average_precision::tests::golden;
use super::super::features::tests::made;
use super::*;
use crate::data::Presence;

fn far(left: &Tensor, right: &Tensor) -> f64 {
    (left - right).abs().max().double_value(&[])
}

fn golden_labels() -> Vec<i64> {
    golden("y").try_into().unwrap()
}

/// The classes of `tests/golden/logistic.py` and their features.
fn golden_set() -> Features {
    made(golden("h"), &golden_labels())
}

fn fit(solver: Solver, target: &Target, classes: i64, penalties: &[f64]) -> Vec<Fit> {
    let settings = Logistic { solver, ..Logistic::default() };
    settings.fit(&golden("h"), target, classes, penalties, None, &mut |_| ()).unwrap().0
}

/// `tests/golden/logistic.py`: scikit-learn's Newton solver.
#[test]
fn minima_are_those_of_scikit_learn() {
    let penalties: Vec<f64> = golden("penalties").try_into().unwrap();
    let (objective, weights) = (golden("objective"), golden("weights"));
    let fits = fit(Solver::Converged, &Target::One(golden("y")), 4, &penalties);
    for (at, fit) in fits.iter().enumerate() {
        let expected = objective.double_value(&[at as i64]);
        let lambda = penalties[at];
        assert!(
            (fit.objective / expected - 1.0).abs() < 2e-6,
            "{lambda} {} {expected}",
            fit.objective
        );
        assert!(fit.converged && fit.gradient <= 3e-3, "{lambda} {}", fit.gradient);
        let error = far(&fit.weights, &weights.get(at as i64));
        // The gap allowed bounds the error by sqrt(2 · gap / λ) where only the penalty curves.
        assert!(error < 2e-2 && (lambda < 0.5 || error < 4e-3), "{lambda}: {error}");
    }
}

/// `tests/golden/logistic.py`: `SciPy`'s L-BFGS-B, each penalty from where the last one stopped.
#[test]
fn the_reference_takes_the_steps_of_l_bfgs_b() {
    let (h, target) = (golden("h"), Target::One(golden("y")));
    let mut state = None;
    for (at, (penalty, iterations)) in [(0.5, 6), (2.0, 4), (8.0, 100)].into_iter().enumerate() {
        let rule = Rule { iterations, ..Solver::Reference.rule(300) };
        let mut chain = Chain::new(&h, &target, 4, rule, state).unwrap();
        let fit = chain.fit(penalty).unwrap();
        let expected = golden("chain").get(at as i64);
        let error = far(&fit.weights.view(-1), &expected.narrow(0, 0, 44));
        let value = expected.double_value(&[44]);
        if iterations < 100 {
            assert_eq!((fit.iterations, fit.converged), (iterations, false));
            assert!(error < 1e-8, "penalty {penalty}: {error}");
            assert!((fit.objective / value - 1.0).abs() < 1e-10, "{} {value}", fit.objective);
        } else {
            // Rounding grows from step to step: another order of sums ends elsewhere on the same floor.
            assert!((fit.objective / value - 1.0).abs() < 1e-4, "{} {value}", fit.objective);
        }
        state = Some(chain.state);
    }
}

fn presence(column: Option<i64>) -> MultiLabels {
    let labels = golden("labels");
    let labels = column.map_or(labels.shallow_clone(), |column| labels.narrow(1, column, 1));
    let classes = labels.size()[1] as usize;
    let values: Vec<u8> = labels.contiguous().view(-1).try_into().unwrap();
    let of =
        |value: &u8| [Presence::Absent, Presence::Present, Presence::Difficult][*value as usize];
    MultiLabels::new(classes, values.iter().map(of).collect()).unwrap()
}

/// `tests/golden/logistic.py`: scikit-learn on the images that are not difficult, class by class.
#[test]
fn each_class_of_many_is_a_logistic_regression_of_its_own() {
    let settings = Logistic::default();
    let rows: Vec<usize> = (0..300).collect();
    let target = Target::Many(settings.signs(&rows, &presence(None)).unwrap());
    let found = &fit(Solver::Converged, &target, 3, &[1.0])[0];
    assert!(far(&found.weights, &golden("single")) < 5e-3);
    // A softmax of two with penalty λ is a logistic regression with λ/2.
    let settings = Logistic { max_iterations: Some(2_000), solver: Solver::Reference, ..settings };
    let (found, _) = settings.fit(&golden("h"), &target, 3, &[2.0], None, &mut |_| ()).unwrap();
    assert!(far(&found[0].weights, &golden("single")) < 5e-3);
    assert!(found[0].converged);
}

fn random(rows: i64, columns: i64, item: u64) -> Tensor {
    let mut stream = Stream::open(6, Purpose::Test, Scope::Item(item));
    let values: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
    Tensor::from_slice(&values).view([rows, columns])
}

/// Clouds around seven centres, `width` wide.
fn clouds(images: i64, width: f64, item: u64) -> Features {
    let labels: Vec<i64> = (0..images).map(|image| image * image % 7).collect();
    let labels: Vec<i64> = labels.iter().zip(0..).map(|(a, b)| (a + b) % 7).collect();
    let centres = random(7, 12, 100);
    let h = random(images, 12, item) * width
        + centres.index_select(0, &Tensor::from_slice(&labels)) * 2.0;
    made(h.to_kind(Kind::Float), &labels)
}

fn run(settings: &Logistic, queries: &Features, references: &Features) -> Result<Outcome> {
    settings.evaluate(queries, references, None, 5, &mut |_, _| ())
}

#[test]
fn separable_features_are_separated_by_both_solvers_in_any_unit_and_place() {
    let (references, queries) = (clouds(300, 0.2, 1), clouds(100, 0.2, 2));
    for solver in [Solver::Converged, Solver::Reference] {
        let settings = Logistic { solver, ..Logistic::default() };
        for (scale, offset) in [(1.0, 0.0), (1e-2, 0.0), (10.0, 20.0)] {
            let moved = |side: &Features| made(&side.h * scale + offset, &side.labels());
            let found = run(&settings, &moved(&queries), &moved(&references)).unwrap();
            assert_eq!(found.ranks.top(1).value, 1.0, "{solver:?} {scale} {offset}");
            assert_eq!(found.training.top(1).value, 1.0);
            assert_eq!(found.logits.size(), [100, 7]);
        }
    }
}

#[test]
fn the_best_penalty_is_the_smallest_of_equals_and_both_parts_are_fitted_with_it() {
    let (references, queries) = (clouds(140, 1.5, 1), clouds(70, 1.5, 2));
    let mut last = (0, 0);
    let settings = Logistic::default();
    let found = settings
        .evaluate(&queries, &references, None, 5, &mut |done, all| {
            assert!(done > last.0, "{done} after {}", last.0);
            last = (done, all);
        })
        .unwrap();
    assert_eq!(last, (46, 46));
    let Choice { lambda, sweep, fit } = &found.choice;
    assert!(sweep.iter().map(|point| point.lambda).eq(penalties()));
    let best = sweep.iter().filter_map(|point| point.validation).fold(0.0, f64::max);
    let first = sweep.iter().find(|point| point.validation == Some(best)).unwrap();
    assert_eq!(first.lambda, *lambda);
    let lowest = sweep.iter().filter_map(|point| point.validation).fold(1.0, f64::min);
    assert!(lowest < best, "some penalty is worse");
    // Larger penalties cost more.
    assert!(sweep.windows(2).all(|pair| pair[0].objective < pair[1].objective));
    assert!(sweep.iter().all(|point| point.converged));
    let alone = Logistic { lambda: Some(*lambda), ..settings.clone() };
    let again = run(&alone, &queries, &references).unwrap();
    assert!(again.choice.sweep.is_empty());
    assert!((again.choice.fit.objective / fit.objective - 1.0).abs() < 1e-5);
    assert_eq!(again.ranks, found.ranks);
    // The same bits again, and other images held out by another seed.
    let repeated = run(&settings, &queries, &references).unwrap();
    assert_eq!(repeated.choice, found.choice);
    assert_eq!(repeated.logits, found.logits);
    let other = settings.evaluate(&queries, &references, None, 6, &mut |_, _| ()).unwrap();
    assert_ne!(other.choice.sweep, found.choice.sweep);
}

#[test]
fn the_order_of_images_changes_nothing_but_rounding() {
    let (references, queries) = (golden_set(), golden_set());
    let order: Vec<i64> = (0..300).map(|row| row * 7 % 300).collect();
    let turned = Tensor::from_slice(&order);
    let labels: Vec<i64> = order.iter().map(|row| golden_labels()[*row as usize]).collect();
    let turned = made(references.h.index_select(0, &turned), &labels);
    let settings = Logistic { lambda: Some(1.0), ..Logistic::default() };
    let (one, other) = (
        run(&settings, &queries, &references).unwrap(),
        run(&settings, &queries, &turned).unwrap(),
    );
    assert!(far(&one.logits, &other.logits) < 1e-2, "{}", far(&one.logits, &other.logits));
    let ratio = one.choice.fit.objective / other.choice.fit.objective;
    assert!((ratio - 1.0).abs() < 2e-6, "{ratio}");
}

#[test]
fn a_validation_split_is_chosen_on_and_then_learned_from() {
    let (references, queries) = (clouds(60, 1.0, 1), clouds(70, 1.0, 2));
    let validation = clouds(50, 1.0, 3);
    let settings = Logistic { metric: Metric::MeanPerClass, ..Logistic::default() };
    let found =
        settings.evaluate(&queries, &references, Some(&validation), 0, &mut |_, _| ()).unwrap();
    assert_eq!(found.training.labels.len(), 110);
    // No seed plays a part.
    let other =
        settings.evaluate(&queries, &references, Some(&validation), 9, &mut |_, _| ()).unwrap();
    assert_eq!(found.choice, other.choice);
    // The metric of one penalty, by hand.
    let lambda = found.choice.sweep[20].lambda;
    let alone = Logistic { lambda: Some(lambda), ..settings };
    let judged = run(&alone, &validation, &references).unwrap().ranks;
    let expected = judged.mean_per_class(0).value;
    assert!((found.choice.sweep[20].validation.unwrap() - expected).abs() < 1e-12);
}

#[test]
fn a_class_that_no_reference_has_is_never_predicted_and_few_images_are_fine() {
    let references = made(random(5, 3, 1).to_kind(Kind::Float), &[0, 4, 0, 4, 7]);
    let queries = made(random(2, 3, 2).to_kind(Kind::Float), &[8, 4]);
    let settings = Logistic { lambda: Some(1.0), ..Logistic::default() };
    let found = run(&settings, &queries, &references).unwrap();
    assert_eq!(found.ranks.classes, 9);
    assert_eq!(found.ranks.ranks[0], 8, "behind all that are known, and the lower unknown ones");
    assert_eq!(found.logits.double_value(&[0, 1]), f64::NEG_INFINITY);
}

#[test]
fn many_classes_share_a_penalty_and_are_judged_by_mean_average_precision() {
    let set = golden_set();
    let (queries, references) = ((&set, &presence(None)), (&set, &presence(None)));
    for solver in [Solver::Converged, Solver::Reference] {
        let settings = Logistic { solver, max_iterations: Some(30), ..Logistic::default() };
        let found =
            settings.evaluate_multi_label(queries, references, None, 1, &mut |_, _| ()).unwrap();
        assert_eq!(found.choice.sweep.len(), PENALTIES);
        assert_eq!(found.scores.size(), [300, 3]);
        // The queries are the references here.
        assert_eq!(found.training, found.precision.mean.value);
        assert!(found.training > 0.6, "{solver:?} {}", found.training);
        let [low, high] = found.precision.mean.interval_95.unwrap();
        assert!(low < found.training && found.training < high);
    }
    // Counting difficult images against a class changes what is learned and judged.
    let negative = Logistic { difficult: Difficult::Negative, ..Logistic::default() };
    let one = negative.evaluate_multi_label(queries, references, None, 1, &mut |_, _| ()).unwrap();
    let ignored =
        Logistic::default().evaluate_multi_label(queries, references, None, 1, &mut |_, _| ());
    assert!(one.training < ignored.unwrap().training);
    // Labels go by the index in the split: without image 0 the others keep theirs.
    let rest = Features {
        h: set.h.narrow(0, 1, 299),
        labels: set.labels.narrow(0, 1, 299),
        index: set.index.narrow(0, 1, 299),
        paths: set.paths[1..].to_vec(),
        damaged: Vec::new(),
    };
    let fixed = Logistic { lambda: Some(1.0), ..Logistic::default() };
    let found = fixed
        .evaluate_multi_label((&rest, &presence(None)), references, None, 1, &mut |_, _| ())
        .unwrap();
    assert!(found.precision.mean.value > 0.7);
}

#[test]
fn what_cannot_be_judged_is_an_error_that_says_why() {
    let set = || clouds(40, 1.0, 3);
    let settings = Logistic::default();
    let fails = |queries: &Features, references: &Features| {
        run(&settings, queries, references).map(|_| ()).unwrap_err()
    };
    let single = made(set().h, &[3; 40]);
    let error = fails(&set(), &single);
    assert!(matches!(error, Error::Data(_)), "{error}");
    assert!(error.to_string().contains("at least 2"), "{error}");
    let mut labels = set().labels();
    labels[7] = -1;
    assert!(matches!(fails(&set(), &made(set().h, &labels)), Error::Data(_)));
    assert!(matches!(fails(&set(), &made(set().h / 0.0, &set().labels())), Error::NonFinite(_)));
    assert!(matches!(fails(&made(set().h / 0.0, &set().labels()), &set()), Error::NonFinite(_)));
    assert!(matches!(
        fails(&made(set().h.narrow(1, 0, 3), &set().labels()), &set()),
        Error::Shape(_)
    ));
    let few = made(random(4, 12, 1).to_kind(Kind::Float), &[0, 1, 0, 1]);
    let error = fails(&set(), &few);
    assert!(error.to_string().contains("too few to hold out"), "{error}");
    let wrong = [
        Logistic { lambda: Some(-1.0), ..Logistic::default() },
        Logistic { lambda: Some(f64::NAN), ..Logistic::default() },
        Logistic { max_iterations: Some(0), ..Logistic::default() },
        Logistic { validation_share: 0.0, ..Logistic::default() },
        Logistic { validation_share: 1.0, ..Logistic::default() },
    ];
    for settings in wrong {
        let error = run(&settings, &set(), &set()).map(|_| ()).unwrap_err();
        assert!(matches!(&error, Error::Recipe(text) if text.contains("`logistic.")), "{error}");
    }
}

#[test]
fn labels_of_many_classes_must_fit() {
    let set = golden_set();
    let labels = presence(None);
    let one = presence(Some(0));
    let never = MultiLabels::new(1, vec![Presence::Absent; 300]).unwrap();
    let short = MultiLabels::new(3, vec![Presence::Present; 30]).unwrap();
    let fails = |queries: &MultiLabels, references: &MultiLabels| {
        let settings = Logistic::default();
        let found = settings.evaluate_multi_label(
            (&set, queries),
            (&set, references),
            None,
            0,
            &mut |_, _| (),
        );
        let error = found.map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error}");
        error.to_string()
    };
    assert!(fails(&one, &labels).contains("classes"));
    assert!(fails(&never, &never).contains("class 0"));
    assert!(fails(&short, &labels).contains("no labels"));
    let empty = made(set.h.narrow(0, 0, 0), &[]);
    let (none, all) = ((&empty, &labels), (&set, &labels));
    let run = |queries, references| {
        Logistic::default().evaluate_multi_label(queries, references, None, 0, &mut |_, _| ())
    };
    assert!(matches!(run(none, all), Err(Error::Data(_))));
    assert!(matches!(run(all, none), Err(Error::Data(_))));
}

#[test]
fn settings_are_read_by_their_names() {
    let text = "solver = \"reference\"\nmax_iterations = 50\nmetric = \"mean_per_class\"\n\
                    difficult = \"negative\"\naverage_precision = \"eleven_point_extra\"\n";
    let read: Logistic = toml::from_str(text).unwrap();
    let expected = Logistic {
        solver: Solver::Reference,
        max_iterations: Some(50),
        metric: Metric::MeanPerClass,
        difficult: Difficult::Negative,
        average_precision: AveragePrecision::ElevenPointExtra,
        ..Logistic::default()
    };
    assert_eq!(read, expected);
    assert_eq!(toml::from_str::<Logistic>(&toml::to_string(&expected).unwrap()).unwrap(), expected);
    assert!(toml::from_str::<Logistic>("lamda = 1.0").is_err());
}

#[test]
fn the_penalties_are_the_published_ones() {
    let all = penalties();
    for (at, expected) in
        [(0, 1e-6), (1, 1.778_279e-6), (2, 3.162_278e-6), (43, 5.623_413e4), (44, 1e5)]
    {
        assert!((all[at] / expected - 1.0).abs() < 1e-6, "{} {expected}", all[at]);
    }
}
