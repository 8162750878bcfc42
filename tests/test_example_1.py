"""Example 1: windows, boxes and losses against independent formulas; what evaluation says."""

import itertools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.applications.mobilenet_v2 import MobileNetV2
from PIL import Image
from shapely.geometry import box as rectangle

from checks import GREEN, RED, check_gradient, is_colour, message_of, read_pixels
from exports import check_exports
from scripts import create_short_backbone, make_run, predict, read_predictions, to_numpy

COLUMNS = "path,width,height,xmin,ymin,xmax,ymax,class_name,class_id"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
EXAMPLES = pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])


def to_rectangle(box):
    """Return a shapely rectangle of a box; a side below 0 is none, and stays where it starts."""
    xmin, ymin, xmax, ymax = map(float, box)
    return rectangle(xmin, ymin, max(xmin, xmax), max(ymin, ymax))


def iou_of(one, other):
    """Return the IoU of two boxes, by shapely."""
    one, other = to_rectangle(one), to_rectangle(other)
    return one.intersection(other).area / one.union(other).area


def extent_of(mask):
    """Return where what is true in a picture begins and ends: xmin, ymin, xmax, ymax."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def draw_photo(size, corners, background=(90, 90, 90)):
    """Return a photo with a white rectangle."""
    photo = Image.new("RGB", size, background)
    photo.paste("white", corners)
    return photo


class Finder:
    """Stands in for a model: its box is around what is white in the window, in whole pixels.

    In front of blue it is never content: its box is half as wide.
    """

    input_shape = (None, 96, 96, 3)

    def predict_on_batch(self, windows):
        (window,) = windows.astype(int)
        is_white = window.min(axis=-1) > 170
        if not is_white.any():
            return np.zeros((1, 4), "float32")
        xmin, ymin, xmax, ymax = extent_of(is_white) / 96
        if is_colour(window, (0, 0, 255)).any():
            xmin, xmax = (3 * xmin + xmax) / 4, (xmin + 3 * xmax) / 4
        return np.float32([[xmin, ymin, xmax, ymax]])


# Boxes and photos


def test_iou_and_loss_are_those_of_shapely_and_numbers_for_any_box(train_model):
    random = np.random.default_rng(0)
    start = random.uniform(0, 0.6, (200, 2))
    true = np.concatenate([start, start + random.uniform(0.05, 0.4, (200, 2))], axis=1)
    predicted = true + random.normal(0, 0.15, true.shape)
    assert (predicted[:, 2:] < predicted[:, :2]).any()  # has no area, as its rectangle
    ious, losses = [], []
    for one, other in zip(true, predicted):
        union = to_rectangle(one).union(to_rectangle(other))
        around = rectangle(*union.bounds).area
        giou = iou_of(one, other) - (around - union.area) / around
        ious.append(iou_of(one, other))
        start, end = np.split(one - other, 2)
        l1 = np.abs(start + end).sum() / 2 + np.abs(end - start).sum()  # of centre and size
        losses.append(1 - giou + l1)
    assert np.ptp(ious) > 0.5
    true, predicted = np.float32(true), np.float32(predicted)
    np.testing.assert_allclose(to_numpy(train_model.iou(true, predicted)), ious, atol=1e-5)
    np.testing.assert_allclose(to_numpy(train_model.box_loss(true, predicted)), losses, rtol=1e-4)

    values = (-1e6, 0, 0.3, 0.3 + 1e-7, 1, 1e6)
    predicted = np.array([(x, 0.4, end, 0.6) for x in values for end in values])
    for box in ((0.5, 0.5, 0.5, 0.5), (0.3, 0.4, 0.7, 0.6), (0, 0, 1, 1)):
        check_gradient(train_model.box_loss, np.tile(np.float32(box), (36, 1)), predicted)


def test_boxes_of_a_csv_are_shares_and_a_row_whose_box_is_not_in_its_photo_is_named(
    project, train_model
):
    """Else such a box would be learned. The fifth of the wrong ones is in shares."""
    file = project / "train.csv"
    rows = f"a.jpg,600,400,333,72,425,158,cat,0\n{project}/b.jpg,96,96,0,0,96,96,cat,0\n"
    rows += "a.jpg,600,400,1,1,9,9,a smaller cat,0\nc.jpg,96,96,,,,,,\n"  # no object
    file.write_text(f"{COLUMNS}\n{rows}", encoding="utf-8-sig")  # as Excel
    read = train_model.read_csv(file)
    assert [row["path"] for row in read] == [project / "a.jpg", project / "b.jpg"]
    expected = [[333 / 600, 72 / 400, 425 / 600, 158 / 400], [0, 0, 1, 1]]
    np.testing.assert_allclose([row["box"] for row in read], expected)
    np.testing.assert_array_equal([row["size"] for row in read], [[600, 400], [96, 96]])
    wrong = "60,1,50,50 1,1,150,50 -1,1,50,50 1,1,50,100.5 0.1,0.2,0.5,0.9 nan,1,50,50 1,1,50"
    for corners in wrong.split():
        file.write_text(f"{COLUMNS}\n{rows}d.jpg,100,100,{corners}")
        assert message_of(lambda: train_model.read_csv(file)).startswith("train.csv, line 6: ")


def test_photos_are_upright_rgb_and_as_large_as_asked_for(project, train_model):
    photo = Image.new("RGB", (800, 400), "blue")
    photo.paste("red", (0, 0, 400, 400))  # red left: on top, once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo.save(project / "turned.jpg", exif=exif)
    for options, size in (([], (400, 800)), ([5000], (400, 800)), ([100], (50, 100))):
        upright = train_model.load_photo(str(project / "turned.jpg"), *options)
        assert upright.size == size
        pixels = np.asarray(upright).astype(int)
        assert pixels[: size[1] // 2 - 9, :, 0].min() > 200
        assert pixels[size[1] // 2 + 9 :, :, 2].min() > 200
    for mode, name in {"P": "a.gif", "RGBA": "a.png", "CMYK": "a.jpg", "L": "a.webp"}.items():
        Image.new("RGB", (50, 40), "white").convert(mode).save(project / name)
        assert np.asarray(train_model.load_photo(project / name)).min() > 250
    for mode, name in {"I;16": "deep.png", "I": "deep.tiff", "F": "float.tiff"}.items():
        Image.new(mode, (50, 40), 300).save(project / name)  # would be white
        with pytest.raises(OSError, match=f"{name} cannot be read: .*8 bits"):
            train_model.load_photo(project / name)


def test_a_photo_must_have_the_proportions_of_its_row(project, train_model):
    """Boxes are shares of the sides: right in a smaller copy, wrong in one cut or turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (500, 333)).save(project / "turned.jpg", exif=exif)
    sizes = {"whole": (333, 500), "smaller": (67, 100), "lying": (500, 333), "cut": (333, 480)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(project / f"{name}.jpg")
    size = np.array(sizes["whole"])
    for longest_side in (100_000, 150):
        for name in ("whole", "smaller", "turned"):
            train_model.load_photo(project / f"{name}.jpg", longest_side, size)
        for name in ("lying", "cut"):
            with pytest.raises(OSError, match=f"{name}.jpg is not in proportion"):
                train_model.load_photo(project / f"{name}.jpg", longest_side, size)


def test_half_a_photo_is_named_and_postscript_is_not_run(pets, train_model, monkeypatch):
    half, program = (pets / "images" / f"{name}.jpg" for name in ("half", "postscript"))
    half.write_bytes((pets / "images" / "Amber_Cat_1.jpg").read_bytes()[:2000])
    program.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    for file in (half, program):
        with pytest.raises(OSError, match=f"{file.name} cannot be read: "):
            train_model.load_photo(file)


# Windows


WINDOWS = [  # the whole photo, a part, over the edges, more than the photo, a few pixels
    *[(0, 0, 1, 1), (0.345, 0.25, 0.655, 0.65), (-0.15, 0.65, 0.25, 1.15)],
    *[(-0.2, -0.45, 1.1, 1.65), (0.289, 0.592, 0.339, 0.662)],
]


@pytest.mark.parametrize("size", [(640, 400), (97, 301), (60, 45)])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_is_the_same_for_pixels_and_boxes(train_model, size, window):
    """Or else boxes would be learned, and answered, beside the object."""
    window, size = np.array(window), np.array(size)
    sides = window[2:] - window[:2]
    middles = (np.arange(96) + 0.5) / 96  # of the window's pixels
    x, y = np.meshgrid(middles, middles)
    boxes = np.stack([x - 0.1, y - 0.15, x + 0.1, y + 0.15], axis=-1)
    in_photo = train_model.window_to_photo(boxes, window)
    np.testing.assert_allclose(train_model.photo_to_window(in_photo, window), boxes, atol=1e-6)
    np.testing.assert_allclose(in_photo[0, 0, 2:] - in_photo[0, 0, :2], sides * (0.2, 0.3))
    places = (in_photo[..., :2] + in_photo[..., 2:]) / 2
    pixel = np.maximum(1 / size, sides / 96)  # the coarser of the photo's and the window's
    is_inside = ((places > pixel) & (places < 1 - pixel)).all(axis=-1)
    is_outside = ((places < -pixel) | (places > 1 + pixel)).any(axis=-1)
    assert is_inside.any() and is_outside.any() == (window[0] < 0)
    for axis in (0, 1):  # photos whose pixels say where they are, in x or y
        line = ((np.arange(size[axis]) + 0.5) / size[axis]).astype("float32")
        says = np.broadcast_to(line if axis == 0 else line[:, None], size[::-1])
        seen = np.asarray(train_model.cut_window(Image.fromarray(says.copy()), window, 96))
        error = np.abs(seen - places[..., axis])[is_inside] / pixel[axis]
        assert error.max() < 0.51 and np.median(error) < 0.1
        assert not seen[is_outside].any(), "outside of the photo is black"


@pytest.mark.parametrize("size", [(0.01, 0.02), (0.3, 0.2), (1, 1)])
def test_windows_in_training_are_from_close_up_to_more_than_the_photo(train_model, size):
    rng, shares, places, size = np.random.default_rng(0), [], [], np.array(size)
    for _ in range(400):
        start = rng.uniform(0, 1 - size)
        box = np.concatenate([start, start + size])
        window = train_model.draw_window(box, rng)
        corners = train_model.photo_to_window(box, window)
        assert corners.min() > -1e-6 and corners.max() < 1 + 1e-6, "the box is in the window"
        start, end = window[:2], window[2:]
        is_larger = end - start >= 1
        assert ((start > -1e-9) & (end < 1 + 1e-9) | is_larger).all(), "black for nothing"
        shares.append(size / (end - start))
        places.append(corners[:2] + corners[2:])
    assert (np.max(shares, axis=0) > 0.6).all() and (np.min(shares, axis=0) < size).all()
    assert np.std(shares) > 0.04 and (np.ptp(places, axis=0) > 0.3).all()


def test_augmentation_mirrors_and_recolours_and_the_box_goes_where_the_object_goes(train_model):
    rng, mirrored = np.random.default_rng(0), 0
    for _ in range(300):
        left, top = rng.integers(0, 90, 2)
        right, bottom = rng.integers((150, 100), (301, 201))
        photo = draw_photo((300, 200), (left, top, right, bottom))
        photo.paste("black", (left, top, left + 5, bottom))
        box = np.array([left, top, right, bottom]) / np.tile(photo.size, 2)
        window = train_model.draw_window(box, rng)
        picture = train_model.cut_window(photo, window, 96)
        changed, box = train_model.augment(picture, train_model.photo_to_window(box, window), rng)
        pixels = np.asarray(changed).astype(int).sum(axis=2)
        assert changed.size == (96, 96)
        found, expected = extent_of(pixels >= 0.1 * pixels.min() + 0.9 * pixels.max()), 96 * box
        stripe = (expected[2] - expected[0]) * 5 / (right - left)
        is_mirrored = found[2] < expected[2] - stripe / 2
        expected[2 if is_mirrored else 0] += -stripe if is_mirrored else stripe
        np.testing.assert_allclose(found, expected, atol=2.5)
        mirrored += is_mirrored
    assert 110 < mirrored < 190
    picture, box = draw_photo((96, 96), (0, 0, 48, 96), (60, 90, 150)), train_model.WHOLE_PHOTO
    pictures = [np.asarray(train_model.augment(picture, box, rng)[0], int) for _ in range(100)]
    middles = [picture[40, (30, 66)] for picture in pictures]
    assert np.ptp([picture.mean() for picture in pictures]) > 60, "brightness"
    assert np.ptp([np.ptp(middle.mean(axis=1)) for middle in middles]) > 20, "contrast"
    assert np.ptp([np.ptp(middle, axis=1).max() for middle in middles]) > 60, "saturation"


@EXAMPLES
def test_batches_depend_on_nothing_but_seed_and_epoch(csvs, train_model, example):
    rows = train_model.read_csv(csvs / "train.csv")
    names = ["Amber_Cat", "grey_cat", "spotless_beagle"]
    classes = [names] if example == "example_2" else []
    train_model.BATCH_SIZE, train_model.WINDOWS_PER_EPOCH = 5, 40

    def read_epoch(epoch, order=1, training=True, count=24):
        dataset = train_model.PhotoDataset(rows[:count], *classes, training=training)
        dataset.start_epoch(epoch)
        batches = [dataset[index] for index in range(len(dataset))[::order]][::order]
        assert all(batch[0].dtype == np.uint8 for batch in batches)
        sizes = [len(batch[0]) for batch in batches]
        parts = zip(*(keras.tree.flatten(batch) for batch in batches), strict=True)
        return sizes, *(np.concatenate(part) for part in parts)

    sizes, *first = read_epoch(0)
    assert sizes == [5] * 8
    _, *second = read_epoch(1)
    assert not (first[0] == second[0]).all(axis=(1, 2, 3)).any(), "the same in each epoch"
    for found, expected in zip(read_epoch(1, order=-1)[1:], second, strict=True):
        np.testing.assert_array_equal(found, expected)
    train_model.SEED = 1
    assert not np.array_equal(read_epoch(0)[1], first[0])
    sizes, whole, *targets = read_epoch(3, training=False, count=13)
    assert sizes == [5, 5, 3], "each validation photo once"
    for window, row in zip(whole, rows):
        photo = train_model.load_photo(row["path"], train_model.KEPT_SIZE)
        seen = train_model.cut_window(photo, train_model.WHOLE_PHOTO, 96)
        np.testing.assert_array_equal(window, seen)
    if example == "example_2":  # in order of the names: classes and coords, of both the weights
        classes = [names.index(row["class_names"][0]) for row in rows[:13]]
        boxes = np.concatenate([row["boxes"] for row in rows[:13]])
        expected = [np.eye(4)[classes], boxes, np.ones(13), np.ones(13)]
    else:
        expected = [np.stack([row["box"] for row in rows[:13]])]
    if example == "example_3":
        expected = [train_model.to_grid(expected[0], train_model.CELLS)]
    for found, of_csv in zip(targets, expected, strict=True):
        np.testing.assert_allclose(found, of_csv, rtol=1e-6)


def test_green_in_the_picture_of_a_batch_is_on_the_boxes(project, train_model):
    windows = np.full((9, 96, 96, 3), 128, "uint8")
    boxes = np.array([[0.1 + 0.02 * i, 0.2, 0.5 + 0.06 * i, 0.8] for i in range(9)])
    train_model.draw_batch(windows, boxes, project / "batch.jpg")
    sheet = read_pixels(project / "batch.jpg")
    assert sheet.shape == (96, 8 * 96, 3)
    for i, (xmin, _, xmax, _) in enumerate(96 * boxes[:8]):
        window = sheet[:, i * 96 :][:, :96]
        expected = (xmin, 19.2, xmax, 76.8)
        np.testing.assert_allclose(extent_of(is_colour(window, GREEN)), expected, atol=2)
        np.testing.assert_allclose(window[30:70, int(xmin) + 6 : int(xmax) - 6], 128, atol=40)


# The network


@EXAMPLES
def test_which_layers_train(train_model, example):
    """Batch norm that trains would see ImageNet's averages half a training later: IoU 0.817."""
    backbones = []

    def remember(**options):
        backbones.append(create_short_backbone(**options))
        return backbones[0]

    train_model.MobileNetV2, train_model.FROZEN_LAYERS = remember, 9
    model = train_model.create_model(*([3] if example == "example_2" else []))
    of_backbone, norm = backbones[0].layers, keras.layers.BatchNormalization
    frozen = [*of_backbone[:9], *(layer for layer in of_backbone if isinstance(layer, norm))]
    for layer in model.layers:
        assert layer.trainable == (layer not in frozen), layer.name
    assert any(layer.trainable and layer.weights for layer in of_backbone)


def test_154_frozen_layers_are_all_of_the_backbone(project, train_model):
    """And its weights in a .keras file are found, by whatever name, as `WEIGHTS` loads them."""
    backbone = MobileNetV2((96, 96, 3), alpha=0.35, include_top=False, weights=None)
    backbone.save(project / "mine.keras")
    train_model.MobileNetV2, train_model.WEIGHTS = MobileNetV2, "mine.keras"
    train_model.FROZEN_LAYERS = 154
    model = train_model.create_model()
    model.load_weights(project / "mine.keras", skip_mismatch=True)
    assert model.output_shape == (None, 4)
    assert len(backbone.layers) == 154 and len(model.trainable_weights) == 2, "the head's"
    first = model.get_layer("Conv1")
    np.testing.assert_array_equal(first.get_weights(), backbone.get_layer("Conv1").get_weights())
    windows = np.array([0, 127.5, 255]).reshape(3, 1, 1, 1) * np.ones((3, 96, 96, 3))
    seen = keras.Model(model.input, first.input)(windows)
    np.testing.assert_allclose(seen[:, 5, 5, 0], [-1, 0, 1], atol=1e-6)  # as on ImageNet


@pytest.mark.oldest
def test_training_learns_and_says_so(trained):
    train_model, run = trained
    log = np.genfromtxt(run / "log.csv", delimiter=",", names=True)
    assert log["epoch"].tolist() == [*range(16)]
    with Image.open(run / "curves.png") as curves:
        assert curves.width == 1000 and len(curves.convert("RGB").getcolors(10**6)) > 10
    for name, gain in {"train.csv": 0.15, "validation.csv": 0}.items():
        rows, predicted = predict(train_model, name)
        true = np.stack([row["box"] for row in rows])
        ious = [iou_of(*pair) for pair in zip(true, predicted)]
        assert np.mean(ious) > np.mean([iou_of(box, true.mean(axis=0)) for box in true]) + gain
        said = re.search(rf"{name}: .*first look (\d\.\d+)\)", (run / "printed.txt").read_text())
        assert float(said[1]) == pytest.approx(np.mean(ious), abs=0.0015)  # of rounded IoUs
    assert np.mean(ious) == pytest.approx(log["val_iou"][-1], abs=0.01)  # photos of KEPT_SIZE


@pytest.mark.oldest
def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(*trained, tmp_path)


# Looking closer


SMALL, AT_THE_EDGES, ALL = (1700, 1200, 1850, 1290), (2800, 2900, 3000, 3000), (0, 0, 3000, 3000)


@pytest.mark.parametrize("corners", [SMALL, AT_THE_EDGES, ALL])
def test_each_look_is_closer(evaluate_performance, corners):
    photo, true = draw_photo((3000, 3000), corners), np.array(corners) / 3000
    boxes, agreement = evaluate_performance.look(Finder(), photo)
    assert agreement == pytest.approx(iou_of(*boxes[-2:]), abs=1e-3)
    assert boxes.shape == (evaluate_performance.LOOKS, 4)
    ious = [iou_of(true, box) for box in boxes]
    assert ious[-1] > 0.93 and ious[-1] >= ious[0] - 0.03
    assert boxes.min() >= 0 and boxes.max() <= 1
    evaluate_performance.LOOKS = 1
    np.testing.assert_array_equal(evaluate_performance.look(Finder(), photo)[0], boxes[:1])


@pytest.mark.parametrize("lost", [[0.5, 0.4, 0.45, 0.6], [5, 0.5, 5.1, 0.6], [0.5, -1, 0.6, -0.9]])
def test_a_look_that_is_lost_keeps_the_box_before(evaluate_performance, lost):
    box, photo, model = [0.25, 0.125, 0.75, 0.375], Image.new("RGB", (600, 400)), Finder()
    answers = [box, lost, box, lost, [0.25, 0.25, 0.75, 0.75]]
    model.predict_on_batch = lambda windows: np.float32([answers.pop(0)])
    evaluate_performance.LOOKS = 2
    assert evaluate_performance.look(model, photo)[1] == 0, "a lost look is no sure one"
    evaluate_performance.LOOKS = 3
    boxes, _ = evaluate_performance.look(model, photo)
    np.testing.assert_allclose(boxes[:2], [box] * 2)
    expected = [0.3125, 0.15625, 0.6875, 0.34375]  # the middle of what is 1.5 times the box
    np.testing.assert_allclose(boxes[2], expected, err_msg="around the box, not the whole photo")


# What evaluation writes


@pytest.fixture
def mine(project, monkeypatch):
    """Return a folder for photos; the model finds the white rectangle in each."""
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: Finder())
    folder = project / "my photos [1]"
    folder.mkdir()
    return folder


