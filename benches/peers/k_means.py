"""scikit-learn's k-means with ten starts. Prints seconds, inertia and rounds of the best start as JSON.

python k_means.py ROWS.safetensors --k K [--threads T] [--seed S]

The file holds f32 `rows` [n, D].
"""

import argparse
import json
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("rows")
parser.add_argument("--k", type=int, required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
# Read when the libraries are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)

from safetensors.numpy import load_file  # noqa: E402
from sklearn.cluster import KMeans  # noqa: E402

rows = load_file(arguments.rows)["rows"]
k_means = KMeans(arguments.k, n_init=10, random_state=arguments.seed)
started = time.perf_counter()
k_means.fit(rows)
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "inertia": float(k_means.inertia_), "iterations": int(k_means.n_iter_)}))
