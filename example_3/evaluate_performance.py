"""Example 3: see how well the trained network finds the cells that the object covers.

    python example_3/evaluate_performance.py                  # after train_model.py
    python example_3/evaluate_performance.py holiday/*.jpg    # photos, or folders of photos

Reads boxes back from the grid: a connected region above THRESHOLD is an object, and the one with
the highest sum of probabilities is the prediction for the photo, drawn with a thicker line. Looks
closer at each object as example 1 does. Prints how well grids (dice) and boxes (IoU) agree with the
true ones, and writes and draws the boxes, one row per object.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback

import csv
import glob
import math
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage
from tqdm import tqdm

import train_model
from train_model import (
    FOLDER,
    ROOT,
    WHOLE_PHOTO,
    cut_window,
    dice_coefficient,
    load_photo,
    photo_to_window,
    read_csv,
    to_grid,
    window_to_photo,
)

WEIGHTS_FILE = FOLDER / "model.keras"  # or the path of another .keras file
IMAGES = None  # None: the CSVs' photos; or the path of a photo or of a folder of photos
LOOKS = 3  # 1: at the whole photo only; each further look is around the last box
DEBUG = False  # True shows each picture
THRESHOLD = 0.5  # 0 to 1: connected cells above it are one object
MIN_CELLS = 2  # objects with fewer cells are left out; 1 for objects as small as a cell

RED, GREEN = (255, 0, 0), (0, 255, 0)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
TRUE_CORNERS = ("true_xmin", "true_ymin", "true_xmax", "true_ymax")


def load_model():
    """Return the model; windows and grids have the size that it was trained with."""
    try:
        model = keras.models.load_model(ROOT / WEIGHTS_FILE, compile=False)
        _, train_model.IMAGE_SIZE, _, _ = model.input_shape  # `cut_window` takes it from there
        _, train_model.CELLS, columns = model.output_shape
    except Exception as error:  # a broken file makes Keras raise errors of many kinds
        reason = str(error).partition("\n")[0]
        sys.exit(f"{WEIGHTS_FILE} cannot be loaded: run train_model.py. ({reason})")
    if columns != train_model.CELLS:
        sys.exit(f"{WEIGHTS_FILE} is no model of {FOLDER.name}: it predicts {model.output_shape}.")
    return model


# Looking closer


def find_boxes(grid):
    """Return the boxes (objects, 4) in a grid (CELLS, CELLS), in pixels of the resized window.

    A box ends where the mean probability of its region's columns, or rows, falls to half of the
    largest one: a single probable cell beside the object does not move it.
    """
    # Interpolated to 5 x 5 points a cell: a box, in points at first, can end within a cell.
    fine = ndimage.zoom(grid, 5, order=1, mode="nearest", grid_mode=True)
    regions, _ = ndimage.label(fine > THRESHOLD)  # of each point 0, or its region's number
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(regions), start=1):  # slices
        region = np.where(regions == number, fine, 0)
        cells = region[2::5, 2::5]  # the points in the middle of the cells
        if np.count_nonzero(cells) >= MIN_CELLS:
            x, width = half_maximum(region[rows].mean(axis=0))
            y, height = half_maximum(region[:, columns].mean(axis=1))
            found.append((cells.sum(), (x, y, width, height)))
    found.sort(reverse=True)
    boxes = np.array([box for _, box in found]).reshape(-1, 4)
    return boxes * train_model.IMAGE_SIZE / len(fine)


def half_maximum(profile):
    """Return the middle and the width of where a profile (n,) is above half of its maximum."""
    above = np.flatnonzero(profile > profile.max() / 2)
    return (above[0] + above[-1] + 1) / 2, above[-1] + 1 - above[0]


def predict_grid(model, photo, window):
    """Return the grid (CELLS, CELLS) of a window of a photo."""
    return model.predict_on_batch(np.asarray(cut_window(photo, window))[None])[0]


def look(model, photo):
    """Return the first look's grid, and what the looks find of each object, the highest sum first.

    That is: its boxes (LOOKS, 4) in shares of the photo's sides, how well the last two agree, the
    last window and its grid.
    """
    first_grid, objects = predict_grid(model, photo, WHOLE_PHOTO), []
    for box in window_to_photo(find_boxes(first_grid), WHOLE_PHOTO):
        boxes, window, grid, agreement = [clip_to_photo(box)], WHOLE_PHOTO, first_grid, math.nan
        for _ in range(LOOKS - 1):
            window = boxes[-1] * (1, 1, 1.5, 1.5)  # around the box
            grid = predict_grid(model, photo, window)
            found = window_to_photo(find_boxes(grid), window)
            overlaps = [overlap(boxes[-1], other) for other in found]  # there may be neighbours
            agreement = max(overlaps, default=0)  # 0: got lost, and the last box stays
            boxes.append(clip_to_photo(found[np.argmax(overlaps)]) if agreement else boxes[-1])
        objects.append((np.stack(boxes), agreement, window, grid))
    return first_grid, objects


def clip_to_photo(box):
    """Return the part of a box (4,) that is in the photo."""
    start = np.maximum(box[:2] - box[2:] / 2, 0)
    end = np.minimum(box[:2] + box[2:] / 2, 1)
    return np.concatenate([(start + end) / 2, end - start])


def to_pixels(box, photo):
    """Return xmin, ymin, xmax and ymax of a box (4,) in pixels of the photo."""
    corners = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
    return np.round(corners * np.tile(photo.size, 2), 1).tolist()


def overlap(box, other):
    """Return the IoU of two boxes (4,)."""
    pair = np.float32([box]), np.float32([other])
    return round(float(keras.utils.bounding_boxes.compute_iou(*pair, "center_xywh")[0, 0]), 3)


def overlap_of_grids(true_box, window, grid):
    """Return the dice of a true box (4,) and the grid (CELLS, CELLS) of a window."""
    true_grid = to_grid(photo_to_window(true_box, window)[None])
    return round(float(dice_coefficient(true_grid, grid[None])[0]), 3)


def find_objects(model, paths, true_boxes=None):
    """Yield each photo that can be read, its rows of predictions.csv and its grid."""
    for index, path in enumerate(tqdm(paths, "looking", leave=False)):
        try:
            photo = load_photo(path)
            first_grid, objects = look(model, photo)
        except (OSError, Image.DecompressionBombError) as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        start = {"path": path, "width": photo.width, "height": photo.height}
        rows = []
        for boxes, agreement, _, _ in objects:
            row = start | dict(zip(CORNERS, to_pixels(boxes[-1], photo)))
            row["agreement"] = agreement
            rows.append(row)
        if not rows:  # nothing found
            rows = [start | dict.fromkeys(CORNERS) | {"agreement": 0}]
        if true_boxes is not None:
            add_truth(rows[0], true_boxes[index], photo, first_grid, objects)
        yield photo, rows, first_grid


def add_truth(row, true_box, photo, first_grid, objects):
    """Add the true box to a photo's first row, and how well the prediction agrees with it."""
    row |= zip(TRUE_CORNERS, to_pixels(true_box, photo))
    row["first_iou"], row["iou"] = 0, 0
    row["first_dice"] = row["dice"] = overlap_of_grids(true_box, WHOLE_PHOTO, first_grid)
    if objects:
        boxes, _, window, grid = objects[0]
        row["first_iou"], row["iou"] = overlap(true_box, boxes[0]), overlap(true_box, boxes[-1])
        row["dice"] = overlap_of_grids(true_box, window, grid)


