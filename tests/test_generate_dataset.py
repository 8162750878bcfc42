"""Tests of generate_dataset.py: what becomes a row, what does not and why, and what is written."""

import hashlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from checks import message_of
from draw_pets import BREEDS, draw_dataset, draw_pet, write_xml
from scripts import edit, make_rows, read_csvs

SIZE, BOX = (100, 80), (10, 20, 60, 70)  # of add_pet's photo


def add_pet(project, stem="Amber_Cat_9", boxes=(BOX,), image=None, **save_options):
    """Write images/stem.jpg, which is black with a white BOX, and its XML; return both paths."""
    photo, xml = project / f"images/{stem}.jpg", project / f"annotations/xmls/{stem}.xml"
    for file in (photo, xml):
        file.parent.mkdir(parents=True, exist_ok=True)
    (image or draw_box()).save(photo, **{"format": "JPEG", **save_options})
    write_xml(xml, photo.name, SIZE, boxes)
    return photo, xml


def draw_box(mode="RGB"):
    """Return a black picture with a white rectangle exactly on BOX."""
    image = Image.new("RGB", SIZE)
    ImageDraw.Draw(image).rectangle((*BOX[:2], BOX[2] - 1, BOX[3] - 1), fill="white")
    return image.convert(mode)


def turned(orientation):
    """Return options for add_pet: the picture as it lies, and EXIF data that turn it upright."""
    turns = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_90 TRANSVERSE ROTATE_270"
    turn = Image.Transpose[turns.split()[orientation - 2]]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return {"image": draw_box().transpose(turn), "exif": exif, "quality": 95}


def replace_in(file, pattern, text):
    """Replace the one part of a text file that `pattern` matches."""
    changed, count = re.subn(pattern, lambda _: text, file.read_text("utf-8"))
    assert count == 1, pattern
    file.write_text(changed, "utf-8")


def read_row(script):
    """Return the row of a project of one photo."""
    (row,) = script.read_rows()
    return row


def reason(script, capsys):
    """Return why a project of one photo has no row, as it is counted."""
    assert not script.read_rows()
    (reason,) = re.findall(r"^ +1  skipped: (.*)$", capsys.readouterr().out, re.M)
    return reason


