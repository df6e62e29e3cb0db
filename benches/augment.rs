//! One view at the two sizes that matter, each operation alone beside plain copying of the view it makes, and the whole
//! loader on images that need no decoding. Throughput is in views, of operations in bytes of the view.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use diptych::augment::{Drawn, Loader, LoaderConfig, Order, Pipeline, Scratch, ViewRecipe};
use diptych::data::{Dataset, Image};
use diptych::error::Result;
use diptych::random::{Purpose, Scope, Stream};
use std::hint::black_box;
use std::sync::Arc;

fn picture(width: usize, height: usize) -> Image {
    let mut stream = Stream::open(0, Purpose::Test, Scope::Item(0));
    let pixels = (0..3 * width * height).map(|_| stream.next_u32() as u8).collect();
    Image { width, height, pixels }
}

fn pipeline(size_px: usize, more: &str) -> Pipeline {
    let recipe = format!(
        r#"count = 2
        steps = [
          {{ name = "random_resized_crop", size_px = {size_px} }},
          {{ name = "flip" }},
          {{ name = "color_jitter", probability = 0.8, brightness = 0.8, contrast = 0.8, saturation = 0.8, hue = 0.2 }},
          {{ name = "grayscale" }},
          {more}
        ]"#
    );
    let recipe: ViewRecipe = toml::from_str(&recipe).expect("a valid recipe");
    Pipeline::new(&[recipe]).expect("a valid recipe")
}

const KERNEL: &str = r#"{ name = "blur", sigma_per = "batch" }"#;
const PILLOW: &str = r#"{ name = "blur", kind = "pillow" }"#;

/// The mean over many draws of sampling and applying, and each operation alone.
fn view(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("view");
    group.throughput(Throughput::Elements(1));
    let cases = [
        ("32px", 32, (32, 32), ""),
        ("32px_pillow", 32, (32, 32), PILLOW),
        ("224px_sharp", 224, (500, 375), ""),
        ("224px", 224, (500, 375), KERNEL),
        ("224px_pillow", 224, (500, 375), PILLOW),
    ];
    for (name, size_px, (width, height), blur) in cases {
        let image = picture(width, height);
        let pipeline = pipeline(size_px, blur);
        let mut scratch = Scratch::default();
        let mut out = vec![0; 3 * size_px * size_px];
        let mut index = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                index += 1;
                let step = u64::from(index);
                let drawn = pipeline.sample(0, 0, index, step, 0, (width, height));
                drawn.apply(black_box(&image), &mut scratch, &mut out);
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("operation_224px");
    group.throughput(Throughput::Bytes(3 * 224 * 224));
    let image = picture(500, 375);
    let mut scratch = Scratch::default();
    let mut out = vec![0; 3 * 224 * 224];
    let crop = r#""crop":{"left":50,"top":30,"width":350,"height":300,"size_px":224,"interpolation":"bilinear"}"#;
    let operations = [
        ("crop", "false", ""),
        ("flip", "true", ""),
        ("brightness", "false", r#"{"color":{"brightness":1.3}}"#),
        ("contrast", "false", r#"{"color":{"contrast":1.3}}"#),
        ("saturation", "false", r#"{"color":{"saturation":1.3}}"#),
        ("hue", "false", r#"{"color":{"hue":0.1}}"#),
        (
            "blur_kernel",
            "false",
            r#"{"blur":{"kind":"kernel","sigma_px":1.9,"radius_px":11,"border":"zero"}}"#,
        ),
        ("blur_pillow", "false", r#"{"blur":{"kind":"pillow","sigma_px":1.9}}"#),
    ];
    for (name, flip, operation) in operations {
        let drawn = format!(r#"{{{crop},"flip":{flip},"operations":[{operation}]}}"#);
        let drawn: Drawn = serde_json::from_str(&drawn).expect("a valid value");
        group.bench_function(name, |bencher| {
            bencher.iter(|| drawn.apply(black_box(&image), &mut scratch, &mut out));
        });
    }
    let view = out.clone();
    group.bench_function("copy", |bencher| {
        bencher.iter(|| black_box(&mut out).copy_from_slice(black_box(&view)));
    });
    group.finish();
}

struct Memory(Image);

impl Dataset for Memory {
    fn len(&self) -> usize {
        4_096
    }
    fn label(&self, _index: usize) -> Option<u32> {
        None
    }
    fn path(&self, index: usize) -> String {
        index.to_string()
    }
    fn image(&self, _index: usize) -> Result<Image> {
        Ok(self.0.clone())
    }
}

fn loader(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loader_2_threads");
    group.sample_size(10);
    for (name, size_px, (width, height), batch_size, steps, blur) in [
        ("32px", 32, (32, 32), 512, 16, ""),
        ("224px", 224, (500, 375), 64, 6, KERNEL),
        ("224px_pillow", 224, (500, 375), 64, 6, PILLOW),
    ] {
        let dataset: Arc<dyn Dataset> = Arc::new(Memory(picture(width, height)));
        let pipeline = Arc::new(pipeline(size_px, blur));
        group.throughput(Throughput::Elements(2 * batch_size as u64 * steps));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let order = Order::new(0, dataset.len(), batch_size).expect("enough images");
                let config = LoaderConfig {
                    seed: 0,
                    steps: 0..steps,
                    threads: 2,
                    background: false,
                    prefetch: 2,
                    max_damaged: 0.0,
                };
                let mut loader =
                    Loader::start(Arc::clone(&dataset), Arc::clone(&pipeline), order, &config)
                        .expect("threads");
                while let Some(batch) = loader.next() {
                    loader.recycle(batch.expect("a batch"));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, view, loader);
criterion_main!(benches);
