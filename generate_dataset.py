"""Turn photos and their Pascal VOC XMLs into train.csv and validation.csv.

    python generate_dataset.py

Edit the constants, then run. The CSVs have a row a photo: path (from this folder), width and height
of the upright photo, xmin, ymin, xmax and ymax of its box in pixels, class_name and class_id.
"""

import csv
import os
import shutil
import sys
import tempfile
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from itertools import product, repeat
from multiprocessing.pool import ThreadPool
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import ExifTags, Image, ImageOps
from sklearn.model_selection import train_test_split
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent  # all paths below are relative to this folder, or absolute
DATASET_FOLDER = "images"  # the photos
ANNOTATIONS_FOLDER = "annotations/xmls"  # their XMLs; XMLs beside the photos are found too
DOWNLOAD = True  # get the Oxford-IIIT Pet Dataset when DATASET_FOLDER does not exist
TRAIN_CSV = "train.csv"
VALIDATION_CSV = "validation.csv"
SPLIT_RATIO = 0.8  # share of the photos that is trained on, the others validate
SEED = 0  # another number, another split and other augmented photos
CLASS_FROM = "filename"  # "filename": Bengal_12.jpg is a Bengal; "object": the XML's <name>
WORKERS = os.cpu_count()  # threads that check and augment photos

AUGMENTATION = False  # True adds changed copies of the training photos to TRAIN_CSV
AUGMENTATION_PER_IMAGE = 25  # tries for each photo; a try that cuts the box is dropped
AUGMENTATION_DEBUG = False  # True draws the box on the copies: to look at, not to train on
AUGMENTED_FOLDER = "augmented"  # where the copies go: a folder that does not exist yet
AUGMENTED_SIZE = 224  # width and height of the copies in pixels

ARCHIVES_ADDRESS = "https://thor.robots.ox.ac.uk/~vgg/data/pets/"
ARCHIVES = {  # name: MD5
    "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
    "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
}


# The archives


def get_dataset():
    """Unpack the dataset's two archives: those that lie in ROOT, the others are downloaded."""
    from keras.utils import get_file  # takes seconds, and is needed only here

    print("Getting the Oxford-IIIT Pet Dataset. For your own photos: Ctrl-C, set DATASET_FOLDER.")
    with tempfile.TemporaryDirectory(prefix="generating-", dir=ROOT) as folder:
        for name, md5 in ARCHIVES.items():
            archive = ROOT / name
            address = archive.as_uri() if archive.exists() else ARCHIVES_ADDRESS + name
            try:  # Keras compares the MD5 before it unpacks
                get_file(name, address, file_hash=md5, extract=True, cache_subdir=folder)
            except Exception as error:  # Keras raises a bare Exception when there is no network
                files = " and ".join(ARCHIVES_ADDRESS + name for name in ARCHIVES)
                advice = f"Put {files} into {ROOT} and run again; for drawn photos: make demo"
                sys.exit(f"Cannot use {address} ({error}). {advice}")
        # The photos last: a run that is stopped before them starts here again.
        sources = ("annotations_extracted/annotations/xmls", "images_extracted/images")
        for source, target in zip(sources, (ROOT / ANNOTATIONS_FOLDER, ROOT / DATASET_FOLDER)):
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(f"{folder}/{source}", target)


# One photo and its XML

