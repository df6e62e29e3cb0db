"""Makes tests/golden/data/: miniature data sets in the forms of their makers, and what reference readers see in them.

truth.json holds, per data set and split, the label and the CRC-32 of the RGB pixels of every image, as torchvision reads
the files (CIFAR pickles, STL-10, MNIST); the binary CIFAR files hold the same images as the pickles. STL-10 is not stored:
the Rust test writes the same bytes by the same formula. Shards are written by Python's tarfile in three formats, and
webdataset's rule (key = path up to the first dot of the base name) gives their keys.
"""

import gzip
import io
import json
import pathlib
import pickle
import tarfile
import tempfile
import zlib

import numpy as np
import torchvision
from PIL import Image

HERE = pathlib.Path(__file__).parent / "data"
HERE.mkdir(exist_ok=True)
truth = {}


def crc(image):
    return zlib.crc32(np.asarray(image.convert("RGB")).tobytes())


def remember(name, split, dataset):
    truth.setdefault(name, {})[split] = [[int(label), crc(image)] for image, label in dataset]


def no_check(kind):
    """The reader of a data set without its test of checksums."""
    return type(kind.__name__, (kind,), {"_check_integrity": lambda self: True, "_load_meta": meta})


def meta(self):
    path = pathlib.Path(self.root) / self.base_folder / self.meta["filename"]
    self.classes = pickle.loads(path.read_bytes())[self.meta["key"]]
    self.class_to_idx = {name: index for index, name in enumerate(self.classes)}


# One object in every protocol for which numpy writes `_reconstruct` (5 uses another function).
thing = {
    "data": (np.arange(12) * 23 % 256).astype(np.uint8).reshape(4, 3),
    "labels": [3, 0, 300, -70_000],
    "big": np.array([-1, 1 << 40], dtype=">i8"),
    "none": None,
    "flags": (True, False),
    "half": -0.5,
    "text": "Größe \\ 木\n'",
    "raw": b"\x00\xff\n\\'",
}
for protocol in range(5):
    (HERE / f"object.{protocol}.pickle").write_bytes(pickle.dumps(thing, protocol=protocol))

# CIFAR: an image a file. Smooth pictures, so that planes and rows cannot be mistaken.
y, x = np.mgrid[0:32, 0:32]


def picture(number):
    planes = [5 * x + 3 * number, 2 * x + 6 * y, 40 * number + y]
    return np.stack(planes).astype(np.uint8)  # C, H, W


ten = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
folder = HERE / "cifar-10"
for form in ["cifar-10-batches-py", "cifar-10-batches-bin"]:
    (folder / form).mkdir(parents=True, exist_ok=True)
