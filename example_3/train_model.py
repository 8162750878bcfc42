"""Example 3: train MobileNetV2 to predict which cells of a grid the object's box covers.

    python example_3/train_model.py    # after generate_dataset.py, before evaluate_performance.py

The network predicts, for the window that it sees, CELLS x CELLS probabilities that a cell's centre
is in the box, from which evaluate_performance.py reads boxes. Skip connections join coarse
features, which know what is there, with fine ones, which know where. The loss is a term for
each cell, the cross-entropy, and an overlap term, dice:

    loss = binary cross-entropy - log(dice)
    dice = 2 sum(y_true y_pred) / (sum(y_true) + sum(y_pred))
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback

import contextlib
import csv
import math
import os
import sqlite3
import sys
import time
from datetime import datetime
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from keras.applications.mobilenet_v2 import MobileNetV2, preprocess_input
from matplotlib.figure import Figure
from PIL import Image, ImageEnhance, ImageOps
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent  # the CSVs and the paths in them start here
FOLDER = Path(__file__).resolve().parent  # what is written goes here

TRAIN_CSV = "train.csv"
VALIDATION_CSV = "validation.csv"
WEIGHTS = "imagenet"  # or None (random), or the path of a .weights.h5 file
ALPHA = 1.0  # width of the network: 0.35, 0.5, 0.75, 1.0; with 224 pixels also 1.3 or 1.4
IMAGE_SIZE = 224  # 96, 128, 160, 192 or 224 pixels
FROZEN_LAYERS = 54  # layers from the input that are not trained: 54 to block 5 of 16; 154: all
AUGMENT = True  # random windows, mirrored, recoloured; False: the whole photo, unchanged
EPOCHS = 15  # more take longer and find better boxes
WINDOWS_PER_EPOCH = 1000  # for up to 200 photos; for more it is times sqrt(photos / 200)
BATCH_SIZE = 8
LEARNING_RATE = 1e-3  # peak: warm-up, then cosine decay
THREADS = 2  # that cut windows, and read photos if INMEMORY = False
INMEMORY = True  # False reads photos anew for each window, if they do not fit in memory
KEPT_SIZE = 448  # longest side of a photo in training: more is sharper if objects are small
RESUME = False  # True: an interrupted training goes on after its last finished epoch
SEED = 0
CELLS = IMAGE_SIZE // 8  # cells a side; or IMAGE_SIZE // 32, // 16 or // 4


# The photos


def read_csv(name):
    """Return a CSV's n paths and boxes (n, 4): centre and size as shares of the photo's sides."""
    columns = ("width", "height", "xmin", "ymin", "xmax", "ymax")
    try:
        with open(ROOT / name, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        paths = [ROOT / row["path"] for row in rows]
        numbers = np.array([[row[column] for column in columns] for row in rows], "float32")
    except FileNotFoundError:
        sys.exit(f"{name} is not there: run generate_dataset.py.")
    except (KeyError, OSError, TypeError, ValueError, csv.Error) as error:
        reason = repr(error)[:100]  # may hold the whole file
        sys.exit(f"{name} is no CSV with commas, in UTF-8 ({reason}): run generate_dataset.py.")
    if not rows:
        sys.exit(f"{name} has no rows: run generate_dataset.py again.")
    sizes, minimum, maximum = numbers[:, :2], numbers[:, 2:4], numbers[:, 4:6]
    is_box = (minimum >= 0) & (maximum - minimum >= 1) & (maximum <= sizes) & (sizes < np.inf)
    if not is_box.all():
        first_bad = np.flatnonzero(~is_box.all(axis=1))[0]
        sys.exit(f"{name}, line {first_bad + 2}: no box, in pixels, within the photo.")
    for path, size in zip(paths, sizes.astype(int).tolist()):
        check_size(path, tuple(size))
    boxes = np.concatenate([(minimum + maximum) / 2, maximum - minimum], axis=1)
    return paths, boxes / np.tile(sizes, 2)


def load_photo(path, longest_side=None):
    """Return a photo, RGB, rotated as its EXIF orientation says; OSError if it cannot be read."""
    try:  # only these formats: for EPS Pillow would start another program
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError("there is no such file")
        with Image.open(path, formats=("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")) as photo:
            if photo.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel, save it with 8")
            longest_side = longest_side or max(photo.size)
            photo.draft("RGB", (longest_side, longest_side))  # reads a JPEG at 1/2, 1/4 or 1/8
            photo = ImageOps.exif_transpose(photo).convert("RGB")
            photo.thumbnail((longest_side, longest_side))
            return photo
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        advice = " (HEIC: export it as JPEG)" if path.suffix.lower() in (".heic", ".heif") else ""
        raise OSError(f"{path} cannot be read: {error}{advice}") from error


# A window is centre and size (4,), as a box is. Both are shares of the photo's sides, and outside
# of the photo is black. What is cut out there and resized is called a window as well.
WHOLE_PHOTO = np.array([0.5, 0.5, 1, 1])


def cut_window(photo, window):
    """Return a window of a photo as a photo of IMAGE_SIZE x IMAGE_SIZE pixels."""
    centre, size = np.split(window * np.tile(photo.size, 2), 2)
    first, last = centre - size / 2, centre + size / 2  # corners, in pixels of the photo
    # `crop` takes whole pixels, and `resize` the fractions of them that are in the window.
    crop_start = np.floor(first)
    crop = photo.crop((*crop_start, *np.ceil(last)))
    extent = (*(first - crop_start), *(last - crop_start))
    return crop.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR, box=extent)


def photo_to_window(boxes, windows):
    """Return boxes (..., 4) of the photo in pixels of the resized windows (..., 4)."""
    centre = (boxes[..., :2] - windows[..., :2]) / windows[..., 2:] + 0.5
    size = boxes[..., 2:] / windows[..., 2:]
    return np.concatenate([centre, size], axis=-1) * IMAGE_SIZE


def window_to_photo(boxes, windows):
    """Inverse of `photo_to_window`: return boxes (..., 4) in shares of the photo's sides."""
    centre = windows[..., :2] + (boxes[..., :2] / IMAGE_SIZE - 0.5) * windows[..., 2:]
    size = boxes[..., 2:] / IMAGE_SIZE * windows[..., 2:]
    return np.concatenate([centre, size], axis=-1)


