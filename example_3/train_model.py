"""Example 3: train MobileNetV2 to say which cells of a grid the one object in a photo covers.

    python example_3/train_model.py    # after generate_dataset.py, before evaluate_performance.py

The network answers with CELLS x CELLS probabilities that a cell's centre is in the box, from which
evaluate_performance.py reads boxes. Skip connections join coarse features, which know what is
there, with fine ones, which know where. The loss asks for right cells, and for grids that overlap:

    loss = binary cross-entropy - log(dice)
    dice = 2 sum(y_true y_pred) / (sum(y_true) + sum(y_pred))
"""

import csv
import math
import shutil
import signal
import sys
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
FROZEN_LAYERS = 54  # of the backbone, from its start, not trained: 54 is to block 5, 154 all
AUGMENT = True  # False: each epoch sees the photos as they are
EPOCHS = 90  # enough for hundreds of photos, thousands need fewer, tens more
BATCH_SIZE = 8
LEARNING_RATE = 1e-3  # the highest: it rises, then falls
PATIENCE = 1000  # it stops after so many epochs without a better model; above EPOCHS: never
THREADS = 2  # that augment photos, and read them if INMEMORY = False
INMEMORY = True  # False reads photos anew for each batch: for more than fit in memory
RESUME = False  # True: an interrupted training goes on after its last finished epoch
SEED = 0
CELLS = IMAGE_SIZE // 8  # cells a side; or IMAGE_SIZE // 32, // 16 or // 4


# The photos


