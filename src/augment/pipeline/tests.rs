use super::*;

fn pipeline(steps: &str) -> Pipeline {
    let recipe = format!("count = 2\nsteps = [{steps}]");
    Pipeline::new(&[toml::from_str(&recipe).unwrap()]).unwrap()
}

const CROP: &str = "{ name = \"random_resized_crop\", size_px = 8 }";

fn noise(width: usize, height: usize) -> Image {
    let mut stream = Stream::open(5, Purpose::Test, Scope::Item(0));
    let pixels = (0..3 * width * height).map(|_| stream.next_u32() as u8).collect();
    Image { width, height, pixels }
}

fn sigma(drawn: &Drawn) -> Option<f32> {
    drawn.operations.iter().find_map(|operation| match operation {
        Operation::Blur(kernel) => Some(kernel.sigma_px()),
        _ => None,
    })
}

#[test]
fn a_batch_sigma_is_common_to_one_view_of_one_step_and_an_image_sigma_is_not() {
    for (per, common) in [("batch", true), ("image", false)] {
        let pipeline = pipeline(&format!("{CROP}, {{ name = \"blur\", sigma_per = \"{per}\" }}"));
        let sigmas = |step, view| -> Vec<Option<f32>> {
            let draw = |index| pipeline.sample(1, 0, index, step, view, (20, 20));
            (0..200).map(|index| sigma(&draw(index))).collect()
        };
        let distinct = |step, view| {
            let mut found: Vec<u32> =
                sigmas(step, view).into_iter().flatten().map(f32::to_bits).collect();
            // The probability stays per image.
            assert!((70..130).contains(&found.len()), "{}", found.len());
            found.sort_unstable();
            found.dedup();
            found
        };
        let sets = [distinct(0, 0), distinct(0, 1), distinct(1, 0)];
        if common {
            assert!(sets.iter().all(|set| set.len() == 1));
            assert!(sets[0] != sets[1] && sets[0] != sets[2]);
        } else {
            assert!(sets.iter().all(|set| set.len() > 60));
        }
    }
}

#[test]
fn a_draw_depends_on_seed_epoch_image_and_view_and_not_on_the_step() {
    let pipeline = pipeline(&format!("{CROP}, {{ name = \"color_jitter\", probability = 1.0 }}"));
    let first = pipeline.sample(1, 2, 3, 4, 0, (50, 40));
    assert_eq!(first, pipeline.sample(1, 2, 3, 9, 0, (50, 40)));
    for other in [(0, 2, 3, 0), (1, 0, 3, 0), (1, 2, 0, 0), (1, 2, 3, 1)] {
        let (seed, epoch, index, view) = other;
        assert_ne!(first, pipeline.sample(seed, epoch, index, 4, view, (50, 40)), "{other:?}");
    }
}

#[test]
fn changing_one_step_leaves_the_draws_of_the_others_alone() {
    let tail = "{ name = \"flip\" }, { name = \"color_jitter\", probability = 1.0 }";
    let one = pipeline(&format!("{CROP}, {tail}"));
    let other = pipeline(&format!("{{ name = \"resize\", size_px = 8 }}, {tail}"));
    for index in 0..50 {
        let a = one.sample(1, 0, index, 0, 0, (30, 30));
        let b = other.sample(1, 0, index, 0, 0, (30, 30));
        assert_eq!((a.flip, a.operations), (b.flip, b.operations));
        assert_eq!((b.crop.left, b.crop.top, b.crop.width, b.crop.height), (0, 0, 30, 30));
    }
}

#[test]
fn views_share_a_crop_where_the_recipe_says_so() {
    for (shared, common) in [("true", true), ("false", false)] {
        let crop = CROP.replace(" }", &format!(", shared = {shared} }}"));
        let pipeline = pipeline(&format!("{crop}, {{ name = \"color_jitter\" }}"));
        let draw = |index, view| pipeline.sample(1, 0, index, 0, view, (50, 40));
        let mut crops: Vec<Crop> = (0..20).map(|index| draw(index, 0).crop).collect();
        for (index, first) in (0..).zip(&crops) {
            let second = draw(index, 1);
            assert_eq!(*first == second.crop, common);
            assert!(second.operations.is_empty() || second.operations != draw(index, 0).operations);
        }
        crops.dedup();
        assert_eq!(crops.len(), 20);
    }
}

