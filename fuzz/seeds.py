"""Writes fuzz/seeds: small whole inputs of the targets that no file of tests/golden or recipes gives as it is.

Needs pyarrow, numpy, safetensors and blake3. The program never runs this; the seeds are stored.
"""

import io
import json
import pathlib
import struct

import blake3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

here = pathlib.Path(__file__).parent
golden = here.parent / "tests/golden/data"


def seed(target, name, content):
    folder = here / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def two(first, second):
    """An input of two files, as `diptych_fuzz::two` takes it apart."""
    return struct.pack("<H", len(first)) + first + second


# Parquet: every compression we read, with and without a dictionary, nulls, small pages.
image = (here.parent / "tests/golden/decode/palette.png").read_bytes()
ppm = b"P6 3 2 255 " + bytes(range(18))
features = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["a", "b", "c"]},
}
table = pa.table(
    {
        "image": [
            {"bytes": ppm, "path": "a.ppm"},
            {"bytes": ppm, "path": None},
            {"bytes": image, "path": "b.png"},
            {"bytes": None, "path": "c.png"},
        ],
        "label": pa.array([0, 2, None, 1], pa.int64()),
    },
    schema=pa.schema(
        [
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            pa.field("label", pa.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    ),
)
for name, settings in {
    "plain": dict(compression="none", use_dictionary=False),
    "snappy": dict(compression="snappy", row_group_size=2),
    "zstd": dict(compression="zstd", data_page_version="2.0"),
    "delta": dict(compression="none", use_dictionary=False, column_encoding={
        "image.bytes": "DELTA_LENGTH_BYTE_ARRAY", "image.path": "DELTA_LENGTH_BYTE_ARRAY", "label": "DELTA_BINARY_PACKED"}),
}.items():
    file = io.BytesIO()
    pq.write_table(table, file, store_schema=False, write_statistics=False, **settings)
    seed("parquet", f"{name}.parquet", file.getvalue())

# Checkpoint: header and checksum as src/train/checkpoint.rs has them.
tensors = {
    "backbone.conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "count": np.array([7], dtype=np.int64),
    "empty": np.zeros((0, 3), dtype=np.float64),
}
kinds = {"float32": "Float", "int64": "Int64", "float64": "Double"}
hasher = blake3.blake3()
for name in sorted(tensors):
    tensor = tensors[name]
    hasher.update(f"{name}\0{kinds[str(tensor.dtype)]}\0{list(tensor.shape)}\0".encode())
    hasher.update(tensor.tobytes())
header = {
    "format": 1,
    "step": 12,
    "model": {"backbone": {"name": "resnet18", "width": 0.125, "stem": "cifar"}, "preprocess": None},
    "journal": {"events": [{"step": 3, "text": "x"}], "skipped": [[3, 5]], "left_out": 3, "roll_backs": 1},
    "checksum": hasher.hexdigest(),
}
whole = save(tensors, {"diptych": json.dumps(header)})
seed("checkpoint", "whole.safetensors", whole)
seed("checkpoint", "foreign.safetensors", save(tensors))

# Weights: of this program, and of others, with the first names of a network.
seed("weights", "own.safetensors", whole)
names = ["conv1.weight"] + [f"layer{g}.{b}.conv1.weight" for g in range(1, 5) for b in range(2)]
other = {f"module.{name}": np.zeros((1, 1, 3, 3), np.float16) for name in names}
seed("weights", "other.safetensors", save(other))

# Features: the file, then the paths.
h, label, index = np.ones((2, 3), np.float32), np.array([1, -1]), np.array([0, 2])
content = blake3.blake3(h.tobytes() + label.tobytes() + index.tobytes()).hexdigest()
description = dict(
    classes=["a", "b"], diptych="0.1.0", fingerprint="f", format="x", height=2, images=3, interpolation="none", layer="h",
    mean=[0.5] * 3, precision="float32", preprocess="cifar", split="all", std=[0.2] * 3, weights="w", width=2,
)
header = dict(
    content=content, damaged=[dict(index=1, path="b", reason="cut off")], description=description, file_format=1
)
stored = save({"h": h, "label": label, "index": index}, {"diptych": json.dumps(header)})
seed("features", "whole", two(stored, b"a\nc\n"))

# Splits of MNIST, plain and packed.
for name, images, labels in [
    ("packed", "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    ("plain", "MNIST/raw/t10k-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"),
]:
    seed("idx", name, two((golden / images).read_bytes(), (golden / labels).read_bytes()))

# CIFAR: the form and the file, see targets/cifar.rs.
seed("cifar", "ten-names", b"\x04" + (golden / "cifar-10/cifar-10-batches-bin/batches.meta.txt").read_bytes())
seed("cifar", "ten-pickle", b"\x01" + (golden / "cifar-10/cifar-10-batches-py/test_batch").read_bytes())
seed("cifar", "hundred-binary", b"\x02" + (golden / "cifar-100/cifar-100-binary/test.bin").read_bytes())
seed("cifar", "hundred-meta", b"\x07" + (golden / "cifar-100/cifar-100-python/meta").read_bytes())

seed("stl10", "whole", two(bytes([1, 10]), b"airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"))

# Files of a run folder, see targets/run.rs.
lines = [
    {"step": 10, "epoch": 0.1, "wall_seconds": 1.5, "train/loss": 5.1, "knn/top1": 0.3},
    {"step": 20, "epoch": 0.2, "wall_seconds": 2.5, "train/loss": None, "train/top1_accuracy": 1e300},
]
metrics = "".join(json.dumps(line) + "\n" for line in lines)
status = dict(
    format=1, state="running", step=20, steps=100, epoch=0.2, final_loss=None, views_per_second=812.5, wall_seconds=3.0,
    peak_memory_mb=900, damaged=[], history=[dict(step=1, text="x")], warnings=[dict(step=1, name="rank", text="y")],
)
record = dict(
    protocol="knn", version=1, metric="top1", value=0.45, interval_95=[0.44, 0.46], also={"top5": {"value": 0.8}},
    baselines={"chance": 0.1}, settings={"k": 200}, data=dict(
        location="d", format="f", fingerprint="f", references=9, queries=5, damaged=0, classes=3, class_list_hash="c"),
    weights=dict(file="w", hash_before="a", hash_after="a", frozen=True, matched=1, missing=[], unexpected=[]),
    layer="h", preprocess="cifar", seed=0, choice="last", wall_seconds=1.5, device="cpu", threads=2, diptych="0.1.0",
)
gallery = dict(title="t", caption="c", rows=[[dict(image="pictures/x.png", caption="a", mark="agrees")]])
for number, (name, text) in enumerate(
    dict(
        metrics=metrics, status=json.dumps(status), environment=json.dumps({"cpu": "x", "command": ["a", "b"]}),
        evaluation=json.dumps(record), gallery=json.dumps(gallery), log="2026-11-21T10:15:00Z started\n",
        recipe="seed = 0\n[data]\nbatch_size = 2\n[[view]]\ncount = 2\n",
    ).items()
):
    seed("run", name, bytes([number]) + text.encode())

# TensorFlow checkpoints: the whole index, and the content of its one block of entries, see targets/bundle.rs.
for name in ["model.ckpt-7", "objects/ckpt"]:
    index, data = (
        (here.parent / f"tests/golden/tensorflow/{name}{end}").read_bytes() for end in (".index", ".data-00000-of-00001")
    )
    seed("bundle", name.replace("/", "-") + "-index", b"\0" + two(index, data))
    # The footer begins with where the empty block is, two bytes here or one; the entries and their trailer lie before it.
    place = index[-48] & 0x7F | index[-47] << 7 if index[-48] & 0x80 else index[-48]
    seed("bundle", name.replace("/", "-") + "-entries", b"\1" + two(index[: place - 5], data))
