//! MoCo, InfoMin, NPID and SimCLR by hand: which rows are compared, and what is remembered when.

use crate::hand::{
    FEATURES, IMAGES, Named, PLAIN, after, cosine, dot, equal, equal_rows, images, info_nce,
    method, objective, rows, unit, values,
};
use crate::made::{BATCH, Case, GROUP, at, config, labels, plugins};
use diptych::loss::generalized::Generalized;
use diptych::loss::instance::sample;
use diptych::method::Config;
use diptych::model::{Phase, Statistics};
use diptych::plugin::Plugins;
use diptych::random::{Purpose, Scope, Stream};
use diptych::train::Precision;
use diptych::train::step::gradient;
use diptych::train::stop::Stop;
use tch::{Kind, Tensor};

const N: i64 = BATCH as i64;
const T: f64 = 0.2;

fn moco(changes: &[&str]) -> Config {
    config("moco", &[PLAIN, &["queue_length=24", "momentum=0.9"], changes].concat())
}

fn view(rows: &Tensor, view: i64) -> Tensor {
    rows.select(0, view)
}

/// Queries of an online view, keys of a target view.
fn query(named: &Named, online: &Tensor, index: i64) -> Tensor {
    named.unit_head("projector", &view(online, index))
}

fn key(named: &Named, targets: &Tensor, index: i64) -> Tensor {
    named.unit_head("momentum.projector", &view(targets, index))
}

#[test]
fn moco_compares_with_the_queue_as_it_was_and_then_puts_the_keys_in_it() {
    let mixed = plugins("[feature_transformation]\n");
    for plugins in [Plugins::default(), mixed] {
        let method = method(&moco(&[]), &plugins, 0);
        // The networks are to differ, as they do after a while.
        method.parameters().trainable().for_each(|p| {
            let _ = tch::no_grad(|| p.tensor.shallow_clone().g_mul_scalar_(1.1));
        });
        let labels = labels();
        // 24 keys: the second batch of 16 wraps around.
        for step in 0..3 {
            let (online, targets) = (rows(step, 1), rows(50 + step, 1));
            let before = Named::of(method.as_ref());
            let found = objective(method.as_ref(), step, &online, Some(&targets), 1);
            let (q, k) = (query(&before, &online, 0), key(&before, &targets, 0));
            let old = before.get("queue.0.rows");
            let expected = match &plugins.feature_transformation {
                None => info_nce(&q, &k, old, T),
                Some(mixing) => {
                    let images = images(step);
                    let at = at(step, &images, &labels, 1);
                    let stream = |part| at.stream(Purpose::Mix, part);
                    let (far_q, far_k) = mixing.positives(&q, &k, &mut stream(0)).unwrap();
                    let negatives = mixing.negatives(old, &mut stream(1)).unwrap();
                    info_nce(&far_q, &far_k, &negatives.columns, T)
                }
            };
            equal(found.loss, expected);
            equal_rows(Named::of(method.as_ref()).get("queue.0.rows"), old);

            after(method.as_ref(), step, &found.carried, 1);
            let now = Named::of(method.as_ref());
            let queue = now.get("queue.0.rows");
            for row in 0..N {
                let place = (step as i64 * N + row) % 24;
                // The keys themselves, whatever they were mixed to.
                equal_rows(&queue.get(place), &k.get(row));
            }
            assert_eq!(now.get("queue.0.pointer").int64_value(&[0]), (step as i64 + 1) * N % 24);
            let kept = (0..24).filter(|row| queue.get(*row) == old.get(*row)).count();
            assert_eq!(kept, 24 - BATCH);
        }
    }
}

#[test]
fn a_symmetric_moco_has_both_directions_and_remembers_both_keys() {
    let (online, targets) = (rows(1, 2), rows(2, 2));
    for (symmetric, weight, own) in [("sum", 1.0, false), ("mean", 0.5, true)] {
        let method = method(&moco(&[&format!("symmetric={symmetric}")]), &Plugins::default(), 0);
        let named = Named::of(method.as_ref());
        let found = objective(method.as_ref(), 0, &online, Some(&targets), 1);
        let q = [0, 1].map(|index| query(&named, &online, index));
        let k = [0, 1].map(|index| key(&named, &targets, index));
        let queue =
            |of_view: usize| named.get(&format!("queue.{}.rows", if own { of_view } else { 0 }));
        let expected = info_nce(&q[0], &k[1], queue(1), T) + info_nce(&q[1], &k[0], queue(0), T);
        equal(found.loss, expected * weight);
        after(method.as_ref(), 0, &found.carried, 1);
        let now = Named::of(method.as_ref());
        if own {
            for (index, keys) in k.iter().enumerate() {
                equal_rows(&now.get(&format!("queue.{index}.rows")).narrow(0, 0, N), keys);
            }
        } else {
            // First views, then second, around the end.
            let both = Tensor::cat(&k, 0);
            let queue = now.get("queue.0.rows");
            equal_rows(&queue.narrow(0, 0, 8), &both.narrow(0, 24, 8));
            equal_rows(&queue.narrow(0, 8, 16), &both.narrow(0, 8, 16));
        }
    }
}

