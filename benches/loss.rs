//! NT-Xent and the primitive below it, values and gradients, at the sizes of CIFAR and of large-batch runs.
//!
//! `rows` is a batch against itself with both gradients; `queue` is 512 queries against 65,536 keys.

use criterion::{Criterion, Throughput};
use diptych::loss::nt_xent::{NtXent, Reduction};
use diptych::loss::tiled::{Contrast, Positive, default_tile};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 128;

fn unit_rows(rows: i64) -> Tensor {
    tch::manual_seed(0);
    let rows = Tensor::randn([rows, WIDTH], (Kind::Float, Device::Cpu));
    &rows / rows.square().sum_dim_intlist(1, true, None).sqrt()
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for images in [512, 4096] {
        let rows = unit_rows(2 * images);
        let loss = NtXent { temperature: 0.5, reduction: Reduction::Mean2n };
        let partner = Tensor::arange(2 * images, (Kind::Int64, Device::Cpu)).roll(images, 0);
        let weights = Tensor::ones([2 * images], (Kind::Float, Device::Cpu));
        let tile = default_tile(2 * images);
        let mut group = criterion.benchmark_group(format!("{images}x2x{WIDTH}"));
        group.throughput(Throughput::Elements(4 * (images * images) as u64));
        group.bench_function("nt_xent", |bench| {
            bench.iter(|| loss.evaluate(&rows, tile).expect("even number of rows"));
        });
        let contrast = Contrast {
            rows: &rows,
            columns: &rows,
            temperature: 0.5,
            positive: Positive::Column(&partner),
            weights: &weights,
            exclude_same_index: true,
            exclude_positive: false,
            columns_gradient: true,
            tile,
        };
        group.bench_function("rows", |bench| {
            bench.iter(|| contrast.evaluate().expect("shapes fit"));
        });
        group.finish();
    }

    let (queries, queue) = (unit_rows(512), unit_rows(65_536));
    let contrast = Contrast {
        rows: &queries,
        columns: &queue,
        temperature: 0.07,
        positive: Positive::Pair(&queries),
        weights: &Tensor::ones([512], (Kind::Float, Device::Cpu)),
        exclude_same_index: false,
        exclude_positive: false,
        columns_gradient: false,
        tile: default_tile(65_536),
    };
    let mut group = criterion.benchmark_group("512x65536x128");
    group.throughput(Throughput::Elements(512 * 65_536));
    group.bench_function("queue", |bench| {
        bench.iter(|| contrast.evaluate().expect("shapes fit"));
    });
    group.finish();
    criterion.final_summary();
}
