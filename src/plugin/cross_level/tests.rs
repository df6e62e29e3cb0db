use super::*;
use crate::model::heads::Head;
use crate::model::{Parameters, Phase, Statistics};
use crate::random::{Purpose, Scope, Stream};
use crate::rows::unit_rows;
use std::collections::HashMap;
use tch::Device;

fn read(settings: &str) -> CrossLevel {
    toml::from_str(settings).unwrap()
}

fn rows(item: u64, count: i64, width: i64) -> Tensor {
    let mut stream = Stream::open(29, Purpose::Test, Scope::Item(item));
    let values: Vec<f64> = (0..count * width).map(|_| stream.normal()).collect();
    unit_rows(&Tensor::from_slice(&values).view([count, width]))
}

fn leaf(rows: &Tensor) -> Tensor {
    rows.detach().copy().set_requires_grad(true)
}

fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found - expected).abs().max().double_value(&[])
}

/// The two views of Appendix A, normalised.
fn appendix() -> [Tensor; 2] {
    [[1.0, 0.0, 0.0, 1.0, 0.9, 0.1, 0.1, 0.9], [0.8, 0.2, 0.2, 0.8, 1.0, 0.1, -0.1, 1.0]]
        .map(|rows| unit_rows(&Tensor::from_slice(&rows).view([4, 2])))
}

fn value(settings: &str, [first, second]: &[Tensor; 2]) -> f64 {
    read(settings).loss(first, second, 1).unwrap().loss.double_value(&[])
}

#[test]
fn published_vectors_are_met() {
    let views = appendix();
    for (settings, expected) in [
        ("groups = 2", 0.019_706_403_8),
        ("groups = 2\ncross = false", 0.020_624_428_7),
        ("groups = 4", 0.749_557_508_1),
        ("groups = 6", 0.756_589_596_1),
    ] {
        let found = value(settings, &views);
        assert!((found - expected).abs() < 1e-9, "{settings}: {found}");
    }
    let found = read("groups = 2").loss(&views[0], &views[1], 1).unwrap();
    assert!((found.group_accuracy - 1.0).abs() < 1e-12 && found.empty.abs() < 1e-12);
    let more = read("groups = 6").loss(&views[0], &views[1], 1).unwrap();
    assert!((more.empty - 2.0 / 6.0).abs() < 1e-12);

    for (view, expected) in views.iter().zip([
        [0.996_941_9, 0.055_215_8, 0.055_215_8, 0.996_941_9],
        [0.982_589_8, 0.171_019_7, 0.071_516_0, 0.982_589_8],
    ]) {
        let grouped = read("groups = 2").group(&view.unsqueeze(0));
        assert_eq!(Vec::<Vec<i64>>::try_from(grouped.labels).unwrap(), [[0, 1, 0, 1]]);
        let expected = Tensor::from_slice(&expected).view([1, 2, 2]);
        assert!(distance(&grouped.centroids, &expected) < 1e-7);
    }
}

#[test]
fn groups_losses_and_gradients_equal_the_released_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/cross_level.safetensors");
    let arrays: HashMap<String, Tensor> =
        Tensor::read_safetensors(path).unwrap().into_iter().collect();
    let spectral = "grouping = 'spectral'\ngroups = ";
    for (name, settings) in [
        ("k_means", "groups = 7".to_owned()),
        ("k_means_spherical", "groups = 7\ncentroid_norm = true".to_owned()),
        ("k_means_detached", "groups = 7\ndetach_centroids = true".to_owned()),
        ("k_means_own", "groups = 7\niterations = 3\ncross = false".to_owned()),
        ("k_means_many", "groups = 60".to_owned()),
        ("spectral", format!("{spectral} 4")),
        ("spectral_more", format!("{spectral} 9\nk_eigen = 3")),
    ] {
        let settings = read(&settings);
        let views = [0, 1].map(|view| leaf(&arrays["views"].get(view)));
        for (view, labels) in views.iter().zip(["labels1", "labels2"]) {
            let found = settings.group(&view.unsqueeze(0)).labels.squeeze_dim(0);
            assert_eq!(found, arrays[&format!("{name}.{labels}")], "{name} {labels}");
        }
        let found = settings.loss(&views[0], &views[1], 1).unwrap().loss;
        found.backward();
        assert!(distance(&found.detach(), &arrays[&format!("{name}.loss")]) < 1e-12, "{name}");
        let gradient = Tensor::stack(&views.each_ref().map(Tensor::grad), 0);
        let off = distance(&gradient, &arrays[&format!("{name}.gradient")]);
        assert!(off < 1e-12, "{name}: {off}");
    }
    // scikit-learn finds the same four clusters, and both are the made ones.
    let found = Vec::<i64>::try_from(&arrays["spectral.labels1"]).unwrap();
    for name in ["sklearn.labels", "truth"] {
        let other = Vec::<i64>::try_from(&arrays[name]).unwrap();
        let mut pairs: Vec<_> = found.iter().zip(&other).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), 4, "{name}");
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_loss_through_rows_and_centroids() {
    // Small steps leave every row in its group, so the loss is smooth.
    for settings in ["groups = 3", "groups = 3\ncentroid_norm = true\ndrop_empty = true"] {
        let views = [leaf(&rows(0, 8, 3)), leaf(&rows(1, 8, 3))];
        read(settings).loss(&views[0], &views[1], 2).unwrap().loss.backward();
        for (view, row, column) in (0..2)
            .flat_map(|view| (0..8).map(move |row| (view, row)))
            .flat_map(|(view, row)| (0..3).map(move |column| (view, row, column)))
        {
            let moved = |by: f64| {
                let moved = views.each_ref().map(|view| view.detach().copy());
                let _ = moved[view].get(row).get(column).g_add_scalar_(by);
                let found = read(settings).loss(&moved[0], &moved[1], 2).unwrap();
                found.loss.double_value(&[])
            };
            let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            let found = views[view].grad().double_value(&[row, column]);
            assert!((found - slope).abs() < 1e-8, "{settings}: {found}, {slope}");
        }
    }
}

