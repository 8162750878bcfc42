"""Example 3: train MobileNetV2 to predict which cells of a grid the object's box covers.

    python example_3/train_model.py    # after generate_dataset.py, before evaluate_performance.py

The network predicts, for the window that it sees, CELLS x CELLS probabilities that a cell's centre
is in the box, from which evaluate_performance.py reads boxes. Skip connections join coarse
features, which know what is there, with fine ones, which know where. The loss is a term for
each cell, the cross-entropy, and an overlap term, dice:

    loss = binary cross-entropy - log(dice)
    dice = 2 sum(y_true y_pred) / (sum(y_true) + sum(y_pred))

Each training writes what example 1's writes.
"""

import csv
import math
import shutil
import sys
from datetime import datetime
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from keras.applications.mobilenet_v2 import MobileNetV2
from matplotlib.figure import Figure
from PIL import Image, ImageEnhance, ImageOps
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent  # the CSVs and the paths in them start here
RUNS = Path(__file__).resolve().parent / "runs"

TRAIN_CSV = "train.csv"
VALIDATION_CSV = "validation.csv"
WEIGHTS = "imagenet"  # or a model.keras to start from, such as "example_1/runs/.../model.keras"
ALPHA = 1.0  # width of the network: 0.35, 0.5, 0.75, 1.0; with 224 pixels also 1.3 or 1.4
IMAGE_SIZE = 224  # 96, 128, 160, 192 or 224 pixels
FROZEN_LAYERS = 54  # the first layers keep their weights; 54: up to block 5 of 16; 154: all
EPOCHS = 15  # more take longer and find better boxes
WINDOWS_PER_EPOCH = 1000  # up to 200 photos; above, multiplied by sqrt(photos / 200)
BATCH_SIZE = 8
LEARNING_RATE = 1e-3  # peak: warm-up, then cosine decay
KEPT_SIZE = 448  # longest side of a photo in memory: more helps with small objects
RESUME = None  # or "2026-11-29_14-03-05": continue this run after its last complete epoch
SEED = 0
CELLS = IMAGE_SIZE // 8  # cells per side; or IMAGE_SIZE // 32, // 16 or // 4


# The photos


# A box is xmin, ymin, xmax and ymax (4,), as shares of the sides of the photo or window it is in.
def read_csv(file):
    """Return a CSV's photos: "path", "size" in pixels and "box", the first one: the largest."""
    photos = {}
    with open(file, newline="", encoding="utf-8-sig") as lines:
        for line, row in enumerate(csv.DictReader(lines), start=2):
            if row["path"] in photos or not row["xmin"]:
                continue  # a smaller object, or a photo without an object: example 2 learns these
            corners = np.array([row["xmin"], row["ymin"], row["xmax"], row["ymax"]], float)
            size = np.array([row["width"], row["height"]], float)
            box = corners / np.tile(size, 2)
            if not ((box >= 0) & (box <= 1)).all() or (corners[2:] - corners[:2]).min() < 1:
                sys.exit(f"{file.name}, line {line}: not a box inside the photo, in pixels.")
            photos[row["path"]] = {"path": ROOT / row["path"], "size": size, "box": box}
    return list(photos.values())


def load_photo(path, longest_side=100_000, size=None):
    """Return an upright RGB photo; OSError if it cannot be read or is not in proportion to size."""
    try:
        # Only these formats: for PostScript Pillow would start another program.
        with Image.open(path, formats=("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")) as photo:
            if photo.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits per channel")
            photo.draft("RGB", (longest_side, longest_side))  # a large JPEG is read smaller
            photo = ImageOps.exif_transpose(photo).convert("RGB")
            photo.thumbnail((longest_side, longest_side))
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        raise OSError(f"{path} cannot be read: {error}") from error
    expected = photo.size if size is None else size * max(photo.size) / max(size)
    if not np.allclose(photo.size, expected, rtol=0, atol=1.5):  # sides are rounded
        raise OSError(f"{path} is not in proportion to the CSV's size: run generate_dataset.py")
    return photo


# A window, like a box, is xmin, ymin, xmax and ymax (4,), in shares of the photo's sides; outside
# the photo it is black. The picture cut out there and resized is also called a window.
WHOLE_PHOTO = np.array([0, 0, 1, 1])


def cut_window(photo, window, image_size):
    """Cut a window out of a photo; return it resized to image_size x image_size pixels."""
    xmin, ymin, xmax, ymax = window * np.tile(photo.size, 2)
    # `crop` works in whole pixels; `resize` then keeps exactly the window.
    left, top = math.floor(xmin), math.floor(ymin)
    crop = photo.crop((left, top, math.ceil(xmax), math.ceil(ymax)))
    extent = (xmin - left, ymin - top, xmax - left, ymax - top)
    return crop.resize((image_size, image_size), Image.Resampling.BILINEAR, box=extent)


def photo_to_window(boxes, window):
    """Turn boxes (..., 4) from shares of the photo's sides into those of a window's (4,)."""
    return (boxes - np.tile(window[..., :2], 2)) / np.tile(window[..., 2:] - window[..., :2], 2)


