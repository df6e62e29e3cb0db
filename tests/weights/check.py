"""Features of networks of full size, by this program and by PyTorch, from one file of weights.

Needs torch, torchvision, lightly, safetensors, numpy, Pillow, google-crc32c and the built program:

    python tests/weights/check.py target/release/diptych

Not part of `make test`. Prints the largest difference as a share of the largest feature, and fails above 1e-4. Then the memory that
importing takes beside the tensors, which may be 64 MB.
"""

import collections
import pathlib
import pickle
import subprocess
import sys
import tempfile

import google_crc32c
import lightly.models
import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

program = pathlib.Path(sys.argv[1]).resolve()
torch.manual_seed(3)
generator = np.random.default_rng(3)
folder = pathlib.Path(tempfile.mkdtemp())
images = []
for index in range(8):
    # Already of the size that is wanted, so that no other resampling comes in between.
    # Some darker than others: the mean over all pixels of noise is always the same.
    pixels = generator.integers(index * 16, 128 + index * 16, (28, 28, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    (folder / "images").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    images.append(torch.from_numpy(pixels.copy()))
small = torch.stack(images)[:, ::7, ::7][:, :32, :32].permute(0, 3, 1, 2).float() / 255
(folder / "small").mkdir()
for index, pixels in enumerate(small):
    Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy()).save(folder / "small" / f"{index}.png")
large = torch.stack(images).permute(0, 3, 1, 2).float() / 255


def stirred(net):
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.5)
    return net.eval()


class Wide(torchvision.models.ResNet):
    """torchvision's ResNet-50, its own blocks and forward, at another width."""

    def __init__(self, width):
        nn.Module.__init__(self)
        self._norm_layer, self.inplanes, self.dilation, self.groups, self.base_width = nn.BatchNorm2d, 64 * width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        for group, depth in enumerate((3, 4, 6, 3)):
            block = torchvision.models.resnet.Bottleneck
            setattr(self, f"layer{group + 1}", self._make_layer(block, 64 * 2**group * width, depth, 1 if group == 0 else 2))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Identity()


class Norm(nn.Sequential):
    """A batch norm and perhaps a ReLU, under the name that Separius gives it."""

    def __init__(self, channels, relu=True):
        super().__init__(nn.BatchNorm2d(channels), *([nn.ReLU()] if relu else []))


def kernel(inputs, outputs, side=3, stride=1):
    return nn.Conv2d(inputs, outputs, side, stride, (side - 1) // 2, bias=False)


class Selective(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        hidden = max(outputs // 16, 32)
        self.main_conv = nn.Sequential(kernel(inputs, 2 * outputs, 3, stride), Norm(2 * outputs))
        self.mixing_conv = nn.Sequential(kernel(outputs, hidden, 1), Norm(hidden), kernel(hidden, 2 * outputs, 1))

    def forward(self, x):
        two = torch.stack(self.main_conv(x).chunk(2, 1))
        share = torch.stack(self.mixing_conv(two.sum(0).mean((2, 3), keepdim=True)).chunk(2, 1)).softmax(0)
        return (two * share).sum(0)


class Shortcut(nn.Module):
    def __init__(self, inputs, outputs, stride, sk):
        super().__init__()
        # The zeros beyond the end of a map count.
        pool = [nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride)]
        self.shortcut = nn.Sequential(*pool, kernel(inputs, outputs, 1)) if sk else kernel(inputs, outputs, 1, stride)
        self.bn = Norm(outputs, relu=False)

    def forward(self, x):
        return self.bn(self.shortcut(x))


class Block(nn.Module):
    def __init__(self, inputs, inner, stride, sk, first):
        super().__init__()
        if first:
            self.projection = Shortcut(inputs, 4 * inner, stride, sk)
        middle = [Selective(inner, inner, stride)] if sk else [kernel(inner, inner, 3, stride), Norm(inner)]
        last = [kernel(inner, 4 * inner, 1), Norm(4 * inner, relu=False)]
        self.net = nn.Sequential(kernel(inputs, inner, 1), Norm(inner), *middle, *last)

    def forward(self, x):
        return (self.net(x) + (self.projection(x) if hasattr(self, "projection") else x)).relu()


class Group(nn.Module):
    def __init__(self, inputs, inner, stride, depth, sk):
        super().__init__()
        blocks = [Block(inputs if b == 0 else 4 * inner, inner, stride if b == 0 else 1, sk, b == 0) for b in range(depth)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x)


class SimClr(nn.Module):
    """SimCLR's networks as the published conversions to PyTorch compute them (under the names
    that `Separius/SimCLRv2-Pytorch` writes), from torch.nn alone."""

    def __init__(self, depths, width, sk):
        super().__init__()
        full = 64 * width
        stem = [kernel(3, full, 7, 2), Norm(full)]
        if sk:
            half = full // 2
            stem = [kernel(3, half, 3, 2), Norm(half), kernel(half, half), Norm(half), kernel(half, full), Norm(full)]
        self.net = nn.Sequential(
            nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1)),
            *(Group(full if g == 0 else 2 * full * 2**g, full * 2**g, 1 if g == 0 else 2, depth, sk) for g, depth in enumerate(depths)),
        )

    def forward(self, x):
        return self.net(x).mean((2, 3))


