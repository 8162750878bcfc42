"""Turn photos and their Pascal VOC XMLs into train.csv and validation.csv.

    python generate_dataset.py

Edit the constants, then run. The CSVs have one row per photo: path (from this folder), width and
height, xmin, ymin, xmax and ymax of its box, class_name and class_id. Sizes and boxes are in pixels
of the photo, rotated as its EXIF orientation says; class_id counts the names in alphabetical order.
CSVs of your own need the same header row and columns, in UTF-8 with commas; paths may be absolute.
"""

import signal
import sys

if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("generate_dataset.py takes no arguments: edit DATASET_FOLDER and what is below.")
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the imports

import csv
import os
import re
import shutil
import socket
import tempfile
import unicodedata
from collections import Counter, defaultdict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from itertools import filterfalse, repeat
from multiprocessing.pool import ThreadPool
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import ExifTags, Image, ImageOps
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent  # all paths below are relative to this folder, or absolute
DATASET_FOLDER = "images"  # the photos, in it and in its folders
ANNOTATIONS_FOLDER = "annotations/xmls"  # their XMLs; None: they are in DATASET_FOLDER too
DOWNLOAD = True  # get the Oxford-IIIT Pet Dataset when DATASET_FOLDER does not exist
TRAIN_CSV = "train.csv"
VALIDATION_CSV = "validation.csv"
SPLIT_RATIO = 0.8  # share of the photos that is trained on, the others validate
SPLIT_FROM_FOLDERS = False  # True: folders train and valid, val or test are the split
GROUP_FROM = None  # r"lot_(\d{8})": photos in whose paths it finds the same are not split
SEED = 0  # another number, another split and other augmented photos
CLASS_FROM = "filename"  # "filename": Bengal_12.jpg is a Bengal; "object": the XML's <name>
CLASSES_KEPT = None  # or ["cat", "dog"]: objects of another <name> do not count
WORKERS = os.cpu_count()  # threads that check and augment photos

AUGMENTATION = False  # True adds changed copies of the training photos to TRAIN_CSV
AUGMENTATION_PER_IMAGE = 25  # tries for each photo; a try that cuts the box is dropped
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

    print(f"There is no {DATASET_FOLDER}: getting the Oxford-IIIT Pet Dataset.")
    print("For your own photos: Ctrl-C, and set DATASET_FOLDER to their folder.")
    socket.setdefaulttimeout(60)  # seconds that a server may be silent
    with tempfile.TemporaryDirectory(prefix="generating-", dir=ROOT) as folder:
        for name, md5 in ARCHIVES.items():
            archive = ROOT / name
            address = archive.as_uri() if archive.is_file() else ARCHIVES_ADDRESS + name
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


# Photos and their XMLs

CORNERS = ("xmin", "ymin", "xmax", "ymax")
Row = namedtuple("Row", ("path", "width", "height", *CORNERS, "class_name"))
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")  # not PostScript: it starts a program
ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic")


def list_files(top):
    """Return the files below a folder and its links, but no pipes and no ._ files of Apple's."""
    files, visited = [], set()
    for folder, folders, names in os.walk(os.path.normpath(top), onerror=print, followlinks=True):
        if os.path.realpath(folder) in visited:  # a link back
            folders.clear()
            continue
        visited.add(os.path.realpath(folder))
        folders.sort()
        paths = [os.path.join(folder, name) for name in names if not name.startswith("._")]
        files += filter(os.path.isfile, paths)
        for path in filterfalse(os.path.exists, paths):
            print(f"{path} is a link to what is not there")
    return files


def strip_name(path):
    """Return a photo's name in small letters, without folders and ending; a.v2 has no ending."""
    # A Mac may write an umlaut as two letters, in an archive too.
    name = Path(unicodedata.normalize("NFC", os.path.basename(path).lower()))
    return name.stem if name.suffix in ENDINGS else name.name


def is_beside(photo, xml):
    """Return whether a photo is in its XML's folder, or at the same place below DATASET_FOLDER."""
    top, place = ROOT / DATASET_FOLDER, os.path.dirname(xml)
    mirrored = os.path.normpath(top / os.path.relpath(place, ROOT / (ANNOTATIONS_FOLDER or top)))
    return os.path.dirname(photo) in (place, mirrored)