def read_csv(name):
    """Return a CSV's n paths and boxes (n, 4): centre and size in pixels of the resized photo."""
    columns = ("width", "height", "xmin", "ymin", "xmax", "ymax")
    try:
        with open(ROOT / name, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        paths = [ROOT / row["path"] for row in rows]
        numbers = np.array([[row[column] for column in columns] for row in rows], "float32")
    except (KeyError, OSError, TypeError, ValueError, csv.Error) as error:
        sys.exit(f"{name} cannot be read ({error!r}): run generate_dataset.py.")
    if not rows:
        sys.exit(f"{name} has no rows: run generate_dataset.py again.")
    sizes, minimum, maximum = numbers[:, :2], numbers[:, 2:4], numbers[:, 4:6]
    is_inside = (minimum >= 0) & (minimum < maximum) & (maximum <= sizes)
    if not is_inside.all():
        line = np.argmin(is_inside.all(axis=1)) + 2  # line 1 is the header
        sys.exit(f"{name}, line {line}: no box in the photo. Run generate_dataset.py again.")
    boxes = np.concatenate([(minimum + maximum) / 2, maximum - minimum], axis=1)
    return paths, boxes * IMAGE_SIZE / np.tile(sizes, 2)


def load_photo(path):
    """Return a photo upright (EXIF), RGB, stretched to a square; OSError if it cannot be read."""
    try:  # only these formats: for EPS Pillow would start another program
        with Image.open(path, formats=("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")) as photo:
            photo.draft("RGB", (IMAGE_SIZE, IMAGE_SIZE))  # faster: a JPEG at 1/2, 1/4 or 1/8
            photo = ImageOps.exif_transpose(photo).convert("RGB")
            return photo.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        raise OSError(f"{path} cannot be read: {error}") from error


def augment(photo, box, rng):
    """Return a photo and its box, (4,), zoomed, shifted, mirrored and recoloured at random."""
    centre, size = box[:2], box[2:]
    # Cut out a window, smaller or larger than the photo (black outside it), and resize it.
    window = IMAGE_SIZE * rng.uniform(0.5, 1.3) * rng.uniform(0.85, 1.15, 2)  # zoom * stretch
    window = np.maximum(window, size)  # room for the box
    # The window's top left corner: at random, but with the whole box inside the window.
    start = centre - size / 2 - (window - size) * rng.uniform(0, 1, 2)
    spare = IMAGE_SIZE - window  # below 0: the window is larger than the photo
    start = np.clip(start, np.minimum(0, spare), np.maximum(0, spare))  # no needless black
    extent = (*start, *(start + window))  # left, top, right, bottom
    photo = photo.transform(photo.size, Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
    box = np.concatenate([centre - start, size]) * IMAGE_SIZE / np.tile(window, 2)
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
    """Batches of photos (batch, IMAGE_SIZE, IMAGE_SIZE, 3), uint8 RGB, and grids of `to_grid`."""

    def __init__(self, paths, boxes, training=False):
        super().__init__(workers=THREADS)
        self.paths, self.boxes, self.training = paths, boxes, training
        self.order = np.arange(len(paths))
        self.rng = np.random.default_rng(SEED)
        self.on_epoch_end()  # the first shuffle and epoch_seed
        if INMEMORY:
            self.photos = [load_photo(path) for path in tqdm(paths, "reading photos", leave=False)]

    def __len__(self):
        return math.ceil(len(self.paths) / BATCH_SIZE)

    def __getitem__(self, index):  # Keras asks for batch 0 to len(self) - 1, from its threads
        chosen = self.order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        photos = [self.photos[i] if INMEMORY else load_photo(self.paths[i]) for i in chosen]
        boxes = self.boxes[chosen]  # a copy
        if self.training and AUGMENT:
            rng = np.random.default_rng((self.epoch_seed, index))  # the same from any thread
            for i, photo in enumerate(photos):
                photos[i], boxes[i] = augment(photo, boxes[i], rng)
        return np.stack(photos), to_grid(boxes)

    def on_epoch_end(self):  # Keras calls it after each epoch
        if self.training:
            self.order = self.rng.permutation(self.order)
            self.epoch_seed = self.rng.integers(2**32)


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
        is_norm = isinstance(layer, layers.BatchNormalization)
        # A norm that is not trainable takes ImageNet's averages, in training too, not each batch's.
        if WEIGHTS is not None and (index < FROZEN_LAYERS or is_norm):
            layer.trainable = False
        if is_norm:
            layer.momentum = 0.9  # for WEIGHTS = None: averages that follow in tens of steps
    # From 7 x 7 cells up to CELLS x CELLS. Like example 1's map, the first is no ReLU's.
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


class SaveBest(keras.callbacks.ModelCheckpoint):
    """Saves as new.keras, then renames it model.keras: a crash leaves the older one whole."""

    def on_epoch_end(self, epoch, logs=None):
        best_before = self.best
        super().on_epoch_end(epoch, logs)
        if self.best != best_before:  # it has just been saved
            Path(self.filepath).replace(FOLDER / "model.keras")


def draw_curves(log):
    """Draw loss and metrics over the epochs, the columns of log.csv, into curves.png."""
    names = [name[4:] for name in log.dtype.names if name.startswith("val_")]  # loss, ...
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names):
        axes.plot(log["epoch"], log[name], ".-", label="training")
        axes.plot(log["epoch"], log[f"val_{name}"], ".-", label="validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend()
    figure.savefig(FOLDER / "curves.png")


def main():
    """Train, keep the best model and draw the curves."""
    keras.utils.set_random_seed(SEED)
    training = PhotoDataset(*read_csv(TRAIN_CSV), training=True)
    validation = PhotoDataset(*read_csv(VALIDATION_CSV))
    draw_batch(*training[0])
    model = create_model()
    optimizer = keras.optimizers.AdamW(LEARNING_RATE, weight_decay=0.01)
    model.compile(optimizer, loss=grid_loss, metrics=[dice_coefficient])
    # The learning rate by epoch. It rises first: a head that knows nothing would undo ImageNet.
    cosine = keras.optimizers.schedules.CosineDecay(
        0.0, warmup_target=LEARNING_RATE, warmup_steps=EPOCHS / 4, decay_steps=EPOCHS * 3 / 4
    )
    model_file, log_file, backup = FOLDER / "model.keras", FOLDER / "log.csv", FOLDER / "backup"
    goal = {"monitor": "val_dice_coefficient", "mode": "max"}  # more is better
    is_resumed = RESUME and (backup / "training_metadata.json").exists()  # is written last
    if is_resumed:  # best: what a model must beat to be saved
        best = np.nanmax(np.genfromtxt(log_file, delimiter=",", names=True)[goal["monitor"]])
    else:
        best = -1  # any model is better
        shutil.rmtree(backup, ignore_errors=True)
        if model_file.exists():  # of an earlier training
            model_file.rename(FOLDER / f"model_{datetime.now():%Y-%m-%d_%H-%M-%S}.keras")
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch: float(cosine(epoch + 0.5))),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping(patience=PATIENCE, **goal),
        SaveBest(FOLDER / "new.keras", save_best_only=True, initial_value_threshold=best, **goal),
        keras.callbacks.CSVLogger(log_file, append=is_resumed),
        keras.callbacks.BackupAndRestore(backup, double_checkpoint=True),
    ]
    model.fit(training, validation_data=validation, epochs=EPOCHS, callbacks=callbacks)
    draw_curves(np.genfromtxt(log_file, delimiter=",", names=True))
    print(f"Next: python {FOLDER.name}/evaluate_performance.py")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback
    try:
        main()
    except OSError as error:
        sys.exit(f"train_model.py: {error}")
