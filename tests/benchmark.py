"""Time the scripts against what the machine can do; each line is a ratio within one run.

make benchmark                                  # on drawn pets
.venv/bin/python tests/benchmark.py FOLDER      # on FOLDER/images and FOLDER/annotations/xmls
.venv/bin/python tests/benchmark.py FOLDER training frozen  # some of the parts only

Prints a table and writes benchmark.csv. The parts: generation, loading, training, memory, frozen,
accuracy (needs ImageNet's weights, and FOLDER), evaluation, backends (needs, from `make
test-backends`, .venv-backends/bin/python) and growth (up to 20,000 photos, the longest).
"""

import contextlib
import csv
import gc
import importlib.util
import io
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np

import draw_pets
from conftest import create_small_model

REPOSITORY = Path(__file__).resolve().parent.parent
ROUNDS = 5
COLUMNS = ("ratio", "lowest", "highest", "target")
GROWTH = (200, 2_000, 20_000)
ROWS = 1_000_000
BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
# The head and loss of 2018, with RGB and with batch normalization's momentum as it has to be.
RECIPE_OF_2018 = {
    "FREEZE": "none",
    "HEAD": "conv",
    "VOTE_LOSS": 0,
    "LOSS": "mse",
    "OPTIMIZER": "adam",
    "SCHEDULE": "plateau",
    "AUGMENT": False,
    "EPOCHS": 75,
}


def seconds(function):
    """Return how long a call takes, with its printing kept quiet."""
    quiet = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        function()
    return time.perf_counter() - start


