"""Example 2: train MobileNetV2 to predict the box of an object in a photo, its class, or nothing.

    python example_2/train_model.py    # after generate_dataset.py, before evaluate_performance.py

The network of example 1 with a second head, which reads the same feature map: "coords" is the box,
as there, and "classes" a probability for each class. The last class is "nothing": a share of the
training windows shows no object, and their boxes do not count. The loss is a weighted sum of the
box's loss and the class's, the focal loss FL, in which predictions already right count little:

    loss = BOX_WEIGHT * (1 - GIoU + L1, as in example 1) + CLASS_WEIGHT * FL
    FL = -(1 - p)^2 * log(p), where p is the probability of the true class
"""

import csv
import json
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
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent  # the CSVs and the paths in them start here
RUNS = Path(__file__).resolve().parent / "runs"

TRAIN_CSV = "train.csv"
VALIDATION_CSV = "validation.csv"
WEIGHTS = "imagenet"  # or a model.keras to start from, such as "example_1/runs/.../model.keras"
ALPHA = 1.0  # width of the network: 0.35, 0.5, 0.75, 1.0; with 224 pixels also 1.3 or 1.4
IMAGE_SIZE = 224  # 96, 128, 160, 192 or 224 pixels
FROZEN_LAYERS = 54  # the first layers keep their weights; 54: up to block 5 of 16; 154: all
EPOCHS = 18  # more take longer and find better boxes
WINDOWS_PER_EPOCH = 1000  # up to 200 photos; above, multiplied by sqrt(photos / 200)
BATCH_SIZE = 8
LEARNING_RATE = 5e-4  # peak: warm-up, then cosine decay; half of example 1's
KEPT_SIZE = 448  # longest side of a photo in memory: more helps with small objects
RESUME = None  # or "2026-11-29_14-03-05": continue this run after its last complete epoch
SEED = 0
NOTHING = 0.15  # share of the training windows that show no object
BOX_WEIGHT = 1.0  # how much the box counts in the loss
CLASS_WEIGHT = 1.0  # how much the class counts in the loss


# The photos


# A box is xmin, ymin, xmax and ymax (4,), as shares of the sides of the photo or window it is in.
def read_csv(file):
    """Return a CSV's photos: "path", "size" in pixels, "boxes" (n, 4) and their "class_names"."""
    photos = {}
    with open(file, newline="", encoding="utf-8-sig") as lines:
        for line, row in enumerate(csv.DictReader(lines), start=2):
            size = np.array([row["width"], row["height"]], float)
            photo = {"path": ROOT / row["path"], "size": size, "boxes": [], "class_names": []}
            photo = photos.setdefault(row["path"], photo)
            corners = [row["xmin"], row["ymin"], row["xmax"], row["ymax"]]
            if corners == [""] * 4:  # a photo without an object
                continue
            corners = np.array(corners, float)
            box = corners / np.tile(size, 2)
            if not ((box >= 0) & (box <= 1)).all() or (corners[2:] - corners[:2]).min() < 1:
                sys.exit(f"{file.name}, line {line}: not a box inside the photo, in pixels.")
            photo["boxes"].append(box)
            photo["class_names"].append(row["class_name"])
    for photo in photos.values():
        photo["boxes"] = np.reshape(photo["boxes"], (-1, 4))
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


def draw_empty_window(boxes, rng):
    """Return a random window (4,) with less than a quarter of each of the boxes (n, 4) in it."""
    side = 0.1 ** rng.uniform(0, 1) * rng.uniform(0.85, 1.15, 2)  # a tenth of the photo's to all
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    while True:
        side = np.minimum(0.95 * side, 1)  # smaller with each try, so that it ends
        start = (1 - side) * rng.uniform(0, 1, 2)
        window = np.concatenate([start, start + side])
        shared = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
        if (np.prod(shared.clip(0), axis=1) < areas / 4).all():
            return window


def find_target(row, window):
    """Return box (4,) and class of the largest object wholly in a window; or zeros and None."""
    boxes = photo_to_window(row["boxes"], window)
    for box, name in zip(boxes, row["class_names"]):  # the largest first
        if (np.abs(box - 0.5) < 0.5 + 1e-6).all():  # all corners are from 0 to 1
            return box, name
    return np.zeros(4), None


