"""Makes parts.safetensors and parts.json: OpenCV's enlarging, shrinking, grey and overlay of small made pictures, and
scikit-learn's silhouettes.

Needs numpy, opencv-python-headless, scikit-learn and safetensors.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import save_file
from sklearn.metrics import silhouette_score

rng = np.random.default_rng(0)
cv2.setUseOptimized(False)
arrays, numbers = {}, {}

palette = np.array(
    [[0, 76, 153], [255, 178, 102], [255, 102, 102], [102, 255, 255], [0, 153, 76], [255, 255, 153]], np.uint8
)
for name, (height, width), (to_height, to_width) in [
    ("square", (7, 7), (56, 56)),
    ("odd", (5, 9), (37, 50)),
]:
    mask = palette[rng.integers(0, 6, (height, width))]
    arrays[f"{name}.mask"] = mask
    arrays[f"{name}.bilinear"] = cv2.resize(mask, (to_width, to_height), interpolation=cv2.INTER_LINEAR)
    arrays[f"{name}.nearest"] = cv2.resize(mask, (to_width, to_height), interpolation=cv2.INTER_NEAREST)

picture = rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)
arrays["picture"] = picture
arrays["picture.small"] = cv2.resize(picture, (5, 6), interpolation=cv2.INTER_LINEAR)
arrays["picture.area"] = cv2.resize(picture, (5, 6), interpolation=cv2.INTER_AREA)
arrays["picture.area_odd"] = cv2.resize(picture, (7, 9), interpolation=cv2.INTER_AREA)
arrays["picture.grey"] = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
arrays["picture.grey_published"] = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
grey = np.repeat(arrays["picture.grey"][..., None], 3, 2)
mask = cv2.resize(arrays["square.mask"], (40, 48), interpolation=cv2.INTER_LINEAR)
arrays["overlay.mask"] = mask
arrays["overlay"] = cv2.addWeighted(grey, 0.4, mask, 0.4, 0)

# Which source pixel each one of a nearest enlargement is, for sizes at which whole-number division says another.
line = np.arange(250, dtype=np.uint8)
numbers["nearest"] = [
    {"from": a, "to": b, "source": cv2.resize(line[None, :a], (b, 1), interpolation=cv2.INTER_NEAREST)[0].tolist()}
    for a, b in [(3, 5), (14, 448), (6, 46), (7, 224), (11, 131), (49, 245)]
]

rows = rng.normal(size=(60, 5)).astype(np.float32)
labels = rng.integers(0, 4, 60)
labels[labels == 3] = 2
labels[7] = 3  # alone in its cluster
rows += labels[:, None]
arrays["silhouette.rows"] = rows
numbers["silhouette"] = {"labels": labels.tolist(), "mean": float(silhouette_score(rows.astype(np.float64), labels))}

here = Path(__file__).parent
save_file(arrays, here / "parts.safetensors")
(here / "parts.json").write_text(json.dumps(numbers) + "\n")
