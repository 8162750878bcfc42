"""Example 1: train MobileNetV2 to say where the one object in a photo is.

    python example_1/train_model.py

The network answers with four numbers: the box's centre x, centre y, width and height, in pixels of
the photo resized to IMAGE_SIZE x IMAGE_SIZE. It is a classifier without its top. In the top's place
each cell of the feature map votes for a box, and the weighted mean of the votes is the answer. The
loss asks for boxes that overlap and for numbers that are right, of the answer and of each vote:

    loss = (1 - GIoU(y_hat, y)) + sum(|y_hat - y|) / IMAGE_SIZE

Run generate_dataset.py first, and evaluate_performance.py afterwards.

Read the constants, create_model and loss first: they are the lesson. PhotoDataset feeds them, train
runs them and Keeper saves the model; Watcher (TENSORBOARD) and distribute can wait.
"""

import contextlib
import csv
import ctypes
import inspect
import json
import math
import os
import re
import signal
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # fewer messages of TensorFlow

import keras
import numpy as np
from keras import layers, ops
from keras.applications import MobileNetV2 as Backbone
from keras.applications.mobilenet_v2 import preprocess_input
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
FREEZE = "batch_norm"  # "none", "batch_norm", "some" (up to stride 8) or "all" of the backbone
HEAD = "vote"  # "vote", or "conv" (2018): one convolution as large as the last map
HEAD_BLOCKS = 0  # blocks before the head, 0 or more
HEAD_BLOCK = "conv"  # "conv" (3x3, 1024 filters, as in YOLOv2) or "inverted_res" (MobileNetV2's)
VOTE_LOSS = 1.0  # 0 or more: how much the votes of the single cells count in the loss, with "vote"
LOSS = "giou+l1"  # one of "mse", "mae", "smooth_l1", "log_mse", "l1", "giou", "ciou", or a sum
OPTIMIZER = "adamw"  # "adam", "adamw" or "sgd" (momentum 0.9)
LEARNING_RATE = 1e-3
SCHEDULE = "cosine"  # "cosine" (up, then down to 0) or "plateau" (2018: down in steps)
WARM_UP = 3  # epochs in which "cosine" goes up, at most a tenth of EPOCHS
AUGMENT = True  # True changes each training photo anew in each epoch
EPOCHS = 240  # enough for hundreds of photos; thousands need fewer
BATCH_SIZE = 32
PATIENCE = 100  # epochs without a better model after which training stops
THREADS = 2  # threads that read and change photos
INMEMORY = True  # False reads the photos again for each batch: for more photos than fit in memory
RESUME = True  # True: a training that was interrupted goes on after its last finished epoch
TENSORBOARD = False  # True writes curves and pictures for TensorBoard into FOLDER / "tensorboard"
DISTRIBUTE = False  # True trains on all GPUs (TensorFlow) or on all devices of all machines (JAX)
SEED = 0


