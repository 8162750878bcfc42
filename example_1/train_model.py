"""Example 1: train MobileNetV2 to say where the one object in a photo is.

    python example_1/train_model.py

The network answers with four numbers: the box's centre x, centre y, width and height, in pixels of
the photo resized to IMAGE_SIZE x IMAGE_SIZE. It is a classifier without its top; one convolution as
large as the last feature map takes the top's place. The loss is the mean squared error

    loss = 1/4 * sum((y_hat - y)^2)

Run generate_dataset.py first, and evaluate_performance.py afterwards.
"""

import csv
import os
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no warnings about a GPU that is not there

import keras
import numpy as np
from keras import layers, ops
from keras.applications.mobilenet_v2 import MobileNetV2, preprocess_input
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent  # the CSVs and the paths in them start here
FOLDER = Path(__file__).resolve().parent  # the model, its log and its curves go here

TRAIN_CSV = "train.csv"
VALIDATION_CSV = "validation.csv"
IMAGE_SIZE = 96  # 96, 128, 160, 192 or 224 pixels
ALPHA = 1.0  # width of the network: 0.35, 0.5, 0.75, 1.0, 1.3 or 1.4
WEIGHTS = "imagenet"  # "imagenet", None (random) or the path of a .weights.h5 or .h5 file
BATCH_NORM_MOMENTUM = 0.9  # 0 to 1; Keras's 0.999 needs thousands of steps to forget ImageNet
EPOCHS = 75
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
PATIENCE = 50  # epochs without a better val_iou after which training stops
THREADS = 2  # threads that read photos
INMEMORY = True  # False reads the photos again for each batch: for more photos than fit in memory
SEED = 0


def check_constants():
    """Stop with one line when a constant has a value that cannot work."""
    number = (int, float)
    for name, kind, is_right, choices in (
        ("IMAGE_SIZE", int, (96, 128, 160, 192, 224).__contains__, "96, 128, 160, 192 or 224"),
        (
            "ALPHA",
            number,
            {0.35, 0.5, 0.75, 1, 1.3, 1.4}.__contains__,
            "0.35, 0.5, 0.75, 1, 1.3 or 1.4",
        ),
        ("BATCH_NORM_MOMENTUM", number, lambda value: 0 <= value < 1, "from 0 to below 1"),
        ("EPOCHS", int, lambda value: value >= 1, "a whole number from 1"),
        ("BATCH_SIZE", int, lambda value: value >= 1, "a whole number from 1"),
        ("LEARNING_RATE", number, lambda value: value > 0, "a number above 0, such as 1e-3"),
        ("PATIENCE", int, lambda value: value >= 1, "a whole number from 1"),
        ("THREADS", int, lambda value: value >= 1, "a whole number from 1"),
        ("SEED", int, lambda value: 0 <= value < 2**32, "a whole number from 0"),
    ):
        value = globals()[name]
        if not isinstance(value, kind) or not is_right(value):
            sys.exit(f"train_model.py: {name} = {value!r} must be {choices}.")


def read_csv(name):
    """Read the photos' paths, sizes and boxes from a CSV of generate_dataset.py.

    Args:
        name: the file, relative to ROOT.

    Returns:
        paths: a list of n absolute paths.
        sizes: (n, 2), width and height of the upright photo in pixels.
        corners: (n, 4), xmin, ymin, xmax and ymax in pixels of the upright photo.
    """
    file = ROOT / name
    if not file.is_file():
        sys.exit(f"{file} does not exist: run generate_dataset.py first.")
    paths, numbers = [], []
    with open(file, newline="", encoding="utf-8-sig") as csv_file:
        rows = csv.DictReader(csv_file)
        try:
            for row in rows:
                columns = ("width", "height", "xmin", "ymin", "xmax", "ymax")
                width, height, xmin, ymin, xmax, ymax = (float(row[column]) for column in columns)
                if not (0 <= xmin < xmax <= width and 0 <= ymin < ymax <= height < np.inf > width):
                    raise ValueError("the box is not in the photo")
                paths.append(str(ROOT / row["path"]))
                numbers.append((width, height, xmin, ymin, xmax, ymax))
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            sys.exit(f"{file}, line {rows.line_num}: bad row ({error!r}): run generate_dataset.py.")
    if not paths:
        sys.exit(f"{file} has no rows: run generate_dataset.py again.")
    numbers = np.array(numbers, "float32")
    return paths, numbers[:, :2], numbers[:, 2:]


