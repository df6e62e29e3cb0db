//! Batches of views, prepared on threads ahead of the training step.

use super::order::Order;
use super::pipeline::{Pipeline, Scratch};
use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How a [`Loader`] works. Only `seed`, `steps` and `max_damaged` change what comes out.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// The run's seed.
    pub seed: u64,
    /// Steps to prepare, counted over the whole run; a resumed run starts in the middle.
    pub steps: Range<u64>,
    /// Threads that decode and augment, at least 1.
    pub threads: usize,
    /// Whether these threads run at lowest priority, so that they take only time the computation leaves (see design: on
    /// a CPU device anything else slows the step down).
    pub background: bool,
    /// Batches kept ready, at least 1.
    pub prefetch: usize,
    /// Largest fraction of the images that may turn out damaged before the loader gives up.
    pub max_damaged: f64,
}

/// One batch on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBatch {
    /// Step, from 0 over the whole run.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u32,
    /// Index of each image shown, N of them; where an image was damaged, its substitute's.
    pub indices: Vec<usize>,
    /// For each view the bytes `[N, h, w, 3]`.
    pub views: Vec<Vec<u8>>,
    /// The constant channels `[N, K]` ([`Dataset::constants`]), which all views share; empty for most data.
    pub constants: Vec<u8>,
    /// Damaged images met in this batch.
    pub damaged: Vec<Damage>,
}

/// A damaged image and what took its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Index of the damaged image.
    pub index: usize,
    /// Its name in the source.
    pub path: String,
    /// Why it could not be used.
    pub reason: String,
    /// Index of the image shown instead.
    pub substitute: usize,
}

/// Prepares batches ahead on threads of its own, in order; iterating hands them out and ends after the last step or the
/// first error. Dropping it stops the threads after the images at hand.
///
/// The batches and every pixel depend on the data, the pipeline, the order and the seed only, not on `threads`,
/// `prefetch` or the first step.
pub struct Loader {
    batches: Option<Receiver<Result<HostBatch>>>,
    used: Sender<Vec<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    coordinator: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts preparing `config.steps`.
    ///
    /// # Errors
    /// [`Error::Environment`] if the threads cannot be started.
    ///
    /// # Panics
    /// If `order` is for another number of images than `dataset` holds.
    pub fn start(
        dataset: Arc<dyn Dataset>,
        pipeline: Arc<Pipeline>,
        order: Order,
        config: &LoaderConfig,
    ) -> Result<Self> {
        assert_eq!(dataset.len(), order.images(), "the order is of this data set");
        let failed = |error: &dyn std::fmt::Display| {
            Error::Environment(format!("cannot start {} loader threads: {error}", config.threads))
        };
        let background = config.background;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.threads.max(1))
            .thread_name(|thread| format!("loader-{thread}"))
            .start_handler(move |_| step_back(background))
            .build()
            .map_err(|error| failed(&error))?;
        let (send, batches) = bounded(config.prefetch.max(1));
        let (used, recycled) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let scratch = (0..pool.current_num_threads()).map(|_| Mutex::default()).collect();
        let mut work = Work {
            dataset,
            pipeline,
            order,
            seed: config.seed,
            stop: Arc::clone(&stop),
            recycled,
            scratch,
            damaged: BTreeMap::new(),
            max_damaged: config.max_damaged,
        };
        let steps = config.steps.clone();
        let coordinate = move || {
            step_back(background);
            for step in steps {
                let batch = pool.install(|| work.batch(step));
                let ended = batch.is_err();
                if work.stop.load(Ordering::Relaxed) || send.send(batch).is_err() || ended {
                    return;
                }
            }
        };
        let coordinator = std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(coordinate)
            .map_err(|error| failed(&error))?;
        Ok(Self { batches: Some(batches), used, stop, coordinator: Some(coordinator) })
    }

    /// Gives the memory of a batch back for the next one; optional, saves time with large images.
    pub fn recycle(&self, batch: HostBatch) {
        // The other side is gone after the last step; then the memory is simply freed.
        let _ = self.used.send(batch.views);
    }
}