def report(*row):
    """Print a line of the table and add it to benchmark.csv."""
    cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row]
    print(f"{cells[0]:72}" + "".join(f"{cell:>9}" for cell in cells[1:]), flush=True)
    with open(REPOSITORY / "benchmark.csv", "a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(cells)


def compare(what, ours, reference, photos, reference_photos=None, target="", rounds=ROUNDS):
    """Time `ours` and `reference` in turn and report the median of the ratios of their speeds."""
    reference_photos = reference_photos or photos
    if rounds > 1:
        seconds(ours), seconds(reference)  # the first calls warm up
    times = [(seconds(ours), seconds(reference)) for _ in range(rounds)]
    speeds = [(photos / one, reference_photos / other) for one, other in times]
    ratios = [one / other for one, other in speeds]
    medians = map(statistics.median, (*zip(*speeds), ratios))
    report(what, *medians, min(ratios), max(ratios), target)


def load_example(folder, example, **constants):
    """Import an example's two scripts anew, with random weights and these constants."""
    sys.path.insert(0, str(folder / example))
    for name in ("train_model", "evaluate_performance"):
        sys.modules.pop(name, None)
    train_model = importlib.import_module("train_model")
    evaluate_performance = importlib.import_module("evaluate_performance")
    sys.path.pop(0)
    defaults = {"WEIGHTS": None, "FREEZE": "none", "AUGMENT": False}
    for name, value in {**defaults, **constants}.items():
        setattr(train_model, name, value)
    return train_model, evaluate_performance


def compile_model(train_model, *datasets):
    """Return the part of a new model that is trained, ready to be."""
    part = train_model.create_trained_part(train_model.create_model(), *datasets)
    part.compile(train_model.create_optimizer(), train_model.loss, metrics=train_model.METRICS)
    return part


def time_generation(folder):
    """Line 1: `generate_dataset.py` against OpenCV; line 2: with copies, against imgaug alone."""
    from imgaug.augmentables import BoundingBox, BoundingBoxesOnImage

    import generate_dataset

    train_model, _ = load_example(folder, "example_1")
    paths = [
        path for name in ("train.csv", "validation.csv") for path in train_model.read_csv(name)[0]
    ]

    def read_resize_write():
        for index, path in enumerate(paths):
            photo = cv2.resize(cv2.imread(path), (96, 96))
            cv2.imwrite(str(folder / f"{index % 100}.jpg"), photo)

    def augment_full_size():
        augmenter, tries = generate_dataset.create_augmenter(), 25
        for path in paths[:8]:
            photo = cv2.imread(path)
            box = BoundingBoxesOnImage([BoundingBox(9, 9, 99, 99)], photo.shape)
            copies, _ = augmenter(images=[photo] * tries, bounding_boxes=[box] * tries)
            for index, copy in enumerate(copies):
                cv2.imwrite(str(folder / f"{index}.jpg"), cv2.resize(copy, (224, 224)))

    cv2.setNumThreads(1)
    what = "generate_dataset.py: OpenCV read, resize to 96, write in one process"
    compare(what, generate_dataset.main, read_resize_write, len(paths), target=2.5)
    generate_dataset.AUGMENTATION = True
    tries = 25 * int(0.8 * len(paths))
    what = "generate_dataset.py, AUGMENTATION: imgaug on full photos, one process"
    compare(what, generate_dataset.main, augment_full_size, tries, 200, target=4, rounds=1)
    generate_dataset.AUGMENTATION = False
    seconds(generate_dataset.main)


def fit(model, *data, **options):
    """Return a function that trains a model, for one epoch if no option says more."""
    return lambda: model.fit(*data, verbose=0, **options)


def time_loading(folder):
    """Line 3: the first epoch's reading, against one photo after the other."""
    train_model, _ = load_example(folder, "example_1")
    model, paths = create_small_model(), train_model.read_csv("train.csv")[0]
    model.compile("sgd", "mae")

    def first_epoch():
        fit(model, train_model.create_dataset("train.csv", training=True), shuffle=False)()

    def one_after_the_other():
        for path in paths:
            train_model.load_photo(path, train_model.IMAGE_SIZE)

    for train_model.INMEMORY in (True, False):
        what = f"first epoch's reading, INMEMORY = {train_model.INMEMORY}: one after the other"
        compare(what, first_epoch, one_after_the_other, len(paths))


def time_training(folder, example):
    """Line 4: training from the CSV against `model.fit` on ready float arrays, and augmentation."""
    train_model, _ = load_example(folder, example)
    model, dataset = compile_model(train_model), train_model.create_dataset("train.csv", True)
    photos, targets = dataset.photos.astype("float32"), dataset.targets
    for name in ("INMEMORY", "INMEMORY = False", "AUGMENT"):
        train_model.INMEMORY, train_model.AUGMENT = name != "INMEMORY = False", name == "AUGMENT"
        dataset = train_model.create_dataset("train.csv", training=True)
        what = f"{example}, training from the CSV, {name}: fit on float arrays"
        target = 0.97 if name != "AUGMENT" else ""
        ours = fit(model, dataset, shuffle=False)
        arrays = fit(model, photos, targets, batch_size=train_model.BATCH_SIZE)
        compare(what, ours, arrays, len(photos), None, target, rounds=3)


def time_frozen(folder):
    """Line 5: the frozen part's maps kept, against computed anew for each step."""
    for freeze, head in (("all", "conv"), ("all", "vote"), ("some", "vote")):
        constants = {"FREEZE": freeze, "HEAD": head, "VOTE_LOSS": 0}
        train_model, _ = load_example(folder, "example_1", **constants)
        plain, kept = (train_model.create_dataset("train.csv", training=True) for _ in range(2))
        model = train_model.create_model()
        part = train_model.create_trained_part(model, kept)
        for trained in (model, part):
            trained.compile(train_model.create_optimizer(), train_model.loss)
        what = f'FREEZE = "{freeze}", HEAD = "{head}", maps kept: not kept'
        target = 30 if freeze == "all" else ""
        photos, epochs = len(plain.paths), 10  # a training's start is not its epochs'
        ours = fit(part, kept, shuffle=False, epochs=epochs)
        reference = fit(model, plain, shuffle=False, epochs=2)
        compare(what, ours, reference, epochs * photos, 2 * photos, target)


def time_to_accuracy(folder):
    """Line 4, second half: seconds until validation IoU 0.45, against the recipe of 2018."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = logs["val_iou"] >= 0.45
            self.reached = self.model.stop_training

    times = []
    for constants in ({"FREEZE": "batch_norm", "AUGMENT": True}, RECIPE_OF_2018):
        train_model, _ = load_example(folder, "example_1", WEIGHTS="imagenet", **constants)
        keras.utils.set_random_seed(0)
        training = train_model.create_dataset("train.csv", training=True)
        validation = train_model.create_dataset("validation.csv")
        model, stop = compile_model(train_model), Stop()
        options = {"epochs": train_model.EPOCHS, "verbose": 0, "shuffle": False}
        options |= {"callbacks": [train_model.create_schedule(), stop]}
        start = time.perf_counter()
        model.fit(training, validation_data=validation, **options)
        times.append(time.perf_counter() - start)
        print(f"  IoU 0.45 {'reached' if stop.reached else 'NOT reached'} after {times[-1]:.0f} s")
    report("example_1 to IoU 0.45: recipe of 2018", "", "", times[1] / times[0], "", "", 4)


def time_evaluation(folder):
    """Lines 6 and 7: evaluation against one prediction a photo, and one photo against the model."""
    train_model, evaluate_performance = load_example(folder, "example_1")
    model = train_model.create_model()
    paths, sizes, *_ = train_model.read_csv("train.csv")

    def one_by_one():
        for path in paths[:40]:
            model.predict(np.asarray(train_model.load_photo(path, 96))[None], verbose=0)

    def evaluate():
        return evaluate_performance.predict_csv(evaluated, "train.csv")

    def evaluate_and_draw():
        paths, boxes, true, _ = evaluate()
        evaluate_performance.draw_pictures(paths, boxes, [""] * len(paths), true)

    mirrored = evaluate_performance.add_mirror(model)
    for name, evaluated in (("MIRROR = False", model), ("MIRROR = True", mirrored)):  # noqa: B007
        what = f"evaluation from disk to IoU, {name}: one model.predict a photo"
        compare(what, evaluate, one_by_one, len(paths), 40, 10)
    _, boxes, true, _ = evaluate()

    def draw():
        evaluate_performance.draw_pictures(paths, boxes, [""] * len(paths), true)

    compare("evaluation with pictures: the pictures alone", evaluate_and_draw, draw, len(paths))

    photos = np.asarray(train_model.load_photo(paths[0], 96))[None]

    def from_file_to_box():
        for path, size in zip(paths, sizes):
            photo = np.asarray(train_model.load_photo(path, 96))[None]
            train_model.to_corners(model.predict_on_batch(photo), size)

    def bare_model():
        for _ in paths:
            model.predict_on_batch(photos)

    what = "one photo, from file to box: the bare model"
    compare(what, from_file_to_box, bare_model, len(paths), target=1 / 1.3)


def resident_bytes():
    """Return how much memory this process has now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def time_growth(folder):
    """Line 8: time and memory a photo may not grow with their number."""
    (folder / "many" / "xmls").mkdir(parents=True)
    drawn = sorted((folder / "images").glob("*.jpg"))[: GROWTH[0]]
    import generate_dataset

    generate_dataset.DATASET_FOLDER = "many"
    generate_dataset.ANNOTATIONS_FOLDER = "many/xmls"
    train_model, evaluate_performance = load_example(folder, "example_1", ALPHA=0.35, VOTE_LOSS=0)
    model = compile_model(train_model)
    first = few = None
    for step, count in enumerate((GROWTH[0], *GROWTH)):
        for index in range(len([*(folder / "many").glob("*.jpg")]), count):
            photo = drawn[index % len(drawn)]
            name = f"{photo.stem.rpartition('_')[0]}_{index}"
            os.link(photo, folder / "many" / f"{name}.jpg")
            xml = folder / "annotations" / "xmls" / f"{photo.stem}.xml"
            text = xml.read_text().replace(f"{photo.stem}.jpg", f"{name}.jpg")
            (folder / "many" / "xmls" / f"{name}.xml").write_text(text)
        spent = [seconds(generate_dataset.main)]
        before = resident_bytes()
        start = time.perf_counter()
        training = train_model.create_dataset("train.csv", training=True)
        spent.append(time.perf_counter() - start)
        memory = (resident_bytes() - before) / len(training.paths) / (96 * 96 * 3)
        spent.append(seconds(lambda: evaluate_performance.predict_csv(model, "validation.csv")))
        photos = (count, len(training.paths), count / 5)
        few = few or training
        if step == 0:
            continue  # the first time warms up
        # A machine slows down when it is busy for long: both are busy equally long, in turn.
        epochs = len(training) // len(few)
        epoch, again = (
            fit(model, training, shuffle=False),
            fit(model, few, epochs=epochs, shuffle=False),
        )
        what = f"training an epoch, {count:,} photos: {GROWTH[0]} photos"
        compare(what, epoch, again, len(training.paths), epochs * len(few.paths), 1, rounds=2)
        speeds = [number / time_spent for number, time_spent in zip(photos, spent)]
        first = first or speeds
        names = ("generate_dataset.py", "reading photos", "evaluation")
        for name, speed, at_first in zip(names, speeds, first):
            what = f"{name}, {count:,} photos: {GROWTH[0]} photos"
            report(what, speed, at_first, speed / at_first, "", "", 1)
        report(f"memory of {count:,} photos: their pixels' bytes", "", "", memory, "", "", 1.3)
        del training
    time_many_rows(folder)


def time_many_rows(folder):
    """Line 8, second half: a CSV of a million rows is read, and a training from it starts."""
    lines = (folder / "train.csv").read_text().splitlines()
    with open(folder / "million.csv", "w") as file:
        file.write(lines[0] + "\n")
        rows = "\n".join(lines[1:201]) + "\n"
        file.writelines([rows] * (ROWS // 200))
    code = """
import time
import train_model
def memory():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))
before, start = memory(), time.perf_counter()
train_model.read_csv("million.csv")
print(time.perf_counter() - start, memory() - before)
train_model.INMEMORY, train_model.WEIGHTS, train_model.FREEZE = False, None, "none"
start = time.perf_counter()
training = train_model.create_dataset("million.csv", training=True)
model = train_model.create_trained_part(train_model.create_model())
model.compile(train_model.create_optimizer(), train_model.loss)
model.fit(training, epochs=1, steps_per_epoch=2, verbose=0, shuffle=False)
print(time.perf_counter() - start)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder / "example_1",
        capture_output=True,
        text=True,
        check=True,
    )
    read, train = (line.split() for line in done.stdout.splitlines())
    print(f"1,000,000 rows: read in {float(read[0]):.1f} s (target 10) and {float(read[1]):.0f} MB")
    print(f"(target 500); INMEMORY = False: two steps trained after {float(train[0]):.1f} s.")


def time_trainings(folder):
    """Line 4, for each example."""
    for example in ("example_1", "example_2", "example_3"):
        time_training(folder, example)


def take_turns(folder, freeze, trainings):
    """Return the photos a second of trainings of example 1 in processes of their own, by round.

    All are started at once and take turns: two epochs for each line that they are sent. Of each
    `trainings` has the environment variables, and what is run after Keras is imported.
    """
    code = """
import sys, time
import ctypes, keras
exec(sys.argv[2])
import train_model
train_model.FREEZE, train_model.WEIGHTS = sys.argv[1], None
training = train_model.create_dataset("train.csv", training=True)
part = train_model.create_trained_part(train_model.create_model())
part.compile(train_model.create_optimizer(), train_model.loss, metrics=train_model.METRICS)
for line in sys.stdin:
    start = time.perf_counter()
    part.fit(training, epochs=2, verbose=0, shuffle=False)
    print(2 * len(training.paths) / (time.perf_counter() - start), flush=True)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, freeze, first],
            cwd=folder / "example_1",
            env={**os.environ, **environment},
            **pipes,
        )
        for environment, first in trainings
    ]

    def two_epochs(process):
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    rounds = [[two_epochs(process) for process in processes] for _ in range(ROUNDS + 1)]
    for process in processes:
        process.communicate()
    return rounds[1:]  # the first compiles


