"""Example 1: windows, boxes and losses against independent formulas; what evaluation says."""

import itertools
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from shapely.geometry import box as rectangle

from checks import GREEN, RED, check_gradient, is_colour, message_of, read_pixels
from exports import check_exports
from scripts import create_short_backbone, create_small_model, predict, read_predictions, to_numpy

COLUMNS = "path,width,height,xmin,ymin,xmax,ymax,class_name,class_id"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def to_rectangle(box):
    """Return a shapely rectangle of a box given as centre, width and height."""
    x, y, width, height = map(float, box)
    width, height = max(width, 0), max(height, 0)
    return rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def iou_of(one, other):
    """Return the IoU of two boxes, by shapely."""
    one, other = to_rectangle(one), to_rectangle(other)
    return one.intersection(other).area / one.union(other).area


def extent_of(mask):
    """Return where what is true in a picture begins and ends: xmin, ymin, xmax, ymax."""
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def draw_photo(size, corners, background=(90, 90, 90)):
    """Return a photo with a white rectangle."""
    photo = Image.new("RGB", size, background)
    photo.paste("white", corners)
    return photo


class Finder:
    """Stands in for a model: its box is around what is white in the window, in whole pixels.

    In front of blue it is never content: its box is half as wide.
    """

    def predict_on_batch(self, windows):
        (window,) = windows.astype(int)
        is_white = window.min(axis=-1) > 170
        if not is_white.any():
            return np.zeros((1, 4), "float32")
        xmin, ymin, xmax, ymax = extent_of(is_white)
        width = (xmax - xmin) / (2 if is_colour(window, (0, 0, 255)).any() else 1)
        return np.float32([[(xmin + xmax) / 2, (ymin + ymax) / 2, width, ymax - ymin]])


def test_iou_and_loss_are_those_of_shapely(train_model):
    random = np.random.default_rng(0)
    true = random.uniform((20, 20, 5, 5), (80, 80, 60, 60), (200, 4)).astype("float32")
    predicted = (true + random.normal(0, 15, true.shape)).astype("float32")
    assert (predicted[:, 2:] < 0).any()  # has no area, as its rectangle
    ious, losses = [], []
    for one, other in zip(true, predicted):
        union = to_rectangle(one).union(to_rectangle(other))
        around = rectangle(*union.bounds).area
        giou = iou_of(one, other) - (around - union.area) / around
        ious.append(iou_of(one, other))
        losses.append(1 - giou + np.abs(one - other).sum() / 96)
    assert np.ptp(ious) > 0.5
    np.testing.assert_allclose(to_numpy(train_model.iou(true, predicted)), ious, atol=1e-5)
    np.testing.assert_allclose(to_numpy(train_model.box_loss(true, predicted)), losses, rtol=1e-4)


def test_losses_and_gradients_are_numbers_for_any_box(train_model):
    sizes, places = (-20, 0, 1e-30, 1, 96, 1e6), (-1e6, -1, 0, 48, 96, 1e6)
    predicted = np.array([(x, 48, size, 20) for x in places for size in sizes], "float32")
    for true in ((48, 48, 0, 0), (48, 40, 30, 20), (48, 48, 96, 96)):
        true = np.tile(np.float32(true), (len(predicted), 1))
        check_gradient(train_model.box_loss, true, predicted)


def test_boxes_of_a_csv_are_centre_and_size_in_shares_of_the_photo(project, train_model):
    rows = f"a.jpg,600,400,333,72,425,158,cat,0\n{project}/b.jpg,96,96,0,0,96,96,cat,0\n"
    (project / "train.csv").write_text(f"{COLUMNS}\n{rows}", encoding="utf-8-sig")  # as Excel
    paths, boxes = train_model.read_csv("train.csv")
    assert paths == [project / "a.jpg", project / "b.jpg"]
    expected = [[379 / 600, 115 / 400, 92 / 600, 86 / 400], [0.5, 0.5, 1, 1]]
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)