CORNERS = ("xmin", "ymin", "xmax", "ymax")
Row = namedtuple("Row", ("path", "width", "height", *CORNERS, "class_name"))
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")  # not PostScript: it starts a program
ENDINGS = ("", ".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".webp", ".WEBP")


def find_photo(xml, annotation):
    """Return an XML's photo: beside it, in the same subfolder, or at the top of DATASET_FOLDER."""
    top, beside = os.path.normpath(ROOT / DATASET_FOLDER), os.path.dirname(xml)
    mirrored = top + beside.removeprefix(str(ROOT / ANNOTATIONS_FOLDER))  # the same subfolder
    for tag in ("filename", "path"):
        # Leading folders, as of another computer, are dropped until a file fits; endings are added.
        parts = annotation.findtext(tag, "").strip().replace("\\", "/").split("/")
        for start, ending, folder in product(range(len(parts)), ENDINGS, (beside, mirrored, top)):
            photo = os.path.normpath("/".join([folder, *parts[start:]]) + ending)
            if photo.startswith(top + os.sep) and os.path.isfile(photo):  # not outside
                return photo
    raise ValueError(f"the photo is missing: {annotation.findtext('filename')} in {top}")


def check_photo(file):
    """Read a photo as training does, but fast; return the upright photo's (width, height)."""
    try:
        with Image.open(file, formats=FORMATS) as photo:
            size = photo.size  # draft makes it smaller
            photo.draft("L", (1, 1))  # reads a JPEG to its end, but makes an eighth of it, in grey
            if photo.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel, save it with 8")
            ImageOps.exif_transpose(photo).convert("RGB")
            # 5 to 8 are quarter turns. Asked for last, because Pillow turns a TIFF by itself.
            is_turned = photo.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return size[::-1] if is_turned else size
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        raise ValueError(f"the photo does not decode: {file}: {error}") from error


def read_boxes(objects, size):
    """Return the boxes (n, 4) of an XML's objects, clipped to a photo of this (width, height)."""
    if not objects:
        raise ValueError("no box: no <object>")
    texts = [[item.findtext(f"bndbox/{corner}") for corner in CORNERS] for item in objects]
    boxes = np.array(texts, float)  # what is missing becomes NaN, of which no comparison is true
    if (boxes < -1).any() or (boxes[:, 2:] > np.add(size, 1)).any():  # some tools count from 1
        raise ValueError(f"the box is outside of the photo: {texts} in {size}")
    boxes = boxes.clip(0, (*size, *size)).round(2)
    if not (boxes[:, 2:] - boxes[:, :2] > 1).all():  # as where coordinates go from 0 to 1
        raise ValueError(f"the box is incomplete, inverted or within a pixel: {texts} in {size}")
    return boxes


def read_row(xml):
    """Return the row of an XML's largest object and how many it has, or raise why there is none."""
    annotation = ElementTree.parse(xml).getroot()
    photo = find_photo(xml, annotation)
    size = check_photo(photo)
    xml_size = [float(annotation.findtext(f"size/{side}") or 0) for side in ("width", "height")]
    # No size, or 0, says nothing. Another one: the box was drawn on another picture than this.
    if any(said not in (0, pixels) for said, pixels in zip(xml_size, size)):
        raise ValueError(f"the XML's size is not the upright photo's: {xml_size} and {size}")
    objects = annotation.findall("object")
    boxes = read_boxes(objects, size)
    largest = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).argmax()
    name = Path(photo).stem.rpartition("_")[0]  # Bengal_12: Bengal
    if CLASS_FROM == "object":
        name = objects[largest].findtext("name", "").strip()
    if not name:
        raise ValueError(f"no class by CLASS_FROM = {CLASS_FROM!r}: see there for the other choice")
    path = photo.removeprefix(str(ROOT) + os.sep).replace(os.sep, "/")
    path.encode()  # raises for a name that is no UTF-8, which the CSV could not hold
    return Row(path, *size, *boxes[largest].tolist(), name), len(objects)


# Augmented copies


def create_augmenter():
    """Return the imgaug sequence that changes a photo and its box."""
    from imgaug import augmenters as iaa

    zoom = [iaa.Affine(scale=(0.4, 1.6)), iaa.Crop(percent=(0, 0.2))]
    flip = [iaa.Fliplr(0.5), iaa.Flipud(0.5)]
    turn = [iaa.Sometimes(0.5, iaa.Affine(rotate=(-45, 45), shear=(-16, 16)))]
    colour = [iaa.AddToHueAndSaturation((-30, 30)), iaa.Sometimes(0.1, iaa.AddToHue((-255, 255)))]
    light = [iaa.Multiply((0.8, 1.2), per_channel=0.2), iaa.GaussianBlur((0, 1))]
    return iaa.Sequential(zoom + flip + turn + colour + light)


def augment_photo(row, number, folder):
    """Write the changed copies of one photo into `folder`; return their rows."""
    from imgaug import BoundingBox, BoundingBoxesOnImage

    size = (AUGMENTED_SIZE, AUGMENTED_SIZE)
    with Image.open(ROOT / row.path, formats=FORMATS) as photo:
        photo.draft("RGB", size)
        photo = np.asarray(ImageOps.exif_transpose(photo).convert("RGB").resize(size))
    box = BoundingBox(row.xmin, row.ymin, row.xmax, row.ymax)
    boxes = BoundingBoxesOnImage([box], (row.height, row.width)).on(photo)  # scaled
    augmenter, rows = create_augmenter(), []
    # From SEED and the photo's number, so that it does not matter which thread does it.
    augmenter.seed_(int(np.random.default_rng((SEED, number)).integers(2**31)))
    for index in range(AUGMENTATION_PER_IMAGE):
        copy, (box,) = augmenter(image=photo, bounding_boxes=boxes)
        if box.is_fully_within_image(copy):
            if AUGMENTATION_DEBUG:
                copy = box.draw_on_image(copy, size=2)
            name = f"augmented_{number:05d}_{index:02d}.jpg"
            Image.fromarray(copy).save(folder / name, quality=90)
            corners = [round(float(corner), 2) for corner in (box.x1, box.y1, box.x2, box.y2)]
            rows.append(Row(f"{AUGMENTED_FOLDER}/{name}", *size, *corners, row.class_name))
    return rows


def augment_photos(rows, folder):
    """Write changed copies of all photos into `folder`; return their rows in a fixed order."""
    folder.mkdir()
    with ThreadPoolExecutor(WORKERS) as executor:  # at Ctrl-C it waits for those being written
        results = executor.map(augment_photo, rows, range(len(rows)), repeat(folder))
        return [row for copies in tqdm(results, "augmenting", len(rows)) for row in copies]


