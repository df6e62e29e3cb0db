//! Promises of the probes: what is there is found, what is not is not.

use super::*;
use crate::augment::named;

fn view() -> ViewRecipe {
    named("mocov2@32").unwrap().remove(0)
}

/// Pictures of stripes, each of its own colours.
struct Stripes(usize);

impl Dataset for Stripes {
    fn len(&self) -> usize {
        self.0
    }

    fn label(&self, _: usize) -> Option<u32> {
        None
    }

    fn path(&self, index: usize) -> String {
        index.to_string()
    }

    fn image(&self, index: usize) -> Result<Image> {
        let mut stream = Stream::open(1, Purpose::Test, Scope::Item(index as u64));
        let colors: [[u8; 3]; 2] = [0, 1].map(|_| [0; 3].map(|_: u8| stream.below(256) as u8));
        let width = 2 + stream.below(6) as usize;
        let pixels = (0..40 * 40).flat_map(|at| colors[at % 40 / width % 2]).collect();
        Ok(Image { width: 40, height: 40, pixels })
    }
}

fn images(count: usize) -> Stripes {
    Stripes(count)
}

/// How bright an image is, and nothing at all.
#[expect(clippy::unnecessary_wraps, reason = "what a network is called as")]
fn brightness_and_nothing(pixels: &[u8], n: usize) -> Result<Vec<Tensor>> {
    let pixels = Tensor::from_slice(pixels).view([n as i64, -1]).to_kind(Kind::Float) / 25.5;
    let brightness =
        Tensor::stack(&[pixels.mean_dim(1i64, false, None), pixels.std_dim(1i64, true, false)], 1);
    let nothing = Tensor::zeros([n as i64, 3], (Kind::Float, Device::Cpu));
    Ok(vec![brightness, nothing])
}

#[test]
fn what_was_drawn_is_the_answer() {
    let images = images(400);
    for question in Question::ALL {
        let views = Views::new(question, &view(), 0.1, 7).unwrap();
        let mut counts = vec![0usize; question.answers().len()];
        for index in 0..images.len() {
            let image = images.image(index).unwrap();
            let (drawn, answer) = views.draw(0, index, &image);
            counts[answer] += 1;
            let mut view = vec![0; 3 * 32 * 32];
            drawn.apply(&image, &mut Scratch::default(), &mut view);
            let gray = view.chunks(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]);
            if question == Question::Color {
                assert_eq!(gray, answer == 1, "image {index}");
            }
        }
        // Five standard deviations.
        let rare = if question == Question::Color { 0.2 } else { question.chance() };
        let expected = 400.0 * rare;
        let found = *counts.last().unwrap() as f64;
        assert!((found - expected).abs() < 5.0 * (expected * (1.0 - rare)).sqrt(), "{counts:?}");
    }
}

#[test]
fn in_evaluation_every_image_counts_once_for_each_answer() {
    let image = images(1).image(0).unwrap();
    for question in [Question::Rotation, Question::Noise, Question::Sobel] {
        let views = Views::new(question, &view(), 0.1, 3).unwrap();
        for wanted in 0..question.answers().len() {
            let (drawn, answer) = views.draw_for(wanted, 0, &image);
            assert_eq!((answer, question.answer(&drawn)), (wanted, wanted), "{question:?}");
        }
    }
    let views = Views::new(Question::Color, &view(), 0.1, 3).unwrap();
    assert_eq!(views.draw_for(0, 5, &image), views.draw_for(1, 5, &image));
}

#[test]
fn edges_are_seen_in_brightness_and_nothing_in_nothing() {
    let probe = Probe {
        questions: vec![Question::Sobel, Question::Rotation],
        hidden: 64,
        learning_rate: 1e-2,
        epochs: 8,
        batch_size: 16,
        ..Probe::default()
    };
    let (train, test) = (images(128), images(64));
    let mut done = Vec::new();
    let found = probe
        .evaluate(&mut brightness_and_nothing, &view(), [&train, &test], 0, &mut |d, all| {
            done.push((d, all));
        })
        .unwrap();
    assert_eq!(done, (1..=16).map(|d| (d, 16)).collect::<Vec<_>>());
    let top1 = |at: usize| found[at].ranks.top(1).value;
    assert_eq!((found[0].question, found[0].layer), (Question::Sobel, 0));
    assert!(top1(0) > 0.75, "edges are dark: {}", top1(0));
    assert!((top1(1) - 0.5).abs() < 1e-12, "every image counts once for each answer");
    assert!((top1(3) - 0.25).abs() < 1e-12);
    assert_eq!(found[0].ranks.labels.len(), 128);
    let again = probe
        .evaluate(&mut brightness_and_nothing, &view(), [&train, &test], 0, &mut |_, _| ())
        .unwrap();
    assert_eq!(found, again);
}

#[test]
fn settings_out_of_range_are_named() {
    let fine = Probe::default();
    for (key, wrong) in [
        ("probe.questions", Probe { questions: Vec::new(), ..fine.clone() }),
        ("probe.hidden", Probe { hidden: 0, ..fine.clone() }),
        ("probe.epochs", Probe { epochs: 0, ..fine.clone() }),
        ("probe.batch_size", Probe { batch_size: 0, ..fine.clone() }),
        ("probe.learning_rate", Probe { learning_rate: f64::NAN, ..fine.clone() }),
        ("probe.noise_std", Probe { noise_std: 0.0, ..fine.clone() }),
    ] {
        let message = wrong.check().unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
}
