"""Broken, odd and huge photos: each is trained on or left out with a reason, and nothing stops."""

import csv
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from conftest import create_small_model
from draw_pets import write_xml

SIZE = (24, 20)
BOX = (3, 2, 20, 17)
ODD_NAMES = ["a b", "a, b", 'a "b"', "a'b", "a\nb", "a\rb", "a\tb", "貓", "кот", "🐈", "%s", "-rf"]


def encode(photo, file_format, **options):
    """Return a photo as the bytes of a file."""
    file = io.BytesIO()
    photo.save(file, file_format, **options)
    return file.getvalue()


def create_photo(mode="RGB", size=SIZE):
    """Return a photo of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype="uint8")
    return Image.fromarray(noise).convert(mode)


def huge_png(width, height):
    """Return a PNG that says it is huge, and has no pixels to it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


def broken_photos():
    """Yield file names and bytes: whatever becomes of them, nothing may stop."""
    jpeg = encode(create_photo(), "JPEG", quality=30)
    for length in range(len(jpeg)):
        yield f"cut_{length}.jpg", jpeg[:length]
    for position in range(jpeg.index(b"\xff\xda") + 14):  # up to the end of the scan's header
        for change in (0x01, 0xFF):
            changed = bytearray(jpeg)
            changed[position] ^= change
            yield f"changed_{position * 256 + change}.jpg", bytes(changed)
    yield "zeros_1.jpg", bytes(1000)
    yield "huge_1.jpg", encode(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4")
    yield "huge_2.png", huge_png(20_000, 20_000)
    yield "sixteen_1.png", encode(Image.new("I;16", SIZE, 60_000), "PNG")
    yield "pixel_1.jpg", encode(create_photo(size=(1, 1)), "JPEG")


def whole_photos():
    """Yield file names and bytes of photos that are unusual, and whole."""
    for index, mode in enumerate(("RGB", "L", "CMYK", "YCbCr")):
        yield f"mode_{index}.jpg", encode(create_photo(mode), "JPEG")
    for index, mode in enumerate(("RGBA", "LA", "P", "1")):
        yield f"mode_{index + 4}.png", encode(create_photo(mode), "PNG")
    frames = [create_photo(mode).convert("P") for mode in ("RGB", "L", "1")]
    animation = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "animated_1.gif", animation
    yield "animated_2.jpg", animation  # the wrong ending, as in the Pet Dataset
    yield "animated_3.png", encode(create_photo(), "JPEG")
    for name in ODD_NAMES:
        for index in range(2):
            yield f"{name}_{index}.jpg", encode(create_photo(), "JPEG")


@pytest.fixture
def corpus(project):
    """Return `project` with the photos and an XML for each, which says the same of all."""
    (project / "images").mkdir()
    xmls = project / "annotations" / "xmls"
    xmls.mkdir(parents=True)
    for index, (name, content) in enumerate([*broken_photos(), *whole_photos()]):
        (project / "images" / name).write_bytes(content)
        write_xml(xmls / f"{index:05}.xml", name, SIZE, [BOX])
    return project


def read_rows(project):
    """Return the rows of both CSVs."""
    rows = []
    for name in ("train.csv", "validation.csv"):
        with open(project / name, newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    return rows


def test_generation_training_and_evaluation(
    corpus, generate_dataset, train_model, evaluate_performance, monkeypatch, capsys
):
    generate_dataset.main()
    reasons = capsys.readouterr().err.count("skipped ")
    rows, photos = read_rows(corpus), len([*(corpus / "images").iterdir()])
    assert len(rows) + reasons == photos > 2000
    used = {row["path"].removeprefix("images/") for row in rows}
    # An XML cannot hold all characters: a carriage return is read back as a line feed.
    missing = {name for name, _ in whole_photos()} - used
    assert missing == {"a\rb_0.jpg", "a\rb_1.jpg"}
    assert not any(name.startswith(("zeros", "huge", "sixteen", "pixel")) for name in used)

    train_model.EPOCHS, train_model.BATCH_SIZE, train_model.HEAD = 1, 64, "conv"
    monkeypatch.setattr(train_model, "create_model", create_small_model)
    train_model.main()
    capsys.readouterr()
    evaluate_performance.main()
    validation = len(train_model.read_csv("validation.csv")[0])
    assert f"validation   {validation:6}" in capsys.readouterr().out
    assert len([*(corpus / "example_1" / "predictions").iterdir()]) == validation

    evaluate_performance.IMAGES = "images"
    monkeypatch.setattr(evaluate_performance, "draw_pictures", lambda *arguments: [])
    evaluate_performance.main()
    printed = capsys.readouterr()
    boxes, skipped = printed.out.count(": box from "), printed.err.count("skipped ")
    assert boxes >= len(rows) and boxes + skipped == photos
