//! Networks against torchvision, the rewritten rules of `tests/golden/resnet.py`, and finite differences.

use super::*;
use crate::model::golden::{COEFFICIENT, Golden, fill, images, noise, parameters};
use crate::model::{Parameters, Role, Statistics};
use std::collections::BTreeMap;
use tch::Kind;

fn config(name: Architecture, width: f64, stem: Stem) -> BackboneConfig {
    BackboneConfig { width, stem, ..BackboneConfig::new(name) }
}

/// SimCLRv2's network with selective kernels.
fn selective(name: Architecture, width: f64) -> BackboneConfig {
    BackboneConfig {
        flavor: Flavor::SimclrTf,
        sk_ratio: 0.0625,
        ..config(name, width, Stem::ResNetD)
    }
}

fn build(config: &BackboneConfig, kind: Kind) -> (Parameters, ResNet) {
    let mut parameters = parameters(kind);
    let network = ResNet::build(&mut parameters.root(), config).unwrap();
    (parameters, network)
}

#[test]
fn networks_equal_torchvision_to_the_stored_digits() {
    for (name, architecture) in
        [("resnet18", Architecture::ResNet18), ("resnet50", Architecture::ResNet50)]
    {
        for (width, stem_name, stem, side) in [
            (0.125, "imagenet", Stem::ImageNet, 64),
            (0.125, "cifar", Stem::Cifar, 16),
            (1.0, "imagenet", Stem::ImageNet, 64),
        ] {
            let mut config = config(architecture, width, stem);
            config.initialization = BackboneInitialization::PyTorch; // the quickest to draw
            let (parameters, network) = build(&config, Kind::Double);
            fill(&parameters);
            let images = images([4, 3, side, side], Kind::Double);
            let forward = |phase| network.forward(&images, phase);
            let golden = Golden::open(&format!("{name}.{width}.{stem_name}"));
            golden.hold_evaluation(forward, 1e-6);
            golden.hold_training(&parameters, forward, 1e-6);
        }
    }
}

/// The networks that torchvision has not, by their name in the golden file.
fn published(name: &str, width: f64) -> BackboneConfig {
    let (architecture, stem, flavor, sk_ratio) = match name {
        "simclr18" => (Architecture::ResNet18, Stem::ImageNet, Flavor::SimclrTf, 0.0),
        "simclr50" => (Architecture::ResNet50, Stem::ImageNet, Flavor::SimclrTf, 0.0),
        "resnet_d18" => (Architecture::ResNet18, Stem::ResNetD, Flavor::Torchvision, 0.0),
        "resnet_d50" => (Architecture::ResNet50, Stem::ResNetD, Flavor::Torchvision, 0.0),
        "sk50" => (Architecture::ResNet50, Stem::ResNetD, Flavor::SimclrTf, 0.0625),
        "sk50_torch" => (Architecture::ResNet50, Stem::ResNetD, Flavor::Torchvision, 0.5),
        "sk50_cifar" => (Architecture::ResNet50, Stem::Cifar, Flavor::SimclrTf, 0.0625),
        "pad2_18" => (Architecture::ResNet18, Stem::CifarPad2, Flavor::Torchvision, 0.0),
        _ => panic!("no network {name}"),
    };
    BackboneConfig { flavor, sk_ratio, ..config(architecture, width, stem) }
}

const PUBLISHED: [&str; 8] = [
    "simclr18",
    "simclr50",
    "resnet_d18",
    "resnet_d50",
    "sk50",
    "sk50_torch",
    "sk50_cifar",
    "pad2_18",
];

#[test]
fn simclr_resnet_d_and_selective_kernels_equal_the_rewritten_rules() {
    for name in PUBLISHED {
        let (parameters, network) = build(&published(name, 0.125), Kind::Double);
        fill(&parameters);
        let shape = if name.contains("cifar") || name.contains("pad2") {
            [4, 3, 16, 16]
        } else {
            [4, 3, 70, 72]
        };
        let images = images(shape, Kind::Double);
        let forward = |phase| network.forward(&images, phase);
        let golden = Golden::open(name);
        golden.hold_evaluation(forward, 1e-6);
        golden.hold_training(&parameters, forward, 1e-6);
    }
}

