"""Example 1: its numbers against other formulas, its files and pictures, users' mistakes."""

import csv
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from shapely.geometry import box as rectangle

import draw_pets
from conftest import create_short_backbone, create_small_model, message_of

COLUMNS = "path,width,height,xmin,ymin,xmax,ymax,class_name,class_id"


def corners_of(boxes):
    """Return corners of boxes given as centre and size, written apart from the scripts."""
    return [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in boxes]


def iou_of(train_model, true, predicted):
    """Return the script's IoU as a NumPy array."""
    true, predicted = np.array(true, "float32"), np.array(predicted, "float32")
    return keras.ops.convert_to_numpy(train_model.iou(true, predicted))


def save_model(train_model, name="model-0.50.keras", **constants):
    """Save an untrained model as training would, and return its file."""
    for constant, value in constants.items():
        setattr(train_model, constant, value)
    train_model.Backbone = create_short_backbone  # which TensorFlow traces sooner
    model = train_model.create_model()
    model.save(train_model.FOLDER / name)
    return train_model.FOLDER / name


# The metric


def test_iou_is_that_of_shapely(train_model):
    random = np.random.default_rng(0)
    true = random.uniform((20, 20, 5, 5), (80, 80, 60, 60), (200, 4))
    predicted = true + random.normal(0, 12, true.shape)
    predicted[:, 2:] = np.abs(predicted[:, 2:])
    expected = []
    for a, b in zip(corners_of(true), corners_of(predicted)):
        a, b = rectangle(*a), rectangle(*b)
        expected.append(a.intersection(b).area / a.union(b).area)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(iou_of(train_model, true, predicted), expected, atol=1e-5)


def test_iou_is_that_of_keras(train_model):
    random = np.random.default_rng(1)
    true = random.uniform(10, 60, (50, 4)).astype("float32")
    predicted = random.uniform(10, 60, (50, 4)).astype("float32")
    pairs = keras.utils.bounding_boxes.compute_iou(true, predicted, "center_xywh")
    expected = np.diag(keras.ops.convert_to_numpy(pairs))
    np.testing.assert_allclose(iou_of(train_model, true, predicted), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        ((50, 50, 20, 20), (50, 50, 20, 20), 1),
        ((50, 50, 20, 20), (80, 80, 20, 20), 0),
        ((50, 50, 20, 20), (70, 50, 20, 20), 0),
        ((50, 50, 20, 20), (60, 50, 20, 20), 1 / 3),
        ((50, 50, 20, 20), (50, 50, 10, 10), 1 / 4),
        ((50, 50, 20, 20), (50, 50, -20, -20), 0),
        ((50, 50, 20, 20), (50, 50, 20, -20), 0),
        ((50, 50, 20, 20), (50, 50, 0, 0), 0),
        ((50, 50, 20, 20), (1e6, -1e6, 1e6, 1e6), 0),
        ((0.3, 0.3, 0.1, 0.1), (0.3, 0.3, 0.1, 0.1), 1),
    ],
)
def test_iou_of_boxes_known_by_hand(train_model, true, predicted, expected):
    assert iou_of(train_model, [true], [predicted]) == pytest.approx([expected], abs=1e-5)


def test_iou_stays_between_0_and_1_for_any_numbers(train_model):
    random = np.random.default_rng(2)
    scale = 10.0 ** random.integers(-3, 7, (2000, 1))
    values = iou_of(train_model, *(random.normal(0, 1, (2, 2000, 4)) * scale))
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1


# Boxes and batches


def test_boxes_go_to_the_network_and_back(train_model):
    sizes = np.array([[600, 400], [96, 96]], "float32")
    corners = np.array([[333, 72, 425, 158], [0, 0, 96, 96]], "float32")
    boxes = train_model.to_boxes(corners, sizes)
    np.testing.assert_allclose(boxes[0], [379 * 0.16, 115 * 0.24, 92 * 0.16, 86 * 0.24], rtol=1e-6)
    np.testing.assert_allclose(boxes[1], [48, 48, 96, 96])
    np.testing.assert_allclose(train_model.to_corners(boxes, sizes), corners, atol=1e-3)


