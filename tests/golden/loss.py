"""Makes loss.safetensors: lightly's NTXentLoss and its gradient on 2 x 24 rows of width 16.

Needs torch, lightly and safetensors.
"""

from pathlib import Path

import torch
from lightly.loss import NTXentLoss
from safetensors.torch import save_file

torch.manual_seed(0)
shared = torch.randn(24, 16)
projections = torch.cat([shared + 0.7 * torch.randn(24, 16) for _ in range(2)]) * 1.5

arrays = {"projections": projections}
for name, temperature in {"cool": 0.07, "warm": 0.5}.items():
    leaf = projections.clone().requires_grad_()
    loss = NTXentLoss(temperature=temperature)(leaf[:24], leaf[24:])
    loss.backward()
    arrays[f"{name}.loss"] = loss.detach()
    arrays[f"{name}.gradient"] = leaf.grad
save_file(arrays, Path(__file__).with_suffix(".safetensors"))
