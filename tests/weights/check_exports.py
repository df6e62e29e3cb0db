"""Holds every export to the programs it is made for: torch, torchvision, timm, safetensors, numpy, onnx, onnxruntime and,
where it is installed, transformers.

Run: python tests/weights/check_exports.py FOLDER

FOLDER holds, for each network NAME (`tests/export.rs` writes it so):
  NAME.json                  {"name", "width", "sk", "flavor", "classes", "projector"}
  NAME.ours.safetensors      our tensors, and `probe.images`, `probe.h` (perhaps `probe.z`, `probe.logits`)
  NAME.torchvision.pth, NAME.timm.safetensors, NAME.detectron2.pkl, NAME.huggingface/   where there is such a network
  NAME.torch.pth, NAME.safetensors, NAME.onnx, NAME.unfolded.onnx, NAME.external.onnx

Networks are built by the other programs; at another width than 1 their own blocks are put together at that width. Prints one
line for each file and ends with an error if features are off by more than 1e-4 of the largest.
"""

import json
import pathlib
import pickle
import sys

import numpy as np
import onnx
import onnxruntime
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet

TOLERANCE = 1e-4
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


class Wide(resnet.ResNet):
    """torchvision's network, its own blocks and forward, at another width."""

    def __init__(self, name, width, classes):
        nn.Module.__init__(self)
        block = resnet.BasicBlock if name in ("resnet18", "resnet34") else resnet.Bottleneck
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = int(64 * width), 1, 1, 64
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for group, depth in enumerate(DEPTHS[name]):
            stride = 1 if group == 0 else 2
            setattr(self, f"layer{group + 1}", self._make_layer(block, int(64 * 2**group * width), depth, stride))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.inplanes, classes)