/// Against what autograd was seen to keep, the small vectors of batch norms included.
#[test]
fn the_predicted_memory_of_a_step_is_what_autograd_keeps() {
    for name in PUBLISHED {
        let config = published(name, 0.25);
        let side = if name.contains("cifar") || name.contains("pad2") { 32 } else { 64 };
        let (kept, largest) = config.activation_count(side, Frozen::Nothing);
        let ratio = kept as f64 / Golden::open(name).number("saved");
        assert!((ratio - 1.0).abs() < 0.02, "{name}: {ratio}");
        assert!(largest < kept / 5, "{name}: {largest} of {kept}");
    }
}

/// google-research/simclr, `fine_tune_after_block`: a gradient stopped behind a group, batch norm in evaluation below.
#[test]
fn a_frozen_part_is_evaluated_and_only_the_rest_is_trained() {
    let config = config(Architecture::ResNet18, 0.125, Stem::Cifar);
    let images = images([4, 3, 16, 16], Kind::Double);
    let after = |network: &ResNet, phase| network.forward_features(&images, &GROUPS, phase);
    let training = Phase::Training { groups: 1, statistics: Statistics::Move { seen: 0, of: 1 } };
    let (_, whole) = build(&config, Kind::Double);
    let evaluated = after(&whole, Phase::Evaluation);
    for (frozen, count) in [(BlockGroup::Stem, 0), (BlockGroup::Group2, 2)] {
        let mut parameters = parameters(Kind::Double);
        let part = Frozen::Through(frozen);
        let network = ResNet::build_frozen(&mut parameters.root(), &config, part).unwrap();
        let before: Vec<Tensor> = parameters.all().iter().map(|p| p.tensor.copy()).collect();
        let maps = after(&network, training);
        for (number, (map, evaluated)) in (1..).zip(maps.iter().zip(&evaluated)) {
            assert_eq!(map == evaluated, number <= count, "{frozen:?} {number}");
        }
        network.forward(&images, training).square().sum(Kind::Double).backward();
        let prefixes = part.prefixes();
        for (parameter, before) in parameters.all().iter().zip(before) {
            let name = &parameter.name;
            let stays = prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
            assert_eq!(parameter.trained, !stays && !matches!(parameter.role, Role::Buffer));
            assert_eq!(parameter.tensor.grad().defined(), parameter.trained, "{name}");
            assert_eq!(parameter.tensor != before, !stays && parameter.role == Role::Buffer);
        }
    }
}

/// Counted by hand from the tables of He et al. 2016: kernel area × channels in × channels out × pixels out.
#[test]
fn multiply_adds_are_those_counted_by_hand() {
    let cifar = config(Architecture::ResNet18, 1.0, Stem::Cifar);
    let first = 9 * 3 * 64 * 1024;
    let same = |channels: u64, pixels: u64| 9 * channels * channels * pixels;
    // The first 3×3 of a group and its projection take in half the channels.
    let group = |channels: u64, pixels: u64| {
        3 * same(channels, pixels) + (9 + 1) * channels * channels / 2 * pixels
    };
    let all = first + 4 * same(64, 1024) + group(128, 256) + group(256, 64) + group(512, 16);
    let of = |frozen| cifar.multiply_adds(32, frozen);
    let whole = MultiplyAdds { forward: all, trained: all, inputs: all - first };
    assert_eq!(of(Frozen::Nothing), whole);
    // Behind what is frozen: the last group, but for the first 3×3 and the projection, which take in what needs no gradient.
    let (last, begin) = (group(512, 16), 10 * 512 * 512 / 2 * 16);
    let part = MultiplyAdds { forward: all, trained: last, inputs: last - begin };
    assert_eq!(of(Frozen::Through(BlockGroup::Group3)), part);
    // Behind the stem alone: the first 3×3, whose block has no projection.
    let trained = all - first;
    let part = MultiplyAdds { forward: all, trained, inputs: trained - same(64, 1024) };
    assert_eq!(of(Frozen::Through(BlockGroup::Stem)), part);
    assert_eq!(of(Frozen::All), MultiplyAdds { forward: all, ..MultiplyAdds::default() });
    assert!((all as f64 / 0.5558e9 - 1.0).abs() < 0.01, "{all}");
    // As published for 224 pixels, less the classifier: 1.82 and 4.09 thousand million.
    for (name, published, classifier) in
        [(Architecture::ResNet18, 1.814e9, 0.5e6), (Architecture::ResNet50, 4.089e9, 2.0e6)]
    {
        let found = BackboneConfig::new(name).multiply_adds(224, Frozen::Nothing);
        let all = found.forward;
        assert_eq!(all - found.inputs, 49 * 3 * 64 * 112 * 112);
        assert!(((all as f64 + classifier) / published - 1.0).abs() < 0.01, "{name:?}: {all}");
    }
}

