"""Whatever an XML holds, it gives a row or a reason: no traceback, no path outside."""

import os
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

ANY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NUMBERS = st.one_of(
    st.integers(-9, 120).map(str),
    st.floats().map(str),
    st.sampled_from(["", " 5 ", "1e999", "0x10", "١٢", "1_0", "-0", "nan"]),
    st.text(max_size=5),
)
PARTS = st.lists(st.sampled_from(["..", ".", "x_1.jpg", "Bengal_1", "é_1.jpg", "/", "\\", "C:\\"]))
NAMES = PARTS.map("".join) | st.text(max_size=30)
BOXES = st.just(("1", "2", "30", "40")) | st.tuples(*[st.integers(-2, 103).map(str)] * 4)
SIZES = st.sampled_from([("100", "80"), ("80", "100"), ("0", "")]) | st.tuples(NUMBERS, NUMBERS)


@pytest.fixture
def xml(project):
    """Return the path of an XML, with photos of 100 x 80 pixels in and outside of the folder."""
    (project / "images").mkdir()
    (project / "annotations/xmls").mkdir(parents=True)
    (project / "images_2").mkdir()
    for name in ("images/Bengal_1.jpg", "images/é_1.jpg", "x_1.jpg", "images_2/x_1.jpg"):
        Image.new("RGB", (100, 80)).save(project / name)
    return project / "annotations/xmls/a.xml"


def check(script):
    """Read the XML: a box of its photo in one of the CSVs' rows, or a reason."""
    (row,) = script.read_rows() or [None]
    if row:
        assert 0 <= row.xmin < row.xmax <= row.width == 100
        assert 0 <= row.ymin < row.ymax <= row.height == 80
        photo = Path(os.path.realpath(script.ROOT / row.path))
        assert photo.is_relative_to(os.path.realpath(script.ROOT / "images"))
        assert row.class_name


@ANY
@given(
    name=st.sampled_from(["Bengal_1.jpg", "../x_1.jpg", "../images_2/x_1.jpg"]) | NAMES,
    path=st.just("") | NAMES,
    size=SIZES,
    boxes=st.lists(BOXES, min_size=1, max_size=3) | st.lists(st.tuples(*[NUMBERS] * 4), max_size=3),
    class_name=st.sampled_from(["cat", ""]) | NAMES,
    class_from=st.sampled_from(["filename", "object"]),
)
def test_any_text_in_an_xml(xml, generate_dataset, name, path, size, boxes, class_name, class_from):
    generate_dataset.CLASS_FROM = class_from

    def tag(name, content):
        return f"<{name}>{content}</{name}>"

    def tags(names, texts):
        return "".join(tag(name, escape(text)) for name, text in zip(names.split(), texts))

    text = tags("filename path", (name, path)) + tag("size", tags("width height", size))
    for box in boxes:
        bndbox = tag("bndbox", tags("xmin ymin xmax ymax", box))
        text += tag("object", tags("name", [class_name]) + bndbox)
    xml.write_text(tag("annotation", text), encoding="utf-8", errors="replace")
    check(generate_dataset)
