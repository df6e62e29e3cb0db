//! Promises of few-shot classification.

use super::super::features::tests::made;
use super::*;

fn random(rows: i64, columns: i64, item: u64) -> Tensor {
    let mut stream = Stream::open(4, Purpose::Test, Scope::Item(item));
    let values: Vec<f32> = (0..rows * columns).map(|_| stream.normal() as f32).collect();
    Tensor::from_slice(&values).view([rows, columns])
}

/// Classes around directions, noise of a given size, far from the origin.
fn side(classes: i64, each: i64, noise: f64, item: u64) -> Features {
    let labels: Vec<i64> = (0..classes * each).map(|image| image % classes).collect();
    let centres = random(classes, 10, 99).index_select(0, &Tensor::from_slice(&labels));
    made(centres + random(classes * each, 10, item) * noise + 7.0, &labels)
}

fn few(ways: usize, shots: usize) -> FewShot {
    FewShot { ways, shots, queries: 4, episodes: 300, ..FewShot::default() }
}

#[test]
fn clear_classes_are_told_apart_and_noise_is_chance() {
    let references = side(6, 30, 0.1, 1);
    let clear = few(5, 1).evaluate(&side(6, 20, 0.1, 2), &references, 1).unwrap();
    assert!(clear.accuracy.value > 0.99, "{clear:?}");
    assert_eq!(clear.eligible_classes, 6);
    let noise = few(5, 5).evaluate(&side(6, 20, 1e4, 3), &references, 1).unwrap();
    let [low, high] = noise.accuracy.interval_95.unwrap();
    assert!((noise.accuracy.value - 0.2).abs() < 0.03 && low < high, "{noise:?}");
}

#[test]
fn more_shots_help_and_the_interval_narrows_with_the_episodes() {
    let (queries, references) = (side(6, 40, 1.0, 4), side(6, 40, 1.0, 5));
    let run = |settings: FewShot| settings.evaluate(&queries, &references, 2).unwrap();
    let (one, five) = (run(few(5, 1)), run(few(5, 5)));
    assert!(five.accuracy.value > one.accuracy.value + 0.05, "{one:?} {five:?}");
    let width = |outcome: &Outcome| {
        let [low, high] = outcome.accuracy.interval_95.unwrap();
        high - low
    };
    let many = run(FewShot { episodes: 2_700, ..few(5, 1) });
    let ratio = width(&one) / width(&many);
    assert!((2.6..3.4).contains(&ratio), "a third for nine times as many: {ratio}");
    assert!((width(&one) - 2.0 * 1.959_964 * one.deviation / 300f64.sqrt()).abs() < 1e-12);
    assert_eq!(one, run(few(5, 1)));
    assert_ne!(one, few(5, 1).evaluate(&queries, &references, 3).unwrap());
}

/// The whole episode again, with tensors in f64.
#[test]
fn an_episode_is_what_plain_arithmetic_gives() {
    let (queries, references) = (side(4, 12, 1.5, 6), side(4, 12, 1.5, 7));
    let rows = centred(&queries.h, &references.h).unwrap();
    let classes: Vec<Vec<usize>> =
        (0..3).map(|class| (0..7).map(|at| class + 4 * at).collect()).collect();
    let unit = |rows: Tensor| &rows / rows.square().sum_dim_intlist(1, true, Kind::Double).sqrt();
    let h = unit(queries.h.to_kind(Kind::Double) - references.h.mean_dim(0i64, true, Kind::Double));
    let pick = |images: &[usize]| {
        let at: Vec<i64> = images.iter().map(|image| *image as i64).collect();
        h.index_select(0, &Tensor::from_slice(&at))
    };
    for distance in [Distance::Cosine, Distance::Euclidean] {
        let settings = FewShot { ways: 3, shots: 3, queries: 4, distance, ..FewShot::default() };
        let means: Vec<Tensor> =
            classes.iter().map(|images| pick(&images[..3]).mean_dim(0i64, false, None)).collect();
        let means = Tensor::stack(&means, 0);
        let mut correct = 0.0;
        for (label, images) in classes.iter().enumerate() {
            let asked = pick(&images[3..]);
            let found = match distance {
                Distance::Cosine => {
                    asked.matmul(&unit(means.shallow_clone()).tr()).argmax(1, false)
                }
                Distance::Euclidean => Tensor::cdist(&asked, &means, 2.0, None).argmin(1, false),
            };
            correct += found.eq(label as i64).sum(Kind::Double).double_value(&[]);
        }
        assert!((settings.episode(&rows, &classes) - correct / 12.0).abs() < 1e-12, "{distance:?}");
        assert!(correct > 4.0 && correct < 12.0, "{correct} tells nothing");
    }
}

#[test]
fn draws_are_different_and_reach_everything() {
    for (n, count) in [(5, 5), (40, 3), (9, 4)] {
        let mut seen = vec![0; n];
        for item in 0..200 {
            let mut stream = Stream::open(1, Purpose::Test, Scope::Item(item));
            let mut drawn = draw(&mut stream, n, count);
            for at in &drawn {
                seen[*at] += 1;
            }
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), count);
        }
        assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
    }
}

#[test]
fn what_cannot_be_judged_is_an_error() {
    let (queries, references) = (side(6, 10, 1.0, 1), side(6, 10, 1.0, 2));
    let fails = |settings: FewShot, q: &Features| settings.evaluate(q, &references, 0).unwrap_err();
    let bad = [
        FewShot { ways: 1, ..few(5, 1) },
        FewShot { queries: 0, ..few(5, 1) },
        FewShot { episodes: 1, ..few(5, 1) },
        few(5, 0),
    ];
    for bad in bad {
        assert!(matches!(fails(bad, &queries), Error::Recipe(_)));
    }
    let message = fails(few(7, 1), &queries).to_string();
    assert!(message.contains("7 ways") && message.contains("found 6"), "{message}");
    assert!(matches!(fails(few(5, 7), &queries), Error::Data(_)), "10 images are not 7 + 4");
    let one_class = made(queries.h.shallow_clone(), &[3; 60]);
    assert!(matches!(fails(few(2, 1), &one_class), Error::Data(_)));
    let unlabelled = made(queries.h.shallow_clone(), &[-1; 60]);
    assert!(matches!(fails(few(5, 1), &unlabelled), Error::Data(_)));
    let narrow = made(queries.h.narrow(1, 0, 2), &queries.labels());
    assert!(matches!(fails(few(5, 1), &narrow), Error::Shape(_)));
    let broken = made(&queries.h / 0.0, &queries.labels());
    assert!(matches!(fails(few(5, 1), &broken), Error::NonFinite(_)));
}
