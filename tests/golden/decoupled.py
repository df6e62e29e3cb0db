"""Makes decoupled.safetensors: lightly's DCLLoss and DCLWLoss and their gradients on 2 x 12 rows of width 16.

Made with lightly 1.6.0; older ones add two log-sum-exps. Needs torch, lightly and safetensors.
"""

from pathlib import Path

import torch
from lightly.loss import DCLLoss, DCLWLoss
from safetensors.torch import save_file

torch.manual_seed(2)
shared = torch.randn(12, 16)
projections = torch.cat([shared + 0.7 * torch.randn(12, 16) for _ in range(2)]) * 1.5

arrays = {"projections": projections}
for name, criterion in {
    "plain": DCLLoss(temperature=0.1),
    "weighted": DCLWLoss(temperature=0.1, sigma=0.5),
    "sharp": DCLWLoss(temperature=0.5, sigma=0.2),
}.items():
    leaf = projections.clone().requires_grad_()
    loss = criterion(leaf[:12], leaf[12:])
    loss.backward()
    arrays[f"{name}.loss"] = loss.detach()
    arrays[f"{name}.gradient"] = leaf.grad
save_file(arrays, Path(__file__).with_suffix(".safetensors"))
