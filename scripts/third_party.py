"""Makes THIRD_PARTY.md from two answers of `cargo metadata`; called by scripts/third_party.sh.

    python3 scripts/third_party.py ALL.json HERE.json THIRD_PARTY.md

ALL holds every package of Cargo.lock, HERE those of the supported platform. What libtorch contains is read from the licence file of
its wheel, beside the folder that LIBTORCH or .libtorch/torch names; where a libtorch came without one, the list in the present
THIRD_PARTY.md stays.
"""

import json
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
START, END = "<!-- parts of libtorch -->", "<!-- end of the parts -->"

# What the wheels' own metadata says. All others of NVIDIA's: its proprietary licence.
WHEELS = {"torch": "BSD-3-Clause", "nvidia-nvtx": "Apache-2.0"}
NVIDIA = "LicenseRef-NVIDIA-Proprietary (CUDA Toolkit, cuDNN or library EULA, in the wheel)"

# Linked into libtorch's libraries, but not named in its licence file.
INSIDE = [
    ("Intel oneAPI Math Kernel Library", "Intel Simplified Software License", "in libtorch_cpu.so"),
    ("GNU OpenMP (libgomp)", "GPL-3.0 with the GCC Runtime Library Exception", "libgomp.so.1 beside it"),
]


def table(header, rows):
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def of_program(metadata):
    """Ids of the packages that end up in the program: reached from it without dev and build dependencies."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, todo = set(), [metadata["resolve"]["root"]]
    while todo:
        package = todo.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    return found


def crates(metadata, wanted):
    rows = []
    for package in metadata["packages"]:
        if not package["source"] or not wanted(package["id"]):
            continue
        licence = package["license"] or (f"see {package['license_file']}" if package["license_file"] else None)
        if not licence:
            sys.exit(f"third_party: {package['name']} {package['version']} names no licence; look and add it here")
        rows.append((package["name"], package["version"], licence.replace("/", " OR "), package["repository"] or "-"))
    return sorted(rows)


def wheels(name):
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "scripts" / name).read_text(), flags=re.M)
    return [(package, version, WHEELS.get(package, NVIDIA)) for package, version in pins]


def parts(old):
    """Name and licence of what the torch wheel says it contains."""
    folder = pathlib.Path(os.environ.get("LIBTORCH") or ROOT / ".libtorch" / "torch").resolve()
    for licence in sorted(folder.parent.glob("torch-*.dist-info/licenses/LICENSE")):
        found = re.findall(r"^Name: (.+)\nLicense: (.+)$", licence.read_text(), flags=re.M)
        if found:
            return table(("part", "licence"), sorted(set(found), key=lambda pair: pair[0].lower()))
    if START not in old:
        sys.exit(f"third_party: no torch-*.dist-info/licenses/LICENSE beside {folder}, and no earlier list")
    return old.split(START)[1].split(END)[0].strip()


def main():
    everything, here, out = sys.argv[1:]
    everything, here = (json.loads(pathlib.Path(path).read_text()) for path in (everything, here))
    out = pathlib.Path(out)
    inside = of_program(here)
    header = ("package", "version", "licence", "source")
    text = f"""# Third-party software

Made by `make third-party` from Cargo.lock and the wheels that `scripts/libtorch.txt` and `scripts/cuda.txt` pin; a test fails when
a package is missing here. Diptych itself is MIT OR Apache-2.0. No source file of others is in this repository.

## In the program

Linked into `diptych` on Linux x86-64, or used to make it at compile time (procedural macros).

{table(header, crates(everything, lambda package: package in inside))}

## Only to build and test, or on other platforms

Named by Cargo.lock, not part of the program.

{table(header, crates(everything, lambda package: package not in inside))}

## libtorch

The program loads libtorch at run time; `make libtorch` fetches it, nothing of it is in this repository. Whoever hands a program on
together with these libraries hands on their licences too: they lie in the wheels.

{table(("wheel", "version", "licence"), wheels("libtorch.txt"))}

Linked into libtorch beside what its licence file names:

{table(("part", "licence", "where"), INSIDE)}

What the licence file of the torch wheel names:

{START}
{parts(out.read_text() if out.exists() else "")}
{END}

## CUDA

Only on machines with an NVIDIA GPU, fetched by `make cuda`:

{table(("wheel", "version", "licence"), wheels("cuda.txt"))}
"""
    out.write_text(text)


if __name__ == "__main__":
    main()
