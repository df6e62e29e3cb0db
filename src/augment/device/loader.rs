//! The executor on the device: the data set lies there as bytes, and every step's views are made of it.

use super::Views;
use super::render::views;
use crate::augment::loader::{
    Damage, Damaged, HostBatch, Loader, LoaderConfig, SUBSTITUTES, decode, no_substitute,
    substitutes, tolerate,
};
use crate::augment::order::Order;
use crate::augment::pipeline::{Drawn, Pipeline};
use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// One batch whose views lie on the device.
#[derive(Debug)]
pub struct DeviceBatch {
    /// Step, from 0 over the whole run.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u32,
    /// Index of each image shown, N of them; where an image was damaged, its substitute's.
    pub indices: Vec<usize>,
    /// For each view the bytes `[N, h, w, 3]`.
    pub views: Vec<Tensor>,
    /// The constant channels `[N, K]` ([`Dataset::constants`]), which all views share.
    pub constants: Option<Tensor>,
    /// Damaged images met in this batch.
    pub damaged: Vec<Damage>,
}

/// Makes batches out of a data set that lies on the device: the same images, draws and substitutes as those of
/// [`Loader`], the bytes equal but for a rare difference of 1. Iterating makes them in order and ends after the last step.
///
/// For data sets of images of one size that fit: 50,000 images of 32 px take 154 MB.
#[derive(Debug)]
pub struct DeviceLoader {
    pipeline: Arc<Pipeline>,
    order: Order,
    seed: u64,
    steps: Range<u64>,
    /// `[n, H, W, 3]`; damaged ones are black.
    images: Tensor,
    /// `[n, K]`, if there are constant channels.
    constants: Option<Tensor>,
    damaged: Damaged,
}

/// A batch of either executor.
#[derive(Debug)]
pub enum Batch {
    /// Bytes in the host's memory.
    Host(HostBatch),
    /// Tensors.
    Device(DeviceBatch),
}

/// The batches of a run, from either executor.
pub enum Batches {
    /// Made on threads of the host.
    Host(Loader),
    /// Made on the device.
    Device(DeviceLoader),
}

/// Images decoded before they are moved to the device together, at most, and their bytes.
const CHUNK: usize = 1024;
const CHUNK_BYTES: usize = 256 << 20;

impl DeviceLoader {
    /// Decodes every image on `config.threads` threads, puts them all on the device, and is ready to make
    /// `config.steps`. `background` and `prefetch` do not matter.
    ///
    /// # Errors
    /// [`Error::Data`] if the images differ in size or more than `config.max_damaged` of them are damaged;
    /// [`Error::Environment`] if they do not fit or the threads cannot be started.
    ///
    /// # Panics
    /// If `order` is for another number of images than `dataset` holds.
    pub fn start(
        dataset: &dyn Dataset,
        pipeline: Arc<Pipeline>,
        order: Order,
        config: &LoaderConfig,
        device: Device,
    ) -> Result<Self> {
        assert_eq!(dataset.len(), order.images(), "the order is of this data set");
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.threads.max(1))
            .thread_name(|thread| format!("decode-{thread}"))
            .build()
            .map_err(|error| Error::Environment(format!("cannot start threads: {error}")))?;
        let (images, constants, damaged) = resident(dataset, config.max_damaged, &pool, device)?;
        let (seed, steps) = (config.seed, config.steps.clone());
        Ok(Self { pipeline, order, seed, steps, images, constants, damaged })
    }

    fn batch(&mut self, step: u64) -> Result<DeviceBatch> {
        let (epoch, places) = self.order.batch(step);
        let mut damaged = Vec::new();
        let mut indices = Vec::with_capacity(places.len());
        for index in &places {
            indices.push(self.shown(epoch, *index, &mut damaged)?);
        }
        let rows: Vec<i64> = indices.iter().map(|index| *index as i64).collect();
        let size = (self.images.size()[2] as usize, self.images.size()[1] as usize);
        let views = (0..self.pipeline.views())
            .map(|view| {
                let draw = |index: &usize| {
                    self.pipeline.sample(self.seed, epoch, *index as u32, step, view as u8, size)
                };
                let drawn: Vec<Drawn> = places.iter().map(draw).collect();
                views(&self.images, &rows, &drawn)
            })
            .collect();
        let chosen = Tensor::from_slice(&rows).to_device(self.images.device());
        let constants = self.constants.as_ref().map(|all| all.index_select(0, &chosen));
        Ok(DeviceBatch { step, epoch, indices, views, constants, damaged })
    }

    /// The image that is shown in the place of one.
    fn shown(&self, epoch: u32, index: usize, damaged: &mut Vec<Damage>) -> Result<usize> {
        let mut stream = substitutes(self.seed, epoch, index);
        let (mut shown, mut met) = (index, Vec::new());
        while self.damaged.contains_key(&shown) {
            met.push(shown);
            if met.len() > SUBSTITUTES {
                let (path, reason) = &self.damaged[&index];
                return Err(no_substitute(path, reason));
            }
            shown = stream.below(self.order.images() as u64) as usize;
        }
        damaged.extend(met.into_iter().map(|index| {
            let (path, reason) = self.damaged[&index].clone();
            Damage { index, path, reason, substitute: shown }
        }));
        Ok(shown)
    }
}

