"""Makes optim.safetensors: steps of SGD and LARS, and learning rates of schedules.

SGD and most schedules are PyTorch's own. LARS and `cosine_tf` are the published update rules of the official SimCLR
code (tf2/lars_optimizer.py, tf2/model.py) written out again in numpy, f64.

Needs torch, numpy and safetensors.
"""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

STEPS = 5
RATES = [0.1, 0.3, 0.5, 0.2, 0.05]
SHAPES = {"kernel": (3, 2, 3, 3), "matrix": (4, 5), "bias": (4,), "scale": (3,), "shift": (3,)}

torch.manual_seed(0)
arrays = {"rates": torch.tensor(RATES, dtype=torch.float64)}
for name, shape in SHAPES.items():
    start = torch.zeros(shape) if name == "shift" else torch.randn(shape)
    arrays[f"{name}.start"] = start.double()
    for step in range(STEPS):
        arrays[f"{name}.gradient.{step}"] = torch.randn(shape).double()

SGD = {
    "plain": dict(momentum=0.0, weight_decay=0.0, nesterov=False),
    "decayed": dict(momentum=0.9, weight_decay=0.1, nesterov=False),
    "nesterov": dict(momentum=0.9, weight_decay=0.1, nesterov=True),
}
for case, settings in SGD.items():
    weights = {name: arrays[f"{name}.start"].clone().requires_grad_() for name in SHAPES}
    optimizer = torch.optim.SGD(weights.values(), lr=1.0, **settings)
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        for name, weight in weights.items():
            weight.grad = arrays[f"{name}.gradient.{step}"].clone()
        optimizer.step()
    for name, weight in weights.items():
        arrays[f"sgd.{case}.{name}"] = weight.detach()


def lars(weight, gradients, weight_decay, excluded, momentum=0.9, eta=0.001):
    """The update of tf2/lars_optimizer.py with classic momentum, nesterov off."""
    velocity = np.zeros_like(weight)
    for rate, gradient in zip(RATES, gradients, strict=True):
        if not excluded:
            gradient = gradient + weight_decay * weight
        trust = 1.0
        if not excluded:
            w_norm, g_norm = np.linalg.norm(weight.ravel()), np.linalg.norm(gradient.ravel())
            trust = eta * w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0
        velocity = momentum * velocity + rate * trust * gradient
        weight = weight - velocity
    return weight


ROLES = {"bias", "scale", "shift"}
for case, skip in {"bn_bias": ROLES, "none": set()}.items():
    for name in SHAPES:
        gradients = [arrays[f"{name}.gradient.{step}"].numpy() for step in range(STEPS)]
        moved = lars(arrays[f"{name}.start"].numpy(), gradients, 0.1, name in skip)
        arrays[f"lars.{case}.{name}"] = torch.from_numpy(moved)


def torch_schedule(make, steps, peak=0.3):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    schedule = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates, dtype=torch.float64)


def cosine_tf(step, peak, warmup_steps, total_steps):
    """tf2/model.py, WarmUpAndCosineDecay.__call__."""
    scaled = step / float(warmup_steps) * peak if warmup_steps else peak
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    decayed = peak * 0.5 * (1 + math.cos(math.pi * progress))
    return scaled if step < warmup_steps else decayed


lr = torch.optim.lr_scheduler
arrays["schedule.cosine_tf"] = torch.tensor(
    [cosine_tf(step, 4.8, 30, 110) for step in range(110)], dtype=torch.float64
)
arrays["schedule.cosine_step"] = torch_schedule(lambda o: lr.CosineAnnealingLR(o, 60), 60)
arrays["schedule.cosine_final"] = torch_schedule(
    lambda o: lr.CosineAnnealingLR(o, 60, eta_min=0.3 * 0.01), 60
)
arrays["schedule.cosine_epoch"] = torch_schedule(lambda o: lr.CosineAnnealingLR(o, 12), 12)
arrays["schedule.steps"] = torch_schedule(lambda o: lr.MultiStepLR(o, [6, 9], gamma=0.1), 12)

save_file(arrays, Path(__file__).with_suffix(".safetensors"))