def load_photo(file, image_size=None):
    """Read a photo upright (EXIF) and in RGB, resized to a square when `image_size` is given.

    Returns: a PIL image. Raises: OSError, when Pillow cannot read the file as a photo.
    """
    try:
        with Image.open(file) as photo:
            if image_size is None:
                return ImageOps.exif_transpose(photo).convert("RGB")
            photo.draft("RGB", (image_size, image_size))  # a JPEG at 1/2, 1/4 or 1/8, if enough
            photo = ImageOps.exif_transpose(photo).convert("RGB")
            return photo.resize((image_size, image_size), Image.Resampling.BILINEAR)
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        raise OSError(f"{file} cannot be read: {error}") from error


class PhotoDataset(keras.utils.PyDataset):
    """Photos and their boxes, in batches; with `shuffle`, in another order each epoch.

    A batch is photos (batch, IMAGE_SIZE, IMAGE_SIZE, 3), uint8 RGB, and boxes (batch, 4), float32:
    centre x, centre y, width, height in pixels of the resized photo.
    """

    def __init__(self, paths, boxes, shuffle=False):
        """Read the photos at once if INMEMORY, else make sure that they are there."""
        super().__init__(workers=0 if INMEMORY else THREADS)
        self.paths, self.boxes, self.photos = paths, boxes, None
        try:
            if INMEMORY:
                self.photos = np.empty((len(paths), IMAGE_SIZE, IMAGE_SIZE, 3), "uint8")
                with ThreadPoolExecutor(THREADS) as executor:
                    photos = executor.map(load_photo, paths, [IMAGE_SIZE] * len(paths))
                    progress = tqdm(
                        photos, "reading photos", len(paths), unit=" photos", leave=False
                    )
                    for index, photo in enumerate(progress):
                        self.photos[index] = photo
            for path in [] if INMEMORY else paths:
                Path(path).stat()
        except OSError as error:
            sys.exit(f"{error}. Was the photo moved? Run generate_dataset.py again.")
        self.order = np.arange(len(paths))
        self.random = np.random.default_rng(SEED) if shuffle else None
        self.on_epoch_end()

    def __len__(self):
        """Return the number of batches."""
        return -(-len(self.paths) // BATCH_SIZE)

    def __getitem__(self, index):
        """Return a batch; the last of an epoch may be smaller."""
        chosen = self.order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        if INMEMORY:
            return self.photos[chosen], self.boxes[chosen]
        photos = [np.asarray(load_photo(self.paths[i], IMAGE_SIZE)) for i in chosen]
        return np.stack(photos), self.boxes[chosen]

    def on_epoch_end(self):
        """Shuffle, for the next epoch."""
        if self.random is not None:
            self.random.shuffle(self.order)


def create_dataset(csv_name, shuffle=False):
    """Return the PhotoDataset of a CSV."""
    paths, sizes, corners = read_csv(csv_name)
    return PhotoDataset(paths, to_boxes(corners, sizes), shuffle)


def to_boxes(corners, sizes):
    """Turn corners (n, 4) in photos of `sizes` (n, 2) into what the network learns (n, 4)."""
    scale = IMAGE_SIZE / sizes
    minimum, maximum = corners[:, :2] * scale, corners[:, 2:] * scale
    return np.concatenate([(minimum + maximum) / 2, maximum - minimum], axis=1)


def to_corners(boxes, sizes):
    """Turn the network's answers (n, 4) into corners (n, 4) within photos of `sizes` (n, 2)."""
    scale = sizes / IMAGE_SIZE
    centre, half = boxes[:, :2] * scale, np.maximum(boxes[:, 2:], 0) * scale / 2
    corners = [np.clip(corner, 0, sizes) for corner in (centre - half, centre + half)]
    return np.concatenate(corners, axis=1)


def create_model():
    """Return MobileNetV2 with one convolution in the place of its top.

    M. Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks, CVPR 2018.

    Input: (batch, IMAGE_SIZE, IMAGE_SIZE, 3), RGB from 0 to 255. Output: (batch, 4), a box.
    """
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="photos")
    try:
        backbone = MobileNetV2(
            input_tensor=preprocess_input(inputs),
            input_shape=inputs.shape[1:],  # chooses the file of ImageNet weights
            include_top=False,
            weights=WEIGHTS if WEIGHTS in ("imagenet", None) else str(ROOT / WEIGHTS),
            alpha=ALPHA,
        )
    except Exception as error:  # Keras raises a bare Exception when there is no network
        sys.exit(f"WEIGHTS = {WEIGHTS!r} cannot be loaded ({error}). None means random weights.")
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
    features = backbone.output
    box = layers.Conv2D(4, kernel_size=features.shape[1], name="box")(features)
    return keras.Model(inputs, layers.Reshape((4,), name="coords")(box))


