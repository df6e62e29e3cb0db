"""Makes resnet.safetensors and resnet_names.json: residual networks of torchvision, heads of torch.nn, and the networks
that torchvision has not: ResNet-D, selective kernels, and the rules of SimCLR's TensorFlow code (tf2/resnet.py), written
out again here with explicit padding.

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
from torch.nn import functional as F
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


class MaxPool(nn.Module):
    """3x3, stride 2: padded by one on all sides (torchvision), or as `SAME` is, the odd pixel at the end (TensorFlow)."""

    def __init__(self, tf):
        super().__init__()
        self.tf = tf

    def forward(self, x):
        if not self.tf:
            return F.max_pool2d(x, 3, 2, 1)
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
            pads += [total // 2, total - total // 2]
        y = F.max_pool2d(x, 3, 2, (x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)
        with torch.no_grad():  # the rule; what is returned is the same without a padded copy
            assert torch.equal(y, F.max_pool2d(F.pad(x, pads, value=-float("inf")), 3, 2))
        return y


class AveragePool(nn.Module):
    """The 2x2 pool in front of a ResNet-D projection."""

    def __init__(self, stride, tf):
        super().__init__()
        self.stride, self.tf = stride, tf

    def forward(self, x):
        if not self.tf:  # timm: nothing at stride 1, real pixels only at stride 2
            return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False) if self.stride == 2 else x
        if self.stride == 2:
            y = F.avg_pool2d(x, 2, 2, ceil_mode=True, divisor_override=4)
        else:
            y = F.avg_pool2d(x, 2, 1, 1, count_include_pad=False)[:, :, 1:, 1:]
        with torch.no_grad():  # the rules; what is returned is the same without padded copies
            padded = F.pad(x, (0, 1, 0, 1))
            if self.stride == 2:  # FixedPadding(2), then VALID
                rule = F.avg_pool2d(padded, 2, 2)
            else:  # SAME
                rule = F.avg_pool2d(padded, 2, 1) / F.avg_pool2d(F.pad(torch.ones_like(x), (0, 1, 0, 1)), 2, 1)
            assert torch.allclose(y, rule, rtol=1e-12, atol=1e-12)
        return y


class SelectiveKernel(nn.Module):
    def __init__(self, inputs, width, stride, ratio):
        super().__init__()
        hidden = max(int(width * ratio), 32)
        self.split = nn.Conv2d(inputs, 2 * width, 3, stride, 1, bias=False)
        self.split_bn = nn.BatchNorm2d(2 * width)
        self.squeeze = nn.Conv2d(width, hidden, 1, bias=False)
        self.squeeze_bn = nn.BatchNorm2d(hidden)
        self.select = nn.Conv2d(hidden, 2 * width, 1, bias=False)

    def forward(self, x):
        u1, u2 = F.relu(self.split_bn(self.split(x)), inplace=True).chunk(2, 1)
        c = (u1 + u2).mean((2, 3), keepdim=True)
        a1, a2 = self.select(F.relu(self.squeeze_bn(self.squeeze(c)))).chunk(2, 1)
        e1, e2 = a1.exp(), a2.exp()
        return e1 / (e1 + e2) * u1 + e2 / (e1 + e2) * u2


class PublishedBlock(nn.Module):
    def __init__(self, inputs, width, expansion, stride, first, tf, resnet_d, ratio):
        super().__init__()
        outputs = expansion * width
        kernels = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        if expansion == 4:
            kernels = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        self.layers = []
        for number, (i, o, kernel, s) in enumerate(kernels, 1):
            if ratio and kernel == 3:
                self.sk = SelectiveKernel(i, o, s, ratio)
                self.layers.append(("sk", None))
                continue
            setattr(self, f"conv{number}", nn.Conv2d(i, o, kernel, s, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(o))
            self.layers.append((f"conv{number}", f"bn{number}"))
        self.downsample = None
        if stride == 2 or inputs != outputs or (first and tf):
            norm = nn.BatchNorm2d(outputs)
            if resnet_d:
                project = nn.Conv2d(inputs, outputs, 1, bias=False)
                self.downsample = nn.Sequential(AveragePool(stride, tf), project, norm)
            else:
                self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        for layer, norm in self.layers:
            x = getattr(self, layer)(x)
            if norm:
                x = getattr(self, norm)(x)
            if layer != self.layers[-1][0] and norm:
                x = F.relu(x, inplace=True)
        x += shortcut
        return F.relu(x, inplace=True)


class Published(nn.Module):
    """A network by the rules of SimCLR's code (`tf`) or of torchvision and timm."""

    def __init__(self, depths, expansion, width, stem, tf, ratio):
        super().__init__()
        w = lambda channels: int(channels * width)
        conv = lambda i, o, kernel, stride, padding: nn.Conv2d(i, o, kernel, stride, padding, bias=False)
        if stem == "resnet_d":
            first = [conv(3, w(32), 3, 2, 1), nn.BatchNorm2d(w(32)), nn.ReLU(True)]
            second = [conv(w(32), w(32), 3, 1, 1), nn.BatchNorm2d(w(32)), nn.ReLU(True)]
            self.conv1 = nn.Sequential(*first, *second, conv(w(32), w(64), 3, 1, 1))
        else:
            shape = {"imagenet": (7, 2, 3), "cifar": (3, 1, 1), "cifar_pad2": (3, 1, 2)}[stem]
            self.conv1 = conv(3, w(64), *shape)
        self.bn1 = nn.BatchNorm2d(w(64))
        self.maxpool = MaxPool(tf) if stem in ("imagenet", "resnet_d") else nn.Identity()
        inputs = w(64)
        for group, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if group and not index else 1
                inner = w(64 * 2**group)
                resnet_d = stem == "resnet_d" or ratio > 0
                blocks.append(PublishedBlock(inputs, inner, expansion, stride, index == 0, tf, resnet_d, ratio))
                inputs = expansion * inner
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for group in range(1, 5):
            x = getattr(self, f"layer{group}")(x)
        return x.mean((2, 3))


