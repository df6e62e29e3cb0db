use super::super::pca::pca;
use super::super::quality::Judge;
use super::*;
use serde_json::Value;
use tch::Kind;

/// Blobs of unit variance around corners `apart` from one another.
fn blobs(count: usize, corners: usize, apart: f64) -> (Tensor, Vec<i64>) {
    let mut stream = Stream::open(5, Purpose::Test, Scope::Item(0));
    let labels: Vec<i64> = (0..count).map(|row| (row % corners) as i64).collect();
    let values: Vec<f32> = labels
        .iter()
        .flat_map(|label| {
            (0..10)
                .map(|axis| {
                    let corner = if axis == *label { apart } else { 0.0 };
                    (corner + stream.normal()) as f32
                })
                .collect::<Vec<_>>()
        })
        .collect();
    (Tensor::from_slice(&values).view([-1, 10]), labels)
}

fn mapped(settings: &Tsne, rows: &Tensor) -> Embedding {
    settings.fit(rows, &pca(rows).unwrap().points, 0, &mut |_, _| ()).unwrap()
}

#[test]
fn two_far_blobs_come_apart_and_the_divergence_falls_once_exaggeration_ends() {
    let (rows, labels) = blobs(300, 2, 60.0);
    let found = mapped(&Tsne::default(), &rows);
    let mean = |class: i64| {
        let own: Vec<Point> = labels
            .iter()
            .zip(&found.points)
            .filter(|(label, _)| **label == class)
            .map(|(_, point)| *point)
            .collect();
        let mean = [0, 1].map(|axis: usize| own.iter().map(|p| p[axis]).sum::<f32>() / 150.0);
        let far = own.iter().map(|p| (p[0] - mean[0]).hypot(p[1] - mean[1])).fold(0.0, f32::max);
        (mean, far)
    };
    let ((a, radius_a), (b, radius_b)) = (mean(0), mean(1));
    let apart = (a[0] - b[0]).hypot(a[1] - b[1]);
    assert!(apart > 1.5 * (radius_a + radius_b), "{apart} {radius_a} {radius_b}");
    let late: Vec<f64> =
        found.trace.iter().filter(|(round, _)| *round >= 250).map(|(_, kl)| *kl).collect();
    assert!(late.len() > 3 && late[late.len() - 1] < late[0], "{late:?}");
    assert!(late[1..].windows(2).all(|pair| pair[1] < pair[0] + 1e-3), "{late:?}");
    assert!((found.kl - late[late.len() - 1]).abs() < 0.01 && found.kl > 0.0, "{}", found.kl);
}

#[test]
fn it_is_as_good_as_scikit_learn_on_the_same_rows() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/map.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(golden["features"].clone()).unwrap();
    let rows = Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1]);
    let labels: Vec<i64> = serde_json::from_value(golden["labels"].clone()).unwrap();
    let peer = |key: &str| golden["tsne"][key].as_f64().unwrap();
    for exact_up_to in [2_000, 0] {
        let settings = Tsne { perplexity: peer("perplexity"), exact_up_to, ..Tsne::default() };
        let found = mapped(&settings, &rows);
        assert!(found.kl < 1.03 * peer("kl"), "{} {}", found.kl, peer("kl"));
        let quality = Judge::default().compare(&rows, &found.points, &labels, 0).unwrap();
        let trust = quality.trustworthiness;
        assert!(trust > peer("trustworthiness") - 0.01, "{trust} {}", peer("trustworthiness"));
    }
}

#[test]
fn threads_change_no_bit_and_the_seed_only_a_random_start() {
    let (rows, _) = blobs(400, 4, 8.0);
    let short =
        Tsne { iterations: 60, exaggeration_iterations: 30, exact_up_to: 0, ..Tsne::default() };
    let components = pca(&rows).unwrap().points;
    let found = neighbours_by(&[Distance::Euclidean], &rows, &rows, 91, true).unwrap();
    let affinities = Affinities::new(&found[0], 400, 30.0);
    let with = |settings: &Tsne, threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let start = settings.begin(&components, seed).unwrap();
        pool.install(|| settings.descend(&affinities, start, &mut |_, _| ()))
    };
    assert_eq!(with(&short, 1, 0), with(&short, 3, 9));
    let random = Tsne { start: Start::Random, ..short };
    assert_eq!(with(&random, 1, 4), with(&random, 2, 4));
    assert_ne!(with(&random, 1, 4).points, with(&random, 1, 5).points);
}

#[test]
fn equal_rows_among_others_do_not_break_it() {
    let (rows, _) = blobs(200, 2, 20.0);
    let same = rows.narrow(0, 0, 1).expand([120, 10], false);
    let found =
        mapped(&Tsne { iterations: 300, ..Tsne::default() }, &Tensor::cat(&[rows, same], 0));
    assert!(found.points.as_flattened().iter().all(|at| at.is_finite()) && found.kl.is_finite());
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    let (rows, _) = blobs(90, 2, 5.0);
    let components = pca(&rows).unwrap().points;
    let fit = |settings: &Tsne, rows: &Tensor| settings.fit(rows, &components, 0, &mut |_, _| ());
    let message = fit(&Tsne::default(), &rows).unwrap_err().to_string();
    assert!(message.contains("91 neighbours") && message.contains("at most 29"), "{message}");
    let settings = Tsne { perplexity: 29.0, iterations: 250, ..Tsne::default() };
    assert_eq!(fit(&settings, &rows).unwrap().points.len(), 90);
    assert!(matches!(fit(&settings, &(&rows * f64::NAN)).unwrap_err(), Error::NonFinite(_)));
    assert!(matches!(fit(&settings, &rows.narrow(0, 0, 80)).unwrap_err(), Error::Shape(_)));
    let equal = Tensor::ones([90, 10], (Kind::Float, tch::Device::Cpu));
    let nowhere = vec![[0.0; 2]; 90];
    let collapsed = settings.fit(&equal, &nowhere, 0, &mut |_, _| ()).unwrap_err();
    assert!(matches!(collapsed, Error::Collapsed(_)), "{collapsed}");
    for (settings, key) in [
        (Tsne { perplexity: 0.5, ..Tsne::default() }, "perplexity"),
        (Tsne { learning_rate: Some(0.0), ..Tsne::default() }, "learning_rate"),
        (Tsne { exaggeration: f64::NAN, ..Tsne::default() }, "exaggeration"),
        (Tsne { theta: 1.5, ..Tsne::default() }, "theta"),
        (Tsne { iterations: 100, ..Tsne::default() }, "iterations"),
    ] {
        let message = settings.check().unwrap_err().to_string();
        assert!(message.starts_with(&format!("`tsne.{key}` must")), "{message}");
    }
}
