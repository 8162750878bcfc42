"""Every command and block of the pages runs, in its order, and leaves what the page promises.

The blocks are run in a copy of the scripts with drawn pets and constants for short trainings. A
block that only sets constants is an edit of the scripts. tests/test_recipes.py runs the recipes.
"""

import contextlib
import csv
import os
import re
import shutil
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest
from PIL import Image

import draw_pets
from scripts import REPOSITORY, edit, newest_run

NAMES = ["README.md", *(f"example_{n}/README.md" for n in "123")]
NAMES += ["example_1/recipes/README.md", "example_1/recipes/EXPORTING.md", "tests/README.md"]
PAGES = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in NAMES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TEXTS = {name: BLOCK.sub("", page) for name, page in PAGES.items()}
SCRIPTS = [REPOSITORY / "generate_dataset.py", *REPOSITORY.glob("example_[123]/*.py")]

NOT_RUN = {  # line: why neither it, nor its block if it is Python, is run
    "make demo": "trains for minutes",
    "make test": "would run this file again",
    "source .venv/bin/activate": "python is the one that runs this file",
    "import coremltools as ct": "not among the packages of the tests",
}
RUN = "example_1/runs/20*/"
LEAVES = {
    "python generate_dataset.py": "train.csv validation.csv",
    "python example_1/train_model.py": f"{RUN}model.keras {RUN}log.csv {RUN}batch.jpg",
    "python example_1/evaluate_performance.py": f"{RUN}predictions.csv {RUN}predictions.png",
    "python example_1/evaluate_performance.py holiday": f"{RUN}predictions/*beach.jpg",
    "python example_1/recipes/film.py film.mp4": f"{RUN}found.mp4 {RUN}found.csv",
}
SHORT = {"EPOCHS": 1, "WINDOWS_PER_EPOCH": 16, "IMAGE_SIZE": 96, "ALPHA": 0.35}
SHORT |= {"WEIGHTS": "random.keras"}
FRAMES = 5  # of the film


def set_constants(folder, constants):
    """Write constants into the scripts that have them."""
    copies = [folder / file.relative_to(REPOSITORY) for file in SCRIPTS]
    for name, value in constants.items():
        assert sum(edit(copy, **{name: value}) for copy in copies), name


