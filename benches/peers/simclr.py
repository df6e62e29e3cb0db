"""SimCLR with lightly on PyTorch, from files to weights and a k-NN figure: the peer's side of `make bench`.

Settings and what is printed: README.md beside this file.
"""

import argparse
import json
import random
import time

import numpy
import torch
import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.models.resnet import BasicBlock

from pictures import Pictures, peak_mb, workers_mb

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEIGHBOURS, KNN_TEMPERATURE = 200, 0.1
UNTIMED_STEPS = 3


class NarrowResNet18(nn.Module):
    """ResNet-18 with the CIFAR stem and every layer `width` times as wide, initialised as PyTorch does by default."""

    def __init__(self, width):
        super().__init__()
        inputs = int(64 * width)
        layers = [nn.Conv2d(3, inputs, 3, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
        for stage, channels in enumerate((64, 128, 256, 512)):
            outputs = int(channels * width)
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                shortcut = None
                if stride != 1 or inputs != outputs:
                    projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                    shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))
                layers.append(BasicBlock(inputs, outputs, stride, shortcut))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.features = inputs

    def forward(self, images):
        return self.layers(images).mean((2, 3))


def backbone(width):
    """The network, images to features, and how many features it has."""
    if width != 1:
        network = NarrowResNet18(width)
        return network, network.features
    network = torchvision.models.resnet18()
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network, 512


def channels_last(images):
    return images.contiguous(memory_format=torch.channels_last)


def train(arguments):
    """The trained backbone and what is to be printed."""
    views = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    pictures = Pictures(arguments.data, "train", views)
    loader = DataLoader(
        pictures,
        arguments.batch,
        shuffle=True,
        drop_last=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
    )
    network, features = backbone(arguments.width)
    network = network.to(memory_format=torch.channels_last)
    head = SimCLRProjectionHead(features, features, 128)
    criterion = NTXentLoss(temperature=0.5)
    parameters = [*network.parameters(), *head.parameters()]
    rate = 0.06 * arguments.batch / 256
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=5e-4)
    steps = arguments.steps or arguments.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    started = timed_from = time.perf_counter()
    step = timed_views = 0
    while step < steps:
        for (first, second), _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bfloat16"):
                projections = head(network(channels_last(torch.cat([first, second]))))
                loss = criterion(*projections.chunk(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == UNTIMED_STEPS:
                timed_from, timed_views = time.perf_counter(), 0
            else:
                timed_views += 2 * len(first)
            if step == steps:
                break
    ended = time.perf_counter()
    workers_peak, workers_own = workers_mb()
    return network, {
        "images": len(pictures),
        "steps": step,
        "views_per_second": round(timed_views / (ended - timed_from), 2),
        "wall_seconds": round(ended - started, 2),
        "final_loss": round(loss.item(), 5),
        "peak_memory_mb": peak_mb(),
        "workers_peak_memory_mb": workers_peak,
        "workers_own_memory_mb": workers_own,
    }


@torch.no_grad()
def knn(network, arguments):
    """Weighted k-NN top-1 in per cent of the split `test` among the split `train`."""
    network.eval()
    whole = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)])

    def features(split):
        found, labels = [], []
        loader = DataLoader(Pictures(arguments.data, split, whole), 500, num_workers=arguments.workers)
        for images, classes in loader:
            found.append(functional.normalize(network(channels_last(images)), dim=1))
            labels.append(classes)
        return torch.cat(found), torch.cat(labels)

    references, reference_labels = features("train")
    queries, query_labels = features("test")
    right = 0
    for rows, truth in zip(queries.split(1000), query_labels.split(1000)):
        scores, nearest = (rows @ references.T).topk(min(NEIGHBOURS, len(references)))
        votes = torch.zeros(len(rows), int(reference_labels.max()) + 1)
        votes.scatter_add_(1, reference_labels[nearest], (scores / KNN_TEMPERATURE).exp())
        right += int((votes.argmax(1) == truth).sum())
    return round(100 * right / len(queries), 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="bfloat16: under autocast")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0, help="in place of --epochs; the schedule's length, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of the computation")
    parser.add_argument("--workers", type=int, default=2, help="processes that load")
    parser.add_argument("--no-knn", action="store_true")
    arguments = parser.parse_args()
    for seed in (torch.manual_seed, random.seed, numpy.random.seed):
        seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    network, found = train(arguments)
    if not arguments.no_knn:
        found["knn_top1"] = knn(network, arguments)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