def check_constants():
    """Stop with one line when a constant has a value that cannot work."""

    def one_of(*choices):
        kinds, words = (int, type(choices[0])), "one of " + ", ".join(map(repr, choices))
        return lambda value: isinstance(value, kinds) and value in choices, words

    def number(is_right, words):
        return lambda value: isinstance(value, (int, float)) and is_right(value), words

    def whole(least):
        words = f"a whole number from {least}"
        return number(lambda value: isinstance(value, int) and least <= value < 2**32, words)

    def is_sum(value):
        return isinstance(value, str) and set(value.split("+")) <= set(LOSSES)

    off_or_on = (False,) if keras.backend.backend() == "torch" else (False, True)
    for names, (is_right, words) in {
        "IMAGE_SIZE": one_of(96, 128, 160, 192, 224),
        "ALPHA": one_of(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        "BATCH_NORM_MOMENTUM": number(lambda value: 0 <= value < 1, "from 0 to below 1"),
        "FREEZE": one_of("none", "batch_norm", "some", "all"),
        "HEAD": one_of("vote", "conv"),
        "HEAD_BLOCK": one_of("conv", "inverted_res"),
        "LOSS": (is_sum, f"one of {', '.join(LOSSES)}, or a sum without spaces: giou+l1"),
        "VOTE_LOSS": number(lambda value: value >= 0, "a number from 0"),
        "OPTIMIZER": one_of("adam", "adamw", "sgd"),
        "LEARNING_RATE": number(lambda value: value > 0, "a number above 0, such as 1e-3"),
        "SCHEDULE": one_of("cosine", "plateau"),
        "HEAD_BLOCKS WARM_UP SEED": whole(0),
        "EPOCHS BATCH_SIZE PATIENCE THREADS": whole(1),
        "AUGMENT INMEMORY RESUME TENSORBOARD": one_of(True, False),
        "DISTRIBUTE": (off_or_on.__contains__, "True or False, with PyTorch False"),
    }.items():
        for name in names.split():
            if not is_right(globals()[name]):
                sys.exit(f"train_model.py: {name} = {globals()[name]!r} must be {words}.")
    if WEIGHTS is None and FREEZE == "batch_norm":
        sys.exit("train_model.py: FREEZE = 'batch_norm' needs WEIGHTS, try 'none'.")


def read_csv(name):
    """Read the photos' paths, sizes and boxes from a CSV of generate_dataset.py.

    Args:
        name: the file, relative to ROOT.

    Returns:
        paths: a list of n absolute paths.
        sizes: (n, 2), width and height of the upright photo in pixels.
        corners: (n, 4), xmin, ymin, xmax and ymax in pixels of the upright photo.
        class_names: a list of n strings.
    """
    file = ROOT / name
    if not file.is_file():
        sys.exit(f"{file} does not exist: run generate_dataset.py first.")
    paths, numbers, class_names = [], [], []
    with open(file, newline="", encoding="utf-8-sig") as csv_file:
        rows = csv.DictReader(csv_file)
        try:
            for row in rows:
                columns = ("width", "height", "xmin", "ymin", "xmax", "ymax")
                width, height, xmin, ymin, xmax, ymax = (float(row[column]) for column in columns)
                if not (0 <= xmin < xmax <= width and 0 <= ymin < ymax <= height < np.inf > width):
                    raise ValueError("the box is not in the photo")
                paths.append(str(ROOT / row["path"]))
                numbers.extend((width, height, xmin, ymin, xmax, ymax))
                class_names.append(row["class_name"])
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            sys.exit(f"{file}, line {rows.line_num}: {error!r}. Mend it or run generate_dataset.py")
    if not paths:
        sys.exit(f"{file} has no rows: run generate_dataset.py again.")
    numbers = np.array(numbers, "float32").reshape(-1, 6)
    return paths, numbers[:, :2], numbers[:, 2:], class_names


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


def augment(photo, box, random):
    """Return a training photo and its box, changed at random.

    A window of about 0.5 to 1.3 times the photo that keeps 85 % of the box becomes the photo,
    mirrored or not, with up to half more or less brightness, contrast and saturation.

    Args:
        photo: (IMAGE_SIZE, IMAGE_SIZE, 3), uint8 RGB.
        box: (4,), as in PhotoDataset.
        random: a NumPy generator.

    Returns: a photo and a box, as given.
    """
    corners = np.array([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
    for _ in range(20):
        size = IMAGE_SIZE * random.uniform(0.5, 1.3) * random.uniform(0.85, 1.15, 2)
        start = (IMAGE_SIZE - size) * random.random(2)
        kept = np.clip(corners, start, start + size)
        if np.prod(kept[1] - kept[0]) >= 0.85 * np.prod(box[2:]):
            break
    else:  # a box as large as the photo can leave no such window
        size, start, kept = np.full(2, IMAGE_SIZE), np.zeros(2), corners
    minimum, maximum = (kept - start) * IMAGE_SIZE / size
    if random.random() < 0.5:
        start[0], size[0] = start[0] + size[0], -size[0]
        minimum[0], maximum[0] = IMAGE_SIZE - maximum[0], IMAGE_SIZE - minimum[0]
    (step_x, step_y), (left, top) = size / IMAGE_SIZE, start
    brightness, contrast, saturation = random.uniform(0.5, 1.5, 3)
    to_grey = np.full((3, 3), (0.299, 0.587, 0.114))  # ITU-R BT.601
    colours = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * to_grey)
    colours = np.column_stack([colours, np.full(3, 128 * (1 - contrast))])
    photo = Image.fromarray(photo).transform(
        (IMAGE_SIZE, IMAGE_SIZE),
        Image.Transform.AFFINE,
        (step_x, 0, left, 0, step_y, top),
        Image.Resampling.BILINEAR,
        fillcolor=(128, 128, 128),
    )
    photo = np.asarray(photo.convert("RGB", colours.ravel().tolist()))
    return photo, np.concatenate([(minimum + maximum) / 2, maximum - minimum])


class PhotoDataset(keras.utils.PyDataset):
    """Photos and their targets, in batches; with `training`, shuffled and changed each epoch.

    A batch is photos (batch, IMAGE_SIZE, IMAGE_SIZE, 3), uint8 RGB, and targets (batch, 4 or more),
    float32. A target begins with a box: centre x, centre y, width and height in pixels of the
    resized photo. `shares`, as of `distribute`, says which part of a batch this process gets.
    """

    def __init__(self, paths, targets, training=False, shares=(1, 1, 0)):
        """Read the photos at once if INMEMORY, else make sure that they are there."""
        self.augment = training and AUGMENT
        super().__init__(workers=0 if INMEMORY and not self.augment else THREADS)
        self.paths, self.targets, self.photos = paths, targets.astype("float32"), None
        try:
            if INMEMORY:
                self.photos = np.empty((len(paths), IMAGE_SIZE, IMAGE_SIZE, 3), "uint8")
                with ThreadPoolExecutor(THREADS) as executor:
                    photos = executor.map(load_photo, paths, [IMAGE_SIZE] * len(paths))
                    progress = tqdm(photos, "reading photos", len(paths), leave=False)
                    for index, photo in enumerate(progress):
                        self.photos[index] = photo
            for path in [] if INMEMORY else paths:
                Path(path).stat()
        except OSError as error:
            sys.exit(f"{error}. Was the photo moved? Run generate_dataset.py again.")
        devices, *self.shares = shares
        # Each device gets as many photos as the others: some are seen twice, if need be.
        self.order = np.resize(np.arange(len(paths)), -(-len(paths) // devices) * devices)
        self.epoch = 0
        self.random = np.random.default_rng(SEED) if training else None
        self.on_epoch_end()

    def __len__(self):
        """Return the number of batches."""
        return -(-len(self.order) // BATCH_SIZE)

    def __getitem__(self, index):
        """Return a batch; the last of an epoch may be smaller."""
        processes, process = self.shares
        chosen = self.order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE][process::processes]
        targets = self.targets[chosen]
        if INMEMORY:
            photos = keras.tree.map_structure(lambda array: array[chosen], self.photos)
        else:
            photos = np.stack([load_photo(self.paths[i], IMAGE_SIZE) for i in chosen])
        if self.augment:
            random = np.random.default_rng((SEED, self.epoch, index))  # the same in any thread
            for i in range(len(chosen)):
                photos[i], targets[i, :4] = augment(photos[i], targets[i, :4], random)
        return photos, targets

    def on_epoch_end(self):
        """Shuffle, for the next epoch."""
        self.epoch += 1
        if self.random is not None:
            self.random.shuffle(self.order)


def create_dataset(csv_name, training=False, shares=(1, 1, 0)):
    """Return the PhotoDataset of a CSV."""
    paths, sizes, corners, _ = read_csv(csv_name)
    return PhotoDataset(paths, to_boxes(corners, sizes), training, shares)


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


def create_backbone():
    """Return a classifier without its top, frozen as FREEZE says.

    M. Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks, CVPR 2018.

    Input: (batch, IMAGE_SIZE, IMAGE_SIZE, 3), RGB from 0 to 255. Output: its last map.
    """
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="photos")
    has_alpha = "alpha" in inspect.signature(Backbone).parameters  # EfficientNet's have none
    try:
        backbone = Backbone(
            input_tensor=preprocess_input(inputs),
            input_shape=inputs.shape[1:],  # chooses the file of ImageNet weights
            include_top=False,
            weights=WEIGHTS if WEIGHTS in ("imagenet", None) else str(ROOT / WEIGHTS),
            **({"alpha": ALPHA} if has_alpha else {}),
        )
    except Exception as error:  # Keras raises a bare Exception when there is no network
        sys.exit(f"WEIGHTS = {WEIGHTS!r} cannot be loaded ({error}). Try None, FREEZE = 'none'.")
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
            layer.trainable = FREEZE != "batch_norm"  # False: inference mode, in training too
    if FREEZE in ("some", "all"):
        last = last_map(backbone.layers, 8) if FREEZE == "some" else backbone.output
        keras.Model(inputs, last).trainable = False
    return backbone


def last_map(layers_in_order, stride):
    """Return the last feature map of a stride: (batch, size, size, channels)."""
    shape = (IMAGE_SIZE // stride, IMAGE_SIZE // stride)
    return [layer.output for layer in layers_in_order if layer.output.shape[1:3] == shape][-1]


def normalize(features):
    """Return a map after batch normalization and ReLU6, as after MobileNetV2's convolutions."""
    return layers.ReLU(6.0)(layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM)(features))


def add_block(features):
    """Return a map after one more block of the kind HEAD_BLOCK."""
    if HEAD_BLOCK == "conv":
        return normalize(layers.Conv2D(1024, 3, padding="same", use_bias=False)(features))
    wide = normalize(layers.Conv2D(960, 1, use_bias=False)(features))
    wide = normalize(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(wide))
    narrow = layers.Conv2D(320, 1, use_bias=False)(wide)
    narrow = layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM)(narrow)
    return layers.Add()([features, narrow]) if features.shape == narrow.shape else narrow


def vote(features, finer):
    """Return the box that the cells of a map vote for, wherever the object is: (batch, 4).

    Each cell says how far the sides of the box are from its centre, as in Z. Tian et al., FCOS:
    fully convolutional one-stage object detection, ICCV 2019, and how sure it is. A softmax over
    all cells turns the latter into weights; the answer is the weighted mean of the boxes.

    Args:
        features: (batch, size, size, channels), the last map.
        finer: (batch, 2 size, 2 size, channels), an earlier map, which knows better where it is.
    """
    features = layers.UpSampling2D(interpolation="bilinear")(layers.Conv2D(128, 1)(features))
    features = layers.Add()([features, layers.Conv2D(128, 1)(finer)])
    features = layers.SeparableConv2D(128, 3, padding="same")(normalize(features))
    cells = layers.Reshape((-1, 5))(layers.Conv2D(5, 1)(normalize(features)))
    scores, sides = cells[..., :1], IMAGE_SIZE * ops.sigmoid(cells[..., 1:])
    left_top, right_bottom = sides[..., :2], sides[..., 2:]
    # Where a side is farther away than its opposite, the box's middle is off the cell's.
    middles = (right_bottom - left_top) / 2 + cell_centres(cells.shape[1])
    votes = layers.Concatenate(name="votes")([middles, left_top + right_bottom, scores])
    return ops.sum(ops.softmax(votes[..., 4:], axis=1) * votes[..., :4], axis=1)


def cell_centres(cells):
    """Return x and y of the centres of the cells of a square map in pixels: (cells, 2), float32."""
    size = math.isqrt(cells)
    ticks = (np.arange(size, dtype="float32") + 0.5) * IMAGE_SIZE / size
    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)


def create_model():
    """Return the backbone with HEAD_BLOCKS blocks and a head in the place of its top.

    Input: (batch, IMAGE_SIZE, IMAGE_SIZE, 3), RGB from 0 to 255. Output: (batch, 4), a box.
    """
    backbone = create_backbone()
    features = backbone.output
    for _ in range(HEAD_BLOCKS):
        features = add_block(features)
    if HEAD == "vote":
        box = vote(features, last_map(backbone.layers, 16))
    else:  # an empty box has no gradient, so the first answer is the middle of the photo
        start = keras.initializers.Constant(IMAGE_SIZE / 2)
        box = layers.Conv2D(4, features.shape[1], bias_initializer=start)(features)
    return keras.Model(backbone.inputs[0], layers.Reshape((4,), name="coords")(box))


def areas(y_true, y_pred):
    """Return the areas of intersection, union and smallest box around both: each (batch,)."""
    boxes = ops.stack([y_true[:, :4], y_pred[:, :4]])
    half = ops.maximum(boxes[..., 2:], 0) / 2
    minimum, maximum = boxes[..., :2] - half, boxes[..., :2] + half
    overlap = ops.min(maximum, axis=0) - ops.max(minimum, axis=0)
    around = ops.max(maximum, axis=0) - ops.min(minimum, axis=0)
    intersection = ops.prod(ops.maximum(overlap, 0), axis=1)
    union = ops.sum(ops.prod(2 * half, axis=2), axis=0) - intersection
    return intersection, union, ops.prod(around, axis=1)


def iou(y_true, y_pred):
    """Return the intersection over union of each pair of boxes.

    P. Jaccard, The distribution of the flora in the alpine zone, 1912. Boxes that do not overlap
    have 0, and so has a box with a negative width or height.

    Args:
        y_true: (batch, 4 or more), a box first: centre x, centre y, width and height.
        y_pred: likewise.

    Returns: (batch,), 0 to 1.
    """
    intersection, union, _ = areas(y_true, y_pred)
    return ops.clip(intersection / ops.maximum(union, keras.config.epsilon()), 0, 1)


def giou(y_true, y_pred):
    """Return the generalized IoU of each pair of boxes, which tells near from far at IoU 0 too.

    H. Rezatofighi et al., Generalized intersection over union, CVPR 2019. Arguments as for `iou`.

    Returns: (batch,), -1 to 1.
    """
    _, union, around = areas(y_true, y_pred)
    return iou(y_true, y_pred) - 1 + union / ops.maximum(around, keras.config.epsilon())


# Each takes y_true and y_pred, (batch, 4) in pixels, and returns (batch,).
LOSSES = {
    "mse": keras.losses.mean_squared_error,
    "mae": keras.losses.mean_absolute_error,
    "smooth_l1": keras.losses.huber,  # R. Girshick, Fast R-CNN, ICCV 2015
    "log_mse": lambda y_true, y_pred: ops.mean(ops.log((y_true - y_pred) ** 2 + 1), axis=1),
    "l1": lambda y_true, y_pred: ops.sum(ops.abs(y_true - y_pred), axis=1) / IMAGE_SIZE,
    "giou": lambda y_true, y_pred: 1 - giou(y_true, y_pred),
    # Complete IoU: Z. Zheng et al., Distance-IoU loss, AAAI 2020.
    "ciou": lambda *boxes: 1 - keras.utils.bounding_boxes.compute_ciou(*boxes, "center_xywh"),
}


def box_loss(y_true, y_pred):
    """Return the sum of the losses that LOSS names: (batch,)."""
    return sum(LOSSES[name](y_true, y_pred) for name in LOSS.split("+"))


def vote_loss(y_true, votes):
    """Return how wrong the votes of the cells around the middle of the true box are: (batch,).

    How much a cell counts falls off with its distance from the middle as a Gaussian, as in X. Zhou
    et al., Objects as points, 2019; the scores shall do so too, hence the cross-entropy.

    Args:
        y_true: (batch, 4), boxes.
        votes: (batch, 5 cells), a box and a score of each cell.
    """
    cells = votes.shape[1] // 5
    votes = ops.reshape(votes, (-1, cells, 5))
    half = ops.maximum(y_true[:, None, 2:], 1) / 2  # in case a box has no size
    distances = (y_true[:, None, :2] - cell_centres(cells)) / half
    targets = ops.softmax(-ops.sum(distances**2, axis=2), axis=1)
    boxes = ops.reshape(votes[..., :4], (-1, 4))
    losses = ops.reshape(box_loss(ops.repeat(y_true, cells, axis=0), boxes), (-1, cells))
    entropy = keras.losses.categorical_crossentropy(targets, votes[..., 4], from_logits=True)
    return ops.sum(targets * losses, axis=1) + 0.3 * entropy


def loss(y_true, y_pred):
    """Return the loss of boxes (batch, 4), or of boxes and votes (batch, 4 + 5 cells): (batch,)."""
    box, votes = y_pred[:, :4], y_pred[:, 4:]
    total = box_loss(y_true, box)
    if votes.shape[1] > 0:
        total = total + VOTE_LOSS * vote_loss(y_true, votes)
    return total


METRICS = [iou]
MONITOR = f"val_{METRICS[0].__name__}"  # chooses the best model


def create_optimizer():
    """Return the optimizer that OPTIMIZER names."""
    if OPTIMIZER == "sgd":
        return keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
    if OPTIMIZER == "adam":
        return keras.optimizers.Adam(LEARNING_RATE)
    return keras.optimizers.AdamW(LEARNING_RATE, weight_decay=0.01)


def create_schedule():
    """Return the callback that sets the learning rate as SCHEDULE says.

    I. Loshchilov and F. Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017.
    """
    if SCHEDULE == "plateau":
        return keras.callbacks.ReduceLROnPlateau(MONITOR, mode="max", factor=0.2, patience=10)
    warm_up = min(WARM_UP, EPOCHS // 10)
    cosine = keras.optimizers.schedules.CosineDecay(
        0.0, EPOCHS - warm_up, warmup_target=LEARNING_RATE, warmup_steps=warm_up
    )  # by epoch: within each step it makes TensorFlow a quarter slower
    return keras.callbacks.LearningRateScheduler(lambda epoch: float(cosine(epoch + 0.5)))


def distribute():
    """Return what spreads the training over several devices, if DISTRIBUTE says so.

    TensorFlow: the GPUs of this machine; batch normalization sees the photos of its own GPU. JAX:
    all devices of all machines, whose addresses Keras reads from the environment variables of
    keras.distribution.initialize; batch normalization sees the whole batch.

    Returns:
        scope: a context manager to train in.
        shares: how many devices and processes there are, and which of them this process is.
    """
    scope, shares = contextlib.nullcontext(), (1, 1, 0)
    if DISTRIBUTE and keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # Keras itself spreads nothing over TensorFlow's devices

        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        scope, shares = tf.distribute.MirroredStrategy(devices).scope(), (len(devices), 1, 0)
    elif DISTRIBUTE:
        if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
            keras.distribution.initialize()
        # PhotoDataset gives each process its share; Keras can only do that to a tf.data.Dataset.
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        shares = parallel.num_model_replicas, parallel.num_processes, parallel.data_shard_id
        scope = parallel.scope()
    if DISTRIBUTE:
        print(f"{shares[0]} devices." if shares[0] > 1 else "One device: it trains as usual.")
    if BATCH_SIZE % shares[0]:
        sys.exit(f"BATCH_SIZE = {BATCH_SIZE} must be a multiple of the {shares[0]} devices.")
    return scope, shares


def create_trained_part(model, *datasets):
    """Return the part of the model that is trained, which shows the votes too.

    With FREEZE "some" or "all", and photos that stay the same, it starts where the frozen part
    ends, and the frozen part's maps take the photos' place in the datasets.
    """
    inputs, outputs = model.inputs[0], list(model.outputs)
    if HEAD == "vote" and VOTE_LOSS > 0:
        outputs.append(layers.Flatten()(model.get_layer("votes").output))
    if FREEZE in ("some", "all") and INMEMORY and not AUGMENT and not DISTRIBUTE:
        trained = [layer for layer in model.layers if layer.trainable]
        needed = {id(map) for layer in trained for map in keras.tree.flatten(layer.input)}
        outputs_of_frozen = [layer.output for layer in model.layers if not layer.trainable]
        inputs = [map for map in outputs_of_frozen if id(map) in needed]
        frozen = keras.Model(model.inputs, inputs)
        for dataset in datasets:
            maps = frozen.predict(dataset.photos, BATCH_SIZE, verbose=0)
            dataset.photos = tuple(keras.tree.flatten(maps))  # one map or two
    return keras.Model(inputs, layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0])


def draw_curves(history):
    """Draw loss and metrics of training and validation over the epochs into curves.png."""
    names = ["loss", *(metric.__name__ for metric in METRICS)]
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names):
        epochs = range(1, len(history[name]) + 1)
        axes.plot(epochs, history[name], label="training")
        axes.plot(epochs, history[f"val_{name}"], label="validation")
        axes.set(xlabel="epoch", ylabel=name, yscale="log" if name == "loss" else "linear")
        axes.legend()
        axes.grid(alpha=0.3)
    write_whole(FOLDER / "curves.png", figure.savefig)