def find_photo(xml, annotation, photos):
    """Return an XML's photo, of those by name, and whether its <filename> is another one."""
    # An XML is renamed with its photo, not what it says, so that its own name counts first.
    said = [annotation.findtext(tag, "").strip().replace("\\", "/") for tag in ("filename", "path")]
    found = [photos.get(strip_name(name), []) for name in (Path(xml).stem, *said)]
    if not any(found):
        raise ValueError(f"the photo is missing: no {Path(xml).stem}.* and no {said[0] or 'other'}")
    top = ROOT / DATASET_FOLDER
    texts = os.path.relpath(os.path.dirname(xml), top), " ".join(said)

    def rate(photo):  # what counts most comes first
        folder, name = os.path.split(photo)
        words = set(re.findall(r"[^\W_]+", os.path.relpath(folder, top)))  # two in train_images
        common = (len(words.intersection(re.findall(r"[^\W_]+", text))) for text in texts)
        return is_beside(photo, xml), name in map(os.path.basename, said), *common

    best, *others = sorted(next(filter(None, found)), key=rate, reverse=True)
    if others and rate(best) == rate(others[0]):
        raise ValueError(f"photos of one name, none nearer to the XML: {best}, {others[0]}")
    return best, bool(found[1]) and best not in found[1]


def check_photo(file):
    """Read a photo as training does, but fast; return its rotated size, orientation, thumbnail."""
    try:
        with Image.open(file, formats=FORMATS) as photo:
            size, orientation = photo.size, photo.getexif().get(ExifTags.Base.Orientation)
            photo.draft("L", (1, 1))  # reads a JPEG to its end, but makes an eighth of it, in grey
            if photo.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel, save it with 8")
            rotated = ImageOps.exif_transpose(photo).convert("RGB").convert("L")
            # 5 to 8 are quarter turns. Asked for again, because Pillow turns a TIFF by itself.
            if photo.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
                size = size[::-1]
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        reason = "the photo does not decode"
        if Path(file).read_bytes()[4:8] == b"ftyp":
            reason = "the photo is HEIC, convert it by sips (Mac) or heif-convert (Linux)"
        raise ValueError(f"{reason}: {file}: {error}") from error
    grey = np.asarray(rotated.resize((16, 16), Image.Resampling.BOX), "float32").ravel()
    grey = grey - grey.mean()
    return size, orientation, grey / max(np.linalg.norm(grey), 1)


def read_xml(file):
    """Return an XML's root, without namespaces; ValueError if it is no Pascal VOC."""
    content = Path(file).read_bytes()
    try:
        root = ElementTree.fromstring(content)
    except (SyntaxError, ValueError):  # not UTF-8, or GBK as it says: the numbers can be read
        encoding = re.findall(rb"\A<\?xml[^>]*encoding=.([\w-]+)", content) or [b"utf-8"]
        root = ElementTree.fromstring(content.decode(encoding[0].decode(), errors="replace"))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.tag != "annotation" and root.find("object") is None:
        tool = "CVAT's own XML" if root.find("image") is not None else f"XML of <{root.tag}>"
        raise ValueError(f"this is {tool}, export as Pascal VOC")
    return root


def read_boxes(objects, size, turn):
    """Return boxes (n, 4) in a photo of this (width, height), turned by EXIF, and faults (n)."""
    texts = [[item.findtext(f"bndbox/{name}") or "nan" for name in CORNERS] for item in objects]
    boxes = np.char.replace(texts, ",", ".").astype(float)  # some computers write 30,5
    if turn:
        boxes = boxes[:, [1, 0, 3, 2]]  # x is y, from the other side where a flip is part of it
        for axis in {5: (), 6: (0,), 7: (0, 1), 8: (1,)}[turn]:
            boxes[:, [axis, axis + 2]] = size[axis] - boxes[:, [axis + 2, axis]]
    is_outside = (boxes < -1) | (boxes > np.add((*size, *size), 1))  # some tools count from 1
    clipped = boxes.clip(0, (*size, *size)).round(2)
    faults = {  # the first that is true
        "no numbers in <bndbox>, a polygon perhaps, export as Pascal VOC": np.isnan(boxes),
        "the box is outside of the photo": is_outside,
        "the box is inverted or within a pixel": clipped[:, 2:] - clipped[:, :2] <= 1,
    }
    reasons = np.select([fault.any(axis=1) for fault in faults.values()], [*faults], "")
    return np.where(reasons[:, None] == "", clipped, boxes), reasons