def check(name, path, net, pixels, data, more, constants=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
    mean, std = [torch.tensor(values).view(3, 1, 1) for values in constants]
    with torch.no_grad():
        expected = net((pixels - mean) / std).flatten(1)
    # Else the images would not matter, and what is wrong with them would not show.
    assert expected.std(0).max() > 0.05 * expected.abs().max(), name
    model, out = folder / "model.safetensors", folder / "features.safetensors"
    subprocess.run([program, "weights", "import", path, "--out", model, *more], check=True, capture_output=True)
    subprocess.run([program, "embed", model, "--data", folder / data, "--out", out, "--device", "cpu"], check=True, capture_output=True)
    found = load_file(out)["h"]
    apart = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"{name:28} {tuple(found.shape)}  {apart:.1e}")
    assert apart <= 1e-4, name


def under(prefix, state):
    return collections.OrderedDict((prefix + name, tensor) for name, tensor in state.items())


path = folder / "file"
identity = ["--preprocess", "resize-224"]
for arch in ("resnet18", "resnet50", "resnet101"):
    net = stirred(getattr(torchvision.models, arch)())
    head, net.fc = net.fc, nn.Identity()
    state = net.state_dict()
    torch.save(collections.OrderedDict(list(state.items()) + list(under("fc.", head.state_dict()).items())), path)
    check(f"torchvision {arch}", path, net, large, "images", identity)
    torch.save({"state_dict": under("module.encoder_q.", state)}, path, _use_new_zipfile_serialization=False)
    check(f"MoCo {arch}, before 1.6", path, net, large, "images", identity)
net = stirred(Wide(2))
torch.save({"state_dict": under("module.encoder_q.", net.state_dict())}, path)
check("MoCo ResNet-50 2x", path, net, large, "images", identity)
generator = lightly.models.ResNetGenerator("resnet-18", num_splits=8)
net = stirred(nn.Sequential(*list(generator.children())[:-1], nn.AdaptiveAvgPool2d(1)))
torch.save({"state_dict": under("backbone.", net.state_dict()), "epoch": 1}, path)
check("lightly CIFAR, split norms", path, net, small, "small", [])

plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
converter = ["--flavor", "simclr_converter", "--preprocess", "resize-224"]
for title, width, sk in (("ResNet-50", 1, False), ("ResNet-50 2x", 2, False), ("ResNet-50 SK", 1, True), ("ResNet-50 2x SK", 2, True)):
    net = stirred(SimClr((3, 4, 6, 3), width, sk))
    torch.save({"resnet": net.state_dict(), "head": {}}, path)
    check(f"Separius {title}", path, net, large, "images", converter, plain)

# Memory: the tensors once and 64 MB, above what the program takes with a file of a few kilobytes.


def peak(*arguments):
    watch = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, capture_output=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6)"
    )
    # The largest child of a process that has no other.
    child = subprocess.run([sys.executable, "-c", watch, program, *arguments], check=True, capture_output=True, text=True)
    return float(child.stdout)


