"""Example 2: see how well the trained network finds objects and knows their classes.

    python example_2/evaluate_performance.py            # after train_model.py
    python example_2/evaluate_performance.py holiday    # photos, or folders of photos

Looks closer as example 1 does; if many training photos show several objects, it starts from several
places. The confidence of a box is the probability that there is an object, the mean of its looks.
Prints how well boxes and classes agree with the true ones, and what each threshold of the
confidence keeps. Writes and draws as example 1 does, with a row for each object; wrong classes come
first. confusion.png: which class is mistaken for which.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sklearn.metrics import ConfusionMatrixDisplay
from tqdm import tqdm

from train_model import (
    RUNS,
    WHOLE_PHOTO,
    cut_window,
    draw_empty_window,
    load_photo,
    read_csv,
    window_to_photo,
)

RUN = None  # the newest training; or the name of a folder in runs
LOOKS = 3  # the first at each of the starts, each later one around the box before
STARTS = None  # {}: the whole photo; {0.6: 3}: 3 x 3 windows of 0.6 of it, too; None: one of these
THRESHOLD = 0.9  # boxes with less confidence are left out: see what is printed

RED, GREEN = (255, 0, 0), (0, 255, 0)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
AROUND_BOX = np.array([-0.25, -0.25, 1.25, 1.25])  # a window with 1.5 times the sides of a box


# Looking from several places, and closer


def list_starts(folder):
    """Return the windows (n, 4) of the first looks: the whole photo, and those of STARTS."""
    sides = STARTS
    if sides is None:  # do more than a tenth of the training photos show several objects?
        counts = np.array([len(row["boxes"]) for row in read_csv(folder / "train.csv")])
        sides = {0.6: 3} if np.mean(counts > 1) > 0.1 else {}
    windows = [WHOLE_PHOTO]
    for side, count in sides.items():
        places = np.linspace(0, 1 - side, count)  # evenly spread
        windows += [(x, y, x + side, y + side) for y in places for x in places]
    return np.array(windows)


def look_once(model, photo, windows):
    """Return a box in each window (n, 4), as in example 1, and probabilities (n, classes + 1)."""
    pictures = [cut_window(photo, window, model.input_shape[1]) for window in windows]
    predicted = model.predict_on_batch(np.stack(pictures))
    boxes = window_to_photo(predicted["coords"], windows)
    return np.clip(boxes, 0, 1), predicted["classes"]


def look(model, photo, starts):
    """Return boxes (n, 4), confidences (n,) and probabilities (n, classes), the surest first."""
    boxes, windows, looks = starts, starts, []
    for _ in range(LOOKS):
        found, probabilities = look_once(model, photo, windows)
        has_area = (found[:, 2:] > found[:, :2]).all(axis=1, keepdims=True)
        boxes = np.where(has_area, found, boxes)  # otherwise keep the last box
        windows = window_to_photo(AROUND_BOX, boxes)  # AROUND_BOX is in shares of a box's sides
        looks.append(probabilities)
    probabilities = np.mean(looks, axis=0)
    confidences = 1 - probabilities[:, -1]
    kept = keep_surest(boxes, confidences)
    return boxes[kept], confidences[kept], probabilities[kept, :-1]


def keep_surest(boxes, confidences):
    """Return the numbers of the boxes (n, 4) that share no IoU above 0.5 with a surer one.

    Non-maximum suppression; the surest comes first.
    """
    ious = overlap(boxes, boxes)
    kept = []
    for i in np.argsort(-confidences):
        if (ious[i, kept] <= 0.5).all():
            kept.append(i)
    return kept


def overlap(boxes, others):
    """Return the IoU of each of the boxes (n, 4) with each of the others (m, 4): (n, m)."""
    ious = keras.utils.bounding_boxes.compute_iou(np.float32(boxes), np.float32(others), "xyxy")
    return np.array(keras.ops.convert_to_numpy(ious))


def to_pixels(box, photo):
    """Return a box (4,) in pixels of the photo."""
    return np.round(box * np.tile(photo.size, 2), 1).tolist()


def find_objects(model, starts, classes, rows):
    """Yield each row's photo, if it can be read, its rows of predictions.csv and the row."""
    for row in tqdm(rows, "looking", leave=False):
        try:
            photo = load_photo(row["path"], size=row.get("size"))
        except OSError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        boxes, confidences, probabilities = look(model, photo, starts)
        found = []
        for box, confidence, of_classes in zip(boxes, confidences, probabilities):
            found.append({"path": row["path"], "width": photo.width, "height": photo.height})
            found[-1] |= zip(CORNERS, to_pixels(box, photo))
            found[-1]["confidence"] = round(float(confidence), 3)
            found[-1]["class_name"] = classes[of_classes.argmax()]
            found[-1]["probability"] = round(float(of_classes.max() / of_classes.sum()), 3)
        if len(row.get("boxes", ())):
            add_truth(found, overlap(boxes, row["boxes"]), row["class_names"])
        yield photo, found, row


