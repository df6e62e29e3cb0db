"""Makes cross_level.safetensors: the groups, losses and gradients of cross-level discrimination on two views of 48 rows.

Written after the released code (frank-xwang/CLD-UnsupervisedLearning, `models/clustering.py`): k-means with gathered
counts and `scatter_add`, the spectral embedding with explicit diagonal matrices. Beside it scikit-learn's agreement with
the spectral groups, which both find the four made clusters. Needs torch, scikit-learn and safetensors.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

torch.manual_seed(4)
torch.set_default_dtype(torch.float64)


def k_means(x, groups, rounds, normalize=False):
    c = x[:groups].clone()
    for _ in range(rounds):
        labels = ((x[:, None, :] - c[None, :, :]) ** 2).sum(-1).argmin(dim=1)
        index = labels.view(-1, 1).expand(-1, x.shape[1])
        counts = torch.bincount(labels, minlength=groups).clamp(min=1)
        c = torch.zeros(groups, x.shape[1]).scatter_add(0, index, x) / counts[:, None]
        if normalize:
            c = F.normalize(c, dim=1)
    return labels, c


def embedding(x, vectors):
    norm = x.norm(dim=1)
    w = (x @ x.T).abs() / norm[:, None] / norm[None, :]
    w = torch.maximum(w, w.T)
    w.fill_diagonal_(0)
    degree = w.sum(dim=0)
    root = torch.diag(degree.pow(-0.5))
    _, eigenvectors = torch.linalg.eigh(root @ (torch.diag(degree) - w) @ root)
    e = root @ eigenvectors
    return (e / e[0, 0])[:, :vectors]


def spectral(x, vectors, groups, rounds):
    labels, _ = k_means(embedding(x.detach(), vectors), groups, rounds)
    counts = torch.bincount(labels, minlength=groups).clamp(min=1)
    index = labels.view(-1, 1).expand(-1, x.shape[1])
    return labels, torch.zeros(groups, x.shape[1]).scatter_add(0, index, x) / counts[:, None]


def loss(rows, group, temperature, cross=True, detach=False):
    (c1, u1), (c2, u2) = group(rows[0]), group(rows[1])
    if detach:
        u1, u2 = u1.detach(), u2.detach()
    if cross:
        c1, u1, c2, u2 = c2, u2, c1, u1
    ce = F.cross_entropy
    return 0.5 * (ce(rows[0] @ u1.T / temperature, c1) + ce(rows[1] @ u2.T / temperature, c2))


# Four clusters on four axes of eight, shuffled.
truth = torch.randperm(48) % 4
shared = F.one_hot(truth, 8).double() + 0.17 * torch.randn(48, 8)
views = torch.stack([F.normalize(shared + 0.1 * torch.randn(48, 8), dim=1) for _ in range(2)])

arrays = {"views": views, "truth": truth}
settings = {
    "k_means": dict(group=lambda x: k_means(x, 7, 5)),
    "k_means_spherical": dict(group=lambda x: k_means(x, 7, 5, True)),
    "k_means_detached": dict(group=lambda x: k_means(x, 7, 5), detach=True),
    "k_means_own": dict(group=lambda x: k_means(x, 7, 3), cross=False),
    "k_means_many": dict(group=lambda x: k_means(x, 60, 5)),
    "spectral": dict(group=lambda x: spectral(x, 4, 4, 5)),
    "spectral_more": dict(group=lambda x: spectral(x, 3, 9, 5)),
}
for name, arguments in settings.items():
    leaf = views.clone().requires_grad_()
    value = loss(leaf, temperature=0.2, **arguments)
    value.backward()
    arrays[f"{name}.loss"] = value.detach()
    arrays[f"{name}.gradient"] = leaf.grad
    for view in range(2):
        arrays[f"{name}.labels{view + 1}"] = arguments["group"](views[view])[0]

similarity = (views[0] @ views[0].T).abs().fill_diagonal_(0).numpy()
theirs = SpectralClustering(4, affinity="precomputed", random_state=0).fit_predict(similarity)
for found in (arrays["spectral.labels1"], theirs):
    print("agreement with the made clusters:", adjusted_rand_score(truth, found))
arrays["sklearn.labels"] = torch.from_numpy(theirs).long()
save_file(arrays, Path(__file__).with_suffix(".safetensors"))