impl Iterator for DeviceLoader {
    type Item = Result<DeviceBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.steps.next()?;
        Some(self.batch(step))
    }
}

/// Decodes all images into one tensor on the device, with their constant channels, and lists the damaged ones.
fn resident(
    dataset: &dyn Dataset,
    max_damaged: f64,
    pool: &rayon::ThreadPool,
    device: Device,
) -> Result<(Tensor, Option<Tensor>, Damaged)> {
    let n = dataset.len();
    let channels = dataset.constant_channels();
    let mut constants = Vec::with_capacity(n * channels);
    let mut damaged = Damaged::new();
    // The first that can be read says what size all must have, and how many are decoded at a time.
    let mut first = None;
    for index in 0..n {
        match decode(dataset, index) {
            Ok(image) => {
                first = Some((index, image.width, image.height));
                break;
            }
            Err(error) => {
                damaged.insert(index, (dataset.path(index), error.to_string()));
                tolerate(&damaged, n, max_damaged)?;
            }
        }
    }
    let Some((first, width, height)) = first else {
        let reason = damaged.values().next().map_or("there are none", |(_, reason)| reason);
        return Err(Error::Data(format!("none of {n} images can be read: {reason}")));
    };
    let shape = [n, height, width, 3].map(|size| size as i64);
    let images = Tensor::f_zeros(shape, (Kind::Uint8, device)).map_err(|error| {
        let text = error.to_string();
        Error::Environment(format!(
            "{n} images of {width}x{height} pixels do not fit on the device ({} MB): {}; use \
             `data.executor=host`",
            (n * height * width * 3) >> 20,
            text.lines().next().unwrap_or_default()
        ))
    })?;
    let at_once = (CHUNK_BYTES / (3 * width * height)).clamp(1, CHUNK);
    for start in (0..n).step_by(at_once) {
        let chunk = start..n.min(start + at_once);
        let decoded: Vec<Result<Image>> =
            pool.install(|| chunk.clone().into_par_iter().map(|at| decode(dataset, at)).collect());
        let mut bytes = Vec::new();
        for (index, image) in chunk.clone().zip(decoded) {
            match image {
                Ok(image) if (image.width, image.height) == (width, height) => {
                    constants.extend(dataset.constants(index, &image));
                    bytes.extend(image.pixels);
                }
                Ok(image) => {
                    return Err(Error::Data(format!(
                        "`data.executor=device` needs images of one size, found {width}x{height} (`{}`) and {}x{} (`{}`); \
                         use `data.executor=host`",
                        dataset.path(first),
                        image.width,
                        image.height,
                        dataset.path(index)
                    )));
                }
                Err(error) => {
                    damaged.insert(index, (dataset.path(index), error.to_string()));
                    tolerate(&damaged, n, max_damaged)?;
                    constants.resize(constants.len() + channels, 0);
                    bytes.resize(bytes.len() + 3 * width * height, 0);
                }
            }
        }
        let part = Tensor::from_slice(&bytes).view([-1, shape[1], shape[2], 3]);
        images.narrow(0, start as i64, chunk.len() as i64).copy_(&part);
    }
    let constants = (channels > 0)
        .then(|| Tensor::from_slice(&constants).view([n as i64, -1]).to_device(device));
    Ok((images, constants, damaged))
}

impl Views for DeviceBatch {
    fn step(&self) -> u64 {
        self.step
    }

    fn bytes(
        &self,
        view: usize,
        size_px: usize,
        start: usize,
        count: usize,
        device: Device,
    ) -> Result<Tensor> {
        let size = size_px as i64;
        crate::shape::check(&format!("view {view}"), &self.views[view], &[-1, size, size, 3])?;
        if start + count > self.indices.len() {
            return Err(Error::Shape(format!(
                "view {view} must hold at least {} images, found {}",
                start + count,
                self.indices.len()
            )));
        }
        Ok(self.views[view].narrow(0, start as i64, count as i64).to_device(device))
    }

