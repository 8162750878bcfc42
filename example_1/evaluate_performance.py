"""Example 1: see how well the trained network finds the object, in validation photos or in yours.

    python example_1/evaluate_performance.py                  # after train_model.py
    python example_1/evaluate_performance.py holiday/*.jpg    # photos, or folders of photos

The network looks at the whole photo first, and then at a window around the box that it found, cut
from the photo at its full resolution. How well the boxes of the last two looks agree (their IoU)
tells how sure it can be; below 0.5 it starts again from parts of the photo. Prints the IoU of the
predicted and the true boxes, writes the boxes into predictions.csv, and draws them: each photo in
predictions/, and the worst, middle and best in predictions.png. Red is the prediction, green the
truth.
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
from keras import ops
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

import train_model
from train_model import (
    FOLDER,
    ROOT,
    WHOLE_PHOTO,
    cut_window,
    iou,
    load_photo,
    read_csv,
    window_to_photo,
)

WEIGHTS_FILE = FOLDER / "model.keras"  # or the path of another .keras file
IMAGES = None  # None: the CSVs' photos; or the path of a photo or of a folder of photos
LOOKS = 3  # 1: at the whole photo only; each further look is around the last box
DEBUG = False  # True shows each picture

# Centres of windows to look at when lost: 0.6 of the photo's sides, in its corners and middle.
ELSEWHERE = ((0.3, 0.3), (0.7, 0.3), (0.3, 0.7), (0.7, 0.7), (0.5, 0.5))
RED, GREEN = (255, 0, 0), (0, 255, 0)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
TRUE_CORNERS = ("true_xmin", "true_ymin", "true_xmax", "true_ymax")


def load_model():
    """Return the model; windows are cut in the size that it was trained with."""
    try:
        model = keras.models.load_model(ROOT / WEIGHTS_FILE, compile=False)
        _, train_model.IMAGE_SIZE, _, _ = model.input_shape  # `cut_window` takes it from there
    except Exception as error:  # a broken file makes Keras raise errors of many kinds
        reason = str(error).partition("\n")[0]
        sys.exit(f"{WEIGHTS_FILE} cannot be loaded: run train_model.py. ({reason})")
    if model.output_shape != (None, 4):
        sys.exit(f"{WEIGHTS_FILE} is no model of {FOLDER.name}: it predicts {model.output_shape}.")
    return model


# Looking closer


def look_once(model, photo, window):
    """Return the box (4,) in a window of a photo. A side of 0 or less: nothing is in the photo."""
    windows = np.asarray(cut_window(photo, window))[None]
    return clip_to_photo(window_to_photo(model.predict_on_batch(windows)[0], window))


def look_closer(model, photo, window):
    """Return the boxes (LOOKS, 4) of looks, the first at a window, and the agreement.

    That is how well the last two agree, as IoU, and 0 if the last look found no box.
    """
    boxes, last = [], window  # until a box is found the window stands for it
    for _ in range(LOOKS):
        box = look_once(model, photo, window)
        is_found = (box[2:] > 0).all()
        agreement = overlap(last, box) if is_found else 0
        last = box if is_found else last
        boxes.append(last)
        window = last * (1, 1, 1.5, 1.5)  # around the box
    return np.stack(boxes), agreement


def look(model, photo):
    """Return the boxes (LOOKS, 4) of looks at a photo, and the agreement.

    Below 0.5 they got lost, and start again elsewhere: the last box is then the most agreed of all.
    The boxes before it and the agreement are those from the whole photo: it is doubtful.
    """
    found = [look_closer(model, photo, WHOLE_PHOTO)]
    boxes, agreement = found[0]
    if LOOKS > 1 and agreement < 0.5:  # lost
        for x, y in ELSEWHERE:
            found.append(look_closer(model, photo, np.array([x, y, 0.6, 0.6])))
        best_boxes, _ = most_agreed(found)
        boxes[-1] = best_boxes[-1]
    return boxes, agreement


def most_agreed(found):
    """Return the one of what `look_closer` found with the highest agreement x sum of IoUs."""
    found = [each for each in found if each[1] > 0] or found  # what found no box has no vote
    boxes, agreements, *_ = zip(*found)  # example 2's have probabilities too
    last = np.stack(boxes)[:, -1].astype("float32")
    overlaps = keras.utils.bounding_boxes.compute_iou(last, last, "center_xywh")  # of all pairs
    return found[np.argmax(agreements * ops.convert_to_numpy(overlaps).sum(axis=1))]


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
    return round(float(iou(np.float32([box]), np.float32([other]))[0]), 3)


def find_objects(model, paths, true_boxes=None):
    """Yield each photo that can be read, and its row of predictions.csv."""
    for index, path in enumerate(tqdm(paths, "looking", leave=False)):
        try:
            photo = load_photo(path)
            boxes, agreement = look(model, photo)
        except (OSError, Image.DecompressionBombError) as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        row = {"path": path, "width": photo.width, "height": photo.height}
        row |= zip(CORNERS, to_pixels(boxes[-1], photo))
        row["agreement"] = agreement if LOOKS > 1 else math.nan
        if true_boxes is not None:
            true_box = true_boxes[index]
            row |= zip(TRUE_CORNERS, to_pixels(true_box, photo))
            row["first_iou"], row["iou"] = overlap(true_box, boxes[0]), overlap(true_box, boxes[-1])
        yield photo, row


# Housekeeping: what is printed, written and drawn


def print_figures(name, rows):
    """Print the IoU statistics of the photos of a CSV."""
    if not rows:
        sys.exit(f"None of the photos of {name} can be read.")
    ious = np.array([row["iou"] for row in rows])
    first = np.mean([row["first_iou"] for row in rows])
    print(f"{name}: {len(rows)} photos, IoU {ious.mean():.3f} (after the first look {first:.3f}),")
    print(f"  median {np.median(ious):.3f}, above 0.5 in {np.mean(ious > 0.5):.1%} of the photos")


def print_agreement(rows):
    """Print how many of the photos with a high agreement of the last two looks are right."""
    print("agreement   photos   of these right (IoU above 0.5)")
    for threshold in (0, 0.5, 0.7, 0.8, 0.9):
        is_right = [row["iou"] > 0.5 for row in rows if row["agreement"] >= threshold]
        if is_right:
            print(f"  >= {threshold:.1f} {len(is_right):10} {np.mean(is_right):11.1%}")


def draw_picture(photo, row):
    """Draw the predicted and the true box into a photo, and how sure the prediction is."""
    draw = ImageDraw.Draw(photo)
    line_width = max(2, max(photo.size) // 200)
    label = f"agreement {row['agreement']:.2f}"
    if "iou" in row:
        draw.rectangle([row[name] for name in TRUE_CORNERS], outline=GREEN, width=line_width)
        label += f"\nIoU {row['iou']:.2f}"
    draw.rectangle([row[name] for name in CORNERS], outline=RED, width=line_width)
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
        rows = [row for _, row in find_objects(model, *read_csv(train_model.TRAIN_CSV))]
        print_figures(train_model.TRAIN_CSV, rows)
        photos = read_csv(train_model.VALIDATION_CSV)
        warn_of_newer_csv()
    (FOLDER / "predictions").mkdir(exist_ok=True)
    rows = []
    for photo, row in find_objects(model, *photos):
        draw_picture(photo, row)
        row["picture"] = save_picture(photo, row, len(rows))
        rows.append(row)
        if DEBUG:
            photo.show()
    if not rows:
        sys.exit("None of the photos can be read.")
    rows.sort(key=lambda row: row["agreement"])  # the doubtful ones first
    write_predictions(rows)
    if not has_truth:
        for row in rows:
            box = [row[name] for name in CORNERS]
            print(f"{row['path']}: box {box}, agreement {row['agreement']:.2f}")
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
