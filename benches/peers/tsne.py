"""scikit-learn's t-SNE with its default settings. Prints seconds, processor seconds, divergence and rounds as JSON and writes the map.

python tsne.py ROWS.safetensors --out MAP.safetensors [--threads T] [--seed S]

The file holds f32 `rows` [n, D]; the map has `map` [n, 2].
"""

import argparse
import json
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("rows")
parser.add_argument("--out", required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
# Read when the libraries are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)

from safetensors.numpy import load_file, save_file  # noqa: E402
from sklearn.manifold import TSNE  # noqa: E402

rows = load_file(arguments.rows)["rows"]
tsne = TSNE(random_state=arguments.seed, n_jobs=arguments.threads)
started, used = time.perf_counter(), time.process_time()
found = tsne.fit_transform(rows)
seconds, used = time.perf_counter() - started, time.process_time() - used
save_file({"map": found.astype("float32")}, arguments.out)
kl, rounds = float(tsne.kl_divergence_), int(tsne.n_iter_)
print(json.dumps({"seconds": seconds, "processor_seconds": used, "kl": kl, "iterations": rounds}))