impl Iterator for Loader {
    type Item = Result<HostBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.as_ref()?.recv();
        if batch.is_err() {
            // The other side has left: after its last step, or by a panic that belongs to this thread now.
            self.batches = None;
            if let Some(Err(panic)) = self.coordinator.take().map(JoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
        }
        batch.ok()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.batches = None;
        if let Some(coordinator) = self.coordinator.take() {
            // A panic was either reported by `next` or concerns batches nobody waits for.
            let _ = coordinator.join();
        }
    }
}

/// Gives the calling thread the lowest priority. Where the system refuses, the work is done at normal priority.
fn step_back(background: bool) {
    if background {
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
    }
}

/// What the loader's threads share.
struct Work {
    dataset: Arc<dyn Dataset>,
    pipeline: Arc<Pipeline>,
    order: Order,
    seed: u64,
    stop: Arc<AtomicBool>,
    recycled: Receiver<Vec<Vec<u8>>>,
    /// One for each thread of the pool.
    scratch: Vec<Mutex<Scratch>>,
    damaged: Damaged,
    max_damaged: f64,
}

/// Images tried in the place of a damaged one.
pub(super) const SUBSTITUTES: usize = 100;

/// Path and reason of the distinct damaged images met so far, by index.
pub(super) type Damaged = BTreeMap<usize, (String, String)>;

/// Draws what stands in for an image in its place of an epoch.
pub(super) fn substitutes(seed: u64, epoch: u32, index: usize) -> Stream {
    let scope = Scope::Image { epoch, index: index as u32, view: 0 };
    Stream::open(seed, Purpose::Substitute, scope)
}

/// Decodes an image that has pixels.
pub(super) fn decode(dataset: &dyn Dataset, index: usize) -> Result<Image> {
    let image = dataset.image(index)?;
    if image.width == 0 || image.height == 0 {
        let path = dataset.path(index);
        return Err(Error::Data(format!("image without pixels: {path}")));
    }
    Ok(image)
}

/// What to say when nothing that can be read was found for a place.
pub(super) fn no_substitute(path: &str, reason: &str) -> Error {
    Error::Data(format!(
        "none of {SUBSTITUTES} images drawn in place of `{path}` can be read ({reason}); are the files still there?"
    ))
}

/// Gives up when too many of the images are damaged.
pub(super) fn tolerate(damaged: &Damaged, images: usize, max_damaged: f64) -> Result<()> {
    let found = damaged.len();
    if found as f64 <= max_damaged * images as f64 {
        return Ok(());
    }
    let mut list: Vec<String> =
        damaged.values().take(10).map(|(path, reason)| format!("\n  {path}: {reason}")).collect();
    if found > list.len() {
        list.push(format!("\n  and {} more", found - list.len()));
    }
    let enough = ((found as f64 / images as f64) * 1e4).ceil() / 1e4;
    Err(Error::Data(format!(
        "{found} of {images} images are damaged, more than `data.max_damaged={max_damaged}` allows; mend or remove them, \
         or set `data.max_damaged={enough}` or above:{}",
        list.concat()
    )))
}

/// What became of one place in a batch.
struct Outcome {
    shown: Option<usize>,
    /// Its constant channels.
    constants: Vec<u8>,
    /// Damaged images met on the way: index and reason.
    damaged: Vec<(usize, String)>,
}