def saved_scalars(network, x):
    """Scalars per image that autograd keeps, each storage once; 64-bit whole numbers count twice, as in 32-bit training."""
    own = {t.untyped_storage().data_ptr() for t in [*network.parameters(), *network.buffers()]}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            size = storage.nbytes() // tensor.element_size()
            storages[storage.data_ptr()] = (size * (1 if tensor.is_floating_point() else 2), tensor)
        return tensor

    network.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = network(x)
    del y
    return torch.tensor(sum(size for size, _ in storages.values()) / len(x))


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

    # Sides that meet odd and even maps at every pool: 70 -> 35 -> 18 -> 9 -> 5 -> 3, 72 -> 36 -> 18 -> 9 -> 5 -> 3.
    uneven = torch.from_numpy(noise(INPUT, (4, 3, 70, 72)))
    r18, r50 = ([2, 2, 2, 2], 1), ([3, 4, 6, 3], 4)
    for name, (depths, expansion), stem, tf, ratio in [
        ("simclr18", r18, "imagenet", True, 0.0),
        ("simclr50", r50, "imagenet", True, 0.0),
        ("resnet_d18", r18, "resnet_d", False, 0.0),
        ("resnet_d50", r50, "resnet_d", False, 0.0),
        ("sk50", r50, "resnet_d", True, 0.0625),
        ("sk50_torch", r50, "resnet_d", False, 0.5),
        ("sk50_cifar", r50, "cifar", True, 0.0625),
        ("pad2_18", r18, "cifar_pad2", False, 0.0),
    ]:
        network = fill(Published(depths, expansion, 0.125, stem, tf, ratio))
        if name in ("resnet_d18", "sk50"):
            names[name] = [n for n, _ in values(network)]
        small = "cifar" in stem
        record(out, name, network, images(16) if small else uneven)
        batch = torch.from_numpy(noise(INPUT, (8, 3, 32, 32) if small else (8, 3, 64, 64)))
        out[f"{name}.saved"] = saved_scalars(Published(depths, expansion, 0.25, stem, tf, ratio), batch)
    # The rewritten network with torchvision's rules must be torchvision's.
    clone = fill(Published([3, 4, 6, 3], 4, 1, "imagenet", False, 0.0))
    assert [n for n, _ in values(clone)] == names["resnet50"]
    with torch.no_grad():
        reference = resnet.resnet50(weights=None)
        reference.fc = nn.Identity()
        assert torch.allclose(clone.eval()(images(64)), fill(reference).eval()(images(64)), rtol=1e-12, atol=1e-12)

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