def test_photos_are_upright_rgb_and_as_large_as_asked_for(project, train_model):
    photo = Image.new("RGB", (800, 400), "blue")
    photo.paste("red", (0, 0, 400, 400))  # red left: on top, once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo.save(project / "turned.jpg", exif=exif)
    for longest_side, size in {None: (400, 800), 5000: (400, 800), 100: (50, 100)}.items():
        upright = train_model.load_photo(project / "turned.jpg", longest_side)
        assert upright.size == size
        pixels = np.asarray(upright).astype(int)
        assert pixels[: size[1] // 2 - 9, :, 0].min() > 200
        assert pixels[size[1] // 2 + 9 :, :, 2].min() > 200
    for size in ("400,800", "800,400"):  # as in a CSV of a photo that was not turned
        (project / f"{size}.csv").write_text(f"{COLUMNS}\nturned.jpg,{size},1,1,50,50,cat,0\n")
    assert train_model.read_csv("400,800.csv")[0] == [project / "turned.jpg"]
    assert "(400, 800) pixels" in message_of(lambda: train_model.read_csv("800,400.csv"))
    for mode, name in {"P": "a.gif", "RGBA": "a.png", "CMYK": "a.jpg", "L": "a.webp"}.items():
        Image.new("RGB", (50, 40), "white").convert(mode).save(project / name)
        assert np.asarray(train_model.load_photo(project / name)).min() > 250
    for mode, name in {"I;16": "deep.png", "I": "deep.tiff", "F": "float.tiff"}.items():
        Image.new(mode, (50, 40), 300).save(project / name)  # would be white
        with pytest.raises(OSError, match=f"{name} cannot be read: .*8 bits"):
            train_model.load_photo(project / name)


@pytest.mark.parametrize("size", [(640, 400), (97, 301), (60, 45)])
@pytest.mark.parametrize(
    "window",
    [
        (0.5, 0.5, 1, 1),
        (0.5, 0.45, 0.31, 0.4),
        (0.05, 0.9, 0.4, 0.5),  # over the edges
        (0.45, 0.6, 1.3, 2.1),  # larger than the photo
        (0.314, 0.627, 0.05, 0.07),  # a few pixels
    ],
)
def test_a_window_is_the_same_for_pixels_and_boxes(train_model, size, window):
    """Or else boxes would be learned, and answered, beside the object."""
    window, size = np.array(window), np.array(size)
    middles = np.arange(96) + 0.5  # of the window's pixels
    boxes = np.stack(np.broadcast_arrays(middles, middles[:, None], 20, 30), axis=-1)
    in_photo = train_model.window_to_photo(boxes, window)
    np.testing.assert_allclose(train_model.photo_to_window(in_photo, window), boxes, atol=1e-6)
    np.testing.assert_allclose(in_photo[0, 0, 2:], window[2:] * (20 / 96, 30 / 96))
    places = in_photo[..., :2]
    pixel = np.maximum(1 / size, window[2:] / 96)  # the coarser of the photo's and the window's
    is_inside = ((places > pixel) & (places < 1 - pixel)).all(axis=-1)
    is_outside = ((places < -pixel) | (places > 1 + pixel)).any(axis=-1)
    assert is_inside.any() and is_outside.any() == (window[3] > 0.45 and window[0] != 0.5)
    for axis in (0, 1):  # photos whose pixels say where they are, in x or y
        line = ((np.arange(size[axis]) + 0.5) / size[axis]).astype("float32")
        says = np.broadcast_to(line if axis == 0 else line[:, None], size[::-1])
        seen = np.asarray(train_model.cut_window(Image.fromarray(says.copy()), window))
        error = np.abs(seen - places[..., axis])[is_inside] / pixel[axis]
        assert error.max() < 0.51 and np.median(error) < 0.1
        assert not seen[is_outside].any(), "outside of the photo is black"


@pytest.mark.parametrize("size", [(0.01, 0.02), (0.3, 0.2), (1, 1)])
def test_windows_in_training_are_from_close_up_to_more_than_the_photo(train_model, size):
    rng, shares, places = np.random.default_rng(0), [], []
    for _ in range(400):
        size = np.array(size)
        box = np.concatenate([rng.uniform(size / 2, 1 - size / 2), size])
        window = train_model.draw_window(box, rng)
        x, y, width, height = train_model.photo_to_window(box, window)
        corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        assert corners.min() > -1e-6 and corners.max() < 96 + 1e-6, "the box is in the window"
        start, end = window[:2] - window[2:] / 2, window[:2] + window[2:] / 2
        is_larger = window[2:] >= 1
        assert ((start > -1e-9) & (end < 1 + 1e-9) | is_larger).all(), "black for nothing"
        shares.append(size / window[2:])
        places.append([x, y])
    assert (np.max(shares, axis=0) > 0.6).all() and (np.min(shares, axis=0) < size).all()
    assert np.std(shares) > 0.04 and (np.ptp(places, axis=0) > 15).all()


def test_augmentation_mirrors_and_recolours_and_the_box_goes_where_the_object_goes(train_model):
    rng, mirrored = np.random.default_rng(0), 0
    for _ in range(300):
        left, top = rng.integers(0, 90, 2)
        right, bottom = rng.integers((150, 100), (301, 201))
        photo = draw_photo((300, 200), (left, top, right, bottom))
        photo.paste("black", (left, top, left + 5, bottom))
        box = np.array([left + right, top + bottom, 2 * (right - left), 2 * (bottom - top)])
        box = box / 2 / np.tile(photo.size, 2)
        changed, (x, y, width, height) = train_model.augment(photo, box, rng)
        pixels = np.asarray(changed).astype(int).sum(axis=2)
        assert changed.size == (96, 96)
        found = extent_of(pixels >= 0.1 * pixels.min() + 0.9 * pixels.max())
        expected = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        stripe = width * 5 / (right - left)
        is_mirrored = found[2] < expected[2] - stripe / 2
        expected[2 if is_mirrored else 0] += -stripe if is_mirrored else stripe
        np.testing.assert_allclose(found, expected, atol=2.5)
        mirrored += is_mirrored
    assert 110 < mirrored < 190
    photo = draw_photo((300, 200), (0, 0, 150, 200), (60, 90, 150))
    box = np.array([0.5, 0.5, 1, 1])
    pictures = [np.asarray(train_model.augment(photo, box, rng)[0], int) for _ in range(100)]
    middles = [picture[40, (30, 66)] for picture in pictures]
    assert np.ptp([picture.mean() for picture in pictures]) > 60, "brightness"
    assert np.ptp([np.ptp(middle.mean(axis=1)) for middle in middles]) > 20, "contrast"
    assert np.ptp([np.ptp(middle, axis=1).max() for middle in middles]) > 60, "saturation"


def test_four_times_as_many_photos_take_twice_as_long(train_model):
    train_model.INMEMORY, train_model.BATCH_SIZE, train_model.WINDOWS_PER_EPOCH = False, 8, 1000
    for photos, batches in {30: 125, 200: 125, 800: 250, 3200: 500}.items():
        paths = [Path("photo.jpg")] * photos
        assert len(train_model.PhotoDataset(paths, None, training=True)) == batches
        assert len(train_model.PhotoDataset(paths, None)) == -(-photos // 8), "each photo once"


@pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])
def test_batches_depend_on_nothing_but_seed_and_epoch(csvs, train_model, example):
    paths, boxes, *classes = train_model.read_csv("train.csv")
    if classes:
        classes = [train_model.to_one_hot(classes[0], train_model.list_classes(classes[0]))]

    def read_epoch(epoch, order=1, training=True, count=24):
        some = [rows[:count] for rows in (paths, boxes, *classes)]
        dataset = train_model.PhotoDataset(*some, training=training)
        dataset.start_epoch(epoch)
        batches = [dataset[index] for index in range(len(dataset))[::order]][::order]
        assert all(batch[0].dtype == np.uint8 for batch in batches)
        sizes = [len(batch[0]) for batch in batches]
        parts = zip(*(keras.tree.flatten(batch) for batch in batches), strict=True)
        return sizes, *(np.concatenate(part) for part in parts)

    train_model.BATCH_SIZE, train_model.WINDOWS_PER_EPOCH = 5, 40
    sizes, *first = read_epoch(0)
    assert sizes == [5] * 8
    _, *second = read_epoch(1)
    assert not (first[0] == second[0]).all(axis=(1, 2, 3)).any(), "the same in each epoch"
    train_model.INMEMORY = False
    for found, expected in zip(read_epoch(1, order=-1)[1:], second, strict=True):
        np.testing.assert_array_equal(found, expected)
    train_model.SEED = 1
    assert not np.array_equal(read_epoch(0)[1], first[0])
    train_model.AUGMENT = False
    _, windows, *_ = read_epoch(0)
    sizes, whole, *targets = read_epoch(3, training=False, count=13)
    assert sizes == [5, 5, 3], "each validation photo once"
    whole_photo = np.array([0.5, 0.5, 1, 1])
    for window, path in zip(whole, paths):
        photo = train_model.load_photo(path, train_model.KEPT_SIZE)
        np.testing.assert_array_equal(window, train_model.cut_window(photo, whole_photo))
    of_boxes = train_model.photo_to_window(boxes[:13], whole_photo)
    if hasattr(train_model, "to_grid"):
        of_boxes = train_model.to_grid(of_boxes)
    expected = [*(rows[:13] for rows in classes), of_boxes]  # in the order of their names
    for found, of_csv in zip(targets, expected, strict=True):
        np.testing.assert_allclose(found, of_csv, rtol=1e-6)
    drawn = {window.tobytes() for window in windows}
    assert 15 < len(drawn) < 25 and len(drawn & {window.tobytes() for window in whole}) > 5


def test_green_in_the_picture_of_a_batch_is_on_the_boxes(train_model):
    photos = np.full((9, 96, 96, 3), 128, "uint8")
    boxes = np.array([[20 + 4 * i, 50, 20 + 4 * i, 60] for i in range(9)])
    train_model.draw_batch(photos, boxes)
    sheet = read_pixels(train_model.FOLDER / "batch.jpg")
    assert sheet.shape == (2 * 96, 8 * 96, 3)
    for i, (x, _, width, _) in enumerate(boxes):
        photo = sheet[i // 8 * 96 :, i % 8 * 96 :][:96, :96]
        expected = (max(0, x - width / 2), 20, min(96, x + width / 2), 80)
        np.testing.assert_allclose(extent_of(is_colour(photo, GREEN)), expected, atol=2)
        inside = photo[30:70, int(x - width / 2) + 6 : int(x + width / 2) - 6]
        np.testing.assert_allclose(inside, 128, atol=40)


@pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])
@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_which_layers_train(train_model, weights, example):
    backbones = []

    def remember(**options):
        backbones.append(create_short_backbone(**options))
        return backbones[0]

    train_model.MobileNetV2 = remember
    train_model.WEIGHTS, train_model.FROZEN_LAYERS = weights, 9
    model = train_model.create_model(*([3] if example == "example_2" else []))
    before = [layer.get_weights() for layer in model.layers]
    model.compile("adamw", loss=keras.losses.MeanSquaredError(), run_eagerly=True)
    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (4, 96, 96, 3))
    targets = keras.tree.map_structure(lambda output: np.ones((4, *output.shape[1:])), model.output)
    model.train_on_batch(photos, targets)
    for layer, old in zip(model.layers, before):
        changed = [not np.array_equal(*pair) for pair in zip(old, layer.get_weights())]
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        is_pretrained = weights is not None and layer in backbones[0].layers
        if is_pretrained and (is_norm or layer in backbones[0].layers[:9]):
            assert not any(changed), layer.name
        elif changed:
            assert any(changed), layer.name
            assert not is_norm or (all(changed[2:]) and layer.momentum == 0.9), "the averages"


