"""Makes the small encoded images of tests/golden/decode/ and, beside each, what Pillow decodes: raw RGB bytes."""

import pathlib

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent / "decode"
WIDTH, HEIGHT = 37, 26

y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
smooth = np.stack(
    [
        128 + 100 * np.sin(x / 6.0) * np.cos(y / 9.0),
        128 + 90 * np.cos(x / 8.0 + y / 11.0),
        60 + 4.5 * y + 1.5 * x,
    ],
    axis=-1,
)
rgb = Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8), "RGB")
alpha = Image.fromarray(np.clip(7 * y + 2 * x, 0, 255).astype(np.uint8), "L")


def keep(name, image, **options):
    path = HERE / name
    image.save(path, **options)
    with Image.open(path) as back:
        (HERE / (name + ".rgb")).write_bytes(back.convert("RGB").tobytes())


HERE.mkdir(exist_ok=True)
keep("baseline.jpg", rgb, quality=90)
keep("progressive.jpg", rgb, quality=90, progressive=True)
keep("grey.jpg", rgb.convert("L"), quality=90)
keep("cmyk.jpg", rgb.convert("CMYK"), quality=95)
# A rotated EXIF orientation (6), which must be ignored.
exif = Image.Exif()
exif[0x0112] = 6
keep("exif.jpg", rgb, quality=90, exif=exif.tobytes())
keep("palette.png", rgb.quantize(32))
keep("lossless.webp", rgb, lossless=True)
keep("plain.bmp", rgb)
keep("plain.ppm", rgb)
keep("lzw.tif", rgb, compression="tiff_lzw")

# Alpha is dropped, never blended; Pillow's convert does the same.
rgba = rgb.copy()
rgba.putalpha(alpha)
keep("alpha.png", rgba)