def predict_boxes(model, photos):
    """Return the boxes (n, 4) that the model finds in photos (n, IMAGE_SIZE, IMAGE_SIZE, 3)."""
    return model(photos)


class Watcher(keras.callbacks.TensorBoard):
    """Writes loss, metrics and learning rate for TensorBoard, and validation photos with boxes."""

    def __init__(self, model, batch):
        """Take the model and a batch of validation photos and targets."""
        try:
            import cv2  # noqa: F401, with which keras.visualization draws
            import tensorboard  # noqa: F401
            from tensorflow import summary  # whatever the backend is
        except ImportError as error:
            advice = "pip install tensorboard tensorflow; for libGL see README.md"
            sys.exit(f"TENSORBOARD = True: {error}. Try: {advice}")
        folder = FOLDER / "tensorboard" / time.strftime("%Y-%m-%d_%H-%M-%S")
        super().__init__(folder)
        self.whole_model, self.batch, self.write_image = model, batch, summary.image
        self.writer = summary.create_file_writer(str(folder / "photos"))

    def on_epoch_end(self, epoch, logs=None):
        """Write the numbers, and every 5 epochs 12 photos, true boxes green, predicted ones red."""
        super().on_epoch_end(epoch, logs)
        if epoch % 5:
            return
        photos, targets = (np.resize(array, (12, *array.shape[1:])) for array in self.batch)
        found = ops.convert_to_numpy(predict_boxes(self.whole_model, photos))
        for boxes, colour in ((targets[:, :4], (0, 255, 0)), (found, (255, 0, 0))):
            boxes = {"boxes": boxes[:, None], "labels": np.zeros((12, 1))}
            photos = keras.visualization.draw_bounding_boxes(
                photos, boxes, "center_xywh", color=colour, line_thickness=1
            )
        rows = np.concatenate(np.split(photos, 4), axis=2)  # 3 photos below each other
        with self.writer.as_default():
            self.write_image("validation", np.concatenate(rows)[None], step=epoch)


