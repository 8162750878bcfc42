"""Train what the tables of the pages name: into tests/results.csv, and from there into the tables.

make results                  # on the photos that generate_dataset.py downloads
make results PHOTOS=folder    # on folder/images and folder/annotations/xmls

Each run has a core of its own, whose minutes count. Those in results.csv are not trained again.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

import recipes
from scripts import REPOSITORY, copy_scripts

RESULTS = REPOSITORY / "tests" / "results.csv"
HEADINGS = {  # of the tables: the column of results.csv
    "IoU": "iou",
    "first look": "first_iou",
    "agreement": "agreement",
    "above 0.5": "above_half",
    "accuracy": "is_right",
    "dice": "dice",
    "minutes": "minutes",
}
COLUMNS = ("run", "example", "seed", *HEADINGS.values())
SEEDS = (0, 1, 2)
ONE_CORE = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
# The settings of the allocator that make training faster on some machines.
ONE_CORE |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_ARENA_MAX": "1"}


def evaluate(script):
    """Return the means over the validation photos of the newest run, by column of results.csv."""
    folder = script.find_run()
    model = keras.models.load_model(folder / "model.keras", compile=False)
    more = []
    if (folder / "classes.json").exists():  # example 2's
        classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        more = [script.list_starts(folder), classes]
    found = script.find_objects(model, *more, script.read_csv(folder / "validation.csv"))
    rows = [each[1] for each in found]
    rows = [row[0] if isinstance(row, list) else row for row in rows]  # of each object: the first
    for row in rows:
        if "true_class_name" in row:
            row["is_right"] = row["class_name"] == row["true_class_name"]
    means = {"above_half": np.mean([row["iou"] > 0.5 for row in rows])}
    for column in set(HEADINGS.values()) & rows[0].keys():
        means[column] = np.mean([row[column] for row in rows])  # nan: agreement of a single look
    return {column: round(float(mean), 4) for column, mean in means.items() if not np.isnan(mean)}


def train(run, seed, photos):
    """Generate, train and evaluate in a temporary copy of the scripts; print the figures."""
    with tempfile.TemporaryDirectory(prefix="results-") as folder:
        copy_scripts(Path(folder))
        recipes.apply(run, folder)
        sys.path[:0] = [folder, f"{folder}/{run.example}"]
        import evaluate_performance
        import generate_dataset
        import train_model

        generate_dataset.DATASET_FOLDER = f"{photos}/images"
        generate_dataset.ANNOTATIONS_FOLDER = f"{photos}/annotations/xmls"
        generate_dataset.SEED = train_model.SEED = seed
        generate_dataset.main()
        start = time.process_time()  # of this process alone, however busy the machine is
        train_model.main()
        minutes = (time.process_time() - start) / 60
        print(json.dumps({**evaluate(evaluate_performance), "minutes": round(minutes, 2)}))


def start(task):
    """Run `train` in a process of its own on one core; return a row of results.csv, or None."""
    run, seed, photos = task
    command = [sys.executable, __file__, "--train", *run, str(seed), photos]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_CORE})
    if done.returncode:
        print(f"{run.example}, {run.name}: {done.stderr[-300:]}", file=sys.stderr)
        return None
    key = {"run": run.name, "example": run.example[-1], "seed": seed}
    return key | json.loads(done.stdout.splitlines()[-1])


def read_results():
    """Return the rows of results.csv."""
    with open(RESULTS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summarize(rows, column):
    """Return mean ± standard deviation over the seeds, or nothing if there are too few."""
    values = [float(row[column]) for row in rows if row[column]]
    if len(values) < len(SEEDS):
        return ""
    if column == "minutes":
        return f"{np.mean(values):.1f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def fill_tables(text, page, results):
    """Return a page with the figures of the runs in its tables, and none but these."""
    lines, headings = text.split("\n"), []
    for number, line in enumerate(lines):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        headings = (headings or cells) if line.startswith("|") else []
        run = recipes.read_row(line, page)
        if run is None:
            continue
        key = (run.name, run.example[-1])
        rows = [row for row in results if (row["run"], row["example"]) == key]
        filled = [*cells]
        for index, heading in enumerate(headings):  # "accuracy, dice": an example has one of them
            columns = [HEADINGS[part] for part in heading.split(", ") if part in HEADINGS]
            if columns:
                filled[index] = "".join(summarize(rows, column) for column in columns)
        if filled != cells:
            lines[number] = f"| {' | '.join(filled)} |"
    return "\n".join(lines)


def main():
    """Train what is missing in results.csv, and fill the tables of the pages."""
    photos = Path(*sys.argv[1:]).resolve() if sys.argv[1:] else REPOSITORY
    if not (photos / "images").is_dir():
        sys.exit("No photos: run generate_dataset.py first, or name a folder with images in it.")
    done = {(row["run"], row["example"], row["seed"]) for row in read_results()}
    tasks = [
        (run, seed, str(photos))
        for seed in SEEDS  # outermost: a stop in between leaves every run with some
        for run in recipes.read_runs(columns=3)  # tables of two have no figures
        if (run.name, run.example[-1], str(seed)) not in done
    ]
    with open(RESULTS, "a", newline="", encoding="utf-8") as file, ThreadPool() as pool:
        for row in tqdm(pool.imap_unordered(start, tasks), total=len(tasks), unit=" runs"):
            if row is not None:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
                file.flush()
    for page in recipes.PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(fill_tables(text, page, read_results()), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(recipes.Run(*sys.argv[2:4]), int(sys.argv[4]), sys.argv[5])
    else:
        main()
