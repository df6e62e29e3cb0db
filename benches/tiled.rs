//! The tiled primitive, values and gradients, over a matrix of rows x columns x dimensions.
//!
//! Beside it, in the same run: the dense form of the textbook with its gradient by autograd, where its logits fit (with
//! what autograd keeps they take about five times their size), and the three matrix products that no form can do without,
//! two for a queue. The `queue` rows have their positives beside the columns, and no gradient for the columns.

use criterion::{Criterion, Throughput};
use diptych::loss::tiled::{Contrast, Positive, default_tile};
use tch::{Device, Kind, Tensor, no_grad};

/// Most logits of a dense form: 268 MB in f32.
const DENSE: i64 = 1 << 26;

const TEMPERATURE: f64 = 0.2;

fn unit_rows(rows: i64, width: i64) -> Tensor {
    let rows = Tensor::randn([rows, width], (Kind::Float, Device::Cpu));
    &rows / rows.square().sum_dim_intlist(1, true, None).sqrt()
}

/// Rows against themselves, the positive of each half a batch away.
fn batch(criterion: &mut Criterion, count: i64, width: i64) {
    let rows = unit_rows(count, width);
    let partner = Tensor::arange(count, (Kind::Int64, Device::Cpu)).roll(count / 2, 0);
    let itself = Tensor::arange(count, (Kind::Int64, Device::Cpu)).unsqueeze(1);
    let weights = Tensor::ones([count], (Kind::Float, Device::Cpu));
    let contrast = Contrast {
        rows: &rows,
        columns: &rows,
        temperature: TEMPERATURE,
        positive: Positive::Column(&partner),
        weights: &weights,
        excluded: Some(&itself),
        negatives_scale: None,
        columns_gradient: true,
        tile: default_tile(count),
    };
    let mut group = criterion.benchmark_group(format!("batch_{count}x{count}x{width}"));
    group.throughput(Throughput::Elements((count * count) as u64));
    group.bench_function("tiled", |bench| {
        bench.iter(|| contrast.evaluate().expect("shapes fit"));
    });
    if count * count <= DENSE {
        let diagonal = Tensor::eye(count, (Kind::Bool, Device::Cpu));
        group.bench_function("dense", |bench| {
            bench.iter(|| {
                let leaf = rows.detach().set_requires_grad(true);
                let logits = leaf.mm(&leaf.tr()) / TEMPERATURE;
                let logits = logits.masked_fill(&diagonal, f64::NEG_INFINITY);
                logits
                    .cross_entropy_loss::<Tensor>(&partner, None, tch::Reduction::Sum, -100, 0.0)
                    .backward();
                leaf.grad()
            });
        });
        group.bench_function("products", |bench| bench.iter(|| products(&rows, &rows, true)));
    }
    group.finish();
}

/// A batch of queries against a queue of keys, as in MoCo.
fn queue(criterion: &mut Criterion, count: i64, keys: i64, width: i64) {
    let (rows, columns, positives) =
        (unit_rows(count, width), unit_rows(keys, width), unit_rows(count, width));
    let weights = Tensor::ones([count], (Kind::Float, Device::Cpu));
    let contrast = Contrast {
        rows: &rows,
        columns: &columns,
        temperature: TEMPERATURE,
        positive: Positive::Pair(&positives),
        weights: &weights,
        excluded: None,
        negatives_scale: None,
        columns_gradient: false,
        tile: default_tile(keys),
    };
    let mut group = criterion.benchmark_group(format!("queue_{count}x{keys}x{width}"));
    group.throughput(Throughput::Elements((count * keys) as u64));
    group.bench_function("tiled", |bench| {
        bench.iter(|| contrast.evaluate().expect("shapes fit"));
    });
    if count * keys <= DENSE {
        let first = Tensor::zeros([count], (Kind::Int64, Device::Cpu));
        group.bench_function("dense", |bench| {
            bench.iter(|| {
                let leaf = rows.detach().set_requires_grad(true);
                let positive = (&leaf * &positives).sum_dim_intlist(1, true, None);
                let logits = Tensor::cat(&[positive, leaf.mm(&columns.tr())], 1) / TEMPERATURE;
                logits
                    .cross_entropy_loss::<Tensor>(&first, None, tch::Reduction::Sum, -100, 0.0)
                    .backward();
                leaf.grad()
            });
        });
        group.bench_function("products", |bench| bench.iter(|| products(&rows, &columns, false)));
    }
    group.finish();
}

/// The matrix products of logits and gradients alone.
fn products(rows: &Tensor, columns: &Tensor, for_columns: bool) -> Tensor {
    no_grad(|| {
        let logits = rows.mm(&columns.tr());
        let gradient = logits.mm(columns);
        if for_columns { logits.tr().mm(rows) } else { gradient }
    })
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    tch::manual_seed(0);
    for (rows, width) in [(512, 128), (2_048, 128), (2_048, 2_048), (8_192, 128), (16_384, 128)] {
        batch(&mut criterion, rows, width);
    }
    for (rows, keys, width) in [(256, 4_096, 128), (512, 65_536, 128), (512, 16_384, 2_048)] {
        queue(&mut criterion, rows, keys, width);
    }
    criterion.final_summary();
}
