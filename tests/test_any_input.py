"""Whatever an XML or a CSV holds, it gives a row or a reason: no traceback, no path outside."""

import os
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

ANY = settings(
    max_examples=600,
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
NAMES = st.one_of(
    st.sampled_from(["Bengal_1", "é_1.jpg", "../x_1.jpg", "/etc/passwd", ".", "..", "a/../../b"]),
    st.lists(st.sampled_from(["..", ".", "x_1.jpg", "Bengal_1.jpg", "/", "\\", "C:\\"])).map(
        "".join
    ),
    st.text(max_size=30),
)
BOXES = st.just(("1", "2", "30", "40")) | st.tuples(*[st.integers(-2, 103).map(str)] * 4)
FIELDS = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture
def photos(project, generate_dataset):
    """Return the folder of XMLs, with two photos of 100 x 80 pixels beside it, and one outside."""
    (project / "images").mkdir()
    (project / "annotations" / "xmls").mkdir(parents=True)
    for name in ("images/Bengal_1.jpg", "images/é_1.jpg", "x_1.jpg"):
        Image.new("RGB", (100, 80)).save(project / name)
    return project / "annotations" / "xmls"


def check(generate_dataset, file):
    """Read an XML: a row in its photo, or a reason."""
    try:
        row, objects = generate_dataset.read_row(file)
    except generate_dataset.UnusableError as error:
        assert error.args[0]
        return
    assert objects >= 1
    assert 0 <= row.xmin < row.xmax <= row.width == 100
    assert 0 <= row.ymin < row.ymax <= row.height == 80
    images = os.path.realpath(generate_dataset.ROOT / "images")
    assert Path(os.path.realpath(generate_dataset.ROOT / row.path)).is_relative_to(images)
    assert row.class_name


@ANY
@given(content=st.binary(max_size=300))
def test_any_bytes_as_an_xml(photos, generate_dataset, content):
    (photos / "a.xml").write_bytes(content)
    check(generate_dataset, photos / "a.xml")


@ANY
@given(
    name=st.sampled_from(["Bengal_1.jpg", "../x_1.jpg"]) | NAMES,
    path=st.just("") | NAMES,
    size=st.sampled_from([("100", "80"), ("80", "100")]) | st.tuples(NUMBERS, NUMBERS),
    boxes=st.lists(BOXES, min_size=1, max_size=3) | st.lists(st.tuples(*[NUMBERS] * 4), max_size=3),
    class_name=st.sampled_from(["cat", ""]) | NAMES,
    class_from=st.sampled_from(["filename", "object"]),
)
def test_any_text_in_an_xml(
    photos, generate_dataset, name, path, size, boxes, class_name, class_from
):
    generate_dataset.CLASS_FROM = class_from

    def tag(name, text):
        return f"<{name}>{escape(text)}</{name}>"

    objects = [
        tag("name", class_name) + f"<bndbox>{''.join(map(tag, FIELDS, box))}</bndbox>"
        for box in boxes
    ]
    text = (
        f"<annotation>{tag('filename', name)}{tag('path', path)}"
        f"<size>{tag('width', size[0])}{tag('height', size[1])}</size>"
        f"{''.join(f'<object>{content}</object>' for content in objects)}</annotation>"
    )
    (photos / "a.xml").write_text(text, encoding="utf-8", errors="replace")
    check(generate_dataset, photos / "a.xml")


def read(train_model):
    """Read train.csv: boxes in photos, or one line."""
    try:
        paths, sizes, corners, class_names = train_model.read_csv("train.csv")
    except SystemExit as stop:
        assert isinstance(stop.code, str) and len(stop.code.splitlines()) == 1
        return
    assert len(paths) == len(sizes) == len(corners) == len(class_names) > 0
    assert (corners >= 0).all() and (corners <= sizes[:, [0, 1, 0, 1]]).all()


@ANY
@given(content=st.binary(max_size=300))
def test_any_bytes_as_a_csv(project, train_model, content):
    (project / "train.csv").write_bytes(content)
    read(train_model)


@ANY
@given(cells=st.lists(st.lists(st.one_of(NUMBERS, NAMES), max_size=11), max_size=4))
def test_any_cells_in_a_csv(project, train_model, cells):
    lines = ["path,width,height,xmin,ymin,xmax,ymax,class_name,class_id"]
    lines += ["a.jpg,100,80,1,2,30,40,b,0", *(",".join(row) for row in cells)]
    (project / "train.csv").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    read(train_model)