    fn constants(&self, start: usize, count: usize, device: Device) -> Option<Tensor> {
        let all = self.constants.as_ref()?;
        Some(all.narrow(0, start as i64, count as i64).to_device(device))
    }
}

impl Batch {
    /// Its views.
    pub fn views(&self) -> &dyn Views {
        match self {
            Self::Host(batch) => batch,
            Self::Device(batch) => batch,
        }
    }

    /// Index of each image shown, substitutes included.
    pub fn indices(&self) -> &[usize] {
        match self {
            Self::Host(batch) => &batch.indices,
            Self::Device(batch) => &batch.indices,
        }
    }

    /// Damaged images met in it.
    pub fn damaged(&self) -> &[Damage] {
        match self {
            Self::Host(batch) => &batch.damaged,
            Self::Device(batch) => &batch.damaged,
        }
    }
}

impl Batches {
    /// Gives the memory of a batch back for the next one.
    pub fn recycle(&self, batch: Batch) {
        if let (Self::Host(loader), Batch::Host(batch)) = (self, batch) {
            loader.recycle(batch);
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Host(loader) => Some(loader.next()?.map(Batch::Host)),
            Self::Device(loader) => Some(loader.next()?.map(Batch::Device)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{devices, picture};
    use super::*;

    /// Pictures of one size, or not; some are damaged.
    struct Pictures {
        images: usize,
        damaged: Vec<usize>,
        odd: Option<usize>,
    }

    impl Dataset for Pictures {
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
            if self.damaged.contains(&index) {
                return Err(Error::Data(format!("broken {index}")));
            }
            Ok(picture(index, 20 + usize::from(self.odd == Some(index)), 18))
        }
    }

    fn config() -> LoaderConfig {
        LoaderConfig {
            seed: 1,
            steps: 0..12,
            threads: 2,
            background: false,
            prefetch: 1,
            max_damaged: 0.1,
        }
    }

    fn pipeline() -> Arc<Pipeline> {
        let recipes = [
            "count = 2\nsteps = [{ name = \"random_resized_crop\", size_px = 16 }, { name = \"flip\" }, \
             { name = \"color_jitter\" }, { name = \"blur\", sigma_per = \"batch\" }]",
            "count = 1\nsteps = [{ name = \"resize\", size_px = 12 }, { name = \"rand_augment\" }]",
        ];
        Arc::new(Pipeline::new(&recipes.map(|text| toml::from_str(text).unwrap())).unwrap())
    }

    fn order(images: usize) -> Order {
        Order::new(1, images, 8).unwrap()
    }

    fn start(pictures: &Pictures, device: Device) -> Result<DeviceLoader> {
        DeviceLoader::start(pictures, pipeline(), order(pictures.images), &config(), device)
    }

    fn refusal(pictures: &Pictures) -> String {
        start(pictures, Device::Cpu).unwrap_err().to_string()
    }

    #[test]
    fn both_executors_show_the_same_images_views_and_substitutes() {
        let pictures = || Pictures { images: 40, damaged: vec![3, 17], odd: None };
        for device in devices() {
            let on_device = start(&pictures(), device).unwrap();
            let dataset: Arc<dyn Dataset> = Arc::new(pictures());
            let on_host = Loader::start(dataset, pipeline(), order(40), &config()).unwrap();
            let (mut values, mut differing) = (0, 0);
            let pairs = Batches::Device(on_device).zip(Batches::Host(on_host));
            let pairs: Vec<_> = pairs.map(|(one, other)| (one.unwrap(), other.unwrap())).collect();
            assert_eq!(pairs.len(), 12);
            for (one, other) in &pairs {
                assert_eq!(one.damaged(), other.damaged());
                let (Batch::Device(first), Batch::Host(second)) = (one, other) else { panic!() };
                assert_eq!((first.epoch, &first.indices), (second.epoch, &second.indices));
                assert_eq!(one.views().step(), other.views().step());
                for (view, size) in [(0, 16), (1, 16), (2, 12)] {
                    let bytes = |batch: &Batch| {
                        let bytes = batch.views().bytes(view, size, 2, 5, device).unwrap();
                        assert_eq!((bytes.size()[0], bytes.device()), (5, device));
                        Vec::<u8>::try_from(&bytes.flatten(0, -1)).unwrap()
                    };
                    for (one, other) in bytes(one).into_iter().zip(bytes(other)) {
                        assert!(one.abs_diff(other) <= 1);
                        values += 1;
                        differing += usize::from(one != other);
                    }
                }
            }
            assert!(pairs.iter().any(|(one, _)| !one.damaged().is_empty()));
            assert!(f64::from(differing as u32) < 1e-3 * f64::from(values), "{differing}");
        }
    }

    /// Bits are a function of the image: the same in both executors, in every epoch and view, and no step touches them.
    #[test]
    fn constant_channels_go_with_their_images() {
        let spec = "random-bits:synthetic:digits?train=40&test=1?bits=5";
        let dataset = crate::data::open(spec).unwrap().split("train").unwrap().clone();
        let host = Loader::start(dataset.clone(), pipeline(), order(40), &config()).unwrap();
        let mut seen = std::collections::BTreeMap::new();
        for device in devices() {
            let loader =
                DeviceLoader::start(dataset.as_ref(), pipeline(), order(40), &config(), device);
            for batch in Batches::Device(loader.unwrap()) {
                let batch = batch.unwrap();
                let found = batch.views().constants(0, 8, device).unwrap();
                assert_eq!((found.size(), found.kind()), (vec![8, 5], Kind::Uint8));
                let found = Vec::<u8>::try_from(&found.flatten(0, -1)).unwrap();
                for (index, bits) in batch.indices().iter().zip(found.chunks(5)) {
                    let image = dataset.image(*index).unwrap();
                    assert_eq!(bits, dataset.constants(*index, &image));
                    seen.insert(*index, bits.to_vec());
                }
            }
        }
        assert_eq!(seen.len(), 40);
        for batch in Batches::Host(host) {
            let batch = batch.unwrap();
            for place in 0..8 {
                let bits = batch.views().constants(place, 1, Device::Cpu).unwrap().flatten(0, -1);
                let bits = Vec::<u8>::try_from(&bits).unwrap();
                assert_eq!(bits, seen[&batch.indices()[place]]);
            }
        }
        let plain = Pictures { images: 40, damaged: Vec::new(), odd: None };
        let first = start(&plain, Device::Cpu).unwrap().next().unwrap().unwrap();
        assert!(first.constants(0, 8, Device::Cpu).is_none());
    }

    #[test]
    fn a_run_can_start_at_any_step() {
        let pictures = Pictures { images: 40, damaged: vec![3], odd: None };
        let all: Vec<DeviceBatch> =
            start(&pictures, Device::Cpu).unwrap().map(Result::unwrap).collect();
        let config = LoaderConfig { steps: 7..12, ..config() };
        let resumed =
            DeviceLoader::start(&pictures, pipeline(), order(40), &config, Device::Cpu).unwrap();
        for (resumed, whole) in resumed.map(Result::unwrap).zip(&all[7..]) {
            assert_eq!((resumed.step, &resumed.indices), (whole.step, &whole.indices));
            assert_eq!(resumed.views, whole.views);
        }
    }

    #[test]
    fn images_of_two_sizes_are_refused_with_a_way_out() {
        let message = refusal(&Pictures { images: 40, damaged: vec![0], odd: Some(9) });
        assert_eq!(
            message,
            "`data.executor=device` needs images of one size, found 20x18 (`image-1.png`) and 21x18 (`image-9.png`); \
             use `data.executor=host`"
        );
    }

    #[test]
    fn too_many_damaged_images_are_refused_as_by_the_loader() {
        let message = refusal(&Pictures { images: 40, damaged: (5..15).collect(), odd: None });
        assert!(message.starts_with("5 of 40 images are damaged"), "{message}");
        assert!(message.contains("image-5.png: broken 5"), "{message}");
        let lost = Pictures { images: 40, damaged: (0..40).collect(), odd: None };
        let config = LoaderConfig { max_damaged: 1.0, ..config() };
        let error = DeviceLoader::start(&lost, pipeline(), order(40), &config, Device::Cpu);
        assert!(error.unwrap_err().to_string().starts_with("none of 40 images can be read"));
    }

    #[test]
    fn a_view_of_another_size_is_refused_by_both() {
        let pictures = || Pictures { images: 40, damaged: Vec::new(), odd: None };
        let device = Batches::Device(start(&pictures(), Device::Cpu).unwrap());
        let dataset: Arc<dyn Dataset> = Arc::new(pictures());
        let host = Batches::Host(Loader::start(dataset, pipeline(), order(40), &config()).unwrap());
        for mut batches in [device, host] {
            let batch = batches.next().unwrap().unwrap();
            for (size, start, count) in [(15, 0, 8), (16, 1, 8), (16, 8, 1)] {
                let found = batch.views().bytes(1, size, start, count, Device::Cpu);
                assert!(matches!(found, Err(Error::Shape(_))), "{size} {start} {count}");
            }
            assert!(batch.views().bytes(1, 16, 7, 1, Device::Cpu).is_ok());
            batches.recycle(batch);
            assert_eq!(batches.next().unwrap().unwrap().views().step(), 1);
        }
    }
}
