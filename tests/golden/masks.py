"""Maps of labels as Pillow writes them: grey, with the palette of the VOC sets, and of one bit.

    python tests/golden/masks.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "masks"
LABELS = np.array([[0, 0, 1, 255], [0, 2, 2, 255]], dtype=np.uint8)


def voc_palette() -> list[int]:
    """Bits of the place, three by three, from the highest bit of each colour down."""
    palette = []
    for place in range(256):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (place >> (3 * bit + channel) & 1) << (7 - bit)
        palette += color
    return palette


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    grey = Image.fromarray(LABELS)
    grey.save(FOLDER / "grey.png")
    colored = grey.copy()
    colored.putpalette(voc_palette())
    colored.save(FOLDER / "palette.png")
    Image.fromarray((LABELS > 0) * np.uint8(255)).convert("1").save(FOLDER / "bits.png")
