"""Writes tests/golden/weights: small files of weights by the libraries that write such files, and what they hold.

Needs torch, torchvision, timm, lightly, numpy, safetensors. The program never runs this; the files are stored. Networks are
ResNets of 2 to 16 channels; `truth.safetensors` has an input, the features of each network in evaluation mode, and the
tensors of `views.pth` one by one.
"""

import argparse
import collections
import pathlib
import pickle

import lightly.models
import numpy as np
import timm.models.resnet
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock

here = pathlib.Path(__file__).parent / "weights"
here.mkdir(exist_ok=True)
torch.manual_seed(7)
truth = {"input": torch.rand(2, 3, 40, 40) * 2 - 1}


class Tiny(nn.Module):
    """torchvision's ResNet-18, narrower."""

    def __init__(self, width=2, kernel=7, padding=3, classes=0):
        super().__init__()
        stride = 2 if kernel == 7 else 1
        self.conv1 = nn.Conv2d(3, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if kernel == 7 else nn.Identity()
        inputs = width
        for group in range(4):
            outputs, stride = width << group, 1 if group == 0 else 2
            down = None
            if stride != 1:
                down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            blocks = [BasicBlock(inputs, outputs, stride, down), BasicBlock(outputs, outputs)]
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes) if classes else nn.Identity()

    def features(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)

    def forward(self, x):
        return self.fc(self.features(x))