impl Work {
    fn batch(&mut self, step: u64) -> Result<HostBatch> {
        let (epoch, mut indices) = self.order.batch(step);
        let sizes: Vec<usize> =
            (0..self.pipeline.views()).map(|view| 3 * self.pipeline.size_px(view).pow(2)).collect();
        let mut views = self.recycled.try_recv().unwrap_or_default();
        views.resize_with(sizes.len(), Vec::new);
        for (view, size) in views.iter_mut().zip(&sizes) {
            view.resize(size * indices.len(), 0);
        }
        let mut places: Vec<(usize, Vec<&mut [u8]>)> =
            indices.iter().map(|index| (*index, Vec::with_capacity(sizes.len()))).collect();
        for (view, size) in views.iter_mut().zip(&sizes) {
            for (out, place) in view.chunks_exact_mut(*size).zip(&mut places) {
                place.1.push(out);
            }
        }
        let outcomes: Vec<Outcome> = places
            .into_par_iter()
            .with_max_len(1)
            .map(|(index, outs)| self.place(epoch, step, index, outs))
            .collect();
        let (mut damaged, mut constants) = (Vec::new(), Vec::new());
        for (place, outcome) in indices.iter_mut().zip(outcomes) {
            constants.extend(outcome.constants);
            let substitute = outcome.shown.unwrap_or(*place);
            *place = substitute;
            for (index, reason) in outcome.damaged {
                let path = self.dataset.path(index);
                self.damaged.insert(index, (path.clone(), reason.clone()));
                damaged.push(Damage { index, path, reason, substitute });
            }
            tolerate(&self.damaged, self.order.images(), self.max_damaged)?;
            if outcome.shown.is_none() {
                let (path, reason) = &self.damaged[&*place];
                return Err(no_substitute(path, reason));
            }
        }
        Ok(HostBatch { step, epoch, indices, views, constants, damaged })
    }