#[test]
fn multiply_adds_follow_the_maps_and_kernels_of_other_networks() {
    // Padded by 2 the maps are 34, 17, 9 and 5 pixels wide.
    let group = |channels: u64, side: u64| (27 + 5) * (channels * side).pow(2);
    let all = 27 * 64 * 34 * 34
        + 36 * (64 * 34u64).pow(2)
        + group(128, 17)
        + group(256, 9)
        + group(512, 5);
    let forward =
        |config: &BackboneConfig, side| config.multiply_adds(side, Frozen::Nothing).forward;
    assert_eq!(forward(&config(Architecture::ResNet18, 1.0, Stem::CifarPad2), 32), all);
    // A selective kernel has twice the outputs of the 3×3 in its place, and a gate: F inputs, 2F outputs.
    let plain = config(Architecture::ResNet50, 1.0, Stem::ResNetD);
    let selective = BackboneConfig { sk_ratio: 0.0625, ..plain.clone() };
    let more: u64 = [(3, 64, 16u64), (4, 128, 8), (6, 256, 4), (3, 512, 2)]
        .iter()
        .map(|(depth, f, side)| depth * (9 * (f * side).pow(2) + 3 * f * (f / 16).max(32)))
        .sum();
    assert_eq!(forward(&selective, 64), forward(&plain, 64) + more);
}

#[test]
fn single_precision_stays_within_its_rounding_of_torchvision() {
    let config = config(Architecture::ResNet18, 1.0, Stem::ImageNet);
    let (parameters, network) = build(&config, Kind::Float);
    fill(&parameters);
    let images = images([4, 3, 64, 64], Kind::Float);
    let forward = |phase| network.forward(&images, phase);
    let golden = Golden::open("resnet18.1.imagenet");
    golden.hold_evaluation(forward, 1e-5);
    golden.hold_training(&parameters, forward, 1e-3);
}

#[test]
fn names_are_those_of_torchvision_in_its_order() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resnet_names.json");
    let text = std::fs::read_to_string(path).unwrap();
    let expected: BTreeMap<String, Vec<String>> = serde_json::from_str(&text).unwrap();
    for (name, config) in [
        ("resnet18", config(Architecture::ResNet18, 0.125, Stem::ImageNet)),
        ("resnet50", config(Architecture::ResNet50, 0.125, Stem::ImageNet)),
        ("resnet_d18", published("resnet_d18", 0.125)),
        ("sk50", published("sk50", 0.125)),
    ] {
        let (parameters, _) = build(&config, Kind::Float);
        let names: Vec<_> = parameters.all().iter().map(|p| p.name.clone()).collect();
        assert_eq!(names, expected[name]);
    }
}

/// The counts of the published networks.
#[test]
fn parameter_counts_are_the_published_ones() {
    use Architecture::{ResNet18, ResNet34, ResNet50, ResNet101, ResNet152, ResNet200};
    for (name, width, stem, expected) in [
        (ResNet18, 1.0, Stem::ImageNet, 11_176_512),
        (ResNet18, 2.0, Stem::ImageNet, 44_668_032),
        (ResNet18, 4.0, Stem::ImageNet, 178_596_096),
        (ResNet18, 1.0, Stem::Cifar, 11_168_832),
        (ResNet34, 1.0, Stem::ImageNet, 21_284_672),
        (ResNet34, 2.0, Stem::ImageNet, 85_085_824),
        (ResNet34, 1.0, Stem::Cifar, 21_276_992),
        (ResNet50, 1.0, Stem::ImageNet, 23_508_032),
        (ResNet50, 2.0, Stem::ImageNet, 93_907_072),
        (ResNet50, 4.0, Stem::ImageNet, 375_378_176),
        (ResNet50, 1.0, Stem::Cifar, 23_500_352),
        (ResNet101, 1.0, Stem::ImageNet, 42_500_160),
        (ResNet101, 2.0, Stem::ImageNet, 169_771_136),
        (ResNet101, 4.0, Stem::ImageNet, 678_625_536),
        (ResNet101, 1.0, Stem::Cifar, 42_492_480),
        (ResNet152, 1.0, Stem::ImageNet, 58_143_808),
        (ResNet152, 2.0, Stem::ImageNet, 232_253_568),
        (ResNet152, 4.0, Stem::ImageNet, 928_370_944),
        (ResNet152, 1.0, Stem::Cifar, 58_136_128),
        (ResNet200, 1.0, Stem::ImageNet, 62_624_832),
    ] {
        let config = config(name, width, stem);
        assert_eq!(config.parameter_count(), expected, "{name:?} {width} {stem:?}");
    }
}

