"""Find the object with LiteRT alone, as on a phone: no Keras, no TensorFlow, none of the scripts.

    pip install ai-edge-litert pillow
    python example_1/recipes/look_with_litert.py model.tflite photo.jpg

Prints the box and agreement of evaluate_performance.py, but does not look elsewhere when it is
lost. The box may differ by a few pixels: small differences grow from look to look.
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


def overlap(corners, others):
    """Return the IoU of two boxes (2, 2): top left and bottom right corner."""
    shared_sides = np.minimum(corners[1], others[1]) - np.maximum(corners[0], others[0])
    intersection = np.prod(np.maximum(shared_sides, 0))
    areas = np.prod(corners[1] - corners[0]) + np.prod(others[1] - others[0])
    return intersection / (areas - intersection)


def look_closer(run, photo):
    """Return the corners of the box, (2, 2) in pixels of the photo, and the agreement."""
    side = run.get_input_details()["windows"]["shape"][1]  # IMAGE_SIZE
    corners = np.array([(0, 0), photo.size], float)
    window_centre, window_size = corners.mean(axis=0), corners[1]  # the whole photo
    for _ in range(LOOKS):
        start = window_centre - window_size / 2
        window = cut_window(photo, start, start + window_size, side)
        centre, size = run(windows=window)["output_0"].reshape(2, 2) / side * window_size
        found = np.stack([start + centre - size / 2, start + centre + size / 2])
        found = np.clip(found, 0, photo.size)
        is_found = (found[1] > found[0]).all()  # else the last box stays
        agreement = overlap(corners, found) if is_found else 0
        corners = found if is_found else corners
        window_centre, window_size = corners.mean(axis=0), 1.5 * (corners[1] - corners[0])
    return corners, agreement


def main(model_file, photo_file):
    """Print the box in a photo."""
    try:
        runner = Interpreter(model_file).get_signature_runner()
    except ValueError as error:
        sys.exit(f"{model_file} is no LiteRT model: {error}")
    try:
        photo = ImageOps.exif_transpose(Image.open(photo_file))
        if photo.mode.startswith(("I", "F")):
            raise ValueError("it has more than 8 bits a channel, save it with 8")
        photo = photo.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        sys.exit(f"{photo_file} cannot be read: {error}")
    corners, agreement = look_closer(runner, photo)
    (xmin, ymin), (xmax, ymax) = corners.round(1).tolist()
    print(f"{photo_file}: box {[xmin, ymin, xmax, ymax]}, agreement {agreement:.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Name a model and a photo: model.tflite photo.jpg")
    main(*sys.argv[1:])