def report_turns(what, speeds, references, target=""):
    """Report the medians of speeds that were measured in turn, and of their ratios."""
    ratios = [one / other for one, other in zip(speeds, references)]
    medians = map(statistics.median, (speeds, references, ratios))
    report(what, *medians, min(ratios), max(ratios), target)


def time_memory(folder):
    """Line 4, too: training with memory kept from step to step, against glibc's way."""
    as_is = "ctypes.CDLL = lambda name: None"  # which has no mallopt
    for freeze in ("batch_norm", "none"):
        kept, given_back = zip(*take_turns(folder, freeze, [({}, ""), ({}, as_is)]))
        report_turns(f'training, FREEZE = "{freeze}": memory not kept', kept, given_back)


def time_backends(folder):
    """Training example 1 with its default constants on each backend, against TensorFlow."""
    trainings = [({"KERAS_BACKEND": backend}, "") for backend in BACKENDS]
    for freeze in ("batch_norm", "none"):
        firsts, *others = zip(*take_turns(folder, freeze, trainings))
        for backend, speeds in zip(BACKENDS, (firsts, *others)):
            what = f'training example 1 on {backend}, FREEZE = "{freeze}": on {BACKENDS[0]}'
            report_turns(what, speeds, firsts)


PARTS = {
    "generation": time_generation,
    "loading": time_loading,
    "training": time_trainings,
    "memory": time_memory,
    "accuracy": time_to_accuracy,
    "frozen": time_frozen,
    "evaluation": time_evaluation,
    "backends": time_backends,
    "growth": time_growth,
}


