"""Weighted k-NN in PyTorch's dense form: one product, topk, votes. Prints seconds, memory and correct answers as JSON.

python knn.py FEATURES.safetensors --threads T [--k K] [--temperature T] [--tile QUERIES]

The file holds f32 `queries` [Q, D] and `references` [N, D], i64 `query_labels` [Q] and `reference_labels` [N]. Queries go
through in tiles of `--tile`, all at once with 0: the dense form of lightly's `knn_predict` with and without batches.
"""

import argparse
import json
import time

import torch
from safetensors.torch import load_file


def predict(queries, references, labels, classes, k, temperature):
    """lightly's `knn_predict`: classes by score, best first."""
    similarities, rows = torch.mm(queries, references.T).topk(k, dim=-1)
    votes = (similarities / temperature).exp()
    one_hot = torch.zeros(queries.size(0) * k, classes)
    one_hot.scatter_(1, labels[rows].view(-1, 1), 1.0)
    scores = (one_hot.view(queries.size(0), k, classes) * votes.unsqueeze(-1)).sum(1)
    return scores.argsort(dim=-1, descending=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("features")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--tile", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tensors = load_file(arguments.features)
    queries, references = tensors["queries"], tensors["references"]
    labels, expected = tensors["reference_labels"], tensors["query_labels"]
    classes = int(max(labels.max(), expected.max())) + 1
    started, busy = time.perf_counter(), time.process_time()
    queries = torch.nn.functional.normalize(queries, dim=1)
    references = torch.nn.functional.normalize(references, dim=1)
    correct = 0
    tile = arguments.tile or len(queries)
    for first in range(0, len(queries), tile):
        part = queries[first : first + tile]
        found = predict(part, references, labels, classes, arguments.k, arguments.temperature)
        correct += int((found[:, 0] == expected[first : first + tile]).sum())
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    figures = {"seconds": seconds, "processor_seconds": busy, "peak_memory_mb": peak * 1024 / 1e6}
    print(json.dumps(figures | {"correct": correct}))


main()