#[test]
fn constant_centroids_send_no_gradient_to_the_other_view() {
    let pull = |settings: &str| {
        let views = [leaf(&rows(0, 6, 3)), rows(1, 6, 3)];
        let settings = read(settings);
        let [one, two] = views.each_ref().map(|view| settings.group(&view.unsqueeze(0)));
        let (loss, _) = settings.classify(&two.rows, &one);
        loss.requires_grad()
    };
    assert!(pull("groups = 2"));
    assert!(!pull("groups = 2\ndetach_centroids = true"));
}

#[test]
fn each_rank_groups_its_own_images() {
    let views = [rows(0, 24, 5), rows(1, 24, 5)];
    let settings = read("groups = 4\nper_rank = true");
    let whole = settings.loss(&views[0], &views[1], 3).unwrap();
    let parts: Vec<CrossLevelLoss> = (0..3)
        .map(|rank| {
            let [one, two] = views.each_ref().map(|view| view.narrow(0, 8 * rank, 8));
            settings.loss(&one, &two, 1).unwrap()
        })
        .collect();
    let mean = |of: &dyn Fn(&CrossLevelLoss) -> f64| parts.iter().map(of).sum::<f64>() / 3.0;
    let loss = |found: &CrossLevelLoss| found.loss.double_value(&[]);
    assert!((loss(&whole) - mean(&loss)).abs() < 1e-12);
    assert!((whole.group_accuracy - mean(&|part| part.group_accuracy)).abs() < 1e-12);
    assert!((whole.empty - mean(&|part| part.empty)).abs() < 1e-12);

    let together = read("groups = 4");
    let [three, one] = [3, 1].map(|r| loss(&together.loss(&views[0], &views[1], r).unwrap()));
    assert!((three - one).abs() < 1e-15);
    assert!((three - loss(&whole)).abs() > 1e-6);
    assert!(settings.loss(&views[0], &views[1], 5).is_err());
    assert!(settings.loss(&views[0], &views[1].narrow(0, 0, 8), 1).is_err());
}

#[test]
fn groups_without_members_weigh_in_unless_they_are_dropped() {
    // Two groups beyond the four rows: each adds exp(0) to every sum.
    let views = appendix();
    let (kept, dropped) =
        (value("groups = 6", &views), value("groups = 6\ndrop_empty = true", &views));
    assert!((dropped - value("groups = 4", &views)).abs() < 1e-12);
    assert!(kept > dropped);
}

#[test]
fn order_matters_only_through_the_first_rows() {
    let views = [rows(0, 20, 4), rows(1, 20, 4)];
    let order: Vec<i64> = [0, 1, 2].into_iter().chain((3..20).rev()).collect();
    let order = Tensor::from_slice(&order);
    let moved = views.each_ref().map(|view| view.index_select(0, &order));
    assert!((value("groups = 3", &views) - value("groups = 3", &moved)).abs() < 1e-12);
    let swapped = [views[1].shallow_clone(), views[0].shallow_clone()];
    assert!((value("groups = 3", &views) - value("groups = 3", &swapped)).abs() < 1e-12);
}

#[test]
fn both_ends_of_the_spectrum_are_what_they_say() {
    let rows = rows(0, 12, 4).unsqueeze(0);
    let take = |count, end, unit| clustering::spectral_embedding(&rows, count, end, unit);
    let all = take(12, SpectrumEnd::Smallest, false);
    assert_eq!(all, take(12, SpectrumEnd::Largest, false));
    assert_eq!(all, take(99, SpectrumEnd::Smallest, false));
    assert_eq!(take(3, SpectrumEnd::Smallest, false), all.narrow(-1, 0, 3));
    assert_eq!(take(3, SpectrumEnd::Largest, false), all.narrow(-1, 9, 3));
    // (D - W) e = μ D e, ascending: the smallest is 0 with a constant e, and the generalised Rayleigh quotients grow.
    let similarity =
        rows.matmul(&rows.transpose(1, 2)).abs().squeeze_dim(0).fill_diagonal_(0.0, false);
    let degree = similarity.sum_dim_intlist(1, true, None);
    let e = all.squeeze_dim(0);
    let weighted = &e * &degree;
    let left = &weighted - similarity.mm(&e);
    let values = (&e * &left).sum_dim_intlist(0, false, None);
    assert!(distance(&left, &(weighted * &values)) < 1e-12);
    let values = Vec::<f64>::try_from(values).unwrap();
    assert!(values[0].abs() < 1e-12 && values.is_sorted());
    let lengths = take(3, SpectrumEnd::Smallest, true).square().sum_dim_intlist(-1, false, None);
    assert!((lengths - 1.0).abs().max().double_value(&[]) < 1e-12);
}

