"""Time the scripts against what the machine can do; each line is a ratio within one run.

make benchmark                                  # on drawn pets
.venv/bin/python tests/benchmark.py FOLDER      # on FOLDER/images and FOLDER/annotations/xmls
"""

import contextlib
import io
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import draw_pets

REPOSITORY = Path(__file__).resolve().parent.parent
ROUNDS = 5


def seconds(function):
    """Return how long a call takes, with its printing kept quiet."""
    quiet = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        function()
    return time.perf_counter() - start


def compare(name, images, ours, reference):
    """Time `ours` and `reference` in turn and print the median of the ratios of their speeds."""
    seconds(ours), seconds(reference)  # the first calls warm up
    times = [(seconds(ours), seconds(reference)) for _ in range(ROUNDS)]
    our_time, reference_time = (statistics.median(column) for column in zip(*times))
    ratios = sorted(reference / ours for ours, reference in times)
    print(
        f"{name}: {images / our_time:.0f} images/s against {images / reference_time:.0f}, ratio "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {ROUNDS} rounds)"
    )


def main():
    """Make a temporary copy of the scripts beside the photos and time it."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        folder = Path(folder)
        shutil.copy(REPOSITORY / "generate_dataset.py", folder)
        shutil.copytree(REPOSITORY / "example_1", folder / "example_1")
        if len(sys.argv) > 1:
            dataset = Path(sys.argv[1]).resolve()
        else:
            dataset = folder
            draw_pets.draw_dataset(folder, 400)
        sys.path[:0] = [str(folder), str(folder / "example_1")]
        import cv2

        import generate_dataset
        import train_model

        generate_dataset.DATASET_FOLDER = str(dataset / "images")
        generate_dataset.ANNOTATIONS_FOLDER = str(dataset / "annotations" / "xmls")
        seconds(generate_dataset.main)
        training = train_model.read_csv("train.csv")[0]
        paths = training + train_model.read_csv("validation.csv")[0]
        names = ("tensorflow", "keras", "numpy", "pillow", "opencv-python-headless")
        versions = ", ".join(f"{name} {version(name)}" for name in names)
        print(f"{platform.machine()}, {os.cpu_count()} cores, {len(paths)} photos, {versions}")

        def read_resize_write():
            for index, path in enumerate(paths):
                photo = cv2.resize(cv2.imread(path), (96, 96))
                cv2.imwrite(str(folder / f"{index % 100}.jpg"), photo)

        cv2.setNumThreads(1)
        compare(
            "generate_dataset.py against OpenCV read, resize to 96, write in one process",
            len(paths),
            generate_dataset.main,
            read_resize_write,
        )

        train_model.WEIGHTS, train_model.FREEZE = None, "none"
        train_model.AUGMENT = False
        plain = train_model.create_dataset("train.csv", training=True)
        train_model.AUGMENT = True
        augmented = train_model.create_dataset("train.csv", training=True)
        model = train_model.create_model()
        model.compile(train_model.create_optimizer(), train_model.loss, metrics=[train_model.iou])
        photos = plain.photos.astype("float32")
        compare(
            "example_1 training from the CSV, INMEMORY, against model.fit on float arrays",
            len(photos),
            lambda: model.fit(plain, verbose=0),
            lambda: model.fit(photos, plain.targets, train_model.BATCH_SIZE, verbose=0),
        )
        compare(
            "the same with AUGMENT, against without it",
            len(photos),
            lambda: model.fit(augmented, verbose=0),
            lambda: model.fit(plain, verbose=0),
        )

        train_model.AUGMENT, train_model.FREEZE, train_model.VOTE_LOSS = False, "all", 0
        for train_model.HEAD in ("vote", "conv"):
            plain = train_model.create_dataset("train.csv", training=True)
            kept = train_model.create_dataset("train.csv", training=True)
            model = train_model.create_model()
            part = train_model.create_trained_part(model, kept)
            for trained in (model, part):
                trained.compile(train_model.create_optimizer(), train_model.loss)
            compare(
                f"the same with FREEZE all, HEAD {train_model.HEAD}, maps kept, against not kept",
                len(photos),
                lambda part=part, kept=kept: part.fit(kept, verbose=0),
                lambda model=model, plain=plain: model.fit(plain, verbose=0),
            )


if __name__ == "__main__":
    main()
