"""Makes retrieval.json: R@K, P@K and mAP@R of fixed features by scikit-learn and plain numpy.

Neighbours are those of sklearn.neighbors.NearestNeighbors (cosine, brute force). Average precision at R goes through
sklearn.metrics.average_precision_score of the first R neighbours, which divides by the hits among them: times hits / R
it is mAP@R. Run with scikit-learn: python tests/golden/retrieval.py
"""

import json
import pathlib

import numpy as np
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

random = np.random.default_rng(5)
CLASSES, DIMENSIONS = 5, 6
centres = random.normal(size=(CLASSES, DIMENSIONS))


def side(count):
    labels = random.integers(0, CLASSES, count)
    rows = centres[labels] + random.normal(size=(count, DIMENSIONS))
    return np.round(rows, 3).astype(np.float32), labels


def scores(queries, labels, references, reference_labels, same):
    depth = len(references)
    search = NearestNeighbors(n_neighbors=depth, metric="cosine", algorithm="brute")
    found = search.fit(references.astype(np.float64)).kneighbors(queries.astype(np.float64))[1]
    recall, precision, average = {1: [], 2: [], 4: [], 8: []}, {1: [], 2: [], 4: [], 8: []}, []
    for query, (label, rows) in enumerate(zip(labels, found)):
        rows = [row for row in rows if not (same and row == query)]
        hits = reference_labels[rows] == label
        for k in recall:
            recall[k].append(hits[:k].any())
            precision[k].append(hits[:k].mean())
        relevant = int(hits.sum())
        first = hits[:relevant]
        share = first.sum() / relevant
        ranked = -np.arange(relevant, dtype=float)
        average.append(share * average_precision_score(first, ranked) if first.any() else 0.0)
    mean = lambda values: {str(k): float(np.mean(v)) for k, v in values.items()}
    return {"recall": mean(recall), "precision": mean(precision), "map_at_r": float(np.mean(average))}


queries, query_labels = side(40)
references, reference_labels = side(90)
golden = {
    "queries": queries.tolist(),
    "query_labels": query_labels.tolist(),
    "references": references.tolist(),
    "reference_labels": reference_labels.tolist(),
    "other": scores(queries, query_labels, references, reference_labels, False),
    "same": scores(references, reference_labels, references, reference_labels, True),
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(golden) + "\n", encoding="utf-8")
