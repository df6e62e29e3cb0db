"""Makes operations.safetensors: reference results for the operations of Pillow (RandAugment), Sobel, quarter turns and
random erasing in src/augment.

Written with torch 2.11, torchvision 0.26, Pillow 13.0. Images are u8 [H, W, 3], float results f32 [H, W, 3].
"""

import pathlib

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image, ImageEnhance, ImageOps
from safetensors.numpy import save_file

rng = np.random.default_rng(1)
FILL = (124, 116, 104)


def picture(size):
    """Colour waves that leave the ends of the range unused, noise, and flat saturated corners."""
    y, x = np.mgrid[0:size, 0:size]
    waves = [np.sin(x / (3 + c) + c) * np.cos(y / (5 - c)) for c in range(3)]
    image = 120 + 80 * np.stack(waves, -1) + rng.normal(0, 12, (size, size, 3))
    image = image.clip(12, 240).round().astype(np.uint8)
    image[:3, :3] = [230, 20, 30]
    image[-4:, -4:] = [90, 90, 90]
    return image


def solarize_add(image, amount):
    return image.point([min(255, i + amount) if i < 128 else i for i in range(256)] * 3)


def affine(image, matrix, resample):
    return image.transform(image.size, Image.AFFINE, matrix, resample=resample, fillcolor=FILL)


out = {}
size = 26
images = {"waves": picture(size), "flat": np.full((size, size, 3), 77, np.uint8)}
images["flat"][:, :, 1] = 200
# Few values, one of which fills nearly the whole image.
images["poor"] = np.where(rng.random((size, size, 3)) < 0.02, 40, 180).astype(np.uint8)
for name, array in images.items():
    image = Image.fromarray(array)
    out[f"source_{name}"] = array
    for key, operation in {"auto_contrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}.items():
        out[f"{key}_{name}_0"] = np.asarray(operation(image))

image = Image.fromarray(images["waves"])
out["invert_waves_0"] = np.asarray(ImageOps.invert(image))
for bits in [0, 1, 3, 4, 8]:
    # Pillow itself refuses 0 bits, its formula does not.
    mask = ~(2 ** (8 - bits) - 1)
    posterized = ImageOps.posterize(image, bits) if bits else image.point([i & mask for i in range(256)] * 3)
    out[f"posterize_waves_{bits}"] = np.asarray(posterized)
for threshold in [0, 100, 243, 256]:
    out[f"solarize_waves_{threshold}"] = np.asarray(ImageOps.solarize(image, threshold))
for amount in [0, 55, 110]:
    out[f"solarize_add_waves_{amount}"] = np.asarray(solarize_add(image, amount))
for factor in [0.0, 0.1, 0.73, 1.0, 1.9]:
    for name in ["Color", "Contrast", "Brightness", "Sharpness"]:
        out[f"{name.lower()}_waves_{factor}"] = np.asarray(getattr(ImageEnhance, name)(image).enhance(factor))
for kind, resample in {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}.items():
    # Amounts are drawn in single precision.
    for degrees in [-30.0, 7.3, 0.0, 28.6]:
        rotated = image.rotate(float(np.float32(degrees)), resample=resample, fillcolor=FILL)
        out[f"rotate_{kind}_{degrees}"] = np.asarray(rotated)
    for shear in [-0.3, 0.171]:
        value = float(np.float32(shear))
        out[f"shear_x_{kind}_{shear}"] = np.asarray(affine(image, (1, value, 0, 0, 1, 0), resample))
        out[f"shear_y_{kind}_{shear}"] = np.asarray(affine(image, (1, 0, 0, value, 1, 0), resample))
    for part in [-0.45, 0.333, 0.5]:
        pixels = float(np.float32(part)) * size
        out[f"translate_x_{kind}_{part}"] = np.asarray(affine(image, (1, 0, pixels, 0, 1, 0), resample))
        out[f"translate_y_{kind}_{part}"] = np.asarray(affine(image, (1, 0, 0, 0, 1, pixels), resample))

x = torch.from_numpy(images["waves"]).permute(2, 0, 1).double() / 255
grey = (x * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(0)[None, None]
kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).double()
padded = torch.nn.functional.pad(grey, [1, 1, 1, 1], mode="replicate")
gradients = torch.nn.functional.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])
strength = gradients.square().sum(1).sqrt()[0]
out["sobel"] = (strength / strength.max())[..., None].repeat(1, 1, 3).float().numpy()
for quarters in [1, 2, 3]:
    out[f"turned_{quarters}"] = np.ascontiguousarray(np.rot90(images["waves"], quarters))

# Distribution of torchvision's random erasing: mean of area, area², log ratio (height / width), log ratio², left and top,
# each as a fraction of the view, over 100,000 draws.
torch.manual_seed(0)
for side, scale, ratio in [(32, [0.02, 0.33], [0.3, 3.3]), (12, [0.3, 0.9], [0.5, 4.0])]:
    view = torch.zeros(3, side, side)
    boxes = np.array([T.RandomErasing.get_params(view, scale, ratio, [0.0])[:4] for _ in range(100_000)])
    top, left, h, w = boxes[boxes[:, 2] < side].T.astype(float)
    area, log_ratio = w * h / side**2, np.log(h / w)
    values = [area, area**2, log_ratio, log_ratio**2, left / side, top / side]
    out[f"erasing_{side}"] = np.array([v.mean() for v in values])

save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
print(len(out), "arrays,", sum(v.nbytes for v in out.values()) // 1024, "KiB")
