"""Features of networks of full size, by this program and by PyTorch, from one file of weights.

Needs torch, torchvision, timm, lightly, numpy, Pillow and the built program:

    python tests/weights/check.py target/release/diptych

Not part of `make test`. Prints the largest difference as a share of the largest feature, and fails above 1e-4.
"""

import collections
import pathlib
import resource
import subprocess
import sys
import tempfile

import lightly.models
import numpy as np
import timm
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
    pixels = generator.integers(0, 256, (28, 28, 3), np.uint8).repeat(8, 0).repeat(8, 1)
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
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.5)
    return net.eval()


def check(name, path, net, pixels, data, more):
    mean, std = [torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    with torch.no_grad():
        expected = net((pixels - mean) / std).flatten(1)
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
generator = lightly.models.ResNetGenerator("resnet-18", num_splits=8)
net = stirred(nn.Sequential(*list(generator.children())[:-1], nn.AdaptiveAvgPool2d(1)))
torch.save({"state_dict": under("backbone.", net.state_dict()), "epoch": 1}, path)
check("lightly CIFAR, split norms", path, net, small, "small", [])

# Memory: the tensors once and 64 MB, above what the program takes without any.
net = torchvision.models.resnet152()
torch.save({"state_dict": under("module.encoder_q.", net.state_dict())}, path)
for name, file in (("ResNet-152", path),):
    def peak(arguments):
        subprocess.run([program, *arguments], check=True, capture_output=True)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3

    size = file.stat().st_size / 1e6
    print(f"{name}: {size:.0f} MB on disk, show holds", end=" ")
    measured = []
    for arguments in (["weights", "show", file], ["weights", "import", file, "--out", folder / "m.safetensors"]):
        child = subprocess.run(["/usr/bin/env", "python3", "-c", "import resource,subprocess,sys\nsubprocess.run(sys.argv[1:],check=True,capture_output=True)\nprint(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1e3)", program, *arguments], check=True, capture_output=True, text=True)
        measured.append(float(child.stdout))
    print(f"{measured[0]:.0f} MB, import {measured[1]:.0f} MB, {measured[1] - measured[0] - size:.0f} above the tensors")
