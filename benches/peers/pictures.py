"""Labelled images from a folder of parquet files in the Hugging Face layout, or from a folder of image files."""

import io
import multiprocessing
from pathlib import Path

import pyarrow.parquet
import pyarrow.types
from PIL import Image
from torch.utils.data import Dataset

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


class Pictures(Dataset):
    """Item: (transform(RGB image), label); without labels the label is 0."""

    def __init__(self, folder, split, transform):
        folder = Path(folder)
        tables = sorted(folder.rglob("*.parquet"))
        of_split = [path for path in tables if path.name.startswith(split)]
        if tables:
            self.encoded, self.labels = from_parquet(of_split or tables)
        else:
            inner = folder / split
            self.encoded, self.labels = from_files(inner if inner.is_dir() else folder)
        if not self.encoded:
            raise SystemExit(f"no image in the split {split}")
        self.transform = transform

    def __len__(self):
        return len(self.encoded)

    def __getitem__(self, index):
        source = self.encoded[index]
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        return self.transform(image.convert("RGB")), self.labels[index]


def from_parquet(paths):
    """Encoded bytes and labels; the image column is the struct that has `bytes`, the label the first column of integers."""
    encoded, labels = [], []
    for path in paths:
        schema = pyarrow.parquet.read_schema(path)
        images = [f.name for f in schema if pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
        classes = [f.name for f in schema if pyarrow.types.is_integer(f.type)]
        table = pyarrow.parquet.read_table(path, columns=images[:1] + classes[:1])
        for chunk in table.column(images[0]).chunks:
            encoded += chunk.field("bytes").to_pylist()
        labels += table.column(classes[0]).to_pylist() if classes else [0] * len(table)
    return encoded, labels


def from_files(folder):
    """Paths and labels; the sub-folders of `folder` are the classes, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    names = [path.relative_to(folder).parts[0] for path in paths]
    ranks = {name: rank for rank, name in enumerate(sorted({n for n, p in zip(names, paths) if p.parent != folder}))}
    return [str(path) for path in paths], [ranks.get(name, 0) for name in names]


def megabytes(file, *fields):
    """Sum of the fields `Name:  123 kB` of a file under /proc, in MB of 10^6 bytes.

    `VmHWM` is the peak since the program was loaded; getrusage's would still count the process that started this one.
    """
    found = 0
    for line in Path(file).read_text().splitlines():
        name, _, value = line.partition(":")
        if name in fields:
            found += int(value.split()[0]) * 1024
    return round(found / 1e6)


def peak_mb():
    """The most memory this process has held."""
    return megabytes("/proc/self/status", "VmHWM")


def workers_mb():
    """Of the living loader workers: the sum of their peaks, and of what they now hold for themselves alone."""
    processes = [f"/proc/{worker.pid}" for worker in multiprocessing.active_children()]
    peaks = sum(megabytes(f"{process}/status", "VmHWM") for process in processes)
    own = sum(megabytes(f"{process}/smaps_rollup", "Private_Clean", "Private_Dirty") for process in processes)
    return peaks, own
