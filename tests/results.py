"""Train what the README's three tables show, and rewrite the tables in place.

make results                                # on the photos that generate_dataset.py downloads
.venv/bin/python tests/results.py FOLDER    # on FOLDER/images and FOLDER/annotations/xmls

Each run is a process on one core, and there are as many at once as there are cores. Finished runs
are kept in results.csv, by their constants, and not trained again: stop and start as you like.
"""

import ast
import csv
import functools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
RESULTS = TESTS / "results.csv"
FIGURES = ("training", "validation", "above", "minutes", "other")

RECIPE_OF_2018 = {  # where it differs from the default constants, in the order of the first table
    "BATCH_NORM_MOMENTUM": 0.999,
    "LOSS": "mse",
    "AUGMENT": False,
    "OPTIMIZER": "adam",
    "SCHEDULE": "plateau",
    "HEAD": "conv",
    "VOTE_LOSS": 0,
    "FREEZE": "none",
    "EPOCHS": 75,
}
GUIDELINE_EPOCHS = 30
GUIDELINES = (  # what is said, and the constants that try it
    ("the default constants, but 30 epochs", {}),
    ("no augmentation", {"AUGMENT": False}),
    (
        "25 tries by the generator instead, as many steps as 240 epochs",
        {"AUGMENT": False, "AUGMENTATION": True, "EPOCHS": 20},
    ),
    ("random weights", {"WEIGHTS": None, "FREEZE": "none"}),
    ("a narrower network", {"WEIGHTS": None, "FREEZE": "none", "ALPHA": 0.75}),
    ("the narrowest network", {"WEIGHTS": None, "FREEZE": "none", "ALPHA": 0.35}),
    ("freeze nothing", {"FREEZE": "none"}),
    ("freeze some of the backbone", {"FREEZE": "some"}),
    ("freeze all of it", {"FREEZE": "all"}),
    ("freeze all of it, maps kept", {"FREEZE": "all", "AUGMENT": False}),
    ("one convolution as the head", {"HEAD": "conv"}),
    ("no loss on the single votes", {"VOTE_LOSS": 0}),
    ("3 blocks as in YOLOv2", {"HEAD_BLOCKS": 3}),
    ("1 block of MobileNetV2", {"HEAD_BLOCKS": 1, "HEAD_BLOCK": "inverted_res"}),
    ("3 blocks of MobileNetV2", {"HEAD_BLOCKS": 3, "HEAD_BLOCK": "inverted_res"}),
    *((f"another loss: {loss}", {"LOSS": loss}) for loss in ("mse", "mae", "smooth_l1", "log_mse")),
    *((f"another loss: {loss}", {"LOSS": loss}) for loss in ("giou", "ciou", "ciou+l1")),
    ("Adam", {"OPTIMIZER": "adam"}),
    ("SGD", {"OPTIMIZER": "sgd"}),
    ("SGD with larger steps", {"OPTIMIZER": "sgd", "LEARNING_RATE": 2e-2}),
    ("a learning rate that falls in steps", {"SCHEDULE": "plateau"}),
    *((f"{size} photos in a batch", {"BATCH_SIZE": size}) for size in (8, 16, 64)),
    *((f"photos of {size} pixels", {"IMAGE_SIZE": size}) for size in (160, 224)),
)


OTHERS = (  # what the third table shows: the example's number, its constants, its other figure
    ("example 2, Abyssinian or not", {"EXAMPLE": 2, "CLASSES": 2}, "accuracy"),
    ("example 2, each breed its own class", {"EXAMPLE": 2, "CLASSES": 3}, "accuracy"),
    ("example 3", {"EXAMPLE": 3}, "dice"),
)


def steps():
    """Return the first table's rows: the recipe of 2018, then one constant after the other."""
    rows = [("the recipe of 2018", dict(RECIPE_OF_2018), (0, 1, 2))]
    for constant, old in RECIPE_OF_2018.items():
        constants = {name: value for name, value in rows[-1][1].items() if name != constant}
        new = default_constants()[constant]
        rows.append((f"`{constant}` from `{old!r}` to `{new!r}`", constants, (0, 1, 2)))
    return rows


def guidelines():
    """Return the second table's rows."""
    rows = []
    for name, constants in GUIDELINES:
        written = ", ".join(f"`{name} = {value!r}`" for name, value in constants.items())
        constants = {"EPOCHS": GUIDELINE_EPOCHS, **constants}
        rows.append((f"{name}: {written}".removesuffix(": "), constants, (0,)))
    return rows


def others():
    """Return the third table's rows."""
    return [(name, constants, (0, 1, 2)) for name, constants, _ in OTHERS]


def train(constants, seed, dataset):
    """Generate, train and evaluate in a temporary copy of the scripts; print the figures."""
    example = constants.pop("EXAMPLE", 1)
    with tempfile.TemporaryDirectory(prefix="results-") as folder:
        folder = Path(folder)
        shutil.copy(REPOSITORY / "generate_dataset.py", folder)
        (folder / f"example_{example}").mkdir()
        for script in (REPOSITORY / f"example_{example}").glob("*.py"):
            shutil.copy(script, folder / f"example_{example}")
        sys.path[:0] = [str(folder), str(folder / f"example_{example}")]
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow

            tensorflow.config.threading.set_intra_op_parallelism_threads(1)
        import evaluate_performance
        import generate_dataset
        import train_model

        generate_dataset.WORKERS = train_model.THREADS = 1
        generate_dataset.DATASET_FOLDER = str(Path(dataset).resolve() / "images")
        generate_dataset.ANNOTATIONS_FOLDER = str(Path(dataset).resolve() / "annotations/xmls")
        generate_dataset.SEED = train_model.SEED = seed
        for name, value in constants.items():
            module = generate_dataset if name == "AUGMENTATION" else train_model
            if not hasattr(module, name):
                sys.exit(f"{name} is no constant.")
            setattr(module, name, value)
        generate_dataset.main()
        start = time.process_time()  # of this process alone, however busy the machine is
        train_model.main()
        minutes = (time.process_time() - start) / 60
        model = evaluate_performance.load_model()
        training = evaluate_performance.predict_csv(model, train_model.TRAIN_CSV)[-1]
        *known, validation = evaluate_performance.predict_csv(model, train_model.VALIDATION_CSV)
        other = 0
        if example == 2:
            *_, probabilities, class_ids = known
            other = (probabilities.argmax(axis=1) == class_ids).mean()
        elif example == 3:
            *_, dices = known
            other = dices.mean()
        figures = (training.mean(), validation.mean(), (validation > 0.5).mean(), minutes, other)
        print(json.dumps([round(float(figure), 4) for figure in figures]))


