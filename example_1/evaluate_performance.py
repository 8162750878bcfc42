"""Example 1: see how well the trained network finds the object, in validation photos or in yours.

    python example_1/evaluate_performance.py            # after train_model.py
    python example_1/evaluate_performance.py holiday    # photos, or folders of photos

The network looks at the whole photo first, and then at a window around the box that it found, at
full resolution. The IoU of the boxes of the last two looks, the agreement, is its confidence.
Writes into the model's folder, replacing the previous evaluation: predictions.csv, predictions/
(the predicted box in red, the true one in green) and predictions.png (the worst, middle and best).
"""

import csv
import math
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

from train_model import (
    RUNS,
    WHOLE_PHOTO,
    cut_window,
    iou,
    load_photo,
    read_csv,
    window_to_photo,
)

RUN = None  # the newest training; or the name of a folder in runs
LOOKS = 3  # the first at the whole photo, each later one around the box before

RED, GREEN = (255, 0, 0), (0, 255, 0)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
TRUE_CORNERS = ("true_xmin", "true_ymin", "true_xmax", "true_ymax")
AROUND_BOX = np.array([-0.25, -0.25, 1.25, 1.25])  # a window with 1.5 times the sides of a box


# Looking closer


def look_once(model, photo, window):
    """Return the box (4,) in a window of a photo, as shares of the photo's sides."""
    windows = np.asarray(cut_window(photo, window, model.input_shape[1]))[None]  # a batch of one
    box = window_to_photo(model.predict_on_batch(windows)[0], window)
    return np.clip(box, 0, 1)


def look(model, photo):
    """Return the boxes (LOOKS, 4) of looks at a photo, and how well the last two agree, as IoU."""
    boxes, box, window = [], WHOLE_PHOTO, WHOLE_PHOTO
    for _ in range(LOOKS):
        found = look_once(model, photo, window)
        agreement = overlap(box, found)
        if (found[2:] > found[:2]).all():  # otherwise keep the last box
            box = found
        boxes.append(box)
        window = window_to_photo(AROUND_BOX, box)
    return np.stack(boxes), agreement


def overlap(box, other):
    """Return the IoU of two boxes (4,)."""
    return round(float(iou(np.float32([box]), np.float32([other]))[0]), 3)


def to_pixels(box, photo):
    """Return a box (4,) in pixels of the photo."""
    return np.round(box * np.tile(photo.size, 2), 1).tolist()


def find_objects(model, rows):
    """Yield each row's photo, if it can be read, and its row of predictions.csv."""
    for row in tqdm(rows, "looking", leave=False):
        try:
            photo = load_photo(row["path"], size=row.get("size"))
        except OSError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        boxes, agreement = look(model, photo)
        found = {"path": row["path"], "width": photo.width, "height": photo.height}
        found |= zip(CORNERS, to_pixels(boxes[-1], photo))
        found["agreement"] = agreement if LOOKS > 1 else math.nan
        if "box" in row:
            found |= zip(TRUE_CORNERS, to_pixels(row["box"], photo))
            found["first_iou"] = overlap(row["box"], boxes[0])
            found["iou"] = overlap(row["box"], boxes[-1])
        yield photo, found


# What is printed, drawn and written


def print_figures(name, rows):
    """Print the IoU statistics of the photos of a CSV."""
    ious = np.array([row["iou"] for row in rows])
    first = np.mean([row["first_iou"] for row in rows])
    print(f"{name}: {len(rows)} photos, IoU {ious.mean():.3f} (after the first look {first:.3f}),")
    print(f"  median {np.median(ious):.3f}, above 0.5 in {np.mean(ious > 0.5):.1%} of the photos")


