"""Makes without_negatives.safetensors: lightly's losses of SimSiam, SwAV, Barlow Twins and VICReg with their gradients.

lightly agrees with the authors' code in all of them, but for constants: its Barlow Twins has a weight of 0.005 in place of
0.0051, and its cosine a floor of the length of 1e-8. BYOL's loss, which lightly has with another factor, is that of the
authors' code (byol_experiment.py, regression_loss) written out.

Needs torch, lightly and safetensors.
"""

from pathlib import Path

import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, SwaVLoss, VICRegLoss
from lightly.loss.swav_loss import sinkhorn
from safetensors.torch import save_file
from torch.nn.functional import normalize

torch.manual_seed(0)
arrays = {}


def keep(name, value):
    arrays[name] = value.detach().contiguous().clone()


p1, p2, z1, z2 = (torch.randn(6, 5).requires_grad_() for _ in range(4))
for name, value in {"p1": p1, "p2": p2, "z1": z1, "z2": z2}.items():
    keep(f"cosine.{name}", value)
distance = NegativeCosineSimilarity()
keep("cosine.rows", -torch.nn.functional.cosine_similarity(p1, z2))
loss = 0.5 * (distance(p1, z2.detach()) + distance(p2, z1.detach()))
keep("cosine.simsiam", loss.double())
for name, gradient in zip(["p1", "p2"], torch.autograd.grad(loss, [p1, p2])):
    keep(f"cosine.simsiam.{name}", gradient)


def regression_loss(x, y):
    return (normalize(x) - normalize(y)).square().sum(-1)


loss = (regression_loss(p1, z2.detach()) + regression_loss(p2, z1.detach())).mean()
keep("cosine.byol", loss.double())
keep("cosine.byol.p1", torch.autograd.grad(loss, p1)[0])

crops = [torch.nn.functional.linear(normalize(torch.randn(12, 8)), normalize(torch.randn(7, 8))) for _ in range(4)]
crops = [crop.requires_grad_() for crop in crops]
loss = SwaVLoss()(crops[:2], crops[2:])[0]
keep("swapped.loss", loss.double())
for index, (crop, gradient) in enumerate(zip(crops, torch.autograd.grad(loss, crops))):
    keep(f"swapped.{index}", crop)
    keep(f"swapped.gradient.{index}", gradient)
for index in range(2):
    keep(f"swapped.codes.{index}", sinkhorn(crops[index].detach()))
queue = torch.nn.functional.linear(normalize(torch.randn(5, 8)), normalize(torch.randn(7, 8)))
keep("swapped.queue", queue)
keep("swapped.queue.codes", sinkhorn(torch.cat([crops[0].detach(), queue]))[:12])

shared = torch.randn(24, 10)
views = [((shared + 0.5 * torch.randn(24, 10)) * torch.linspace(0.2, 2, 10) + 0.7).requires_grad_() for _ in range(2)]
for name, view in zip(["z1", "z2"], views):
    keep(f"redundancy.{name}", view)
for name, criterion in {"barlow": BarlowTwinsLoss(), "vicreg": VICRegLoss()}.items():
    loss = criterion(*views)
    keep(f"redundancy.{name}", loss.double())
    for view, gradient in zip(["z1", "z2"], torch.autograd.grad(loss, views)):
        keep(f"redundancy.{name}.{view}", gradient)

save_file(arrays, Path(__file__).with_suffix(".safetensors"))