def iou(y_true, y_pred):
    """Return the intersection over union of each pair of boxes.

    P. Jaccard, The distribution of the flora in the alpine zone, 1912. Boxes that do not overlap
    have 0, and so has a box with a negative width or height.

    Args:
        y_true: (batch, 4), centre x, centre y, width and height.
        y_pred: likewise.

    Returns: (batch,), 0 to 1.
    """
    true_size, predicted_size = ops.maximum(y_true[:, 2:], 0), ops.maximum(y_pred[:, 2:], 0)
    maximum = ops.minimum(y_true[:, :2] + true_size / 2, y_pred[:, :2] + predicted_size / 2)
    minimum = ops.maximum(y_true[:, :2] - true_size / 2, y_pred[:, :2] - predicted_size / 2)
    intersection = ops.prod(ops.maximum(maximum - minimum, 0), axis=1)
    union = ops.prod(true_size, axis=1) + ops.prod(predicted_size, axis=1) - intersection
    return ops.clip(intersection / ops.maximum(union, keras.config.epsilon()), 0, 1)


def draw_curves(history):
    """Draw loss and IoU of training and validation over the epochs into curves.png."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name, scale in zip(figure.subplots(1, 2), ("loss", "iou"), ("log", "linear")):
        epochs = range(1, len(history[name]) + 1)
        axes.plot(epochs, history[name], label="training")
        axes.plot(epochs, history[f"val_{name}"], label="validation")
        axes.set(xlabel="epoch", ylabel=name, yscale=scale)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(FOLDER / "curves.png")


def main():
    """Train, keep the best model and draw the curves. Ctrl-C ends the training early."""
    check_constants()
    keras.utils.set_random_seed(SEED)
    training, validation = create_dataset(TRAIN_CSV, shuffle=True), create_dataset(VALIDATION_CSV)
    model = create_model()
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "mean_squared_error", metrics=[iou])
    model_file = FOLDER / "model-{val_iou:.2f}.keras"
    history = keras.callbacks.History()
    callbacks = [
        history,
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.ModelCheckpoint(model_file, "val_iou", mode="max", save_best_only=True),
        keras.callbacks.EarlyStopping("val_iou", mode="max", patience=PATIENCE),
        keras.callbacks.ReduceLROnPlateau("val_iou", mode="max", factor=0.2, patience=10),
        keras.callbacks.CSVLogger(FOLDER / "log.csv"),
    ]
    start = time.time()
    try:
        model.fit(training, validation_data=validation, epochs=EPOCHS, callbacks=callbacks)
    except KeyboardInterrupt:
        print("\nInterrupted.")
    # The last model file is the best. The check leaves out one whose writing was interrupted.
    files = [file for file in FOLDER.glob("model-*.keras") if file.stat().st_mtime >= start]
    files = sorted(filter(zipfile.is_zipfile, files), key=lambda file: file.stat().st_mtime)
    if not files:
        sys.exit("No model was saved: no epoch was finished, or the loss was no number any more.")
    for file in files[:-1]:
        file.unlink()
    draw_curves(history.history)
    print(f"Epochs: {len(history.epoch)}, minutes: {(time.time() - start) / 60:.1f}. Next:")
    print(f"python {FOLDER / 'evaluate_performance.py'}, which takes the highest IoU of all")
    print("runs: delete the models of older ones, or set WEIGHTS_FILE. The model of this run:")
    print(files[-1])


if __name__ == "__main__":
    main()
