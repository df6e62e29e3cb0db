"""Makes resnet.safetensors and resnet_names.json: residual networks of torchvision, and heads of torch.nn.

No weights are stored: both sides fill tensor number k of a network, counted without `num_batches_tracked`, and the
inputs with the same hash of (k, position). All is computed in float64 and stored in float32.

Run: python tests/golden/resnet.py   (torch 2.11, torchvision 0.26, numpy, safetensors)
"""

import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

HERE = pathlib.Path(__file__).parent
INPUT, COEFFICIENT = 1 << 20, 1 << 21


def noise(tag, shape):
    """Uniform in [-1, 1), 24 bits, from the tag and the position in row-major order."""
    x = (np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(tag << 32)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(32)
    return ((x >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1.0).reshape(shape)


def values(network):
    """Names and tensors of a network in the order of its state, without the batch counters."""
    return [(name, t) for name, t in network.state_dict(keep_vars=True).items() if not name.endswith("num_batches_tracked")]


def fill(network):
    with torch.no_grad():
        for k, (name, tensor) in enumerate(values(network)):
            shape = tuple(tensor.shape)
            u = noise(k, shape)
            if len(shape) > 1:
                u *= np.sqrt(3.0 / np.prod(shape[1:]))
            elif name.endswith("running_var"):
                u = 1.0 + 0.3 * u
            elif name.endswith("weight"):
                u = 1.0 + 0.2 * u
            else:
                u = 0.1 * u
            tensor.copy_(torch.from_numpy(u))
    return network


class Narrow(resnet.ResNet):
    """torchvision's network at another width: its own blocks, `_make_layer` and forward, without classifier."""

    def __init__(self, block, depths, width, stem):
        nn.Module.__init__(self)
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = int(64 * width), 1, 1, 64
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(3, self.inplanes, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        for group, depth in enumerate(depths):
            layer = self._make_layer(block, int(64 * 2**group * width), depth, stride=1 if group == 0 else 2)
            setattr(self, f"layer{group + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Identity()


def record(out, prefix, network, x):
    """Evaluation, then one training pass, gradients, and the start of each running statistic it moved."""
    network.eval()
    with torch.no_grad():
        out[f"{prefix}.evaluation"] = network(x)
    network.train()
    y = network(x)
    (y * torch.from_numpy(noise(COEFFICIENT, tuple(y.shape)))).sum().backward()
    out[f"{prefix}.training"] = y.detach()
    first = next(network.parameters())
    out[f"{prefix}.first_gradient"] = first.grad.flatten()[:32].clone()
    out[f"{prefix}.gradient_norms"] = torch.stack([p.grad.norm() for p in network.parameters()])
    running = [t.detach()[:8] for name, t in values(network) if "running" in name]
    if running:
        out[f"{prefix}.running"] = torch.cat(running)


def main():
    torch.set_default_dtype(torch.float64)
    out, names = {}, {}
    images = lambda side: torch.from_numpy(noise(INPUT, (4, 3, side, side)))

    # torchvision itself; `Narrow` at width 1 must be the same network.
    for name, block, depths in [("resnet18", BasicBlock, [2, 2, 2, 2]), ("resnet50", Bottleneck, [3, 4, 6, 3])]:
        network = getattr(resnet, name)(weights=None)
        network.fc = nn.Identity()
        names[name] = [n for n, _ in values(network)]
        fill(network)
        clone = fill(Narrow(block, depths, 1, "imagenet"))
        assert [n for n, _ in values(clone)] == names[name]
        with torch.no_grad():
            assert torch.equal(clone.eval()(images(64)), network.eval()(images(64)))
        record(out, f"{name}.1.imagenet", network, images(64))
        for stem in ["imagenet", "cifar"]:
            small = fill(Narrow(block, depths, 0.125, stem))
            record(out, f"{name}.0.125.{stem}", small, images(64 if stem == "imagenet" else 16))

    linear, norm = nn.Linear, nn.BatchNorm1d

    class Gamma(norm):
        """Batch norm whose shift stays 0: the last layer of SimCLR's head."""

        def __init__(self, width):
            super().__init__(width)
            self.bias = None

    heads = {
        "simclr": [linear(24, 24, False), norm(24), nn.ReLU(), linear(24, 8, False), Gamma(8)],
        "simclrv2": [linear(24, 24, False), norm(24), nn.ReLU(), linear(24, 24, False), norm(24), nn.ReLU()]
        + [linear(24, 8, False), Gamma(8)],
        "moco_v1": [linear(24, 8)],
        "moco_v2": [linear(24, 24), nn.ReLU(), linear(24, 8)],
        "spij": [linear(24, 24, False), nn.ReLU(), linear(24, 24, False), nn.ReLU(), linear(24, 8, False)],
        "wide_plain": [linear(24, 40, False), norm(40), nn.ReLU(), linear(40, 8, False), norm(8, affine=False)],
    }
    networks = {name: nn.Sequential(*layers) for name, layers in heads.items()}
    from lightly.models.modules import SimCLRProjectionHead

    networks["lightly"] = SimCLRProjectionHead(24, 24, 8)
    for name, network in networks.items():
        record(out, f"head.{name}", fill(network), torch.from_numpy(noise(INPUT, (12, 24))))

    save_file({k: v.detach().float().contiguous() for k, v in out.items()}, HERE / "resnet.safetensors")
    (HERE / "resnet_names.json").write_text(json.dumps(names, indent=0) + "\n")


main()