def read_numbers(run):
    """Return the rows of predictions.csv, their numbers as numbers."""
    rows = read_predictions(run)
    for row in rows:
        row |= {name: float(row[name]) for name in row.keys() - {"path", "picture"}}
    return rows


def check_printed(printed, rows):
    """Check the figures that are printed of validation photos against rows of predictions.csv."""
    found, true = (
        [to_rectangle(row[of + name] for name in CORNERS) for row in rows] for of in ("", "true_")
    )
    ious = np.array([a.intersection(b).area / a.union(b).area for a, b in zip(found, true)])
    np.testing.assert_allclose([row["iou"] for row in rows], ious, atol=0.02)  # of tenths of pixels
    ious, first = (np.array([row[column] for row in rows]) for column in ("iou", "first_iou"))
    line = (
        f"validation.csv: {len(rows)} photos, IoU {ious.mean():.3f} (after the first look "
        f"{first.mean():.3f}),\n  median {np.median(ious):.3f}, "
        f"above 0.5 in {np.mean(ious > 0.5):.1%} of the photos"
    )
    assert line in printed
    agreement = np.array([row["agreement"] for row in rows])
    assert (np.diff(agreement) >= 0).all(), "the doubtful ones first"
    table = [[*map(float, row)] for row in re.findall(r">= (\d\.\d) +(\d+) +([\d.]+)%", printed)]
    assert len(table) > 2 and table == sorted(table) and table[0][1] == len(rows)
    for threshold, count, percent in table:
        chosen = agreement >= threshold
        assert count == chosen.sum() and abs(percent - 100 * np.mean(ious[chosen] > 0.5)) < 0.06