def write_whole(file, write):
    """Let `write` make a file, which takes its name when it is whole: no half file replaces one."""
    new = file.with_name(f"new-{os.getpid()}-{file.name}")
    try:
        write(new)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


class Keeper(keras.callbacks.Callback):
    """Keeps the best model, and after each epoch all that it takes to go on from there.

    Keras's BackupAndRestore keeps weights and optimizer, but not what the other callbacks know, and
    it can leave half a file.
    """

    def __init__(self, model, callbacks):
        """Take the model to keep, of which a part may be trained, and the other callbacks."""
        super().__init__()
        self.whole_model, self.callbacks, self.file = model, callbacks, FOLDER / "training.npz"
        kinds = (str, float, int, type(None))
        constants = {n: v for n, v in globals().items() if n.isupper() and isinstance(v, kinds)}
        checksums = [zlib.crc32((ROOT / name).read_bytes()) for name in (TRAIN_CSV, VALIDATION_CSV)]
        self.run, self.epochs, self.values = f"{constants} {checksums}", [], []
        for file in FOLDER.glob("new-[0-9]*-*"):  # of a training that was killed while it wrote
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > 3600:
                    file.unlink()
        self.older_models = [file.name for file in FOLDER.glob("model-*.keras")]
        self.is_interrupted = False

    def find_epochs(self):
        """Return how many epochs an interrupted training with the same constants and CSVs did."""
        if not RESUME or not self.file.exists():
            return 0
        try:
            with np.load(self.file) as arrays:
                run, (epochs, older) = arrays["run"].item(), json.loads(arrays["known"].item())
                values = [arrays[f"arr_{index}"] for index in range(len(arrays) - 2)]
        except Exception as error:  # a file that is not ours has errors of many kinds
            sys.exit(f"{self.file} cannot be read ({type(error).__name__}): delete it.")
        if run != self.run:
            print("The interrupted training had other constants or CSVs: starting anew.")
            return 0
        print(f"Going on after epoch {len(epochs)}. RESUME = False starts anew.")
        self.epochs, self.values, self.older_models = epochs, values, older
        return len(epochs)

    def variables(self):
        """Return all that a step changes."""
        return self.model.variables + self.model.optimizer.variables

    def on_train_begin(self, logs=None):
        """Go back to where the interrupted training was."""
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        for epoch, logs in enumerate(self.epochs):
            for callback in self.callbacks:
                callback.on_epoch_end(epoch, dict(logs))
        for variable, value in zip(self.variables(), self.values):
            variable.assign(value)
        signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, *_):
        """Stop at Ctrl-C: at once, or before the next batch if Keras swallows the exception."""
        self.is_interrupted = True
        raise KeyboardInterrupt

    def on_train_batch_begin(self, batch, logs=None):
        """Raise again what `keras.utils.pythonify_logs` swallows, mostly on JAX."""
        if self.is_interrupted:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        """Save the model, if it is the best so far, and the state of the training."""
        best = max((logs[MONITOR] for logs in self.epochs), default=-math.inf)
        self.epochs.append(logs)
        if logs[MONITOR] > best:
            file, old_file = self.name_model(logs[MONITOR]), self.name_model(best)
            write_whole(file, self.whole_model.save)
            if old_file != file:
                old_file.unlink(missing_ok=True)
        write_whole(FOLDER / "log.csv", self.write_log)
        state = {"run": self.run, "known": json.dumps([self.epochs, self.older_models])}
        values = map(ops.convert_to_numpy, self.variables())
        write_whole(self.file, lambda file: np.savez(file, *values, **state))

    def name_model(self, figure):
        """Return a file with the figure in its name that is not the model of an older run."""
        ends = ("", *(f"-{number}" for number in range(2, 1000)))
        names = [f"model-{figure:.2f}{end}.keras" for end in ends]
        return FOLDER / next(name for name in names if name not in self.older_models)

    def write_log(self, file):
        """Write a line of loss, metrics and learning rate for each epoch."""
        with open(file, "w", newline="", encoding="utf-8") as csv_file:
            writer = csv.DictWriter(csv_file, ["epoch", *sorted(self.epochs[0])])
            writer.writeheader()
            writer.writerows({"epoch": epoch, **logs} for epoch, logs in enumerate(self.epochs))

    def on_train_end(self, logs=None):
        """A training that has finished is not gone on with."""
        self.file.unlink(missing_ok=True)


