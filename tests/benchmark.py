"""Time the scripts against what the machine can do; each line is a ratio within one run.

make benchmark                                  # on drawn pets
.venv/bin/python tests/benchmark.py FOLDER      # on FOLDER/images and FOLDER/annotations/xmls

Each line times two things in turn and gives the median of the ratios of their speeds, above 1 where
the first is faster. The last lines compare 20,000 photos with 200.
"""

import contextlib
import importlib
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import keras
import numpy as np

import draw_pets

REPOSITORY = Path(__file__).resolve().parent.parent
ROUNDS = 5
FEW, MANY = 200, 20_000


def seconds(function):
    """Return how long a call takes, with its printing kept quiet."""
    quiet = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        function()
    return time.perf_counter() - start


def compare(what, ours, reference, photos, reference_photos=None, target=1.0, rounds=ROUNDS):
    """Time `ours` and `reference` in turn and print photos a second and the ratio of the two."""
    seconds(ours)  # the first calls warm up
    seconds(reference)
    speeds = []
    for _ in range(rounds):
        our_speed = photos / seconds(ours)
        speeds.append((our_speed, (reference_photos or photos) / seconds(reference)))
    ratios = [one / other for one, other in speeds]
    one, other = (statistics.median(column) for column in zip(*speeds))
    print(
        f"{what:62} {one:8.1f} {other:8.1f} {statistics.median(ratios):6.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}; {target})",
        flush=True,
    )


def load_example(folder, number, **constants):
    """Import an example's two scripts anew, with random weights and these constants."""
    for name in ("train_model", "evaluate_performance"):
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder / f"example_{number}"))
    train_model = importlib.import_module("train_model")
    evaluate_performance = importlib.import_module("evaluate_performance")
    sys.path.pop(0)
    for name, value in {"WEIGHTS": None, "AUGMENT": False, **constants}.items():
        setattr(train_model, name, value)
    return train_model, evaluate_performance


def time_generation(folder, generate_dataset):
    """`generate_dataset.py` against OpenCV, which reads, resizes and writes each photo."""
    train_model, _ = load_example(folder, 1)
    paths = []
    for name in ("train.csv", "validation.csv"):
        paths.extend(train_model.read_csv(name)[0])

    def read_resize_write():
        for path in paths:
            photo = cv2.resize(cv2.imread(str(path)), (96, 96))
            cv2.imwrite(str(folder / "resized.jpg"), photo)

    cv2.setNumThreads(1)
    what = "generate_dataset.py: OpenCV's loop"
    compare(what, generate_dataset.main, read_resize_write, len(paths), target=2.3)


def time_training(folder, number):
    """Training from the CSV, in memory and from disk, against `model.fit` on ready arrays."""
    train_model, _ = load_example(folder, number)
    model = train_model.create_model()
    # The loss of a model is another example's lesson: any will do to compare how photos come in.
    losses = keras.tree.map_structure(lambda _: "mse", model.output)
    model.compile("sgd", losses)
    rows = train_model.read_csv("train.csv")
    dataset = train_model.PhotoDataset(*rows, training=True)
    batches = [dataset[index] for index in range(len(dataset))]
    photos, targets = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    photos = photos.astype("float32")

    def fit_arrays():
        model.fit(photos, targets, batch_size=train_model.BATCH_SIZE, verbose=0)

    for train_model.INMEMORY, target in ((True, 0.95), (False, 0.9)):
        dataset = train_model.PhotoDataset(*rows, training=True)
        what = f"training example {number}, INMEMORY = {train_model.INMEMORY}: ready arrays"
        fit_dataset = lambda dataset=dataset: model.fit(dataset, verbose=0)  # noqa: E731
        compare(what, fit_dataset, fit_arrays, len(photos), target=target)


def time_evaluation(folder):
    """Evaluation, from the CSV to the IoU, against one `model.predict` a photo."""
    train_model, evaluate_performance = load_example(folder, 1)
    model = train_model.create_model()
    paths, _ = train_model.read_csv("train.csv")

    def one_by_one():
        for path in paths[:20]:
            model.predict(np.asarray(train_model.load_photo(path))[None], verbose=0)

    def evaluate():
        evaluate_performance.evaluate(model, "train.csv")

    compare("evaluation: one model.predict a photo", evaluate, one_by_one, len(paths), 20, 10)


def time_growth(folder, generate_dataset):
    """The speed of generation and training with many photos against that with few."""
    drawn = sorted((folder / "images").glob("*.jpg"))[:FEW]
    generate_dataset.WORKERS = 2
    for name, count in (("few", FEW), ("many", MANY)):
        (folder / name).mkdir()
        for index in range(count):
            photo = drawn[index % FEW]
            new_name = f"{photo.stem.rpartition('_')[0]}_{index}"
            os.link(photo, folder / name / f"{new_name}.jpg")
            xml = folder / "annotations" / "xmls" / f"{photo.stem}.xml"
            text = xml.read_text().replace(f"{photo.stem}.jpg", f"{new_name}.jpg")
            (folder / name / f"{new_name}.xml").write_text(text)

    def generate(name):
        generate_dataset.DATASET_FOLDER = generate_dataset.ANNOTATIONS_FOLDER = name
        generate_dataset.TRAIN_CSV = f"train_{name}.csv"
        generate_dataset.VALIDATION_CSV = f"validation_{name}.csv"
        generate_dataset.main()

    def generate_few_often():
        for _ in range(10):
            generate("few")

    what = f"generate_dataset.py, {MANY:,} photos: {FEW} photos"
    compare(what, lambda: generate("many"), generate_few_often, MANY, 10 * FEW, rounds=2)

    constants = {"ALPHA": 0.35, "IMAGE_SIZE": 96, "AUGMENT": True}
    train_model, _ = load_example(folder, 1, **constants)
    few = train_model.PhotoDataset(*train_model.read_csv("train_few.csv"), training=True)
    many = train_model.PhotoDataset(*train_model.read_csv("train_many.csv"), training=True)
    model = train_model.create_model()
    model.compile("sgd", "mse")
    photos = len(many.paths)
    epochs = photos // len(few.paths)
    what = f"training, {MANY:,} photos: {FEW} photos"
    compare(
        what,
        lambda: model.fit(many, verbose=0),
        lambda: model.fit(few, epochs=epochs, verbose=0),
        photos,
        epochs * len(few.paths),
        rounds=2,
    )


def main():
    """Make a temporary copy of the scripts beside the photos and time it."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        folder = Path(folder)
        shutil.copy(REPOSITORY / "generate_dataset.py", folder)
        for number in (1, 2, 3):
            shutil.copytree(REPOSITORY / f"example_{number}", folder / f"example_{number}")
        sys.path.insert(0, str(folder))
        import generate_dataset

        draw_pets.draw_dataset(folder, 400)
        if sys.argv[1:]:
            dataset = Path(sys.argv[1]).resolve()
            generate_dataset.DATASET_FOLDER = str(dataset / "images")
            generate_dataset.ANNOTATIONS_FOLDER = str(dataset / "annotations" / "xmls")
        seconds(generate_dataset.main)
        print(f"{os.cpu_count()} cores. What: against what; photos/s; ratio (range; target)")
        time_generation(folder, generate_dataset)
        for number in (1, 2, 3):
            time_training(folder, number)
        time_evaluation(folder)
        time_growth(folder, generate_dataset)


if __name__ == "__main__":
    main()