@functools.cache
def default_constants(example=1):
    """Return the constants of an example's train_model.py as they stand in the file."""
    constants = {}
    script = REPOSITORY / f"example_{example}" / "train_model.py"
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            constants[node.targets[0].id] = node.value.value
    return constants


def key(constants, seed):
    """Return what a run is known by in results.csv: all its constants."""
    constants = {"EXAMPLE": 1, **constants, "SEED": seed}
    return json.dumps({**default_constants(constants["EXAMPLE"]), **constants}, sort_keys=True)


def read_results():
    """Return the figures of each finished run. Constants that are newer had their defaults."""
    if not RESULTS.exists():
        return {}
    with open(RESULTS, newline="", encoding="utf-8") as csv_file:
        rows = [(json.loads(row["constants"]), row) for row in csv.DictReader(csv_file)]
    return {
        key(constants, constants["SEED"]): [float(row.get(figure) or "nan") for figure in FIGURES]
        for constants, row in rows
    }


def write_table(name, rows, results):
    """Put the rows that have results into the README, between the two comments of that name."""
    other_names = {title: other for title, _, other in OTHERS}
    has_other = rows[0][0] in other_names
    lines = [
        f"| {name} | runs | training IoU | validation IoU | above 0.5 | CPU minutes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    if has_other:
        lines = [line + end for line, end in zip(lines, (" besides |", " --- |"))]
    for title, constants, seeds in rows:
        runs = [results[key(constants, seed)] for seed in seeds if key(constants, seed) in results]
        if runs:
            training, validation, above, _, other = map(statistics.mean, zip(*runs))
            measured = [minutes for *_, minutes, _ in runs if not math.isnan(minutes)]
            minutes = f"{statistics.mean(measured):.1f}" if measured else ""
            line = (
                f"| {title} | {len(runs)} | {training:.3f} | {validation:.3f} | {above:.0%} "
                f"| {minutes} |"
            )
            lines.append(line + (f" {other_names[title]} {other:.3f} |" if has_other else ""))
    readme = REPOSITORY / "README.md"
    table = f"<!-- {name} -->\n" + "\n".join(lines) + "\n<!-- end -->"
    text, count = re.subn(
        rf"<!-- {name} -->.*?<!-- end -->", lambda _: table, readme.read_text(), flags=re.DOTALL
    )
    if count != 1:
        sys.exit(f"README.md has no table <!-- {name} --> ... <!-- end -->.")
    readme.write_text(text)


def main():
    """Train what is missing in results.csv and rewrite the tables after each run."""
    places = sys.argv[1:] or (REPOSITORY, REPOSITORY.parent / "shared" / "pets")
    dataset = next((str(place) for place in places if Path(place, "images").is_dir()), None)
    if dataset is None:
        sys.exit("No photos: run generate_dataset.py first, or name a folder with images in it.")
    tables = {
        "how we got here": steps(),
        "the guidelines, tried": guidelines(),
        "examples 2 and 3": others(),
    }
    results = read_results()
    missing = {
        key(constants, seed): (constants, seed)
        for rows in tables.values()
        for _, constants, seeds in rows
        for seed in seeds
    }
    missing = [run for run_key, run in missing.items() if run_key not in results]
    missing.sort(key=lambda run: (run[0] != {}, run[1]))  # the default constants, then seed 0

    def start(constants, seed):
        job = json.dumps([constants, seed, dataset])
        command = [sys.executable, __file__, "--train", job]
        return constants, seed, subprocess.run(command, capture_output=True, text=True)

    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        runs = [executor.submit(start, *run) for run in missing]
        try:
            for run in tqdm(as_completed(runs), total=len(runs), unit=" runs"):
                constants, seed, done = run.result()
                if done.returncode:
                    tqdm.write(
                        f"{constants}, seed {seed}: {(done.stderr.strip() or '?').splitlines()[-1]}"
                    )
                    failed += 1
                    continue
                figures = json.loads(done.stdout.splitlines()[-1])
                is_new = not RESULTS.exists()
                with open(RESULTS, "a", newline="", encoding="utf-8") as csv_file:
                    writer = csv.writer(csv_file)
                    if is_new:
                        writer.writerow((*FIGURES, "constants"))
                    writer.writerow((*figures, key(constants, seed)))
                results = read_results()
                for name, rows in tables.items():
                    write_table(name, rows, results)
        except KeyboardInterrupt:
            executor.shutdown(cancel_futures=True)
            sys.exit("Interrupted: start it again to go on.")
    for name, rows in tables.items():
        write_table(name, rows, results)
    if failed:
        sys.exit(f"{failed} runs failed.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*json.loads(sys.argv[2]))
    else:
        main()
