"""Broken, odd and huge photos: each is one that training reads, or left out with a reason."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from draw_pets import write_xml
from scripts import make_rows

SIZE = (24, 20)
BOX = (3, 2, 20, 17)
ODD_NAMES = ["a b", "a, b", 'a "b"', "a'b", "a\nb", "a\tb", "貓", "кот", "🐈", "%s", "-rf"]


def encode(photo, file_format, **options):
    """Return a photo as the bytes of a file."""
    file = io.BytesIO()
    photo.save(file, file_format, **options)
    return file.getvalue()


def create_photo(size=SIZE):
    """Return a photo of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype="uint8")
    return Image.fromarray(noise)


def broken_photos():
    """Yield file names and bytes: whatever becomes of them, nothing may stop."""
    jpeg = encode(create_photo(), "JPEG", quality=30)
    for length in range(0, len(jpeg), 3):
        yield f"cut_{length}.jpg", jpeg[:length]
    for position in range(0, jpeg.index(b"\xff\xda") + 14, 3):  # to the end of the scan's header
        yield f"changed_{position}.jpg", change(jpeg, position, jpeg[position] ^ 0xFF)
    yield "huge_1.jpg", encode(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4")


def change(content, position, value):
    """Return the bytes with another value at a position."""
    return content[:position] + bytes([value]) + content[position + 1 :]


def photos_with_broken_exif():
    """Yield file names and bytes of photos that are whole, but their EXIF data are not."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Camera"
    exif[ExifTags.Base.XResolution] = 72.0
    jpeg = encode(create_photo(size=SIZE[::-1]), "JPEG", exif=exif)
    for position in range(jpeg.index(b"Exif") + 4, jpeg.index(b"\xff\xdb")):
        for value in (0, 13, 26, 255):
            yield f"exif_{position}_{value}.jpg", change(jpeg, position, value)


def whole_photos():
    """Yield file names and bytes of photos that are unusual, and whole."""
    frames = [create_photo().convert(mode) for mode in ("P", "L")]
    animation = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "animated_1.gif", animation
    yield "animated_2.jpg", animation  # the wrong ending, as in the Pet Dataset
    for name in ODD_NAMES:
        yield f"{name}_1.jpg", encode(create_photo(), "JPEG")


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's, of broken EXIF data
def test_what_the_generator_passes_training_reads(project, generate_dataset, train_model, capsys):
    contents = dict([*broken_photos(), *photos_with_broken_exif(), *whole_photos()])
    for folder in ("images", "annotations/xmls"):
        (project / folder).mkdir(parents=True)
    for index, (name, content) in enumerate(contents.items()):
        (project / "images" / name).write_bytes(content)
        write_xml(project / f"annotations/xmls/{index:05}.xml", name, SIZE, [BOX])
    rows = make_rows(generate_dataset)
    used = {path.removeprefix("images/") for path in rows}
    skipped = capsys.readouterr().err
    assert len(used) + skipped.count("skipped ") == len(contents) > 700
    for path, row in rows.items():
        photo = train_model.load_photo(project / path)
        assert photo.mode == "RGB" and photo.size == (int(row["width"]), int(row["height"]))
        assert max(train_model.load_photo(project / path, 12).size) == 12
    assert {name for name, _ in whole_photos()} <= used
    assert not any(name.startswith("huge") for name in used)
    assert "required argument is not" in skipped, "the check has to turn photos to find these"