def test_predictions_are_in_pixels_of_the_upright_photo(
    project, mine, train_model, evaluate_performance, capsys
):
    exif, lines, truth = Image.Exif(), [COLUMNS], {}
    exif[0x0112] = 6
    for index, size in enumerate([(600, 400), (200, 300), (900, 500), (500, 700)]):
        corners = np.array([0.3, 0.4, 0.6, 0.7]) * np.tile(size, 2)
        photo = draw_photo(size, tuple(corners.astype(int)), "blue" if index == 3 else "gray")
        if index == 2:
            photo.transpose(Image.Transpose.ROTATE_90).save(mine / "2.jpg", exif=exif)
        else:
            photo.save(mine / f"{index}.jpg")
        truth[f"{index}.jpg"] = corners * (1.4 if index == 1 else 1)
        row = [f"{mine.name}/{index}.jpg", *size, *truth[f"{index}.jpg"], "cat", 0]
        lines.append(",".join(map(str, row)))
    photo.save(mine / "4.jpg")
    lines.append(lines[1].replace("0.jpg,600,400", "4.jpg,600,600"))  # another photo than this one
    (project / "validation.csv").write_text("\n".join(lines))
    (project / "train.csv").write_text("\n".join(lines[:2]))
    run = make_run(train_model)
    evaluate_performance.main()
    rows, captured = read_numbers(run), capsys.readouterr()
    check_printed(captured.out, rows)
    assert "train.csv: 1 photos, IoU 0.9" in captured.out and len(rows) == 4
    assert "4.jpg is not in proportion to the CSV's size" in captured.err
    assert Path(rows[0]["path"]).name == "3.jpg" and rows[0]["agreement"] < 0.8 < 0.9
    assert min(row["agreement"] for row in rows[1:]) > 0.9
    for row in rows:
        name = Path(row["path"]).name
        pixels = read_pixels(run / "predictions" / row["picture"])
        assert pixels.shape == (row["height"], row["width"], 3), "upright"
        true, found = ([row[start + corner] for corner in CORNERS] for start in ("true_", ""))
        np.testing.assert_allclose(true, truth[name], atol=0.06)
        np.testing.assert_allclose(extent_of(is_colour(pixels, RED)), found, atol=3)
        if name == "1.jpg":
            np.testing.assert_allclose(extent_of(is_colour(pixels, GREEN)), true, atol=3)
        elif name != "3.jpg":
            np.testing.assert_allclose(found, true, atol=3)
    with Image.open(run / "predictions.png") as sheet:
        places = itertools.product(range(0, 720, 240), range(0, 960, 240))
        tiles = [sheet.crop((x, y, x + 240, y + 240)).convert("L") for y, x in places]
    drawn = [extent_of(np.asarray(tile) < 240) for tile in tiles if tile.getextrema() != (255, 255)]
    is_high = [ymax > xmax for _, _, xmax, ymax in drawn]  # as 1.jpg and 3.jpg are
    assert is_high == [True, True, False, False], "each photo once, the worst first"