def draw_window(box, rng):
    """Return a random window (4,) with a box (4,) in it, from close-up to more than the photo."""
    centre, size = box[:2], box[2:]
    # 0 is a close-up, 1 more than the photo. U-shaped: most often near both, a little beyond what
    # evaluation looks at: 1.5 times the box, and the whole photo.
    distance = rng.beta(0.5, 0.5)
    closest, widest = 1.2 * size, 1.3
    side = closest * (widest / closest) ** distance  # equal steps zoom by equal factors
    side *= rng.uniform(0.85, 1.15, 2)  # stretched; 1.2 * 0.85 > 1, so there is room for the box
    # The top left corner at random, but with the whole box inside the window.
    start = centre - size / 2 - (side - size) * rng.uniform(0, 1, 2)
    # A window smaller than the photo is moved into it, a larger one to cover it: the box stays in.
    start = np.clip(start, np.minimum(0, 1 - side), np.maximum(0, 1 - side))
    return np.concatenate([start + side / 2, side])


def augment(photo, box, rng):
    """Return a window of a photo, mirrored and recoloured at random, and the box (4,) in it."""
    window = draw_window(box, rng)
    photo, box = cut_window(photo, window), photo_to_window(box, window)
    if rng.uniform() < 0.5:
        photo = ImageOps.mirror(photo)
        box[0] = IMAGE_SIZE - box[0]
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = enhancer(photo).enhance(rng.uniform(0.5, 1.5))
    return photo, box