#[test]
fn a_split_queue_keeps_the_virtual_ranks_apart() {
    let mixed = plugins(
        "[feature_transformation]\npositive_level = \"sample\"\nnegative_level = \"sample\"\n",
    );
    for plugins in [Plugins::default(), mixed] {
        let method = method(&moco(&["split_queue=true"]), &plugins, GROUP);
        let (online, targets) = (rows(1, 1), rows(2, 1));
        let named = Named::of(method.as_ref());
        let found = objective(method.as_ref(), 0, &online, Some(&targets), 4);
        let (q, k) = (query(&named, &online, 0), key(&named, &targets, 0));
        let queue = named.get("queue.0.rows");
        let (images, labels) = (images(0), labels());
        // Each rank has draws of its own.
        let mut draws = [0, 1].map(|part| at(0, &images, &labels, 4).stream(Purpose::Mix, part));
        let mut of_rank = |rank: i64| {
            let share = |rows: &Tensor, size: i64| rows.narrow(0, rank * size, size);
            let [q, k, queue] = [share(&q, 4), share(&k, 4), share(queue, 6)];
            let Some(mixing) = &plugins.feature_transformation else {
                return info_nce(&q, &k, &queue, T);
            };
            let (q, k) = mixing.positives(&q, &k, &mut draws[0]).unwrap();
            info_nce(&q, &k, &mixing.negatives(&queue, &mut draws[1]).unwrap().columns, T)
        };
        equal(found.loss, (0..4).map(&mut of_rank).sum::<f64>() / 4.0);
        after(method.as_ref(), 0, &found.carried, 4);
        let now = Named::of(method.as_ref());
        for rank in 0..4 {
            let part = now.get("queue.0.rows").narrow(0, rank * 6, 6);
            equal_rows(&part.narrow(0, 0, 4), &k.narrow(0, rank * 4, 4));
            equal_rows(&part.narrow(0, 4, 2), &queue.narrow(0, rank * 6 + 4, 2));
        }
    }
}

/// λ times the plug-in's own loss, on the group layer's rows of two views.
fn cross_level(plugins: &Plugins, named: &Named, online: &Tensor, ranks: usize) -> f64 {
    let config = plugins.cross_level.as_ref().unwrap();
    let [first, second] = [0, 1].map(|index| named.unit_head("group", &view(online, index)));
    let loss = config.loss(&first, &second, ranks).unwrap().loss;
    config.weight * loss.double_value(&[])
}

#[test]
fn moco_with_cross_level_discrimination_has_two_queries_for_one_key() {
    let plugins = plugins("[cross_level]\ngroups = 2\nweight = 0.8\nper_rank = true\n");
    let method = method(&moco(&[]), &plugins, GROUP);
    let (online, targets) = (rows(1, 2), rows(2, 1));
    let named = Named::of(method.as_ref());
    let found = objective(method.as_ref(), 0, &online, Some(&targets), 4);
    let k = key(&named, &targets, 0);
    let instance: f64 = [0, 1]
        .map(|index| info_nce(&query(&named, &online, index), &k, named.get("queue.0.rows"), T))
        .iter()
        .sum();
    let groups = cross_level(&plugins, &named, &online, 4);
    assert!(groups > 0.1);
    equal(found.loss, instance / 2.0 + groups);
    assert_eq!(found.carried.len(), 1);
    equal_rows(&found.carried[0], &k);
}

