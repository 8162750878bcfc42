"""Find the object in each frame of a film; write found.mp4, with its box, and found.csv.

    python example_1/recipes/film.py holiday.mp4    # or 0, the webcam, until Ctrl-C

Both files go into example_1, and replace those of the film before.

The window follows the object: each frame gets one look, around the box of the frame before. Where
the two boxes do not agree the object is lost, and the looks start again from the whole frame.
"""

import csv
import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path

import cv2
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evaluate_performance import (
    FOLDER,
    WHOLE_PHOTO,
    load_model,
    look_closer,
    look_once,
    overlap,
    to_pixels,
)

RED = (0, 0, 255)  # in OpenCV's order: blue, green, red


def read_frames(film):
    """Yield the frames (height, width, 3), BGR."""
    is_read, frame = film.read()
    while is_read:
        yield frame
        is_read, frame = film.read()


def follow(model, photo, last_box):
    """Return the box (4,) in a frame, and how well it agrees with the last one (IoU)."""
    if last_box is not None:
        box = look_once(model, photo, last_box * (1, 1, 1.5, 1.5))
        agreement = overlap(last_box, box)
        if agreement >= 0.5:
            return box, agreement
    boxes, agreement = look_closer(model, photo, WHOLE_PHOTO)  # the first frame, or lost
    return boxes[-1], agreement


def main(name):
    """Follow the object through a film, or through what the webcam of a number sees."""
    film_file, csv_file = FOLDER / "found.mp4", FOLDER / "found.csv"
    if Path(name).resolve() == film_file:
        sys.exit(f"{name} would be overwritten: rename it first.")
    film = cv2.VideoCapture(int(name) if name.isdigit() else name)
    frames_per_second = film.get(cv2.CAP_PROP_FPS) or 25  # some webcams do not say
    frames = read_frames(film)
    first = next(frames, None)
    if first is None:
        sys.exit(f"{name} is no film that OpenCV can read, and no webcam's number.")
    model, box = load_model(), None
    height, width, _ = first.shape
    codec = cv2.VideoWriter_fourcc(*"mp4v")
    found = cv2.VideoWriter(str(film_file), codec, frames_per_second, (width, height))
    # Ctrl-C ends the film: the frames before it are kept.
    with open(csv_file, "w", newline="") as file, suppress(KeyboardInterrupt):
        writer = csv.writer(file)
        writer.writerow(["frame", "xmin", "ymin", "xmax", "ymax", "agreement"])
        for number, frame in enumerate(tqdm(chain([first], frames), unit=" frames")):
            photo = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            box, agreement = follow(model, photo, box)
            corners = to_pixels(box, photo)
            writer.writerow([number, *corners, agreement])
            xmin, ymin, xmax, ymax = map(round, corners)
            found.write(cv2.rectangle(frame, (xmin, ymin), (xmax, ymax), RED, 2))
    found.release()
    print(f"Film: {film_file}. Boxes: {csv_file}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name one film, or 0 for the webcam.")
    main(sys.argv[1])
