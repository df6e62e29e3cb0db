"""Logistic regression under 45 penalties by scikit-learn, for benches/logistic.rs.

logistic.py FEATURES --threads T [--start zeros|warm] [--tolerance 1e-4] [--every 1]

FEATURES is a safetensors file with f32 `h` [N, D] and i64 `label` [N]. Prints one JSON object on one line: seconds of all
fits, and of each its penalty, iterations, seconds and objective `sum of losses + penalty / 2 * |W|^2` in f64.
"""

import argparse
import json
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("features")
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--start", choices=["zeros", "warm"], default="zeros")
parser.add_argument("--tolerance", type=float, default=1e-4)
parser.add_argument("--every", type=int, default=1)
options = parser.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np  # noqa: E402
import sklearn  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from scipy.special import logsumexp  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

arrays = load_file(options.features)
h, y = arrays["h"], arrays["label"]
model = LogisticRegression(tol=options.tolerance, max_iter=2000, warm_start=options.start == "warm")
fits = []
# From the largest penalty down, which is what a warm start is good for.
for j in range(44, -1, -options.every):
    penalty = 10 ** (-6 + j / 4)
    model.set_params(C=1 / penalty)
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(h, y)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    weights = model.coef_.astype(np.float64)
    z = h.astype(np.float64) @ weights.T + model.intercept_
    loss = (logsumexp(z, axis=1) - z[np.arange(len(y)), y]).sum()
    iterations = int(model.n_iter_[0])
    fits.append({
        "penalty": penalty,
        "iterations": iterations,
        "converged": iterations < 2000,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "objective": loss + penalty / 2 * (weights**2).sum(),
    })
print(json.dumps({
    "seconds": sum(fit["seconds"] for fit in fits),
    "cpu_seconds": sum(fit["cpu_seconds"] for fit in fits),
    "version": sklearn.__version__,
    "fits": fits,
}))
