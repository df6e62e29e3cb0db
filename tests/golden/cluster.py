"""Makes cluster.safetensors and cluster.json: scikit-learn's groupings of small made rows, and its scores of agreement.

Needs numpy, scipy, scikit-learn and safetensors.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.cluster.hierarchy import ward
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import AgglomerativeClustering, BisectingKMeans, KMeans
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)
from sklearn.metrics.cluster import contingency_matrix

rng = np.random.default_rng(0)
arrays, numbers = {}, {}


def blobs(rows, dimensions, groups, spread):
    centres = rng.normal(size=(groups, dimensions))
    which = rng.integers(0, groups, rows)
    noise = spread * rng.normal(size=(rows, dimensions))
    return (centres[which] + noise).astype(np.float32)


# K-means from given centres: overlapping blobs, more rows than one block of ours; and centres so far off that clusters are
# empty after the first assignment.
rows = blobs(700, 19, 8, 1.2)
start = rows[rng.choice(700, 6, replace=False)]
arrays["kmeans.rows"], arrays["kmeans.start"] = rows, start
for name, start in [("kmeans", start), ("empty", np.concatenate([start[:3], start[3:] + 50]).astype(np.float32))]:
    found = KMeans(6, init=start, n_init=1).fit(rows.astype(np.float64))
    arrays[f"{name}.start"] = start
    arrays[f"{name}.labels"] = found.labels_.astype(np.int32)
    arrays[f"{name}.centres"] = found.cluster_centers_.astype(np.float32)
    numbers[name] = {"inertia": found.inertia_, "iterations": int(found.n_iter_)}
# One round only, so that labels are those of centres that still move.
found = KMeans(6, init=arrays["kmeans.start"], n_init=1, max_iter=2).fit(rows.astype(np.float64))
arrays["short.labels"] = found.labels_.astype(np.int32)
numbers["short"] = {"inertia": found.inertia_, "iterations": int(found.n_iter_)}
# The best of ten starts of three clear groups: the same whatever the draws.
clear = blobs(300, 5, 4, 0.05)
found = KMeans(4, n_init=10, random_state=0).fit(clear.astype(np.float64))
arrays["clear.rows"] = clear
arrays["clear.labels"] = found.labels_.astype(np.int32)
numbers["clear"] = {"inertia": found.inertia_}

# Ward: real values, and grey levels, whose distances are often equal.
arrays["ward.rows"] = blobs(300, 7, 5, 0.8)
arrays["grey.rows"] = rng.integers(0, 6, (200, 3)).astype(np.float32)
for name in ["ward", "grey"]:
    for k in [2, 4, 6, 8]:
        found = AgglomerativeClustering(k).fit(arrays[f"{name}.rows"].astype(np.float64))
        arrays[f"{name}.labels.{k}"] = found.labels_.astype(np.int32)

# Bisecting k-means of four pairs of far blobs: splits that do not depend on the draws, but for left and right.
corners = np.array([[0, 0], [0, 6], [40, 0], [40, 9], [200, 0], [200, 13]])
arrays["bisecting.rows"] = (corners[rng.integers(0, 6, 240)] + 0.1 * rng.normal(size=(240, 2))).astype(np.float32)
for k in [2, 3, 4, 6]:
    found = BisectingKMeans(k, random_state=1).fit(arrays["bisecting.rows"].astype(np.float64))
    arrays[f"bisecting.labels.{k}"] = found.labels_.astype(np.int32)
    numbers[f"bisecting.{k}"] = {"inertia": found.inertia_}


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


# Normalised cuts, plainly: the smallest eigenvectors of the Laplacian, unit rows, k-means.
rays = unit(np.abs(rng.normal(size=(4, 6))) ** 3)[rng.integers(0, 4, 120)] * rng.uniform(0.5, 2, (120, 1))
rays = (rays + 0.15 * rng.normal(size=rays.shape)).astype(np.float32)
cosines = unit(rays.astype(np.float64)) @ unit(rays.astype(np.float64)).T
weights = np.maximum(cosines, 0)
degrees = weights.sum(1)
laplacian = np.eye(120) - weights / np.sqrt(np.outer(degrees, degrees))
embedding = unit(np.linalg.eigh(laplacian)[1][:, :4])
found = KMeans(4, n_init=50, random_state=0).fit(embedding)
arrays["spectral.rows"] = rays
arrays["spectral.labels"] = found.labels_.astype(np.int32)
numbers["spectral"] = {"inertia": found.inertia_}

# As CLD's code: absolute cosines, no diagonal, ten rounds from the first rows, empty clusters at zero.
weights = np.abs(cosines) * (1 - np.eye(120))
degrees = weights.sum(1)
laplacian = np.eye(120) - weights / np.sqrt(np.outer(degrees, degrees))
embedding = np.linalg.eigh(laplacian)[1][:, :4] / np.sqrt(degrees)[:, None]
embedding /= embedding[0, 0]
centres = embedding[:4].copy()
for _ in range(10):
    labels = ((embedding[:, None] - centres) ** 2).sum(-1).argmin(1)
    centres = np.stack([embedding[labels == j].sum(0) / max(1, (labels == j).sum()) for j in range(4)])
arrays["spectral_cld.labels"] = labels.astype(np.int32)

# Agreement, degenerate cases included.
pairs = [
    (rng.integers(0, classes, n), rng.integers(0, clusters, n))
    for n, classes, clusters in [(50, 4, 4), (300, 10, 7), (1000, 3, 12), (20, 20, 5)]
]
base = rng.integers(0, 6, 400)
pairs.append((base, np.where(rng.random(400) < 0.3, rng.integers(0, 6, 400), (base + 2) % 6)))
pairs += [
    (np.array(a), np.array(b))
    for a, b in [
        ([0, 0, 1, 1], [0, 0, 1, 2]),
        ([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]),
        ([0, 0, 0], [5, 5, 5]),
        ([0, 0, 0, 0], [0, 1, 2, 3]),
        ([0, 1, 2, 3], [0, 0, 0, 0]),
        ([0, 1, 2, 3], [3, 1, 0, 2]),
        ([0, 0, 1, 1], [0, 1, 0, 1]),
        ([7], [3]),
    ]
]
numbers["agreement"] = []
for classes, clusters in pairs:
    table = contingency_matrix(classes, clusters)
    rows_of, columns_of = linear_sum_assignment(table, maximize=True)
    case = {
        "classes": classes.tolist(),
        "clusters": clusters.tolist(),
        "ari": adjusted_rand_score(classes, clusters),
        "accuracy": table[rows_of, columns_of].sum() / len(classes),
    }
    for average in ["arithmetic", "geometric", "min", "max"]:
        case[f"nmi_{average}"] = normalized_mutual_info_score(classes, clusters, average_method=average)
        case[f"ami_{average}"] = adjusted_mutual_info_score(classes, clusters, average_method=average)
    numbers["agreement"].append(case)

# Bisecting once more, near the origin, where 32 bits keep the inertia to the last digits; two blobs, so that the split does
# not depend on the draws.
corners = np.array([[-2, 1], [2, 0]])
arrays["near.rows"] = (corners[rng.integers(0, 2, 240)] + 0.3 * rng.normal(size=(240, 2))).astype(np.float32)
found = BisectingKMeans(2, random_state=1).fit(arrays["near.rows"].astype(np.float64))
arrays["near.labels.2"] = found.labels_.astype(np.int32)
numbers["near.2"] = {"inertia": found.inertia_}



def within(rows, labels):
    groups = [rows[labels == label] for label in np.unique(labels)]
    return float(sum(((group - group.mean(0)) ** 2).sum() for group in groups))


# Ward: the heights of all merges, and the squares within.
for name in ["ward", "grey"]:
    rows = arrays[f"{name}.rows"].astype(np.float64)
    arrays[f"{name}.heights"] = ward(rows)[:, 2].copy()
    for k in [2, 4, 6, 8]:
        numbers[f"{name}.{k}"] = {"inertia": within(rows, arrays[f"{name}.labels.{k}"])}

# Bisecting from given seeds, by their places among the rows of the cluster that is split. Not of grey levels, of which many
# are equally far from two centres: there the last bits decide.
for name in ["kmeans", "ward"]:
    rows = arrays[f"{name}.rows"].astype(np.float64)
    for k in [2, 3, 5, 8]:
        draws = np.random.default_rng(k)
        seeds = []

        def two(part, count, random_state):
            seeds.append(draws.choice(len(part), count, replace=False))
            return part[seeds[-1]]

        found = BisectingKMeans(k, init=two).fit(rows)
        arrays[f"{name}.split.seeds.{k}"] = np.array(seeds, dtype=np.int32)
        arrays[f"{name}.split.labels.{k}"] = found.labels_.astype(np.int32)
        numbers[f"{name}.split.{k}"] = {"inertia": found.inertia_}

# Normalised cuts: eigenvalues, what eigenvectors span (each alone may be turned), and the squares within in that space.
weights = np.maximum(cosines, 0)
degrees = weights.sum(1)
values, vectors = np.linalg.eigh(np.eye(120) - weights / np.sqrt(np.outer(degrees, degrees)))
arrays["spectral.values"] = values[:5]
arrays["spectral.probe"] = rng.normal(size=(120, 3))
arrays["spectral.projected"] = vectors[:, :4] @ (vectors[:, :4].T @ arrays["spectral.probe"])

here = Path(__file__).parent
save_file(arrays, here / "cluster.safetensors")
(here / "cluster.json").write_text(json.dumps(numbers) + "\n")
