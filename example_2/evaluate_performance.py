"""Example 2: see how well the trained network finds the object and knows its class.

    python example_2/evaluate_performance.py

Prints the intersection over union (IoU) of the predicted and the true boxes and how many classes
are right, and draws both: a picture of each validation photo in predictions/, the worst, middle
and best of them in predictions.png, and which class is taken for which in confusion.png. Red is
the prediction, green the truth.
"""

import sys
from functools import partial
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import ConfusionMatrixDisplay, classification_report, confusion_matrix
from tqdm import tqdm

import train_model
from train_model import FOLDER, ROOT, PhotoDataset, create_dataset, load_photo, to_corners

WEIGHTS_FILE = None  # None: this example's best model; or the path of one
IMAGES = None  # None: the CSVs' photos; or a folder, a file or a pattern such as "holiday/*.jpg"
MIRROR = True  # answers with the mean for a photo and its mirror image: better, half as fast
DEBUG = False  # True prints each photo's IoU and shows each picture, where there is a display

RED, GREEN = (255, 0, 0), (0, 255, 0)


def find_model_file():
    """Return WEIGHTS_FILE or else the model file with the highest number in its name."""
    if WEIGHTS_FILE is not None:
        return ROOT / WEIGHTS_FILE
    files = list(FOLDER.glob("model-*.keras"))
    if not files:
        sys.exit(f"No model in {FOLDER}: run train_model.py first.")
    # Of those with the same number the newest: model-0.75-2.keras is newer than model-0.75.keras.
    files.sort(key=lambda file: (file.stem.split("-")[1], file.stat().st_mtime))
    newest = max(files, key=lambda file: file.stat().st_mtime)
    if newest != files[-1]:
        print(f"warning: {newest} is newer: to evaluate it, set WEIGHTS_FILE.", file=sys.stderr)
    return files[-1]


def load_model():
    """Load the model and make sure that it fits the constants of train_model.py."""
    file = find_model_file()
    if not file.is_file():
        sys.exit(f"WEIGHTS_FILE = {WEIGHTS_FILE!r} does not exist, seen from {ROOT}.")
    try:
        model = keras.models.load_model(file, compile=False)
    except Exception as error:  # a broken file makes Keras raise errors of many kinds
        sys.exit(f"{file} is no Keras model that can be loaded ({type(error).__name__}).")
    size = train_model.IMAGE_SIZE
    shapes = [(None, 4), (None, train_model.CLASSES)]
    if model.input_shape != (None, size, size, 3) or model.output_shape != shapes:
        sys.exit(
            f"{file} was made for other constants: it takes {model.input_shape} and answers "
            f"{model.output_shape}, IMAGE_SIZE is {size}, CLASSES is {train_model.CLASSES}. "
            "Train again, or set WEIGHTS_FILE."
        )
    print(f"Model: {file}")
    return add_mirror(model) if MIRROR else model


def add_mirror(model):
    """Return a model that answers with the mean of its answers for a photo and its mirror image."""
    photos = keras.Input(model.input_shape[1:])
    box, probabilities = model(photos)
    mirrored, probabilities_mirrored = model(keras.ops.flip(photos, axis=2))
    x = model.input_shape[2] - mirrored[:, :1]
    boxes = [box, keras.ops.concatenate([x, mirrored[:, 1:]], axis=1)]
    classes = layers.Average()([probabilities, probabilities_mirrored])
    return keras.Model(photos, [layers.Average()(boxes), classes])


def print_statistics(ious_by_name):
    """Print a line of statistics for each array of IoUs."""
    print(f"{'IoU':12} photos   mean  median  lowest  highest  above 0.5  above 0.75")
    for name, ious in ious_by_name.items():
        print(
            f"{name:12} {len(ious):6} {ious.mean():6.3f} {np.median(ious):7.3f} {ious.min():7.3f} "
            f"{ious.max():8.3f} {np.mean(ious > 0.5):10.1%} {np.mean(ious > 0.75):11.1%}"
        )


