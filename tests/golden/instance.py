"""Makes instance.safetensors: the official losses of NPID and their gradients, 6 features against a bank of 50 slots.

Needs torch and safetensors, and a checkout of github.com/zhirongw/lemniscate.pytorch as its only argument. Today's torch
runs the forward half of its two banks, so the gradients are autograd's through the same products.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, normalize

sys.path.insert(0, sys.argv[1])
from lib.alias_multinomial import AliasMethod  # noqa: E402
from lib.LinearAverage import LinearAverage  # noqa: E402
from lib.NCEAverage import NCEAverage  # noqa: E402
from lib.NCECriterion import NCECriterion  # noqa: E402

TEMPERATURE = 0.1

torch.manual_seed(4)
bank = normalize(torch.randn(50, 16), dim=1)
slots = torch.tensor([7, 0, 49, 23, 31, 8])
features = normalize(bank[slots] + 0.3 * torch.randn(6, 16), dim=1)
indices = torch.randint(50, (6, 21))
indices[:, 0] = slots
arrays = {"bank": bank, "slots": slots, "features": features, "indices": indices}

AliasMethod.cuda = lambda self: None  # its tables are never read: the draws are ours
AliasMethod.draw = lambda self, count: indices.clone().flatten()
noise = NCEAverage(16, 50, 20, T=TEMPERATURE)
full = LinearAverage(16, 50, T=TEMPERATURE)
noise.memory.copy_(bank)
full.memory.copy_(bank)
with torch.no_grad():
    official = {"noise": noise(features.clone(), slots), "softmax": full(features.clone(), slots)}
arrays["normalizer"] = noise.params[2].clone()

criteria = {
    "noise": lambda out: NCECriterion(50)(out, slots),
    "softmax": lambda out: cross_entropy(out, slots),
    "sampled": lambda out: cross_entropy(out, torch.zeros_like(slots)),
}
for name, criterion in criteria.items():
    leaf = features.clone().requires_grad_()
    logits = leaf @ bank.T / TEMPERATURE
    drawn = logits.gather(1, indices)
    out = {"noise": drawn.exp() / arrays["normalizer"], "softmax": logits, "sampled": drawn}[name]
    if name in official:
        torch.testing.assert_close(out, official[name])
        arrays[f"{name}.loss"] = criterion(official[name]).squeeze()
    loss = criterion(out)
    loss.backward()
    arrays.setdefault(f"{name}.loss", loss.detach())
    arrays[f"{name}.gradient"] = leaf.grad
save_file(arrays, Path(__file__).with_suffix(".safetensors"))