#[test]
fn parameter_counts_of_simclr_are_the_published_ones() {
    use Architecture::{ResNet18, ResNet34, ResNet50, ResNet101, ResNet152};
    for (name, width, expected) in [
        (ResNet50, 1.0, 35_215_584),
        (ResNet50, 2.0, 140_306_048),
        (ResNet50, 3.0, 315_493_600),
        (ResNet101, 1.0, 64_662_304),
        (ResNet101, 2.0, 257_132_224),
        (ResNet152, 1.0, 88_940_896),
        (ResNet152, 2.0, 353_398_528),
        (ResNet152, 3.0, 794_704_160),
    ] {
        assert_eq!(selective(name, width).parameter_count(), expected, "{name:?} {width}");
    }
    for (name, stem, expected) in [
        (ResNet18, Stem::ImageNet, 11_180_736),
        (ResNet18, Stem::Cifar, 11_173_056),
        (ResNet34, Stem::ImageNet, 21_288_896),
        (ResNet50, Stem::ImageNet, 23_508_032),
    ] {
        let config = BackboneConfig { flavor: Flavor::SimclrTf, ..config(name, 1.0, stem) };
        assert_eq!(config.parameter_count(), expected, "{name:?} {stem:?}");
    }
    // lightly's CIFAR network carries a classifier of ten classes.
    let lightly = config(ResNet18, 1.0, Stem::Cifar);
    assert_eq!(lightly.parameter_count() + 512 * 10 + 10, 11_173_962);
}

#[test]
fn the_count_without_building_is_the_count_after_building() {
    let mut configs = vec![
        config(Architecture::ResNet18, 1.0, Stem::ImageNet),
        config(Architecture::ResNet18, 0.25, Stem::Cifar),
        config(Architecture::ResNet34, 0.3, Stem::ImageNet),
        config(Architecture::ResNet101, 0.11, Stem::Cifar),
        selective(Architecture::ResNet50, 1.0),
        selective(Architecture::ResNet101, 0.07),
    ];
    configs.extend(PUBLISHED.map(|name| published(name, 0.125)));
    for mut config in configs {
        config.initialization = BackboneInitialization::PyTorch; // the quickest to draw
        let (parameters, network) = build(&config, Kind::Float);
        assert_eq!(parameters.count() as u64, config.parameter_count());
        let features = network.forward(&images([2, 3, 16, 16], Kind::Float), Phase::Evaluation);
        assert_eq!(features.size(), [2, network.features()]);
    }
}

#[test]
fn the_seed_fixes_the_network_and_the_start_its_size() {
    let mut config = config(Architecture::ResNet50, 0.125, Stem::Cifar);
    let values = |config: &BackboneConfig| -> Vec<Tensor> {
        build(config, Kind::Float).0.all().iter().map(|p| p.tensor.copy()).collect()
    };
    let first = values(&config);
    assert_eq!(first, values(&config));
    for initialization in [BackboneInitialization::SimClr, BackboneInitialization::PyTorch] {
        config.initialization = initialization;
        assert_ne!(first, values(&config));
    }
}

#[test]
fn blocks_with_silent_branches_pass_their_input_through() {
    let mut config = config(Architecture::ResNet18, 0.125, Stem::Cifar);
    config.zero_init_residual = true;
    let (parameters, network) = build(&config, Kind::Float);
    let silent: Vec<_> = parameters
        .all()
        .iter()
        .filter(|p| p.role == Role::NormScale && p.tensor.max().double_value(&[]) == 0.0)
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(silent.len(), 8);
    assert!(silent.iter().all(|name| name.ends_with("bn2.weight")), "{silent:?}");
    let wanted = [BlockGroup::Stem, BlockGroup::Group1];
    let images = images([2, 3, 16, 16], Kind::Float);
    let maps = network.forward_features(&images, &wanted, Phase::Evaluation);
    assert_eq!(maps[0], maps[1]);
}

