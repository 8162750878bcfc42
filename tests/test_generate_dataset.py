"""Tests of generate_dataset.py: what becomes a row, what does not, and what a stop leaves."""

import contextlib
import csv
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from draw_pets import BREEDS, draw_dataset, write_xml

COLUMNS = "path,width,height,xmin,ymin,xmax,ymax,class_name,class_id"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
UPRIGHT, BOX = (100, 80), (10, 20, 60, 70)  # the size and the box of add_pet's photo


def add_pet(project, stem="Amber_Cat_9", boxes=(BOX,), image=None, **save_options):
    """Write images/stem.jpg, of UPRIGHT's size, and its XML; return the paths of both."""
    photo = project / "images" / f"{stem}.jpg"
    xml = project / "annotations" / "xmls" / f"{stem}.xml"
    for file in (photo, xml):
        file.parent.mkdir(parents=True, exist_ok=True)
    image = image or Image.new("RGB", UPRIGHT, "orange")
    image.save(photo, **({"format": "JPEG"} | save_options))
    write_xml(xml, photo.name, UPRIGHT, boxes)
    return photo, xml


def add_pets(project, counts):
    """Write as many plain photos of each class as `counts` says."""
    for class_name, count in counts.items():
        for number in range(count):
            add_pet(project, f"{class_name}_{number}")


def replace_in(file, pattern, text):
    """Replace the one part of a text file that `pattern` matches."""
    changed, count = re.subn(pattern, lambda _: text, file.read_text("utf-8"), flags=re.M)
    assert count == 1, (pattern, count)
    file.write_text(changed, "utf-8")


def read_csv(file):
    """Return a CSV's rows as dictionaries of strings."""
    with open(file, newline="", encoding="utf-8") as csv_file:
        return list(csv.DictReader(csv_file))


def read_csvs(project):
    """Return the rows of train.csv and those of validation.csv."""
    return read_csv(project / "train.csv"), read_csv(project / "validation.csv")


def make_rows(generate_dataset):
    """Run main() and return all its photos' rows by their paths."""
    generate_dataset.main()
    training, validation = read_csvs(generate_dataset.ROOT)
    return {row["path"]: row for row in training + validation}


def read_box(row):
    return tuple(float(row[corner]) for corner in CORNERS)


def take_snapshot(folder):
    """Return the bytes of each file under `folder`, and None for each folder."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@contextlib.contextmanager
def all_files_stay(folder):
    """Check that a block of code adds, changes and removes nothing in `folder`."""
    before = take_snapshot(folder)
    yield
    assert take_snapshot(folder) == before


def stop_message(generate_dataset):
    """Run main(), which must stop; return the message that it stops with."""
    with pytest.raises(SystemExit) as stop:
        generate_dataset.main()
    return stop.value.code


def stop_line(generate_dataset):
    """Run main(), which must stop and leave all files as they are; return its one-line message."""
    with all_files_stay(generate_dataset.ROOT):
        message = stop_message(generate_dataset)
    assert "\n" not in message
    return message


def error_lines(text):
    """Return the lines on standard error that are not a progress bar."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    return [line for line in lines if line and not line.startswith(("checking", "augmenting"))]