def window_to_photo(boxes, window):
    """Turn boxes (..., 4) from shares of a window's sides into those of the photo's."""
    return boxes * np.tile(window[..., 2:] - window[..., :2], 2) + np.tile(window[..., :2], 2)


def draw_window(box, rng):
    """Return a random window (4,) with a box (4,) in it, from close-up to more than the photo."""
    size = box[2:] - box[:2]
    # 0 is a close-up, 1 more than the photo. U-shaped: values near these two are likelier.
    distance = rng.beta(0.5, 0.5)
    closest, widest = 1.2 * size, 1.3
    side = closest * (widest / closest) ** distance  # from closest (0) to widest (1)
    side *= rng.uniform(0.85, 1.15, 2)  # stretched; 1.2 * 0.85 > 1, so there is room for the box
    start = box[:2] - (side - size) * rng.uniform(0, 1, 2)  # at random, with the whole box inside
    # On each axis: move a smaller window into the photo, a larger one over it. The box stays in.
    start = np.clip(start, np.minimum(0, 1 - side), np.maximum(0, 1 - side))
    return np.concatenate([start, start + side])


def augment(picture, box, rng):
    """Return a window's picture, mirrored and recoloured at random, and the box (4,) in it."""
    if rng.uniform() < 0.5:
        picture = ImageOps.mirror(picture)
        box = np.array([1 - box[2], box[1], 1 - box[0], box[3]])
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhancer(picture).enhance(rng.uniform(0.5, 1.5))
    return picture, box


