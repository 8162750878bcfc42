"""Example 1: see how well the trained network finds the object.

    python example_1/evaluate_performance.py    # after train_model.py

Prints the intersection over union (IoU) of the predicted and the true boxes, and draws them: each
validation photo in predictions/, and the worst, middle and best of them in predictions.png. Red is
the prediction, green the truth.
"""

import glob
import signal
import sys

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
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
    expected = (None, size, size, 3), (None, 4)
    shapes = model.input_shape, model.output_shape
    if shapes != expected:
        sys.exit(f"{WEIGHTS_FILE} has the shapes {shapes}, the constants want {expected}.")
    return model


def evaluate(model, csv_name):
    """Print how good the boxes of a CSV's n photos are; return dataset, boxes (n, 4), IoUs (n,)."""
    dataset = PhotoDataset(*read_csv(csv_name))
    boxes = model.predict(dataset)
    ious = keras.ops.convert_to_numpy(iou(dataset.boxes, boxes))
    print(f"{csv_name}: {len(ious)} photos, IoU {ious.mean():.3f}, median {np.median(ious):.3f},")
    print(f"  above 0.5: {np.mean(ious > 0.5):.1%}, above 0.75: {np.mean(ious > 0.75):.1%}")
    return dataset, boxes, ious


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
    model = load_model()
    if IMAGES is not None:
        paths = list_photos()
        predicted = model.predict(PhotoDataset(paths, np.zeros((len(paths), 4))))
        draw_pictures(paths, predicted, [""] * len(paths))
    else:
        evaluate(model, train_model.TRAIN_CSV)
        dataset, predicted, ious = evaluate(model, train_model.VALIDATION_CSV)
        labels = [f"IoU {value:.2f}" for value in ious]
        pictures = draw_pictures(dataset.paths, predicted, labels, dataset.boxes)
        draw_contact_sheet([pictures[index] for index in np.argsort(ious)])
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