def stirred(net):
    """Running statistics and affine parts other than those at the start."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def told(name, net, features=None):
    with torch.no_grad():
        truth[f"features/{name}"] = (features or net)(truth["input"]).flatten(1).contiguous()


def under(prefix, state):
    return collections.OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def legacy(value, name, **more):
    torch.save(value, here / name, _use_new_zipfile_serialization=False, **more)


# Large images: the network of most families, and what lies beside it in their files.
net = stirred(Tiny())
state = net.state_dict()
head = {"weight": torch.rand(3, 16), "bias": torch.rand(3)}
told("large", net, net.features)
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
net.features(truth["input"]).sum().backward()
optimizer.step()
state = collections.OrderedDict((name, tensor.clone()) for name, tensor in state.items())
told("large", net, net.features)

moco = under("module.encoder_q.", state) | under("module.encoder_q.fc.", head)
moco |= under("module.encoder_k.", {"conv1.weight": state["conv1.weight"]})
moco |= {"module.queue": torch.rand(3, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
torch.save({"epoch": 3, "arch": "resnet18", "state_dict": moco, "optimizer": optimizer.state_dict()}, here / "moco.pth.tar")
torch.save({"epoch": 3, "state_dict": moco}, here / "moco5.pth.tar", pickle_protocol=5)
legacy({"epoch": 3, "arch": "resnet18", "state_dict": moco, "optimizer": optimizer.state_dict()}, "moco-legacy.pth.tar")
simsiam = under("module.encoder.", state) | under("module.encoder.fc.0.", head) | under("module.predictor.0.", head)
legacy({"state_dict": simsiam | under("module.encoder_momentum.", {"bn1.bias": torch.rand(2)})}, "simsiam.pth.tar")
legacy({"model": under("module.encoder.", state) | under("module.head.", head), "epoch": 1}, "pycontrast.pth")
legacy(under("module.", state) | {"module.prototypes.weight": torch.rand(4, 3), "module.projection_head.0.bias": torch.rand(3)}, "swav.pth.tar")
trunk = {"base_model": {"model": {"trunk": under("_feature_blocks.", state), "heads": under("0.clf.", head)}}}
legacy({"classy_state_dict": trunk, "phase_idx": 4}, "vissl.torch")
legacy({"meta": {"mmcls_version": "1.0"}, "state_dict": under("backbone.", state) | under("neck.fc.", head)}, "mmselfsup.pth")
legacy(under("encoder.", state) | under("projector.0.", head), "spijkervet.pt")
legacy({"state_dict": under("backbone.", state) | under("projection_head.0.", head) | under("online_classifier.", head)}, "lightly.ckpt")
legacy({"state_dict": under("backbone.", state) | under("projector.0.", head) | under("classifier.", head)}, "solo.ckpt")
classified = Tiny(classes=1000)
classified.load_state_dict(state, strict=False)
torch.save(collections.OrderedDict(classified.state_dict()), here / "torchvision.pth")
save_file({name: tensor.contiguous() for name, tensor in state.items()}, here / "bare.safetensors")
save_file({name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for name, tensor in state.items()}, here / "bf16.safetensors")
half = Tiny().eval()
half.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in state.items()})
told("bf16", half, half.features)

# A module saved whole, and as TorchScript.
torch.save(net, here / "whole.pth")
torch.jit.script(net).save(here / "script.pt")

# lightly's Imagenette benchmark numbers the children of torchvision's network.
row = nn.Sequential(*list(net.children())[:-1])
legacy({"state_dict": under("backbone.", row.state_dict()) | under("projection_head.0.", head)}, "imagenette.ckpt")

# tonylins' converter declares the shortcut before the rest.
order = sorted(state, key=lambda name: (name.split(".")[:2] if name.startswith("layer") else [""], "downsample" not in name))
legacy({"state_dict": collections.OrderedDict((name, state[name]) for name in order) | under("fc.", head)}, "tonylins.pth")

# Small images.
small = stirred(Tiny(kernel=3, padding=2))
told("solo-cifar", small, small.features)


class Settings:
    """Of a type that no other program knows."""

    def __init__(self):
        self.note, self.inner = "x", {"a": [1, 2]}


settings = argparse.Namespace(dataset="cifar10", lr=0.4, path=pathlib.PurePosixPath("/nowhere"), more=Settings())
torch.save(
    {
        "epoch": 9,
        "global_step": 3900,
        "pytorch-lightning_version": "1.2.0",
        "state_dict": under("encoder.", small.state_dict()) | under("projector.0.", head) | under("classifier.", head),
        "callbacks": {Settings: {"best": np.float64(0.5), "monitor": torch.tensor(0.25)}},
        "hyper_parameters": settings,
        "lr_schedulers": [{"base_lrs": [0.4], "last_epoch": 9}],
        "history": np.arange(6).reshape(2, 3),
        "seen": {1, 2, 3},
        "large": 1 << 80,
    },
    here / "solo-cifar.ckpt",
)

generator = lightly.models.ResNetGenerator("resnet-18", width=1 / 32, num_splits=8)
backbone = stirred(nn.Sequential(*list(generator.children())[:-1], nn.AdaptiveAvgPool2d(1)))
told("lightly-cifar", backbone)
legacy({"state_dict": under("backbone.", backbone.state_dict()) | under("projection_head.layers.0.", head) | under("backbone_momentum.", {"1.bias": torch.rand(2)})}, "lightly-cifar.ckpt")

plain = stirred(Tiny(kernel=3, padding=1))
told("cifar", plain, plain.features)
cld = collections.OrderedDict((name.replace("downsample", "shortcut"), tensor) for name, tensor in plain.state_dict().items())
legacy({"net": under("module.", cld | under("linear.", head)), "lemniscate": Settings(), "acc": 80.5, "epoch": 4}, "cld.t7")
save_file({name: tensor.contiguous() for name, tensor in plain.state_dict().items()}, here / "small.safetensors")

# timm's ResNet-D.
deep = stirred(
    timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=0, stem_width=1, stem_type="deep", avg_down=True, channels=(2, 4, 8, 16)
    )
)
told("timm", deep)
save_file({name: tensor.contiguous() for name, tensor in deep.state_dict().items()}, here / "timm.safetensors")

# Views of shared storages, strides of every kind, every kind of numbers.
base = torch.arange(60, dtype=torch.float32)
kernel = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5)
views = {
    "first": base[:6].view(2, 3),
    "second": base[6:30:2],
    "transposed": base.view(6, 10).t(),
    "inner": base.view(3, 4, 5)[1:, 1:3, ::2],
    "channels_last": kernel.to(memory_format=torch.channels_last),
    "same": base,
    "one": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "half": torch.linspace(-2, 2, 7).half(),
    "bfloat": torch.linspace(-2, 2, 7).bfloat16(),
    "long": torch.tensor([1, -(1 << 40)]),
    "byte": torch.tensor([0, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "parameter": nn.Parameter(torch.rand(3)),
}
for name, tensor in views.items():
    truth[f"views/{name}"] = tensor.detach().contiguous().clone()
wide = {"u16": torch.tensor([1, 65535], dtype=torch.uint16), "u32": torch.tensor([1], dtype=torch.uint32)}
torch.save(views | wide, here / "views.pth")
legacy(views, "views-legacy.pth")

# Pickles of numpy arrays, as detectron2 takes them.
arrays = {name: tensor.numpy() for name, tensor in state.items()}
for protocol in (2, 4, 5):
    content = {"model": arrays, "__author__": "nobody", "matching_heuristics": True}
    (here / f"numpy.{protocol}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))

save_file(truth, here / "truth.safetensors")
for path in sorted(here.iterdir()):
    print(f"{path.name:24} {path.stat().st_size:8}")