def to_grid(boxes, cells):
    """Return which cells have their centre in boxes (batch, 4): (batch, cells, cells), 0 or 1."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    start = np.minimum(boxes[:, :2], middle - 0.5 / cells)  # at least one cell
    end = np.maximum(boxes[:, 2:], middle + 0.5 / cells)
    centres = (np.arange(cells) + 0.5) / cells
    is_inside = (centres >= start[:, :, None]) & (centres <= end[:, :, None])  # (batch, 2, cells)
    columns, rows = is_inside[:, 0, None, :], is_inside[:, 1, :, None]
    return (rows & columns).astype("float32")


class PhotoDataset(keras.utils.PyDataset):
    """Batches of windows (batch, IMAGE_SIZE, IMAGE_SIZE, 3), uint8 RGB, and grids of `to_grid`.

    In training they are random, but the same for the same SEED and `epoch`, in whatever order
    Keras's threads ask for them. In validation they are the whole photos, each once.
    """

    def __init__(self, rows, training=False):
        super().__init__(workers=2)
        self.rows, self.training, self.epoch = rows, training, 0
        progress = tqdm(rows, "reading photos", leave=False)
        self.photos = [load_photo(row["path"], KEPT_SIZE, row["size"]) for row in progress]

    def __len__(self):
        windows = len(self.rows)
        if self.training:
            windows = WINDOWS_PER_EPOCH * max(1, math.sqrt(len(self.rows) / 200))
        return math.ceil(windows / BATCH_SIZE)

    def __getitem__(self, index):
        rng = np.random.default_rng((SEED, self.epoch, index))
        if self.training:
            chosen = rng.integers(len(self.rows), size=BATCH_SIZE)
        else:  # the next photos; the last batch may be smaller
            chosen = range(len(self.rows))[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        windows, boxes = [], []
        for i in chosen:
            window = draw_window(self.rows[i]["box"], rng) if self.training else WHOLE_PHOTO
            picture = cut_window(self.photos[i], window, IMAGE_SIZE)
            box = photo_to_window(self.rows[i]["box"], window)
            if self.training:
                picture, box = augment(picture, box, rng)
            windows.append(picture)
            boxes.append(box)
        return np.stack(windows), to_grid(np.stack(boxes), CELLS)

    def start_epoch(self, epoch, logs=None):
        self.epoch = epoch


def draw_batch(windows, grids, file):
    """Draw eight windows as the network sees them, to look at while it trains."""
    sheet = Image.fromarray(np.concatenate(windows[:8], axis=1))  # side by side
    opacity = Image.fromarray((100 * np.concatenate(grids[:8], axis=1)).astype("uint8"))  # of 255
    sheet.paste((0, 255, 0), mask=opacity.resize(sheet.size, Image.Resampling.NEAREST))
    sheet.save(file)


# The network


def create_model():
    """Return MobileNetV2 (M. Sandler et al., CVPR 2018) as a U-Net (O. Ronneberger et al., 2015).

    Input: (batch, IMAGE_SIZE, IMAGE_SIZE, 3), RGB, 0 to 255. Output: (batch, CELLS, CELLS), 0 to 1.
    """
    windows = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="windows")
    backbone = MobileNetV2(
        input_tensor=layers.Rescaling(1 / 127.5, offset=-1)(windows),  # 0 to 255 becomes -1 to 1
        input_shape=windows.shape[1:],  # selects the file of weights
        alpha=ALPHA,
        include_top=False,
        weights="imagenet" if WEIGHTS == "imagenet" else None,
    )
    for index, layer in enumerate(backbone.layers):
        # Frozen, batch norm runs in inference mode in training too: with ImageNet's averages.
        if index < FROZEN_LAYERS or isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    # From 7 x 7 cells up to CELLS x CELLS, by the last residual sum of each size (before any ReLU).
    features = backbone.get_layer("block_15_add").output
    features = layers.Conv2D(128, 1, activation="relu6")(features)
    for name in ("block_12_add", "block_5_add", "block_2_add"):  # 14, 28 and 56 cells at 224 px
        if features.shape[1] == CELLS:
            break
        finer = layers.Conv2D(64, 1, activation="relu6")(backbone.get_layer(name).output)
        features = layers.UpSampling2D(interpolation="bilinear")(features)  # twice the side
        features = layers.Concatenate()([features, finer])  # the skip connection
        features = layers.BatchNormalization(momentum=0.9)(features)  # new, so it is trained
        features = layers.SeparableConv2D(128, 3, padding="same", activation="relu6")(features)
    cells = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(features)
    return keras.Model(windows, layers.Reshape((CELLS, CELLS), name="cells")(cells))


# The loss


def dice_coefficient(y_true, y_pred):
    """Return the dice of grids (batch, CELLS, CELLS), their overlap: (batch,), 0 to 1."""
    both = ops.sum(y_true * y_pred, axis=(1, 2))
    total = ops.sum(y_true + y_pred, axis=(1, 2))
    return 2 * both / ops.maximum(total, keras.config.epsilon())


def grid_loss(y_true, y_pred):
    """Return binary cross-entropy - log(dice) of grids (batch, CELLS, CELLS): (batch,)."""
    entropy = keras.losses.binary_crossentropy(y_true, y_pred)  # (batch, CELLS)
    dice = ops.maximum(dice_coefficient(y_true, y_pred), keras.config.epsilon())
    return ops.mean(entropy, axis=1) - ops.log(dice)


# The training


def main():
    """Train, save the model after each epoch and draw the curves."""
    keras.utils.set_random_seed(SEED)
    folder = RUNS / (RESUME or f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if not RESUME:
        if not (ROOT / TRAIN_CSV).exists():
            sys.exit(f"{TRAIN_CSV} does not exist: run generate_dataset.py.")
        folder.mkdir(parents=True)
        shutil.copy(ROOT / TRAIN_CSV, folder / "train.csv")  # what evaluation will read too
        shutil.copy(ROOT / VALIDATION_CSV, folder / "validation.csv")
    print(f"Writing into {folder.relative_to(ROOT)}. To continue it: RESUME = {folder.name!r}")
    training = PhotoDataset(read_csv(folder / "train.csv"), training=True)
    validation = PhotoDataset(read_csv(folder / "validation.csv"))
    draw_batch(*training[0], folder / "batch.jpg")
    model = create_model()
    if WEIGHTS != "imagenet":
        model.load_weights(ROOT / WEIGHTS, skip_mismatch=True)  # other layers stay new
    # Warm-up: large steps while the head is still random would destroy the backbone's weights.
    steps = EPOCHS * len(training)
    learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0, warmup_target=LEARNING_RATE, warmup_steps=steps // 4, decay_steps=steps - steps // 4
    )
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.01)
    model.compile(optimizer, loss=grid_loss, metrics=[dice_coefficient])
    if RESUME:
        optimizer.build(model.trainable_variables)
        model.load_weights(folder / "model.keras")  # the optimizer's too
        assert int(optimizer.iterations) < EPOCHS * len(training), "RESUME: all epochs are done"

    def save(epoch, logs):
        model.save(folder / "unfinished.keras")  # if killed here, model.keras stays whole
        (folder / "unfinished.keras").replace(folder / "model.keras")

    model.fit(
        training,
        validation_data=validation,
        shuffle=False,  # windows are random already
        initial_epoch=int(optimizer.iterations) // len(training),  # the epochs done: with RESUME
        epochs=EPOCHS,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_begin=training.start_epoch, on_epoch_end=save),
            keras.callbacks.CSVLogger(folder / "log.csv", append=bool(RESUME)),
            keras.callbacks.TerminateOnNaN(raise_error=True),
        ],
    )
    draw_curves(folder)
    print(f"Next: python {RUNS.parent.name}/evaluate_performance.py")


def draw_curves(folder):
    """Draw loss and metrics over the epochs, the columns of log.csv, into curves.png."""
    log = np.atleast_1d(np.genfromtxt(folder / "log.csv", delimiter=",", names=True))
    names = [name.removeprefix("val_") for name in log.dtype.names if name.startswith("val_")]
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names):
        axes.plot(log["epoch"], log[name], ".-", label="training")
        axes.plot(log["epoch"], log[f"val_{name}"], ".-", label="validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend()
    figure.savefig(folder / "curves.png")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("train_model.py: interrupted")
    except OSError as error:  # a file or a photo
        sys.exit(f"train_model.py: {error}")