def print_agreement(rows):
    """Print, for some thresholds, how many photos agree so well, and how many are correct."""
    print("agreement   photos   of these correct (IoU above 0.5)")
    for threshold in (0, 0.5, 0.7, 0.8, 0.9):
        is_right = [row["iou"] > 0.5 for row in rows if row["agreement"] >= threshold]
        if is_right:
            print(f"  >= {threshold:.1f} {len(is_right):10} {np.mean(is_right):11.1%}")


def draw_picture(photo, row):
    """Draw the predicted and the true box into a photo, and write the agreement."""
    draw = ImageDraw.Draw(photo)
    line_width = max(2, max(photo.size) // 200)
    label = f"agreement {row['agreement']:.2f}"
    if "iou" in row:
        draw.rectangle([row[name] for name in TRUE_CORNERS], outline=GREEN, width=line_width)
        label += f"\nIoU {row['iou']:.2f}"
    draw.rectangle([row[name] for name in CORNERS], outline=RED, width=line_width)
    font = ImageFont.load_default(max(12, min(photo.size) // 16))
    draw.text((4, 4), label, "white", font, stroke_width=2, stroke_fill="black")


def draw_contact_sheet(files, sheet_file):
    """Paste the first, middle and last four pictures into one."""
    if len(files) > 12:
        middle = len(files) // 2 - 2
        files = files[:4] + files[middle : middle + 4] + files[-4:]
    sheet = Image.new("RGB", (4 * 240, 3 * 240), "white")
    for i, file in enumerate(files):
        sheet.paste(ImageOps.contain(Image.open(file), (236, 236)), (i % 4 * 240, i // 4 * 240))
    sheet.save(sheet_file)


def find_run():
    """Return the folder of RUN, or of the newest training that has a model."""
    if RUN is not None:
        return RUNS / RUN
    models = sorted(RUNS.glob("20*/model.keras"))  # their folders' names are dates and times
    if not models:
        sys.exit(f"There is no model in {RUNS}: run train_model.py.")
    return models[-1].parent


def list_photos(names):
    """Return a row for each named photo, and for each photo in a named folder."""
    files = []
    for path in map(Path, names):
        if not path.exists():
            sys.exit(f"There is no photo or folder {path}.")
        files += sorted(path.iterdir()) if path.is_dir() else [path]
    labels = (".xml", ".txt", ".json", ".csv")  # often lie beside the photos
    return [{"path": file} for file in files if file.suffix.lower() not in labels]


def main(names=()):
    """Evaluate the photos of the CSVs, or find the object in the photos that are named."""
    folder = find_run()
    print(f"Evaluating the model in {folder}")
    model = keras.models.load_model(folder / "model.keras", compile=False)
    if names:
        photos = list_photos(names)
    else:
        photos = read_csv(folder / "validation.csv")
        training = find_objects(model, read_csv(folder / "train.csv"))
        print_figures("train.csv", [row for _, row in training])
    pictures = folder / "predictions"
    rows = []
    for photo, row in find_objects(model, photos):
        if not rows:  # this photo could be read, so replace the evaluation before
            shutil.rmtree(pictures, ignore_errors=True)
            pictures.mkdir()
        draw_picture(photo, row)
        row["picture"] = f"{row['agreement']:.2f}_{len(rows):05d}_{row['path'].stem}.jpg"
        photo.save(pictures / row["picture"], quality=95)
        rows.append(row)
    if not rows:
        sys.exit("None of the photos can be read.")
    rows.sort(key=lambda row: row["agreement"])  # the doubtful ones first
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if names:
        for row in rows:
            box = [row[name] for name in CORNERS]
            print(f"{row['path']}: box {box}, agreement {row['agreement']:.2f}")
    else:
        print_figures("validation.csv", rows)
        print_agreement(rows)
        rows.sort(key=lambda row: row["iou"])
    draw_contact_sheet([pictures / row["picture"] for row in rows], folder / "predictions.png")
    print(f"Boxes and pictures: predictions* in {folder}")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # Jupyter's prints all letters, a console may not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"evaluate_performance.py: {error}")
