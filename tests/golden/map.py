"""Makes map.json: fixed features, a rough map of them, and what scikit-learn says of it.

Trustworthiness is sklearn.manifold.trustworthiness; continuity is the same with features and map exchanged; the votes are
those of k-NN classifiers that are each asked about an image they have not seen (k + 1 neighbours, the image itself taken
out). `kl` is the divergence that sklearn.manifold.TSNE reaches on these features at perplexity 10.
Run with scikit-learn: python tests/golden/map.py
"""

import json
import pathlib

import numpy as np
from sklearn.manifold import TSNE, trustworthiness
from sklearn.neighbors import NearestNeighbors

random = np.random.default_rng(11)
CLASSES, DIMENSIONS, COUNT = 6, 8, 180
centres = 2 * random.normal(size=(CLASSES, DIMENSIONS))
labels = random.integers(0, CLASSES, COUNT)
features = np.round(centres[labels] + random.normal(size=(COUNT, DIMENSIONS)), 3)
rough = np.round(features @ random.normal(size=(DIMENSIONS, 2)), 3)


def votes(rows, k):
    found = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(rows).kneighbors(rows)[1]
    right = 0
    for row, near in enumerate(found):
        near = [other for other in near if other != row][:k]
        counts = np.bincount(labels[near], minlength=CLASSES)
        right += int(counts.argmax() == labels[row])
    return right / COUNT


cases = [
    {
        "k": k,
        "trustworthiness": float(trustworthiness(features, rough, n_neighbors=k)),
        "continuity": float(trustworthiness(rough, features, n_neighbors=k)),
        "knn_map": votes(rough, k),
        "knn_features": votes(features, k),
    }
    for k in (1, 5, 12, 40)
]
peer = TSNE(perplexity=10, init="pca", method="exact", random_state=0)
placed = peer.fit_transform(features)
golden = {
    "features": features.tolist(),
    "map": rough.tolist(),
    "labels": labels.tolist(),
    "cases": cases,
    "tsne": {
        "perplexity": 10,
        "kl": float(peer.kl_divergence_),
        "trustworthiness": float(trustworthiness(features, placed, n_neighbors=5)),
    },
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(golden) + "\n", encoding="utf-8")
