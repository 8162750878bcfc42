"""Example 2: see how well the trained network finds the object and knows its class.

    python example_2/evaluate_performance.py            # after train_model.py
    python example_2/evaluate_performance.py holiday    # photos, or folders of photos

Looks closer as example 1 does, and takes the class from the looks' mean probabilities. Prints the
IoU of the predicted and the true boxes and how many classes are right, writes and draws both as
example 1 does. confusion.png shows which class is mistaken for which.
"""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sklearn.metrics import ConfusionMatrixDisplay, classification_report, confusion_matrix
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
    """Return the box (4,) in a window, as in example 1, and the probabilities of the classes."""
    windows = np.asarray(cut_window(photo, window, model.input_shape[1]))[None]  # a batch of one
    predicted = model.predict_on_batch(windows)
    box = window_to_photo(predicted["coords"][0], window)
    return np.clip(box, 0, 1), predicted["classes"][0]


def look(model, photo):
    """Return boxes (LOOKS, 4) and agreement as in example 1, and the looks' mean probabilities."""
    boxes, probabilities, box, window = [], [], WHOLE_PHOTO, WHOLE_PHOTO
    for _ in range(LOOKS):
        found, classes = look_once(model, photo, window)
        agreement = overlap(box, found)
        if (found[2:] > found[:2]).all():  # otherwise keep the last box
            box = found
        boxes.append(box)
        probabilities.append(classes)
        window = window_to_photo(AROUND_BOX, box)
    return np.stack(boxes), agreement, np.mean(probabilities, axis=0)


def overlap(box, other):
    """Return the IoU of two boxes (4,)."""
    return round(float(iou(np.float32([box]), np.float32([other]))[0]), 3)


def to_pixels(box, photo):
    """Return a box (4,) in pixels of the photo."""
    return np.round(box * np.tile(photo.size, 2), 1).tolist()


def find_objects(model, classes, rows):
    """Yield each row's photo, if it can be read, and its row of predictions.csv."""
    for row in tqdm(rows, "looking", leave=False):
        try:
            photo = load_photo(row["path"], size=row.get("size"))
        except OSError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        boxes, agreement, probabilities = look(model, photo)
        found = {"path": row["path"], "width": photo.width, "height": photo.height}
        found |= zip(CORNERS, to_pixels(boxes[-1], photo))
        found["agreement"] = agreement if LOOKS > 1 else math.nan
        found["class_name"] = classes[probabilities.argmax()]
        found["probability"] = round(float(probabilities.max()), 3)
        if "box" in row:
            found |= zip(TRUE_CORNERS, to_pixels(row["box"], photo))
            found["first_iou"] = overlap(row["box"], boxes[0])
            found["iou"] = overlap(row["box"], boxes[-1])
            is_named = row["class_name"] in classes
            found["true_class_name"] = row["class_name"] if is_named else classes[-1]  # others
            found["is_right"] = found["class_name"] == found["true_class_name"]
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


def print_classes(rows, classes, file):
    """Print how many of the classes are right, and draw which is taken for which."""
    true = [row["true_class_name"] for row in rows]
    predicted = [row["class_name"] for row in rows]
    frequent = max(classes, key=true.count)
    right = np.mean([row["is_right"] for row in rows])
    always = true.count(frequent) / len(rows)
    print(f"Accuracy: {right:.1%}. Always predicting {frequent}: {always:.1%}.")
    print(classification_report(true, predicted, labels=classes, zero_division=0))
    matrix = confusion_matrix(true, predicted, labels=classes)
    labels = [name.replace("$", r"\$") for name in classes]  # $ begins a formula
    display = ConfusionMatrixDisplay(matrix, display_labels=labels)
    figure = Figure(figsize=(4 + len(classes) / 3, 4 + len(classes) / 3), layout="constrained")
    display.plot(ax=figure.subplots(), xticks_rotation="vertical", colorbar=False)
    figure.savefig(file)


def draw_picture(photo, row):
    """Draw the predicted and the true box into a photo, and write the agreement."""
    draw = ImageDraw.Draw(photo)
    line_width = max(2, max(photo.size) // 200)
    label = f"{row['class_name']} {row['probability']:.0%}\nagreement {row['agreement']:.2f}"
    if "iou" in row:
        draw.rectangle([row[name] for name in TRUE_CORNERS], outline=GREEN, width=line_width)
        label += f"\nis {row['true_class_name']}\nIoU {row['iou']:.2f}"
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
    classes = json.loads((folder / "classes.json").read_text("utf-8-sig"))
    if names:
        photos = list_photos(names)
    else:
        photos = read_csv(folder / "validation.csv")
        training = find_objects(model, classes, read_csv(folder / "train.csv"))
        print_figures("train.csv", [row for _, row in training])
    pictures = folder / "predictions"
    rows = []
    for photo, row in find_objects(model, classes, photos):
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
            label = f"{row['class_name']} {row['probability']:.0%}"
            print(f"{row['path']}: {label}, box {box}, agreement {row['agreement']:.2f}")
    else:
        print_figures("validation.csv", rows)
        print_agreement(rows)
        print_classes(rows, classes, folder / "confusion.png")
        rows.sort(key=lambda row: (row["is_right"], row["iou"]))  # wrong classes first
    draw_contact_sheet([pictures / row["picture"] for row in rows], folder / "predictions.png")
    print(f"Boxes and pictures: predictions* in {folder}")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # Jupyter's prints all letters, a console may not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"evaluate_performance.py: {error}")
