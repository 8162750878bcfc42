"""Example 3: see how well the trained network finds the cells that the object covers.

    python example_3/evaluate_performance.py            # after train_model.py
    python example_3/evaluate_performance.py holiday    # photos, or folders of photos

Reads boxes back from the grid: a connected region above THRESHOLD is an object, and the one with
the highest sum of probabilities is the prediction for the photo, drawn with a thicker line. Looks
closer at each object as example 1 does. Prints how well grids (dice) and boxes (IoU) agree with the
true ones, and writes and draws the boxes, one row per object.
"""

import csv
import math
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage
from tqdm import tqdm

from train_model import (
    RUNS,
    WHOLE_PHOTO,
    cut_window,
    dice_coefficient,
    load_photo,
    read_csv,
    to_grid,
    window_to_photo,
)

RUN = None  # the newest training; or the name of a folder in runs
LOOKS = 3  # the first at the whole photo, each later one around the box before
THRESHOLD = 0.5  # 0 to 1: connected cells above it are one object
MIN_CELLS = 2  # objects with fewer cells are left out; 1 for objects as small as a cell

RED, GREEN = (255, 0, 0), (0, 255, 0)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
TRUE_CORNERS = ("true_xmin", "true_ymin", "true_xmax", "true_ymax")
AROUND_BOX = np.array([-0.25, -0.25, 1.25, 1.25])  # a window with 1.5 times the sides of a box


# Looking closer


def find_boxes(grid):
    """Return the boxes (objects, 4) in a grid (cells, cells), as shares of the window's sides.

    A box ends where the mean probability of its region's columns, or rows, falls to half of the
    largest one: a single probable cell beside the object does not move it.
    """
    # Interpolated to 5 x 5 points per cell, so that a box can end inside a cell.
    fine = ndimage.zoom(grid, 5, order=1, mode="nearest", grid_mode=True)
    regions, _ = ndimage.label(fine > THRESHOLD)  # of each point 0, or its region's number
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(regions), start=1):  # slices
        region = np.where(regions == number, fine, 0)
        cells = region[2::5, 2::5]  # the points in the middle of the cells
        if np.count_nonzero(cells) >= MIN_CELLS:
            xmin, xmax = half_maximum(region[rows].mean(axis=0))
            ymin, ymax = half_maximum(region[:, columns].mean(axis=1))
            found.append((cells.sum(), (xmin, ymin, xmax, ymax)))
    found.sort(reverse=True)
    return np.array([box for _, box in found]).reshape(-1, 4) / len(fine)


def half_maximum(profile):
    """Return where the part of a profile (n,) above half of its maximum begins and ends."""
    above = np.flatnonzero(profile > profile.max() / 2)
    return above[0], above[-1] + 1


def look_once(model, photo, window):
    """Return the grid (cells, cells) of a window of a photo, and the boxes (objects, 4) in it."""
    windows = np.asarray(cut_window(photo, window, model.input_shape[1]))[None]  # a batch of one
    grid = model.predict_on_batch(windows)[0]
    return grid, np.clip(window_to_photo(find_boxes(grid), window), 0, 1)


def look(model, photo):
    """Return the first look's grid and, for each object in it, boxes (LOOKS, 4) and agreement.

    The object with the highest sum of probabilities is first. Agreement: the last two boxes' IoU.
    """
    grid, first_boxes = look_once(model, photo, WHOLE_PHOTO)
    objects = []
    for box in first_boxes:
        boxes, agreement = [box], math.nan
        for _ in range(LOOKS - 1):
            _, found = look_once(model, photo, window_to_photo(AROUND_BOX, box))
            overlaps = [overlap(box, other) for other in found]  # there may be neighbours
            agreement = max(overlaps, default=0)  # 0: lost, keep the last box
            box = found[np.argmax(overlaps)] if agreement else box
            boxes.append(box)
        objects.append((np.stack(boxes), agreement))
    return grid, objects


def overlap(box, other):
    """Return the IoU of two boxes (4,)."""
    pair = np.float32([box]), np.float32([other])
    return round(float(keras.utils.bounding_boxes.compute_iou(*pair, "xyxy")[0, 0]), 3)