#[test]
fn shuffled_keys_are_those_of_their_permuted_groups_and_come_back_in_order() {
    let keys = |group: usize, shuffle: bool, micro: usize| {
        let config = moco(&[&format!("shuffle={shuffle}")]);
        let case = Case { label: String::new(), config, plugins: Plugins::default(), main: true };
        let layout = case.layout(Precision::Float64, micro, group);
        let trained = case.trained(Precision::Float64, group);
        let (batch, labels) = (case.batch(3), labels());
        let step = at(3, &batch.indices, &labels, BATCH / group);
        let method = trained.method.as_ref();
        let named = Named::of(method);
        let found = gradient(method, &batch, &layout, &step, &Stop::new(), None).unwrap().unwrap();
        let order = method.targets_order(&step);
        // The same by hand: each group of the permuted images through the network by itself.
        let identity = (0..BATCH).collect();
        let order = order.unwrap_or(identity);
        let pixels = Tensor::from_slice(&batch.views[1]).view([N, 16, 16, 3]).permute([0, 3, 1, 2]);
        let pixels = (pixels.to_kind(Kind::Double) / 255.0 - 0.5) / 0.25;
        let mut by_hand: Vec<Tensor> = (0..BATCH).map(|_| Tensor::new()).collect();
        for images in order.chunks(group) {
            let index: Vec<i64> = images.iter().map(|image| *image as i64).collect();
            let images_alone = pixels.index_select(0, &Tensor::from_slice(&index));
            let rows = tch::no_grad(|| method.targets(&[images_alone], 1, Statistics::Keep));
            let keys = named.unit_head("momentum.projector", &rows.select(0, 0));
            for (row, image) in images.iter().enumerate() {
                by_hand[*image] = keys.get(row as i64);
            }
        }
        equal_rows(&found.objective.carried[0], &Tensor::stack(&by_hand, 0));
        found.objective.carried[0].copy()
    };
    let off = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    // In one group the order of the images changes nothing.
    assert!(off(&keys(BATCH, true, BATCH), &keys(BATCH, false, BATCH)) < 1e-12);
    // In several the images have other company.
    let shuffled = keys(GROUP, true, BATCH);
    assert!(off(&shuffled, &keys(GROUP, false, BATCH)) > 1e-3);
    assert!(off(&shuffled, &keys(GROUP, true, GROUP)) < 1e-12);
}

#[test]
fn infomin_cuts_its_jigsaw_right() {
    let config = config("infomin", &[PLAIN, &["queue_length=24"]].concat());
    let method = method(&config, &Plugins::default(), 0);
    // Patch j of image i is a pattern of its own.
    let (n, side) = (4, 16);
    let pattern = |image: i64, patch: i64| {
        let mut stream = Stream::open(1, Purpose::Test, Scope::Item((100 * image + patch) as u64));
        let values: Vec<f64> = (0..3 * side * side).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values).view([3, side, side])
    };
    let jigsaw = |image: i64| {
        let row = |row: i64| {
            let patches: Vec<Tensor> = (0..3).map(|at| pattern(image, 3 * row + at)).collect();
            Tensor::cat(&patches, 2)
        };
        Tensor::cat(&[row(0), row(1), row(2)], 1)
    };
    let whole: Vec<Tensor> = (0..n).map(jigsaw).collect();
    let views = [
        Tensor::randn([n, 3, side, side], (Kind::Double, tch::Device::Cpu)),
        Tensor::stack(&whole, 0),
    ];
    let rows = tch::no_grad(|| method.embed(&views, 1, Statistics::Keep));
    assert_eq!(rows.size(), [10, n, FEATURES]);
    let patches: Vec<Tensor> =
        (0..n).flat_map(|image| (0..9).map(move |patch| pattern(image, patch))).collect();
    let phase = Phase::Training { groups: 1, statistics: Statistics::Keep };
    let expected = tch::no_grad(|| method.backbone().forward(&Tensor::stack(&patches, 0), phase));
    for (image, patch) in (0..n).flat_map(|image| (0..9).map(move |patch| (image, patch))) {
        equal_rows(&rows.get(1 + patch).get(image), &expected.get(9 * image + patch));
    }
}