def run_script(project, folder=None):
    """Run the script as a user does; return the finished process."""
    command = [sys.executable, str(project / "generate_dataset.py")]
    return subprocess.run(
        command, cwd=folder or project, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def few_pets(project):
    """Return `project` with two drawn photos of each of three breeds."""
    draw_dataset(project, 6)
    return project


@pytest.fixture
def old_files(project):
    """Leave an older run's CSVs and augmented copy in `project`."""
    for name in ("train.csv", "validation.csv", "augmented/00000_00.jpg"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_bytes(b"old")


@pytest.fixture
def without_workers(generate_dataset, monkeypatch):
    """Augment in this process: faster, and it sees what a test has replaced."""
    executor = SimpleNamespace(map=map, shutdown=lambda cancel_futures: None)
    monkeypatch.setattr(generate_dataset, "ProcessPoolExecutor", lambda *_: executor)
    generate_dataset.AUGMENTATION = True
    generate_dataset.AUGMENTATION_PER_IMAGE = 3
    generate_dataset.AUGMENTED_SIZE = 64
    return generate_dataset


def use_geometric_steps(generate_dataset, monkeypatch):
    """Leave the photos' colours as they are, and turn no box's corners away from its extent."""
    from imgaug import augmenters

    steps = [augmenters.Affine(scale=(0.4, 1.2)), augmenters.Crop(percent=(0, 0.1))]
    flips = [augmenters.Fliplr(0.5), augmenters.Flipud(0.5)]
    sequence = augmenters.Sequential(steps + flips)
    monkeypatch.setattr(generate_dataset, "create_augmenter", lambda: sequence)


# Rows and the split


def test_rows_are_what_was_drawn(pets, generate_dataset):
    drawn = {}
    for xml in (pets / "annotations" / "xmls").iterdir():
        class_id = sorted(BREEDS).index(xml.stem.rpartition("_")[0])
        numbers = re.findall(r"<(?:width|height|.min|.max)>(\d+)<", xml.read_text())
        drawn[f"images/{xml.stem}.jpg"] = [*numbers, sorted(BREEDS)[class_id], str(class_id)]
    rows = make_rows(generate_dataset)
    assert {path: list(row.values())[1:] for path, row in rows.items()} == drawn


@pytest.mark.parametrize("name", ["train.csv", "validation.csv"])
def test_columns(few_pets, generate_dataset, name):
    generate_dataset.main()
    assert (few_pets / name).read_text("utf-8").splitlines()[0] == COLUMNS


def test_class_from_object(few_pets, generate_dataset):
    generate_dataset.CLASS_FROM = "object"
    for row in make_rows(generate_dataset).values():
        is_dog = "beagle" in row["path"]
        assert (row["class_name"], row["class_id"]) == (("cat", "0"), ("dog", "1"))[is_dog]


@pytest.mark.parametrize(
    ("counts", "validation_counts"),
    [
        ({"cat": 10, "dog": 10}, {"cat": 2, "dog": 2}),
        ({"cat": 20, "dog": 10, "fox": 5}, {"cat": 4, "dog": 2, "fox": 1}),
        ({"cat": 2, "dog": 2, "fox": 2}, {"cat": 1, "dog": 1, "fox": 1}),
    ],
)
def test_split_keeps_the_proportion_of_classes(
    project, generate_dataset, counts, validation_counts
):
    add_pets(project, counts)
    rows = make_rows(generate_dataset)
    training, validation = read_csvs(project)
    assert len(rows) == len(training) + len(validation) == sum(counts.values())
    assert Counter(row["class_name"] for row in validation) == validation_counts


@pytest.mark.parametrize("ratio", [0.8, 0.2])
def test_rare_class_is_on_both_sides(project, generate_dataset, ratio):
    add_pets(project, {"rare_cat": 2, "dog": 40})
    generate_dataset.SPLIT_RATIO = ratio
    generate_dataset.main()
    for rows in read_csvs(project):
        assert {row["class_name"] for row in rows} == {"rare_cat", "dog"}


def test_names_with_special_characters(project, generate_dataset):
    classes = ['my "fat, old" cat', "кошка", "猫 & 犬", "l'été", "two  spaces"]
    add_pets(project, dict.fromkeys(classes, 2))
    rows = make_rows(generate_dataset)
    assert set(rows) == {f"images/{name}_{number}.jpg" for name in classes for number in (0, 1)}
    for path, row in rows.items():
        assert path.startswith(f"images/{row['class_name']}_")
        assert row["class_id"] == str(sorted(classes).index(row["class_name"]))


def test_photos_elsewhere(few_pets, generate_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for photo in (few_pets / "images").iterdir():
        os.replace(photo, folder / photo.name)
    generate_dataset.DATASET_FOLDER = str(folder)
    assert set(make_rows(generate_dataset)) == {path.as_posix() for path in folder.iterdir()}


def test_photos_in_subfolders(few_pets, generate_dataset):
    (few_pets / "images" / "home").mkdir()
    photo, xml = add_pet(few_pets)
    photo.rename(photo.parent / "home" / photo.name)
    replace_in(xml, photo.name, f"home/{photo.name}")
    assert f"images/home/{photo.name}" in make_rows(generate_dataset)


@pytest.mark.parametrize("place", ["images", "annotations/xmls/more"])
@pytest.mark.parametrize("ending", [".xml", ".XML"])
def test_xmls_are_found(few_pets, generate_dataset, place, ending):
    _, xml = add_pet(few_pets)
    (few_pets / place).mkdir(exist_ok=True)
    xml.rename(few_pets / place / f"{xml.stem}{ending}")
    assert f"images/{xml.stem}.jpg" in make_rows(generate_dataset)


def test_other_files_are_no_errors(few_pets, generate_dataset, capsys):
    for name in ("annotations/xmls/._Amber_Cat_1.xml", "images/._Amber_Cat_1.jpg", "images/a.mat"):
        (few_pets / name).write_bytes(b"\0\1")
    (few_pets / "images" / "no_xml_1.jpg").write_bytes(b"")
    assert len(make_rows(generate_dataset)) == 6
    printed = capsys.readouterr()
    assert error_lines(printed.err) == []
    assert "skipped" not in printed.out


def test_largest_of_several_boxes(few_pets, generate_dataset, capsys):
    add_pet(few_pets, boxes=[(0, 0, 10, 10), BOX, (50, 50, 60, 60)])
    assert read_box(make_rows(generate_dataset)["images/Amber_Cat_9.jpg"]) == BOX
    assert "       1  photos with several objects" in capsys.readouterr().out


# Reasons


def check_reason(generate_dataset, capsys, reason, name="Amber_Cat_9.xml", rows=6):
    """Run main() and check that one XML is skipped, with this reason, and the others are not."""
    assert len(make_rows(generate_dataset)) == rows
    printed = capsys.readouterr()
    (line,) = error_lines(printed.err)
    assert name in line
    assert f": {reason}" in line
    assert f"       1  skipped: {reason}" in printed.out.splitlines()
    assert printed.out.count("skipped") == 1


@pytest.mark.parametrize(
    ("pattern", "text", "reason"),
    [
        ("<annotation>", "<annotation", "not XML"),
        ("</annotation>", "", "not XML"),
        ("<annotation>", '<?xml version="1.0" encoding="pet"?><annotation>', "not XML"),
        ("<filename>.*</filename>", "", "no file name"),
        ("Amber_Cat_9.jpg", " ", "no file name"),
        ("<size>.*</size>", "", "no size or box"),
        ("<height>80</height>", "", "no size or box"),
        ("<bndbox>.*</bndbox>", "", "no size or box"),
        ("<object>.*</object>", "", "no size or box"),
        ("<ymax>70<", "<ymax> <", "no size or box"),
        ("<xmin>10<", "<xmin>abc<", "a number is not a number"),
        ("<xmin>10<", "<xmin>nan<", "a number is not a number"),
        ("<ymax>70<", "<ymax>inf<", "a number is not a number"),
        ("<width>100<", "<width>wide<", "a number is not a number"),
        ("<xmin>10<", "<xmin>61<", "the box is inverted"),
        ("<ymax>70<", "<ymax>19<", "the box is inverted"),
        ("<xmin>10<", "<xmin>60<", "the box is empty"),
        ("<ymax>70<", "<ymax>20<", "the box is empty"),
        ("<xmin>10<", "<xmin>-1.1<", "the box is outside of the photo"),
        ("<ymin>20<", "<ymin>-2<", "the box is outside of the photo"),
        ("<xmax>60<", "<xmax>101.1<", "the box is outside of the photo"),
        ("<ymax>70<", "<ymax>82<", "the box is outside of the photo"),
        ("<width>100<.*<xmax>60<", "<width>200</width><height>80</height></size><object><bndbox>"
         "<xmin>10</xmin><ymin>20</ymin><xmax>150<", "the XML's size is not the photo's"),
        ("Amber_Cat_9.jpg", "../x.jpg", "the file name leaves DATASET_FOLDER"),
        ("Amber_Cat_9.jpg", "a/../../images_2/x.jpg", "the file name leaves DATASET_FOLDER"),
        ("Amber_Cat_9.jpg", "..\\x.jpg", "the file name leaves DATASET_FOLDER"),
        ("Amber_Cat_9.jpg", "../images/Amber_Cat_9.jpg", "the file name leaves DATASET_FOLDER"),
        ("Amber_Cat_9.jpg", "/x.jpg", "the photo is missing"),
        ("Amber_Cat_9.jpg", "Amber_Cat_10.jpg", "the photo is missing"),
        ("Amber_Cat_9.jpg", ".", "the photo is missing"),
        ("Amber_Cat_9.jpg", "a" * 300, "the photo is missing"),
    ],
)  # fmt: skip
def test_reason_in_xml(few_pets, generate_dataset, capsys, pattern, text, reason):
    _, xml = add_pet(few_pets)
    replace_in(xml, pattern, text)
    check_reason(generate_dataset, capsys, reason)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "the photo is empty"),
        (lambda content: b"This is no photo.", "the photo does not decode"),
        (lambda content: content[:20], "the photo does not decode"),
        (lambda content: content[: len(content) // 2], "the photo does not decode"),
        (lambda content: content[:-40], "the photo does not decode"),
    ],
    ids=["empty", "text", "header", "half", "almost"],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF"])
def test_reason_in_photo(few_pets, generate_dataset, capsys, damage, reason, file_format):
    noise = np.random.default_rng(0).integers(0, 255, (80, 100, 3), "uint8")
    photo, _ = add_pet(few_pets, image=Image.fromarray(noise), format=file_format)
    photo.write_bytes(damage(photo.read_bytes()))
    check_reason(generate_dataset, capsys, reason)


def test_folder_named_as_a_photo(few_pets, generate_dataset, capsys):
    photo, _ = add_pet(few_pets)
    photo.unlink()
    photo.mkdir()
    check_reason(generate_dataset, capsys, "the photo is missing")


def test_second_xml_for_the_same_photo(few_pets, generate_dataset, capsys):
    _, xml = add_pet(few_pets)
    second = xml.with_name("second.xml")
    second.write_text(xml.read_text().replace("Amber_Cat_9.jpg", "./Amber_Cat_9.jpg"))
    check_reason(generate_dataset, capsys, "a second XML for the same photo", second.name, 7)


@pytest.mark.parametrize("stem", ["nounderscore", "_9"])
def test_no_class_in_the_file_name(few_pets, generate_dataset, capsys, stem):
    add_pet(few_pets, stem)
    check_reason(generate_dataset, capsys, "no class", f"{stem}.xml")


def test_no_class_in_the_object(few_pets, generate_dataset, capsys):
    generate_dataset.CLASS_FROM = "object"
    replace_in(add_pet(few_pets)[1], "<name>cat</name>", "")
    check_reason(generate_dataset, capsys, "no class")


def test_every_xml_becomes_a_row_or_a_reason(pets, generate_dataset, capsys):
    photos = sorted((pets / "images").iterdir())
    photos[0].unlink()
    for photo in photos[5:8]:
        photo.write_bytes(b"")
    rows = make_rows(generate_dataset)
    counts = re.findall(r"^ +(\d+)  skipped: (.*)$", capsys.readouterr().out, re.M)
    assert counts == [("3", "the photo is empty"), ("1", "the photo is missing")]
    assert len(rows) == 26


def test_up_to_a_pixel_is_clipped(few_pets, generate_dataset, capsys):
    add_pet(few_pets, boxes=[(-1, -0.5, 101, 80.5)])
    assert read_box(make_rows(generate_dataset)["images/Amber_Cat_9.jpg"]) == (0, 0, 100, 80)
    assert error_lines(capsys.readouterr().err) == []


def test_wrong_size_in_xml_but_the_box_fits(few_pets, generate_dataset):
    replace_in(add_pet(few_pets)[1], "<width>100<", "<width>500<")
    row = make_rows(generate_dataset)["images/Amber_Cat_9.jpg"]
    assert (row["width"], row["height"], read_box(row)) == ("100", "80", BOX)


# Photos of other formats, and turned ones


def draw_halves(mode="RGB"):
    """Return a picture of UPRIGHT's size that is dark on the left and bright on the right."""
    halves = np.full(UPRIGHT[::-1], 40, "uint8")
    halves[:, UPRIGHT[0] // 2 :] = 200
    return Image.fromarray(halves).convert(mode)


def test_photos_with_16_bits_are_skipped(few_pets, generate_dataset, capsys):
    grey = Image.fromarray(np.full(UPRIGHT[::-1], 40000, "uint16"))
    add_pet(few_pets, image=grey, format="PNG")
    generate_dataset.main()
    assert "more than 8 bits" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["right", "jpg"])
@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        ("GIF", "P"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "L"),
        ("PNG", "LA"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("BMP", "RGB"),
        ("WEBP", "RGB"),
    ],
)
def test_formats(
    few_pets, without_workers, monkeypatch, capsys, tmp_path_factory, file_format, mode, ending
):
    photo, xml = add_pet(few_pets, image=draw_halves(mode), format=file_format)
    if ending == "right":
        replace_in(xml, photo.name, f"Amber_Cat_9.{file_format.lower()}")
        photo = photo.rename(photo.with_suffix(f".{file_format.lower()}"))
    without_workers.AUGMENTATION = False
    row = make_rows(without_workers)[f"images/{photo.name}"]
    assert (row["width"], row["height"], error_lines(capsys.readouterr().err)) == ("100", "80", [])

    row, _ = without_workers.read_row(xml)
    from imgaug import augmenters

    monkeypatch.setattr(without_workers, "create_augmenter", augmenters.Identity)
    folder = tmp_path_factory.mktemp("copies")
    copies = without_workers.augment_photo(row, 0, folder)
    assert len(copies) == 3
    with Image.open(folder / "00000_00.jpg") as copy:
        assert (copy.format, copy.mode, copy.size) == ("JPEG", "RGB", (64, 64))
        pixels = np.asarray(copy)
    assert np.abs(pixels[:, :28] - 40.0).max() < 12
    assert np.abs(pixels[:, 36:] - 200.0).max() < 12


def add_turned_pet(project, orientation, **options):
    """Add a photo whose pixels lie so that this EXIF orientation makes it upright."""
    turns = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,  # viewers turn it back, clockwise
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = draw_box()
    if orientation in turns:
        image = image.transpose(turns[orientation])
    return add_pet(project, image=image, exif=exif, quality=95, **options)


def draw_box():
    """Return a black picture with a white rectangle exactly on BOX."""
    image = Image.new("RGB", UPRIGHT)
    xmin, ymin, xmax, ymax = BOX
    ImageDraw.Draw(image).rectangle((xmin, ymin, xmax - 1, ymax - 1), fill="white")
    return image


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_photo_with_upright_size(few_pets, generate_dataset, orientation):
    photo, _ = add_turned_pet(few_pets, orientation)
    with Image.open(photo) as image:
        assert image.size == (UPRIGHT if orientation < 5 else UPRIGHT[::-1])
    row = make_rows(generate_dataset)["images/Amber_Cat_9.jpg"]
    assert (row["width"], row["height"], read_box(row)) == ("100", "80", BOX)


def test_turned_photo_with_stored_size(few_pets, generate_dataset, capsys):
    _, xml = add_turned_pet(few_pets, 6)
    write_xml(xml, "Amber_Cat_9.jpg", UPRIGHT[::-1], [(10, 10, 50, 50)])
    reason = "the box was drawn on the photo as it lies, before its EXIF turn"
    check_reason(generate_dataset, capsys, reason)


# Too few photos


def test_class_with_one_photo_is_trained_on(few_pets, generate_dataset, capsys):
    add_pet(few_pets, "lonely_fox_1")
    generate_dataset.main()
    training, validation = read_csvs(few_pets)
    assert "images/lonely_fox_1.jpg" in [row["path"] for row in training]
    assert {row["class_name"] for row in validation} == set(BREEDS)
    (line,) = error_lines(capsys.readouterr().err)
    assert "warning" in line
    assert "lonely_fox" in line


@pytest.mark.usefixtures("old_files")
def test_only_classes_with_one_photo(project, generate_dataset):
    add_pets(project, {"cat": 1, "dog": 1})
    assert "two usable photos" in stop_line(generate_dataset)


@pytest.mark.usefixtures("old_files")
def test_nothing_usable(few_pets):
    for photo in (few_pets / "images").iterdir():
        photo.write_bytes(b"")
    with all_files_stay(few_pets):
        process = run_script(few_pets)
    assert process.returncode == 1
    assert "usable" in error_lines(process.stderr)[-1]
    assert "Traceback" not in process.stderr
    assert "       6  skipped: the photo is empty" in process.stdout.splitlines()


# The same input, the same output


@pytest.mark.parametrize("change", ["workers", "order"])
def test_same_csvs(pets, generate_dataset, monkeypatch, change):
    generate_dataset.main()
    csvs = [(pets / name).read_bytes() for name in ("train.csv", "validation.csv")]
    if change == "workers":
        generate_dataset.WORKERS = 1
    else:
        find = Path.rglob
        monkeypatch.setattr(Path, "rglob", lambda *arguments: reversed(list(find(*arguments))))
    generate_dataset.main()
    assert csvs == [(pets / name).read_bytes() for name in ("train.csv", "validation.csv")]


def test_another_seed_is_another_split(pets, generate_dataset):
    generate_dataset.main()
    first = (pets / "validation.csv").read_bytes()
    generate_dataset.SEED = 1
    generate_dataset.main()
    assert (pets / "validation.csv").read_bytes() != first


def test_augmentation_with_real_workers(few_pets, without_workers, monkeypatch):
    """One process and two give the same bytes as this one; another seed gives others."""

    def make_files():
        without_workers.main()
        files = take_snapshot(few_pets)
        return {path: files[path] for path in files if path.suffix in (".csv", ".jpg")}

    files = make_files()
    assert len(files) > 6 + 2
    without_workers.SEED = 1
    assert make_files() != files
    without_workers.SEED = 0
    monkeypatch.setattr(without_workers, "ProcessPoolExecutor", ProcessPoolExecutor)
    for workers in (1, 2):
        without_workers.WORKERS = workers
        assert make_files() == files


# Interrupts


@pytest.mark.usefixtures("old_files")
@pytest.mark.parametrize(
    ("name", "call"),
    [("read_row", 3), ("split_rows", 1), ("augment_photo", 2), ("write_csv", 1), ("write_csv", 2)],
)
def test_interrupt_leaves_the_old_files(few_pets, without_workers, monkeypatch, name, call):
    calls = []
    original = getattr(without_workers, name)

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)  # reaches the main thread, as Ctrl-C does
        return original(*arguments)

    monkeypatch.setattr(without_workers, name, interrupt)
    with all_files_stay(few_pets), pytest.raises(KeyboardInterrupt):
        without_workers.main()


def test_interrupt_leaves_the_other_photos_unread(pets, generate_dataset, monkeypatch):
    calls = []

    def read_slowly(xml_file):
        calls.append(xml_file)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        raise generate_dataset.UnusableError("slow")

    monkeypatch.setattr(generate_dataset, "read_row", read_slowly)
    with pytest.raises(KeyboardInterrupt):
        generate_dataset.main()
    assert len(calls) < 30


# Augmentation


def test_augmented_rows(pets, without_workers):
    without_workers.main()
    training, validation = read_csvs(pets)
    photos = [row for row in training if row["path"].startswith("images/")]
    copies = [row for row in training if row["path"].startswith("augmented/")]
    assert len(photos) == 24
    assert len(photos) + len(copies) == len(training)
    assert all(row["path"].startswith("images/") for row in validation)
    assert {row["path"] for row in copies} == {
        f"augmented/{file.name}" for file in (pets / "augmented").iterdir()
    }
    of_photos = Counter(row["path"].rpartition("_")[0] for row in copies)
    assert set(of_photos.values()) <= {1, 2, 3}
    assert len(copies) > 24
    for row in copies:
        xmin, ymin, xmax, ymax = read_box(row)
        assert 0 <= xmin < xmax <= 64
        assert 0 <= ymin < ymax <= 64
        assert (row["width"], row["height"]) == ("64", "64")
        with Image.open(pets / row["path"]) as copy:
            assert (copy.format, copy.mode, copy.size) == ("JPEG", "RGB", (64, 64))
    classes = {row["class_name"]: row["class_id"] for row in photos}
    assert {row["class_name"]: row["class_id"] for row in copies} == classes


def test_each_photo_is_changed_in_its_own_way(few_pets, without_workers):
    row, _ = without_workers.read_row(add_pet(few_pets)[1])
    copies = [without_workers.augment_photo(row, number, few_pets) for number in (0, 1)]
    first, second = ({copy[3:7] for copy in copies_of_photo} for copies_of_photo in copies)
    assert first
    assert second
    assert first.isdisjoint(second)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("steps", "tolerance"), [("geometric", 1.5), ("all", 4)])