# Housekeeping: what is printed, written and drawn


def print_figures(name, rows):
    """Print the IoU statistics of the photos of a CSV."""
    if not rows:
        sys.exit(f"None of the photos of {name} can be read.")
    ious = np.array([row["iou"] for row in rows])
    first = np.mean([row["first_iou"] for row in rows])
    print(f"{name}: {len(rows)} photos, IoU {ious.mean():.3f} (after the first look {first:.3f}),")
    print(f"  median {np.median(ious):.3f}, above 0.5 in {np.mean(ious > 0.5):.1%} of the photos")
    dice, first = (np.mean([row[name] for row in rows]) for name in ("dice", "first_dice"))
    print(f"  dice {dice:.3f} (after the first look {first:.3f})")


def print_agreement(rows):
    """Print how many of the photos with a high agreement of the last two looks are right."""
    print("agreement   photos   of these right (IoU above 0.5)")
    for threshold in (0, 0.5, 0.7, 0.8, 0.9):
        is_right = [row["iou"] > 0.5 for row in rows if row["agreement"] >= threshold]
        if is_right:
            print(f"  >= {threshold:.1f} {len(is_right):10} {np.mean(is_right):11.1%}")


def draw_picture(photo, rows, grid):
    """Draw the grid, the predicted and the true boxes into a photo, and how sure the first is."""
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


def save_picture(photo, row, index):
    """Save a picture in predictions/, the doubtful ones first in the alphabet; return its name."""
    # A file's name has up to 255 bytes; a letter may have four.
    stem = row["path"].stem.encode(errors="replace")[:100].decode(errors="ignore")
    name = f"{row['agreement']:.2f}_{index:05d}_{stem}.jpg"
    try:
        photo.save(FOLDER / "predictions" / name, quality=95)
    except (OSError, ValueError) as error:  # JPEG ends at 65,500 pixels a side
        tqdm.write(f"no picture of {row['path']}: {error}", file=sys.stderr)
        return ""
    return name