for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
    label = (3 * number + 1) % 10
    batch = {"batch_label": name, "labels": [label], "data": picture(number).reshape(1, 3072), "filenames": ["a.png"]}
    (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch, protocol=2))
    record = bytes([label]) + picture(number).tobytes()
    (folder / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(record)
meta_10 = {"label_names": ten, "num_cases_per_batch": 1, "num_vis": 3072}
(folder / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps(meta_10, protocol=2))
(folder / "cifar-10-batches-bin" / "batches.meta.txt").write_text("\n".join(ten) + "\n\n")
for split, train in [("train", True), ("test", False)]:
    remember("cifar-10", split, no_check(torchvision.datasets.CIFAR10)(folder, train=train))

fine = [f"fine {index}" for index in range(100)]
folder = HERE / "cifar-100"
for form in ["cifar-100-python", "cifar-100-binary"]:
    (folder / form).mkdir(parents=True, exist_ok=True)
for name, numbers in [("train", [10, 11]), ("test", [12])]:
    pictures = np.stack([picture(number) for number in numbers])
    labels = [number * 8 - 1 for number in numbers]
    batch = {
        "batch_label": name,
        "fine_labels": labels,
        "coarse_labels": [label // 5 for label in labels],
        "data": pictures.reshape(-1, 3072),
        "filenames": ["a.png"] * len(numbers),
    }
    (folder / "cifar-100-python" / name).write_bytes(pickle.dumps(batch, protocol=4))
    records = [bytes([label // 5, label]) + image.tobytes() for label, image in zip(labels, pictures)]
    (folder / "cifar-100-binary" / f"{name}.bin").write_bytes(b"".join(records))
meta_100 = {"fine_label_names": fine, "coarse_label_names": [f"coarse {index}" for index in range(20)]}
(folder / "cifar-100-python" / "meta").write_bytes(pickle.dumps(meta_100, protocol=4))
(folder / "cifar-100-binary" / "fine_label_names.txt").write_text("\n".join(fine) + "\n")
for split, train in [("train", True), ("test", False)]:
    remember("cifar-100", split, no_check(torchvision.datasets.CIFAR100)(folder, train=train))

# STL-10: byte k of image i is (k // 96 * 5 + k % 96 * 2 + 50 * i) % 251.
k = np.arange(3 * 96 * 96)
with tempfile.TemporaryDirectory() as root:
    folder = pathlib.Path(root) / "stl10_binary"
    folder.mkdir()
    number = 0
    for split, labels in [("train", [10, 1]), ("test", [3]), ("unlabeled", [None, None])]:
        images = [((k // 96 * 5 + k % 96 * 2 + 50 * (number + i)) % 251).astype(np.uint8) for i in range(len(labels))]
        number += len(labels)
        (folder / f"{split}_X.bin").write_bytes(b"".join(image.tobytes() for image in images))
        if labels[0] is not None:
            (folder / f"{split}_y.bin").write_bytes(bytes(labels))
    (folder / "class_names.txt").write_text("\n".join(["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]))
    reader = type("STL10", (torchvision.datasets.STL10,), {"_check_integrity": lambda self: True})
    for split in ["train", "test", "unlabeled"]:
        remember("stl-10", split, reader(root, split=split))

# MNIST: plain and packed.
folder = HERE / "MNIST" / "raw"
folder.mkdir(parents=True, exist_ok=True)
y, x = np.mgrid[0:28, 0:28]
for prefix, labels in [("train", [7, 2, 1]), ("t10k", [0, 4])]:
    images = np.stack([(9 * x + 3 * y * label + label) % 256 for label in labels]).astype(np.uint8)
    header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in images.shape)
    files = {
        f"{prefix}-images-idx3-ubyte": header + images.tobytes(),
        f"{prefix}-labels-idx1-ubyte": b"\x00\x00\x08\x01" + len(labels).to_bytes(4, "big") + bytes(labels),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (HERE / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
for split, train in [("train", True), ("test", False)]:
    remember("mnist", split, torchvision.datasets.MNIST(HERE, train=train))


# Shards.
def png(number):
    image = Image.fromarray(np.full((3, 2, 3), number, dtype=np.uint8))
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mtime = 1.5 if archive.format == tarfile.PAX_FORMAT else 1  # a fraction makes a pax header
    archive.addfile(member, io.BytesIO(content))


long = "deep/" * 30 + "größe" * 10
for name, layout in [("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)]:
    with tarfile.open(HERE / f"{name}.tar", "w", format=layout) as archive:
        folder = tarfile.TarInfo("some")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        records = ["a", "some/b.v2"] + ([] if name == "ustar" else [long])
        for number, key in enumerate(records):
            add(archive, f"{key}.png", png(number))
            add(archive, f"{key}.cls", str(number + 3).encode() + b"\n")

# 16 bits: Pillow writes grey ones; what they must become is their high byte.
deep = (np.arange(12, dtype=np.uint16) * 5_001).reshape(3, 4)
for name in ["grey16.png", "grey16.tif"]:
    Image.fromarray(deep).save(HERE / name)
truth["grey16"] = [int(value) >> 8 for value in deep.flatten()]

(HERE / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