def test_weights_may_be_a_file_and_154_frozen_layers_are_all(project, train_model):
    options = {"alpha": 0.35, "include_top": False, "weights": None}
    backbone = train_model.MobileNetV2((96, 96, 3), **options)
    backbone.save_weights(project / "mine.weights.h5")
    train_model.WEIGHTS, train_model.FROZEN_LAYERS = str(project / "mine.weights.h5"), 154
    model = train_model.create_model()
    assert model.output_shape == (None, 4)
    names = [layer.name for layer in backbone.layers[1:]]  # the first is the input
    assert len(names) == 153
    of_backbone = [layer for layer in model.layers if layer.name in names]
    assert len(of_backbone) > 140 and not any(layer.trainable for layer in of_backbone)
    first = model.get_layer("Conv1")
    np.testing.assert_array_equal(first.get_weights(), backbone.get_layer("Conv1").get_weights())
    photos = np.array([0, 127.5, 255]).reshape(3, 1, 1, 1) * np.ones((3, 96, 96, 3))
    seen = keras.Model(model.input, first.input)(photos)
    np.testing.assert_allclose(seen[:, 5, 5, 0], [-1, 0, 1], atol=1e-6)  # as on ImageNet


KERAS_HOME = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
IMAGENET = KERAS_HOME / "models/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5"


