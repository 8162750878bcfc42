"""Turn photos and their Pascal VOC XMLs into train.csv and validation.csv.

    python generate_dataset.py

Edit the constants below, then run. Without photos, the Oxford-IIIT Pet Dataset is downloaded.

The CSVs have a row a photo: path,width,height,xmin,ymin,xmax,ymax,class_name,class_id. Boxes are in
pixels of the upright photo, that is, with its EXIF orientation applied, as viewers and labelling
tools show it. `path` starts at this file's folder.
"""

import contextlib
import csv
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, namedtuple
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, product
from multiprocessing.pool import ThreadPool
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageOps
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
WORKERS = os.cpu_count()  # threads that check photos, processes that augment them

AUGMENTATION = False  # True adds changed copies of the training photos to TRAIN_CSV
AUGMENTATION_PER_IMAGE = 25  # tries for each photo; a try that cuts the box is dropped
AUGMENTATION_DEBUG = False  # True draws the box on the copies: to look at, not to train on
AUGMENTED_FOLDER = "augmented"  # where the copies go; older copies there are replaced
AUGMENTED_SIZE = 224  # width and height of the copies in pixels

ARCHIVES_ADDRESS = "https://thor.robots.ox.ac.uk/~vgg/data/pets/"
ARCHIVES = {  # name: MD5
    "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
    "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
}
# A photo and its box: pixel corners in the upright photo, as in the CSVs.
Row = namedtuple("Row", "path width height xmin ymin xmax ymax class_name")


class UnusableError(Exception):
    """Why an XML gives no row. Its arguments: a reason, which is counted, and a detail."""


def check_constants():
    """Stop with one line when a constant has a value that cannot work."""
    for name, kind, is_right, choices in (
        ("DATASET_FOLDER", str, bool, "the name of a folder"),
        ("ANNOTATIONS_FOLDER", str, bool, "the name of a folder"),
        ("DOWNLOAD", bool, (False, True).__contains__, "True or False"),
        ("AUGMENTATION", bool, (False, True).__contains__, "True or False"),
        ("AUGMENTATION_DEBUG", bool, (False, True).__contains__, "True or False"),
        ("SPLIT_RATIO", float, lambda value: 0 < value < 1, "between 0 and 1, such as 0.8"),
        ("SEED", int, lambda value: 0 <= value < 2**32, "a whole number from 0"),
        ("CLASS_FROM", str, ("filename", "object").__contains__, '"filename" or "object"'),
        ("WORKERS", int, lambda value: value >= 1, "a whole number from 1"),
        ("AUGMENTATION_PER_IMAGE", int, lambda value: value >= 1, "a whole number from 1"),
        ("AUGMENTED_SIZE", int, lambda value: value >= 32, "a whole number from 32"),
        ("AUGMENTED_FOLDER", str, can_be_replaced, "a new folder: this holds other files"),
        ("TRAIN_CSV", str, lambda value: not (ROOT / value).is_dir(), "a file, not a folder"),
        ("VALIDATION_CSV", str, lambda value: not (ROOT / value).is_dir(), "a file, not a folder"),
        ("VALIDATION_CSV", str, lambda value: ROOT / value != ROOT / TRAIN_CSV, "not TRAIN_CSV"),
    ):
        value = globals()[name]
        if not isinstance(value, kind) or not is_right(value):
            sys.exit(f"generate_dataset.py: {name} = {value!r} must be {choices}.")


def can_be_replaced(folder):
    """Return whether an AUGMENTED_FOLDER has nothing but copies of an earlier run."""
    path = ROOT / folder
    files = path.iterdir() if path.is_dir() else [path] if path.exists() else []
    return not AUGMENTATION or all(re.fullmatch(r"\d{5,}_\d+\.jpg", file.name) for file in files)