#[test]
fn infomin_weighs_two_queries_of_which_one_is_nine_patches_in_a_drawn_order() {
    let config = config("infomin", &[PLAIN, &["queue_length=24", "jigsaw_weight=0.3"]].concat());
    let method = method(&config, &Plugins::default(), 0);
    let (online, targets) = (rows(1, 10), rows(2, 1));
    let named = Named::of(method.as_ref());
    let labels = labels();
    let orders = |step: u64| -> Vec<Vec<usize>> {
        let images = images(step);
        let mut stream = at(step, &images, &labels, 1).stream(Purpose::Patches, 0);
        (0..BATCH).map(|_| stream.permutation(9)).collect()
    };
    // Image by image, head by head.
    let jigsaw = |orders: &[Vec<usize>]| {
        let of = |(image, order): (usize, &Vec<usize>)| {
            let patches = order.iter().map(|patch| {
                let row = online.get(1 + *patch as i64).get(image as i64);
                named.head("jigsaw.patch", &row.unsqueeze(0))
            });
            named.head("jigsaw.whole", &Tensor::cat(&patches.collect::<Vec<_>>(), 1))
        };
        unit(&Tensor::cat(&orders.iter().enumerate().map(of).collect::<Vec<_>>(), 0))
    };
    let k = key(&named, &targets, 0);
    let queue = named.get("queue.0.rows");
    let expected = |orders: &[Vec<usize>]| {
        0.7 * info_nce(&query(&named, &online, 0), &k, queue, 0.15)
            + 0.3 * info_nce(&jigsaw(orders), &k, queue, 0.15)
    };
    let loss = |step| objective(method.as_ref(), step, &online, Some(&targets), 1).loss;
    let drawn = orders(0);
    equal(loss(0), expected(&drawn));
    equal(loss(0), loss(0));
    equal(loss(1), expected(&orders(1)));
    // Each image and each step has an order of its own, and the order matters.
    assert!(drawn.iter().any(|order| order != &drawn[0]) && orders(1) != drawn);
    assert!((loss(0) - expected(&vec![drawn[0].clone(); BATCH])).abs() > 1e-6);
    assert!((loss(0) - loss(1)).abs() > 1e-6);
}

fn npid(changes: &[&str]) -> Config {
    config("npid", &[PLAIN, changes].concat())
}

/// Mean over the images of what `of` says of a feature, and of its image.
fn mean(features: &Tensor, images: &[usize], of: impl Fn(&[f64], usize) -> f64) -> f64 {
    let features = values(features);
    features.iter().zip(images).map(|(v, image)| of(v, *image)).sum::<f64>() / images.len() as f64
}

#[test]
fn npid_moves_the_rows_of_its_images_behind_the_optimizer_the_second_view_first() {
    let both = plugins("[cross_level]\ngroups = 3\nweight = 1.0\n");
    for (plugins, views) in [(Plugins::default(), 1), (both, 2)] {
        let method = method(&npid(&["momentum=0.4"]), &plugins, 0);
        let images = images(0);
        let online = rows(1, views);
        let before = Named::of(method.as_ref());
        let bank = before.get("bank.rows");
        let slots = values(bank);
        let features: Vec<Tensor> =
            (0..views).map(|index| query(&before, &online, index)).collect();
        let found = objective(method.as_ref(), 0, &online, None, 1);
        let softmax = |v: &[f64], image: usize| {
            let all: f64 = slots.iter().map(|slot| (dot(v, slot) / 0.07).exp()).sum();
            all.ln() - dot(v, &slots[image]) / 0.07
        };
        let mut expected =
            features.iter().map(|v| mean(v, &images, softmax)).sum::<f64>() / views as f64;
        if plugins.cross_level.is_some() {
            expected += cross_level(&plugins, &before, &online, 1);
        }
        equal(found.loss, expected);
        equal_rows(Named::of(method.as_ref()).get("bank.rows"), bank);

        after(method.as_ref(), 0, &found.carried, 1);
        let now = Named::of(method.as_ref());
        for image in 0..IMAGES {
            let mut row = bank.get(image as i64).unsqueeze(0);
            if let Some(place) = images.iter().position(|shown| *shown == image) {
                for v in features.iter().rev() {
                    row = unit(&(row * 0.4 + v.get(place as i64).unsqueeze(0) * 0.6));
                }
            }
            equal_rows(&now.get("bank.rows").get(image as i64).unsqueeze(0), &row);
        }
    }
}

