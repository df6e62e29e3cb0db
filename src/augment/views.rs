//! The published sets of views, by name: `[[view]]` blocks that come with the program.

use super::step::ViewRecipe;
use crate::error::{Error, Result};
use crate::overrides::nearest;
use serde::Deserialize;
use toml::Value;

macro_rules! text {
    ($file:literal) => {
        include_str!(concat!("../../recipes/views/", $file, ".toml"))
    };
}

/// Name and text of every set; some names stand for one text.
pub const NAMED: &[(&str, &str)] = &[
    ("simclr_in", text!("simclr_in")),
    ("simclr_cifar", text!("simclr_cifar")),
    ("simclr_lineval", text!("simclr_lineval")),
    ("mocov1", text!("mocov1")),
    ("mocov2", text!("mocov2")),
    ("moco_cifar", text!("moco_cifar")),
    ("simsiam_in", text!("mocov2")),
    ("gsg_in", text!("mocov2")),
    ("gsg_cifar", text!("gsg_cifar")),
    ("byol", text!("byol")),
    ("barlow", text!("barlow")),
    ("vicreg", text!("barlow")),
    ("swav_mc", text!("swav_mc")),
    ("swav", text!("swav")),
    ("npid_in", text!("npid_in")),
    ("npid_cifar", text!("npid_cifar")),
    ("pycontrast_a", text!("pycontrast_a")),
    ("pycontrast_d", text!("infomin")),
    ("infomin", text!("infomin")),
    ("infomin_jigsaw", text!("infomin_jigsaw")),
    ("cld_in", text!("mocov2")),
    ("cld_cifar", text!("cld_cifar")),
    ("cld_aug", text!("cld_aug")),
    ("cld_aug_plus", text!("cld_aug_plus")),
    ("cld_stl", text!("cld_stl")),
    ("kitchen_hc", text!("cld_cifar")),
    ("spij", text!("spij")),
    ("lightly_cifar", text!("gsg_cifar")),
    ("lightly_cifar_simsiam", text!("lightly_cifar_simsiam")),
    ("lightly_cifar_swav", text!("lightly_cifar_swav")),
    ("lightly_cifar_byol", text!("lightly_cifar_byol")),
    ("lightly_cifar_barlow", text!("lightly_cifar_byol")),
    ("lineval_train", text!("lineval_train")),
    ("lineval_train_pycontrast", text!("lineval_train_pycontrast")),
    ("transfer_train", text!("transfer_train")),
    ("composition_crop", text!("composition_crop")),
    ("composition_crop_flip", text!("composition_crop_flip")),
    ("composition_drop", text!("composition_drop")),
    ("composition_jitter", text!("composition_jitter")),
    ("composition_color", text!("composition_color")),
    ("composition_rotate", text!("composition_rotate")),
    ("composition_cutout", text!("composition_cutout")),
    ("composition_noise", text!("composition_noise")),
    ("composition_blur", text!("composition_blur")),
    ("composition_sobel", text!("composition_sobel")),
];

/// The views of a name.
///
/// `NAME@S` brings the first kind of view to S pixels and all others, patches included, along in proportion: `swav_mc@112`
/// has small views of 48. Blur kernels are a fraction of the side and follow; their widths in pixels stay.
///
/// `composition_A+B` is a cell of SimCLR's composition study: `composition_blur+color` blurs, then distorts the colours.
///
/// # Errors
/// [`Error::Recipe`] naming the nearest name, or the size.
pub fn named(name: &str) -> Result<Vec<ViewRecipe>> {
    let (set, size) = match name.split_once('@') {
        Some((set, size)) => (set, Some(size)),
        None => (name, None),
    };
    let mut views = match set.strip_prefix("composition_").and_then(|parts| parts.split_once('+')) {
        Some((first, second)) => {
            let mut views = read(&format!("composition_{first}"))?;
            let [_, second] = &read(&format!("composition_{second}"))?[..] else {
                panic!("a composition has two kinds of view");
            };
            // The common crop stands already.
            views[1].steps.extend_from_slice(&second.steps[1..]);
            views
        }
        None => read(set)?,
    };
    if let Some(size) = size {
        scale(&mut views, name, size)?;
    }
    for (position, view) in views.iter().enumerate() {
        view.check(position).map_err(|error| Error::Recipe(format!("views `{name}`: {error}")))?;
    }
    Ok(views)
}

fn read(name: &str) -> Result<Vec<ViewRecipe>> {
    #[derive(Deserialize)]
    struct File {
        view: Vec<ViewRecipe>,
    }
    let Some((_, text)) = NAMED.iter().find(|(known, _)| *known == name) else {
        let names = || NAMED.iter().map(|(name, _)| *name);
        let hint = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known are `{}`", names().collect::<Vec<_>>().join("`, `")),
        };
        return Err(Error::Recipe(format!("no views are named `{name}`, {hint}")));
    };
    let file: File = toml::from_str(text).expect("the views that come with the program parse");
    Ok(file.view)
}

