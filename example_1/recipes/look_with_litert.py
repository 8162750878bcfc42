"""Find the object with LiteRT alone, as on a phone: no Keras, no TensorFlow, none of the scripts.

    pip install ai-edge-litert pillow
    python example_1/recipes/look_with_litert.py model.tflite photo.jpg

Prints the box that evaluate_performance.py finds, but does not look elsewhere when it is lost.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

LOOKS = 3  # as in evaluate_performance.py


def cut_window(photo, start, end, side):
    """Return the window from start to end, (x, y) in pixels, as (1, side, side, 3), uint8 RGB."""
    crop = photo.crop((*np.floor(start), *np.ceil(end)))  # whole pixels, black outside of the photo
    part = (*(start - np.floor(start)), *(end - np.floor(start)))
    return np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR, box=part))[None]


def look_closer(run, photo):
    """Return the top left and the bottom right corner of the box, (2, 2) in pixels of the photo."""
    side = run.get_input_details()["windows"]["shape"][1]  # IMAGE_SIZE
    corners = np.array([(0, 0), photo.size], float)
    window_centre, window_size = corners.mean(axis=0), corners[1]  # the whole photo
    for _ in range(LOOKS):
        start = window_centre - window_size / 2
        window = cut_window(photo, start, start + window_size, side)
        centre, size = run(windows=window)["output_0"].reshape(2, 2) / side * window_size
        found = np.stack([start + centre - size / 2, start + centre + size / 2])
        found = np.clip(found, 0, photo.size)
        if (found[1] > found[0]).all():  # else no box: the last one stays
            corners = found
        window_centre, window_size = corners.mean(axis=0), 1.5 * (corners[1] - corners[0])
    return corners


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Name a model and a photo: model.tflite photo.jpg")
    runner = Interpreter(sys.argv[1]).get_signature_runner()
    picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
    (left, top), (right, bottom) = look_closer(runner, picture).round(1)
    print(f"xmin {left}, ymin {top}, xmax {right}, ymax {bottom}")