def main():
    """Make a temporary copy of the scripts beside the photos and time it."""
    chosen = [part for part in sys.argv[1:] if part in PARTS]
    folders = [part for part in sys.argv[1:] if part not in PARTS]
    (REPOSITORY / "benchmark.csv").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        folder = Path(folder)
        shutil.copy(REPOSITORY / "generate_dataset.py", folder)
        for number in (1, 2, 3):
            shutil.copytree(REPOSITORY / f"example_{number}", folder / f"example_{number}")
        sys.path.insert(0, str(folder))
        import generate_dataset

        draw_pets.draw_dataset(folder, 400)
        if folders:
            dataset = Path(folders[0]).resolve()
            generate_dataset.DATASET_FOLDER = str(dataset / "images")
            generate_dataset.ANNOTATIONS_FOLDER = str(dataset / "annotations" / "xmls")
        seconds(generate_dataset.main)
        names = ("tensorflow", "keras", "numpy", "pillow", "opencv-python-headless")
        names = (*names, *BACKENDS[1:])
        versions = ", ".join(f"{name} {version(name)}" for name in names)
        photos = len((folder / "train.csv").read_text().splitlines()) - 1
        print(f"{platform.machine()}, {os.cpu_count()} cores, {photos} training photos, {versions}")
        report("what is timed: against what", "photos/s", "against", *COLUMNS)
        for part in chosen or PARTS:
            if (part != "accuracy" or folders) and (part != "backends" or BACKENDS[1:]):
                PARTS[part](folder)


if __name__ == "__main__":
    main()