def read_row(photo, annotation):
    """Return the row of an XML's largest object, the photo's thumbnail, and what to count."""
    size, orientation, thumbnail = check_photo(photo)
    said = [annotation.findtext(f"size/{side}") or "0" for side in ("width", "height")]
    said = [float(text.replace(",", ".")) for text in said]
    # 0 says nothing, a pixel off is labelImg's. Another size: it was drawn on another picture.
    fits, fits_stored = (0 in said or np.allclose(said, s, 0, 1) for s in (size, size[::-1]))
    fits_stored = fits_stored and orientation in (5, 6, 7, 8)
    if not fits and not fits_stored:
        raise ValueError(f"the XML's size is not the photo's: {said} and {size}")
    objects = [(item, item.findtext("name", "").strip()) for item in annotation.findall("object")]
    found = sorted({name for _, name in objects})
    objects = [item for item in objects if CLASSES_KEPT is None or item[1] in list(CLASSES_KEPT)]
    if not objects:
        raise ValueError(f"no <object>, or none of CLASSES_KEPT: {found}")
    boxes, faults = read_boxes([item for item, _ in objects], size, None if fits else orientation)
    areas = np.where(faults == "", np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), 0)
    if not areas.any():
        raise ValueError(f"{faults[0]}: {boxes[0]} in {size}")
    notes = [f"objects left out: {fault}" for fault in faults if fault]
    if np.count_nonzero(areas) > 1:
        notes.append("photos with several objects: the largest is taken")
    if orientation in (2, 3, 4) or (fits and fits_stored):
        notes.append("photos are turned by EXIF and their XMLs do not say whether the boxes are")
    names = {"filename": Path(photo).stem.rpartition("_")[0], "object": objects[areas.argmax()][1]}
    name = names[CLASS_FROM]
    if not name and CLASS_FROM == "filename":
        raise ValueError('no class before a _ in the photo\'s name: set CLASS_FROM = "object"')
    if not name or "\ufffd" in name:  # that is where an XML is not UTF-8
        raise ValueError(f"no class, or not in UTF-8, by CLASS_FROM = {CLASS_FROM!r}: {name}")
    path = photo.removeprefix(str(ROOT) + os.sep).replace(os.sep, "/")
    path.encode()  # raises for a name that is no UTF-8, which the CSV could not hold
    return Row(path, *size, *boxes[areas.argmax()].tolist(), name), thumbnail, notes


# Augmented copies


