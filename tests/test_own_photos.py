"""Photos of one's own, as labelling tools export them, from XMLs to pictures."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import create_small_model, message_of
from draw_pets import BREEDS, draw_pet

LABELIMG = """<annotation verified="yes">
    <folder>photos</folder>
    <filename>{file.name}</filename>
    <path>C:\\Users\\Zoë\\photos\\{file.name}</path>
    <source><database>Unknown</database></source>
    <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
    <segmented>0</segmented>
    <object>
        <name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>
        <difficult>0</difficult>
        <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>
            <xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
    </object>
</annotation>
"""
CVAT = """<annotation>
  <folder></folder>
  <filename>{file}</filename>
  <source><database>Unknown</database><annotation>Unknown</annotation></source>
  <size><width>{width}</width><height>{height}</height><depth></depth></size>
  <segmented>0</segmented>
  <object>
    <name>{name}</name><truncated>0</truncated><occluded>0</occluded><difficult>0</difficult>
    <bndbox><xmin>{box[0]:.2f}</xmin><ymin>{box[1]:.2f}</ymin>
      <xmax>{box[2]:.2f}</xmax><ymax>{box[3]:.2f}</ymax></bndbox>
    <attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes>
  </object>
</annotation>
"""
LABEL_STUDIO = """<?xml version="1.0" encoding="utf-8"?>
<annotation>
<folder>images</folder>
<filename>{file.name}</filename>
<source><database>MyDatabase</database><annotation>COCO2017</annotation><image>flickr</image>
<flickrid>NULL</flickrid><annotator>1</annotator></source>
<owner><flickrid>NULL</flickrid><name>Label Studio</name></owner>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
<segmented>0</segmented>
<object>
<name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>
<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
</object>
</annotation>
"""
# Each: the folders of photos and XMLs, the XML, and three names below the folder of photos. CVAT
# mirrors the sub-folders of the photos, labelImg writes its XMLs beside them.
EXPORTS = {
    "labelImg": ("photos", "photos", LABELIMG, "IMG-{}.v2.JPG", "my.cat-{}.jpeg", "dog {}.png"),
    "CVAT": ("JPEGImages", "Annotations", CVAT, "day-1/{}.jpg", "day-1/b-{}.webp", "c.{}.PNG"),
    "Label Studio": ("images", "Annotations", LABEL_STUDIO, "3f2a-{}.jpg", "{}.b.JPEG", "c-{}.png"),
}


def export(project, tool, count, classes=("pet-1", "my.pet", "a pet")):
    """Draw `count` pets as a tool exports them; return the folders, and the boxes by photo."""
    photos, xmls, template, *names = EXPORTS[tool]
    folder = project / "mine"
    random, boxes = np.random.default_rng(0), {}
    for index in range(count):
        width, height = (int(pixels) for pixels in random.integers(150, 250, 2))
        photo, box = draw_pet(random, list(BREEDS)[index % 3], width, height)
        file = Path(names[index // 3 % 3].format(index))
        xml = (folder / xmls / file).with_suffix(".xml")
        for parent in ((folder / photos / file).parent, xml.parent):
            parent.mkdir(parents=True, exist_ok=True)
        photo.save(folder / photos / file)
        name = classes[index % len(classes)]
        text = template.format(file=file, width=width, height=height, name=name, box=box)
        xml.write_text(text, "utf-8")
        boxes[f"mine/{photos}/{file.as_posix()}"] = (name, box)
    return f"mine/{photos}", f"mine/{xmls}", boxes


def read_rows(project):
    """Return class and box of all rows of both CSVs, by path."""
    rows = {}
    for name in ("train.csv", "validation.csv"):
        with open(project / name, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                corners = (float(row[corner]) for corner in ("xmin", "ymin", "xmax", "ymax"))
                rows[row["path"]] = (row["class_name"], tuple(corners))
    return rows


def generate(generate_dataset, photos, xmls):
    """Do what the README says."""
    generate_dataset.DATASET_FOLDER, generate_dataset.ANNOTATIONS_FOLDER = photos, xmls
    generate_dataset.CLASS_FROM, generate_dataset.DOWNLOAD = "object", False
    generate_dataset.main()


@pytest.mark.parametrize("tool", EXPORTS)
def test_rows(project, generate_dataset, capsys, tool):
    photos, xmls, boxes = export(project, tool, 18)
    generate(generate_dataset, photos, xmls)
    assert "skipped" not in capsys.readouterr().err
    assert read_rows(project) == boxes


@pytest.mark.parametrize("tool", ["labelImg", "CVAT"])
def test_from_xmls_to_pictures(
    project, generate_dataset, train_model, evaluate_performance, monkeypatch, tool
):
    generate(generate_dataset, *export(project, tool, 18)[:2])
    train_model.EPOCHS, train_model.HEAD = 1, "conv"
    monkeypatch.setattr(train_model, "create_model", create_small_model)
    train_model.main()
    evaluate_performance.main()
    validation = train_model.read_csv("validation.csv")[0]
    pictures = [*(project / "example_1" / "predictions").iterdir()]
    assert len(pictures) == len(validation) >= 3
    for picture in (*pictures, project / "example_1" / "predictions.png"):
        with Image.open(picture) as image:
            image.load()


def test_one_class(project, generate_dataset, capsys):
    photos, xmls, boxes = export(project, "labelImg", 6, classes=["pet-0"])
    generate(generate_dataset, photos, xmls)
    assert read_rows(project) == boxes
    assert "       6         4           2  pet-0" in capsys.readouterr().out


@pytest.mark.parametrize("example", ["example_2"])
def test_one_class_in_example_2(project, generate_dataset, train_model):
    generate(generate_dataset, *export(project, "labelImg", 6, classes=["pet-0"])[:2])
    assert "one class only, pet-0: use example 1" in message_of(train_model.main)


@pytest.fixture
def read(project, generate_dataset):
    """Return a function that reads an XML with this <filename> and <path> and finds a photo."""
    generate_dataset.CLASS_FROM = "object"

    def read(photo, filename, path="", xml="annotations/xmls/a.xml"):
        for file in (project / photo, project / xml):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(project / photo, "JPEG")
        text = LABELIMG.format(file=Path("a"), width=100, height=80, name="cat", box=(1, 2, 30, 40))
        head, _, tail = text.partition("<filename>")
        tail = f"<filename>{filename}</filename><path>{path}</path>{tail.partition('</path>')[2]}"
        (project / xml).write_text(head + tail, "utf-8")
        return generate_dataset.read_row(project / xml)[0].path

    return read


@pytest.mark.parametrize(
    ("photo", "filename", "path"),
    [
        ("images/a-b.c.jpg", "a-b.c.jpg", ""),
        ("images/a.jpg", "/home/zoe/photos/a.jpg", ""),
        ("images/a.jpg", r"C:\Users\Zoe\photos\a.jpg", ""),
        ("images/a.jpg", r"photos\a.jpg", ""),
        ("images/a.jpg", "photos/a.jpg", ""),
        ("images/b/a.jpg", "b/a.jpg", ""),
        ("images/b/a.jpg", r"b\a.jpg", ""),
        ("images/b/a.jpg", "/home/zoe/b/a.jpg", ""),
        ("images/b/a.jpg", "a.jpg", r"C:\Users\Zoe\photos\b\a.jpg"),
        ("images/b/a.jpg", "a.jpg", "/home/zoe/photos/b/a.jpg"),
        ("images/a.jpg", "", "/home/zoe/photos/a.jpg"),
        ("images/a.jpg", "old name.jpg", "/home/zoe/photos/a.jpg"),
        ("images/a.jpg", "a", ""),
        ("images/a.v2.JPG", "a.v2", ""),
        ("images/a.webp", "/home/zoe/photos/a", ""),
        (r"images/a\b.jpg", r"a\b.jpg", ""),
    ],
)
def test_where_the_photo_is_found(read, photo, filename, path):
    if os.sep == "\\" and "\\" in photo:
        pytest.skip("a file name has no backslash here")
    assert read(photo, filename, path) == photo.replace(os.sep, "/")


@pytest.mark.parametrize("xml", ["images/b/a.xml", "annotations/xmls/b/a.xml"])
def test_the_nearest_of_two_photos_of_one_name(project, read, xml):
    read("images/a.jpg", "a.jpg")
    assert read("images/b/a.jpg", "a.jpg", xml=xml) == "images/b/a.jpg"
    (project / "images" / "b" / "a.jpg").rename(project / "images" / "b" / "c.jpg")
    assert read("images/a.jpg", "a.jpg", xml=xml) == "images/a.jpg"


def test_absolute_path_into_the_folder(project, read):
    assert read("images/b/c/a.jpg", project / "images/b/c/a.jpg") == "images/b/c/a.jpg"


@pytest.mark.parametrize("folder", ["../outside", "annotations/xmls"])
def test_no_photo_outside_of_the_folder(project, generate_dataset, read, folder):
    (project / "images").mkdir()
    photo = (project / folder / "a.jpg").resolve()
    for filename in ("a.jpg", photo, f"../{folder}/a.jpg", f"b/../../{folder}/a.jpg"):
        for path in ("", photo):
            with pytest.raises(generate_dataset.UnusableError) as error:
                read(f"{folder}/a.jpg", filename, path)
            leaves = ".." in str(filename)
            reason = "the file name leaves DATASET_FOLDER" if leaves else "the photo is missing"
            assert error.value.args[0] == reason


def test_class_that_the_console_cannot_print(project):
    photos, _, _ = export(project, "labelImg", 6, classes=["кошка"])
    script = project / "generate_dataset.py"
    text = script.read_text().replace('= "images" ', f"= {photos!r} ")
    script.write_text(text.replace('CLASS_FROM = "filename"', 'CLASS_FROM = "object"'))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert r"6         4           2  \u043a" in done.stdout
    assert {name for name, _ in read_rows(project).values()} == {"кошка"}
