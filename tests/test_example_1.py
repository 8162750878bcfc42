"""Example 1: boxes, losses and photos against independent formulas; training and its pictures."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from shapely.geometry import box as rectangle

from conftest import create_short_backbone, create_small_model, message_of, predict, to_numpy
from exports import check_exports

COLUMNS = "path,width,height,xmin,ymin,xmax,ymax,class_name,class_id"
GREEN, RED = np.array([0, 255, 0]), np.array([255, 0, 0])


def to_rectangle(box):
    """Return a shapely rectangle of a box given as centre, width and height."""
    x, y, width, height = map(float, box)
    width, height = max(width, 0), max(height, 0)
    return rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def iou_of(one, other):
    """Return the IoU of two boxes, by shapely."""
    one, other = to_rectangle(one), to_rectangle(other)
    return one.intersection(other).area / one.union(other).area


def read_pixels(file):
    with Image.open(file) as opened:
        return np.asarray(opened).astype(int)


def is_colour(pixels, colour):
    """Return which pixels of a JPEG are nearly of a colour."""
    return np.abs(pixels - colour).max(axis=-1) < 90


def check_gradient(loss, true, predicted):
    """Check that a loss and its gradient are numbers; return the loss."""
    predicted = tf.constant(predicted, "float32")
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        values = loss(true, predicted)
    assert np.isfinite(values).all() and np.isfinite(tape.gradient(values, predicted)).all()
    return values


def extent_of(pixels, colour):
    """Return where a colour begins and ends: xmin, ymin, xmax, ymax."""
    rows, columns = np.nonzero(is_colour(pixels, colour))
    return columns.min(), rows.min(), columns.max(), rows.max()


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
        ious = to_numpy(train_model.iou(true, predicted))
        assert ious.min() >= 0 and ious.max() <= 1


def test_boxes_of_a_csv_are_centre_and_size_in_the_resized_photo(project, train_model):
    rows = f"a.jpg,600,400,333,72,425,158,cat,0\n{project}/b.jpg,96,96,0,0,96,96,cat,0\n"
    (project / "train.csv").write_text(f"{COLUMNS}\n{rows}", encoding="utf-8-sig")  # as Excel
    paths, boxes = train_model.read_csv("train.csv")
    assert paths == [project / "a.jpg", project / "b.jpg"]
    expected = [[379 * 0.16, 115 * 0.24, 92 * 0.16, 86 * 0.24], [48, 48, 96, 96]]
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)


def test_photos_are_upright_and_rgb(project, train_model):
    photo = Image.new("RGB", (800, 400), "blue")
    photo.paste("red", (0, 0, 400, 400))  # red left: on top, once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo.save(project / "turned.jpg", exif=exif)
    upright = np.asarray(train_model.load_photo(project / "turned.jpg")).astype(int)
    assert upright.shape == (96, 96, 3)
    assert upright[:40, :, 0].min() > 200 and upright[-40:, :, 2].min() > 200
    for mode, name in {"P": "a.gif", "RGBA": "a.png", "CMYK": "a.jpg", "L": "a.webp"}.items():
        Image.new("RGB", (50, 40), "white").convert(mode).save(project / name)
        assert np.asarray(train_model.load_photo(project / name)).min() > 250


def test_the_box_goes_where_the_object_goes(train_model):
    rng, zooms = np.random.default_rng(0), []
    for _ in range(300):
        left, top = rng.integers(0, 45, 2)
        right, bottom = rng.integers(50, 97, 2)
        photo = Image.new("RGB", (96, 96), (90, 90, 90))
        photo.paste("white", (left, top, right, bottom))
        box = np.array([left + right, top + bottom, 2 * (right - left), 2 * (bottom - top)]) / 2
        changed, (x, y, width, height) = train_model.augment(photo, box, rng)
        bright = np.asarray(changed).astype(int).sum(axis=2)
        rows, columns = np.nonzero(bright >= 0.1 * bright.min() + 0.9 * bright.max())
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        expected = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        np.testing.assert_allclose(found, expected, atol=2)
        assert min(expected) > -1e-3 and max(expected) < 96 + 1e-3
        zooms.append(width / (right - left))
        if min(zooms[-1], height / (bottom - top)) > 1.02:
            assert bright.min() > 0, "a window smaller than the photo leaves it"
    assert min(zooms) < 0.8 and max(zooms) > 1.3


def test_augmentation_mirrors_half_and_changes_colours(train_model):
    photo = Image.new("RGB", (96, 96), (60, 90, 150))
    photo.paste((200, 120, 60), (0, 0, 48, 96))
    box, rng = np.array([48, 48, 96, 96.0]), np.random.default_rng(0)
    pictures = [np.asarray(train_model.augment(photo, box, rng)[0], int) for _ in range(100)]
    assert 30 < sum(picture[40, 30, 0] < picture[40, 66, 0] for picture in pictures) < 70
    assert np.ptp([picture.mean() for picture in pictures]) > 60, "brightness"
    assert np.ptp([np.ptp(picture[40].mean(axis=1)) for picture in pictures]) > 20, "contrast"
    assert np.ptp([np.ptp(picture[40, 30]) for picture in pictures]) > 60, "saturation"


@pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])
def test_each_epoch_has_every_photo_once_with_its_box_or_class(csvs, train_model):
    paths, boxes, *classes = train_model.read_csv("train.csv")
    targets = [*classes, boxes]
    if hasattr(train_model, "to_grid"):
        targets = [train_model.to_grid(boxes)]
    photos = [train_model.load_photo(path).tobytes() for path in paths]
    train_model.AUGMENT = False
    dataset = train_model.PhotoDataset(paths, boxes, *classes, training=True)
    orders = []
    for _ in range(2):
        batches = [dataset[index] for index in range(len(dataset))]
        assert all(batch[0].dtype == np.uint8 for batch in batches)
        order = [photos.index(photo.tobytes()) for batch in batches for photo in batch[0]]
        assert sorted(order) == [*range(24)]
        found = zip(*(keras.tree.flatten(batch[1]) for batch in batches))
        for target, parts in zip(targets, found, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), target[order])
        orders.append(order)
        dataset.on_epoch_end()
    assert orders[0] != orders[1]


def test_batches_depend_on_nothing_but_seed_and_epoch(csvs, train_model):
    rows = train_model.read_csv("train.csv")

    def read_epoch(epoch):
        dataset = train_model.PhotoDataset(*rows, training=True)
        for _ in range(epoch):
            dataset.on_epoch_end()
        photos, boxes = zip(*(dataset[index] for index in range(len(dataset))))
        return np.concatenate(photos), np.concatenate(boxes)

    first, second = read_epoch(0), read_epoch(1)
    assert not (first[0] == second[0]).all(axis=(1, 2, 3)).any(), "the same in each epoch"
    train_model.INMEMORY = False
    for found, expected in zip(read_epoch(1), second):
        np.testing.assert_array_equal(found, expected)
    train_model.SEED = 1
    assert not np.array_equal(read_epoch(0)[0], first[0])


def test_green_in_the_picture_of_a_batch_is_on_the_boxes(train_model):
    photos = np.full((9, 96, 96, 3), 128, "uint8")
    boxes = np.array([[20 + 4 * i, 50, 20 + 4 * i, 60] for i in range(9)])
    train_model.draw_batch(photos, boxes)
    sheet = read_pixels(train_model.FOLDER / "batch.jpg")
    assert sheet.shape == (2 * 96, 8 * 96, 3)
    for i, (x, _, width, _) in enumerate(boxes):
        photo = sheet[i // 8 * 96 :, i % 8 * 96 :][:96, :96]
        expected = (max(0, x - width / 2), 20, min(95, x + width / 2), 80)
        np.testing.assert_allclose(extent_of(photo, GREEN), expected, atol=2)
        inside = photo[30:70, int(x - width / 2) + 6 : int(x + width / 2) - 6]
        np.testing.assert_allclose(inside, 128, atol=40)


@pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])
@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_which_layers_train(train_model, weights, monkeypatch):
    backbones = []

    def remember(**options):
        assert options["weights"] == weights and options["alpha"] == 0.35
        backbones.append(create_short_backbone(**options))
        return backbones[0]

    train_model.MobileNetV2 = remember
    train_model.WEIGHTS, train_model.FROZEN_LAYERS = weights, 9
    model = train_model.create_model()
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
    for layer in of_backbone:
        for pair in zip(layer.get_weights(), backbone.get_layer(layer.name).get_weights()):
            np.testing.assert_array_equal(*pair)
    # MobileNetV2 was trained on numbers from -1 to 1.
    until_first = keras.Model(model.input, model.get_layer("Conv1").input)
    photos = np.array([0, 127.5, 255]).reshape(3, 1, 1, 1) * np.ones((3, 96, 96, 3))
    np.testing.assert_allclose(until_first(photos)[:, 5, 5, 0], [-1, 0, 1], atol=1e-6)


WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5"
IMAGENET = Path(__file__).resolve().parents[2] / "shared" / "keras_home" / "models" / WEIGHTS


@pytest.mark.skipif(not IMAGENET.exists(), reason="ImageNet's weights are not at hand")
def test_the_map_that_the_head_reads_lives(csvs, train_model):
    """Else the answer is one constant box. After the last ReLU such steps kill channels."""
    train_model.WEIGHTS, train_model.ALPHA, train_model.EPOCHS = str(IMAGENET), 1.0, 8
    train_model.FROZEN_LAYERS = 54
    train_model.main()
    model = keras.models.load_model(train_model.FOLDER / "model.keras", compile=False)
    head = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    photos, _ = train_model.PhotoDataset(*train_model.read_csv("train.csv"))[0]
    features, boxes = keras.Model(model.inputs, [head.input, model.output]).predict(photos)
    assert (features.std(axis=(0, 1, 2)) > 1e-3).mean() > 0.99
    assert boxes.std(axis=0).min() > 1


def test_training_learns_and_says_so(trained):
    train_model, _ = trained
    log = np.genfromtxt(train_model.FOLDER / "log.csv", delimiter=",", names=True)
    rates = log["learning_rate"]
    assert len(rates) == 16 and np.argmax(rates) in (3, 4)
    assert np.all(np.diff(rates[:4]) > 0) and np.all(np.diff(rates[4:]) < 0)
    assert rates[0] < 0.2 * max(rates) and 2.9e-3 < max(rates) <= 3e-3 and rates[-1] < 5e-5
    with Image.open(train_model.FOLDER / "curves.png") as curves:
        assert curves.width == 1000 and len(curves.convert("RGB").getcolors(10**6)) > 10
    _, boxes = train_model.read_csv("train.csv")
    of_mean_box = np.mean([iou_of(box, boxes.mean(axis=0)) for box in boxes])
    printed = (train_model.FOLDER / "printed.txt").read_text()
    for name in ("train.csv", "validation.csv"):
        (_, true), answers = predict(train_model, name)
        ious = np.array([iou_of(*pair) for pair in zip(true, answers)])
        line = (
            f"{name}: {len(ious)} photos, IoU {ious.mean():.3f}, median {np.median(ious):.3f},\n"
            f"  above 0.5: {np.mean(ious > 0.5):.1%}, above 0.75: {np.mean(ious > 0.75):.1%}\n"
        )
        assert line in printed
        if name == "validation.csv":  # the best epoch's model
            assert ious.mean() == pytest.approx(log["val_iou"].max(), rel=1e-3)
        assert ious.mean() > of_mean_box + (0.15 if name == "train.csv" else 0)


def test_the_answer_is_red_and_the_truth_green(project, evaluate_performance):
    sizes = (600, 400), (200, 300)
    paths = [project / f"{number}.png" for number in range(len(sizes))]
    for path, size in zip(paths, sizes):
        Image.new("RGB", size, "grey").save(path)
    answer, truth = np.array([[30, 48, 20, 40], [30, 60, 40, 20]]), np.array([[70, 48, 20, 40]] * 2)
    pictures = evaluate_performance.draw_pictures(paths, answer, [""] * 2, truth)
    for picture, size, boxes in zip(pictures, sizes, zip(answer, truth)):
        pixels = read_pixels(picture)
        for colour, box in zip((RED, GREEN), boxes):
            corners = np.array(to_rectangle(box).bounds) * np.tile(size, 2) / 96
            np.testing.assert_allclose(extent_of(pixels, colour), corners, atol=2)
            left, top, right, bottom = corners.astype(int) + np.array((9, 9, -9, -9))
            np.testing.assert_allclose(pixels[top:bottom, left:right], 128, atol=9)


def test_corners_are_in_the_photo_and_in_order(train_model, evaluate_performance):
    for box, expected in {
        (48, 24, 24, 12): (225, 75, 375, 125),
        (48, 48, 300, 300): (0, 0, 600, 400),
        (48, 48, -9, -9): (300, 200, 300, 200),
        (1e6, -1e6, 10, 10): (600, 0, 600, 0),
    }.items():
        found = evaluate_performance.to_corners(np.array(box, "float32"), (600, 400))
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_contact_sheet_has_the_worst_first(project, evaluate_performance):
    files = [project / f"{level}.png" for level in range(10, 251, 20)]  # 13 pictures
    for file in files:
        Image.new("L", (400, 400), int(file.stem)).save(file)
    for count, expected in (
        (13, [[10, 30, 50, 70], [90, 110, 130, 150], [190, 210, 230, 250]]),
        (2, [[10, 30, 255, 255]] * 3),
    ):
        evaluate_performance.draw_contact_sheet(files[:count])
        sheet = read_pixels(evaluate_performance.FOLDER / "predictions.png")
        np.testing.assert_array_equal(sheet[120::240, 120::240, 0], expected)


@pytest.mark.parametrize(
    ("images", "count"), [("mine", 3), ("mine/a*.jpg", 2), ("{}/mine/b*.jpg", 1)]
)
def test_photos_without_a_csv(project, train_model, evaluate_performance, capsys, images, count):
    (project / "mine").mkdir()
    (project / "mine" / "notes.txt").write_text("no photo")
    for name in ("a.jpg", "a-2.jpg", "b.jpg"):
        Image.new("RGB", (300, 200), "grey").save(project / "mine" / name)
    create_small_model().save(train_model.FOLDER / "model.keras")
    folder = train_model.FOLDER / "predictions"
    folder.mkdir()
    for name in ("00009_gone.jpg", "mine.jpg"):
        (folder / name).write_bytes(b"")
    evaluate_performance.IMAGES = images.format(project)
    evaluate_performance.main()
    captured = capsys.readouterr()
    assert captured.out.count(".jpg: box ") == count
    assert ("notes.txt" in captured.err) == (images == "mine")
    assert not (folder / "00009_gone.jpg").exists(), "of an earlier evaluation"
    (folder / "mine.jpg").unlink()
    pictures = [*folder.iterdir()]
    assert len(pictures) == count
    for pixels in map(read_pixels, pictures):
        assert is_colour(pixels, RED).any() and not is_colour(pixels, GREEN).any()


GOOD = "images/Amber_Cat_1.jpg,100,100,1,1,50,50,cat,0\n"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "run generate_dataset.py"),
        ("", "no rows"),
        (f"{COLUMNS}\n", "no rows"),
        (f"{COLUMNS.replace(',ymin', '')}\n{GOOD}", "KeyError('ymin')"),
        (f"{COLUMNS}\n{GOOD}".replace(",", ";"), "KeyError('path')"),
        (f"{COLUMNS}\n{GOOD}".encode("utf-16"), "cannot be read"),
        (f"{COLUMNS}\n{GOOD}a.jpg,1,2\n", "line 3"),
        (f"{COLUMNS}\na.jpg,100,100,one,1,50,50,cat,0\n", "could not convert"),
        (f"{COLUMNS}\n{GOOD}{GOOD}a.jpg,100,100,nan,1,50,50,cat,0\n", "line 4"),
        (f"{COLUMNS}\n{GOOD}a.jpg,100,100,60,1,50,50,cat,0\n", "line 3"),
        (f"{COLUMNS}\n{GOOD}a.jpg,100,100,1,1,150,50,cat,0\n", "line 3"),
    ],
    ids=str,
)
def test_a_csv_that_is_wrong(project, train_model, content, part):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (project / "train.csv").write_bytes(data)
    message = message_of(train_model.main)
    assert message.startswith("train.csv") and part in message and "generate_dataset" in message


def test_a_photo_that_is_missing_broken_or_a_program_is_named(pets, train_model, monkeypatch):
    files = [pets / "images" / f"{name}.jpg" for name in ("gone", "half", "postscript")]
    files[1].write_bytes((pets / "images" / "Amber_Cat_1.jpg").read_bytes()[:2000])
    files[2].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    for train_model.INMEMORY in (True, False):
        for file in files:
            row = f"images/{file.name},100,100,1,1,50,50,cat,0\n"
            (pets / "train.csv").write_text(f"{COLUMNS}\n{row}")
            (pets / "validation.csv").write_text(f"{COLUMNS}\n{GOOD}")
            with pytest.raises(OSError, match=f"{file.name} cannot be read: "):
                train_model.main()


def test_a_model_that_is_missing_broken_or_of_other_constants(train_model, evaluate_performance):
    file = train_model.FOLDER / "model.keras"
    assert "run train_model.py" in message_of(evaluate_performance.main)
    for content in (b"", b"no model", b"PK\x05\x06" + bytes(18)):
        file.write_bytes(content)
        assert "model.keras cannot be loaded" in message_of(evaluate_performance.main)
    create_small_model(128).save(file)
    message = message_of(evaluate_performance.main)
    assert "128" in message and "96" in message
    evaluate_performance.WEIGHTS_FILE = "example_1/mine.keras"
    assert "mine.keras cannot be loaded" in message_of(evaluate_performance.main)


def test_images_that_name_nothing(project, evaluate_performance):
    (project / "empty").mkdir()
    for evaluate_performance.IMAGES in ("holiday/*.jpg", "empty", "gone.jpg"):
        message = message_of(evaluate_performance.list_photos)
        assert repr(evaluate_performance.IMAGES) in message and str(project) in message


def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(trained[0], tmp_path)