def augment_photo(row, number, folder):
    """Write the changed copies of one photo into `folder`; return their rows."""
    from imgaug import BoundingBox, BoundingBoxesOnImage
    from imgaug import augmenters as iaa

    size, rows = (AUGMENTED_SIZE, AUGMENTED_SIZE), []
    with Image.open(ROOT / row.path, formats=FORMATS) as photo:
        photo.draft("RGB", size)
        photo = np.asarray(ImageOps.exif_transpose(photo).convert("RGB").resize(size))
    box = BoundingBox(row.xmin, row.ymin, row.xmax, row.ymax)
    boxes = BoundingBoxesOnImage([box], (row.height, row.width)).on(photo)  # scaled
    zoom = [iaa.Affine(scale=(0.4, 1.6)), iaa.Crop(percent=(0, 0.2))]
    flip = [iaa.Fliplr(0.5), iaa.Flipud(0.5)]
    turn = [iaa.Sometimes(0.5, iaa.Affine(rotate=(-45, 45), shear=(-16, 16)))]
    colour = [iaa.AddToHueAndSaturation((-30, 30)), iaa.Sometimes(0.1, iaa.AddToHue((-255, 255)))]
    light = [iaa.Multiply((0.8, 1.2), per_channel=0.2), iaa.GaussianBlur((0, 1))]
    augmenter = iaa.Sequential(zoom + flip + turn + colour + light)
    # From SEED and the photo's number, so that it does not matter which thread does it.
    augmenter.seed_(int(np.random.default_rng((SEED, number)).integers(2**31)))
    for index in range(AUGMENTATION_PER_IMAGE):
        copy, (box,) = augmenter(image=photo, bounding_boxes=boxes)
        if box.is_fully_within_image(copy):
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
    """Return the photos' thumbnails by row, and print what was skipped and why."""
    files = list_files(ROOT / DATASET_FOLDER)
    more = list_files(ROOT / ANNOTATIONS_FOLDER) if ANNOTATIONS_FOLDER else []
    xmls = {file for file in files + more if file.lower().endswith(".xml")}
    photos, rows, taken, errors, counts = defaultdict(list), {}, {}, {}, Counter()
    for file in files:
        photos[strip_name(file)].append(file)

    def rate(xml):  # first those with a photo of their own name, most of all beside them
        own = photos.get(strip_name(xml[:-4]), [])
        return not any(is_beside(photo, xml) for photo in own), not own, xml

    # Threads are enough: Pillow decodes outside of Python's lock. At Ctrl-C a pool stops at once.
    with ThreadPool(WORKERS) as pool:
        for xml in sorted(xmls, key=rate):  # lest another XML takes their photo
            try:
                annotation = read_xml(xml)
                photo, is_other = find_photo(xml, annotation, photos)
                if photo in taken:
                    raise ValueError(f"a second XML for the same photo: {photo}")
                taken[photo] = xml, pool.apply_async(read_row, (photo, annotation))
                counts["XMLs whose <filename> is another photo: their own name counts"] += is_other
            except (SyntaxError, ValueError, LookupError, OSError) as error:
                errors[xml] = error
        for xml, result in tqdm(taken.values(), "checking", leave=False):
            try:
                row, thumbnail, notes = result.get()
                rows[row] = thumbnail
                counts.update(notes)
            except (ValueError, OSError) as error:
                errors[xml] = error
    for xml, error in sorted(errors.items()):
        print(f"skipped {xml}: {error}", file=sys.stderr)
        counts[f"skipped: {str(error).partition(':')[0]}"] += 1
    failed = {strip_name(xml[:-4]) for xml in errors}
    without = [file for file in files if file not in taken and strip_name(file) not in failed]
    without = [file for file in without if file.lower().endswith(ENDINGS)]
    is_other = without and any(file.endswith((".txt", ".json")) for file in files)
    advice = " (of YOLO's .txt, COCO's .json? Export as Pascal VOC)" if is_other else ""
    example = f", such as {without[0]}" if without else ""
    counts[f"photos without an XML{example}{advice}"] = len(without)
    for reason, number in sorted((+counts).items()):  # + drops zeros
        print(f"{number:8}  {reason}")
    if not xmls:
        folders = " or ".join(filter(None, (DATASET_FOLDER, ANNOTATIONS_FOLDER)))
        sys.exit(f"No XML below {folders}: label with labelImg, or export as Pascal VOC.")
    return rows


def split_by_groups(rows):
    """Return training and validation rows of other groups: the best of 100 draws."""
    matches = [re.search(GROUP_FROM, row.path) for row in rows]
    groups = [match[1] if match else row.path for row, match in zip(rows, matches)]
    if not 1 < len(set(groups)) < len(rows):
        sys.exit(f"GROUP_FROM finds {len(set(groups))} group(s) in {len(rows)} photos: edit it.")

    def rate(split):  # classes on one side only, then photos too many or too few
        first, second = ({rows[index].class_name for index in side} for side in split)
        return len(first ^ second), abs(len(split[0]) - SPLIT_RATIO * len(rows))

    draws = GroupShuffleSplit(100, test_size=1 - SPLIT_RATIO, random_state=SEED)
    best = min(draws.split(rows, groups=groups), key=rate)
    return [[rows[index] for index in side] for side in best]


def split_at_random(rows):
    """Return training and validation rows, each class in both in the same proportion."""
    counts = Counter(row.class_name for row in rows)
    singles = [row for row in rows if counts[row.class_name] == 1]  # are trained on
    rows = [row for row in rows if counts[row.class_name] > 1]
    names = [row.class_name for row in rows]
    classes = len(set(names))  # each needs a photo on both sides
    if not classes:
        return singles, []
    size = np.clip(len(rows) - int(SPLIT_RATIO * len(rows)), classes, len(rows) - classes)
    training, validation = train_test_split(rows, test_size=size, stratify=names, random_state=SEED)
    # Stratification rounds, and may leave a rare class out on one side: move a photo of it there.
    for few, many in ((training, validation), (validation, training)):
        for name in sorted(set(names) - {row.class_name for row in few}):
            few.append(next(row for row in many if row.class_name == name))
            many.remove(few[-1])
    return training + singles, validation