def print_classes(true, predicted):
    """Print how many classes are right, of all photos and of each class, and draw confusion.png.

    Args:
        true: (n,), positions in `list_classes()`.
        predicted: likewise.
    """
    names = train_model.list_classes()
    positions = range(len(names))
    options = {"target_names": names, "digits": 3, "zero_division": 0}
    print("\nValidation:")
    print(classification_report(true, predicted, labels=positions, **options))
    print("Confusion matrix, a line for each true class, a column for each predicted one:")
    matrix = confusion_matrix(true, predicted, labels=positions)
    for name, row in zip(names, matrix):
        print(f"{name:>{max(map(len, names))}} " + " ".join(f"{count:4}" for count in row))
    frequent = np.bincount(true).argmax()
    right, always = np.mean(true == predicted), np.mean(true == frequent)
    print(f"Accuracy: {right:.1%}. Always answering {names[frequent]}: {always:.1%}.")
    side = 4 + 0.3 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    display = ConfusionMatrixDisplay(matrix, display_labels=names)
    display.plot(ax=figure.subplots(), xticks_rotation="vertical", colorbar=False)
    train_model.write_whole(FOLDER / "confusion.png", figure.savefig)


def draw_label(photo, box, text, colour, below=False):
    """Write a text on a ground of a colour above a box, or below it, and within the photo."""
    draw = ImageDraw.Draw(photo)
    font = ImageFont.load_default(max(12, max(photo.size) // 30))
    *_, width, height = draw.textbbox((0, 0), text, font)
    x = max(0, min(box[0], photo.width - width))
    y = max(0, min(box[3] if below else box[1] - height, photo.height - height))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    draw.text((x, y), text, (0, 0, 0), font)


def draw_boxes(photo, predicted, label, true=None, true_label=""):
    """Draw the true box in green, the predicted one in red, each with its label, into a photo.

    Boxes are corners in the photo's pixels: xmin, ymin, xmax, ymax.
    """
    draw = ImageDraw.Draw(photo)
    line_width = max(2, max(photo.size) // 200)
    if true is not None:
        draw.rectangle(list(map(float, true)), outline=GREEN, width=line_width)
        draw_label(photo, true, true_label, GREEN, below=True)
    draw.rectangle(list(map(float, predicted)), outline=RED, width=line_width)
    draw_label(photo, predicted, label, RED)


def draw_contact_sheet(pictures, labels, order):
    """Draw the worst, middle and best pictures into predictions.png, four of each.

    Args:
        pictures: n files.
        labels: n strings.
        order: (n,), their positions, the worst first.
    """
    middle = max(0, len(order) // 2 - 2)
    rows = {"worst": order[:4], "middle": order[middle : middle + 4], "best": order[-4:][::-1]}
    cell, line = 240, 18
    sheet = Image.new("RGB", (4 * cell, line + 3 * (cell + 2 * line)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((6, 2), "Red: predicted box, green: true box.", "black", font)
    for row, (name, chosen) in enumerate(rows.items()):
        for column, index in enumerate(chosen):
            left, top = column * cell, line + row * (cell + 2 * line)
            title = f"{name}: {pictures[index].stem.partition('_')[2]}"
            draw.text((left + 6, top + 2), title[:32], "black", font)
            draw.text((left + 6, top + line), labels[index][:32], "black", font)
            with Image.open(pictures[index]) as picture:
                picture.thumbnail((cell - 8, cell - 8))
                sheet.paste(picture, (left + 4, top + 2 * line))
    train_model.write_whole(FOLDER / "predictions.png", sheet.save)


def show(picture, title):
    """Show a picture in a window until it is closed; do nothing without a display."""
    if plt.get_backend().lower() != "agg":  # what matplotlib falls back to without a display
        plt.figure(title)
        plt.imshow(picture)
        plt.axis("off")
        plt.show()


def draw_pictures(paths, predicted, labels, true=None, true_labels=None):
    """Write a picture of each photo at its full size into predictions/; return their files.

    Args:
        paths: n photos.
        predicted: (n, 4), corners in each photo's pixels.
        labels: n strings.
        true: as `predicted`, or None.
        true_labels: as `labels`, or None.
    """
    folder = FOLDER / "predictions"
    folder.mkdir(exist_ok=True)
    old_files = set(folder.glob("[0-9][0-9][0-9][0-9]*_*.jpg"))  # of an earlier evaluation
    files = []
    for index, path in enumerate(tqdm(paths, "drawing", unit=" photos", leave=False)):
        photo = load_photo(path)
        truth = () if true is None else (true[index], true_labels[index])
        draw_boxes(photo, predicted[index], labels[index], *truth)
        files.append(folder / f"{index:04d}_{Path(path).stem[:100]}.jpg")
        train_model.write_whole(files[-1], partial(photo.save, quality=95, subsampling=0))
        if DEBUG:
            box = ", ".join(f"{corner:.0f}" for corner in predicted[index])
            tqdm.write(f"{path}: {labels[index]}, predicted box {box}")
            show(photo, path)
    for file in old_files - set(files):
        file.unlink()
    return files


def predict_csv(model, csv_name):
    """Return what is known of the photos of a CSV.

    Returns:
        paths: a list of n paths.
        predicted, true: (n, 4), corners in each photo's pixels.
        probabilities: (n, CLASSES).
        class_ids: (n,), the true positions in `list_classes()`.
        ious: (n,).
    """
    paths, sizes, corners, _ = train_model.read_csv(csv_name)
    dataset = create_dataset(csv_name)
    boxes, probabilities = model.predict(dataset, verbose=0)
    ious = keras.ops.convert_to_numpy(train_model.iou(dataset.targets, boxes))
    class_ids = dataset.targets[:, 4].astype(int)
    return paths, to_corners(boxes, sizes), corners, probabilities, class_ids, ious


def to_labels(probabilities):
    """Return the most probable class of each photo and its probability as n strings."""
    names = train_model.list_classes()
    return [f"{names[np.argmax(row)]} {np.max(row):.0%}" for row in probabilities]


def evaluate_csvs(model):
    """Print the statistics of both CSVs and draw the validation photos."""
    *_, training_ious = predict_csv(model, train_model.TRAIN_CSV)
    validation = predict_csv(model, train_model.VALIDATION_CSV)
    paths, predicted, true, probabilities, class_ids, ious = validation
    print_statistics({"training": training_ious, "validation": ious})
    right = probabilities.argmax(axis=1) == class_ids
    print_classes(class_ids, probabilities.argmax(axis=1))
    labels = [f"{label}, IoU {iou:.2f}" for label, iou in zip(to_labels(probabilities), ious)]
    true_labels = [train_model.list_classes()[class_id] for class_id in class_ids]
    pictures = draw_pictures(paths, predicted, labels, true, true_labels)
    draw_contact_sheet(pictures, labels, np.lexsort((ious, right)))  # wrong classes first
    print(f"Pictures: {FOLDER / 'predictions.png'}, {FOLDER / 'confusion.png'}")
    print(f"and {FOLDER / 'predictions'}")


def list_photos():
    """Return the paths and the sizes (n, 2) in pixels of the photos that IMAGES names."""
    folder = ROOT / IMAGES
    pattern = (folder, "*") if folder.is_dir() else (ROOT, IMAGES)
    paths, sizes = [], []
    for file in [folder] if folder.is_file() else sorted(pattern[0].glob(pattern[1])):
        try:
            sizes.append(load_photo(file).size)
            paths.append(file)
        except OSError as error:
            print(f"skipped {error}", file=sys.stderr)
    if not paths:
        sys.exit(f"IMAGES = {IMAGES!r} names no photo, seen from {ROOT}.")
    return paths, np.array(sizes)


def evaluate_images(model):
    """Predict and draw the boxes of the photos that IMAGES names."""
    paths, sizes = list_photos()
    dataset = PhotoDataset(paths, np.zeros((len(paths), 5)))
    boxes, probabilities = model.predict(dataset, verbose=0)
    corners, labels = to_corners(boxes, sizes), to_labels(probabilities)
    for path, box, label in zip(paths, corners, labels):
        print(f"{path}: {label}, box from {box[0]:.0f}, {box[1]:.0f} to {box[2]:.0f}, {box[3]:.0f}")
    draw_pictures(paths, corners, labels)
    print(f"Pictures: {FOLDER / 'predictions'}")


def main():
    """Evaluate the photos of the CSVs, or those that IMAGES names."""
    train_model.check_constants()
    model = load_model()
    if IMAGES is None:
        evaluate_csvs(model)
    else:
        evaluate_images(model)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"evaluate_performance.py: {error}")
