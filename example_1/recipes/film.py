"""Find the object in each frame of a film; write found.mp4, with its box, and found.csv.

    python example_1/recipes/film.py holiday.mp4    # or 0, the webcam, until Ctrl-C

Both files go into the folder of the model, and replace those of the film before.

The window follows the object: each frame gets one look, around the box of the frame before. Where
the two boxes do not agree the object is lost, and the looks start again from the whole frame.
"""

import csv
import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path

import cv2
import keras
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evaluate_performance import AROUND_BOX, find_run, look, look_once, overlap, to_pixels
from train_model import window_to_photo

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
        box = look_once(model, photo, window_to_photo(AROUND_BOX, last_box))
        agreement = overlap(last_box, box)
        if agreement >= 0.5:
            return box, agreement
    boxes, agreement = look(model, photo)  # the first frame, or lost
    return boxes[-1], agreement


def draw_box(frame, corners, agreement):
    """Draw the box, and how sure it is, into a frame."""
    xmin, ymin, xmax, ymax = map(round, corners)
    cv2.rectangle(frame, (xmin, ymin), (xmax, ymax), RED, 2)
    label = f"agreement {agreement:.2f}"
    cv2.putText(frame, label, (4, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, RED, 2)


def main(name):
    """Follow the object through a film, or through what the webcam of a number sees."""
    folder = find_run()
    film_file, csv_file = folder / "found.mp4", folder / "found.csv"
    if Path(name).resolve() == film_file:
        sys.exit(f"{name} would be overwritten: rename it first.")
    is_webcam = name.isdecimal() and len(name) < 3 and not Path(name).exists()
    film = cv2.VideoCapture(int(name) if is_webcam else name)
    frames = read_frames(film)
    first = next(frames, None)
    if first is None:
        sys.exit(f"OpenCV cannot read {name}: name a film that is there, or a webcam's number.")
    model, box, count = keras.models.load_model(folder / "model.keras", compile=False), None, 0
    height, width, _ = first.shape
    frames_per_second = film.get(cv2.CAP_PROP_FPS) or 25  # some webcams do not say
    codec = cv2.VideoWriter_fourcc(*"mp4v")
    found = cv2.VideoWriter(str(film_file), codec, frames_per_second, (width, height))
    total = max(0, int(film.get(cv2.CAP_PROP_FRAME_COUNT))) or None  # of a webcam: -1
    # Ctrl-C ends the film: the frames before it are kept.
    with open(csv_file, "w", newline="") as file, suppress(KeyboardInterrupt):
        writer = csv.writer(file)
        writer.writerow(["frame", "xmin", "ymin", "xmax", "ymax", "agreement"])
        for frame in tqdm(chain([first], frames), total=total, unit=" frames"):
            photo = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            box, agreement = follow(model, photo, box)
            corners = to_pixels(box, photo)
            writer.writerow([count, *corners, agreement])
            draw_box(frame, corners, agreement)
            found.write(frame)
            count += 1
    found.release()
    # OpenCV raises no error where it cannot write.
    if cv2.VideoCapture(str(film_file)).get(cv2.CAP_PROP_FRAME_COUNT) < count:
        sys.exit(f"{film_file} was not written to its end: is the disk full?")
    print(f"Film: {film_file}. Boxes: {csv_file}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name one film, or 0 for the webcam.")
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("film.py: interrupted")
    except OSError as error:
        sys.exit(f"film.py: {error}")