def add_truth(found, ious, names):
    """Add the true object of highest IoU to each of a photo's predictions, the surest first.

    ious: (predictions, true objects); names: the true classes. As COCO counts, each true object is
    found once, with an IoU above 0.5: it is no longer there for later predictions.
    """
    for prediction, of_box in zip(found, ious):
        best = of_box.argmax()
        prediction["true_class_name"] = names[best]
        prediction["iou"] = round(float(of_box[best]), 3)
        if prediction["iou"] > 0.5:
            ious[:, best] = 0


# What is printed, drawn and written


def print_figures(name, rows):
    """Print the IoU statistics of the surest box of each photo with an object."""
    ious = np.array([row["iou"] for row in rows])
    print(f"{name}: {len(rows)} photos, IoU {ious.mean():.3f} (of the surest box),")
    print(f"  median {np.median(ious):.3f}, above 0.5 in {np.mean(ious > 0.5):.1%} of the photos")
    shares = [(row["xmin"] / row["width"], row["ymin"] / row["height"]) for row in rows]
    if len(rows) > 4 and np.std(shares, axis=0).max() < 0.005:
        print("warning: the boxes are all the same: the training failed. Halve LEARNING_RATE.")


def print_thresholds(rows, true_count, empty_confidences):
    """Print what each threshold of the confidence keeps, and the average precision as COCO's.

    rows: predictions for photos with true_count objects, whose classes do not count here;
    empty_confidences: those of the surest boxes in windows without an object.
    """
    rows = sorted(rows, key=lambda row: -row["confidence"])
    right = np.cumsum([0] + [row.get("iou", 0) > 0.5 for row in rows])  # of the first n rows
    print("confidence   objects found   boxes correct    F1   empty windows with a box")
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99):
        count = sum(row["confidence"] >= threshold for row in rows)
        recall, precision = right[count] / true_count, right[count] / max(count, 1)
        f1 = 2 * right[count] / (count + true_count)
        passed = np.mean(np.array(empty_confidences) >= threshold)
        print(f"   >= {threshold:.2f} {recall:15.1%} {precision:15.1%} {f1:5.2f} {passed:16.1%}")
    # The mean over 101 recalls of the highest precision at this recall or above.
    precision = right[1:] / np.arange(1, len(right))
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right[1:] / true_count, np.linspace(0, 1, 101))
    print(f"Average precision at IoU 0.5, of any class: {np.append(highest, 0)[places].mean():.3f}")


def print_classes(rows, classes, file):
    """Print how many of the classes are right, and draw which is taken for which."""
    true = [row["true_class_name"] for row in rows]
    predicted = [row["class_name"] for row in rows]
    frequent = max(classes, key=true.count)
    right = np.mean(np.array(true) == np.array(predicted))
    always = true.count(frequent) / len(rows)
    print(f"Accuracy: {right:.1%}. Always predicting {frequent}: {always:.1%}.")
    figure = Figure(figsize=(4 + len(classes) / 3, 4 + len(classes) / 3), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        true,
        predicted,
        labels=classes,
        xticks_rotation="vertical",
        colorbar=False,
        ax=figure.subplots(),
    )
    figure.savefig(file)