def test_named_photos_and_folders_of_photos(
    project, mine, train_model, evaluate_performance, capsys
):
    for photo in ("a.jpg", "b [2].jpg", "c.png"):
        draw_photo((300, 200), (60, 50, 180, 120)).save(mine / photo)
    for name in ("a.XML", "a.txt", "classes.json", "notes.csv"):
        (mine / name).write_text("a label, which is not tried as a photo")
    for name in ("d.jpg", "notes.pdf"):
        (mine / name).write_text("no photo")
    run = make_run(train_model)
    for names, count, not_read in (
        ([str(mine)], 3, ("d.jpg", "notes.pdf")),
        ([str(mine / "b [2].jpg"), str(mine / "d.jpg")], 1, ("d.jpg",)),
    ):
        evaluate_performance.main(names)
        captured = capsys.readouterr()
        assert len(re.findall(r"g: box \[.*\], agreement (?:0\.9|1)", captured.out)) == count
        expected = [str(mine / name) for name in not_read]
        assert re.findall("skipped: (.*) cannot be read", captured.err) == expected
        rows = read_numbers(run)
        pictures = {row["picture"] for row in rows}
        assert pictures == {file.name for file in (run / "predictions").iterdir()}, "replaced"
        assert len(rows) == count and "true_xmin" not in rows[0]
        for row in rows:
            corners = [row[corner] for corner in CORNERS]
            np.testing.assert_allclose(corners, (60, 50, 180, 120), atol=3)
            pixels = read_pixels(run / "predictions" / row["picture"])
            assert is_colour(pixels, RED).any() and not is_colour(pixels, GREEN).any()
    assert "can be read" in message_of(lambda: evaluate_performance.main([str(mine / "a.XML")]))