/// Multiplies every size by what brings the first view to `size`.
fn scale(views: &mut Vec<ViewRecipe>, name: &str, size: &str) -> Result<()> {
    let size = size.parse().ok().filter(|size| (1..=4096).contains(size)).ok_or_else(|| {
        Error::Recipe(format!(
            "the size after @ in `{name}` must be 1 to 4096 pixels, found `{size}`"
        ))
    })?;
    let first = views[0].size_px() as i64;
    let mut value = Value::try_from(&*views).expect("views can be written as TOML");
    scale_sizes(&mut value, size, first);
    *views = Vec::deserialize(value).expect("views with other sizes are views");
    Ok(())
}

/// Multiplies every whole number whose key ends in `_px` by `to` / `from`.
fn scale_sizes(value: &mut Value, to: i64, from: i64) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| scale_sizes(value, to, from)),
        Value::Table(table) => {
            for (key, value) in table.iter_mut() {
                match value {
                    Value::Integer(pixels) if key.ends_with("_px") => {
                        *pixels = ((2 * *pixels * to + from) / (2 * from)).max(1);
                    }
                    value => scale_sizes(value, to, from),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Pipeline, Scratch};
    use super::*;
    use crate::data::Image;

    #[test]
    fn every_set_is_registered_parses_samples_and_applies() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/views");
        for file in std::fs::read_dir(folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let name = name.strip_suffix(".toml").unwrap();
            assert!(NAMED.iter().any(|(known, _)| *known == name), "{name}");
        }
        let (width, height) = (60, 45);
        let pixels = (0..3 * width * height).map(|i| (i * 31 % 256) as u8).collect();
        let image = Image { width, height, pixels };
        let mut scratch = Scratch::default();
        for (name, text) in NAMED {
            assert!(text.starts_with("# "), "{name} says where it is from");
            for name in [(*name).to_owned(), format!("{name}@40")] {
                let pipeline = Pipeline::new(&named(&name).unwrap()).unwrap();
                for view in 0..pipeline.views() {
                    let side = pipeline.size_px(view);
                    let drawn = pipeline.sample(1, 0, 2, 0, view as u8, (width, height));
                    let mut out = vec![0; 3 * side * side];
                    drawn.apply(&image, &mut scratch, &mut out);
                    assert!(out.iter().any(|byte| *byte != out[0]), "{name}: an even view");
                }
            }
        }
    }

    fn sizes(name: &str) -> Vec<(usize, usize)> {
        named(name).unwrap().iter().map(|view| (view.count, view.size_px())).collect()
    }

    #[test]
    fn a_size_scales_every_kind_of_view() {
        assert_eq!(sizes("swav_mc"), [(2, 224), (6, 96)]);
        assert_eq!(sizes("swav_mc@112"), [(2, 112), (6, 48)]);
        assert_eq!(sizes("swav_mc@32"), [(2, 32), (6, 14)]);
        assert_eq!(sizes("spij@14"), [(2, 14)]);
        assert_eq!(sizes("infomin_jigsaw"), [(2, 224), (1, 192)]);
        // Patches of 64 become 32, cells of 85 become 42.
        assert_eq!(sizes("infomin_jigsaw@112"), [(2, 112), (1, 96)]);
        assert_eq!(named("mocov2@224").unwrap(), named("mocov2").unwrap());
    }

    #[test]
    fn a_wrong_name_or_size_says_which_are_right() {
        for (name, expected) in [
            ("mocov12", "no views are named `mocov12`, did you mean `mocov1`?"),
            ("swav_cm@96", "did you mean `swav_mc`?"),
            ("zzz", "known are `simclr_in`, "),
            ("composition_blur+colour", "did you mean `composition_color`?"),
            ("byol@big", "the size after @ in `byol@big` must be 1 to 4096 pixels, found `big`"),
            ("byol@0", "found `0`"),
            ("mocov2@1", "views `mocov2@1`: "),
        ] {
            let message = named(name).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn every_cell_of_the_composition_study_can_be_had() {
        let families = ["crop", "cutout", "color", "sobel", "noise", "blur", "rotate"];
        for (first, second) in families.iter().flat_map(|a| families.map(|b| (a, b))) {
            let name = format!("composition_{first}+{second}@32");
            assert_eq!(named(&name).unwrap().len(), 2, "{name}");
        }
    }

    #[test]
    fn a_composition_does_one_then_the_other_on_a_common_crop() {
        let views = named("composition_blur+color").unwrap();
        let text = toml::to_string(&views[1]).unwrap();
        let names: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
        let expected = ["random_resized_crop", "blur", "color_jitter", "grayscale"];
        assert_eq!(names, expected.map(|name| format!("\"{name}\"")));
        assert_eq!(views[0].steps, views[1].steps[..1]);
    }
}