def test_boxes_follow_the_picture(
    project, without_workers, monkeypatch, orientation, steps, tolerance
):
    without_workers.AUGMENTATION_PER_IMAGE, without_workers.AUGMENTED_SIZE = 50, 224
    if steps == "geometric":
        use_geometric_steps(without_workers, monkeypatch)
    row, _ = without_workers.read_row(add_turned_pet(project, orientation)[1])
    (project / "augmented").mkdir()
    copies = without_workers.augment_photo(row, 0, project / "augmented")
    assert len(copies) > 8
    assert len({copy[3:7] for copy in copies}) > 8
    for copy in copies:
        with Image.open(project / copy.path) as image:
            ys, xs = np.nonzero(np.asarray(image).max(axis=2) > 127)
        extent = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.subtract(copy[3:7], extent)).max() <= tolerance, copy


@pytest.mark.parametrize("debug", [False, True])
def test_debug_draws_a_green_box(few_pets, without_workers, monkeypatch, debug):
    use_geometric_steps(without_workers, monkeypatch)
    without_workers.AUGMENTATION_DEBUG = debug
    row, _ = without_workers.read_row(add_pet(few_pets, image=draw_box())[1])
    (copy, *_) = without_workers.augment_photo(row, 0, few_pets)
    with Image.open(few_pets / Path(copy.path).name) as image:
        pixels = np.asarray(image).astype(int)
    x, y = int(copy.xmin), int((copy.ymin + copy.ymax) / 2)  # the middle of the left side
    red, green, blue = pixels[y, x : x + 2].mean(axis=0)
    assert (green > red + 60 and green > blue + 60) == debug