    /// Fills one place of a batch: decodes the image (or a substitute) once and makes all its views. The draws are those
    /// of the place, so a substitute that is in the batch anyway is not seen twice in the same way.
    fn place(&self, epoch: u32, step: u64, index: usize, outs: Vec<&mut [u8]>) -> Outcome {
        let mut damaged = Vec::new();
        if self.stop.load(Ordering::Relaxed) {
            return Outcome { shown: Some(index), constants: Vec::new(), damaged };
        }
        let mut stream = substitutes(self.seed, epoch, index);
        let mut shown = index;
        let image = loop {
            match decode(self.dataset.as_ref(), shown) {
                Ok(image) => break image,
                Err(error) => damaged.push((shown, error.to_string())),
            }
            if damaged.len() > SUBSTITUTES {
                return Outcome { shown: None, constants: Vec::new(), damaged };
            }
            shown = stream.below(self.order.images() as u64) as usize;
        };
        let thread = rayon::current_thread_index().expect("a thread of the pool");
        let mut scratch = self.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
        for (view, out) in outs.into_iter().enumerate() {
            let size = (image.width, image.height);
            self.pipeline.sample(self.seed, epoch, index as u32, step, view as u8, size).apply(
                &image,
                &mut scratch,
                out,
            );
        }
        let constants = self.dataset.constants(shown, &image);
        Outcome { shown: Some(shown), constants, damaged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::ViewRecipe;
    use std::time::{Duration, Instant};

    /// Images whose pixels tell their index; some are damaged.
    struct Fake {
        images: usize,
        damaged: Vec<usize>,
        pause: Duration,
    }

    impl Dataset for Fake {
        fn len(&self) -> usize {
            self.images
        }
        fn label(&self, _index: usize) -> Option<u32> {
            None
        }
        fn path(&self, index: usize) -> String {
            format!("image-{index}.png")
        }
        fn image(&self, index: usize) -> Result<Image> {
            std::thread::sleep(self.pause);
            if self.damaged.contains(&index) {
                return Err(Error::Data(format!("broken {index}")));
            }
            let (width, height) = (20 + index % 7, 18 + index % 5);
            let mut stream = Stream::open(9, Purpose::Test, Scope::Item(index as u64));
            let pixels = (0..3 * width * height).map(|_| stream.next_u32() as u8).collect();
            Ok(Image { width, height, pixels })
        }
    }

    fn fake(damaged: &[usize]) -> Arc<Fake> {
        Arc::new(Fake { images: 50, damaged: damaged.to_vec(), pause: Duration::ZERO })
    }

    fn start(dataset: &Arc<Fake>, change: impl FnOnce(&mut LoaderConfig)) -> Loader {
        let recipe: ViewRecipe = toml::from_str(
            "count = 2\nsteps = [{ name = \"random_resized_crop\", size_px = 16 }, { name = \"color_jitter\" }, \
             { name = \"blur\", sigma_per = \"batch\" }]",
        )
        .unwrap();
        let pipeline = Arc::new(Pipeline::new(&[recipe]).unwrap());
        let mut config = LoaderConfig {
            seed: 1,
            steps: 0..10,
            threads: 1,
            background: false,
            prefetch: 2,
            max_damaged: 0.1,
        };
        change(&mut config);
        let order = Order::new(1, dataset.images, 8).unwrap();
        let dataset: Arc<dyn Dataset> = Arc::clone(dataset) as Arc<dyn Dataset>;
        Loader::start(dataset, pipeline, order, &config).unwrap()
    }

    fn all(loader: Loader) -> Vec<HostBatch> {
        loader.map(Result::unwrap).collect()
    }

    #[test]
    fn threads_priority_and_prefetch_change_no_pixel() {
        let dataset = fake(&[3, 17]);
        let reference = all(start(&dataset, |_| {}));
        assert_eq!(reference.len(), 10);
        assert_eq!(reference.iter().map(|batch| batch.epoch).collect::<Vec<_>>()[5..7], [0, 1]);
        for (threads, prefetch, background) in [(2, 1, true), (3, 5, false), (1, 10, true)] {
            let other = start(&dataset, |config| {
                config.threads = threads;
                config.prefetch = prefetch;
                config.background = background;
            });
            assert!(all(other) == reference, "{threads} threads, prefetch {prefetch}");
        }
        let other = all(start(&dataset, |config| config.seed = 2));
        assert!(other[0].views != reference[0].views);
    }

    #[test]
    fn a_run_can_start_at_any_step() {
        let dataset = fake(&[3, 17]);
        let reference = all(start(&dataset, |_| {}));
        for first in [1, 5, 6, 9] {
            let resumed = all(start(&dataset, |config| config.steps = first..10));
            assert!(resumed == reference[first as usize..], "from step {first}");
        }
    }

    #[test]
    fn recycled_memory_changes_no_pixel() {
        let dataset = fake(&[]);
        let reference = all(start(&dataset, |_| {}));
        let mut loader = start(&dataset, |_| {});
        for expected in reference {
            let batch = loader.next().unwrap().unwrap();
            assert!(batch == expected);
            loader.recycle(batch);
        }
        assert!(loader.next().is_none());
    }

    #[test]
    fn a_view_is_what_sampling_and_applying_by_hand_gives() {
        let dataset = fake(&[]);
        let loader = start(&dataset, |config| config.threads = 2);
        let pipeline = Pipeline::new(&[toml::from_str(
            "count = 2\nsteps = [{ name = \"random_resized_crop\", size_px = 16 }, { name = \"color_jitter\" }, \
             { name = \"blur\", sigma_per = \"batch\" }]",
        )
        .unwrap()])
        .unwrap();
        for batch in all(loader) {
            for (place, index) in batch.indices.iter().enumerate() {
                let image = dataset.image(*index).unwrap();
                for (view, found) in batch.views.iter().enumerate() {
                    let size = (image.width, image.height);
                    let mut out = vec![0; 16 * 16 * 3];
                    pipeline
                        .sample(1, batch.epoch, *index as u32, batch.step, view as u8, size)
                        .apply(&image, &mut Scratch::default(), &mut out);
                    assert!(found[place * out.len()..][..out.len()] == out[..]);
                }
            }
        }
    }

    #[test]
    fn a_damaged_image_is_listed_and_replaced() {
        let (clean, broken) = (fake(&[]), fake(&[3, 17]));
        let clean = all(start(&clean, |config| config.steps = 0..60));
        let found = all(start(&broken, |config| config.steps = 0..60));
        let mut seen = [0, 0];
        for (clean, found) in clean.iter().zip(&found) {
            for (place, index) in clean.indices.iter().enumerate() {
                let shown = found.indices[place];
                let Some(which) = [3, 17].iter().position(|broken| broken == index) else {
                    assert_eq!(shown, *index);
                    continue;
                };
                seen[which] += 1;
                assert!(![3, 17].contains(&shown));
                let damage = found.damaged.iter().find(|damage| damage.index == *index).unwrap();
                assert_eq!(damage.path, format!("image-{index}.png"));
                assert_eq!(damage.reason, format!("broken {index}"));
                assert_eq!(damage.substitute, shown);
                assert_ne!(clean.views[0], found.views[0]);
            }
        }
        assert!(seen.iter().all(|times| *times > 5), "{seen:?}");
    }

    #[test]
    fn too_many_damaged_images_stop_the_loader_with_a_list_and_a_way_out() {
        let dataset = fake(&(0..20).collect::<Vec<_>>());
        let found: Vec<_> = start(&dataset, |config| config.steps = 0..60).collect();
        let error = found.last().unwrap().as_ref().unwrap_err();
        assert!(matches!(error, Error::Data(_)));
        let message = error.to_string();
        assert!(message.starts_with("6 of 50 images are damaged"), "{message}");
        assert!(message.contains("set `data.max_damaged=0.12` or above"), "{message}");
        assert_eq!(message.matches(".png: broken").count(), 6);
        assert_eq!(found.iter().filter(|batch| batch.is_err()).count(), 1);

        let all: Vec<usize> = (0..50).collect();
        let mut loader = start(&fake(&all), |config| config.max_damaged = 1.0);
        let message = loader.next().unwrap().unwrap_err().to_string();
        assert!(message.starts_with("none of 100 images drawn in place of"), "{message}");
        assert!(message.contains("broken") && message.contains("still there"), "{message}");
        assert!(loader.next().is_none());
    }

    #[test]
    fn dropping_the_loader_ends_its_threads() {
        let pause = Duration::from_millis(5);
        let dataset = Arc::new(Fake { images: 50, damaged: Vec::new(), pause });
        let mut loader = start(&dataset, |config| {
            config.steps = 0..1_000_000;
            config.threads = 2;
        });
        assert_eq!(loader.next().unwrap().unwrap().step, 0);
        let begin = Instant::now();
        drop(loader);
        assert!(begin.elapsed() < Duration::from_secs(2));
        assert_eq!(Arc::strong_count(&dataset), 1, "a thread still holds the data");
    }

    #[test]
    #[should_panic(expected = "a bug in the data set")]
    fn a_panic_in_a_loader_thread_reaches_the_caller() {
        struct Bug;
        impl Dataset for Bug {
            fn len(&self) -> usize {
                8
            }
            fn label(&self, _index: usize) -> Option<u32> {
                None
            }
            fn path(&self, _index: usize) -> String {
                String::new()
            }
            fn image(&self, _index: usize) -> Result<Image> {
                panic!("a bug in the data set")
            }
        }
        let recipe: ViewRecipe =
            toml::from_str("count = 1\nsteps = [{ name = \"resize\", size_px = 4 }]").unwrap();
        let config = LoaderConfig {
            seed: 0,
            steps: 0..1,
            threads: 1,
            background: false,
            prefetch: 1,
            max_damaged: 0.0,
        };
        let pipeline = Arc::new(Pipeline::new(&[recipe]).unwrap());
        let order = Order::new(0, 8, 4).unwrap();
        let _ = Loader::start(Arc::new(Bug), pipeline, order, &config).unwrap().count();
    }
}