def test_corners_stay_in_the_photo_and_in_order(train_model):
    boxes = np.array([[500, 500, 10, 10], [48, 48, 300, 300], [48, 48, -9, -9], [-50, 3, 1, 1]])
    corners = train_model.to_corners(boxes, np.full((4, 2), 200))
    assert corners.min() >= 0 and corners.max() <= 200
    assert (corners[:, :2] <= corners[:, 2:]).all()
    np.testing.assert_allclose(corners[1], [0, 0, 200, 200])


@pytest.mark.parametrize("in_memory", [True, False])
def test_each_epoch_has_every_photo_once_with_its_own_box(csvs, train_model, in_memory):
    train_model.INMEMORY, train_model.AUGMENT = in_memory, False
    dataset = train_model.create_dataset("train.csv", training=True)
    with open(csvs / "train.csv") as csv_file:
        rows = list(csv.DictReader(csv_file))
    assert len(dataset) == 3 and len(rows) == 24
    expected = {}
    for row in rows:
        photo = np.asarray(train_model.load_photo(csvs / row["path"], 96))
        width, height, *corners = (float(row[name]) for name in COLUMNS.split(",")[1:7])
        x, y = (
            (corners[0] + corners[2]) / 2 * 96 / width,
            (corners[1] + corners[3]) / 2 * 96 / height,
        )
        w, h = (corners[2] - corners[0]) * 96 / width, (corners[3] - corners[1]) * 96 / height
        expected[photo.tobytes()] = (x, y, w, h)
    orders = []
    for _ in range(2):
        batches = [dataset[index] for index in range(len(dataset))]
        photos = np.concatenate([photos for photos, _ in batches])
        boxes = np.concatenate([boxes for _, boxes in batches])
        assert photos.dtype == np.uint8 and photos.shape == (24, 96, 96, 3)
        assert {photo.tobytes() for photo in photos} == set(expected)
        for photo, box in zip(photos, boxes):
            np.testing.assert_allclose(box, expected[photo.tobytes()], rtol=1e-5)
        orders.append(photos.tobytes())
        dataset.on_epoch_end()
    assert orders[0] != orders[1]


def test_photos_are_upright_and_rgb_at_every_size(project, train_model):
    photo = Image.new("RGB", (400, 200), "blue")
    photo.paste("red", (0, 0, 200, 200))  # red left: on top, once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo.save(project / "turned.jpg", exif=exif)
    assert train_model.load_photo(project / "turned.jpg").size == (200, 400)
    for size in (None, 96):
        upright = np.asarray(train_model.load_photo(project / "turned.jpg", size)).astype(int)
        top, bottom = upright[: len(upright) // 3], upright[-len(upright) // 3 :]
        assert top[..., 0].min() > 200 and top[..., 2].max() < 60
        assert bottom[..., 2].min() > 200 and bottom[..., 0].max() < 60


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "CMYK", "1"])
def test_any_mode_becomes_rgb(project, train_model, mode):
    file = project / f"photo.{'jpg' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (50, 40), "white").convert(mode).save(file)
    photo = train_model.load_photo(file, 96)
    assert photo.mode == "RGB" and photo.size == (96, 96)
    assert np.asarray(photo).min() > 250


# The model


@pytest.mark.parametrize(("image_size", "alpha"), [(96, 0.35), (160, 0.5), (224, 0.35)])
def test_the_model_answers_with_four_numbers(train_model, image_size, alpha):
    train_model.IMAGE_SIZE, train_model.ALPHA = image_size, alpha
    train_model.BATCH_NORM_MOMENTUM = 0.8
    model = train_model.create_model()
    photos = np.zeros((2, image_size, image_size, 3), "uint8")
    assert model.predict(photos, verbose=0).shape == (2, 4)
    momenta = {getattr(layer, "momentum", None) for layer in model.layers} - {None}
    assert momenta == {0.8}


def test_the_preprocessing_is_mobilenets_and_within_the_model(train_model):
    model = train_model.create_model()
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    until_first = keras.Model(model.input, first.input)
    photos = np.array([0, 127.5, 255], "float32").reshape(3, 1, 1, 1) * np.ones((1, 96, 96, 3))
    values = until_first.predict(photos, verbose=0)
    np.testing.assert_allclose(values[:, 5, 5, 0], [-1, 0, 1], atol=1e-6)