def draw_picture(photo, found, true_boxes):
    """Draw the predicted and the true boxes into a photo, and write classes and confidences."""
    draw = ImageDraw.Draw(photo)
    line_width = max(2, max(photo.size) // 200)
    font = ImageFont.load_default(max(12, min(photo.size) // 20))
    for box in true_boxes:
        draw.rectangle(to_pixels(box, photo), outline=GREEN, width=line_width)
    for row in found:
        label = f"{row['class_name']} {row['confidence']:.2f}"
        if row.get("true_class_name", row["class_name"]) != row["class_name"]:
            label += f", is {row['true_class_name']}"
        if row["xmin"] is None:
            label += f" < {THRESHOLD}"
        else:
            draw.rectangle([row[name] for name in CORNERS], outline=RED, width=line_width)
        place = row["xmin"] or 4, max(row["ymin"] or 0, 1.3 * font.size)  # above the box
        draw.text(place, label, "white", font, "ld", stroke_width=2, stroke_fill="black")


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
    """Evaluate the photos of the CSVs, or find the objects in the photos that are named."""
    folder = find_run()
    print(f"Evaluating the model in {folder}")
    model = keras.models.load_model(folder / "model.keras", compile=False)
    classes = json.loads((folder / "classes.json").read_text("utf-8-sig"))
    starts = list_starts(folder)
    photos = list_photos(names) if names else read_csv(folder / "validation.csv")
    pictures = folder / "predictions"
    rng = np.random.default_rng(0)
    rows, all_boxes, surest, empty_confidences, true_count = [], [], [], [], 0
    for photo, found, row in find_objects(model, starts, classes, photos):
        if not rows:  # this photo could be read, so replace the evaluation before
            shutil.rmtree(pictures, ignore_errors=True)
            pictures.mkdir()
        if not names:
            true_count += len(row["boxes"])
            window = to_pixels(draw_empty_window(row["boxes"], rng), photo)
            empty_confidences.append(look(model, photo.crop(window), starts)[1][0])
        picture = f"{found[0]['confidence']:.2f}_{len(surest):05d}_{row['path'].stem}.jpg"
        found = [prediction | {"picture": picture} for prediction in found]
        all_boxes += found
        surest.append(found[0])
        shown = [prediction for prediction in found if prediction["confidence"] >= THRESHOLD]
        if not shown:
            columns = ("path", "width", "height", "confidence", "picture")
            nothing = {name: found[0][name] for name in columns}
            shown = [nothing | dict.fromkeys(CORNERS) | {"class_name": "nothing"}]
        draw_picture(photo, shown, row.get("boxes", ()))
        photo.save(pictures / picture, quality=95)
        rows += shown
    if not rows:
        sys.exit("None of the photos can be read.")
    rows.sort(key=lambda row: row["confidence"])  # the doubtful ones first
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, max(all_boxes, key=len), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if names:
        for row in rows:
            box = [row[name] for name in CORNERS]
            print(f"{row['path']}: {row['class_name']} {row['confidence']:.2f}, box {box}")
    else:
        surest = [row for row in surest if "iou" in row]  # there is an object
        print_figures("validation.csv", surest)
        print_thresholds(all_boxes, true_count, empty_confidences)
        print_classes(surest, classes, folder / "confusion.png")
        surest.sort(key=lambda row: (row["class_name"] == row["true_class_name"], row["iou"]))
    draw_contact_sheet([pictures / row["picture"] for row in surest], folder / "predictions.png")
    print(f"Boxes and pictures: predictions* in {folder}")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # Jupyter's prints all letters, a console may not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"evaluate_performance.py: {error}")