def split_rows(rows):
    """Return training and validation rows, sorted."""
    sides = defaultdict(list)
    for row in rows:
        folder = re.search(
            r"/(train|val|test)(id|idate|idation|ing)?/",
            "/" + row.path.removeprefix(DATASET_FOLDER).lower(),
        )
        sides[folder and folder[1]].append(row)
    training, validation = sides["train"], sides["val"] or sides["test"]
    if SPLIT_FROM_FOLDERS:
        print(f"{len(rows) - len(training) - len(validation):8}  photos of other folders left out")
    else:
        if training and validation:
            print("To keep the split of folders train and val or test: SPLIT_FROM_FOLDERS = True")
        training, validation = (split_by_groups if GROUP_FROM else split_at_random)(rows)
    names = {row.class_name for row in training}
    for name in sorted(names ^ {row.class_name for row in validation}):
        print(f"warning: class {name} is on one side of the split only.", file=sys.stderr)
    validation = [row for row in validation if row.class_name in names]
    if not validation:
        sys.exit(f"Too few usable photos to split in {DATASET_FOLDER}: the lines above say why.")
    return sorted(training), sorted(validation)


def warn_of_copies(training, validation, thumbnails):
    """Say how many validation photos look like a training photo, as in films and bursts."""
    first, second = (np.array([thumbnails[row] for row in rows]) for rows in (validation, training))
    likeness = first @ second.T  # correlations: of pets and 4770 other photos at most 0.84
    alike = (likeness.max(axis=1) > 0.9).sum()  # half of a film's are above 0.95
    if alike > 0.05 * len(validation):
        row, column = np.unravel_index(likeness.argmax(), likeness.shape)
        pair = f"{validation[row].path} and {training[column].path}"
        text = f"{alike} of {len(validation)} validation photos look like a training photo ({pair})"
        print(f"warning: {text}: the IoU will be too high. See GROUP_FROM.", file=sys.stderr)


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
    if SPLIT_RATIO <= 0 or SPLIT_RATIO >= 1:  # would be clipped
        sys.exit(f"SPLIT_RATIO is the share that is trained on, as 0.8, and not {SPLIT_RATIO}.")
    photos = ROOT / DATASET_FOLDER
    if not photos.is_dir():
        is_there = photos.exists() or any(path.is_symlink() for path in (photos, *photos.parents))
        if is_there or not DOWNLOAD or ANNOTATIONS_FOLDER in (None, DATASET_FOLDER):
            sys.exit(f"{photos} is no folder: set DATASET_FOLDER. A link? Is its disk mounted?")
        get_dataset()
    augmented = ROOT / AUGMENTED_FOLDER
    if AUGMENTATION and augmented.exists():
        sys.exit(f"{augmented} exists: rename or delete it, or set AUGMENTED_FOLDER to another.")
    thumbnails = read_rows()
    training, validation = split_rows(sorted(thumbnails))
    warn_of_copies(training, validation, thumbnails)
    training_counts = Counter(row.class_name for row in training)
    validation_counts = Counter(row.class_name for row in validation)
    spellings = Counter(name.lower() for name in training_counts)
    class_ids = {name: index for index, name in enumerate(sorted(training_counts))}
    with tempfile.TemporaryDirectory(prefix="generating-", dir=ROOT) as folder:
        copies = augment_photos(training, Path(folder, "copies")) if AUGMENTATION else []
        write_csv(f"{folder}/train.csv", training + copies, class_ids)
        write_csv(f"{folder}/validation.csv", validation, class_ids)
        for new, old in (("train.csv", TRAIN_CSV), ("validation.csv", VALIDATION_CSV)):
            new, old = Path(folder, new), ROOT / old
            if not old.is_file() or new.read_bytes() != old.read_bytes():
                os.replace(new, old)  # one that is the same stays older than its training
        if AUGMENTATION:  # last: after a kill before it training says which copies are missing
            shutil.move(f"{folder}/copies", augmented)
    print("  photos  training  validation  class")
    for name in class_ids:
        first, second = training_counts[name], validation_counts[name]
        note = "  warning: also spelled otherwise" if spellings[name.lower()] > 1 else ""
        print(f"{first + second:8}{first:10}{second:12}  {name}{note}")
    print(f"{TRAIN_CSV}: {len(training)} photos and {len(copies)} augmented copies.")
    print(f"{VALIDATION_CSV}: {len(validation)} photos. Next: python example_1/train_model.py")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, on_interrupt)
    if hasattr(sys.stdout, "reconfigure"):  # Jupyter's prints all letters, a console may not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except (KeyboardInterrupt, OSError) as error:
        sys.exit(f"generate_dataset.py: {str(error) or 'interrupted'}. No CSV is half written.")