# Keep a step's memory for the next one. By itself glibc gives it back, and to get it anew can take
# Linux longer than the step itself. From malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX.
with contextlib.suppress(AttributeError, TypeError):  # macOS and Windows have other allocators
    for parameter, value in ((-4, 0), (-1, -1), (-8, 1)):
        ctypes.CDLL(None).mallopt(parameter, value)


def train(shares):
    """Train, keep the best model and draw the curves, as the process that `shares` says."""
    _, processes, process = shares
    keras.utils.set_random_seed(SEED)
    training = create_dataset(TRAIN_CSV, training=True, shares=shares)
    validation = create_dataset(VALIDATION_CSV, shares=shares)
    batch, model = validation[0], create_model()
    part = create_trained_part(model, training, validation)
    part.compile(create_optimizer(), loss, metrics=METRICS)
    history = keras.callbacks.History()
    callbacks = [
        history,
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping(MONITOR, mode="max", patience=PATIENCE),
        create_schedule(),
    ]
    keeper = Keeper(model, callbacks)
    start, epochs_before = time.time(), keeper.find_epochs() if processes == 1 else 0
    for _ in range(epochs_before):
        training.on_epoch_end()
    writers = [keeper] if process == 0 else []
    if TENSORBOARD and processes == 1:
        writers.append(Watcher(model, batch))
    try:
        # Builds loss and metrics. Else TensorFlow traces the first step twice, and JAX and PyTorch
        # take a batch of the first epoch for it, which shifts all others.
        part.test_on_batch(*validation[0])
        part.fit(
            training,
            validation_data=validation,
            epochs=EPOCHS,
            initial_epoch=epochs_before,
            shuffle=False,  # PhotoDataset shuffles
            callbacks=callbacks + writers,
            verbose="auto" if process == 0 else 0,
        )
    except Exception as error:  # in which TensorFlow hides the OSError of a photo
        broken = re.search(r"OSError: (.* cannot be read: .*)", f"OSError: {error}")
        if broken is None:
            raise
        sys.exit(f"train_model.py: {broken[1]}. Run generate_dataset.py again.")
    except KeyboardInterrupt:
        print("\nInterrupted. With RESUME = True the same command goes on after the last epoch.")
    if not history.epoch:
        sys.exit("No model was saved: no epoch was finished.")
    if not np.isfinite(history.history["loss"][-1]):
        sys.exit("The loss is no number any more: try a smaller LEARNING_RATE.")
    if process > 0:
        return
    draw_curves(history.history)
    print(f"Epochs: {len(history.epoch)}, minutes: {(time.time() - start) / 60:.1f}. Next:")
    print(f"python {FOLDER / 'evaluate_performance.py'}, which takes the highest {MONITOR} of all")
    print("runs: delete the models of older ones, or set WEIGHTS_FILE. The model of this run:")
    print(keeper.name_model(max(history.history[MONITOR])))


def main():
    """Train on one device or several. Ctrl-C ends the training early."""
    check_constants()
    scope, shares = distribute()
    with scope:
        train(shares)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"train_model.py: {error}")
