"""Photos of one's own, as labelling tools export them."""

import re

import pytest
from PIL import Image

from checks import message_of

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
# Each: photos and XMLs, and for each XML what it says as <filename> (and as <path> after a |) and
# which photo's box it has, if any.
LAYOUTS = {
    "renumbered": {
        "0.xml": ("1.jpg", "0.jpg"),
        "1.xml": ("2.jpg", "1.jpg"),
        "2.xml": ("0.jpg", "2.jpg"),
    },
    "an XML of its own name before one that says so": {
        "0.xml": ("1.jpg", None),
        "1.xml": ("0.jpg", "1.jpg"),
    },
    "images and annotations": {"annotations/xmls/a.xml": ("a.jpg", "images/a.jpg")},
    "as VOC": {
        "Annotations/a.xml": ("a.jpg", "JPEGImages/a.jpg"),
        "SegmentationClass": "a.png",
        "SegmentationObject": "a.png",
    },
    "as the Pet Dataset": {
        "annotations/xmls/a.xml": ("a.jpg", "images/a.jpg"),
        "annotations/trimaps": "a.png",
    },
    "train and valid": {
        "train/annots/a.xml": ("a.jpg", "train/images/a.jpg"),
        "valid/annots/a.xml": ("a.jpg", "valid/images/a.jpg"),
    },
    "train_images and test_images": {
        "train_xmls/a.xml": ("a.jpg", "train_images/a.jpg"),
        "test_xmls/a.xml": ("a.jpg", "test_images/a.jpg"),
    },
    "Roboflow": {
        "train/a_jpg.rf.1f.xml": ("a_jpg.rf.1f.jpg", "train/a_jpg.rf.1f.jpg"),
        "valid/a_jpg.rf.2e.xml": ("a_jpg.rf.2e.jpg", "valid/a_jpg.rf.2e.jpg"),
        "test/b.xml": ("b.jpg", "test/b.jpg"),
    },
    "CVAT": {
        "Annotations/1/b-0.xml": ("1/b-0.webp", "JPEGImages/1/b-0.webp"),
        "Annotations/2/b-0.xml": ("2/b-0.webp", "JPEGImages/2/b-0.webp"),
    },
    "flat XMLs, photos by class": {
        "xmls/a.xml": ("a.jpg", "cats/a.jpg"),
        "xmls/b.xml": ("b.jpg", "dogs/b.jpg"),
    },
    "one name in two classes": {"xmls/a.xml": ("a.jpg", None), "cats": "a.jpg", "dogs": "a.jpg"},
    "a task without photos": {
        "task_1/Annotations/a.xml": ("a.jpg", None),
        "task_1/Annotations/b.xml": ("b.jpg", None),
        "task_2/Annotations/a.xml": ("a.jpg", "task_2/JPEGImages/a.jpg"),
        "task_2/JPEGImages": "b.jpg",
    },
    "a photo was deleted": {
        "set_a/1.xml": ("1.jpg", "set_a/1.jpg"),
        "set_b/1.xml": ("1.jpg", "set_b/1.jpg"),
        "set_b/6.xml": ("6.jpg", None),
        "set_a": "6.jpg",
    },
    "numbers and letters": {
        "images/a/2.xml": ("2.jpg", None),
        "images/b/2.xml": ("2.jpg", None),
        "images/1": "2.jpg",
        "images/2": "2.jpg",
    },
    "jpg_2 and xml_2": {
        "xml/2.xml": ("2.jpg", "jpg/2.jpg"),
        "xml_2/2.xml": ("2.jpg", "jpg_2/2.jpg"),
    },
    "two days": {
        "2019-09-08/Annotations/a.xml": ("a.jpg", "2019-09-08/JPEGImages/a.jpg"),
        "2019-08-09/Annotations/a.xml": ("a.jpg", "2019-08-09/JPEGImages/a.jpg"),
    },
    "cam and cam_2": {
        "cam/Annotations/a.xml": ("a.jpg", "cam/JPEGImages/a.jpg"),
        "cam_2/Annotations/a.xml": ("a.jpg", "cam_2/JPEGImages/a.jpg"),
    },
    "capitals": {
        "VOC2019/xmls/a.xml": ("a.jpg", "voc2019/JPEGImages/a.jpg"),
        "VOC2020/xmls/a.xml": ("a.jpg", "voc2020/JPEGImages/a.jpg"),
    },
    "photos that were converted": {
        "train/a.xml": ("a.jpg", "train/a.png"),
        "test": "a.jpg",
    },
    "the nearest": {
        "xmls/b/a.xml": ("a.jpg", "photos/b/a.jpg"),
        "a.xml": ("a.jpg", "a.jpg"),
        "photos": "a.jpg",
    },
    "other endings": {
        "0.xml": ("0.jpg", "0.JPG"),
        "1.xml": ("1.jpg", "1.png"),
        "2.xml": ("2.jpg", "2.Bmp"),
        "3.xml": ("3.jpg", "3.TIFF"),
        "4.xml": ("4.jpg", "4.gif"),
        "5.xml": ("5", "5.jpeg"),
        "6.jpg.xml": ("6", "6.jpg"),
        "7.v2.xml": ("7.v2", "7.v2.JPG"),
        "8.xml": ("8.png", "8.png"),
        "": "8.jpg",
    },
    "other letters": {"img_1.xml": ("img_1.jpg", "IMG_1.JPG")},
    "nothing, or the folder": {
        "a.xml": ("", "a.jpg"),
        "b.xml": ("photos", "b.jpg"),
        "c.xml": ("old_7.jpg", "c.jpg"),
    },
    "the XML renamed": {
        "1.xml": ("a.jpg", "a.jpg"),
        "2.xml": (r"C:\\Users\\Zoë\\b.jpg", "b.jpg"),
        "3.xml": ("old|/home/zoe/c.jpg", "c.jpg"),
    },
    "outside": {"a.xml": ("../b.jpg", None), "../b.xml": ("b.jpg", None), "..": "a.jpg b.jpg"},
    "hopeless": {"a.xml": ("/" * 20_000 + "b.jpg", None), "": "c.jpg"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("annotations", [None, "my_photos"])
def test_whose_box_a_photo_has(project, generate_dataset, layout, annotations):
    expected = {}
    (project / "my_photos").mkdir()
    for index, (place, content) in enumerate(LAYOUTS[layout].items()):
        photos = content.split() if isinstance(content, str) else []
        if not photos:
            said, photo = content
            filename, _, path = said.partition("|")
            box = (index, 2, 30 + index, 40)
            xml = project / "my_photos" / place
            xml.parent.mkdir(parents=True, exist_ok=True)
            fields = {"filename": filename, "path": path, "width": 0, "height": 0}
            xml.write_text(TEMPLATE.format(**fields, name="cat", box=box), "utf-8")
            if photo:
                expected[f"my_photos/{photo}"] = box
                place, photos = "", [photo]
        for photo in photos:
            file = project / "my_photos" / place / photo
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 80)).save(file, "JPEG")
    generate_dataset.DATASET_FOLDER, generate_dataset.CLASS_FROM = "my_photos", "object"
    generate_dataset.ANNOTATIONS_FOLDER = annotations
    assert {row.path: row[3:7] for row in generate_dataset.read_rows()} == expected


