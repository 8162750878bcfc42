"""Example 3: see how well the trained network finds the cells that the object covers.

    python example_3/evaluate_performance.py    # after train_model.py

Reads boxes back from the grid: what hangs together above THRESHOLD is an object, and the object
with the highest sum of probabilities is the answer, drawn with a thicker line. Prints how well
grids (dice) and boxes (IoU) agree with the true ones, and draws them as example 1 does.
"""

import glob
import signal
import sys

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage
from tqdm import tqdm

import train_model
from train_model import FOLDER, ROOT, PhotoDataset, dice_coefficient, load_photo, read_csv, to_grid

WEIGHTS_FILE = FOLDER / "model.keras"  # or the path of another .keras file
IMAGES = None  # None: the CSVs' photos, or a folder, a file or a pattern such as "holiday/*.jpg"
DEBUG = False  # True prints each photo's answer and shows each picture
THRESHOLD = 0.6  # 0 to 1: what is above it is object; at 0.5 the boxes are a little too large
MIN_CELLS = 2  # objects with fewer cells are left out; 1 for objects as small as a cell

RED, GREEN = (255, 0, 0), (0, 255, 0)


def load_model():
    """Load the model and make sure that it fits the constants of train_model.py."""
    try:
        model = keras.models.load_model(ROOT / WEIGHTS_FILE, compile=False)
    except Exception as error:  # a broken file makes Keras raise errors of many kinds
        sys.exit(f"{WEIGHTS_FILE} cannot be loaded: run train_model.py. ({error})")
    size = train_model.IMAGE_SIZE
    expected = (None, size, size, 3), (None, train_model.CELLS, train_model.CELLS)
    shapes = model.input_shape, model.output_shape
    if shapes != expected:
        sys.exit(f"{WEIGHTS_FILE} has the shapes {shapes}, the constants want {expected}.")
    return model


def find_boxes(grid):
    """Return the boxes of the objects in a grid (CELLS, CELLS): (objects, 4), the answer first."""
    # Interpolated to 5 x 5 points a cell: a box, in points at first, can end within a cell.
    fine = ndimage.zoom(grid, 5, order=1, mode="nearest", grid_mode=True)
    objects, _ = ndimage.label(fine > THRESHOLD)  # of each point 0, or its object's number
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(objects), start=1):  # slices
        cells = (objects == number)[2::5, 2::5]  # the points in the middle of the cells
        if cells.sum() >= MIN_CELLS:
            x, y = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
            box = (x, y, columns.stop - columns.start, rows.stop - rows.start)
            found.append((grid[cells].sum(), box))
    found.sort(reverse=True)
    boxes = np.array([box for _, box in found]).reshape(-1, 4)
    return boxes * train_model.IMAGE_SIZE / len(fine)


def evaluate(model, csv_name):
    """Print how good the grids of a CSV's n photos are; return dataset, grids, and IoUs (n,)."""
    dataset = PhotoDataset(*read_csv(csv_name))
    grids = model.predict(dataset)
    dice = keras.ops.convert_to_numpy(dice_coefficient(to_grid(dataset.boxes), grids))
    found = [find_boxes(grid) for grid in grids]
    answers = [boxes[0] if len(boxes) else np.zeros(4) for boxes in found]
    # compute_iou compares all boxes of a photo with all others: here one with one.
    pairs = dataset.boxes[:, None], np.array(answers, "float32")[:, None]  # (n, 1, 4)
    ious = keras.utils.bounding_boxes.compute_iou(*pairs, "center_xywh")  # (n, 1, 1)
    ious = keras.ops.convert_to_numpy(ious)[:, 0, 0]
    print(f"{csv_name}: {len(ious)} photos, IoU {ious.mean():.3f}, median {np.median(ious):.3f},")
    print(f"  above 0.5: {np.mean(ious > 0.5):.1%}, above 0.75: {np.mean(ious > 0.75):.1%}")
    print(f"  dice {dice.mean():.3f}, nothing in {sum(len(boxes) == 0 for boxes in found)} photos")
    return dataset, grids, ious


def to_corners(box, size):
    """Return xmin, ymin, xmax and ymax of a box (4,) in a photo of `size`, cut at its edges."""
    centre, sides = box.reshape(2, 2) * size / train_model.IMAGE_SIZE
    half = np.maximum(sides, 0) / 2  # the network may answer with a side below 0
    return np.clip([centre - half, centre + half], 0, size).flatten().tolist()


def draw_pictures(paths, predicted, labels, true=None):
    """Draw grids, their boxes and labels into n photos; return the files in predictions/."""
    folder = FOLDER / "predictions"
    folder.mkdir(exist_ok=True)
    for file in folder.glob("[0-9][0-9][0-9][0-9][0-9]_*.jpg"):
        file.unlink()  # of an earlier evaluation
    files = []
    for index, path in enumerate(tqdm(paths, "drawing", leave=False)):
        photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        opacity = Image.fromarray((80 * predicted[index]).astype("uint8"))
        photo.paste(RED, mask=opacity.resize(photo.size, Image.Resampling.NEAREST))
        draw = ImageDraw.Draw(photo)
        line_width = max(2, max(photo.size) // 200)
        if true is not None:
            draw.rectangle(to_corners(true[index], photo.size), outline=GREEN, width=line_width)
        boxes = [to_corners(box, photo.size) for box in find_boxes(predicted[index])]
        for corners in boxes:
            width = 2 * line_width if corners is boxes[0] else line_width
            draw.rectangle(corners, outline=RED, width=width)
        font = ImageFont.load_default(max(12, max(photo.size) // 16))
        draw.text((4, 4), labels[index], "white", font, stroke_width=2, stroke_fill="black")
        files.append(folder / f"{index:05d}_{path.stem[:100]}.jpg")
        photo.save(files[-1], quality=95)
        if DEBUG or IMAGES is not None:
            tqdm.write(f"{path}: boxes {np.round(boxes).tolist()} {labels[index]}")
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