@pytest.mark.skipif(not IMAGENET.exists(), reason=f"ImageNet's weights are not at hand: {IMAGENET}")
def test_imagenets_weights_learn(csvs, train_model):
    train_model.WEIGHTS, train_model.ALPHA, train_model.FROZEN_LAYERS = "imagenet", 1.0, 54
    train_model.EPOCHS, train_model.WINDOWS_PER_EPOCH = 10, 64
    train_model.main()
    log = np.genfromtxt(train_model.FOLDER / "log.csv", delimiter=",", names=True)
    assert log["val_iou"][-1] > 0.63, "one box for all of these photos has 0.48"


def read_numbers(folder):
    """Return the rows of predictions.csv, their numbers as numbers."""
    rows = read_predictions(folder)
    for row in rows:
        row |= {name: float(row[name]) for name in row.keys() - {"path", "picture"}}
    return rows


def check_printed(printed, name, rows):
    """Check the figures that are printed of a CSV's photos against the rows of predictions.csv."""
    boxes = [
        [rectangle(*(row[start + corner] for corner in CORNERS)) for row in rows]
        for start in ("", "true_")
    ]
    ious = np.array([a.intersection(b).area / a.union(b).area for a, b in zip(*boxes)])
    np.testing.assert_allclose([row["iou"] for row in rows], ious, atol=0.02)  # of tenths of pixels
    ious, first = (np.array([row[column] for row in rows]) for column in ("iou", "first_iou"))
    line = (
        f"{name}: {len(rows)} photos, IoU {ious.mean():.3f} (after the first look "
        f"{first.mean():.3f}),\n  median {np.median(ious):.3f}, "
        f"above 0.5 in {np.mean(ious > 0.5):.1%} of the photos"
    )
    assert line in printed
    agreement = np.array([row["agreement"] for row in rows])
    assert (np.diff(agreement) >= 0).all(), "the doubtful ones first"
    table = [[*map(float, row)] for row in re.findall(r">= (\d\.\d) +(\d+) +([\d.]+)%", printed)]
    assert table and table == sorted(table) and table[0][1] == len(rows)
    for threshold, count, percent in table:
        chosen = agreement >= threshold
        assert count == chosen.sum() and abs(percent - 100 * np.mean(ious[chosen] > 0.5)) < 0.06