def to_grid(boxes):
    """Return which cells have their centre in boxes (batch, 4): (batch, CELLS, CELLS), 0 or 1."""
    cell_size = IMAGE_SIZE / CELLS
    centres = (np.arange(CELLS) + 0.5) * cell_size
    x, y, width, height = np.split(boxes, 4, axis=1)  # (batch, 1) each
    columns = np.abs(centres - x) <= np.maximum(width, cell_size) / 2  # at least one cell
    rows = np.abs(centres - y) <= np.maximum(height, cell_size) / 2  # (batch, CELLS)
    return (rows[:, :, None] & columns[:, None, :]).astype("float32")


class PhotoDataset(keras.utils.PyDataset):
    """Batches of windows (batch, IMAGE_SIZE, IMAGE_SIZE, 3), uint8 RGB, and grids of `to_grid`.

    In training random windows of random photos, the same for the same SEED and `epoch`; in
    validation each whole photo once. Keras asks for the batches from THREADS threads, in any order.
    """

    def __init__(self, paths, boxes, training=False):
        super().__init__(workers=THREADS)
        self.paths, self.boxes, self.training = paths, boxes, training
        self.epoch = 0
        if INMEMORY:
            progress = tqdm(paths, "reading photos", leave=False)
            self.photos = [load_photo(path, KEPT_SIZE) for path in progress]

    def __len__(self):
        windows = len(self.paths)
        if self.training:
            windows = WINDOWS_PER_EPOCH * max(1, math.sqrt(len(self.paths) / 200))
        return math.ceil(windows / BATCH_SIZE)

    def __getitem__(self, index):
        chosen = range(len(self.paths))[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        rng = np.random.default_rng((SEED, self.epoch, index))
        if self.training:
            chosen = rng.integers(len(self.paths), size=BATCH_SIZE)
        windows, boxes = [], []
        for i in chosen:
            photo = self.photos[i] if INMEMORY else load_photo(self.paths[i], KEPT_SIZE)
            if self.training and AUGMENT:
                window, box = augment(photo, self.boxes[i], rng)
            else:
                window = cut_window(photo, WHOLE_PHOTO)
                box = photo_to_window(self.boxes[i], WHOLE_PHOTO)
            windows.append(window)
            boxes.append(box)
        return np.stack(windows), to_grid(np.stack(boxes))

    def start_epoch(self, epoch, logs=None):
        self.epoch = epoch


def draw_batch(photos, grids):
    """Draw a batch as the network sees it into batch.jpg, to look at while it trains."""
    sheet = Image.new("RGB", (8 * IMAGE_SIZE, math.ceil(len(photos) / 8) * IMAGE_SIZE))  # 8 a row
    for i, grid in enumerate(grids):
        photo = Image.fromarray(photos[i])
        opacity = Image.fromarray((100 * grid).astype("uint8"))  # of 255, so the photo shows
        photo.paste((0, 255, 0), mask=opacity.resize(photo.size, Image.Resampling.NEAREST))
        sheet.paste(photo, (i % 8 * IMAGE_SIZE, i // 8 * IMAGE_SIZE))
    sheet.save(FOLDER / "batch.jpg")


# The network


def create_model():
    """Return MobileNetV2 (M. Sandler et al., CVPR 2018) as a U-Net (O. Ronneberger et al., 2015).

    Input: (batch, IMAGE_SIZE, IMAGE_SIZE, 3), RGB, 0 to 255. Output: (batch, CELLS, CELLS), 0 to 1.
    """
    photos = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="photos")
    backbone = MobileNetV2(
        input_tensor=preprocess_input(photos),  # 0 to 255 becomes -1 to 1
        input_shape=photos.shape[1:],  # chooses the file of weights
        alpha=ALPHA,
        include_top=False,
        weights=WEIGHTS,
    )
    for index, layer in enumerate(backbone.layers):
        is_batch_norm = isinstance(layer, layers.BatchNormalization)
        # Frozen, batch norm runs in inference mode in training too: with ImageNet's averages.
        if WEIGHTS is not None and (index < FROZEN_LAYERS or is_batch_norm):
            layer.trainable = False
        if is_batch_norm:
            layer.momentum = 0.9  # for WEIGHTS = None: averages that follow in tens of steps
    # From 7 x 7 cells up to CELLS x CELLS, by the last sum of each size: no ReLU follows a sum.
    features = backbone.get_layer("block_15_add").output
    features = layers.Conv2D(128, 1, activation="relu6")(features)
    for name in ("block_12_add", "block_5_add", "block_2_add"):  # 14, 28 and 56 cells at 224 px
        if features.shape[1] == CELLS:
            break
        finer = layers.Conv2D(64, 1, activation="relu6")(backbone.get_layer(name).output)
        features = layers.UpSampling2D(interpolation="bilinear")(features)  # twice the side
        features = layers.Concatenate()([features, finer])  # the skip connection
        features = layers.BatchNormalization(momentum=0.9)(features)  # new, so it trains
        features = layers.SeparableConv2D(128, 3, padding="same", activation="relu6")(features)
    cells = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(features)
    return keras.Model(photos, layers.Reshape((CELLS, CELLS), name="cells")(cells))


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
    training = PhotoDataset(*read_csv(TRAIN_CSV), training=True)
    validation = PhotoDataset(*read_csv(VALIDATION_CSV))
    model = create_model_or_exit()
    # Warm-up: large steps of a head that knows nothing would undo the weights, and kill ReLUs.
    steps = EPOCHS * len(training)
    learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0, warmup_target=LEARNING_RATE, warmup_steps=steps // 4, decay_steps=steps - steps // 4
    )
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.01)
    model.compile(optimizer, loss=grid_loss, metrics=[dice_coefficient])
    first_epoch = start_or_resume(model, len(training))
    draw_batch(*training[0])
    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_begin=training.start_epoch),
        keras.callbacks.CSVLogger(FOLDER / "log.csv", append=first_epoch > 0),
        SaveModel(),
    ]
    model.fit(
        training,
        validation_data=validation,
        shuffle=False,  # windows are random already
        initial_epoch=first_epoch,
        epochs=EPOCHS,
        callbacks=callbacks,
    )
    draw_curves()
    print(f"Next: python {FOLDER.name}/evaluate_performance.py")