def test_second_run_replaces_older_copies(few_pets, without_workers):
    without_workers.main()
    (few_pets / "augmented" / "99999_00.jpg").write_bytes(b"older")
    without_workers.AUGMENTATION_PER_IMAGE = 1
    without_workers.main()
    names = {file.name for file in (few_pets / "augmented").iterdir()}
    assert names == {Path(row["path"]).name for row in read_csv(few_pets / "train.csv")[3:]}
    assert all(name.endswith("_00.jpg") for name in names)


@pytest.mark.parametrize(
    "name", ["augmented/my_cat.jpg", "augmented/more/00000_00.jpg", "augmented"]
)
def test_augmented_folder_with_other_files(few_pets, without_workers, name):
    (few_pets / name).parent.mkdir(exist_ok=True, parents=True)
    (few_pets / name).write_bytes(b"precious")
    assert "AUGMENTED_FOLDER" in stop_line(without_workers)


@pytest.mark.usefixtures("few_pets", "old_files")
def test_imgaug_that_does_not_import(without_workers, monkeypatch):
    monkeypatch.setitem(sys.modules, "imgaug", None)
    message = stop_line(without_workers)
    assert "imgaug" in message
    assert "pip " in message


# Mistakes in the constants


@pytest.mark.usefixtures("few_pets", "old_files")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATASET_FOLDER", 5),
        ("ANNOTATIONS_FOLDER", ""),
        ("DOWNLOAD", "no"),
        ("AUGMENTATION", 1),
        ("SPLIT_RATIO", 1.5),
        ("SPLIT_RATIO", 0),
        ("SPLIT_RATIO", "0.8"),
        ("CLASS_FROM", "breed"),
        ("WORKERS", 0),
        ("AUGMENTATION_PER_IMAGE", 0),
        ("AUGMENTATION_PER_IMAGE", 2.5),
        ("AUGMENTED_SIZE", 0),
        ("SEED", -1),
        ("VALIDATION_CSV", "train.csv"),
        ("VALIDATION_CSV", "./train.csv"),
        ("VALIDATION_CSV", "images"),
        ("TRAIN_CSV", "images"),
    ],
)
def test_wrong_constant(without_workers, name, value):
    setattr(without_workers, name, value)
    assert name in stop_line(without_workers)