VOC = TEMPLATE.format(filename="a", path="", width=100, height=80, name="é", box=(10.5, 2, 30, 40))
CVAT = "<annotations><image name='a.jpg'><box xtl='1' label='cat'/></image></annotations>"
ODD_XMLS = {  # file: its content, and its row's class or what is said
    "decimals": (VOC.encode(), "é"),
    "thousands": (
        VOC.replace("10.50", "1,024").encode(),
        "to float: '1,024'",
    ),
    "UTF-16": (VOC.replace("utf-8", "utf-16").encode("utf-16"), "é"),
    "Latin-1": (VOC.replace("utf-8", "latin-1").encode("latin-1"), "é"),
    "Latin-1 without a declaration": (
        VOC.partition("\n")[2].encode("latin-1"),
        "no class by CLASS_FROM",
    ),
    "GBK": (VOC.replace("utf-8", "gbk").replace("é", "猫").encode("gbk"), "猫"),
    "GBK in <path>": (VOC.replace("é", "cat").replace("<path>", "<path>猫").encode("gbk"), "cat"),
    "CVAT's own": (CVAT.encode(), "this is <annotations> XML, not Pascal VOC"),
    "unknown": (VOC.replace("utf-8", "pet").encode(), "unknown encoding: pet"),
    "another": (b"<svg/>", "this is <svg> XML, not Pascal VOC"),
    "empty": (b"", "no element found"),
    "rotated by CVAT": (VOC.replace("<value>0.0", "<value>30.0").encode(), "the box is rotated"),
    "rotated": (
        VOC.replace("<xmin>", "<rotation>9</rotation><xmin>").encode(),
        "the box is rotated",
    ),
}


@pytest.mark.parametrize("kind", ODD_XMLS)
def test_odd_xmls(project, generate_dataset, capsys, kind):
    content, expected = ODD_XMLS[kind]
    (project / "images").mkdir()
    Image.new("RGB", (100, 80)).save(project / "images/a.jpg")
    (project / "images/a.xml").write_bytes(content)
    generate_dataset.ANNOTATIONS_FOLDER, generate_dataset.CLASS_FROM = None, "object"
    rows = [row[3:] for row in generate_dataset.read_rows()]
    if len(expected) < 4:
        assert rows == [(10.5, 2, 30, 40, expected)]
    else:
        (line,) = re.findall("skipped .*", capsys.readouterr().err)
        assert not rows and expected in line


def test_no_xml(project, generate_dataset, capsys):
    generate_dataset.DATASET_FOLDER, generate_dataset.ANNOTATIONS_FOLDER = "my_photos", None
    (project / "my_photos").mkdir()
    for name in ("a.jpg", "b.JPG", "a.txt", "instances.json"):
        (project / "my_photos" / name).write_bytes(b"0 0.5 0.5 0.1 0.1")
    assert message_of(generate_dataset.main).startswith("No XML below my_photos")
    assert re.search(r"^ +2  photos without an XML, such as .*a.jpg", capsys.readouterr().out, re.M)


def test_a_photo_is_known_by_its_folder_and_not_by_a_link(project, generate_dataset):
    (project / "my_photos/train").mkdir(parents=True)
    (project / "my_photos/current").symlink_to("train")
    (project / "my_photos/back").symlink_to("..")
    Image.new("RGB", (100, 80)).save(project / "my_photos/train/a.jpg")
    (project / "my_photos/train/a.xml").write_text(VOC, "utf-8")
    generate_dataset.DATASET_FOLDER, generate_dataset.CLASS_FROM = "my_photos", "object"
    generate_dataset.ANNOTATIONS_FOLDER = None
    assert [row.path for row in generate_dataset.read_rows()] == ["my_photos/train/a.jpg"]