def timm_network(name, width, classes):
    if width == 1:
        return timm.create_model(name, num_classes=classes)
    block = timm.models.resnet.BasicBlock if name in ("resnet18", "resnet34") else timm.models.resnet.Bottleneck
    network = timm.models.resnet.ResNet(
        block, DEPTHS[name], num_classes=classes, channels=tuple(int(64 * 2**g * width) for g in range(4))
    )
    # timm's stem has 64 channels whatever the width.
    channels = int(64 * width)
    network.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
    network.bn1 = nn.BatchNorm2d(channels)
    first = network.layer1[0]
    wide = hasattr(first, "conv3")
    outputs = channels * (4 if wide else 1)
    first.conv1 = nn.Conv2d(channels, channels, 1 if wide else 3, padding=0 if wide else 1, bias=False)
    first.downsample = None
    if outputs != channels:
        first.downsample = nn.Sequential(nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
    return network


class Pieces:
    """detectron2's ResNet by its names, from torch.nn alone: what detectron2 builds, without its package."""

    def __init__(self, weights):
        self.w = {name: torch.from_numpy(value) for name, value in weights.items()}

    def unit(self, x, name, stride, relu):
        w = self.w[f"{name}.weight"]
        x = nn.functional.conv2d(x, w, None, stride, w.shape[-1] // 2)
        mean, var, gamma, beta = (self.w[f"{name}.norm.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        x = nn.functional.batch_norm(x, mean, var, gamma, beta, False, 0.0, 1e-5)
        return x.relu() if relu else x

    def __call__(self, x, depths):
        x = nn.functional.max_pool2d(self.unit(x, "stem.conv1", 2, True), 3, 2, 1)
        for group, depth in enumerate(depths):
            for block in range(depth):
                place = f"res{group + 2}.{block}"
                stride = 2 if group and not block else 1
                bottleneck = f"{place}.conv3.weight" in self.w
                shortcut = x
                if f"{place}.shortcut.weight" in self.w:
                    shortcut = self.unit(x, f"{place}.shortcut", stride, False)
                if bottleneck:
                    y = self.unit(x, f"{place}.conv1", 1, True)
                    y = self.unit(y, f"{place}.conv2", stride, True)
                    y = self.unit(y, f"{place}.conv3", 1, False)
                else:
                    y = self.unit(x, f"{place}.conv1", stride, True)
                    y = self.unit(y, f"{place}.conv2", 1, False)
                x = (y + shortcut).relu()
        return x.mean((2, 3))


def main():
    folder = pathlib.Path(sys.argv[1])
    failed = []

    def judge(what, found, expected):
        found, expected = torch.as_tensor(found).float(), expected.float()
        off = ((found - expected).abs().max() / expected.abs().max()).item()
        print(f"{what}: off by {off:.1e} of the largest")
        if not off <= TOLERANCE:
            failed.append(what)

    def same(what, found, ours):
        wrong = [name for name in ours if name not in found or not torch.equal(found[name], ours[name])]
        print(f"{what}: {len(found)} tensors, {len(wrong)} other than ours, {len(set(found) - set(ours))} more")
        if wrong or set(found) - set(ours):
            failed.append(what)

    for description in sorted(folder.glob("*.json")):
        told = json.loads(description.read_text())
        name, stem = told["name"], description.with_suffix("")
        ours = load_file(f"{stem}.ours.safetensors")
        probe = {key: ours.pop(f"probe.{key}") for key in ("images", "h", "z", "logits") if f"probe.{key}" in ours}
        images, title = probe["images"], description.stem
        with torch.no_grad():
            path = pathlib.Path(f"{stem}.torchvision.pth")
            if path.exists():
                weights = torch.load(path, weights_only=True)
                network = (
                    torchvision.models.get_model(name, weights=None, num_classes=told["classes"])
                    if told["width"] == 1
                    else Wide(name, told["width"], told["classes"])
                )
                network.load_state_dict(weights, strict=True)
                network.eval()
                judge(f"{title} torchvision logits", network(images), probe["logits"])
                network.fc = nn.Identity()
                judge(f"{title} torchvision h", network(images), probe["h"])
            path = pathlib.Path(f"{stem}.timm.safetensors")
            if path.exists():
                network = timm_network(name, told["width"], told["classes"])
                network.load_state_dict(load_file(path), strict=True)
                network.eval()
                judge(f"{title} timm h", network.forward_head(network.forward_features(images), pre_logits=True), probe["h"])
                judge(f"{title} timm logits", network(images), probe["logits"])
            path = pathlib.Path(f"{stem}.detectron2.pkl")
            if path.exists():
                with open(path, "rb") as file:
                    stored = pickle.load(file, encoding="latin1")
                assert stored["matching_heuristics"] is True and stored["__author__"] != "Caffe2"
                assert all(isinstance(value, np.ndarray) for value in stored["model"].values())
                judge(f"{title} detectron2 h", Pieces(stored["model"])(images, DEPTHS[name]), probe["h"])
            path = pathlib.Path(f"{stem}.huggingface")
            if path.exists():
                try:
                    from transformers import AutoImageProcessor, AutoModelForImageClassification
                except ImportError:
                    print(f"{title} huggingface: left out, transformers is not installed")
                else:
                    network, told_of = AutoModelForImageClassification.from_pretrained(path, output_loading_info=True)
                    assert not any(told_of[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), told_of
                    network.eval()
                    pooled = network.resnet(images).pooler_output.flatten(1)
                    judge(f"{title} huggingface h", pooled, probe["h"])
                    judge(f"{title} huggingface logits", network(images).logits, probe["logits"])
                    AutoImageProcessor.from_pretrained(path)
            same(f"{title} torch", torch.load(f"{stem}.torch.pth", weights_only=True), ours)
            same(f"{title} safetensors", load_file(f"{stem}.safetensors"), ours)
        for kind in ("", ".unfolded", ".external"):
            path = f"{stem}{kind}.onnx"
            onnx.checker.check_model(path, full_check=True)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            keys = [output.name for output in session.get_outputs()]
            outputs = dict(zip(keys, session.run(None, {"image": images.numpy()})))
            for key in set(keys) & set(probe):
                judge(f"{title} onnx{kind} {key}", outputs[key], probe[key])
            # Another number of images of other sides.
            session.run(None, {"image": np.zeros((3, images.shape[1], 97, 64), np.float32)})
            told_of = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
            assert told_of["image_mean"].count(",") == 2 and int(told_of["image_size_px"]) > 0, told_of
    if failed:
        sys.exit("not as ours: " + ", ".join(failed))


main()
