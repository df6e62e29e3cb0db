"""Miniatures of the MATLAB lists of the transfer data sets, what scipy reads back, and numpy's legacy shuffle.

Writes data/transfer/*.mat and data/transfer/truth.json beside this script. Needs numpy and scipy.
"""

import json
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.io import loadmat, savemat

FOLDER = Path(__file__).parent / "data" / "transfer"


def cars(name, classes, packed=True):
    """Records as in Stanford Cars: boxes, a class from 1 and a file name."""
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    records = np.zeros((1, len(classes)), dtype=[(field, object) for field in fields])
    for index, label in enumerate(classes):
        for field in fields[:4]:
            records[0, index][field] = np.uint16(index + 300)
        records[0, index]["class"] = np.uint8(label)
        records[0, index]["fname"] = f"{index + 1:05}.jpg"
    savemat(FOLDER / name, {"annotations": records}, do_compression=packed)


def cells(texts, shape):
    array = np.empty(shape, dtype=object)
    array.reshape(-1)[:] = texts
    return array


def dogs(name, files, labels):
    texts = [f"{file}.jpg" for file in files]
    savemat(
        FOLDER / name,
        {
            "file_list": cells(texts, (len(files), 1)),
            "annotation_list": cells(files, (len(files), 1)),
            "labels": np.array(labels, dtype=np.float64)[:, None],
        },
        do_compression=True,
    )


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    cars("cars_train_annos.mat", [3, 1, 2, 2])
    cars("cars_test_annos_withlabels.mat", [1, 2, 3])
    cars("records.mat", [1, 2, 3], packed=False)
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Citroën Ë-C3 2020"]
    savemat(FOLDER / "cars_meta.mat", {"class_names": cells(names, (1, 3))}, do_compression=True)
    first, second = "n02085620-Chihuahua/n02085620", "n02085782-Japanese_spaniel/n02085782"
    dogs("train_list.mat", [f"{first}_5927", f"{first}_4441", f"{second}_17"], [1, 1, 2])
    dogs("test_list.mat", [f"{first}_2650", f"{second}_1058"], [1, 2])
    savemat(
        FOLDER / "imagelabels.mat",
        {"labels": np.array([[1, 1, 2, 2, 3, 3, 1, 2, 3]], dtype=np.uint8)},
        do_compression=True,
    )
    savemat(
        FOLDER / "setid.mat",
        {
            "trnid": np.array([[1, 3, 5]], dtype=np.uint16),
            "valid": np.array([[7, 8]], dtype=np.float64),
            "tstid": np.array([[2, 4, 6, 9]], dtype=np.uint16),
        },
    )
    kinds = {
        kind: np.array([[-1 if np.dtype(kind).kind != "u" else 200, 0], [7, 100]], dtype=kind)
        for kind in "int8 uint8 int16 uint16 int32 uint32 int64 uint64 float32 float64".split()
    }
    kinds["empty"] = np.zeros((0, 0))
    kinds["sparse"] = sparse.csc_matrix(np.eye(3))
    kinds["text"] = "größe"
    savemat(FOLDER / "kinds.mat", kinds)

    truth = {}
    for name in ["cars_train_annos.mat", "cars_test_annos_withlabels.mat"]:
        read = loadmat(FOLDER / name, squeeze_me=True)["annotations"]
        truth[name] = [[str(record["fname"]), float(record["class"])] for record in read]
    read = loadmat(FOLDER / "cars_meta.mat", squeeze_me=True)["class_names"]
    truth["cars_meta.mat"] = [str(text) for text in read]
    read = loadmat(FOLDER / "train_list.mat", squeeze_me=True)
    truth["train_list.mat"] = [[str(t) for t in read["file_list"]], read["labels"].tolist()]
    read = loadmat(FOLDER / "setid.mat", squeeze_me=True)
    truth["setid.mat"] = {n: read[n].astype(float).tolist() for n in ["trnid", "valid", "tstid"]}
    read = loadmat(FOLDER / "kinds.mat")
    truth["text"] = str(read["text"][0])
    truth["kinds.mat"] = {
        name: read[name].flatten(order="F").astype(float).tolist()
        for name in kinds
        if name not in ("sparse", "text")
    }
    shuffles = []
    for seed, count in [(0, 1), (0, 2), (0, 10), (0, 1000), (7, 33), (2**32 - 1, 257)]:
        np.random.seed(seed)
        order = list(range(count))
        np.random.shuffle(order)
        shuffles.append([seed, count, order])
    truth["shuffles"] = shuffles
    text = json.dumps(truth, ensure_ascii=False)
    (FOLDER / "truth.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
