"""Example 1: train MobileNetV2 to say where the one object in a photo is.

    python example_1/train_model.py    # after generate_dataset.py, before evaluate_performance.py

One convolution in place of a classifier's top answers with four numbers: centre x, centre y, width
and height of the box in pixels of the resized photo. The loss wants overlap and right numbers:

    loss = 1 - GIoU(y_true, y_pred) + sum(|y_true - y_pred|) / IMAGE_SIZE
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
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
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


class PhotoDataset(keras.utils.PyDataset):
    """Batches of photos (batch, IMAGE_SIZE, IMAGE_SIZE, 3), uint8 RGB, and of boxes (batch, 4)."""

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
        return np.stack(photos), boxes

    def on_epoch_end(self):  # Keras calls it after each epoch
        if self.training:
            self.order = self.rng.permutation(self.order)
            self.epoch_seed = self.rng.integers(2**32)


def draw_batch(photos, boxes):
    """Draw a batch as the network sees it into batch.jpg, to look at while it trains."""
    sheet = Image.new("RGB", (8 * IMAGE_SIZE, math.ceil(len(photos) / 8) * IMAGE_SIZE))  # 8 a row
    for i, (x, y, width, height) in enumerate(boxes):
        photo = Image.fromarray(photos[i])
        rectangle = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        ImageDraw.Draw(photo).rectangle(rectangle, outline=(0, 255, 0), width=2)
        sheet.paste(photo, (i % 8 * IMAGE_SIZE, i // 8 * IMAGE_SIZE))
    sheet.save(FOLDER / "batch.jpg")


# The network


def create_model():
    """Return MobileNetV2 (M. Sandler et al., CVPR 2018) with a convolution in place of its top.

    Input: (batch, IMAGE_SIZE, IMAGE_SIZE, 3), RGB from 0 to 255. Output: (batch, 4), a box.
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
    # Not backbone.output: its ReLU can get stuck at 0 for good. With 224 pixels (batch, 7, 7, 320).
    features = backbone.get_layer("block_16_project_BN").output
    # A kernel as large as the map gives one answer, as a dense layer does.
    middle = keras.initializers.Constant(IMAGE_SIZE / 2)  # first box: in the middle, half as wide
    box = layers.Conv2D(4, kernel_size=features.shape[1], bias_initializer=middle)(features)
    return keras.Model(photos, layers.Reshape((4,), name="coords")(box))


# The loss


def corners(boxes):
    """Return the top left and bottom right corners, (batch, 2) each, of boxes (batch, 4)."""
    centre, size = ops.split(boxes, 2, axis=1)
    half = ops.maximum(size, 0) / 2  # the network may answer with a side below 0
    return centre - half, centre + half


def iou_and_giou(y_true, y_pred):
    """Return the intersection over union and the generalized IoU of boxes (batch, 4): (batch,).

    GIoU is IoU minus the share of the smallest box around both that neither covers. Boxes that do
    not overlap all have IoU 0; GIoU tells near from far: H. Rezatofighi et al., CVPR 2019.
    """
    (true_start, true_end), (pred_start, pred_end) = corners(y_true), corners(y_pred)
    shared_sides = ops.minimum(true_end, pred_end) - ops.maximum(true_start, pred_start)
    intersection = ops.prod(ops.maximum(shared_sides, 0), axis=1)  # a side below 0: no overlap
    areas = ops.prod(true_end - true_start, axis=1) + ops.prod(pred_end - pred_start, axis=1)
    union = areas - intersection  # what both share was counted twice
    outer_sides = ops.maximum(true_end, pred_end) - ops.minimum(true_start, pred_start)
    outer = ops.prod(outer_sides, axis=1)  # the smallest box around both
    iou = intersection / ops.maximum(union, keras.config.epsilon())
    return iou, iou - (outer - union) / ops.maximum(outer, keras.config.epsilon())


def iou(y_true, y_pred):
    """Return the intersection over union of boxes (batch, 4): (batch,), 0 to 1."""
    return iou_and_giou(y_true, y_pred)[0]


def box_loss(y_true, y_pred):
    """Return 1 - GIoU + L1 of boxes (batch, 4): (batch,)."""
    l1 = ops.sum(ops.abs(y_true - y_pred), axis=1) / IMAGE_SIZE
    return 1 - iou_and_giou(y_true, y_pred)[1] + l1


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
    model.compile(optimizer, loss=box_loss, metrics=[iou])
    # The learning rate by epoch. It rises first: a head that knows nothing would undo ImageNet.
    cosine = keras.optimizers.schedules.CosineDecay(
        0.0, warmup_target=LEARNING_RATE, warmup_steps=EPOCHS / 4, decay_steps=EPOCHS * 3 / 4
    )
    model_file, log_file, backup = FOLDER / "model.keras", FOLDER / "log.csv", FOLDER / "backup"
    goal = {"monitor": "val_iou", "mode": "max"}  # more is better
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