# Housekeeping: here the lesson is over.


class SaveModel(keras.callbacks.Callback):
    """Saves the model after each epoch. A kill while it is written leaves the one before whole."""

    def on_train_begin(self, logs=None):
        self.start, self.trained = time.time(), 0

    def on_epoch_begin(self, epoch, logs=None):
        if self.trained > 0:
            seconds_per_epoch = (time.time() - self.start) / self.trained
            print(f"{(EPOCHS - epoch) * seconds_per_epoch / 60:.0f} minutes left")

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"] + logs["val_loss"]):
            sys.exit("The loss is no number: lower LEARNING_RATE, and look at batch.jpg.")
        unfinished = FOLDER / "model.unfinished.keras"
        self.model.save(unfinished)
        unfinished.replace(FOLDER / "model.keras")
        self.trained += 1

    def on_train_end(self, logs=None):
        figures = ", ".join(f"{name} {logs[name]:.3f}" for name in logs if "val_" in name)
        minutes = (time.time() - self.start) / 60
        print(f"{self.trained} epochs in {minutes:.0f} minutes: {figures} (whole photos)")


def check_size(path, size):
    """Stop if a photo has not the (width, height) of its row: its box would be elsewhere."""
    if not path.is_file():
        return  # `load_photo` will say so
    try:
        with Image.open(path) as photo:  # reads only the start of the file
            found = photo.size
            # Quarter turns; a TIFF Pillow turns by itself.
            if photo.format != "TIFF" and photo.getexif().get(0x0112) in (5, 6, 7, 8):
                found = found[::-1]
    except Exception:
        return  # `load_photo` will say why
    if found != size:
        sys.exit(f"{path} has {found} pixels, the CSV says {size}: run generate_dataset.py.")


def lock_folder():
    """Return a lock against a second training here; it ends with the process, however that ends."""
    try:
        lock = sqlite3.connect(FOLDER / "training.lock", timeout=0)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        sys.exit(f"Does another training run in {FOLDER}? Wait for it, or stop it. ({error})")
    return lock


