"""Makes optim.safetensors: steps of SGD, Adam and LARS, and learning rates of schedules.

SGD, Adam, AdamW and some schedules are PyTorch's own, lightly's LARS and schedule are lightly's. The rest are the
published rules (the official SimCLR code, Barlow Twins, solo-learn, apex, BYOL, SwAV, CLD, PyContrast, MoCo) written out
again, in f64.

Needs torch, numpy, lightly and safetensors.
"""

import math
from pathlib import Path

import numpy as np
import torch
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler
from safetensors.torch import save_file

STEPS = 24
WARMUP = 4
RATES = [0.5 * t / WARMUP if t < WARMUP else 0.25 * (1 + math.cos(math.pi * (t - WARMUP) / (STEPS - WARMUP))) for t in range(STEPS)]
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


def run(case, make):
    weights = {name: arrays[f"{name}.start"].clone().requires_grad_() for name in SHAPES}
    optimizer = make(weights)
    for step, rate in enumerate(RATES):
        for group in optimizer.param_groups:
            group["lr"] = group.get("held", rate) * group.get("share", 1.0)
        for name, weight in weights.items():
            weight.grad = arrays[f"{name}.gradient.{step}"].clone()
        optimizer.step()
    for name, weight in weights.items():
        arrays[f"{case}.{name}"] = weight.detach()


for case, settings in SGD.items():
    run(f"sgd.{case}", lambda w: torch.optim.SGD(w.values(), lr=1.0, **settings))


def split(weights, apart, **settings):
    """Two groups, the second with settings of its own."""
    first = {"params": [w for name, w in weights.items() if name not in apart]}
    return [first, {"params": [w for name, w in weights.items() if name in apart], **settings}]


# simsiam/main_simsiam.py, fix_pred_lr: one group stays at the peak. And biases at a rate of their own, a quarter.
run("sgd.held", lambda w: torch.optim.SGD(split(w, {"matrix", "scale"}, held=0.5), lr=1.0, **SGD["decayed"]))
run("sgd.bias", lambda w: torch.optim.SGD(split(w, {"bias", "scale", "shift"}, share=0.25), lr=1.0, **SGD["nesterov"]))
run("adam.plain", lambda w: torch.optim.Adam(w.values(), lr=1.0, foreach=False))
run("adam.decayed", lambda w: torch.optim.Adam(w.values(), lr=1.0, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1))
run("adamw", lambda w: torch.optim.AdamW(w.values(), lr=1.0, weight_decay=0.1))

SMALL = {"bias", "scale", "shift"}


def groups(weights):
    """Decay for kernels and matrices only."""
    return [
        {"params": [w for name, w in weights.items() if name not in SMALL], "weight_decay": 0.1},
        {"params": [w for name, w in weights.items() if name in SMALL], "weight_decay": 0.0},
    ]


run("lars.lightly", lambda w: LARS(groups(w), lr=1.0, momentum=0.9))
run("lars.lightly.undecayed", lambda w: LARS(w.values(), lr=1.0, momentum=0.9, weight_decay=0.0))


def lars(form, weight, gradients, weight_decay, excluded, momentum=0.9, eta=0.001, clip=False, share=1.0):
    """One tensor through all steps, by the rule of one program."""
    velocity, norm = np.zeros_like(weight), np.linalg.norm
    for rate, gradient in zip(np.array(RATES) * share, gradients, strict=True):
        flat, raw = norm(weight.ravel()), norm(gradient.ravel())
        if form in ("tf", "popular", "byol"):
            if not excluded:
                gradient = gradient + weight_decay * weight
            if form == "popular":  # tf2/lars_optimizer.py, classic_momentum=False
                velocity = momentum * velocity + gradient
                v_norm = norm(velocity.ravel())
                trust = eta * flat / v_norm if not excluded and flat > 0 and v_norm > 0 else 1.0
                weight = weight - trust * rate * velocity
                continue
            g_norm = norm(gradient.ravel())
            trust = eta * flat / g_norm if not excluded and flat > 0 and g_norm > 0 else 1.0
            if form == "tf":  # tf2/lars_optimizer.py, classic momentum, nesterov off
                velocity = momentum * velocity + rate * trust * gradient
                weight = weight - velocity
                continue
            gradient = trust * gradient  # barlowtwins main.py
        elif not excluded and flat > 0 and raw > 0:  # solo/utils/lars.py, apex/parallel/LARC.py
            trust = eta * flat / (raw + flat * weight_decay + 1e-8)
            if clip:
                trust = min(trust / rate, 1) if rate > 0 else 1
            gradient = trust * (gradient + weight_decay * weight)
        velocity = momentum * velocity + gradient
        weight = weight - rate * velocity
    return weight


for case, form, skip, settings in [
    ("lars.bn_bias", "tf", SMALL, {}),
    ("lars.none", "tf", set(), {}),
    ("lars.popular", "popular", SMALL, {}),
    ("lars.popular.none", "popular", set(), {}),
    ("lars.byol", "byol", SMALL, {}),
    ("lars.byol.none", "byol", set(), {}),
    ("lars.solo", "solo", SMALL, {"eta": 0.02, "clip": True}),
    ("lars.solo.unclipped", "solo", SMALL, {"eta": 0.5}),
    ("lars.larc", "larc", set(), {}),
    ("lars.larc.clipped", "larc", set(), {"eta": 0.02, "clip": True}),
]:
    for name in SHAPES:
        gradients = [arrays[f"{name}.gradient.{step}"].numpy() for step in range(STEPS)]
        moved = lars(form, arrays[f"{name}.start"].numpy(), gradients, 0.1, name in skip, **settings)
        arrays[f"{case}.{name}"] = torch.from_numpy(moved)
