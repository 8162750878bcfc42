"""Example 2: see how well the trained network finds the object and knows its class.

    python example_2/evaluate_performance.py    # after train_model.py

Prints the IoU of the predicted and the true boxes and how many classes are right, and draws boxes
and classes as example 1 does, wrong ones first. confusion.png shows which is taken for which.
"""

import csv
import glob
import signal
import sys

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sklearn.metrics import ConfusionMatrixDisplay, classification_report, confusion_matrix
from tqdm import tqdm

import train_model
from train_model import FOLDER, ROOT, PhotoDataset, iou, load_photo, read_csv

WEIGHTS_FILE = FOLDER / "model.keras"  # or the path of another .keras file
IMAGES = None  # None: the CSVs' photos, or a folder, a file or a pattern such as "holiday/*.jpg"
DEBUG = False  # True prints each photo's answer and shows each picture

RED, GREEN = (255, 0, 0), (0, 255, 0)


def load_model():
    """Load the model and make sure that it fits the constants of train_model.py."""
    try:
        model = keras.models.load_model(ROOT / WEIGHTS_FILE, compile=False)
    except Exception as error:  # a broken file makes Keras raise errors of many kinds
        sys.exit(f"{WEIGHTS_FILE} cannot be loaded: run train_model.py. ({error})")
    size = train_model.IMAGE_SIZE
    expected = (None, size, size, 3), [(None, train_model.CLASSES), (None, 4)]  # classes, coords
    shapes = model.input_shape, model.output_shape
    if shapes != expected:
        sys.exit(f"{WEIGHTS_FILE} has the shapes {shapes}, the constants want {expected}.")
    return model


def evaluate(model, csv_name):
    """Print how good the boxes of a CSV's n photos are; return dataset, answers, IoUs (n,)."""
    dataset = PhotoDataset(*read_csv(csv_name))
    answers = model.predict(dataset)
    ious = keras.ops.convert_to_numpy(iou(dataset.boxes, answers["coords"]))
    print(f"{csv_name}: {len(ious)} photos, IoU {ious.mean():.3f}, median {np.median(ious):.3f},")
    print(f"  above 0.5: {np.mean(ious > 0.5):.1%}, above 0.75: {np.mean(ious > 0.75):.1%}")
    return dataset, answers, ious


def to_labels(probabilities, names):
    """Return the most probable class of n photos, and how probable it is: n strings."""
    return [f"{names[row.argmax()]} {row.max():.0%}" for row in probabilities]


