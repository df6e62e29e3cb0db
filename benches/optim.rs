//! One optimizer step over tensors of ResNet-18's sizes (11.2 million weights), beside plain copying of what the step of
//! SGD or LARS must read, weights, gradients and momentum: the limit that memory sets. Throughput is in these bytes.

use criterion::{Criterion, Throughput};
use diptych::model::{Parameters, Role};
use diptych::random::Stream;
use diptych::train::optim::{Optimizer, OptimizerConfig, gradient_norm};
use tch::{Device, Kind, Tensor};

/// Kernels and normalisations of a ResNet-18 with a 3x3 stem, all with a gradient.
fn resnet18() -> Parameters {
    let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
    let mut root = parameters.root();
    let mut layer = 0;
    let mut add = |out: i64, inputs: i64, kernel: i64| {
        let mut place = root.at(layer);
        let _ = place.add("weight", Role::Weight, &[out, inputs, kernel, kernel], Stream::normal);
        let _ = place.add("scale", Role::NormScale, &[out], |_| 1.0);
        let _ = place.add("shift", Role::NormShift, &[out], |_| 0.0);
        layer += 1;
    };
    add(64, 3, 3);
    let mut inputs = 64;
    for out in [64, 128, 256, 512] {
        for kernel_inputs in [inputs, out, out, out] {
            add(out, kernel_inputs, 3);
        }
        if inputs != out {
            add(out, inputs, 1);
        }
        inputs = out;
    }
    for parameter in parameters.trainable() {
        (&parameter.tensor * 1e-3).sum(None).backward();
    }
    parameters
}

fn main() {
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    let parameters = resnet18();
    let weights: Vec<Tensor> = parameters.trainable().map(|p| p.tensor.detach()).collect();
    let count: usize = weights.iter().map(Tensor::numel).sum();
    let mut group = criterion.benchmark_group("resnet18");
    group.throughput(Throughput::Bytes(3 * 4 * count as u64));
    for name in ["sgd", "lars", "adam", "adamw"] {
        let config: OptimizerConfig =
            toml::from_str(&format!("name = '{name}'\nlearning_rate = 0.1\nweight_decay = 1e-6"))
                .expect("a valid table");
        let mut optimizer = Optimizer::new(config, &parameters);
        group.bench_function(name, |bench| bench.iter(|| optimizer.step(1e-9)));
    }
    let thrice =
        || -> Vec<Tensor> { (0..3).flat_map(|_| weights.iter().map(Tensor::copy)).collect() };
    let (read, mut written) = (thrice(), thrice());
    group.bench_function("copy", |bench| {
        bench.iter(|| {
            for (to, from) in written.iter_mut().zip(&read) {
                to.copy_(from);
            }
        });
    });
    group.finish();
    criterion.bench_function("resnet18/gradient_norm", |bench| {
        bench.iter(|| gradient_norm(&parameters));
    });
    criterion.final_summary();
}