# barlowtwins/main.py: group 0 at 0.2, group 1 (biases and norms) at 0.0048 of the schedule.
for name in SHAPES:
    gradients = [arrays[f"{name}.gradient.{step}"].numpy() for step in range(STEPS)]
    share = 0.0048 / 0.2 if name in SMALL else 1.0
    moved = lars("byol", arrays[f"{name}.start"].numpy(), gradients, 0.1, name in SMALL, share=share)
    arrays[f"lars.barlow.{name}"] = torch.from_numpy(moved)


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


# Runs of 12 epochs of 5 steps, 3 of them warm-up, from a peak of 0.3 if nothing else is said.
E, S, W, T, PEAK = 12, 5, 15, 60, 0.3
cosine = lambda progress: 0.5 * (1 + math.cos(math.pi * progress))


def keep(name, rates):
    arrays[f"schedule.{name}"] = torch.from_numpy(np.array([float(rate) for rate in rates]))


def byol(step):
    """byol/utils/schedules.py, learning_schedule."""
    decayed = cosine(min(max(step - W, 0), T - W) / (T - W)) * PEAK
    return step / W * PEAK if step < W else decayed


def barlow(step):
    """main.py, adjust_learning_rate."""
    if step < W:
        return PEAK * step / W
    q = cosine((step - W) / (T - W))
    return PEAK * q + PEAK * 0.001 * (1 - q)


def swav():
    """main_swav.py: the learning rates of all iterations as one array."""
    start_warmup, base_lr, final_lr = 0.3, 4.8, 0.0048
    warmup = np.linspace(start_warmup, base_lr, W)
    rest = [final_lr + 0.5 * (base_lr - final_lr) * (1 + math.cos(math.pi * t / (T - W))) for t in range(T - W)]
    return np.concatenate((warmup, rest))


def cld():
    """lib/lr_scheduler.py: GradualWarmupScheduler(multiplier=100) before CosineAnnealingLR(eta_min=1e-6)."""
    after = torch_schedule(lambda o: lr.CosineAnnealingLR(o, T - W, eta_min=1e-6), T - W)
    warmup = [PEAK / 100 * (99.0 * t / W + 1.0) for t in range(W + 1)]
    return np.concatenate((warmup, after.numpy()[1:]))


def pycontrast(cos, warm, decay_epochs=(6, 9)):
    """learning/base_trainer.py, epochs from 1: adjust_learning_rate, then warmup_learning_rate per batch."""
    eta_min, rates = PEAK * 0.1**3, []

    def adjusted(epoch):
        if cos:
            return eta_min + (PEAK - eta_min) * (1 + math.cos(math.pi * epoch / E)) / 2
        return PEAK * 0.1 ** sum(epoch > milestone for milestone in decay_epochs)

    warmup_from, warm_epochs = 0.01, 3
    warmup_to = adjusted(warm_epochs) if cos else PEAK
    for epoch in range(1, E + 1):
        for batch in range(S):
            rate = adjusted(epoch)
            if warm and epoch <= warm_epochs:
                p = (batch + (epoch - 1) * S) / (warm_epochs * S)
                rate = warmup_from + p * (warmup_to - warmup_from)
            rates.append(rate)
    return rates


def moco(epochs, cos=True, schedule=(6, 9)):
    """main_moco.py, adjust_learning_rate (its CIFAR demo counts epochs from 1)."""
    rates = []
    for epoch in epochs:
        rate = PEAK
        if cos:
            rate *= 0.5 * (1.0 + math.cos(math.pi * epoch / E))
        else:
            for milestone in schedule:
                rate *= 0.1 if epoch >= milestone else 1.0
        rates += [rate] * S
    return rates


def npid(epochs):
    """cifar.py, adjust_learning_rate."""
    rates = []
    for epoch in epochs:
        rates += [PEAK * (0.1 ** ((epoch - 80) // 40)) if epoch >= 80 else PEAK] * S
    return rates


def solo():
    """LinearWarmupCosineAnnealingLR(warmup_start_lr=3e-5, eta_min=0), stepped per batch."""
    warmup = [3e-5 + t * (PEAK - 3e-5) / (W - 1) for t in range(W)]
    return warmup + [PEAK * cosine((t - W) / (T - W)) for t in range(W, T)]


def lightly(warmup, end):
    return torch_schedule(lambda o: CosineWarmupScheduler(o, warmup, T, end_value=end), T)


keep("simclr_v2", [cosine_tf(step, PEAK, 3, T) for step in range(T)])
keep("byol", [byol(step) for step in range(T)])
keep("barlow", [barlow(step) for step in range(T)])
keep("swav", swav())
keep("cld", cld())
keep("pycontrast", pycontrast(True, False))
keep("pycontrast_warm", pycontrast(True, True))
keep("pycontrast_steps", pycontrast(False, True))
keep("moco", moco(range(E)))
keep("moco_steps", moco(range(E), cos=False))
keep("moco_demo", moco(range(1, E + 1)))
keep("npid", npid(range(200)))
keep("solo", solo())
keep("lightly", lightly(W, 0.001))
keep("lightly_vicreg", lightly(W, 0.01))
keep("lightly_cold", lightly(0, 0.001))
keep("linear", torch_schedule(lambda o: lr.LinearLR(o, 1.0, 0.0, T), T))

save_file(arrays, Path(__file__).with_suffix(".safetensors"))
