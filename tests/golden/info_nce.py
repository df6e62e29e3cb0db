"""Makes info_nce.safetensors: lightly's NTXentLoss with a memory bank, 12 queries against a queue of 40 keys.

Needs torch, lightly and safetensors.
"""

from pathlib import Path

import torch
from lightly.loss import NTXentLoss
from safetensors.torch import save_file
from torch.nn.functional import normalize

torch.manual_seed(1)
shared = torch.randn(12, 16)
queries = shared + 0.7 * torch.randn(12, 16)  # lightly normalises them
keys = normalize(shared + 0.7 * torch.randn(12, 16), dim=1)
queue = normalize(torch.randn(40, 16), dim=1)

arrays = {"queries": queries, "keys": keys, "queue": queue}
for name, temperature in {"cool": 0.07, "warm": 0.2}.items():
    criterion = NTXentLoss(temperature=temperature, memory_bank_size=(40, 16))
    criterion.memory_bank.bank.copy_(queue)
    leaf = queries.clone().requires_grad_()
    loss = criterion(leaf, keys)
    loss.backward()
    arrays[f"{name}.loss"] = loss.detach()
    arrays[f"{name}.gradient"] = leaf.grad
save_file(arrays, Path(__file__).with_suffix(".safetensors"))
