fn main() {
    let path = std::env::args().nth(1).unwrap();
    let [n, d, k]: [i64; 3] = std::array::from_fn(|i| std::env::args().nth(2 + i).unwrap().parse().unwrap());
    let bytes = std::fs::read(path).unwrap();
    let rows = tch::Tensor::from_data_size(&bytes, &[n, d], tch::Kind::Float);
    for seed in 0..2 {
        let start = std::time::Instant::now();
        let found = diptych::cluster::KMeans::default().fit(&rows, k as usize, seed).unwrap();
        println!("{:.3} s inertia {} iterations {}", start.elapsed().as_secs_f64(), found.inertia, found.iterations);
    }
}
