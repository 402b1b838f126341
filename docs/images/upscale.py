"""Composes docs/images/upscale.png; README.md beside this file says how to run it.

python docs/images/upscale.py shrink PHOTO SMALL            a quarter of the size, bicubic
python docs/images/upscale.py compose SMALL LARGE PICTURE   a crop of SMALL as pixels, by bicubic, and of LARGE
"""

import sys

from PIL import Image, ImageDraw, ImageFont

CROP = (236, 128, 436, 308)  # left, top, right, bottom in the enlarged picture
ZOOM, GAP, CAPTION = 2, 8, 34


def shrink(photo, small):
    photo = Image.open(photo).convert("RGB")
    width, height = photo.width // 4, photo.height // 4
    photo.crop((0, 0, 4 * width, 4 * height)).resize((width, height), Image.BICUBIC).save(small)


def compose(small, large, picture):
    small, large = Image.open(small), Image.open(large).convert("RGB")
    pixels, bicubic = (small.resize(large.size, how) for how in (Image.NEAREST, Image.BICUBIC))
    panels = [("input", pixels), ("bicubic", bicubic), ("supple upscale -s 4", large)]
    width, height = (CROP[2] - CROP[0]) * ZOOM, (CROP[3] - CROP[1]) * ZOOM
    out = Image.new("RGB", (3 * width + 2 * GAP, height + CAPTION), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(size=20)
    for index, (name, panel) in enumerate(panels):
        left = index * (width + GAP)
        out.paste(panel.crop(CROP).resize((width, height), Image.NEAREST), (left, 0))
        draw.text((left + width // 2, height + CAPTION // 2), name, "black", font, anchor="mm")
    out.save(picture, optimize=True)


if __name__ == "__main__":
    {"shrink": shrink, "compose": compose}[sys.argv[1]](*sys.argv[2:])