def to_pixels(box, photo):
    """Return a box (4,) in pixels of the photo."""
    return np.round(box * np.tile(photo.size, 2), 1).tolist()


def find_objects(model, rows):
    """Yield each row's photo, if it can be read, its rows of predictions.csv and its grid."""
    for row in tqdm(rows, "looking", leave=False):
        try:
            photo = load_photo(row["path"], size=row.get("size"))
        except OSError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        grid, objects = look(model, photo)
        start = {"path": row["path"], "width": photo.width, "height": photo.height}
        found = []
        for boxes, agreement in objects:
            corners = dict(zip(CORNERS, to_pixels(boxes[-1], photo)))
            found.append(start | corners | {"agreement": agreement})
        if not found:
            found = [start | dict.fromkeys(CORNERS) | {"agreement": 0}]
        if "box" in row:
            boxes = objects[0][0] if objects else np.zeros((1, 4))  # whose IoU is 0
            found[0] |= zip(TRUE_CORNERS, to_pixels(row["box"], photo))
            found[0]["first_iou"] = overlap(row["box"], boxes[0])
            found[0]["iou"] = overlap(row["box"], boxes[-1])
            true_grid = to_grid(row["box"][None], len(grid))
            found[0]["dice"] = round(float(dice_coefficient(true_grid, grid[None])[0]), 3)
        yield photo, found, grid


# What is printed, drawn and written


def print_figures(name, rows):
    """Print the IoU statistics of the photos of a CSV."""
    ious = np.array([row["iou"] for row in rows])
    first = np.mean([row["first_iou"] for row in rows])
    print(f"{name}: {len(rows)} photos, IoU {ious.mean():.3f} (after the first look {first:.3f}),")
    print(f"  median {np.median(ious):.3f}, above 0.5 in {np.mean(ious > 0.5):.1%} of the photos")
    print(f"  dice of the first look's grids {np.mean([row['dice'] for row in rows]):.3f}")


def draw_picture(photo, rows, grid):
    """Draw the grid, the predicted and the true boxes into a photo, and write the agreement."""
    opacity = Image.fromarray((80 * grid).astype("uint8"))
    photo.paste(RED, mask=opacity.resize(photo.size, Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(photo)
    line_width = max(2, max(photo.size) // 200)
    label = f"agreement {rows[0]['agreement']:.2f}"
    if "iou" in rows[0]:
        draw.rectangle([rows[0][name] for name in TRUE_CORNERS], outline=GREEN, width=line_width)
        label += f"\nIoU {rows[0]['iou']:.2f}"
    for row in rows:
        if row["xmin"] is not None:
            width = 2 * line_width if row is rows[0] else line_width
            draw.rectangle([row[name] for name in CORNERS], outline=RED, width=width)
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
        print_figures("train.csv", [found[0] for _, found, _ in training])
    pictures = folder / "predictions"
    rows, all_rows = [], []  # of the predictions for the photos, and of all objects
    for photo, found, grid in find_objects(model, photos):
        if not rows:  # this photo could be read, so replace the evaluation before
            shutil.rmtree(pictures, ignore_errors=True)
            pictures.mkdir()
        draw_picture(photo, found, grid)
        row = found[0]
        row["picture"] = f"{row['agreement']:.2f}_{len(rows):05d}_{row['path'].stem}.jpg"
        photo.save(pictures / row["picture"], quality=95)
        rows.append(row)
        all_rows.extend(found)
    if not rows:
        sys.exit("None of the photos can be read.")
    for some_rows in (rows, all_rows):
        some_rows.sort(key=lambda row: row["agreement"])  # the doubtful ones first
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, max(all_rows, key=len), lineterminator="\n")
        writer.writeheader()
        writer.writerows(all_rows)
    if names:
        for row in all_rows:
            box = [row[name] for name in CORNERS]
            what = "nothing found" if row["xmin"] is None else f"box {box}"
            print(f"{row['path']}: {what}, agreement {row['agreement']:.2f}")
    else:
        print_figures("validation.csv", rows)
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