# From the CSVs to pictures


@pytest.mark.usefixtures("short_backbone")
def test_train_and_evaluate_end_to_end(csvs, train_model, evaluate_performance, capsys):
    train_model.EPOCHS, evaluate_performance.MIRROR = 3, False
    train_model.main()
    printed = capsys.readouterr().out
    models = list(train_model.FOLDER.glob("model-*.keras"))
    assert len(models) == 1 and re.fullmatch(r"model-\d\.\d\d\.keras", models[0].name)
    assert printed.strip().splitlines()[-1] == str(models[0])
    with open(train_model.FOLDER / "log.csv") as log_file:
        log = list(csv.DictReader(log_file))
    assert len(log) == 3 and {"loss", "iou", "val_loss", "val_iou"} <= set(log[0])
    best = max(float(row["val_iou"]) for row in log)
    assert models[0].name == f"model-{best:.2f}.keras"
    with Image.open(train_model.FOLDER / "curves.png") as curves:
        assert len(curves.convert("RGB").getcolors(10**6)) > 10

    evaluate_performance.DEBUG = True
    evaluate_performance.main()
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("validation"))
    assert float(line.split()[2]) == pytest.approx(best, abs=2e-3)
    pictures = sorted((train_model.FOLDER / "predictions").iterdir())
    with open(csvs / "validation.csv") as csv_file:
        rows = list(csv.DictReader(csv_file))
    assert [picture.stem[5:] for picture in pictures] == [Path(row["path"]).stem for row in rows]
    assert printed.count("IoU 0.") >= len(rows)
    for picture, row in zip(pictures, rows):
        with Image.open(picture) as opened:
            assert opened.size == (int(row["width"]), int(row["height"]))
    with Image.open(train_model.FOLDER / "predictions.png") as sheet:
        colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3).astype(int)
    assert (np.abs(colours - (0, 255, 0)).max(axis=1) < 60).any(), "no green on the contact sheet"


def test_ious_of_the_evaluation_are_those_of_shapely(
    csvs, train_model, evaluate_performance, capsys
):
    save_model(train_model)
    evaluate_performance.MIRROR = False
    evaluate_performance.main()
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("training "))
    model = keras.models.load_model(train_model.FOLDER / "model-0.50.keras", compile=False)
    ious = []
    with open(csvs / "train.csv") as csv_file:
        for row in csv.DictReader(csv_file):
            photo = np.asarray(train_model.load_photo(csvs / row["path"], 96))
            (predicted,) = corners_of(model.predict(photo[None], verbose=0))
            scale = [96 / float(row["width"]), 96 / float(row["height"])] * 2
            true = [float(row[k]) * s for k, s in zip(("xmin", "ymin", "xmax", "ymax"), scale)]
            if predicted[0] >= predicted[2] or predicted[1] >= predicted[3]:
                ious.append(0)
                continue
            true, predicted = rectangle(*true), rectangle(*predicted)
            ious.append(true.intersection(predicted).area / true.union(predicted).area)
    expected = [np.mean(ious), np.median(ious), min(ious), max(ious)]
    np.testing.assert_allclose([float(x) for x in line.split()[2:6]], expected, atol=2e-3)


