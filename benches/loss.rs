//! NT-Xent with its gradient, at the batches of CIFAR and of large-batch runs, beside the dense form of the textbook with
//! its gradient by autograd in the same run. Throughput is in pairs of projections. The primitive below it: `tiled.rs`.

use criterion::{Criterion, Throughput};
use diptych::loss::nt_xent::{NtXent, Reduction};
use diptych::loss::tiled::default_tile;
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 128;
const TEMPERATURE: f64 = 0.5;

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    tch::manual_seed(0);
    for images in [256, 512, 4_096] {
        let rows = 2 * images;
        let projections = Tensor::randn([rows, WIDTH], (Kind::Float, Device::Cpu));
        let loss = NtXent { temperature: TEMPERATURE, reduction: Reduction::Mean2n };
        let mut group = criterion.benchmark_group(format!("nt_xent_{images}x2x{WIDTH}"));
        group.throughput(Throughput::Elements((rows * rows) as u64));
        group.bench_function("tiled", |bench| {
            bench.iter(|| loss.evaluate(&projections, default_tile(rows)).expect("even rows"));
        });
        let partner = Tensor::arange(rows, (Kind::Int64, Device::Cpu)).roll(images, 0);
        let itself = Tensor::eye(rows, (Kind::Bool, Device::Cpu));
        group.bench_function("dense", |bench| {
            bench.iter(|| {
                let leaf = projections.detach().set_requires_grad(true);
                let unit = &leaf / leaf.square().sum_dim_intlist(1, true, None).sqrt();
                let logits = unit.mm(&unit.tr()) / TEMPERATURE;
                let logits = logits.masked_fill(&itself, f64::NEG_INFINITY);
                let mean = tch::Reduction::Mean;
                logits.cross_entropy_loss::<Tensor>(&partner, None, mean, -100, 0.0).backward();
                leaf.grad()
            });
        });
        group.finish();
    }
    criterion.final_summary();
}