def create_model_or_exit(*arguments):
    """Return `create_model`'s model, or say in one line what to do without ImageNet's weights."""
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(ALPHA)}_{IMAGE_SIZE}_no_top.h5"
    file = Path(os.environ.get("KERAS_HOME", "~/.keras"), "models", name).expanduser()
    try:
        return create_model(*arguments)
    except Exception as error:  # Keras raises a bare Exception when there is no network
        if WEIGHTS == "imagenet" and not file.exists() and not isinstance(error, ValueError):
            sys.exit(f"No weights: {error}. Download it elsewhere, and put it into {file.parent}.")
        if WEIGHTS == "imagenet" and isinstance(error, OSError) and error.errno is None:
            broken = file.replace(f"{file}.broken")
            sys.exit(f"Half a file of weights is now {broken}: run again, to download all of it.")
        raise


def start_or_resume(model, steps_per_epoch):
    """Return how many epochs are done: with RESUME, or 0, and an older training was moved away."""
    done = resume(model, steps_per_epoch) if RESUME else 0
    if done == 0:
        keep_older_training()
    return done


def resume(model, steps_per_epoch):
    """Load the last epoch's model, with the state of its optimizer; return how many are done."""
    if not (FOLDER / "model.keras").exists():
        print("RESUME: no epoch was finished, so the training starts anew.")
        return 0
    if (ROOT / TRAIN_CSV).stat().st_mtime > (FOLDER / "model.keras").stat().st_mtime:
        sys.exit(f"RESUME: {TRAIN_CSV} is newer than model.keras: train anew, with RESUME = False.")
    try:
        model.optimizer.build(model.trainable_variables)
        model.load_weights(FOLDER / "model.keras")
    except Exception as error:  # of many kinds, for a broken file or other shapes
        reason = str(error).partition("\n")[0][:200]
        sys.exit(f"RESUME: model.keras is broken or was trained with other constants ({reason})")
    done, rest = divmod(int(model.optimizer.iterations), steps_per_epoch)
    if done == 0 or rest > 0:  # no optimizer of this network, or not the end of an epoch
        sys.exit("RESUME: model.keras was trained with other constants or number of photos.")
    if done >= EPOCHS:
        sys.exit(f"RESUME: all {done} epochs are done. To go on set EPOCHS higher.")
    return done


def keep_older_training():
    """Move what an older training and its evaluation wrote into a folder named by its time."""
    names = "model.keras classes.json log.csv batch.jpg curves.png confusion.png predictions"
    names = f"{names} predictions.csv predictions.png".split()
    files = [FOLDER / name for name in names if (FOLDER / name).exists()]
    if not files:
        return
    end = datetime.fromtimestamp(files[0].stat().st_mtime)
    older = FOLDER / f"{end:%Y-%m-%d_%H-%M-%S}"
    while older.exists():  # the model was moved back from there
        older = older.with_name(f"{older.name}_again")
    older.mkdir()
    for file in files:
        file.rename(older / file.name)
    print(f"The older training is now in {older}.")


def draw_curves():
    """Draw loss and metrics over the epochs, the columns of log.csv, into curves.png."""
    # A line that a full disk or a kill has cut is left out, with a warning of NumPy's.
    log = np.genfromtxt(FOLDER / "log.csv", delimiter=",", names=True, invalid_raise=False)
    log = np.atleast_1d(log)
    names = [name.removeprefix("val_") for name in log.dtype.names if name.startswith("val_")]
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names):
        axes.plot(log["epoch"], log[name], ".-", label="training")
        axes.plot(log["epoch"], log[f"val_{name}"], ".-", label="validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend()
    figure.savefig(FOLDER / "curves.png")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("train_model.py takes no arguments: edit the constants at its top.")
    try:
        with contextlib.closing(lock_folder()):
            main()
    except OSError as error:
        sys.exit(f"train_model.py: {error}")