class PhotoDataset(keras.utils.PyDataset):
    """Batches of windows as in example 1, of boxes (batch, 4), classes and weights of the boxes.

    Of classes (batch, len(classes) + 1) the last is "nothing"; its box is zeros with the weight 0.
    As there the windows are random in training, and in validation the whole photos, each once.
    """

    def __init__(self, rows, classes, training=False):
        super().__init__(workers=2)
        self.rows, self.classes = rows, [*classes, None]  # None: nothing
        self.training, self.epoch = training, 0
        progress = tqdm(rows, "reading photos", leave=False)
        self.photos = [load_photo(row["path"], KEPT_SIZE, row["size"]) for row in progress]

    def __len__(self):
        windows = len(self.rows)
        if self.training:
            windows = WINDOWS_PER_EPOCH * max(1, math.sqrt(len(self.rows) / 200))
        return math.ceil(windows / BATCH_SIZE)

    def draw_example(self, rng):
        """Return a photo's number and a window of it: without an object, or of a random class."""
        if rng.uniform() < NOTHING:
            i = rng.integers(len(self.rows))
            return i, draw_empty_window(self.rows[i]["boxes"], rng)
        name = rng.choice(self.classes[:-1])  # rare classes are drawn as often as others
        i = rng.choice([i for i, row in enumerate(self.rows) if name in row["class_names"]])
        is_named = np.array(self.rows[i]["class_names"]) == name
        return i, draw_window(rng.choice(self.rows[i]["boxes"][is_named]), rng)

    def __getitem__(self, index):
        rng = np.random.default_rng((SEED, self.epoch, index))
        if self.training:
            chosen = [self.draw_example(rng) for _ in range(BATCH_SIZE)]
        else:  # the next photos; the last batch may be smaller
            chosen = [(i, WHOLE_PHOTO) for i in range(len(self.rows))]
            chosen = chosen[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        windows, boxes, numbers = [], [], []
        for i, window in chosen:
            picture = cut_window(self.photos[i], window, IMAGE_SIZE)
            box, name = find_target(self.rows[i], window)
            if self.training:
                picture, box = augment(picture, box, rng)
            windows.append(picture)
            boxes.append(box)
            numbers.append(self.classes.index(name))
        boxes = np.stack(boxes).astype("float32")
        classes = np.eye(len(self.classes), dtype="float32")[numbers]  # one-hot
        weights = {"coords": 1 - classes[:, -1], "classes": np.ones(len(classes))}
        return np.stack(windows), {"coords": boxes, "classes": classes}, weights

    def start_epoch(self, epoch, logs=None):
        self.epoch = epoch


def draw_batch(windows, boxes, file):
    """Draw eight windows as the network sees them, to look at while it trains."""
    sheet = Image.fromarray(np.concatenate(windows[:8], axis=1))  # side by side
    for i, (xmin, ymin, xmax, ymax) in enumerate(boxes[:8]):
        rectangle = np.array([i + xmin, ymin, i + xmax, ymax]) * IMAGE_SIZE
        ImageDraw.Draw(sheet).rectangle(rectangle.tolist(), outline=(0, 255, 0), width=2)
    sheet.save(file)


# The network


def create_model(class_count):
    """Return MobileNetV2 (M. Sandler et al., CVPR 2018) with two heads in place of its top.

    Input: (batch, IMAGE_SIZE, IMAGE_SIZE, 3), RGB from 0 to 255. Outputs: "coords", (batch, 4), a
    box, and "classes", (batch, class_count + 1), probabilities; the last is "nothing".
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
    # Before the last convolution and its ReLU, which may die; at 224 pixels (batch, 7, 7, 320).
    features = backbone.get_layer("block_16_project_BN").output
    # A kernel as large as the map acts as a dense layer. It predicts centre and size in pixels less
    # half the window's side, so that 0 is a box in the middle. Rescaling makes them shares.
    box = layers.Conv2D(4, kernel_size=features.shape[1])(features)
    centre, size = ops.split(layers.Rescaling(1 / IMAGE_SIZE, offset=0.5)(box), 2, axis=-1)
    box = ops.concatenate([centre - size / 2, centre + size / 2], axis=-1)
    coords = layers.Reshape((4,), name="coords")(box)
    pooled = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(features))
    classes = layers.Dense(class_count + 1, activation="softmax", name="classes")(pooled)
    return keras.Model(windows, {"coords": coords, "classes": classes})


# The loss


def iou_and_giou(y_true, y_pred):
    """Return the intersection over union and the generalized IoU of boxes (batch, 4): (batch,).

    GIoU is IoU minus the share of the smallest box around both that neither covers. Boxes that do
    not overlap all have IoU 0; GIoU tells near from far: H. Rezatofighi et al., CVPR 2019.
    """
    true_start, true_end = ops.split(y_true, 2, axis=1)  # the top left corners, the bottom right
    start, end = ops.split(y_pred, 2, axis=1)
    end = ops.maximum(start, end)  # the network may predict an end before the start
    shared_sides = ops.minimum(true_end, end) - ops.maximum(true_start, start)
    intersection = ops.prod(ops.maximum(shared_sides, 0), axis=1)  # a side below 0: no overlap
    areas = ops.prod(true_end - true_start, axis=1) + ops.prod(end - start, axis=1)
    union = areas - intersection  # what both share was counted twice
    outer_sides = ops.maximum(true_end, end) - ops.minimum(true_start, start)
    outer = ops.prod(outer_sides, axis=1)  # the smallest box around both
    iou = intersection / ops.maximum(union, keras.config.epsilon())
    return iou, iou - (outer - union) / ops.maximum(outer, keras.config.epsilon())


def iou(y_true, y_pred):
    """Return the intersection over union of boxes (batch, 4): (batch,), 0 to 1."""
    return iou_and_giou(y_true, y_pred)[0]


def box_loss(y_true, y_pred):
    """Return 1 - GIoU + L1 of boxes (batch, 4): (batch,). L1 is that of centre and size."""
    start_error, end_error = ops.split(y_true - y_pred, 2, axis=1)
    l1 = ops.sum(ops.abs(start_error + end_error) / 2 + ops.abs(end_error - start_error), axis=1)
    return 1 - iou_and_giou(y_true, y_pred)[1] + l1


def focal_loss(y_true, y_pred):
    """Return the focal loss of classes and probabilities (batch, classes): (batch,).

    T.-Y. Lin et al., Focal loss for dense object detection, ICCV 2017; gamma, the exponent, is 2.
    """
    y_pred = ops.clip(y_pred, keras.config.epsilon(), 1 - keras.config.epsilon())  # no log(0)
    return -ops.sum(y_true * (1 - y_pred) ** 2 * ops.log(y_pred), axis=1)


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
    rows, validation_rows = read_csv(folder / "train.csv"), read_csv(folder / "validation.csv")
    classes = sorted({name for row in rows for name in row["class_names"]})
    unknown = {name for row in validation_rows for name in row["class_names"]} - {*classes}
    assert not unknown, f"{VALIDATION_CSV} has classes that are not in {TRAIN_CSV}: {unknown}"
    (folder / "classes.json").write_text(json.dumps(classes))
    training = PhotoDataset(rows, classes, training=True)
    validation = PhotoDataset(validation_rows, classes)
    windows, targets, _ = training[0]
    draw_batch(windows, targets["coords"], folder / "batch.jpg")
    model = create_model(len(classes))
    if WEIGHTS != "imagenet":
        model.load_weights(ROOT / WEIGHTS, skip_mismatch=True)  # other layers stay new
    # Warm-up: large steps while the head is still random would destroy the backbone's weights.
    steps = EPOCHS * len(training)
    learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0, warmup_target=LEARNING_RATE, warmup_steps=steps // 4, decay_steps=steps - steps // 4
    )
    # Clipped: with few photos of a class, single large steps have made all predictions the same.
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.01, global_clipnorm=1)
    model.compile(
        optimizer,
        loss={"coords": box_loss, "classes": focal_loss},
        loss_weights={"coords": BOX_WEIGHT, "classes": CLASS_WEIGHT},
        weighted_metrics={"coords": [iou], "classes": ["accuracy"]},
    )
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