def draw_contact_sheet(rows):
    """Draw the pictures of the first, middle and last four rows into predictions.png."""
    files = [FOLDER / "predictions" / row["picture"] for row in rows if row["picture"]]
    if len(files) > 12:
        middle = len(files) // 2 - 2
        files = files[:4] + files[middle : middle + 4] + files[-4:]
    sheet = Image.new("RGB", (4 * 240, 3 * 240), "white")
    for i, file in enumerate(files):
        corner = (i % 4 * 240, i // 4 * 240)
        sheet.paste(ImageOps.contain(Image.open(file), (236, 236)), corner)
    sheet.save(FOLDER / "predictions.png")


def write_predictions(rows):
    """Write predictions.csv; delete the pictures that only the older one names, and no others."""
    file = FOLDER / "predictions.csv"
    try:
        with open(file, newline="", encoding="utf-8") as older:
            names = {row["picture"] for row in csv.DictReader(older)}
    except (OSError, KeyError, ValueError, csv.Error):
        names = set()  # there is none, or it is not ours
    for name in names - {row.get("picture") for row in rows} - {"", None}:
        (FOLDER / "predictions" / Path(name).name).unlink(missing_ok=True)
    with open(file, "w", newline="", encoding="utf-8", errors="backslashreplace") as new:
        writer = csv.DictWriter(new, max(rows, key=len), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def warn_of_newer_csv():
    """Say that the IoU may be of photos that the model was trained on, after another split."""
    csv_file, model_file = ROOT / train_model.TRAIN_CSV, ROOT / WEIGHTS_FILE
    if model_file.exists() and csv_file.stat().st_mtime > model_file.stat().st_mtime:
        print(f"{csv_file.name} is newer than {model_file.name}: if photos were added or removed,")
        print("  train again, or photos that it was trained on are among those that validate it.")


def list_photos(names, folder):
    """Return the paths of the photos that names are of: photos, folders or patterns in a folder."""
    files, missing = [], []
    for name in names:
        pattern = glob.escape(name) if (folder / name).exists() else name  # a [ may be in a name
        pattern = f"{pattern}/*" if (folder / name).is_dir() else pattern
        found = [folder / file for file in sorted(glob.glob(pattern, root_dir=folder))]
        endings = (".xml", ".txt", ".json", ".csv")  # of labels beside the photos
        found = [file for file in found if not file.name.lower().endswith(endings)]
        found = [file for file in found if file.is_file()]
        if not found:
            missing.append(name)
        files += found
    if missing:
        text = f"There is no photo {', '.join(missing)} in {folder.resolve()}."
        text += " Is it in a subfolder? Name that."
        if not files:
            sys.exit(text)
        print(text, file=sys.stderr)
    if any(FOLDER / "predictions" in file.resolve().parents for file in files):
        sys.exit(f"{FOLDER / 'predictions'} is where the pictures go: name photos elsewhere.")
    return files


def main(names=()):
    """Evaluate the photos of the CSVs, or find the object in the photos that are named."""
    model = load_model()
    has_truth = not names and IMAGES is None
    if names:
        photos = [list_photos(names, Path())]
    elif IMAGES is not None:
        photos = [list_photos([str(IMAGES)], ROOT)]
    else:
        rows = [rows[0] for _, rows, _ in find_objects(model, *read_csv(train_model.TRAIN_CSV))]
        print_figures(train_model.TRAIN_CSV, rows)
        photos = read_csv(train_model.VALIDATION_CSV)
        warn_of_newer_csv()
    (FOLDER / "predictions").mkdir(exist_ok=True)
    rows, all_rows = [], []  # one per photo, one per object
    for photo, found, grid in find_objects(model, *photos):
        draw_picture(photo, found, grid)
        found[0]["picture"] = save_picture(photo, found[0], len(rows))
        rows.append(found[0])
        all_rows.extend(found)
        if DEBUG:
            photo.show()
    if not rows:
        sys.exit("None of the photos can be read.")
    for some_rows in (rows, all_rows):
        some_rows.sort(key=lambda row: row["agreement"])  # the doubtful ones first
    write_predictions(all_rows)
    if not has_truth:
        for row in all_rows:
            box = [row[name] for name in CORNERS]
            what = "nothing found" if row["xmin"] is None else f"box {box}"
            print(f"{row['path']}: {what}, agreement {row['agreement']:.2f}")
    else:
        print_figures(train_model.VALIDATION_CSV, rows)
        print_agreement(rows)
        rows.sort(key=lambda row: row["iou"])
    draw_contact_sheet(rows)
    print(f"Boxes: {FOLDER / 'predictions.csv'}. Pictures: {FOLDER / 'predictions'},")
    order = "worst, middle and best" if has_truth else "least, middle and most sure"
    print(f"  {order}: {FOLDER / 'predictions.png'}")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # Jupyter's prints all letters, a console may not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"evaluate_performance.py: {error}")