#[test]
fn damaged_and_equal_rows_end_in_the_loss_and_not_in_the_solver() {
    for grouping in ["k_means", "spectral"] {
        let settings = format!("groups = 3\ngrouping = '{grouping}'");
        let nothing = rows(0, 6, 4) * f64::NAN;
        assert!(value(&settings, &[nothing.shallow_clone(), nothing]).is_nan());
        // All rows equal: one group of all with logits 1/T, 0 and 0. Their spectrum has no first vectors, so cuts fall
        // anywhere, between centroids that are equal.
        let same = rows(0, 1, 4).repeat([6, 1]);
        let found = value(&settings, &[same.shallow_clone(), same]);
        let one_group = (5.0_f64.exp() + 2.0).ln() - 5.0;
        let range = if grouping == "k_means" { [one_group; 2] } else { [one_group, 3.0_f64.ln()] };
        assert!(found > range[0] - 1e-9 && found < range[1] + 1e-9, "{grouping}: {found}");
        // Rows at right angles have no similarity to anything.
        let axes = Tensor::eye(4, (Kind::Double, Device::Cpu));
        assert!(value(&settings, &[axes.shallow_clone(), axes]).is_finite());
    }
}

#[test]
fn half_precision_is_widened() {
    let [one, two] = [rows(0, 8, 4), rows(1, 8, 4)].map(|rows| rows.to_kind(Kind::BFloat16));
    let [wide_one, wide_two] = [&one, &two].map(|rows| rows.to_kind(Kind::Float));
    let settings = read("groups = 2");
    let found = settings.loss(&one, &two, 1).unwrap().loss;
    assert_eq!(found.kind(), Kind::Double);
    assert_eq!(found, settings.loss(&wide_one, &wide_two, 1).unwrap().loss);
}

#[test]
fn the_branch_has_the_layers_of_the_published_heads() {
    let parameters = |settings: &str| {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Double);
        let head = read(settings)
            .layer(16)
            .map(|config| Head::build(&mut parameters.root(), 32, &config).unwrap());
        let phase = Phase::Training { groups: 1, statistics: Statistics::Keep };
        let largest = head.map(|h| h.forward(&(rows(0, 9, 32) * 50.0), phase).abs().max());
        (parameters.count(), largest.map(|largest| largest.double_value(&[])))
    };
    let (count, largest) = parameters("");
    assert_eq!(count, 32 * 16 + 16);
    assert!(largest.unwrap() > 1.0);
    let (count, largest) = parameters("head = 'norm_linear'");
    assert_eq!(count, 32 * 16);
    assert!(largest.unwrap() < 1.0);
    assert_eq!(parameters("branch = 'shared'"), (0, None));
    let on_hidden = ["linear", "norm_linear", "mlp", "norm_mlp"]
        .map(|head| read(&format!("head = '{head}'")).on_hidden());
    assert_eq!(on_hidden, [false, false, true, true]);
}

#[test]
fn settings_are_checked_and_too_many_groups_warned_of() {
    assert!(read("").check().is_ok());
    let refused = |settings: &str, key: &str| {
        let message = read(settings).check().unwrap_err().to_string();
        assert!(message.starts_with(&format!("`plugins.cross_level.{key}` must")), "{message}");
    };
    refused("groups = 0", "groups");
    refused("weight = -1.0", "weight");
    refused("temperature = 0.0", "temperature");
    refused("iterations = 0", "iterations");
    refused("k_eigen = 0", "k_eigen");
    let unread = |settings: &str, key: &str| {
        let message = read(settings).check().unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("`plugins.cross_level.{key}` is read with")),
            "{message}"
        );
    };
    unread("k_eigen = 3", "k_eigen");
    unread("row_norm = true", "row_norm");
    unread("eig_end = 'largest'", "eig_end");
    unread("branch = 'shared'\nhead = 'mlp'", "head");
    assert!(read("grouping = 'spectral'\nk_eigen = 3\nrow_norm = true").check().is_ok());
    assert!(toml::from_str::<CrossLevel>("group = 3").is_err());
    let warned = |images| read("groups = 120").warning(images);
    assert!(warned(64).unwrap().contains("`plugins.cross_level.groups` is 120 for 64 images"));
    assert!(warned(240).is_some() && warned(241).is_none());
}