def get_dataset():
    """Unpack the dataset's two archives: from ROOT if they lie there, else downloaded."""
    # The photos last: a run that stops before them starts here again.
    targets = {"annotations/xmls": ROOT / ANNOTATIONS_FOLDER, "images": ROOT / DATASET_FOLDER}
    for (name, md5), (source, target) in zip(ARCHIVES.items(), targets.items()):
        archive, address = ROOT / name, ARCHIVES_ADDRESS + name
        if target.exists():
            continue
        if archive.exists():
            address, md5 = archive.as_uri(), None
        elif not DOWNLOAD:
            sys.exit(f"No {target}, no {archive}: set the folder's name or DOWNLOAD = True.")
        print(
            f"No {target}: fetching {name} of the Oxford-IIIT Pet Dataset instead. If you meant\n"
            "your own photos: Ctrl-C, set DATASET_FOLDER and ANNOTATIONS_FOLDER, DOWNLOAD = False."
        )
        # A failure leaves nothing behind: the half archive or dataset is in a temporary folder.
        with tempfile.TemporaryDirectory(prefix="unpacking-", dir=ROOT) as folder:
            try:
                os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
                import keras  # slow to import, and not needed but here

                place = {"cache_dir": folder, "cache_subdir": ".", "extract": True}
                # Leaves out members of the archive that would land outside of the folder.
                unpacked = keras.utils.get_file(name, address, file_hash=md5, **place)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(Path(unpacked) / source, target)
            except Exception as error:  # Keras raises a bare Exception when there is no network
                addresses = "\n  ".join(ARCHIVES_ADDRESS + name for name in ARCHIVES)
                sys.exit(
                    f"Cannot download or unpack {name} ({error}).\n"
                    f"Put these two files, whole, into {ROOT} and run again:\n  {addresses}\n"
                    "To see everything work on drawn photos, without a download: make demo"
                )


def remove_leftovers():
    """Delete the temporary folders of runs that were killed, when nothing moved for an hour."""
    for folder in [*ROOT.glob("generating-????????"), *ROOT.glob("unpacking-????????")]:
        with contextlib.suppress(FileNotFoundError):  # its own run, which was at it, deletes it
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - newest > 3600:
                shutil.rmtree(folder)


def find_xml_files():
    """Return the XMLs' paths, sorted, so that the order of the file system does not matter."""
    folders = (ROOT / ANNOTATIONS_FOLDER, ROOT / DATASET_FOLDER)
    files = [file for folder in folders for file in sorted(folder.rglob("*.[xX][mM][lL]"))]
    # Apple's ._ files are no XMLs, whatever their ending. One folder may lie in the other.
    files = list(dict.fromkeys(file for file in files if not file.name.startswith("._")))
    if not files:
        sys.exit(f"No XML in {folders[0]} or {folders[1]}: set ANNOTATIONS_FOLDER.")
    return files


def read_numbers(element, tags):
    """Return the numbers that an XML element has under `tags`."""
    texts = ["" if element is None else element.findtext(tag, "").strip() for tag in tags]
    if "" in texts:
        raise UnusableError("no size or box", f"no {tags[texts.index('')]}")
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UnusableError("a number is not a number", ", ".join(texts))
    return numbers


def fit_box(box, photo_size, xml_size):
    """Return the box clipped to the photo; raise UnusableError when that is not all it needs."""
    xmin, ymin, xmax, ymax = box
    width, height = photo_size
    detail = f"{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g} in {width} x {height} pixels"
    if xmax < xmin or ymax < ymin:
        raise UnusableError("the box is inverted", detail)
    if xmin < -1 or ymin < -1 or xmax > width + 1 or ymax > height + 1:
        if xml_size != photo_size:
            raise UnusableError("the XML's size is not the photo's", f"{xml_size}; {detail}")
        raise UnusableError("the box is outside of the photo", detail)
    clipped = [round(min(max(edge, 0), end), 2) for edge, end in zip(box, (width, height) * 2)]
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise UnusableError("the box is empty", detail)
    return clipped