def prepare(folder):
    """Draw photos and a film, label them as YOLO and COCO do, and set constants."""
    import supervision as sv  # not in .venv-oldest, where this file is imported too

    draw_pets.draw_dataset(folder / "drawn", 12, seed=1)
    images, xmls = folder / "drawn/images", folder / "drawn/annotations/xmls"
    labels = sv.DetectionDataset.from_pascal_voc(images, xmls)
    mine = folder / "my_photos"
    labels.as_yolo(mine / "images", mine / "labels", mine / "data.yaml")
    labels.as_coco(annotations_path=mine / "labels.json")
    set_constants(folder, SHORT)
    options = {"alpha": SHORT["ALPHA"], "include_top": False, "weights": None}
    keras.applications.MobileNetV2((96, 96, 3), **options).save(folder / SHORT["WEIGHTS"])
    photos = [Image.open(file).resize((120, 90)) for file in sorted(images.iterdir())[:2]]
    photos[0].save(folder / "photo.jpg")
    (folder / "holiday").mkdir()
    photos[1].save(folder / "holiday" / "beach.jpg")
    film = cv2.VideoWriter(str(folder / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (120, 90))
    for _ in range(FRAMES):
        film.write(np.asarray(photos[0])[:, :, ::-1])
    film.release()
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def run_shell(folder, line):
    """Run a line, which must end well, and look for what it leaves; return what it prints."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", line], timeout=300, **options)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for pattern in LEAVES.get(line, "").split():
        assert [*folder.glob(pattern)], f"{line} left no {pattern}"
    return done.stdout


def run_python(folder, block, names):
    """Edit the scripts that have the constants that a block sets, or run the block."""
    if re.fullmatch(r"([A-Z_]+ = .*\n)+", block):
        exec(block, {}, constants := {})
        set_constants(folder, constants)
    else:
        with contextlib.chdir(folder):
            exec(block, names)  # here, where Keras is imported already


def read_boxes(folder, xmls):
    import supervision as sv

    labels = sv.DetectionDataset.from_pascal_voc(folder / "my_photos/images", folder / xmls)
    return {path: (labels.classes[it.class_id[0]], *it.xyxy[0]) for path, _, it in labels}


def check_labels(folder, block):
    """Run the block that converts COCO's labels, which is a comment in it, and then YOLO's."""
    expected = read_boxes(folder, "drawn/annotations/xmls")
    for edited in (block.replace("# for COCO: ", ""), block):
        shutil.rmtree(folder / "my_photos/xmls", ignore_errors=True)
        run_python(folder, edited, {})
        found = read_boxes(folder, "my_photos/xmls")
        assert found.keys() == expected.keys() and len(found) == 12
        for path, (name, *box) in found.items():
            assert name == expected[path][0]
            np.testing.assert_allclose(box, expected[path][1:], atol=1)  # whole pixels


def test_every_block_of_commands_runs(project):
    prepare(project)
    for page in PAGES.values():
        names = {}  # the blocks of a page are one program
        for language, block in BLOCK.findall(page):
            lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
            if language == "sh":
                for line in lines:
                    if line not in NOT_RUN:
                        run_shell(project, line)
            elif "supervision" in block:
                check_labels(project, block)
            elif not NOT_RUN.keys() & {*lines}:
                assert language == "python", f"``` needs a language:\n{block}"
                run_python(project, block, names)
    unused = {line for line in (*NOT_RUN, *LEAVES) if line not in "".join(PAGES.values())}
    assert not unused, "not in the pages any more"
    rows = (project / "train.csv").read_text()
    assert "my_photos/images/" in rows and ",cat," in rows and ",dog," in rows
    run = newest_run(project / "example_1")
    film = cv2.VideoCapture(str(run / "found.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES and film.get(cv2.CAP_PROP_FPS) == 5
    found = [*csv.DictReader((run / "found.csv").read_text().splitlines())]
    assert [row["frame"] for row in found] == [str(number) for number in range(FRAMES)]
    assert all(float(row["xmin"]) < float(row["xmax"]) <= 120 for row in found)
    scripts = ("evaluate_performance.py", "recipes/look_with_litert.py model.tflite")
    printed = [run_shell(project, f"python example_1/{script} photo.jpg") for script in scripts]
    found = [re.findall(r"\d+\.\d+", text.partition("box")[2])[:5] for text in printed]
    np.testing.assert_allclose(*np.array(found, float), atol=0.2, err_msg="the same box")
    wrong = {
        "look_with_litert.py film.mp4 photo.jpg": "film.mp4 is not a LiteRT model",
        "look_with_litert.py model.tflite film.mp4": "film.mp4 cannot be read",
        "film.py photo.txt": "OpenCV cannot read photo.txt",
    }
    for command, reason in wrong.items():
        command = [sys.executable, *f"example_1/recipes/{command}".split()]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(reason)
        assert "Traceback" not in done.stderr


def anchors_of(name):
    headings = re.findall(r"^#+ (.*)", TEXTS[name], re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere_and_lines_can_be_read_in_a_terminal(name):
    for link in re.findall(r"\]\((?!https://)([^)]+)\)", TEXTS[name]):
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        assert target.resolve().stat().st_size < 150_000, link
        if anchor:
            assert anchor in anchors_of(str(target.resolve().relative_to(REPOSITORY))), link
    for line in PAGES[name].splitlines():
        assert len(line) <= 120 or "](" in line, line  # but links


def test_every_constant_in_the_pages_exists():
    code = [code for page in PAGES.values() for _, code in BLOCK.findall(page)]
    code += [code for text in TEXTS.values() for code in re.findall(r"`([^`]+)`", text)]
    constant = r"\b(?!KERAS_|MALLOC_|COCO|DATE_TIME|DEFAULT|XML)[A-Z][A-Z_]+[A-Z]\b"
    names = {*re.findall(constant, "\n".join(code))}
    text = "".join(file.read_text(encoding="utf-8") for file in SCRIPTS)
    assert len(names) >= 20 and not names - {*re.findall("^([A-Z_]+) = ", text, re.MULTILINE)}


def test_the_figures_on_other_photos_are_those_of_the_csv():
    rows = [*csv.DictReader((REPOSITORY / "tests/other_photos.csv").read_text().splitlines())]
    table = re.findall(r"^\| (.+) \| \d+, \d+ \| (\S+)(.*) \| (\S+) \|$", PAGES["README.md"], re.M)
    assert len(table) == 5
    for name, iou, deviation, above_half in table:
        photos = name.removesuffix(" †")
        run = "recipes/look_elsewhere.diff" if name.endswith("†") else "default"
        seeds = [row for row in rows if (row["photos"], row["run"]) == (photos, run)]
        ious = [float(row["iou"]) for row in seeds]
        assert iou == f"{np.mean(ious):.3f}" and len(seeds) == (3 if deviation else 1), name
        assert not deviation or deviation == f" ± {np.std(ious, ddof=1):.3f}", name
        assert above_half == f"{np.mean([float(row['above_half']) for row in seeds]):.3f}", name
