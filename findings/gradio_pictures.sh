#!/usr/bin/env bash
# Gradio 6.31.0, gr.Image(type="numpy"): a 16-bit grey PNG and a PNG with transparent pixels.
#
# Expected: a 16-bit picture is scaled to 8 bits (half of white is 128), and a transparent pixel looks as it does in a browser, white or
# the page's background.
# Seen: every 16-bit value above 255 becomes 255, so that an X-ray arrives as a white picture; and a fully transparent pixel arrives with
# the colour that is hidden below it. type="filepath" hands over the file as it is.
source "$(dirname "$0")/environment.sh"
environment gradio==6.31.0 numpy==2.4.6 pillow==12.3.0

cat >"$work/pictures.py" <<'PYTHON'
import sys

import gradio
import numpy
from gradio.data_classes import FileData
from gradio.components.image import ImageData
from PIL import Image

folder = sys.argv[1]
Image.fromarray(numpy.full((4, 4), 32768, numpy.uint16)).save(f"{folder}/grey.png")
Image.new("RGBA", (4, 4), (200, 10, 10, 0)).save(f"{folder}/transparent.png")
component = gradio.Image(type="numpy")
for name in ("grey", "transparent"):
    pixels = component.preprocess(ImageData(path=f"{folder}/{name}.png", orig_name=f"{name}.png"))
    print(f"result: {name}: {pixels[0, 0].tolist()}")
PYTHON

GRADIO_ANALYTICS_ENABLED=False python "$work/pictures.py" "$work" 2>"$work/messages" | grep '^result' | tee "$work/seen"
expect "$work/seen" <<'SEEN'
result: grey: [255, 255, 255]
result: transparent: [200, 10, 10]
SEEN
