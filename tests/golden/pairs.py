"""Makes pairs.safetensors: torch's triplet and logistic losses over all pairs of 2 x 12 rows of width 8, and gradients.

Needs torch and safetensors.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

torch.manual_seed(0)
images = 12
shared = torch.randn(images, 8)
projections = torch.cat([shared + 0.8 * torch.randn(images, 8) for _ in range(2)]) * 1.5

# Every anchor of either view with every other image of the other view.
triples = [
    (anchor, (anchor + images) % (2 * images), negative)
    for anchor in range(2 * images)
    for negative in range(2 * images)
    if negative // images != anchor // images and negative % images != anchor % images
]
anchors, positives, negatives = torch.tensor(triples).T


def triplet(rows, margin):
    distance = lambda left, right: 1 - functional.cosine_similarity(left, right)
    return functional.triplet_margin_with_distance_loss(
        rows[anchors], rows[positives], rows[negatives], distance_function=distance, margin=margin
    )


def logistic(rows, temperature):
    def term(others, label):
        logits = functional.cosine_similarity(rows[anchors], rows[others]) / temperature
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    return term(positives, 1.0) + term(negatives, 0.0)


arrays = {"projections": projections}
for name, loss, setting in [
    ("triplet.narrow", triplet, 0.4),
    ("triplet.wide", triplet, 1.6),
    ("logistic.cool", logistic, 0.1),
    ("logistic.warm", logistic, 1.0),
]:
    leaf = projections.clone().requires_grad_()
    value = loss(leaf, setting)
    value.backward()
    arrays[f"{name}.loss"] = value.detach()
    arrays[f"{name}.gradient"] = leaf.grad
save_file(arrays, Path(__file__).with_suffix(".safetensors"))
