"""Find the object with LiteRT alone, as on a phone: no Keras, no TensorFlow, none of the scripts.

    pip install ai-edge-litert pillow
    python example_1/recipes/look_with_litert.py model.tflite photo.jpg

Prints the box, in pixels, and the agreement of evaluate_performance.py. The box may differ by a few
pixels: small differences grow from look to look.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

LOOKS = 3  # as in evaluate_performance.py


def cut_window(photo, window, side):
    """Return a window, xmin, ymin, xmax, ymax in pixels, as (1, side, side, 3), RGB, 0 to 255."""
    start, end = np.floor(window[:2]), np.ceil(window[2:])
    crop = photo.crop((*start, *end))  # whole pixels, black outside of the photo
    part = window - np.tile(start, 2)
    return np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR, box=part))[None]


def overlap(box, other):
    """Return the IoU of two boxes (4,)."""
    shared_sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    intersection = np.prod(np.maximum(shared_sides, 0))
    areas = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])
    return intersection / (areas - intersection)


def look(run, photo):
    """Return the box, xmin, ymin, xmax, ymax in pixels of the photo, and the agreement."""
    expected = run.get_input_details()["windows"]
    _, image_size, _, _ = expected["shape"]
    box = window = np.array([0, 0, *photo.size], float)  # the whole photo
    for _ in range(LOOKS):
        windows = cut_window(photo, window, image_size).astype(expected["dtype"])
        (found,) = run(windows=windows)["output_0"]
        side = window[2:] - window[:2]
        found = np.tile(window[:2], 2) + found * np.tile(side, 2)
        found = np.clip(found, 0, np.tile(photo.size, 2))
        is_found = (found[2:] > found[:2]).all()  # else the last box stays
        agreement = overlap(box, found) if is_found else 0
        box = found if is_found else box
        margin = (box[2:] - box[:2]) / 4
        window = box + np.concatenate([-margin, margin])
    return box, agreement


def main(model_file, photo_file):
    """Print the box in a photo."""
    try:
        run = Interpreter(model_file).get_signature_runner()
    except ValueError as error:
        sys.exit(f"{model_file} is not a LiteRT model: {error}")
    answers = [list(answer["shape"][1:]) for answer in run.get_output_details().values()]
    if "windows" not in run.get_input_details() or answers != [[4]]:
        sys.exit(f"{model_file} is not a model of example 1, exported as its README.md says.")
    try:
        # Only these formats: for PostScript Pillow would start another program.
        photo = Image.open(photo_file, formats=("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"))
        if photo.mode.startswith(("I", "F")):
            raise ValueError("it has more than 8 bits a channel")
        photo = ImageOps.exif_transpose(photo).convert("RGB")
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        sys.exit(f"{photo_file} cannot be read: {error}")
    box, agreement = look(run, photo)
    print(f"{photo_file}: box {box.round(1).tolist()}, agreement {agreement:.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Name a model and a photo: model.tflite photo.jpg")
    main(*sys.argv[1:])
