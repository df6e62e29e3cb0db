#!/usr/bin/env python3
"""Event records by TensorBoard's own writer, and a reader for ours.

    python tests/golden/events.py                makes tests/golden/events.json
    python tests/golden/events.py read RUN...    prints step, tag and value of every scalar TensorBoard finds there

Needs `pip install tensorboard` (made with 2.21).
"""

import io
import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

CASES = [
    {"wall_time": 1763000000.25, "step": 0, "file_version": "brain.Event:2", "values": []},
    {"wall_time": 1763000001.5, "step": 10, "values": [["train/loss", 5.123], ["knn/top1", 0.0]]},
    {"wall_time": -12.5, "step": 300000000000, "values": [["train/größe", -1e-30]]},
    {"wall_time": 1763000003.0, "step": 3, "values": [["train/loss", "nan"], ["train/norm", "inf"], ["a", "-inf"]]},
]


def record(case):
    event = Event(wall_time=case["wall_time"], step=case["step"])
    if "file_version" in case:
        event.file_version = case["file_version"]
    for tag, value in case["values"]:
        event.summary.value.add(tag=tag, simple_value=float(value))
    file = io.BytesIO()
    RecordWriter(file).write(event.SerializeToString())
    return file.getvalue().hex()


def main():
    if sys.argv[1:2] == ["read"]:
        for run in sys.argv[2:]:
            found = EventAccumulator(run, size_guidance={"scalars": 0}).Reload()
            for tag in found.Tags()["scalars"]:
                for point in found.Scalars(tag):
                    print(point.step, tag, point.value)
        return
    cases = [{**case, "record": record(case)} for case in CASES]
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