def files_in(folder):
    """Return the bytes of each file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {file: file.read_bytes() for file in files if "__pycache__" not in file.parts}


def run_script(project, *arguments, **options):
    """Run the script as a user does; return the finished process."""
    command = [sys.executable, project / "generate_dataset.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


@pytest.fixture
def few_pets(project):
    """Return `project` with two drawn photos of each of three breeds."""
    draw_dataset(project, 6)
    return project


# Rows, and reasons for none


def test_rows_are_what_was_drawn(pets, generate_dataset, capsys):
    drawn = {}
    for xml in (pets / "annotations/xmls").iterdir():
        name = xml.stem.rpartition("_")[0]
        numbers = re.findall(r"<(?:width|height|.min|.max)>(\d+)<", xml.read_text())
        drawn[f"images/{xml.stem}.jpg"] = [*numbers, name, str(sorted(BREEDS).index(name))]
    rows = make_rows(generate_dataset)
    assert {path: list(row.values())[1:] for path, row in rows.items()} == drawn
    assert "warning" not in capsys.readouterr().err, "no photo looks like another"
    validation = read_csvs(pets)[1]
    generate_dataset.SEED = 1
    assert make_rows(generate_dataset) == rows
    assert read_csvs(pets)[1] != validation


def test_a_box_up_to_a_pixel_outside_is_clipped(project, generate_dataset):
    add_pet(project, boxes=[(-1, -0.5, 101, 80.5)])
    assert read_row(generate_dataset)[3:7] == (0, 0, *SIZE)


def test_constants_that_would_be_silently_wrong(few_pets, generate_dataset, capsys):
    generate_dataset.SPLIT_RATIO = 80
    with pytest.raises(AssertionError, match="a share"):
        generate_dataset.main()
    generate_dataset.SPLIT_RATIO, generate_dataset.CLASS_FROM = 0.8, "objects"
    with pytest.raises(KeyError, match="objects"):
        generate_dataset.main()
    generate_dataset.CLASS_FROM, generate_dataset.CLASSES_KEPT = "object", ["Cat"]
    assert "Too few usable photos" in message_of(generate_dataset.main)
    assert "not in CLASSES_KEPT: cat" in capsys.readouterr().err
    assert not list(few_pets.glob("*.csv"))


def test_every_xml_becomes_a_row_or_a_reason_and_other_files_do_not(few_pets):
    xmls = few_pets / "annotations/xmls"
    (xmls / "more").mkdir()
    for place in ("annotations/xmls/Amber_Cat_8.XML", "annotations/xmls/more/Amber_Cat_9.xml"):
        add_pet(few_pets, Path(place).stem)[1].rename(few_pets / place)
    for name in ("annotations/xmls/._Amber_Cat_1.xml", "images/._Amber_Cat_1.jpg", "images/a.mat"):
        (few_pets / name).write_bytes(b"\0\1")
    text = (xmls / "Amber_Cat_1.xml").read_text()
    (xmls / "a.xml").write_text(text.replace("Amber_Cat_1", "a"))
    (xmls / "second.xml").write_text(text)
    for name in ("Amber_Cat_2", "grey_cat_2"):
        photo = few_pets / f"images/{name}.jpg"
        photo.write_bytes(photo.read_bytes()[:-500])
    done = run_script(few_pets)
    assert done.returncode == 0, done.stderr
    assert sum(map(len, read_csvs(few_pets))) == 6
    reasons = ["the photo cannot be read", "the photo is missing"]
    assert re.findall(r"^ +(\d+)  skipped: (.*)$", done.stdout, re.M) == [*zip("22", reasons)]
    for name in ("Amber_Cat_2", "grey_cat_2", "second"):
        assert re.search(rf"skipped .*{name}\.xml: ", done.stderr)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("<xmin>10<", "<xmin>ten<", "could not convert string to float"),
        ("<bndbox>.*</bndbox>", "<polygon><x1>10</x1></polygon>", "a polygon perhaps"),
        ("<xmin>10<", "<xmin>71<", "the box is inverted or within a pixel"),
        ("<ymax>70<", "<ymax>20.9<", "within a pixel"),
        ("<xmin>10.*70<", "<xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1<", "within a pixel"),
        ("<xmin>10<", "<xmin>-1.1<", "the box is outside of the photo"),
        ("<width>100<", "<width>200<", "the XML's size is not the photo's"),
        ("<name>cat<", "<name> <", "no class by CLASS_FROM"),
    ],
)
def test_reason_in_xml(project, generate_dataset, capsys, pattern, text, expected):
    _, xml = add_pet(project)
    replace_in(xml, pattern, text)
    generate_dataset.CLASS_FROM = "object"
    assert expected in reason(generate_dataset, capsys)


@pytest.mark.parametrize("bad", [(0, 0, 103, 80), (5, 5, 5, 5), ("", 1, 2, 3)])
def test_each_object_is_a_row_the_largest_first_and_a_bad_one_left_out(
    few_pets, generate_dataset, capsys, bad
):
    boxes = [(0, 0, 10, 10), BOX, (50, 50, 70, 60)]
    add_pet(few_pets, boxes=[bad, *boxes])
    generate_dataset.main()
    printed = capsys.readouterr().out
    assert "       1  objects left out: " in printed
    assert "       1  photos with several objects" in printed
    counts = re.search(r" objects  training  validation  class\n +(\d+) +(\d+) +(\d+)", printed)
    assert int(counts[1]) == int(counts[2]) + int(counts[3]) == 2 + 3, "of Amber cats"
    sides = [[row for row in rows if "Cat_9" in row["path"]] for rows in read_csvs(few_pets)]
    found = max(sides, key=len)
    assert [] in sides, "all of a photo are on one side"
    corners = [[float(row[name]) for name in generate_dataset.CORNERS] for row in found]
    assert np.array_equal(corners, [boxes[1], boxes[2], boxes[0]])


def test_photos_without_an_object_have_a_row_without_a_box(few_pets, generate_dataset, capsys):
    """From an XML without objects, and from a folder of photos; the pets stay as they are."""
    rows = make_rows(generate_dataset)
    empty = few_pets / "images/empty"  # with names of labelled photos
    empty.mkdir()
    for index in range(5):
        add_pet(few_pets, f"xml_{index}", boxes=[])
        draw_box().save(empty / f"{'xml_' if index else 'Amber_Cat_'}{index + 1}.jpg")
    generate_dataset.EMPTY_FOLDER = "emty"
    assert "emty is not a folder" in message_of(generate_dataset.main)
    generate_dataset.EMPTY_FOLDER = "images/empty"
    found = make_rows(generate_dataset)
    assert "      10  photos with no object" in capsys.readouterr().out
    empty = {path: list(found.pop(path).values())[1:] for path in {*found} - {*rows}}
    assert {*empty} >= {"images/xml_0.jpg", "images/empty/Amber_Cat_1.jpg"} and len(empty) == 10
    assert all(row == ["100", "80", "", "", "", "", "", ""] for row in empty.values())
    assert {path: row["class_id"] for path, row in found.items()} == {
        path: row["class_id"] for path, row in rows.items()
    }
    assert sum(row["class_name"] == "" for row in read_csvs(few_pets)[1]) == 3, "as stratified"


def test_largest_of_the_classes_kept(project, generate_dataset):
    _, xml = add_pet(project, boxes=[(0, 0, 90, 80), (1, 2, 9, 9), BOX])
    replace_in(xml, "cat(?=.*>0<)", "RBC")
    generate_dataset.CLASSES_KEPT, generate_dataset.CLASS_FROM = ["cat"], "object"
    assert read_row(generate_dataset)[3:] == (*BOX, "cat")


def test_a_size_that_is_a_pixel_off_or_missing(project, generate_dataset):
    photo, xml = add_pet(project)
    write_xml(xml, photo.name, (101, 79), [BOX])
    assert read_row(generate_dataset)[1:7] == (*SIZE, *BOX)
    replace_in(xml, "<size>.*</size>", "")
    assert read_row(generate_dataset)[1:7] == (*SIZE, *BOX)


# Photos of other formats, and turned ones


def test_photos_that_are_refused(project, generate_dataset, capsys, monkeypatch):
    photo, _ = add_pet(project, image=Image.new("I;16", SIZE, 40_000), format="PNG")
    assert not generate_dataset.read_rows()
    assert "more than 8 bits a channel, save it with 8" in capsys.readouterr().err
    draw_box().save(photo, "EPS")  # PostScript would start Ghostscript
    assert reason(generate_dataset, capsys) == "the photo cannot be read"
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
        draw_box().save(photo)
        assert reason(generate_dataset, capsys) == "the photo cannot be read"
    photo.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    for file in (photo, photo.with_suffix(".HEIC")):
        photo.rename(file)
        assert "is HEIC or AVIF, convert it to JPEG" in reason(generate_dataset, capsys)
        photo = file


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_photos(project, generate_dataset, capsys, file_format, orientation):
    """A box of the upright photo is as it is, one of the photo as it is stored is turned."""
    ambiguous = "1  photos are rotated by EXIF, and it is unclear whether their boxes are"
    _, xml = add_pet(project, **turned(orientation), format=file_format)
    assert read_row(generate_dataset)[1:7] == (*SIZE, *BOX)
    assert (ambiguous in capsys.readouterr().out) == (orientation < 5)
    if orientation < 5:
        return
    stored = turned(orientation)["image"]
    write_xml(xml, xml.stem, stored.size, [stored.getbbox()])
    assert read_row(generate_dataset)[1:7] == (*SIZE, *BOX)
    assert ambiguous not in capsys.readouterr().out
    write_xml(xml, xml.stem, (0, 0), [BOX])
    assert read_row(generate_dataset)[1:7] == (*SIZE, *BOX)
    assert ambiguous in capsys.readouterr().out
    write_xml(xml, xml.stem, (90, 100), [BOX])
    assert reason(generate_dataset, capsys) == "the XML's size is not the photo's"


# The split


@pytest.mark.parametrize(
    ("ratio", "counts", "validation_counts"),
    [
        (0.8, {"cat": 20, "dog": 10, "fox": 5}, {"cat": 4, "dog": 2, "fox": 1}),
        (0.8, {"cat": 2, "dog": 2, "fox": 2}, {"cat": 1, "dog": 1, "fox": 1}),
        (0.8, {"cat": 5, "dog": 40}, {"cat": 1, "dog": 8}),
        (0.8, {"cat": 1, "dog": 10}, {"dog": 2}),
    ],
)
def test_each_class_is_on_both_sides(generate_dataset, ratio, counts, validation_counts):
    generate_dataset.SPLIT_RATIO = ratio
    names = [name for name, count in counts.items() for _ in range(count)]
    rows = [generate_dataset.Row(str(i), *SIZE, *BOX, name) for i, name in enumerate(names)]
    training, validation = generate_dataset.split_rows(rows)
    assert sorted(training + validation) == sorted(rows)
    assert {row.class_name for row in training} == set(counts)
    assert Counter(row.class_name for row in validation) == validation_counts


def test_a_class_that_is_only_validated_is_left_out_and_told(few_pets, generate_dataset, capsys):
    generate_dataset.SPLIT_FROM_FOLDERS = True
    for place in ("train/Amber_Cat_8", "valid/Amber_Cat_9", "valid/fox_1"):
        add_pet(few_pets, place)
    assert len(make_rows(generate_dataset)) == 2
    assert "warning: class fox is only in training or only in val" in capsys.readouterr().err
    (few_pets / "images/valid/Amber_Cat_9.jpg").unlink()  # nothing that can be validated is left
    assert "Too few usable photos" in message_of(generate_dataset.main)


def test_films_are_told_of_and_kept_together(project, generate_dataset, capsys):
    random = np.random.default_rng(0)
    for film in range(3):
        photo = np.asarray(draw_pet(random, "Amber_Cat", 200, 150)[0])
        for frame in range(8):  # they differ by a shift and noise
            noise = random.normal(0, 8, photo.shape)
            image = np.clip(np.roll(photo, frame, 1) + noise, 0, 255).astype("uint8")
            image = Image.fromarray(image).resize(SIZE)
            add_pet(project, f"film{film}_{'aabbbbbb'[frame]}_{frame}", image=image)
    generate_dataset.CLASS_FROM = "object"
    generate_dataset.main()
    (line,) = re.findall("warning: .*", capsys.readouterr().err)
    assert re.match(r"warning: 5 of 5 validation photos resemble a training photo \(.*film", line)
    generate_dataset.GROUP_FROM = r"/film(\d)"
    written = set()
    for _ in range(2):
        generate_dataset.main()
        assert "warning" not in capsys.readouterr().err
        training, validation = ({row["path"][:12] for row in rows} for rows in read_csvs(project))
        assert (len(training), len(validation), len(training & validation)) == (2, 1, 0)
        written.add((project / "train.csv").read_bytes())
    assert len(written) == 1
    generate_dataset.GROUP_FROM = "/film0(_)"
    generate_dataset.main()
    assert "      16  photos in which GROUP_FROM finds no group" in capsys.readouterr().out
    for pattern in ("/film()", "nothing"):
        generate_dataset.GROUP_FROM = pattern
        assert "GROUP_FROM finds" in message_of(generate_dataset.main)


@pytest.mark.parametrize("seed", range(5))
def test_groups_leave_classes_on_both_sides(generate_dataset, seed):
    groups = {"a": "cat " * 9 + "dog", "b": "cat dog", "c": "dog", "d": "cat", "e": "dog dog"}
    rows = [
        generate_dataset.Row(f"{group}/{index}", *SIZE, *BOX, name)
        for group, names in groups.items()
        for index, name in enumerate(names.split())
    ]
    generate_dataset.GROUP_FROM, generate_dataset.SEED = "(.)/", seed
    training, validation = generate_dataset.split_rows(rows)
    assert sorted(training + validation) == sorted(rows)
    assert not {row.path[0] for row in training} & {row.path[0] for row in validation}
    for side in (training, validation):
        assert {row.class_name for row in side} == {"cat", "dog"}


@pytest.mark.parametrize("names", ["train validate test", "Train val other", "train test other"])
def test_split_from_folders(project, generate_dataset, capsys, names):
    generate_dataset.DATASET_FOLDER = str(project / "images")
    first, second, third = names.split()
    for index, folder in enumerate([first] * 6 + [second] * 2 + [third]):
        add_pet(project, f"{folder}/Amber_Cat_{index}")
    generate_dataset.SPLIT_FROM_FOLDERS = True
    generate_dataset.main()
    training, validation = read_csvs(project)
    assert {row["path"].split("/")[1] for row in training} == {first} and len(training) == 6
    assert {row["path"].split("/")[1] for row in validation} == {second} and len(validation) == 2
    assert "       1  photos of other folders left out" in capsys.readouterr().out


# Augmentation


@pytest.mark.oldest
def test_copies_are_as_the_csv_says_and_the_same_again(few_pets, generate_dataset, monkeypatch):
    generate_dataset.AUGMENTATION = True
    generate_dataset.AUGMENTATION_PER_IMAGE, generate_dataset.AUGMENTED_SIZE = 3, 64

    def make_files():
        shutil.rmtree(few_pets / "augmented", ignore_errors=True)
        generate_dataset.main()
        return {f: b for f, b in files_in(few_pets).items() if f.suffix in (".csv", ".jpg")}

    files = make_files()
    training, validation = read_csvs(few_pets)
    copies = training[3:]
    assert all(row["path"].startswith("images/") for row in training[:3] + validation)
    classes = {(row["class_name"], row["class_id"]) for row in training[:3]}
    assert {few_pets / row["path"] for row in copies} == {*few_pets.glob("augmented/*")}
    assert 3 < len(copies) <= 9
    for row in copies:
        assert (row["class_name"], row["class_id"]) in classes
        with Image.open(few_pets / row["path"]) as copy:
            assert (copy.format, copy.mode, copy.size) == ("JPEG", "RGB", (64, 64))

    assert make_files() == files
    with pytest.raises(FileExistsError, match="augmented"):
        generate_dataset.main()
    assert {f: b for f, b in files_in(few_pets).items() if f in files} == files
    assert {file: file.read_bytes() for file in files} == files, "the folder is there: it stays"


FORMATS = "GIF P, PNG P, PNG RGBA, PNG LA, JPEG CMYK, JPEG L, BMP RGB, WEBP RGB, TIFF RGB, MPO RGB"


@pytest.mark.parametrize("kind", [*FORMATS.split(", "), "JPEG turned"])
def test_boxes_follow_the_picture(project, generate_dataset, kind):
    """In photos of all formats, whatever the ending, the white part of a copy is its box."""
    file_format, mode = kind.split()
    options = turned(6) if mode == "turned" else {"image": draw_box(mode)}
    add_pet(project, format=file_format, **options)
    row = read_row(generate_dataset)
    assert row[1:7] == (*SIZE, *BOX)
    generate_dataset.AUGMENTATION_PER_IMAGE = 40
    small = row._replace(xmin=20, ymin=30, xmax=22, ymax=32)  # within, and often too small a pixel
    copies = generate_dataset.augment_photos([row, small])
    copies = [copy for copy in copies if copy.ymax - copy.ymin > 20]
    for copy in copies:
        with Image.open(project / copy.path) as image:
            ys, xs = np.nonzero(np.asarray(image).max(axis=2) > 127)
        extent = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.subtract(copy[3:7], extent)).max() <= 4, copy
    assert len({copy[3:7] for copy in copies}) == len(copies) > 6


# Archives


@pytest.fixture
def archives(project, generate_dataset, tmp_path_factory):
    """Write two archives with six drawn photos where the script downloads them; return the folder.

    Both have a member that would land outside of the folder in which they are unpacked.
    """
    source, server = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("server")
    draw_dataset(source, 6)
    for name in generate_dataset.ARCHIVES:
        with tarfile.open(server / name, "w:gz") as archive:
            archive.add(source / name.split(".")[0], name.split(".")[0])
            archive.addfile(tarfile.TarInfo("../../evil.txt"))
        generate_dataset.ARCHIVES[name] = hashlib.md5((server / name).read_bytes()).hexdigest()
    generate_dataset.ARCHIVES_ADDRESS = server.as_uri() + "/"
    return server


@pytest.mark.filterwarnings("ignore:Skipping invalid path")
@pytest.mark.parametrize("place", ["server", "project"])
def test_archives_are_unpacked(project, generate_dataset, archives, place):
    if place == "project":
        (project / "oxford_pets").mkdir()
        for archive in archives.iterdir():
            archive.rename(project / "oxford_pets" / archive.name)
    before = {path.name for path in project.iterdir()}
    assert len(make_rows(generate_dataset)) == 6
    made = {path.name for path in project.iterdir()} - before - {"__pycache__", "oxford_pets"}
    assert made == {"images", "annotations", "train.csv", "validation.csv"}
    assert not [*project.rglob("evil.txt"), *project.parent.glob("evil.txt")]
    shutil.rmtree(project / "images")  # XMLs that are there stay as they are
    (project / "annotations/xmls/Amber_Cat_1.xml").unlink()
    assert len(make_rows(generate_dataset)) == 5


@pytest.mark.filterwarnings("ignore:Skipping invalid path")
def test_missing_or_other_archive_touches_nothing(project, generate_dataset, archives):
    (project / "train.csv").write_bytes(b"old")
    images = archives / "images.tar.gz"
    images.unlink()  # as without a network
    message = message_of(generate_dataset.main)
    assert images.as_uri() in message and "make demo" in message
    with tarfile.open(images, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("images/evil.jpg"))
    assert "file hash does not match" in message_of(generate_dataset.main)
    assert (project / "train.csv").read_bytes() == b"old" and not (project / "images").exists()


@pytest.mark.parametrize("annotations", [None, "typo", "annotations/xmls"])
def test_no_folder_is_no_download(project, generate_dataset, annotations):
    generate_dataset.DATASET_FOLDER, generate_dataset.ANNOTATIONS_FOLDER = "typo", annotations
    assert "typo is not a folder: set DATASET_FOLDER" in message_of(generate_dataset.main)
    assert not (project / "typo").exists()


@pytest.mark.usefixtures("archives")
def test_a_server_that_is_silent(generate_dataset, monkeypatch):
    set_limit = socket.setdefaulttimeout
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: set_limit(seconds / 100))
    with socket.create_server(("127.0.0.1", 0)) as server:
        generate_dataset.ARCHIVES_ADDRESS = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert "timed out" in message_of(generate_dataset.main)
    set_limit(None)


# As users run it


def test_names_of_all_letters(project, generate_dataset):
    names = ["кошка", 'my "fat, old" cat', "猫 & 犬"]
    for name in names * 2:
        add_pet(project, f"{name}_{len([*project.glob('images/*')])}")
    for path, row in make_rows(generate_dataset).items():
        assert path.startswith(f"images/{row['class_name']}_")
        assert row["class_id"] == str(sorted(names).index(row["class_name"]))


def test_arguments_are_refused(few_pets):
    done = run_script(few_pets, "my_photos")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "takes no arguments: edit DATASET_FOLDER" in done.stderr


@pytest.mark.parametrize("augmentation", [False, True])
def test_a_full_disk_changes_no_csv(csvs, augmentation):
    constants = {"AUGMENTATION_PER_IMAGE": 2, "SEED": 1}
    edit(csvs / "generate_dataset.py", AUGMENTATION=augmentation, **constants)
    before = read_csvs(csvs)
    limit = (1000, 1000)  # bytes a file stand in for a disk
    done = run_script(csvs, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 1 and "too large" in done.stderr.splitlines()[-1]
    if augmentation:  # the copies that the older train.csv names may be overwritten by then
        assert not (csvs / "train.csv").exists()
    else:
        assert read_csvs(csvs) == before