def bundle(prefix, tensors):
    """The form of TensorFlow's checkpoints: an index that is a sorted table, and the numbers."""

    def varint(value):
        out = bytearray()
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes(out) + bytes([value])

    def masked(content):
        crc = google_crc32c.value(content)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")

    def field(number, wire, content):
        return varint(number << 3 | wire) + content

    def counted(content):
        return varint(len(content)) + content

    def block(pairs):
        out = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in pairs)
        return out + bytes(4) + (1).to_bytes(4, "little")

    pairs, at = [(b"", field(1, 0, varint(1)) + field(3, 2, counted(field(1, 0, varint(1)))))], 0
    with open(f"{prefix}.data-00000-of-00001", "wb") as data:
        for name, values in sorted(tensors.items()):
            content = np.ascontiguousarray(values, "<f4").tobytes()
            shape = b"".join(field(2, 2, counted(field(1, 0, varint(side)))) for side in values.shape)
            entry = field(1, 0, varint(1)) + field(2, 2, counted(shape)) + field(4, 0, varint(at))
            crc = field(6, 5, masked(content))
            pairs.append((name.encode(), entry + field(5, 0, varint(len(content))) + crc))
            data.write(content)
            at += len(content)
    table = b""

    def append(content):
        nonlocal table
        handle = varint(len(table)) + varint(len(content))
        table += content + b"\0" + masked(content + b"\0")
        return handle

    handle = append(block(pairs))
    footer = append(block([])) + append(block([(b"z", handle)]))
    with open(f"{prefix}.index", "wb") as index:
        index.write(table + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little"))


def of_tensorflow(net):
    """The variables of SimCLR's code, which counts layers in the order in which it makes them, the shortcut first."""
    kernels, norms = [], []
    for part in net.net[0]:
        (kernels if isinstance(part, nn.Conv2d) else norms).append(part)
    for group in list(net.net)[1:]:
        for part in group.blocks:
            units = [part.net[i] for i in range(6)]
            if hasattr(part, "projection"):
                units = [part.projection.shortcut, part.projection.bn, *units]
            kernels += units[::2]
            norms += units[1::2]
    norms = [part[0] for part in norms if isinstance(part, Norm)]
    numbered = lambda name, at: f"base_model/{name}" + (f"_{at}" if at else "")
    found = {f"{numbered('conv2d', at)}/kernel": part.weight.permute(2, 3, 1, 0) for at, part in enumerate(kernels)}
    for at, part in enumerate(norms):
        values = {"gamma": part.weight, "beta": part.bias, "moving_mean": part.running_mean, "moving_variance": part.running_var}
        found.update({f"{numbered('batch_normalization', at)}/{name}": value for name, value in values.items()})
    return {name: value.detach().numpy() for name, value in found.items()}


small_file = folder / "small.safetensors"
save_file({"x": torch.zeros(1)}, small_file)
rest = peak("weights", "show", small_file)
net = stirred(SimClr((3, 4, 6, 3), 2, False))
wide = Wide(2)
state = wide.state_dict()
arrays = {name: tensor.numpy() for name, tensor in state.items()}
megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
torch.save({"state_dict": under("module.encoder_q.", state)}, folder / "zip")
torch.save({"state_dict": under("module.encoder_q.", state)}, folder / "before 1.6", _use_new_zipfile_serialization=False)
save_file(state, folder / "safetensors")
with open(folder / "numpy pickle", "wb") as file:
    pickle.dump(arrays, file)
bundle(folder / "bundle", of_tensorflow(net))
failed = []
for name, more in (
    ("safetensors", ["--preprocess", "imagenet"]),
    ("zip", []),
    ("before 1.6", []),
    ("numpy pickle", ["--preprocess", "imagenet"]),
    ("bundle", []),
):
    show, held = peak("weights", "show", folder / name), peak("weights", "import", folder / name, "--out", folder / "m.safetensors", *more)
    beside = held - rest - megabytes
    print(f"memory, {name}: show {show:.0f} MB, import {held:.0f} MB, of it {rest:.0f} at rest and {megabytes:.0f} the tensors: {beside:+.0f} MB")
    if beside > 64 or show - rest > 16:
        failed.append(name)
assert not failed, failed