#[test]
fn maps_stay_channels_last_and_have_the_sizes_of_the_groups() {
    use BlockGroup::{Group1, Group2, Group3, Group4, Stem as First};
    let name = Architecture::ResNet50;
    for (config, side, sides) in [
        (config(name, 0.125, Stem::Cifar), 32, [32, 32, 16, 8, 4]),
        (config(name, 0.125, Stem::CifarPad2), 32, [34, 34, 17, 9, 5]),
        (config(name, 0.125, Stem::ImageNet), 64, [16, 16, 8, 4, 2]),
        (config(name, 0.125, Stem::ResNetD), 64, [16, 16, 8, 4, 2]),
        (selective(name, 0.125), 64, [16, 16, 8, 4, 2]),
        (selective(name, 0.125), 70, [18, 18, 9, 5, 3]),
    ] {
        for groups in [1, 2] {
            let (parameters, network) = build(&config, Kind::Float);
            let images = images([4, 3, side, side], Kind::Float);
            let phase = Phase::Training { groups, statistics: Statistics::Keep };
            let wanted = [First, Group1, Group2, Group3, Group4];
            let maps = network.forward_features(&images, &wanted, phase);
            for ((map, side), channels) in maps.iter().zip(sides).zip([8, 32, 64, 128, 256]) {
                assert_eq!(map.size(), [4, channels, side, side]);
                assert_eq!(map.stride(), [channels * side * side, 1, channels * side, channels]);
                assert!(map.min().double_value(&[]) >= 0.0);
            }
            let features = network.forward(&images, phase);
            assert_eq!(maps[4].mean_dim([2, 3].as_slice(), false, None), features);
            let two = network.forward_features(&images, &[Group3, First], phase);
            assert_eq!((&two[0], &two[1]), (&maps[3], &maps[0]));
            features.sum(None).backward();
            for parameter in
                parameters.trainable().filter(|p| p.tensor.dim() == 4 && p.tensor.size()[2] > 1)
            {
                assert_eq!(parameter.tensor.grad().stride(), parameter.tensor.stride());
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let phase = Phase::Training { groups: 2, statistics: Statistics::Keep };
    let (parameters, network) =
        build(&config(Architecture::ResNet18, 1.0 / 32.0, Stem::Cifar), Kind::Double);
    fill(&parameters);
    let images = images([4, 3, 9, 9], Kind::Double);
    hold_gradients(&parameters, || network.forward(&images, phase));
    // A block with a selective kernel and a pooled shortcut, at stride 1 and at stride 2 on an odd map.
    for (group, inputs) in [(0, 4), (1, 16)] {
        let mut parameters = self::parameters(Kind::Double);
        let plan = selective(Architecture::ResNet50, 1.0 / 16.0).plan();
        let plan = &plan.groups[group][0];
        let start = BackboneInitialization::PyTorch.into();
        let block = Block::build(&mut parameters.root(), plan, start, 1.0);
        fill(&parameters);
        let maps = noise(9, &[12, inputs, 7, 7]);
        hold_gradients(&parameters, || block.forward(&maps, phase));
    }
}

/// Holds the gradient of every parameter along one direction.
fn hold_gradients(parameters: &Parameters, forward: impl Fn() -> Tensor) {
    let loss = || {
        let output = forward();
        (&output * noise(COEFFICIENT, &output.size())).sum(None)
    };
    loss().backward();
    let step = 1e-6;
    for parameter in parameters.trainable() {
        let gradient = parameter.tensor.grad();
        let direction = noise(77, &gradient.size());
        let expected = (&gradient * &direction).sum(None).double_value(&[]);
        let moved = |by: f64| {
            tch::no_grad(|| {
                let mut tensor = parameter.tensor.shallow_clone();
                tensor += &direction * by;
                let value = loss().double_value(&[]);
                tensor -= &direction * by;
                value
            })
        };
        let found = (moved(step) - moved(-step)) / (2.0 * step);
        let close = (found - expected).abs() <= 1e-5 * expected.abs().max(1.0);
        assert!(close, "{}: {found} against {expected}", parameter.name);
    }
}

#[test]
fn groups_of_images_pass_selective_kernels_as_if_alone() {
    let (parameters, network) = build(&selective(Architecture::ResNet50, 0.125), Kind::Double);
    fill(&parameters);
    let images = images([8, 3, 32, 32], Kind::Double);
    let phase = |groups| Phase::Training { groups, statistics: Statistics::Keep };
    let alone: Vec<Tensor> =
        images.split(4, 0).iter().map(|half| network.forward(half, phase(1))).collect();
    let difference = network.forward(&images, phase(2)) - Tensor::cat(&alone, 0);
    assert!(difference.abs().max().double_value(&[]) < 1e-12);
    // Cached gradients: a pass that keeps the statistics, then one that moves them, in two parts.
    let buffers = || -> Vec<Tensor> {
        let buffers = parameters.all().iter().filter(|p| p.role == Role::Buffer);
        buffers.map(|p| p.tensor.copy()).collect()
    };
    let before = buffers();
    let _ = network.forward(&images, phase(2));
    assert_eq!(buffers(), before);
    for (seen, half) in (0..).zip(images.split(4, 0)) {
        let statistics = Statistics::Move { seen, of: 2 };
        let _ = network.forward(&half, Phase::Training { groups: 1, statistics });
    }
    assert!(buffers().iter().zip(&before).all(|(now, before)| now != before));
}

#[test]
fn what_leaves_batch_norm_one_value_is_refused() {
    let refused = |config: &BackboneConfig, side, images| {
        config.check_images(side, images).err().map(|error| error.to_string())
    };
    let imagenet = config(Architecture::ResNet18, 1.0, Stem::ImageNet);
    assert_eq!(refused(&imagenet, 33, 1), None);
    assert_eq!(refused(&imagenet, 32, 2), None);
    let message = refused(&imagenet, 32, 1).unwrap();
    assert!(message.contains("a group of 1 at 32 px leaves 1;"), "{message}");
    assert!(message.ends_with("or take `backbone.stem = \"cifar\"`"), "{message}");
    assert_eq!(refused(&config(Architecture::ResNet18, 1.0, Stem::Cifar), 32, 1), None);
    assert!(refused(&selective(Architecture::ResNet50, 1.0), 224, 1).is_some());
    assert_eq!(refused(&selective(Architecture::ResNet50, 1.0), 224, 2), None);
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    for width in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-3, 65.0] {
        let config = config(Architecture::ResNet18, width, Stem::Cifar);
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains("`backbone.width`"), "{message}");
    }
    assert!(config(Architecture::ResNet18, 0.01, Stem::Cifar).check().is_ok());
    assert!(config(Architecture::ResNet18, 0.01, Stem::ResNetD).check().is_err());
    let with = |name, stem, sk_ratio| {
        BackboneConfig { sk_ratio, ..config(name, 1.0, stem) }.check().map_err(|e| e.to_string())
    };
    for (name, stem, ratio, part) in [
        (
            Architecture::ResNet18,
            Stem::ResNetD,
            0.0625,
            "needs bottleneck blocks, which `resnet18` has",
        ),
        (Architecture::ResNet50, Stem::ImageNet, 0.0625, "`backbone.stem = \"resnet_d\"`"),
        (Architecture::ResNet50, Stem::ResNetD, -0.5, "must be in [0, 1]"),
        (Architecture::ResNet50, Stem::ResNetD, f64::NAN, "must be in [0, 1]"),
    ] {
        let message = with(name, stem, ratio).unwrap_err();
        assert!(message.starts_with("`backbone.sk_ratio`") && message.contains(part), "{message}");
    }
    assert_eq!(with(Architecture::ResNet50, Stem::Cifar, 0.0625), Ok(()));
}

#[test]
fn settings_are_read_with_defaults_and_unknown_ones_refused() {
    let read = |text: &str| toml::from_str::<BackboneConfig>(text);
    assert_eq!(
        read("name = 'resnet50'").unwrap(),
        config(Architecture::ResNet50, 1.0, Stem::ImageNet)
    );
    let full = "name = 'resnet18'\nwidth = 0.25\nstem = 'cifar'\ninitialization = 'simclr'\n\
                zero_init_residual = true\nnorm_group = 8";
    let config = read(full).unwrap();
    assert_eq!(config.stem, Stem::Cifar);
    assert_eq!(read(&toml::to_string(&config).unwrap()).unwrap(), config);
    let v2 = read("name = 'resnet50'\nstem = 'resnet_d'\nflavor = 'simclr_tf'\nsk_ratio = 0.0625");
    assert_eq!(v2.unwrap(), selective(Architecture::ResNet50, 1.0));
    assert_eq!(read("name = 'resnet18'\nstem = 'cifar_pad2'").unwrap().stem, Stem::CifarPad2);
    assert!(read("name = 'resnet19'").unwrap_err().to_string().contains("resnet18"));
    assert!(read("name = 'resnet18'\nwidht = 2").unwrap_err().to_string().contains("widht"));
}