@pytest.mark.oldest
def test_training_learns_and_says_so(trained):
    train_model, _ = trained
    log = np.genfromtxt(train_model.FOLDER / "log.csv", delimiter=",", names=True)
    assert log["epoch"].tolist() == [*range(16)]
    with Image.open(train_model.FOLDER / "curves.png") as curves:
        assert curves.width == 1000 and len(curves.convert("RGB").getcolors(10**6)) > 10
    for name, gain in {"train.csv": 0.15, "validation.csv": 0}.items():
        (_, true), predicted = predict(train_model, name)
        true = train_model.photo_to_window(true, train_model.WHOLE_PHOTO)
        ious = [iou_of(*pair) for pair in zip(true, predicted)]
        assert np.mean(ious) > np.mean([iou_of(box, true.mean(axis=0)) for box in true]) + gain
        printed = (train_model.FOLDER / "printed.txt").read_text()
        said = re.search(rf"^{name}: .*first look (\d\.\d+)\)", printed, re.MULTILINE)
        assert float(said[1]) == pytest.approx(np.mean(ious), abs=0.0015)  # of rounded IoUs
    assert np.mean(ious) == pytest.approx(log["val_iou"][-1], abs=0.01)  # photos of KEPT_SIZE
    assert "is newer than" not in printed


# Looking closer


@pytest.mark.parametrize(
    ("size", "corners"),
    [
        ((4000, 3000), (1700, 1200, 1850, 1290)),  # small
        ((4000, 3000), (0, 0, 200, 150)),  # at the edges
        ((3000, 4000), (2800, 3900, 3000, 4000)),
        ((4000, 3000), (0, 0, 4000, 3000)),  # all of the photo
        ((1200, 300), (500, 10, 560, 300)),
    ],
)
def test_each_look_is_closer(evaluate_performance, size, corners):
    photo = draw_photo(size, corners)
    true = np.reshape(corners, (2, 2)) / size
    true = np.concatenate([true.mean(axis=0), np.ptp(true, axis=0)])
    boxes, agreement = evaluate_performance.look(Finder(), photo)
    assert agreement == pytest.approx(iou_of(*boxes[-2:]), abs=1e-3)
    assert boxes.shape == (evaluate_performance.LOOKS, 4)
    ious = [iou_of(true, box) for box in boxes]
    assert ious[-1] > 0.93 and ious[-1] >= ious[0] - 0.03
    assert (boxes[:, :2] - boxes[:, 2:] / 2 > -1e-9).all()
    assert (boxes[:, :2] + boxes[:, 2:] / 2 < 1 + 1e-9).all()
    evaluate_performance.LOOKS = 1
    np.testing.assert_array_equal(evaluate_performance.look(Finder(), photo)[0], boxes[:1])


