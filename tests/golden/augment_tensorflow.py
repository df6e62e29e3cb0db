"""Makes augment_tensorflow.safetensors: reference results for the TensorFlow side of src/augment (SimCLR, BYOL).

Written with TensorFlow 2.21 and numpy 2.4. Images are u8 [H, W, 3], float results f32 [H, W, 3].
"""

import pathlib

import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file, save_file

here = pathlib.Path(__file__)
pictures = load_file(here.with_name("augment.safetensors"))  # the test pictures are those of augment.py
square, wide = (tf.image.convert_image_dtype(pictures[name], tf.float32) for name in ["square", "wide"])


def clip(x):
    return tf.clip_by_value(x, 0.0, 1.0)


out = {}
for d in [-0.7, 0.3]:
    out[f"brightness_{d}"] = clip(tf.image.adjust_brightness(square, d)).numpy()
for f in [0.0, 0.6, 1.7]:
    out[f"contrast_{f}"] = clip(tf.image.adjust_contrast(square, f)).numpy()
    out[f"saturation_{f}"] = clip(tf.image.adjust_saturation(square, f)).numpy()
for f in [-0.5, -0.2, 0.03, 0.2, 0.5]:
    out[f"hue_{f}"] = clip(tf.image.adjust_hue(square, f)).numpy()
out["grayscale"] = tf.tile(tf.image.rgb_to_grayscale(square), [1, 1, 3]).numpy()
for t in [0.0, 0.5, 0.8]:  # byol/utils/augmentations.py
    out[f"solarize_{t}"] = tf.where(square < t, square, 1.0 - square).numpy()

# Resize; TensorFlow 1's is in the raw operation. Boxes of width 3 and 1 are below the filter's four pixels.
for left, top, w, h in [(0, 0, 40, 30), (3, 5, 20, 18), (17, 9, 3, 4), (39, 29, 1, 1)]:
    crop = wide[None, top : top + h, left : left + w]
    for side in [9, 24]:
        size = [side, side]
        two = tf.image.resize(crop, size, method=tf.image.ResizeMethod.BICUBIC)
        one = tf.raw_ops.ResizeBicubic(images=crop, size=size, align_corners=False, half_pixel_centers=False)
        out[f"resize_two_{left}_{top}_{w}_{h}_{side}"] = clip(two[0]).numpy()
        out[f"resize_one_{left}_{top}_{w}_{h}_{side}"] = clip(one[0]).numpy()

# SimCLR's whole view with fixed values: crop, flip, saturation, contrast, offset, hue, grey or not, rounded once.
view = tf.image.resize(wide[5:23, 3:23], [24, 24], method=tf.image.ResizeMethod.BICUBIC)
view = clip(tf.image.flip_left_right(view))
view = clip(tf.image.adjust_saturation(view, 1.3))
view = clip(tf.image.adjust_contrast(view, 0.7))
view = clip(tf.image.adjust_brightness(view, 0.15))
view = clip(tf.image.adjust_hue(view, -0.15))
out["view"] = np.rint(view.numpy() * 255).astype(np.uint8)

# SimCLR's evaluation: data_util.py's center_crop.
for w, h, size in [(40, 30, 24), (29, 30, 16), (23, 30, 32)]:
    side = int(np.rint(0.875 * min(w, h)))
    top, left = (h - side + 1) // 2, (w - side + 1) // 2
    crop = wide[None, :h, :w][:, top : top + side, left : left + side]
    one = tf.raw_ops.ResizeBicubic(images=crop, size=[size, size], align_corners=False, half_pixel_centers=False)
    out[f"center_{w}_{h}_{size}"] = np.rint(clip(one[0]).numpy() * 255).astype(np.uint8)


# Distribution of SimCLR's and BYOL's random crop: mean of area, area², log ratio, log ratio², left and top offset, each
# as a fraction of the image, then how often the box is the whole image and how often it touches the right edge, over
# 100,000 draws.
def moments(boxes, w, h):
    top, left, bh, bw = np.array(boxes, float).T
    area, ratio = bw * bh / (w * h), np.log(bw / bh)
    values = [area, area**2, ratio, ratio**2, left / w, top / h, area == 1, left + bw == w]
    return np.array([v.mean() for v in values])


@tf.function
def simclr(w, h, low, high, count):
    def box(_):
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            [h, w, 3],
            bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(low, high),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.stack([begin[0], begin[1], size[0], size[1]])

    return tf.map_fn(box, tf.range(count))


def byol(w, h, low, high, count):  # byol/utils/dataset.py, in numpy
    rng = np.random.default_rng(0)
    area = rng.uniform(low, high, count) * (w * h)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), count))
    bw = np.minimum(np.rint(np.sqrt(area * ratio)), w).astype(int)
    bh = np.minimum(np.rint(np.sqrt(area / ratio)), h).astype(int)
    left, top = rng.integers(0, w - bw + 1), rng.integers(0, h - bh + 1)
    return np.stack([top, left, bh, bw], -1)


tf.random.set_seed(0)
for w, h, low, high in [(32, 32, 0.08, 1.0), (500, 375, 0.08, 1.0), (100, 20, 0.5, 1.0), (9, 9, 0.2, 0.6)]:
    for name, draw in {"tensorflow": simclr, "byol": byol}.items():
        boxes = np.array(draw(w, h, low, high, 100_000))
        out[f"moments_{name}_{w}_{h}_{low}_{high}"] = moments(boxes, w, h)

save_file(out, here.with_suffix(".safetensors"))
print(len(out), "arrays,", sum(v.nbytes for v in out.values()) // 1024, "KiB")