#[test]
fn a_second_crop_takes_a_part_of_the_view() {
    let sharp = "size_px = 24, interpolation = \"tensorflow_bicubic\" }";
    let step = CROP.replace("size_px = 8 }", sharp);
    let once = pipeline(&step);
    let twice = pipeline(&format!("{step}, {step}"));
    let (image, mut scratch) = (noise(40, 30), Scratch::default());
    for index in 0..20 {
        let drawn = once.sample(1, 0, index, 0, 0, (40, 30));
        let mut view = Image { width: 24, height: 24, pixels: vec![0; 3 * 24 * 24] };
        drawn.apply(&image, &mut scratch, &mut view.pixels);
        let again = twice.sample(1, 0, index, 0, 0, (40, 30));
        assert_eq!(again.crop, drawn.crop);
        let [Operation::Recrop(part)] = &again.operations[..] else { panic!("{again}") };
        assert!(part.left + part.width <= 24 && part.top + part.height <= 24);
        let (mut found, mut expected) = (vec![0; 3 * 24 * 24], vec![0; 3 * 24 * 24]);
        again.apply(&image, &mut scratch, &mut found);
        let filter = Interpolation::TensorflowBicubic;
        scratch.resize(&view, part.place(), (24, 24), filter, &mut expected);
        // The view was rounded in between here.
        assert!(found.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1));
    }
}

#[test]
fn a_flip_mirrors_and_nothing_else() {
    let image = noise(9, 9);
    for interpolation in [Interpolation::Bilinear, Interpolation::TensorflowBicubic] {
        let crop = Crop { left: 0, top: 0, width: 9, height: 9, size_px: 9, interpolation };
        let drawn = Drawn { crop, flip: true, operations: Vec::new() };
        let mut out = vec![0; image.pixels.len()];
        drawn.apply(&image, &mut Scratch::default(), &mut out);
        for (y, x, c) in
            (0..9).flat_map(|y| (0..9).flat_map(move |x| (0..3).map(move |c| (y, x, c))))
        {
            assert_eq!(out[3 * (9 * y + x) + c], image.pixels[3 * (9 * y + 8 - x) + c]);
        }
    }
}

#[test]
fn a_flip_takes_its_place_behind_what_has_a_left_and_a_right() {
    let flip = "{ name = \"flip\", probability = 1 }";
    for (steps, first, last) in [
        (format!("{flip}, {{ name = \"cutout\" }}"), true, false),
        (format!("{{ name = \"sobel\" }}, {flip}"), true, false),
        (format!("{{ name = \"cutout\" }}, {flip}"), false, true),
        (format!("{flip}, {{ name = \"rotation\" }}, {flip}"), true, true),
    ] {
        let drawn = pipeline(&format!("{CROP}, {steps}")).sample(1, 0, 0, 0, 0, (20, 20));
        let behind = drawn.operations.last() == Some(&Operation::Flip);
        assert_eq!((drawn.flip, behind), (first, last), "{steps}");
    }
    let image = noise(8, 8);
    let steps = "{ name = \"resize\", size_px = 8 }, { name = \"cutout\" }".to_owned();
    let mut views = [vec![0; 192], vec![0; 192]];
    for (steps, out) in [steps.clone(), format!("{steps}, {flip}")].iter().zip(&mut views) {
        let drawn = pipeline(steps).sample(1, 0, 5, 0, 0, (8, 8));
        drawn.apply(&image, &mut Scratch::default(), out);
    }
    views[1].chunks_exact_mut(24).for_each(|row| row.as_chunks_mut::<3>().0.reverse());
    assert_eq!(views[0], views[1]);
}

#[test]
fn every_operation_is_drawn_stored_shown_and_done_again_alike() {
    let pipeline = pipeline(
        "{ name = \"random_resized_crop\", size_px = 24 }, { name = \"rotation\" }, \
         { name = \"cutout\" }, { name = \"flip\", probability = 1 }, { name = \"gaussian_noise\" }, \
         { name = \"rand_augment\", probability = 1 }, { name = \"sobel\" }, { name = \"jigsaw\", patch_px = 5 }",
    );
    assert_eq!((pipeline.size_px(0), pipeline.size_px(1)), (15, 15));
    let image = noise(40, 30);
    let mut scratch = Scratch::default();
    let mut seen = Vec::new();
    for index in 0..40 {
        let drawn = pipeline.sample(1, 0, index, 0, 0, (40, 30));
        let text = drawn.to_string();
        for part in [", rotated ", ", painted ", ", flip", ", noise 0.10", ", rand ", ", edges"] {
            assert!(text.contains(part), "{part} missing in {text}");
        }
        assert!(text.ends_with(", jigsaw 3x3 of 5 px"), "{text}");
        let json = serde_json::to_string(&drawn).unwrap();
        assert_eq!(serde_json::from_str::<Drawn>(&json).unwrap(), drawn);
        let mut views = [vec![0; 675], vec![1; 675]];
        drawn.apply(&image, &mut scratch, &mut views[0]);
        drawn.apply(&image, &mut Scratch::default(), &mut views[1]);
        assert_eq!(views[0], views[1]);
        assert!(!seen.contains(&views[0]));
        seen.push(views[0].clone());
    }
}