# All together


def read_rows():
    """Return the rows of all XMLs, sorted by path, and print what was skipped and why."""
    xmls, rows, counts = set(), {}, Counter()
    for top in (ROOT / ANNOTATIONS_FOLDER, ROOT / DATASET_FOLDER):  # one may lie in the other
        for folder, _, names in os.walk(top, onerror=lambda error: print(error, file=sys.stderr)):
            for name in names:  # Apple's ._ files are no XMLs, whatever their ending
                if name.lower().endswith(".xml") and not name.startswith("._"):
                    xmls.add(os.path.join(folder, name))
    # Threads are enough: Pillow decodes outside of Python's lock. At Ctrl-C a pool stops at once.
    with ThreadPool(WORKERS) as pool:
        results = {xml: pool.apply_async(read_row, [xml]) for xml in sorted(xmls)}
        for xml, result in tqdm(results.items(), "checking", leave=False):
            try:
                row, objects = result.get()
                if row.path in rows:
                    raise ValueError(f"a second XML for the same photo: {row.path}")
                rows[row.path] = row
                if objects > 1:
                    counts["photos with several objects: the largest is taken"] += 1
            except (SyntaxError, ValueError, LookupError, OSError) as error:  # or broken XML
                counts[f"skipped: {str(error).partition(':')[0]}"] += 1
                tqdm.write(f"skipped {xml}: {error}", file=sys.stderr)
    for reason, number in sorted(counts.items()):
        print(f"{number:8}  {reason}")
    return sorted(rows.values())


def split_rows(rows):
    """Return training and validation rows, each class in both in the same proportion."""
    counts = Counter(row.class_name for row in rows)
    singles = [row for row in rows if counts[row.class_name] == 1]
    for row in singles:
        print(f"warning: class {row.class_name} has one photo: it is trained on.", file=sys.stderr)
    rows = [row for row in rows if counts[row.class_name] > 1]
    if not rows:
        sys.exit(f"No class has two usable photos in {DATASET_FOLDER}: the lines above say why.")
    names = [row.class_name for row in rows]
    classes = len(set(names))  # each needs a photo on both sides
    size = np.clip(len(rows) - int(SPLIT_RATIO * len(rows)), classes, len(rows) - classes)
    training, validation = train_test_split(rows, test_size=size, stratify=names, random_state=SEED)
    # Stratification rounds, and may leave a rare class out on one side: move a photo of it there.
    for few, many in ((training, validation), (validation, training)):
        for name in sorted(set(names) - {row.class_name for row in few}):
            few.append(next(row for row in many if row.class_name == name))
            many.remove(few[-1])
    return sorted(training + singles), sorted(validation)


def write_csv(file, rows, class_ids):
    """Write the rows under a header row."""
    with open(file, "w", newline="", encoding="utf-8") as csv_file:
        writer = csv.writer(csv_file, lineterminator="\n")
        writer.writerow([*Row._fields, "class_id"])
        for path, width, height, *corners, name in rows:
            corners = [f"{corner:.10g}" for corner in corners]  # 34, not 34.0
            writer.writerow([path, width, height, *corners, name, class_ids[name]])


def main():
    """Make all in a temporary folder, and replace what is there when it is whole."""
    if DOWNLOAD and not (ROOT / DATASET_FOLDER).is_dir():
        get_dataset()
    augmented = ROOT / AUGMENTED_FOLDER
    if AUGMENTATION and augmented.exists():
        sys.exit(f"{augmented} exists: rename or delete it, or set AUGMENTED_FOLDER to another.")
    training, validation = split_rows(read_rows())
    training_counts = Counter(row.class_name for row in training)
    validation_counts = Counter(row.class_name for row in validation)
    class_ids = {name: index for index, name in enumerate(sorted(training_counts))}
    with tempfile.TemporaryDirectory(prefix="generating-", dir=ROOT) as folder:
        copies = augment_photos(training, Path(folder, "copies")) if AUGMENTATION else []
        write_csv(f"{folder}/train.csv", training + copies, class_ids)
        write_csv(f"{folder}/validation.csv", validation, class_ids)
        os.replace(f"{folder}/train.csv", ROOT / TRAIN_CSV)
        os.replace(f"{folder}/validation.csv", ROOT / VALIDATION_CSV)
        if AUGMENTATION:  # last: after a kill before it training says which copies are missing
            shutil.move(f"{folder}/copies", augmented)
    print("  photos  training  validation  class")
    for name in class_ids:
        first, second = training_counts[name], validation_counts[name]
        print(f"{first + second:8}{first:10}{second:12}  {name}")
    print(f"{TRAIN_CSV}: {len(training)} photos and {len(copies)} augmented copies.")
    print(f"{VALIDATION_CSV}: {len(validation)} photos. Next: python example_1/train_model.py")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # Jupyter's prints all letters, a console may not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except (KeyboardInterrupt, OSError) as error:
        sys.exit(f"generate_dataset.py: {str(error) or 'interrupted'}. No CSV is half written.")
