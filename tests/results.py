"""Train what the README's tables show: into tests/results.csv, and from there into README.md.

make results                                # on the photos that generate_dataset.py downloads
.venv/bin/python tests/results.py FOLDER    # on FOLDER/images and FOLDER/annotations/xmls

Each run has a core of its own, whose minutes count. Those in results.csv are not trained again.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

import recipes

REPOSITORY = recipes.REPOSITORY
RESULTS = REPOSITORY / "tests" / "results.csv"
README = REPOSITORY / "README.md"
COLUMNS = ("run", "example", "constants", "seed", "iou", "above_half", "other", "minutes")
HEADINGS = {  # of the README's tables: the column of results.csv
    "IoU": "iou",
    "above 0.5": "above_half",
    "accuracy, dice": "other",
    "minutes": "minutes",
}
SEEDS = (0, 1, 2)
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_ARENA_MAX": "1"}
THIRD = {"EPOCHS": 30}  # of the default, for the recipes
EPOCHS_2018 = {"EPOCHS": 75}
# A row of the table of results begins with the example, the constants that are set and a recipe.
ROW = re.compile(r"^\| (example (\d)((?:, `\w+ = \d+`)*)(?:, ([\w ]+))?) \|", re.MULTILINE)


def list_runs():
    """Return the runs: name, example, constants, and the recipe that is applied or None."""
    text = README.read_text(encoding="utf-8")
    all_recipes = recipes.read_recipes()
    by_name = {"": None, **{recipe.name: recipe for recipe in all_recipes}}
    runs = []
    for name, example, constants, recipe in ROW.findall(text):
        constants = {key: int(value) for key, value in re.findall(r"(\w+) = (\d+)", constants)}
        runs.append((name, f"example_{example}", constants, by_name[recipe]))
    runs += [(f"example {n} as it is", f"example_{n}", THIRD, None) for n in "123"]
    for recipe in all_recipes:
        constants = EPOCHS_2018 if recipe.name.endswith("in 2018") else THIRD
        runs.append((recipe.name, recipes.example_of(recipe), constants, recipe))
    return runs


def train(run, seed, photos):
    """Generate, train and evaluate in a temporary copy of the scripts; print the figures."""
    _, example, constants, recipe = run
    with tempfile.TemporaryDirectory(prefix="results-") as folder:
        folder = Path(folder)
        shutil.copy(REPOSITORY / "generate_dataset.py", folder)
        shutil.copytree(REPOSITORY / example, folder / example)
        if recipe is not None:
            recipes.apply(recipe, folder)
        sys.path[:0] = [str(folder), str(folder / example)]
        import evaluate_performance
        import generate_dataset
        import train_model

        generate_dataset.WORKERS = train_model.THREADS = 1
        generate_dataset.DATASET_FOLDER = f"{photos}/images"
        generate_dataset.ANNOTATIONS_FOLDER = f"{photos}/annotations/xmls"
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
        if example == "example_2":
            other = (answers["classes"].argmax(axis=1) == dataset.classes.argmax(axis=1)).mean()
        if example == "example_3":
            grids = train_model.to_grid(dataset.boxes)
            other = np.mean(train_model.dice_coefficient(grids, answers))
        figures = (ious.mean(), (ious > 0.5).mean(), other, minutes)
        print(json.dumps([round(float(figure), 4) for figure in figures]))


def start(name, seed, photos):
    """Run `train` in a process of its own on one core; return its figures."""
    command = [sys.executable, __file__, "--train", name, str(seed), photos]
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "1"), **ALLOCATOR}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def read_results():
    """Return the rows of results.csv."""
    if not RESULTS.exists():
        return []
    with open(RESULTS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill_tables(text, results):
    """Return README.md with figures in the tables' rows whose first cell is the name of a run."""
    lines, headings = text.split("\n"), []
    for number, line in enumerate(lines):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells or set(line) <= set("| -"):
            continue
        if not lines[number - 1].startswith("|"):
            headings = cells
        rows = [row for row in results if row["run"] == cells[0]]
        if len(rows) < len(SEEDS):
            continue
        for heading, column in HEADINGS.items():
            mean = np.mean([float(row[column] or 0) for row in rows])
            if heading in headings and mean > 0:  # example 1 has no dice
                figure = f"{mean:.1f}" if heading == "minutes" else f"{mean:.3f}"
                cells[headings.index(heading)] = figure
        lines[number] = f"| {' | '.join(cells)} |"
    return "\n".join(lines)


def main():
    """Train what is missing in results.csv, and fill the README's tables."""
    photos = Path(*sys.argv[1:]).resolve() if sys.argv[1:] else REPOSITORY
    if not (photos / "images").is_dir():
        sys.exit("No photos: run generate_dataset.py first, or name a folder with images in it.")
    done = {tuple(row[column] for column in COLUMNS[:4]) for row in read_results()}
    with open(RESULTS, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(COLUMNS)
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            futures = {}
            for seed in SEEDS:  # outermost: a stop in between leaves every run with some
                for name, example, constants, _ in list_runs():
                    key = (name, example[-1], json.dumps(constants), str(seed))
                    if key not in done:
                        futures[executor.submit(start, name, seed, str(photos))] = key
            for future in tqdm(as_completed(futures), total=len(futures), unit=" runs"):
                try:
                    writer.writerow((*futures[future], *future.result()))
                    file.flush()
                except RuntimeError as error:
                    print(error, file=sys.stderr)
    text = fill_tables(README.read_text(encoding="utf-8"), read_results())
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        chosen = next(run for run in list_runs() if run[0] == sys.argv[2])
        train(chosen, int(sys.argv[3]), sys.argv[4])
    else:
        main()
