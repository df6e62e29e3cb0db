"""Whether the peer can run here: imports what it needs and prints one JSON line. Exit code 1 when something is missing."""

import importlib
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

MODULES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "lightly": "lightly.transforms",
    "pillow": "PIL.Image",
    "pyarrow": "pyarrow.parquet",
    "numpy": "numpy",
    "safetensors": "safetensors.numpy",
    "scikit-learn": "sklearn",
}


def main():
    pinned = dict(
        line.split("==")
        for line in Path(__file__).with_name("requirements.txt").read_text().split()
        if "==" in line
    )
    versions, missing = {"python": platform.python_version()}, []
    for package, module in MODULES.items():
        try:
            importlib.import_module(module)
            versions[package] = importlib.metadata.version(package)
        except ModuleNotFoundError:
            missing.append(package)
        except Exception as error:  # it is there and broken
            missing.append(f"{package} ({type(error).__name__})")
    differs = [
        f"{package} {versions[package]} in place of {version}"
        for package, version in pinned.items()
        if package in versions and versions[package].split("+")[0] != version
    ]
    print(json.dumps({"versions": versions, "missing": missing, "differs": differs}))
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