@pytest.mark.usefixtures("few_pets", "old_files")
@pytest.mark.parametrize("name", ["TRAIN_CSV", "VALIDATION_CSV", "AUGMENTED_FOLDER"])
def test_output_in_a_new_folder(project, without_workers, name):
    """Made or a mistake, either will do, but a stop leaves the old files and has a message."""
    setattr(without_workers, name, "new/output")
    before = take_snapshot(project)
    try:
        without_workers.main()
    except SystemExit as stop:
        assert name in stop.code
        assert take_snapshot(project) == before
    else:
        assert (project / "new" / "output").exists()


# Archives


def make_archives(project, tmp_path_factory, hostile_member=None):
    """Write the dataset's two archives, with six drawn photos, into the project folder."""
    source = tmp_path_factory.mktemp("source")
    draw_dataset(source, 6)
    for name in ("images", "annotations"):
        with tarfile.open(project / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(source / name, name)
            if hostile_member:
                member = tarfile.TarInfo(hostile_member)
                member.size = 4
                archive.addfile(member, io.BytesIO(b"evil"))


def serve_archives(project, generate_dataset, tmp_path_factory):
    """Move the project's archives to where they are downloaded from."""
    server = tmp_path_factory.mktemp("server")
    for name in generate_dataset.ARCHIVES:
        os.replace(project / name, server / name)
        md5 = hashlib.md5((server / name).read_bytes()).hexdigest()
        generate_dataset.ARCHIVES[name] = md5
    generate_dataset.ARCHIVES_ADDRESS = server.as_uri() + "/"


@pytest.mark.parametrize("download", [False, True])
def test_archives_in_the_project_folder(project, generate_dataset, tmp_path_factory, download):
    make_archives(project, tmp_path_factory)
    generate_dataset.DOWNLOAD = download
    before = take_snapshot(project)
    assert len(make_rows(generate_dataset)) == 6
    after = take_snapshot(project)
    assert after.items() >= before.items()
    made = {path.relative_to(project).parts[0] for path in set(after) - set(before)}
    assert made == {"images", "annotations", "train.csv", "validation.csv"}


@pytest.mark.filterwarnings("ignore:Skipping invalid path")
@pytest.mark.parametrize("member", ["../evil.txt", "../../evil.txt", "absolute"])
def test_archive_cannot_write_elsewhere(project, generate_dataset, tmp_path_factory, member):
    outside = tmp_path_factory.mktemp("outside") / "evil.txt"
    make_archives(project, tmp_path_factory, str(outside) if member == "absolute" else member)
    assert len(make_rows(generate_dataset)) == 6
    assert not outside.exists()
    assert not (project.parent / "evil.txt").exists()
    assert not list(project.rglob("evil.txt"))


@pytest.mark.filterwarnings("ignore:Could not extract archive")
@pytest.mark.usefixtures("old_files")
@pytest.mark.parametrize("damage", ["half", "text", "other folders"])
@pytest.mark.parametrize("name", ["images.tar.gz", "annotations.tar.gz"])
def test_broken_archive(project, generate_dataset, tmp_path_factory, name, damage):
    make_archives(project, tmp_path_factory)
    whole = (project / name).read_bytes()
    if damage == "half":
        (project / name).write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        (project / name).write_bytes(b"404: not found")
    else:
        tarfile.open(project / name, "w:gz").close()
    message = stop_message(generate_dataset)
    assert name in message
    assert not (project / "images").exists()
    assert not list(project.glob("unpacking-*"))
    assert (project / "train.csv").read_bytes() == b"old"

    (project / name).write_bytes(whole)
    assert len(make_rows(generate_dataset)) == 6


@pytest.mark.usefixtures("old_files")
def test_no_network(project, generate_dataset):
    generate_dataset.ARCHIVES_ADDRESS = address = "http://127.0.0.1:9/"
    with all_files_stay(project):
        message = stop_message(generate_dataset)
    for part in (f"{address}images.tar.gz", f"{address}annotations.tar.gz", str(project)):
        assert part in message
    assert "make demo" in message


def test_download(project, generate_dataset, tmp_path_factory):
    make_archives(project, tmp_path_factory)
    serve_archives(project, generate_dataset, tmp_path_factory)
    assert len(make_rows(generate_dataset)) == 6
    assert not list(project.glob("*.tar.gz"))
    assert not list(project.glob("unpacking-*"))


@pytest.mark.parametrize(
    ("name", "whole"), [("annotations.tar.gz", set()), ("images.tar.gz", {"annotations"})]
)
def test_download_of_other_bytes(project, generate_dataset, tmp_path_factory, name, whole):
    make_archives(project, tmp_path_factory)
    serve_archives(project, generate_dataset, tmp_path_factory)
    generate_dataset.ARCHIVES[name] = "0" * 32
    before = set(project.iterdir())
    assert name in stop_message(generate_dataset)
    assert {
        path.name for path in set(project.iterdir()) - before - {project / "__pycache__"}
    } == whole


@pytest.mark.usefixtures("old_files")
def test_no_dataset_and_no_download(generate_dataset):
    generate_dataset.DOWNLOAD = False
    assert "DOWNLOAD" in stop_line(generate_dataset)


# As users run it


def test_runs_from_another_folder(few_pets, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    process = run_script(few_pets, elsewhere)
    assert process.returncode == 0, process.stderr
    assert error_lines(process.stderr) == []
    assert sum(map(len, read_csvs(few_pets))) == 6
    assert list(elsewhere.iterdir()) == []


def set_constants(project, constants):
    """Edit constants in the script, as users do."""
    for name, value in constants.items():
        replace_in(project / "generate_dataset.py", rf"^{name} = [^#\n]*", f"{name} = {value!r}  ")


@pytest.mark.usefixtures("old_files")
@pytest.mark.parametrize(
    "constants",
    [
        {"SPLIT_RATIO": 1.5},
        {"DOWNLOAD": False, "DATASET_FOLDER": "photos"},
        {"ANNOTATIONS_FOLDER": "labels"},
        {"AUGMENTATION": True, "AUGMENTED_FOLDER": "images"},
    ],
)
def test_mistake_is_no_traceback(few_pets, constants):
    set_constants(few_pets, constants)
    with all_files_stay(few_pets):
        process = run_script(few_pets)
    assert process.returncode == 1
    assert any(name in process.stderr for name in constants)
    assert "Traceback" not in process.stderr
