"""Two views of every image with lightly, and nothing else: the peer's side of the loader's figures in `make bench`.

Settings and what is printed: README.md beside this file.
"""

import argparse
import json
import time

import torch
from lightly.transforms import SimCLRTransform
from torch.utils.data import DataLoader, Sampler

from pictures import Pictures, workers_mb

VIEWS = {
    32: SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0),
    224: SimCLRTransform(input_size=224),
}


class Passes(Sampler):
    """Whole batches of every image in a new order each pass; the workers never wait for a pass to begin."""

    def __init__(self, images, batch, passes):
        self.images, self.passes = images, passes
        self.a_pass = images // batch * batch

    def __len__(self):
        return self.passes * self.a_pass

    def __iter__(self):
        for _ in range(self.passes):
            yield from torch.randperm(self.images)[: self.a_pass].tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--size", type=int, default=32, choices=sorted(VIEWS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--passes", type=int, default=1, help="that are timed, after one that is not")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pictures = Pictures(arguments.data, "train", VIEWS[arguments.size])
    batch = min(arguments.batch, len(pictures))
    order = Passes(len(pictures), batch, 1 + arguments.passes)
    loader = DataLoader(pictures, batch, sampler=order, num_workers=arguments.workers)

    views, warm_up = 0, len(pictures) // batch
    started = workers_own = 0
    for step, ((first, _), _) in enumerate(loader, 1):
        views += 2 * len(first)
        if step == warm_up:
            _, workers_own = workers_mb()
            started, views = time.perf_counter(), 0
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "images": len(pictures),
                "views": views,
                "views_per_second": round(views / seconds, 2),
                "wall_seconds": round(seconds, 3),
                "workers_own_memory_mb": workers_own,
            }
        )
    )


if __name__ == "__main__":
    main()