class ShortSightedFinder(Finder):
    """Sees only what is large in the window, and else answers with its right edge."""

    def predict_on_batch(self, windows):
        box = super().predict_on_batch(windows)
        return box if box[0, 2] > 11 else np.float32([[88, 48, 12, 12]])


def test_where_looks_get_lost_the_object_is_found_elsewhere(evaluate_performance):
    photo = draw_photo((1000, 800), (250, 200, 340, 280))  # 9 pixels wide in the first window
    boxes, agreement = evaluate_performance.look(ShortSightedFinder(), photo)
    np.testing.assert_allclose(boxes[-1], [0.295, 0.3, 0.09, 0.1], atol=2e-3)
    assert boxes[0, 0] > 0.9 and agreement < 0.5, "it stays doubtful"
    evaluate_performance.LOOKS = 1
    boxes, _ = evaluate_performance.look(ShortSightedFinder(), photo)
    assert boxes[-1, 0] > 0.9, "a single look has no agreement, so is never lost"


def test_of_several_places_the_most_agreed_is_taken(evaluate_performance):
    boxes = np.array([[[0.2, 0.2, 0.1, 0.1]], [[0.7, 0.7, 0.2, 0.2]], [[0.7, 0.7, 0.2, 0.1]]])
    # Scores: 0.9 x 1 of the first, which is alone, 0.7 x 1.5 and 0.4 x 1.5 of the others.
    found = [*zip(boxes, (0.9, 0.7, 0.4))]
    assert evaluate_performance.most_agreed(found) is found[1]
    wide = np.array([[0.5, 0.5, 1, 1]])  # all start there, and where no box is found it stays
    lost = [(wide, 0)] * 4 + [(0.8 * wide, 0.3), (boxes[0], 0.5)]
    assert evaluate_performance.most_agreed(lost) is lost[5], "what found no box has no vote"


@pytest.mark.parametrize("lost", [[48, 48, -5, 20], [500, 48, 9, 9], [48, -99, 9, 9]])
def test_a_look_that_is_lost_keeps_the_box_before(evaluate_performance, lost):
    answers = [[48, 24, 48, 24], lost, [48, 24, 48, 24], lost, [48, 48, 48, 48]]
    model, photo = create_small_model(), Image.new("RGB", (600, 400))
    model.predict_on_batch = lambda windows: np.float32([answers.pop(0)])
    look_closer, window = evaluate_performance.look_closer, evaluate_performance.WHOLE_PHOTO
    evaluate_performance.LOOKS = 2
    assert look_closer(model, photo, window)[1] == 0, "a lost look is no sure one"
    evaluate_performance.LOOKS = 3
    boxes, _ = look_closer(model, photo, window)
    np.testing.assert_allclose(boxes[:2], [[0.5, 0.25, 0.5, 0.25]] * 2)
    assert 0.3 < boxes[2, 2] < 0.5 and boxes[2, 0] == 0.5, "around the box, not the whole photo"


# What evaluation writes


@pytest.fixture
def mine(project, evaluate_performance):
    """Return a folder of photos; the model finds the white rectangle in each."""
    evaluate_performance.load_model = Finder
    folder = project / "my photos [1]"
    folder.mkdir()
    return folder


