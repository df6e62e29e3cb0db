"""Makes evaluate_linear.json: softmax regression trained by torch.optim with a given start and order of images.

Run with torch 2.11: python tests/golden/evaluate_linear.py
"""

import json
import math
import pathlib

import torch

torch.manual_seed(0)
torch.set_num_threads(1)
IMAGES, DIMENSIONS, CLASSES, BATCH, EPOCHS = 50, 4, 3, 16, 12
labels = torch.randint(0, CLASSES, (IMAGES,))
x = torch.randn(IMAGES, DIMENSIONS) + torch.randn(CLASSES, DIMENSIONS)[labels]
weight = torch.randn(CLASSES, DIMENSIONS) * 0.1
bias = torch.randn(CLASSES) * 0.1
order = torch.stack([torch.randperm(IMAGES) for _ in range(EPOCHS)])


def train(make, scheduled):
    layer = torch.nn.Linear(DIMENSIONS, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    optimizer = make(layer.parameters())
    steps = EPOCHS * math.ceil(IMAGES / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: (1 + math.cos(math.pi * t / steps)) / 2 if scheduled else 1.0
    )
    for epoch in range(EPOCHS):
        for rows in order[epoch].split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(layer(x).double(), labels).item()
    return {"weight": layer.weight.tolist(), "bias": layer.bias.tolist(), "loss": loss}


sgd = train(lambda p: torch.optim.SGD(p, 0.8 * BATCH / 256, momentum=0.9, nesterov=True), True)
adam = train(lambda p: torch.optim.Adam(p, 3e-2), False)
values = {
    "x": x.tolist(),
    "labels": labels.tolist(),
    "start": {"weight": weight.tolist(), "bias": bias.tolist()},
    "order": order.tolist(),
    "sgd": sgd,
    "adam": adam,
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(values) + "\n")
