"""Makes augment.safetensors: reference results for src/augment, from torchvision's float tensors and Pillow.

Written with torch 2.11, torchvision 0.26, Pillow 13.0. Images are u8 [H, W, 3], float results f32 [H, W, 3].
"""

import math
import pathlib

import numpy as np
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as F
from PIL import Image, ImageFilter
from safetensors.numpy import save_file

rng = np.random.default_rng(0)


def picture(width, height):
    """Smooth colour waves, noise, saturated corners and a grey patch: every branch of the hue formula occurs."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + c) + c) * np.cos(y / (5 - c)) for c in range(3)]
    image = 127.5 + 110 * np.stack(waves, -1) + rng.normal(0, 25, (height, width, 3))
    image = image.clip(0, 255).round().astype(np.uint8)
    image[:3, :3] = [255, 0, 0]
    image[:3, -3:] = [0, 0, 0]
    image[-3:, :3] = [255, 255, 255]
    image[-4:, -4:] = [90, 90, 90]
    image[5:7, 5:7] = [200, 200, 10]
    return image


def tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def array(t):
    return t.permute(1, 2, 0).contiguous().numpy()


def zero_blur(t, k, sigma):
    x = torch.arange(-(k // 2), k // 2 + 1).double()
    w = torch.exp(-x * x / (2 * sigma * sigma))
    w = (w / w.sum()).float()
    t = torch.nn.functional.conv2d(t[:, None], w.view(1, 1, 1, -1), padding=(0, k // 2))
    return torch.nn.functional.conv2d(t, w.view(1, 1, -1, 1), padding=(k // 2, 0))[:, 0]


out = {}
square = picture(24, 24)
out["square"] = square
x = tensor(square)
for f in [0.0, 0.6, 1.7]:
    out[f"brightness_{f}"] = array(F.adjust_brightness(x, f))
    out[f"contrast_{f}"] = array(F.adjust_contrast(x, f))
    out[f"saturation_{f}"] = array(F.adjust_saturation(x, f))
for f in [-0.5, -0.2, 0.03, 0.2, 0.5]:
    out[f"hue_{f}"] = array(F.adjust_hue(x, f))
out["grayscale"] = array(F.rgb_to_grayscale(x, 3))
for k, s in [(3, 0.4), (7, 1.3), (23, 2.0)]:
    out[f"reflect_{k}_{s}"] = array(F.gaussian_blur(x, [k, k], [s, s]))
    out[f"zero_{k}_{s}"] = array(zero_blur(x, k, s))
for s in [0.1, 0.57, 1.03, 1.7, 2.0, 5.0]:
    out[f"pillow_{s}"] = np.asarray(Image.fromarray(square).filter(ImageFilter.GaussianBlur(s)))

wide = picture(40, 30)
out["wide"] = wide
wide_pil = Image.fromarray(wide)
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
BOXES = [(0, 0, 40, 30), (3, 5, 20, 18), (11, 2, 29, 28), (17, 9, 5, 4), (39, 29, 1, 1), (4, 0, 32, 17), (6, 7, 20, 20)]
for name, method in FILTERS.items():
    for left, top, w, h in BOXES:
        for side in [20, 32]:
            crop = wide_pil.crop((left, top, left + w, top + h))
            out[f"crop_{name}_{left}_{top}_{w}_{h}_{side}"] = np.asarray(crop.resize((side, side), method))

# Whole pipelines: crop and resize by Pillow on bytes, the rest on floats, rounded once. `copy` needs no resizing.
for name, box, side in [("color", (3, 5, 23, 23), 32), ("copy", (5, 1, 33, 29), 28)]:
    crop = wide_pil.crop(box).resize((side, side), Image.BILINEAR)
    t = F.hflip(tensor(np.asarray(crop)))
    t = F.adjust_hue(F.adjust_brightness(F.adjust_contrast(F.adjust_saturation(t, 1.3), 0.7), 1.2), -0.15)
    t = F.gaussian_blur(t, [3, 3], [0.8, 0.8])
    out[f"pipeline_{name}"] = array((t * 255).round().to(torch.uint8))
crop = wide_pil.crop((11, 2, 40, 30)).resize((32, 32), Image.BICUBIC)
t = F.adjust_contrast(F.adjust_hue(tensor(np.asarray(crop)), 0.1), 1.4)
t = zero_blur(F.rgb_to_grayscale(t, 3), 5, 1.1)
out["pipeline_grey"] = array((t * 255).round().to(torch.uint8))

# Evaluation: shorter side, then the centre.
for name, method in {"bilinear": T.InterpolationMode.BILINEAR, "bicubic": T.InterpolationMode.BICUBIC}.items():
    for w, h in [(40, 30), (29, 38), (30, 31)]:
        for short, side in [(30, 30), (25, 18), (37, 32)]:
            image = wide_pil.crop((0, 0, w, h)) if h <= 30 else Image.fromarray(picture(w, h))
            out[f"center_source_{name}_{w}_{h}_{short}_{side}"] = np.asarray(image)
            result = T.CenterCrop(side)(T.Resize(short, interpolation=method)(image))
            out[f"center_{name}_{w}_{h}_{short}_{side}"] = np.asarray(result)

# Distribution of torchvision's random resized crop: mean of area, area², log ratio, log ratio², left and top offset,
# each as a fraction of the image, over 100,000 draws.
torch.manual_seed(0)
for w, h, low, high in [(32, 32, 0.08, 1.0), (500, 375, 0.2, 1.0), (100, 20, 0.5, 1.0)]:
    image = torch.zeros(1, h, w)
    boxes = np.array([T.RandomResizedCrop.get_params(image, [low, high], [3 / 4, 4 / 3]) for _ in range(100_000)])
    top, left, bh, bw = boxes.T.astype(float)
    area, ratio = bw * bh / (w * h), np.log(bw / bh)
    values = [area, area**2, ratio, ratio**2, left / w, top / h]
    out[f"moments_{w}_{h}_{low}"] = np.array([v.mean() for v in values])

save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
print(len(out), "arrays,", sum(v.nbytes for v in out.values()) // 1024, "KiB")