def list_classes():
    """Return the names of the CLASSES classes."""
    try:
        with open(ROOT / train_model.TRAIN_CSV, newline="", encoding="utf-8-sig") as file:
            names = {int(float(row["class_id"])): row["class_name"] for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        sys.exit(f"{train_model.TRAIN_CSV} cannot be read ({error!r}): run generate_dataset.py.")
    if max(names, default=0) >= train_model.CLASSES:
        names[train_model.CLASSES - 1] = "all others"
    return [names.get(number, "no class") for number in range(train_model.CLASSES)]


def print_classes(true, predicted, names):
    """Compare true and predicted class numbers (n,): print it and draw confusion.png."""
    frequent = np.bincount(true).argmax()
    right, always = np.mean(true == predicted), np.mean(true == frequent)
    print(f"Accuracy: {right:.1%}. Always answering {names[frequent]}: {always:.1%}.")
    if len(names) > 50:
        return  # too many to look at
    ids = range(len(names))
    print(classification_report(true, predicted, labels=ids, target_names=names, zero_division=0))
    matrix = confusion_matrix(true, predicted, labels=ids)
    display = ConfusionMatrixDisplay(matrix, display_labels=names)
    figure = Figure(figsize=(4 + len(names) / 3, 4 + len(names) / 3), layout="constrained")
    display.plot(ax=figure.subplots(), xticks_rotation="vertical", colorbar=False)
    figure.savefig(FOLDER / "confusion.png")


def to_corners(box, size):
    """Return xmin, ymin, xmax and ymax of a box (4,) in a photo of `size`, cut at its edges."""
    centre, sides = box.reshape(2, 2) * size / train_model.IMAGE_SIZE
    half = np.maximum(sides, 0) / 2  # the network may answer with a side below 0
    return np.clip([centre - half, centre + half], 0, size).flatten().tolist()


def draw_pictures(paths, predicted, labels, true=None):
    """Draw the boxes, (n, 4), and labels into n photos; return the files in predictions/."""
    folder = FOLDER / "predictions"
    folder.mkdir(exist_ok=True)
    for file in folder.glob("[0-9][0-9][0-9][0-9][0-9]_*.jpg"):
        file.unlink()  # of an earlier evaluation
    files = []
    for index, path in enumerate(tqdm(paths, "drawing", leave=False)):
        photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        draw = ImageDraw.Draw(photo)
        line_width = max(2, max(photo.size) // 200)
        if true is not None:
            draw.rectangle(to_corners(true[index], photo.size), outline=GREEN, width=line_width)
        corners = to_corners(predicted[index], photo.size)
        draw.rectangle(corners, outline=RED, width=line_width)
        font = ImageFont.load_default(max(12, max(photo.size) // 16))
        draw.text((4, 4), labels[index], "white", font, stroke_width=2, stroke_fill="black")
        files.append(folder / f"{index:05d}_{path.stem[:100]}.jpg")
        photo.save(files[-1], quality=95)
        if DEBUG or IMAGES is not None:
            tqdm.write(f"{path}: box {np.round(corners).tolist()} {labels[index]}")
        if DEBUG:
            photo.show()
    return files


def draw_contact_sheet(pictures):
    """Draw the first, middle and last of pictures, sorted worst first, into predictions.png."""
    middle = max(0, len(pictures) // 2 - 2)
    rows = (pictures[:4], pictures[middle : middle + 4], pictures[-4:])
    sheet = Image.new("RGB", (4 * 240, 3 * 240), "white")
    for row, files in enumerate(rows):
        for column, file in enumerate(files):
            sheet.paste(ImageOps.contain(Image.open(file), (236, 236)), (column * 240, row * 240))
    sheet.save(FOLDER / "predictions.png")


def list_photos():
    """Return the paths of the photos that IMAGES names."""
    pattern = glob.escape(IMAGES) if (ROOT / IMAGES).exists() else IMAGES  # a [ may be in a name
    if (ROOT / IMAGES).is_dir():
        pattern = f"{pattern}/*"
    paths = []
    for path in sorted(ROOT / name for name in glob.glob(pattern, root_dir=ROOT)):
        try:
            load_photo(path)  # can it be read?
            paths.append(path)
        except OSError as error:
            print(f"skipped: {error}", file=sys.stderr)
    if not paths:
        sys.exit(f"IMAGES = {IMAGES!r} names no photo, seen from {ROOT}.")
    return paths


def main():
    """Evaluate the photos of the CSVs, or find the object in those that IMAGES names."""
    model, names = load_model(), list_classes()
    if IMAGES is not None:
        paths = list_photos()
        unknown = np.zeros((len(paths), 4))  # box and class, at which predict does not look
        answers = model.predict(PhotoDataset(paths, unknown, unknown))
        draw_pictures(paths, answers["coords"], to_labels(answers["classes"], names))
    else:
        evaluate(model, train_model.TRAIN_CSV)
        dataset, answers, ious = evaluate(model, train_model.VALIDATION_CSV)
        true, predicted = dataset.classes.argmax(axis=1), answers["classes"].argmax(axis=1)
        print_classes(true, predicted, names)
        labels = [
            f"{label}\nis {names[number]}\nIoU {value:.2f}"
            for label, number, value in zip(to_labels(answers["classes"], names), true, ious)
        ]
        pictures = draw_pictures(dataset.paths, answers["coords"], labels, dataset.boxes)
        worst_first = np.lexsort((ious, predicted == true))  # by the second, then the first
        draw_contact_sheet([pictures[index] for index in worst_first])
        print(f"Worst, middle and best: {FOLDER / 'predictions.png'}")
    print(f"Pictures: {FOLDER / 'predictions'}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback
    if hasattr(sys.stdout, "reconfigure"):  # Jupyter's prints all letters, a console may not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except OSError as error:
        sys.exit(f"evaluate_performance.py: {error}")
