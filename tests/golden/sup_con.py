"""Makes sup_con.safetensors: the official SupConLoss and its gradient on 2 and 3 views of 10 images.

Needs torch and safetensors, and a checkout of github.com/HobbitLong/SupContrast as its only argument.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

sys.path.insert(0, sys.argv[1])
from losses import SupConLoss  # noqa: E402

torch.manual_seed(3)
labels = torch.tensor([4, 0, 4, 7, 0, 4, 2, 0, 9, 2])
arrays = {"labels": labels}
for name, views, temperature in [("two", 2, 0.07), ("three", 3, 0.5), ("one", 1, 0.1)]:
    projections = torch.randn(views * 10, 16) + torch.randn(10, 16).repeat(views, 1)
    leaf = projections.clone().requires_grad_()
    # Rows view by view here, [images, views, width] there.
    features = normalize(leaf, dim=1).view(views, 10, 16).transpose(0, 1)
    loss = SupConLoss(temperature=temperature)(features, labels)
    loss.backward()
    arrays[f"{name}.projections"] = projections
    arrays[f"{name}.loss"] = loss.detach()
    arrays[f"{name}.gradient"] = leaf.grad
save_file(arrays, Path(__file__).with_suffix(".safetensors"))
