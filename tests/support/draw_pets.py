"""Draw photos of pets and write their XMLs, laid out as the Oxford-IIIT Pet Dataset."""

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BREEDS = {  # name: species, fur, ears
    "Amber_Cat": ("cat", (205, 130, 55), "pointed"),
    "grey_cat": ("cat", (125, 130, 145), "pointed"),
    "spotless_beagle": ("dog", (120, 75, 45), "hanging"),
}


def draw_background(random, width, height):
    """Return a picture of soft colours with things lying about."""
    coarse = random.integers(60, 200, (4, 4, 3), dtype="uint8")
    photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(photo)
    for _ in range(random.integers(4, 10)):
        x, y = random.integers(0, (width, height))
        w, h = random.integers(8, min(width, height) // 3, 2)
        colour = tuple(int(channel) for channel in random.integers(30, 220, 3))
        shape = random.choice([draw.rectangle, draw.ellipse])
        shape((x, y, x + w, y + h), fill=colour)
    return photo


def draw_pet(random, breed, width, height):
    """Return a photo, RGB, and the box of the pet's head: xmin, ymin, xmax, ymax in pixels."""
    _, fur, ears = BREEDS[breed]
    fur = np.clip(np.array(fur) + random.integers(-20, 21, 3), 0, 255)
    light, dark = (tuple(int(c) for c in np.clip(fur * f, 0, 255)) for f in (1.15, 0.7))
    fur = tuple(int(channel) for channel in fur)
    photo = draw_background(random, width, height)
    draw = ImageDraw.Draw(photo)
    radius = int(min(width, height) * random.uniform(0.14, 0.25))
    x = int(random.integers(2 * radius, width - 2 * radius + 1))
    y = int(random.integers(2 * radius, height - 2 * radius + 1))

    def ellipse(x, y, half_width, half_height, colour):
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        draw.ellipse(box, fill=colour)

    side = int(random.choice([-1, 1]))
    ellipse(x + side * radius, y + 1.9 * radius, 1.9 * radius, 1.3 * radius, dark)  # body
    ymin, half_width = y - radius, radius
    for left_or_right in (-1, 1):
        if ears == "pointed":
            ymin = y - int(1.5 * radius)
            inner, outer = x + left_or_right * radius * 0.2, x + left_or_right * radius * 0.95
            tip = (x + left_or_right * radius * 0.8, ymin)
            draw.polygon([(inner, y - radius * 0.8), tip, (outer, y - radius * 0.2)], fill=dark)
        else:
            half_width = int(1.35 * radius)
            ellipse(x + left_or_right * radius, y + radius * 0.1, radius * 0.35, radius * 0.8, dark)
    ellipse(x, y, radius, radius, fur)
    ellipse(x, y + radius * 0.45, radius * 0.45, radius * 0.35, light)  # muzzle
    for left_or_right in (-1, 1):
        eye_x, eye_y = x + left_or_right * radius * 0.4, y - radius * 0.15
        ellipse(eye_x, eye_y, radius * 0.2, radius * 0.2, "white")
        ellipse(eye_x, eye_y, radius * 0.1, radius * 0.15, "black")
    ellipse(x, y + radius * 0.3, radius * 0.15, radius * 0.1, "black")  # nose
    photo = photo.filter(ImageFilter.GaussianBlur(0.7))
    noise = random.normal(0, 6, (height, width, 1))
    photo = Image.fromarray(np.clip(np.asarray(photo) + noise, 0, 255).astype("uint8"))
    return photo, (x - half_width, ymin, x + half_width, y + radius)


def write_xml(file, file_name, size, boxes, name="cat"):
    """Write a Pascal VOC XML; `boxes` is a list of xmin, ymin, xmax, ymax."""
    objects = "".join(
        f"<object><name>{escape(name)}</name><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
        for xmin, ymin, xmax, ymax in boxes
    )
    Path(file).write_text(
        f"<annotation><filename>{escape(file_name)}</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"{objects}</annotation>",
        encoding="utf-8",
    )


def draw_dataset(folder, count, seed=0):
    """Draw `count` pets into folder/images and write their XMLs into folder/annotations/xmls."""
    images, xmls = Path(folder) / "images", Path(folder) / "annotations" / "xmls"
    images.mkdir(parents=True, exist_ok=True)
    xmls.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        breed = list(BREEDS)[index % len(BREEDS)]
        width, height = (int(pixels) for pixels in random.integers(300, 501, 2))
        photo, box = draw_pet(random, breed, width, height)
        stem = f"{breed}_{index // len(BREEDS) + 1}"
        photo.save(images / f"{stem}.jpg", quality=90)
        write_xml(xmls / f"{stem}.xml", f"{stem}.jpg", (width, height), [box], BREEDS[breed][0])