#[test]
fn a_jigsaw_cuts_the_view_the_other_steps_made() {
    let steps = "{ name = \"resize\", size_px = 20 }, { name = \"flip\", probability = 1 }";
    let image = noise(20, 20);
    let mut whole = vec![0; 1200];
    pipeline(steps).sample(1, 0, 3, 0, 0, (20, 20)).apply(
        &image,
        &mut Scratch::default(),
        &mut whole,
    );
    let jigsaw = pipeline(&format!("{steps}, {{ name = \"jigsaw\", grid = 2, patch_px = 7 }}"));
    let drawn = jigsaw.sample(1, 0, 3, 0, 0, (20, 20));
    let Some(Operation::Jigsaw(patches)) = drawn.operations.last() else { panic!("{drawn}") };
    let mut out = vec![0; 3 * 14 * 14];
    drawn.apply(&image, &mut Scratch::default(), &mut out);
    for (at, [top, left]) in patches.corners.iter().enumerate() {
        for y in 0..7 {
            let found = &out[3 * (14 * (at / 2 * 7 + y) + at % 2 * 7)..][..21];
            assert_eq!(found, &whole[3 * (20 * (top + y) + left)..][..21]);
        }
    }
}

#[test]
fn memory_of_earlier_views_leaves_no_trace() {
    let image = noise(40, 30);
    let steps =
        "{ name = \"color_jitter\" }, { name = \"blur\", kind = \"pillow\" }, { name = \"flip\" }";
    let small = pipeline(&format!("{CROP}, {steps}"));
    let large = pipeline(&format!("{}, {steps}", CROP.replace('8', "37")));
    let sharp = CROP.replace(" }", ", interpolation = \"tensorflow_bicubic\" }");
    let [sharp, plain] = ["37", "8"].map(|side| pipeline(&sharp.replace('8', side)));
    let mut scratch = Scratch::default();
    for index in 0..20 {
        for pipeline in [&large, &sharp, &plain, &small] {
            let drawn = pipeline.sample(1, 0, index, 0, 1, (40, 30));
            let mut out = vec![0; 3 * pipeline.size_px(1).pow(2)];
            let mut fresh = out.clone();
            drawn.apply(&image, &mut scratch, &mut out);
            drawn.apply(&image, &mut Scratch::default(), &mut fresh);
            assert_eq!(out, fresh);
        }
    }
}

#[test]
fn bytes_survive_the_way_to_planes_and_back() {
    let four: Vec<[u8; 4]> = (0..=255).map(|v| [v, 255 - v, v ^ 0x55, !v]).collect();
    let pixels: Vec<u8> = four.iter().flat_map(|it| [it[0], it[1], it[2]]).collect();
    let mut packed = vec![0; pixels.len()];
    pack(&four, &mut packed);
    assert_eq!(packed, pixels);
    let (mut red, mut green, mut blue) = ([0.0; 256], [0.0; 256], [0.0; 256]);
    separate(&four, &mut red, &mut green, &mut blue);
    let mut back = vec![0; pixels.len()];
    join(&red, &green, &blue, &mut back);
    assert_eq!(back, pixels);
    let mut rounded = [0; 9];
    let values = |v: f32| [v / 255.0, (v + 0.4) / 255.0, (v + 0.6) / 255.0];
    join(&values(0.0), &values(-3.0), &values(300.0), &mut rounded);
    assert_eq!(rounded, [0, 0, 255, 0, 0, 255, 1, 0, 255]);
}

#[test]
fn views_of_several_kinds_keep_their_order_size_and_statistics() {
    let recipe = |text: &str| toml::from_str::<ViewRecipe>(text).unwrap();
    let pipeline = Pipeline::new(&[
        recipe(&format!(
            "count = 2\nsteps = [{CROP}, {{ name = \"normalize\", mean = [0.1, 0.2, 0.3], std = [1, 2, 3] }}]"
        )),
        recipe("count = 3\nsteps = [{ name = \"resize\", size_px = 4 }]"),
    ])
    .unwrap();
    assert_eq!(pipeline.views(), 5);
    assert_eq!([0, 1, 2, 4].map(|view| pipeline.size_px(view)), [8, 8, 4, 4]);
    assert_eq!(pipeline.normalization(1), ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]));
    assert_eq!(pipeline.normalization(2), ([0.0; 3], [1.0; 3]));
    let message = Pipeline::new(&[]).unwrap_err().to_string();
    assert!(message.contains("`view` must describe 1 to 255 views"), "{message}");
}

#[test]
fn every_byte_is_divided_to_the_last_bit() {
    for byte in 0..=255u8 {
        let expected = f32::from(byte) / 255.0;
        assert_eq!(unit(f32::from(byte)).to_bits(), expected.to_bits(), "{byte}");
    }
}
