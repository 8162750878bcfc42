"""Photos of one's own, as labelling tools export them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_generate_dataset import corners_of, make_rows

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


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("tool", EXPORTS)
def test_exports(project, generate_dataset, tmp_path_factory, capsys, tool, elsewhere):
    """All photos are found, with their boxes and classes; absolute folders are as good."""
    photos, xmls, template, *names = EXPORTS[tool]
    folder = tmp_path_factory.mktemp("mine") if elsewhere else project / "mine"
    random, drawn = np.random.default_rng(0), {}
    for index in range(9):
        width, height = (int(pixels) for pixels in random.integers(150, 250, 2))
        photo, box = draw_pet(random, list(BREEDS)[index % 3], width, height)
        file, name = Path(names[index // 3].format(index)), ("pet-1", "a pet", "my.pet")[index % 3]
        xml = (folder / xmls / file).with_suffix(".xml")
        for parent in ((folder / photos / file).parent, xml.parent):
            parent.mkdir(parents=True, exist_ok=True)
        photo.save(folder / photos / file)
        xml.write_text(template.format(**locals()), "utf-8")
        path = (folder / photos / file).as_posix()
        drawn[path if elsewhere else path.removeprefix(f"{project}/")] = (name, box)

    script = generate_dataset
    script.DATASET_FOLDER, script.ANNOTATIONS_FOLDER = str(folder / photos), str(folder / xmls)
    if not elsewhere:
        script.DATASET_FOLDER, script.ANNOTATIONS_FOLDER = f"mine/{photos}", f"mine/{xmls}"
    script.CLASS_FROM = "object"
    rows = make_rows(script)
    assert {path: (row["class_name"], corners_of(row)) for path, row in rows.items()} == drawn
    assert "skipped" not in capsys.readouterr().err


@pytest.fixture
def find(project, generate_dataset):
    """Return a function that writes an XML with this <filename> and <path> and finds the photo."""

    def find(photo, filename, path="", xml="annotations/xmls/a.xml"):
        for file in (project / photo, project / xml):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(project / photo, "JPEG")
        text = LABELIMG.format(file=Path("a"), width=100, height=80, name="cat", box=(1, 2, 30, 40))
        head, _, tail = text.partition("<filename>")
        tail = f"<filename>{filename}</filename><path>{path}</path>{tail.partition('</path>')[2]}"
        (project / xml).write_text(head + tail, "utf-8")
        return generate_dataset.read_row(str(project / xml))[0].path

    generate_dataset.CLASS_FROM = "object"
    return find


@pytest.mark.parametrize(
    ("photo", "filename", "path"),
    [
        ("images/a.jpg", "/home/zoe/photos/a.jpg", ""),
        ("images/a.jpg", r"C:\Users\Zoe\photos\a.jpg", ""),
        ("images/b/a.jpg", "b/a.jpg", ""),
        ("images/b/a.jpg", "/home/zoe/b/a.jpg", ""),
        ("images/b/a.jpg", "a.jpg", r"C:\Users\Zoe\photos\b\a.jpg"),
        ("images/a.jpg", "", "/home/zoe/photos/a.jpg"),
        ("images/a.jpg", "old name.jpg", "/home/zoe/photos/a.jpg"),
        ("images/a.v2.JPG", "a.v2", ""),
        ("images/a.webp", "/home/zoe/photos/a", ""),
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


@pytest.mark.parametrize("folder", ["../outside", "annotations/xmls", "images_2"])
def test_no_photo_outside_of_the_folder(project, find, folder):
    (project / "images").mkdir()
    photo = (project / folder / "x.jpg").resolve()
    for filename in ("x.jpg", photo, f"../{folder}/x.jpg", f"b/../../{folder}/x.jpg"):
        for path in ("", photo):
            with pytest.raises(ValueError, match=r"^the photo is missing"):
                find(f"{folder}/x.jpg", filename, path)


def test_linked_photos_are_photos(project, find, tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    (project / "images").symlink_to(folder)
    assert find("images/a.jpg", "a.jpg") == "images/a.jpg"
