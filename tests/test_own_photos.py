"""Photos of one's own, as labelling tools export them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from draw_pets import BREEDS, draw_pet
from test_generate_dataset import make_rows

# CVAT names the sub-folder in <filename>, writes decimals and <attributes>; labelImg writes <path>.
TEMPLATE = """<?xml version="1.0" encoding="utf-8"?>
<annotation verified="yes"><folder>photos</folder><filename>{filename}</filename><path>{path}</path>
<source><database>Unknown</database></source>
<size><width>{width}</width><height>{height}</height><depth></depth></size>
<segmented>0</segmented>
<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>
<difficult>0</difficult>
<bndbox><xmin>{box[0]:.2f}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>
</bndbox><attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes>
</object></annotation>"""
# Each: the folders of photos and XMLs, <filename>, <path>, and three names below the folder of
# photos. CVAT mirrors the sub-folders of the photos, labelImg writes its XMLs beside them.
WINDOWS = r"C:\Users\Zoë\photos\{file.name}"
EXPORTS = {
    "labelImg": ("mine", "mine", "{file.name}", WINDOWS, "IMG-{}.v2.JPG", "a {}.jpeg", "b{}.png"),
    "CVAT": ("JPEGImages", "Annotations", "{file}", "", "1/{}.jpg", "1/b-{}.webp", "c.{}.PNG"),
    "Label Studio": ("images", "xmls", "{file.name}", "", "3f2a-{}.jpg", "{}.b.JPEG", "{}.png"),
}


@pytest.mark.parametrize("tool", EXPORTS)
def test_exports(generate_dataset, tmp_path_factory, tool):
    """All photos are found, with their boxes and classes, in folders elsewhere."""
    photos, xmls, filename, path, *names = EXPORTS[tool]
    folder = tmp_path_factory.mktemp("mine")
    random, drawn = np.random.default_rng(0), {}
    for index in range(9):
        width, height = (int(pixels) for pixels in random.integers(150, 250, 2))
        photo, box = draw_pet(random, list(BREEDS)[index % 3], width, height)
        file, name = Path(names[index // 3].format(index)), ("pet-1", "a pet", "my.pet")[index % 3]
        xml = (folder / xmls / file).with_suffix(".xml")
        for parent in ((folder / photos / file).parent, xml.parent):
            parent.mkdir(parents=True, exist_ok=True)
        photo.save(folder / photos / file)
        said = {"filename": filename.format(file=file), "path": path.format(file=file)}
        text = TEMPLATE.format(**said, width=width, height=height, name=name, box=box)
        xml.write_text(text, "utf-8")
        drawn[f"{folder}/{photos}/{file}"] = [*map(str, box), name]

    generate_dataset.DATASET_FOLDER = f"{folder}/{photos}"
    generate_dataset.ANNOTATIONS_FOLDER = f"{folder}/{xmls}"
    generate_dataset.CLASS_FROM = "object"
    rows = make_rows(generate_dataset)
    assert {path: list(row.values())[3:8] for path, row in rows.items()} == drawn


@pytest.fixture
def find(project, generate_dataset):
    """Return a function that writes an XML with this <filename> and <path> and finds the photo."""

    def find(photo, filename, path="", xml="annotations/xmls/a.xml"):
        for file in (project / photo, project / xml):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(project / photo, "JPEG")
        said = {"filename": filename, "path": path, "width": 100, "height": 80}
        text = TEMPLATE.format(**said, name="cat", box=(1, 2, 30, 40))
        (project / xml).write_text(text, "utf-8")
        return generate_dataset.read_row(str(project / xml))[0].path

    generate_dataset.CLASS_FROM = "object"
    return find


@pytest.mark.parametrize(
    ("photo", "filename", "path"),
    [
        ("images/a.jpg", r"C:\Users\Zoe\photos\a.jpg", ""),
        ("images/b/a.jpg", "b/a.jpg", ""),
        ("images/b/a.jpg", "/home/zoe/b/a.jpg", ""),
        ("images/b/a.jpg", "a.jpg", r"C:\Users\Zoe\photos\b\a.jpg"),
        ("images/a.jpg", "", "/home/zoe/photos/a.jpg"),
        ("images/a.jpg", "old name.jpg", "/home/zoe/photos/a.jpg"),
        ("images/a.v2.JPG", "a.v2", ""),
    ],
)
def test_where_the_photo_is_found(find, photo, filename, path):
    assert find(photo, filename, path) == photo


@pytest.mark.parametrize("xml", ["images/b/a.xml", "annotations/xmls/b/a.xml"])
def test_the_nearest_of_two_photos_of_one_name(project, find, xml):
    find("images/a.jpg", "a.jpg")
    assert find("images/b/a.jpg", "a.jpg", xml=xml) == "images/b/a.jpg"
    (project / "images/b/a.jpg").unlink()
    assert find("images/a.jpg", "a.jpg", xml=xml) == "images/a.jpg"
