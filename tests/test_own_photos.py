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
    "one name in two classes": {
        "xmls/a.xml": ("a.jpg", None),
        "xmls/b.xml": ("dogs/b.jpg", "dogs/b.jpg"),
        "xmls/c.xml": (r"c.jpg|C:\\Zoë\\cats\\c.jpg", "cats/c.jpg"),
        "cats": "a.jpg b.jpg",
        "dogs": "a.jpg c.jpg",
    },
    "the nearest": {
        "xmls/b/a.xml": ("a.jpg", "photos/b/a.jpg"),
        "a.xml": ("a.jpg", "a.jpg"),
        "photos": "a.jpg",
    },
    "umlauts of a Mac, of two letters": {"u\u0308.xml": ("u\u0308.jpg", "\u00fc.jpg")},
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


def test_swapped_names_are_counted(project, generate_dataset, capsys):
    (project / "my_photos").mkdir()
    for name, filename in (("0", "1.jpg"), ("1", "0.jpg"), ("2", "2.jpg")):
        fields = {"filename": filename, "path": "", "width": 0, "height": 0, "name": "cat"}
        xml = TEMPLATE.format(**fields, box=(1, 2, 30, 40))
        (project / "my_photos" / f"{name}.xml").write_text(xml, "utf-8")
        Image.new("RGB", (100, 80)).save(project / "my_photos" / f"{name}.jpg")
    generate_dataset.DATASET_FOLDER, generate_dataset.ANNOTATIONS_FOLDER = "my_photos", None
    generate_dataset.CLASS_FROM = "object"
    assert len(generate_dataset.read_rows()) == 3
    assert "2  XMLs whose <filename> is another photo" in capsys.readouterr().out


VOC = TEMPLATE.format(filename="a", path="", width=100, height=80, name="é", box=(10.5, 2, 30, 40))
CVAT = "<annotations><image name='a.jpg'><box xtl='1' label='cat'/></image></annotations>"
ODD_XMLS = {  # file: its content, and its row's class or what is said
    "decimal comma": (VOC.replace("10.50", "10,5").encode(), "é"),
    "namespace": (VOC.replace("<annotation ", "<annotation xmlns='http://voc' ").encode(), "é"),
    "UTF-16": (VOC.replace("utf-8", "utf-16").encode("utf-16"), "é"),
    "Latin-1": (VOC.replace("utf-8", "latin-1").encode("latin-1"), "é"),
    "Latin-1 without a declaration": (
        VOC.partition("\n")[2].encode("latin-1"),
        "no class, or not in UTF-8",
    ),
    "GBK": (VOC.replace("utf-8", "gbk").replace("é", "猫").encode("gbk"), "猫"),
    "GBK in <path>": (VOC.replace("é", "cat").replace("<path>", "<path>猫").encode("gbk"), "cat"),
    "CVAT's own": (CVAT.encode(), "this is CVAT's own XML, export as Pascal VOC"),
    "unknown": (VOC.replace("utf-8", "pet").encode(), "unknown encoding: pet"),
    "another": (b"<svg/>", "this is XML of <svg>, export as Pascal VOC"),
    "empty": (b"", "no element found"),
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


def test_no_xml_and_other_formats(project, generate_dataset, capsys):
    generate_dataset.DATASET_FOLDER, generate_dataset.ANNOTATIONS_FOLDER = "my_photos", None
    for name in ("a.jpg", "b.JPG", "a.txt", "b.txt", "instances.json"):
        (project / "my_photos").mkdir(exist_ok=True)
        (project / "my_photos" / name).write_bytes(b"0 0.5 0.5 0.1 0.1")
    assert message_of(generate_dataset.main).startswith("No XML below my_photos")
    counts = re.findall(r"^ +(\d+)  (.*)$", capsys.readouterr().out, re.M)
    assert [number for number, _ in counts] == ["2"]
    assert re.match(r"photos without an XML, such as .*(a.jpg|b.JPG) \(of YOLO's", counts[0][1])


def test_linked_folders_are_read_once(project, generate_dataset, tmp_path_factory, capsys):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (project / "my_photos").mkdir()
    for folder in (project / "my_photos", elsewhere):
        Image.new("RGB", (100, 80)).save(folder / f"{folder.name}.jpg")
        (folder / f"{folder.name}.xml").write_text(VOC, "utf-8")
    links = {"more": elsewhere, "back": project / "my_photos", "gone": "/not mounted"}
    for name, target in links.items():
        (project / "my_photos" / name).symlink_to(target)
    generate_dataset.DATASET_FOLDER, generate_dataset.CLASS_FROM = "my_photos", "object"
    generate_dataset.ANNOTATIONS_FOLDER = None
    rows = {row.path for row in generate_dataset.read_rows()}
    assert rows == {"my_photos/my_photos.jpg", f"my_photos/more/{elsewhere.name}.jpg"}
    assert "my_photos/gone is a link to what is not there" in capsys.readouterr().out