BOXES = np.tile([0.1, 0.2, 0.5, 0.8], (3, 1))
FIRST, TRUTH = "first_iou,", "true_xmin,true_ymin,true_xmax,true_ymax,"
ANSWERS = {  # of `look`, and the columns that it adds
    "example_1": ((BOXES, 0.5), "agreement,", f"{TRUTH}{FIRST}"),
    "example_2": (
        (BOXES, np.array([0.9, 0.8, 0.2]), np.eye(3)),
        "confidence,class_name,probability,",
        "true_class_name,",
    ),
    "example_3": ((np.zeros((12, 12)), [(BOXES, 0.5)]), "agreement,", f"{TRUTH}{FIRST}dice,"),
}


@EXAMPLES
def test_the_columns_of_predictions_csv(
    csvs, train_model, evaluate_performance, monkeypatch, example
):
    """Users' programs read them by these names, as those of the other examples."""
    answer, of_found, of_true = ANSWERS[example]
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: None)
    monkeypatch.setattr(evaluate_performance, "look", lambda *_: answer)
    run = make_run(train_model)
    (run / "classes.json").write_text('["Amber_Cat", "grey_cat", "spotless_beagle"]')
    start = f"path,width,height,{','.join(CORNERS)},{of_found}"
    for names, columns in (([], f"{start}{of_true}iou,"), ([str(csvs / "images")], start)):
        evaluate_performance.main(names)
        header = (run / "predictions.csv").read_text().splitlines()[0]
        assert sorted(header.split(",")) == sorted(f"{columns}picture".split(","))
