"""Train what the README's tables show, and write the figures into tests/results.csv.

make results                                # on the photos that generate_dataset.py downloads
.venv/bin/python tests/results.py FOLDER    # on FOLDER/images and FOLDER/annotations/xmls

Each run is a process on one core, and there are as many at once as there are cores. Runs that
results.csv has are not trained again: stop and start as you like.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

import recipes

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
RESULTS = TESTS / "results.csv"
COLUMNS = ("run", "example", "constants", "seed", "iou", "above_half", "other", "minutes")
SEEDS = (0, 1, 2)


def list_runs():
    """Return the runs: a name, the example, constants, and the recipe that is applied or None."""
    runs = [
        ("default", 1, {}, None),
        ("at most 2 minutes", 1, {"EPOCHS": 30}, None),
        ("the size of 2018", 1, {"IMAGE_SIZE": 96, "EPOCHS": 240}, None),
        ("the largest size", 1, {"IMAGE_SIZE": 224, "EPOCHS": 120}, None),
        ("two classes", 2, {}, None),
        ("three classes", 2, {"CLASSES": 3}, None),
        ("grid", 3, {}, None),
    ]
    for recipe in recipes.read_recipes():
        runs.append((recipe.name, int(recipe.script[8]), {"EPOCHS": 30}, recipe))
    return runs


def train(run, seed, dataset):
    """Generate, train and evaluate in a temporary copy of the scripts; print the figures."""
    _, example, constants, recipe = run
    with tempfile.TemporaryDirectory(prefix="results-") as folder:
        folder = Path(folder)
        shutil.copy(REPOSITORY / "generate_dataset.py", folder)
        shutil.copytree(REPOSITORY / f"example_{example}", folder / f"example_{example}")
        if recipe is not None:
            recipes.apply(recipe, folder)
        sys.path[:0] = [str(folder), str(folder / f"example_{example}")]
        import evaluate_performance
        import generate_dataset
        import train_model

        generate_dataset.WORKERS = train_model.THREADS = 1
        generate_dataset.DATASET_FOLDER = str(Path(dataset).resolve() / "images")
        generate_dataset.ANNOTATIONS_FOLDER = str(Path(dataset).resolve() / "annotations/xmls")
        generate_dataset.SEED = train_model.SEED = seed
        for name, value in constants.items():
            setattr(train_model, name, value)
        generate_dataset.main()
        start = time.process_time()  # of this process alone, however busy the machine is
        train_model.main()
        minutes = (time.process_time() - start) / 60
        model = evaluate_performance.load_model()
        dataset, answers, ious = evaluate_performance.evaluate(model, train_model.VALIDATION_CSV)
        other = 0
        if example == 2:
            other = (answers["classes"].argmax(axis=1) == dataset.classes.argmax(axis=1)).mean()
        if example == 3:
            grids = train_model.to_grid(dataset.boxes)
            other = float(train_model.dice_coefficient(grids, answers).numpy().mean())
        figures = (ious.mean(), (ious > 0.5).mean(), other, minutes)
        print(json.dumps([round(float(figure), 4) for figure in figures]))


def start(name, seed, dataset):
    """Run `train` in a process of its own on one core; return its figures."""
    command = [sys.executable, __file__, "--train", name, str(seed), dataset]
    threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    environment = {**os.environ, **threads}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Train what is missing in results.csv."""
    places = sys.argv[1:] or (REPOSITORY, REPOSITORY.parent / "shared" / "pets")
    dataset = next((str(place) for place in places if Path(place, "images").is_dir()), None)
    if dataset is None:
        sys.exit("No photos: run generate_dataset.py first, or name a folder with images in it.")
    done = set()
    if RESULTS.exists():
        with open(RESULTS, newline="", encoding="utf-8") as file:
            done = {tuple(row[column] for column in COLUMNS[:4]) for row in csv.DictReader(file)}
    with open(RESULTS, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(COLUMNS)
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            futures = {}
            for seed in SEEDS:
                for name, example, constants, _ in list_runs():
                    key = (name, str(example), json.dumps(constants), str(seed))
                    if key not in done:
                        futures[executor.submit(start, name, seed, dataset)] = key
            for future in tqdm(as_completed(futures), total=len(futures), unit=" runs"):
                writer.writerow((*futures[future], *future.result()))
                file.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        chosen = next(run for run in list_runs() if run[0] == sys.argv[2])
        train(chosen, int(sys.argv[3]), sys.argv[4])
    else:
        main()