#[test]
fn npid_estimates_the_normalizer_once_and_keeps_it_through_a_resume() {
    let k = 7;
    let config = npid(&["objective=nce", "negatives=7"]);
    let first = method(&config, &Plugins::default(), 0);
    let labels = labels();
    let drawn = |step: u64| -> Vec<Vec<i64>> {
        let images = images(step);
        let mut stream = at(step, &images, &labels, 1).stream(Purpose::Negatives, 0);
        let slots: Vec<i64> = images.iter().map(|image| *image as i64).collect();
        Vec::try_from(sample(&mut stream, &slots, k, IMAGES as u32)).unwrap()
    };
    // exp(v·M[j] / T) of every image and drawn row.
    let scores = |named: &Named, step: u64, online: &Tensor| -> Vec<Vec<f64>> {
        let (v, slots) = (values(&query(named, online, 0)), values(named.get("bank.rows")));
        let of = |(v, drawn): (&Vec<f64>, Vec<i64>)| {
            drawn.iter().map(|slot| (dot(v, &slots[*slot as usize]) / 0.07).exp()).collect()
        };
        v.iter().zip(drawn(step)).map(of).collect()
    };
    let nce = |scores: &[Vec<f64>], z: f64| {
        let noise = k as f64 / IMAGES as f64;
        let of = |scores: &Vec<f64>| {
            let share = |score: f64, top: f64| (top / (score / z + noise + 1e-7)).ln();
            let negatives: f64 = scores[1..].iter().map(|score| share(*score, noise)).sum();
            -share(scores[0], scores[0] / z) - negatives
        };
        scores.iter().map(of).sum::<f64>() / scores.len() as f64
    };
    let (one, two) = (rows(1, 1), rows(2, 1));
    let start = Named::of(first.as_ref());
    assert!(start.get("bank.normalizer").double_value(&[0]).abs() < 1e-300);
    let seen = scores(&start, 0, &one);
    let total: f64 = seen.iter().flatten().sum();
    let z = total / (BATCH * (1 + k)) as f64 * IMAGES as f64;
    let found = objective(first.as_ref(), 0, &one, None, 1);
    equal(found.loss, nce(&seen, z));
    after(first.as_ref(), 0, &found.carried, 1);
    let stored = Named::of(first.as_ref());
    equal(stored.get("bank.normalizer").double_value(&[0]) / z, 1.0);

    let again = method(&config, &Plugins::default(), 0);
    again
        .parameters()
        .load(&stored.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect())
        .unwrap();
    let expected = nce(&scores(&stored, 1, &two), z);
    for method in [&first, &again] {
        let found = objective(method.as_ref(), 1, &two, None, 1);
        equal(found.loss, expected);
        after(method.as_ref(), 1, &found.carried, 1);
        let kept = Named::of(method.as_ref());
        equal(kept.get("bank.normalizer").double_value(&[0]) / z, 1.0);
    }
}

/// Each loss of two views `[2N, d]`, in the words of its paper.
fn simclr_loss(name: &str, z: &Tensor, temperature: f64) -> f64 {
    let rows = values(z);
    let (n, count) = (BATCH, 2 * BATCH);
    let s = |i: usize, j: usize| cosine(&rows[i], &rows[j]);
    let partner = |i: usize| (i + n) % count;
    let negatives = |i: usize| (0..count).filter(move |j| *j != i && *j != (i + n) % count);
    let exp = |i: usize, j: usize| (s(i, j) / temperature).exp();
    let mean = |of: &dyn Fn(usize) -> f64| (0..count).map(of).sum::<f64>() / count as f64;
    match name {
        "nt_xent" => mean(&|i| {
            let others: f64 = negatives(i).map(|j| exp(i, j)).sum();
            (exp(i, partner(i)) + others).ln() - s(i, partner(i)) / temperature
        }),
        "decoupled" => mean(&|i| {
            let others: f64 = negatives(i).map(|j| exp(i, j)).sum();
            others.ln() - s(i, partner(i)) / temperature
        }),
        other => unreachable!("{other}"),
    }
}

#[test]
fn simclr_takes_every_loss_of_its_projections() {
    let online = rows(1, 2);
    for loss in ["nt_xent", "decoupled", "nt_logistic", "margin_triplet", "generalized"] {
        let change = format!("loss={{ name = \"{loss}\" }}");
        let config = config("simclr", &[PLAIN, &[&change, "temperature=0.3"]].concat());
        let method = method(&config, &Plugins::default(), 0);
        let z = Named::of(method.as_ref()).head("projector", &online.flatten(0, 1));
        let found = objective(method.as_ref(), 4, &online, None, 1);
        equal_rows(&found.projections, &z);
        let Config::SimClr(settings) = &config else { unreachable!() };
        let expected = match &settings.loss {
            diptych::loss::two_views::Loss::NtLogistic(loss) => {
                loss.evaluate(&z, 0.3, 5).unwrap().loss.double_value(&[])
            }
            diptych::loss::two_views::Loss::MarginTriplet(loss) => {
                loss.evaluate(&z, 0.3, 5).unwrap().loss.double_value(&[])
            }
            diptych::loss::two_views::Loss::Generalized(loss) => {
                let (images, labels) = (images(4), labels());
                let mut stream = at(4, &images, &labels, 1).stream(Purpose::Slices, 0);
                let loss: &Generalized = loss;
                loss.evaluate(&z, 0.3, 5, &mut stream).unwrap().loss.double_value(&[])
            }
            _ => simclr_loss(loss, &z, 0.3),
        };
        equal(found.loss, expected);
    }
}