def test_predictions_are_in_pixels_of_the_upright_photo(
    project, mine, evaluate_performance, capsys
):
    exif, lines, truth = Image.Exif(), [COLUMNS], {}
    exif[0x0112] = 6
    for index, size in enumerate([(600, 400), (200, 300), (900, 500), (500, 700), (300, 300)]):
        corners = np.array([0.3, 0.4, 0.6, 0.7]) * np.tile(size, 2)
        photo = draw_photo(size, tuple(corners.astype(int)), "blue" if index == 3 else "gray")
        is_turned = {"exif": exif} if index == 2 else {}
        photo = photo.transpose(Image.Transpose.ROTATE_90) if is_turned else photo
        photo.save(mine / f"{index}.jpg", quality=95, **is_turned)
        truth[f"{index}.jpg"] = corners * (1.4 if index == 1 else 1)
        row = [f"{mine.name}/{index}.jpg", *size, *truth[f"{index}.jpg"], "cat", 0]
        lines.append(",".join(map(str, row)))
    (project / "validation.csv").write_text("\n".join(lines))
    (project / "train.csv").write_text("\n".join(lines[:2]))
    folder = evaluate_performance.FOLDER
    (folder / "model.keras").write_text("older")
    os.utime(folder / "model.keras", (1, 1))
    evaluate_performance.main()
    rows = read_numbers(folder)
    printed = capsys.readouterr().out
    assert "train.csv is newer than model.keras" in printed
    check_printed(printed, "validation.csv", rows)
    assert printed.count(">= ") > 2 and "train.csv: 1 photos, IoU 0.9" in printed
    assert Path(rows[0]["path"]).name == "3.jpg" and rows[0]["agreement"] < 0.8 < 0.9
    assert min(row["agreement"] for row in rows[1:]) > 0.9
    for row in rows:
        name = Path(row["path"]).name
        pixels = read_pixels(folder / "predictions" / row["picture"])
        assert pixels.shape == (row["height"], row["width"], 3), "upright"
        true, found = ([row[start + corner] for corner in CORNERS] for start in ("true_", ""))
        np.testing.assert_allclose(true, truth[name], atol=0.06)
        np.testing.assert_allclose(extent_of(is_colour(pixels, RED)), found, atol=3)
        if name == "1.jpg":
            np.testing.assert_allclose(extent_of(is_colour(pixels, GREEN)), true, atol=3)
        if name in "0.jpg 2.jpg 4.jpg":
            np.testing.assert_allclose(found, true, atol=3)
    with Image.open(folder / "predictions.png") as sheet:
        places = itertools.product(range(0, 720, 240), range(0, 960, 240))
        tiles = [sheet.crop((x, y, x + 240, y + 240)) for y, x in places]
        drawn = [tile.getextrema() != ((255, 255),) * 3 for tile in tiles]
        assert sheet.size == (960, 720)
        assert drawn == [True] * 5 + [False] * 7, "each of five photos once"


@pytest.mark.parametrize("name", ["", "a*.jpg", "b [2].jpg"])
def test_photos_without_a_csv(project, mine, evaluate_performance, capsys, monkeypatch, name):
    for photo in ("a.jpg", "a-2.jpg", "b [2].jpg", "貓" * 82 + ".jpg"):
        draw_photo((300, 200), (60, 50, 180, 120)).save(mine / photo)
    (mine / "notes.pdf").write_text("no photo")
    Image.new("RGB", (90_000, 10), "white").save(mine / "long.png")  # cannot be drawn
    count = {"": 5, "a*.jpg": 2}.get(name, 1)
    pattern = f"my photos ?1?/{name}" if "*" in name else f"{mine.name}/{name}"
    folder = evaluate_performance.FOLDER / "predictions"
    monkeypatch.chdir(project)
    evaluate_performance.main([pattern])
    first = capsys.readouterr().out
    (folder / "00009_mine.jpg").write_bytes(b"mine")
    evaluate_performance.IMAGES = pattern  # the same, and the first one's pictures are there
    evaluate_performance.main()
    captured = capsys.readouterr()
    assert captured.out.count("g: box [") == first.count("g: box [") == count
    assert ("notes.pdf" in captured.err) == ("no picture" in captured.err) == (name == "")
    rows = read_numbers(evaluate_performance.FOLDER)
    pictures = {row["picture"] for row in rows} - {""} | {"00009_mine.jpg"}
    assert pictures == {file.name for file in folder.iterdir()}
    assert len(rows) == count and "true_xmin" not in rows[0]
    for row in rows:
        if row["width"] == 300:
            found = [row[corner] for corner in CORNERS]
            np.testing.assert_allclose(found, (60, 50, 180, 120), atol=3)
            pixels = read_pixels(folder / row["picture"])
            assert is_colour(pixels, RED).any() and not is_colour(pixels, GREEN).any()