def test_mirroring_answers_with_the_mean(train_model, evaluate_performance):
    photos = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3)).astype("uint8")
    model = keras.Sequential(
        [keras.Input((96, 96, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    answers = model.predict(photos, verbose=0)
    x, *others = model.predict(photos[:, :, ::-1], verbose=0).T
    expected = (answers + np.stack([96 - x, *others], axis=1)) / 2
    mirroring = evaluate_performance.add_mirror(model)
    np.testing.assert_allclose(mirroring.predict(photos, verbose=0), expected, rtol=1e-3, atol=1e-2)
    save_model(train_model)
    models = []
    for evaluate_performance.MIRROR in (True, False):
        models.append(keras.ops.convert_to_numpy(evaluate_performance.load_model()(photos)))
    assert not np.array_equal(*models)


def test_boxes_are_drawn_where_they_are(evaluate_performance):
    photo = Image.new("RGB", (300, 200), "gray")
    evaluate_performance.draw_boxes(photo, (150, 60, 250, 160), "IoU 0.00", (40, 50, 120, 150))
    assert photo.getpixel((150, 100)) == photo.getpixel((200, 160)) == (255, 0, 0)
    assert photo.getpixel((40, 100)) == photo.getpixel((80, 150)) == (0, 255, 0)
    assert photo.getpixel((200, 110)) == photo.getpixel((80, 100)) == (128, 128, 128)
    assert np.asarray(photo)[:20, :60].max() == 255, "no label"


@pytest.mark.parametrize(("backend", "windows"), [("TkAgg", 1), ("agg", 0)])
def test_pictures_are_shown_where_there_is_a_display(
    evaluate_performance, monkeypatch, backend, windows
):
    shown = []
    monkeypatch.setattr(evaluate_performance.plt, "get_backend", lambda: backend)
    monkeypatch.setattr(evaluate_performance.plt, "show", lambda: shown.append(1))
    evaluate_performance.show(Image.new("RGB", (30, 20)), "photo")
    assert len(shown) == windows


def test_the_contact_sheet_has_the_worst_first(project, evaluate_performance):
    levels = [10, 30, 50, 70, 90, 110, 130, 150, 170, 190, 210, 230, 250]
    ious = np.linspace(1, 0, len(levels))
    files = []
    for level in levels:
        files.append(project / f"{level}.png")
        Image.new("RGB", (400, 400), (level, level, level)).save(files[-1])
    evaluate_performance.draw_contact_sheet(files, [""] * len(files), np.argsort(ious))
    with Image.open(evaluate_performance.FOLDER / "predictions.png") as sheet:
        rows = [
            [sheet.getpixel((column * 240 + 120, 18 + row * 276 + 150))[0] for column in range(4)]
            for row in range(3)
        ]
    assert rows == [[250, 230, 210, 190], [170, 150, 130, 110], [10, 30, 50, 70]]


def test_pictures_of_an_earlier_evaluation_go_but_nothing_else(
    csvs, train_model, evaluate_performance
):
    save_model(train_model)
    folder = train_model.FOLDER / "predictions"
    folder.mkdir()
    for name in ("9999_gone.jpg", "mine.jpg"):
        (folder / name).write_bytes(b"")
    evaluate_performance.main()
    assert not (folder / "9999_gone.jpg").exists()
    assert (folder / "mine.jpg").exists()


@pytest.mark.parametrize("images", ["images", "images/Amber_Cat_1.jpg", "images/grey_*.jpg"])
def test_photos_without_a_csv_get_a_red_box_only(
    pets, train_model, evaluate_performance, capsys, images
):
    (pets / "images" / "notes.txt").write_text("no photo")
    save_model(train_model)
    evaluate_performance.IMAGES = images
    evaluate_performance.main()
    captured = capsys.readouterr()
    count = {"images": 30, "images/grey_*.jpg": 10}.get(images, 1)
    pictures = list((train_model.FOLDER / "predictions").iterdir())
    assert len(pictures) == captured.out.count(": box from") == count
    assert ("notes.txt" in captured.err) == (images == "images")
    for picture in pictures:
        with Image.open(picture) as opened:
            pixels = np.asarray(opened).reshape(-1, 3).astype(int)
        assert not (np.abs(pixels - (0, 255, 0)).max(axis=1) < 30).any()


def test_the_model_with_the_highest_iou_is_taken(csvs, train_model, evaluate_performance, capsys):
    for name in ("model-0.09.keras", "model-0.81.keras", "model-0.46.keras"):
        save_model(train_model, name)
    evaluate_performance.main()
    captured = capsys.readouterr()
    assert "model-0.81.keras" in captured.out and "model-0.46.keras is newer" in captured.err
    evaluate_performance.WEIGHTS_FILE = "example_1/model-0.46.keras"
    evaluate_performance.main()
    assert "model-0.46.keras" in capsys.readouterr().out


# What users get wrong


@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("IMAGE_SIZE", 100),
        ("IMAGE_SIZE", 96.0),
        ("ALPHA", 0.4),
        ("ALPHA", [1]),
        ("BATCH_NORM_MOMENTUM", 1),
        ("BATCH_NORM_MOMENTUM", None),
        ("FREEZE", "half"),
        ("FREEZE", "batch_norm"),  # with the fixture's random weights
        ("HEAD", "dense"),
        ("HEAD_BLOCKS", -1),
        ("HEAD_BLOCKS", 1.5),
        ("HEAD_BLOCK", "res"),
        ("VOTE_LOSS", -1),
        ("VOTE_LOSS", "1"),
        ("LOSS", "iou"),
        ("LOSS", "giou+"),
        ("LOSS", ["giou"]),
        ("OPTIMIZER", "rmsprop"),
        ("SCHEDULE", "linear"),
        ("AUGMENT", "yes"),
        ("EPOCHS", 0),
        ("BATCH_SIZE", 0),
        ("LEARNING_RATE", 0),
        ("LEARNING_RATE", "1e-3"),
        ("PATIENCE", 0),
        ("WARM_UP", -1),
        ("THREADS", 0),
        ("THREADS", "2"),
        ("SEED", -1),
    ],
)
def test_a_wrong_constant_is_named(train_model, constant, value):
    setattr(train_model, constant, value)
    message = message_of(train_model.main)
    assert constant in message and repr(value) in message


def test_no_csv_yet(train_model, evaluate_performance):
    assert "generate_dataset.py" in message_of(train_model.main)
    save_model(train_model)
    assert "generate_dataset.py" in message_of(evaluate_performance.main)


def test_no_model_yet(csvs, evaluate_performance):
    assert "train_model.py" in message_of(evaluate_performance.main)


@pytest.mark.parametrize("content", [b"no model", b"", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_model(csvs, evaluate_performance, content):
    (evaluate_performance.FOLDER / "model-0.99.keras").write_bytes(content)
    assert "model-0.99.keras" in message_of(evaluate_performance.main)


def test_a_model_file_that_is_not_there(evaluate_performance):
    evaluate_performance.WEIGHTS_FILE = "example_1/mine.keras"
    assert "mine.keras" in message_of(evaluate_performance.main)


def test_a_model_for_other_constants(csvs, train_model, evaluate_performance):
    save_model(train_model, IMAGE_SIZE=128)
    train_model.IMAGE_SIZE = 96
    message = message_of(evaluate_performance.main)
    assert "128" in message and "IMAGE_SIZE is 96" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (COLUMNS + "\n", "no rows"),
        ("", "no rows"),
        ("path,width\nimages/Amber_Cat_1.jpg,10\n", "line 2"),
        (COLUMNS + "\nimages/Amber_Cat_1.jpg,100,100,1,1,50,50,cat,0\na.jpg,1,2\n", "line 3"),
        (COLUMNS[:-20] + "\nimages/Amber_Cat_1.jpg,100,100,1,1,50,50\n", "class_name"),
        (COLUMNS + "\nimages/Amber_Cat_1.jpg,100,100,one,1,50,50,cat,0\n", "line 2"),
        (COLUMNS + "\nimages/Amber_Cat_1.jpg,100,100,nan,1,50,50,cat,0\n", "line 2"),
        (COLUMNS + "\nimages/Amber_Cat_1.jpg,inf,inf,1,1,50,50,cat,0\n", "line 2"),
        (COLUMNS + "\nimages/Amber_Cat_1.jpg,100,100,60,1,50,50,cat,0\n", "line 2"),
        (COLUMNS + "\nimages/Amber_Cat_1.jpg,100,100,1,1,150,50,cat,0\n", "line 2"),
        (COLUMNS + "\nimages/gone.jpg,100,100,1,1,50,50,cat,0\n", "gone.jpg"),
        (COLUMNS + "\nimages/broken.jpg,100,100,1,1,50,50,cat,0\n", "broken.jpg"),
    ],
)
def test_a_csv_that_is_wrong(pets, train_model, content, part):
    (pets / "images" / "broken.jpg").write_bytes(
        (pets / "images" / "Amber_Cat_1.jpg").read_bytes()[:2000]
    )
    (pets / "train.csv").write_text(content)
    assert part in message_of(train_model.main)


def test_a_photo_that_is_gone_is_noticed_before_training_from_disk(csvs, train_model):
    train_model.INMEMORY = False
    (csvs / "images" / "grey_cat_1.jpg").unlink()
    assert "grey_cat_1.jpg" in message_of(train_model.main)


def test_a_photo_that_breaks_while_training_from_disk_is_named(csvs, train_model, monkeypatch):
    train_model.INMEMORY, train_model.HEAD = False, "conv"
    monkeypatch.setattr(train_model, "create_model", create_small_model)
    on_epoch_end = train_model.PhotoDataset.on_epoch_end

    def break_photos(dataset):
        on_epoch_end(dataset)
        if dataset.epoch == 2:
            for path in dataset.paths:
                Path(path).write_bytes(b"no photo")

    monkeypatch.setattr(train_model.PhotoDataset, "on_epoch_end", break_photos)
    assert ".jpg cannot be read: " in message_of(train_model.main)


def test_weights_that_are_not_there(csvs, train_model):
    train_model.WEIGHTS = "weights/mine.weights.h5"
    message = message_of(train_model.main)
    assert "WEIGHTS" in message and "mine.weights.h5" in message


def test_images_that_are_not_there(train_model, evaluate_performance):
    save_model(train_model)
    evaluate_performance.IMAGES = "holiday/*.jpg"
    assert "holiday/*.jpg" in message_of(evaluate_performance.main)


def test_memory_is_kept_for_the_next_step(train_model):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another allocator")

    def count_page_faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert len(b"x" * 80_000_000) == 80_000_000  # 20,000 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    count_page_faults()
    assert count_page_faults() < 2000


# Real processes


def start(script, folder):
    """Start a script of `folder` in another current folder, printing into folder/printed.txt."""
    with open(folder / "printed.txt", "w") as printed:
        return subprocess.Popen(
            [sys.executable, folder / script],
            cwd="/",
            stdout=printed,
            stderr=subprocess.STDOUT,
            # A shell starts what it puts into the background with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@pytest.mark.parametrize("script", ["train_model.py", "evaluate_performance.py"])
def test_a_mistake_gives_exit_code_1_and_no_traceback(project, script):
    assert start(f"example_1/{script}", project).wait(timeout=120) == 1
    printed = (project / "printed.txt").read_text()
    assert "Traceback" not in printed and "run " in printed.splitlines()[-1]


@pytest.mark.usefixtures("short_backbone")
def test_ctrl_c_keeps_the_best_model_and_draws_the_curves(csvs):
    script = csvs / "example_1" / "train_model.py"
    text = script.read_text()
    for constant, value in (
        ("WEIGHTS", None),
        ("FREEZE", '"none"'),
        ("ALPHA", 0.35),
        ("EPOCHS", 5000),
        ("PATIENCE", 5000),
    ):
        text, count = re.subn(
            rf"^{constant} = \S+", f"{constant} = {value}", text, flags=re.MULTILINE
        )
        assert count == 1
    script.write_text(text)
    process = start("example_1/train_model.py", csvs)
    deadline = time.monotonic() + 120
    log = csvs / "example_1" / "log.csv"
    while time.monotonic() < deadline and (not log.exists() or len(log.read_text()) < 200):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    exit_code = process.wait(timeout=60)
    printed = (csvs / "printed.txt").read_text()
    assert exit_code == 0, printed
    (model,) = (csvs / "example_1").glob("model-*.keras")
    assert printed.strip().splitlines()[-1] == str(model)
    assert keras.models.load_model(model, compile=False).output_shape == (None, 4)
    with Image.open(csvs / "example_1" / "curves.png") as curves:
        curves.load()


def test_drawn_pets_have_their_head_in_the_box():
    random = np.random.default_rng(3)
    photo, box = draw_pets.draw_pet(random, "grey_cat", 300, 250)
    assert photo.size == (300, 250)
    assert 0 <= box[0] < box[2] <= 300 and 0 <= box[1] < box[3] <= 250
    head = np.asarray(photo)[int((box[1] + box[3]) / 2) :, int(box[0]) : int(box[2])]
    assert head.max() > 200 and head.min() < 40, "no eyes"