def find_photo(xml_file, annotation):
    """Return the path of an XML's photo, which is never outside of DATASET_FOLDER.

    It is looked for under <filename> or <path>, or as many of their last parts as are found: beside
    the XML, in the sub-folder that the XML has in ANNOTATIONS_FOLDER, and in DATASET_FOLDER itself.
    """
    # Some tools leave the ending out of the XML.
    endings = ("", ".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".webp", ".WEBP")
    texts = [annotation.findtext(tag, "").strip() for tag in ("filename", "path")]
    texts = [text for text in texts if text]
    if not texts:
        raise UnusableError("no file name")
    parts = [re.split(r"[/\\]", text) for text in texts]  # Windows' paths have backslashes
    if ".." in parts[0]:
        raise UnusableError("the file name leaves DATASET_FOLDER", texts[0])
    names = [texts[0]] + ["/".join(some[start:]) for some in parts for start in range(len(some))]
    photos = os.path.normpath(os.path.join(ROOT, DATASET_FOLDER))
    xmls = os.path.normpath(os.path.join(ROOT, ANNOTATIONS_FOLDER))
    beside = os.path.dirname(os.path.normpath(xml_file))
    folders = (beside, photos + beside.removeprefix(xmls), photos)
    for name, ending, folder in product(names, endings, folders):
        photo = os.path.normpath(os.path.join(folder, name + ending))
        if photo.startswith(photos + os.sep) and os.path.isfile(photo):
            return photo
    raise UnusableError("the photo is missing", f"{texts[0]} in {photos}")


def check_photo(file):
    """Decode a photo to its last line; return its upright [width, height], and if it is turned."""
    if os.path.getsize(file) == 0:
        raise UnusableError("the photo is empty", file)
    try:
        with Image.open(file) as photo:
            size = list(photo.size)
            photo.draft("L", (1, 1))  # reads a JPEG to its end, but makes an eighth of it, in grey
            photo.load()
            if photo.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel, save it with 8")
            is_turned = photo.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        raise UnusableError("the photo does not decode", f"{file}: {error}") from error
    return size[::-1] if is_turned else size, is_turned


def read_row(xml_file):
    """Return the row of one XML and how many objects it has; the row holds the largest."""
    try:
        annotation = ElementTree.parse(xml_file).getroot()
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        raise UnusableError("not XML", error) from error
    photo = find_photo(xml_file, annotation)
    xml_size = read_numbers(annotation.find("size"), ("width", "height"))
    objects = []
    for element in annotation.findall("object"):
        box = read_numbers(element.find("bndbox"), ("xmin", "ymin", "xmax", "ymax"))
        objects.append((box, element.findtext("name", "").strip()))
    if not objects:
        raise UnusableError("no size or box", "no object")
    size, is_turned = check_photo(photo)
    if is_turned and xml_size == size[::-1] != size:
        raise UnusableError("the box was drawn on the photo as it lies, before its EXIF turn")
    boxes = [(fit_box(box, size, xml_size), name) for box, name in objects]
    box, name = max(boxes, key=lambda item: (item[0][2] - item[0][0]) * (item[0][3] - item[0][1]))
    if CLASS_FROM == "filename":
        name = Path(photo).stem.rpartition("_")[0]
    if not name:
        raise UnusableError("no class", f"CLASS_FROM = {CLASS_FROM!r}")
    path = photo.removeprefix(str(ROOT) + os.sep).replace(os.sep, "/")
    return Row(path, *size, *box, name), len(objects)


def try_row(xml_file):
    """Return what read_row returns, or the UnusableError that it raises."""
    try:
        return read_row(xml_file)
    except UnusableError as error:
        return error


def read_rows(xml_files):
    """Return the rows, sorted by path, and a Counter of what was skipped and why."""
    rows, counts = {}, Counter()
    # Pillow lets go of Python's lock while it decodes, so threads do, and they start at once.
    with ThreadPool(WORKERS) as pool:
        results = zip(xml_files, pool.imap(try_row, xml_files, chunksize=16))
        for xml_file, result in tqdm(results, "checking", len(xml_files), leave=False):
            if isinstance(result, tuple) and result[0].path in rows:
                result = UnusableError("a second XML for the same photo", result[0].path)
            if isinstance(result, tuple):
                rows[result[0].path] = result[0]
                counts["photos with several objects: the largest is taken"] += result[1] > 1
            else:
                counts["skipped: " + result.args[0]] += 1
                line = ": ".join(map(str, (f"skipped {xml_file}", *result.args)))
                tqdm.write(line, file=sys.stderr)
    return [rows[path] for path in sorted(rows)], +counts


def split_rows(rows):
    """Return training and validation rows, each class in both in the same proportion."""
    from sklearn.model_selection import train_test_split  # takes a second to import

    counts = Counter(row.class_name for row in rows)
    singles = [row for row in rows if counts[row.class_name] == 1]
    others = [row for row in rows if counts[row.class_name] > 1]
    if not others:
        sys.exit(f"No class has two usable photos in {DATASET_FOLDER}. The CSVs are as before.")
    for row in singles:
        print(f"warning: class {row.class_name} has one photo: it is trained on.", file=sys.stderr)
    classes = len(counts) - len(singles)  # each side needs a photo of each
    validation_size = len(others) - int(SPLIT_RATIO * len(others))
    training, validation = train_test_split(
        others,
        test_size=min(max(validation_size, classes), len(others) - classes),
        stratify=[row.class_name for row in others],
        random_state=SEED,
    )
    # Stratification rounds, and may leave a rare class out on one side: move a photo of it there.
    for few, many in ((training, validation), (validation, training)):
        for name in sorted({row.class_name for row in many} - {row.class_name for row in few}):
            few.append(next(row for row in many if row.class_name == name))
            many.remove(few[-1])
    return sorted(training + singles), sorted(validation)


def create_augmenter():
    """Return the imgaug sequence that changes a photo and its box."""
    from imgaug import augmenters as iaa

    zoom = [iaa.Affine(scale=(0.4, 1.6)), iaa.Crop(percent=(0, 0.2))]
    flip = [iaa.Fliplr(0.5), iaa.Flipud(0.5)]
    turn = [iaa.Sometimes(0.5, iaa.Affine(rotate=(-45, 45), shear=(-16, 16)))]
    colour = [iaa.AddToHueAndSaturation((-30, 30)), iaa.Sometimes(0.1, iaa.AddToHue((-255, 255)))]
    light = [iaa.Multiply((0.8, 1.2), per_channel=0.2), iaa.GaussianBlur((0, 1))]
    return iaa.Sequential(zoom + flip + turn + colour + light)


def start_worker(constants):
    """Give a new process the constants as they are set now, and leave Ctrl-C to the first one."""
    globals().update(constants)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def augment_photo(row, number, folder):
    """Write the changed copies of one photo into `folder`; return their rows."""
    from imgaug.augmentables import BoundingBox, BoundingBoxesOnImage

    size = (AUGMENTED_SIZE, AUGMENTED_SIZE)
    with Image.open(ROOT / row.path) as photo:
        photo.draft(None, size)
        photo = np.asarray(ImageOps.exif_transpose(photo).convert("RGB").resize(size))
    scale = np.divide(size, (row.width, row.height))
    box = BoundingBox(*(row.xmin, row.ymin) * scale, *(row.xmax, row.ymax) * scale)
    augmenter = create_augmenter()
    # From SEED and the photo's number, so that it does not matter which worker does it.
    augmenter.seed_(int(np.random.SeedSequence([SEED, number]).generate_state(1)[0]))
    copies, boxes = augmenter(
        images=[photo] * AUGMENTATION_PER_IMAGE,
        bounding_boxes=[BoundingBoxesOnImage([box], photo.shape)] * AUGMENTATION_PER_IMAGE,
    )
    rows = []
    for index, (copy, (box,)) in enumerate(zip(copies, boxes)):
        if not box.is_fully_within_image(copy):
            continue
        corners = [round(float(corner), 2) for corner in (box.x1, box.y1, box.x2, box.y2)]
        copy, name = Image.fromarray(copy), f"{number:05d}_{index:02d}.jpg"
        if AUGMENTATION_DEBUG:
            ImageDraw.Draw(copy).rectangle(corners, outline=(0, 255, 0), width=2)
        copy.save(folder / name, quality=90)
        rows.append(Row(f"{AUGMENTED_FOLDER}/{name}", *size, *corners, row.class_name))
    return rows


def augment_photos(rows, folder):
    """Write changed copies of all photos into `folder`; return their rows in a fixed order."""
    try:
        create_augmenter()
    except ImportError as error:
        advice = "pip uninstall --yes opencv-python && pip install --force-reinstall --no-deps"
        sys.exit(f"imgaug does not load ({error}). Try: {advice} 'opencv-python-headless<4.13'")
    folder.mkdir()
    constants = {name: value for name, value in globals().items() if name.isupper()}
    # A process that is forked from one with threads (TensorFlow's, say) can hang: spawn a new one.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(WORKERS, context, start_worker, (constants,))
    try:
        results = executor.map(augment_photo, rows, range(len(rows)), [folder] * len(rows))
        return list(chain.from_iterable(tqdm(results, "augmenting", len(rows), leave=False)))
    finally:
        executor.shutdown(cancel_futures=True)  # after Ctrl-C the rest is not done


def write_csv(file, rows, class_ids):
    """Write the rows under a header row."""
    with open(file, "w", newline="", encoding="utf-8") as csv_file:
        writer = csv.writer(csv_file, lineterminator="\n")
        writer.writerow([*Row._fields, "class_id"])
        for path, width, height, *corners, name in rows:
            corners = [f"{corner:.10g}" for corner in corners]
            writer.writerow([path, width, height, *corners, name, class_ids[name]])


def move(source, target):
    """Rename a file or a folder, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(source, target)


def replace_together(files):
    """Move files and folders, {new: target}, to their places; an error or Ctrl-C moves all back.

    From the first move to the last the last target is away, and training asks for it: a process
    that is killed in between leaves no old file beside a new one.
    """
    for target in files.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    away = [(target, new.with_suffix(".old")) for new, target in reversed(files.items())]
    with contextlib.ExitStack() as undo:
        for source, target in [*away, *files.items()]:
            undo.callback(move, target, source)
            move(source, target)
        undo.pop_all()


def print_summary(training, validation):
    """Print a table of the classes."""
    first, second = (Counter(row.class_name for row in rows) for rows in (training, validation))
    print("  photos  training  validation  class")
    for name in sorted(first):
        print(f"{first[name] + second[name]:8}{first[name]:10}{second[name]:12}  {name}")
    both = len(training) + len(validation)
    print(f"{both:8}{len(training):10}{len(validation):12}  all classes")


def main():
    """Read the XMLs, split the rows, augment if asked to, and replace both CSVs together."""
    check_constants()
    remove_leftovers()
    if not (ROOT / DATASET_FOLDER).is_dir():
        get_dataset()
    rows, counts = read_rows(find_xml_files())
    for reason, count in sorted(counts.items()):
        print(f"{count:8}  {reason}")
    training, validation = split_rows(rows)
    class_ids = {name: index for index, name in enumerate(sorted({row.class_name for row in rows}))}
    # All is made in a temporary folder and moved at the end: an interrupt leaves the old files.
    with tempfile.TemporaryDirectory(prefix="generating-", dir=ROOT) as folder:
        folder, copies = Path(folder), []
        files = {folder / "train": ROOT / TRAIN_CSV, folder / "validation": ROOT / VALIDATION_CSV}
        if AUGMENTATION:
            files = {folder / "copies": ROOT / AUGMENTED_FOLDER} | files
            copies = augment_photos(training, folder / "copies")
        write_csv(folder / "train", training + copies, class_ids)
        write_csv(folder / "validation", validation, class_ids)
        replace_together(files)
    print_summary(training, validation)
    print(f"{TRAIN_CSV}: {len(training)} photos and {len(copies)} augmented copies.")
    if AUGMENTATION and AUGMENTATION_DEBUG:
        print("AUGMENTATION_DEBUG drew the boxes on the copies: set it to False before you train.")
    print(f"{VALIDATION_CSV}: {len(validation)} photos. Next: python example_1/train_model.py")


if __name__ == "__main__":
    with contextlib.suppress(AttributeError):  # Jupyter's and IDLE's output prints all names
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except (KeyboardInterrupt, OSError) as error:
        why = str(error) or "interrupted"
        sys.exit(f"generate_dataset.py: {why}. The CSVs are both as before, or both new.")