def test_photos_that_are_not_there_or_where_the_pictures_go(project, evaluate_performance, capsys):
    evaluate_performance.load_model = Finder
    folder = evaluate_performance.FOLDER / "predictions"
    folder.mkdir()
    for name in ("holiday/*.jpg", str(folder)):
        evaluate_performance.IMAGES = name
        assert f"There is no photo {name} in" in message_of(evaluate_performance.main)
    draw_photo((30, 20), (6, 5, 18, 12)).save(folder / "a.png")
    evaluate_performance.IMAGES = "example_1/predictions"
    assert "name photos elsewhere" in message_of(evaluate_performance.main)
    (project / "holiday").mkdir()
    shutil.copy(folder / "a.png", project / "holiday")
    (project / "holiday/a.XML").write_text("<annotation/>")  # no photo, and not tried as one
    found = evaluate_performance.list_photos(["holiday", "hollyday"], project)
    assert [file.name for file in found] == ["a.png"]
    assert "There is no photo hollyday in" in capsys.readouterr().err
    (project / "half.jpg").write_bytes(b"half")
    older = "picture\na.png\n"
    (folder.parent / "predictions.csv").write_text(older)
    evaluate_performance.IMAGES = "half.jpg"
    assert "None of the photos can be read" in message_of(evaluate_performance.main)
    assert (folder.parent / "predictions.csv").read_text() == older
    assert [file.name for file in folder.iterdir()] == ["a.png"]


# What users bring


GOOD = "images/Amber_Cat_1.jpg,100,100,1,1,50,50,cat,0\n"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "train.csv is not there: run generate_dataset.py."),
        (f"{COLUMNS}\n", "no rows"),
        (f"{COLUMNS.replace(',ymin', '')}\n{GOOD}", "KeyError('ymin')"),
        (f"{COLUMNS}\n{GOOD * 900}".replace(",", ";"), "commas, in UTF-8 (KeyError('path'))"),
        (f"{COLUMNS}\n{GOOD * 900}".encode("utf-16"), "commas, in UTF-8"),
        (f"{COLUMNS}\n{GOOD}a.jpg,1,2\n", "line 3"),
        (f"{COLUMNS}\na.jpg,100,100,one,1,50,50,cat,0\n", "could not convert"),
        (f"{COLUMNS}\n{GOOD}a.jpg,100,100,60,1,50,50,cat,0\n", "line 3"),
        (f"{COLUMNS}\n{GOOD}a.jpg,100,100,1,1,150,50,cat,0\n", "line 3"),
        (f"{COLUMNS}\na.jpg,100,100,0.1,0.2,0.5,0.9,cat,0\n", "line 2: no box, in pixels"),
    ],
    ids=range(10),
)
def test_a_csv_that_is_wrong(project, train_model, content, part):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (project / "train.csv").write_bytes(data)
    message = message_of(train_model.main)
    assert message.startswith("train.csv") and part in message and len(message) < 250


def test_a_photo_that_is_half_or_a_program_or_a_pipe_is_named(pets, train_model, monkeypatch):
    files = [pets / "images" / f"{name}.jpg" for name in ("half", "postscript", "pipe")]
    files[0].write_bytes((pets / "images" / "Amber_Cat_1.jpg").read_bytes()[:2000])
    files[1].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    os.mkfifo(files[2])  # to be waited for, without end
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    for file in files:
        with pytest.raises(OSError, match=f"{file.name} cannot be read: "):
            train_model.load_photo(file)


def test_a_model_that_is_missing_broken_or_of_another_example(train_model, evaluate_performance):
    file = train_model.FOLDER / "model.keras"
    assert "run train_model.py" in message_of(evaluate_performance.main)
    for content in (b"", b"no model", b"PK\x05\x06" + bytes(18)):
        file.write_bytes(content)
        assert "model.keras cannot be loaded" in message_of(evaluate_performance.main)
    small = create_small_model(128)
    small.save(file)
    evaluate_performance.load_model()
    assert train_model.IMAGE_SIZE == 128, "windows are as large as the model's input"
    keras.Model(small.input, keras.layers.Dense(5)(small.output)).save(file)
    assert "(None, 5)" in message_of(evaluate_performance.main)
    evaluate_performance.WEIGHTS_FILE = "example_1/mine.keras"
    assert "mine.keras cannot be loaded" in message_of(evaluate_performance.main)


@pytest.mark.oldest
def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(trained[0], tmp_path)
