"""Turn photos and their Pascal VOC XMLs into train.csv and validation.csv.

    python generate_dataset.py

Edit the constants, then run. The CSVs have a row for each object, a photo's largest first: path
(from this folder), width and height, xmin, ymin, xmax and ymax of its box, class_name and class_id.
A photo without an object has a row without a box. Sizes and boxes are in pixels of the photo,
rotated as its EXIF orientation says; class_id numbers the sorted names from 0. CSVs of your own
need the same header row, columns and order, in UTF-8 with commas; paths may be absolute.
"""

import csv
import os
import re
import shutil
import socket
import sys
from collections import Counter, defaultdict, namedtuple
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import ExifTags, Image, ImageOps
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent  # all paths below are relative to this folder, or absolute
DATASET_FOLDER = "images"  # the photos; while there are no images the Pet Dataset is downloaded
ANNOTATIONS_FOLDER = "annotations/xmls"  # their XMLs; None: beside the photos, in DATASET_FOLDER
TRAIN_CSV = "train.csv"
VALIDATION_CSV = "validation.csv"
SPLIT_RATIO = 0.8  # share of the photos, with all their objects, to train on; the others validate
SPLIT_FROM_FOLDERS = False  # True: folders train and valid, val or test are the split
GROUP_FROM = None  # r"lot_(\d{8})": photos with the same first group stay together
SEED = 0  # another number, another split and other augmented photos
CLASS_FROM = "filename"  # "filename": Bengal_12.jpg is a Bengal; "object": the XML's <name>
CLASSES_KEPT = None  # or ["cat", "dog"]: objects of another <name> do not count
EMPTY_FOLDER = None  # no photo in it shows an object; they need no XML: example 2 learns from them

AUGMENTATION = False  # True adds changed copies of the training photos to TRAIN_CSV
AUGMENTATION_PER_IMAGE = 25  # tries for each photo; a try that cuts the box is dropped
AUGMENTED_FOLDER = "augmented"  # where the copies go: a folder that does not exist yet
AUGMENTED_SIZE = 224  # width and height of the copies in pixels

ARCHIVES_ADDRESS = "https://thor.robots.ox.ac.uk/~vgg/data/pets/"
ARCHIVES = {  # name: MD5
    "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
    "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
}


def get_dataset():
    """Download the dataset's two archives, unpack them, and put its folders in their places."""
    from keras.utils import get_file  # takes seconds, and is needed only here

    print(f"There is no {DATASET_FOLDER}: getting the Oxford-IIIT Pet Dataset (Ctrl-C to stop).")
    socket.setdefaulttimeout(60)  # seconds that a server may be silent
    options = {"extract": True, "cache_dir": ROOT, "cache_subdir": "oxford_pets"}
    # The photos last: a run that is stopped before them starts here again.
    folders = {"annotations/xmls": ROOT / ANNOTATIONS_FOLDER, "images": ROOT / DATASET_FOLDER}
    for (name, md5), (source, target) in zip(ARCHIVES.items(), folders.items()):
        address = ARCHIVES_ADDRESS + name
        try:  # an archive that is there is taken, if its MD5 is right
            unpacked = get_file(name, address, file_hash=md5, **options)
        except Exception as error:  # Keras raises a bare Exception when there is no network
            sys.exit(f"{error}. Put {address} into {ROOT}/oxford_pets; for drawn photos: make demo")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(Path(unpacked, source), target)


# Which photo an XML belongs to

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic")


def list_files(top):
    """Return the files below a folder, but no pipes and no ._ files of a Mac."""
    return [str(path) for path in sorted(Path(top).rglob("[!.]*")) if path.is_file()]


def strip_name(path):
    """Return a photo's name in small letters, without folders and ending; a.v2 has no ending."""
    name = Path(re.split(r"[\\/]", path.lower())[-1])
    return name.stem if name.suffix in ENDINGS else name.name


def rate_nearness(xml, photo):
    """Return how many words their folders have in common at both ends: train_images has two."""
    first, second = (re.findall(r"[^\W_]+", os.path.dirname(file).lower()) for file in (xml, photo))
    near = int(first == second)
    for end in (0, -1):
        while first and second and first[end] == second[end]:
            del first[end], second[end]
            near += 1
    return near


def find_photos(annotations, photos):
    """Return {xml: photo} of {xml: root} and {name: photos}, and {xml: why it has no photo}."""
    own_names = {strip_name(xml[:-4]) for xml in annotations}
    pairs, nearest, partners, matches, errors = [], {}, defaultdict(list), {}, {}
    for xml, root in annotations.items():
        # An XML is renamed with its photo, what it says is not: so its own name counts first.
        stated = [root.findtext(tag, "").strip().lower() for tag in ("filename", "path")]
        others = [name for name in map(strip_name, stated) if name not in own_names]
        names = [name for name in (strip_name(xml[:-4]), *others) if name in photos]
        found = photos[names[0]] if names else []
        found = [file for file in found if os.path.dirname(file) == os.path.dirname(xml)] or found
        endings = [Path(path).suffix for path in stated]  # a.jpg, and not its mask a.png
        found = [file for file in found if Path(file).suffix.lower() in endings] or found
        pairs += [(rate_nearness(xml, photo), xml, photo) for photo in found]
        errors[xml] = f"the photo is missing: none is called {Path(xml).stem} or {stated[0]}"
    # Folders of XMLs and of photos go together, the nearest first, and neither with a farther one
    # then: so an XML whose photo was deleted takes none of another export.
    for near, xml, photo in sorted(pairs, reverse=True):
        errors[xml] = f"the photo is missing: {photo} belongs to another folder's XMLs"
        folders = ("XMLs", os.path.dirname(xml)), ("photos", os.path.dirname(photo))
        if all(nearest.get(folder, near) == near for folder in folders):
            nearest.update(dict.fromkeys(folders, near))
            partners[xml].append(photo)
            partners[photo].append(xml)
    for xml in annotations:
        rivals = [rival for photo in partners[xml] for rival in partners[photo]]
        if rivals == [xml]:
            matches[xml] = partners[xml][0]
            del errors[xml]
        elif rivals:
            advice = "set DATASET_FOLDER and ANNOTATIONS_FOLDER one folder deeper"
            errors[xml] = f"equally near photos or XMLs ({advice}): {partners[xml]}, {rivals}"
    return matches, errors


CORNERS = ("xmin", "ymin", "xmax", "ymax")
Row = namedtuple("Row", ("path", "width", "height", *CORNERS, "class_name"))
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")  # not PostScript: it starts a program


def read_xml(file):
    """Return an XML's root; ValueError if it is not Pascal VOC."""
    content = Path(file).read_bytes()
    try:
        root = ElementTree.fromstring(content)
    except (SyntaxError, ValueError):  # not UTF-8, or GBK as it says: the numbers can be read
        encoding = re.findall(rb"\A<\?xml[^>]*encoding=.([\w-]+)", content) or [b"utf-8"]
        root = ElementTree.fromstring(content.decode(encoding[0].decode(), errors="replace"))
    if root.tag != "annotation" and root.find("object") is None:  # such as CVAT's own
        raise ValueError(f"this is <{root.tag}> XML, not Pascal VOC")
    return root


def check_photo(file):
    """Read a photo as training does; return its rotated size, its orientation and a thumbnail."""
    try:
        with Image.open(file, formats=FORMATS) as photo:
            orientation = photo.getexif().get(ExifTags.Base.Orientation)
            if photo.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel, save it with 8")
            rotated = ImageOps.exif_transpose(photo).convert("RGB")
    except Exception as error:  # each of Pillow's decoders raises errors of its own
        is_heic = Path(file).read_bytes()[4:8] == b"ftyp"
        reason = "is HEIC or AVIF, convert it to JPEG" if is_heic else "cannot be read"
        raise ValueError(f"the photo {reason}: {file}: {error}") from error
    thumbnail = rotated.convert("L").resize((16, 16), Image.Resampling.BOX)
    grey = np.asarray(thumbnail, "float32").ravel()
    return rotated.size, orientation, (grey - grey.mean()) / max(grey.std() * 16, 1)


def read_box(item, size, turn):
    """Return an <object>'s corners in a photo, in which EXIF orientation `turn` is to turn them."""
    if item.find("bndbox") is None:
        raise ValueError("no <bndbox>, a polygon perhaps, export as Pascal VOC")
    rotations = ("bndbox/rotation", ".//attribute[name='rotation']/value")  # the second is CVAT's
    if any(float(item.findtext(rotation) or 0) for rotation in rotations):
        raise ValueError("the box is rotated, draw it upright")
    box = np.array([float(item.findtext(f"bndbox/{name}", "")) for name in CORNERS])
    if turn:
        box = box[[1, 0, 3, 2]]
    if turn in (6, 7):  # x is from the other side
        box[[0, 2]] = size[0] - box[[2, 0]]
    if turn in (7, 8):
        box[[1, 3]] = size[1] - box[[3, 1]]
    clipped = box.clip(0, size * 2).round(2)
    if not (np.abs(clipped - box) < 1.01).all():  # a pixel: some tools count from 1
        raise ValueError(f"the box is outside of the photo: {box} in {size}")
    if (clipped[2:] - clipped[:2]).min() <= 1:
        raise ValueError(f"the box is inverted or within a pixel: {box}")
    return clipped


def read_objects(photo, annotation):
    """Return the rows of an XML's objects, the photo's thumbnail, and what to count."""
    size, orientation, thumbnail = check_photo(photo)
    stored_size = size[::-1] if orientation in (5, 6, 7, 8) else size  # quarter turns
    texts = annotation.findtext("size/width"), annotation.findtext("size/height")
    declared_size = [float(text or 0) for text in texts]
    # 0 says nothing, a pixel off is labelImg's. Another size: it was drawn on another picture.
    matches = 0 in declared_size or np.allclose(declared_size, size, 0, 1)
    matches_stored = 0 in declared_size or np.allclose(declared_size, stored_size, 0, 1)
    if not matches and not matches_stored:
        raise ValueError(f"the XML's size is not the photo's: {declared_size} and {size}")
    path = photo.removeprefix(str(ROOT) + os.sep).replace(os.sep, "/")
    rows, faults = [], []
    for item in annotation.findall("object"):
        label = item.findtext("name", "").strip()
        name = {"filename": Path(photo).stem.rpartition("_")[0], "object": label}[CLASS_FROM]
        try:
            if CLASSES_KEPT is not None and label not in list(CLASSES_KEPT):
                raise ValueError(f"not in CLASSES_KEPT: {label}")
            if not name or "\ufffd" in name:  # that is where an XML is not UTF-8
                advice = '"filename" needs a _ in the name, "object" a <name> in UTF-8'
                raise ValueError(f"no class by CLASS_FROM ({advice}): {name}")
            box = read_box(item, size, None if matches else orientation)
            rows.append(Row(path, *size, *box.tolist(), name))
        except ValueError as error:
            faults.append(str(error))
    if faults and not rows:
        raise ValueError(faults[0])
    rows.sort(key=lambda row: (row.xmax - row.xmin) * (row.ymax - row.ymin), reverse=True)
    notes = [f"objects left out: {fault.partition(':')[0]}" for fault in faults]
    if len(rows) != 1:
        notes.append(f"photos with {'several objects' if rows else 'no object'}")
    if matches and matches_stored and orientation in range(2, 9):
        notes.append("photos are rotated by EXIF, and it is unclear whether their boxes are")
    return rows or [Row(path, *size, *[""] * 4, "")], thumbnail, notes


def read_rows():
    """Return photos' rows and thumbnails by their first row; print what was skipped and why."""
    files = list_files(ROOT / DATASET_FOLDER)
    xmls = list_files(ROOT / ANNOTATIONS_FOLDER) if ANNOTATIONS_FOLDER else files
    xmls = [file for file in xmls if file.lower().endswith(".xml")]
    photos, annotations, errors, found, counts = defaultdict(list), {}, {}, {}, Counter()
    empty = {*list_files(ROOT / EMPTY_FOLDER)} if EMPTY_FOLDER else set()
    for file in files:
        if file.lower().endswith(ENDINGS) and file not in empty:
            photos[strip_name(file)].append(file)
    for xml in xmls:
        try:
            annotations[xml] = read_xml(xml)
        except (SyntaxError, ValueError, LookupError, OSError) as error:
            errors[xml] = error
    matches, missing = find_photos(annotations, photos)
    errors.update(missing)
    for file in empty:
        if file.lower().endswith(ENDINGS):
            matches[file], annotations[file] = file, ElementTree.Element("annotation")
    for xml, photo in tqdm(matches.items(), "checking", leave=False):
        try:
            rows, thumbnail, notes = read_objects(photo, annotations[xml])
            found[rows[0]] = rows, thumbnail
            counts.update(notes)
        except (ValueError, OSError) as error:
            errors[xml] = error
    for xml, error in sorted(errors.items()):
        print(f"skipped {xml}: {error}", file=sys.stderr)
        counts[f"skipped: {str(error).partition(':')[0]}"] += 1
    labelled = {strip_name(file) for file in (*matches.values(), *(xml[:-4] for xml in xmls))}
    without = [file for name in sorted(photos.keys() - labelled) for file in photos[name]]
    if without:
        counts[f"photos without an XML, such as {without[0]}"] = len(without)
    for reason, number in sorted(counts.items()):
        print(f"{number:8}  {reason}")
    if not xmls:
        folder = ANNOTATIONS_FOLDER or DATASET_FOLDER
        sys.exit(f"No XML below {folder}. If they are in DATASET_FOLDER: ANNOTATIONS_FOLDER = None")
    return found


def rate_split(split):
    """Return how many classes are on one side only, and how many photos it is off SPLIT_RATIO."""
    first, second = ({row.class_name for row in side} for side in split)
    return len(first ^ second), abs(len(split[0]) - SPLIT_RATIO * sum(map(len, split)))


def split_by_groups(rows):
    """Return training and validation rows of other groups: the best of 100 draws."""
    matches = [re.search(GROUP_FROM, row.path) for row in rows]
    groups = [match[1] if match else row.path for row, match in zip(rows, matches)]
    print(f"{matches.count(None):8}  photos in which GROUP_FROM finds no group")
    if not 1 < len(set(groups)) < len(rows):
        sys.exit(f"GROUP_FROM finds {len(set(groups))} group(s) in {len(rows)} photos: edit it.")
    draws = GroupShuffleSplit(100, test_size=1 - SPLIT_RATIO, random_state=SEED)
    splits = draws.split(rows, groups=groups)
    return min(([[rows[i] for i in side] for side in split] for split in splits), key=rate_split)


def split_at_random(rows):
    """Return training and validation rows, each class in both in the same proportion."""
    counts = Counter(row.class_name for row in rows)
    singles = [row for row in rows if counts[row.class_name] == 1]  # are trained on
    rows = [row for row in rows if counts[row.class_name] > 1]
    names = [row.class_name for row in rows]
    if not rows:
        return singles, []
    assert SPLIT_RATIO < 1, "SPLIT_RATIO is a share, such as 0.8"
    size = max(len(rows) - int(SPLIT_RATIO * len(rows)), len(set(names)))
    training, validation = train_test_split(rows, test_size=size, stratify=names, random_state=SEED)
    return training + singles, validation


def split_rows(rows):
    """Return training and validation rows, sorted."""
    sides = defaultdict(list)
    for row in rows:
        path = os.path.relpath(ROOT / row.path, ROOT / DATASET_FOLDER).replace(os.sep, "/")
        side = re.search(r"/(train|val|test)(id|idate|idation|ing)?/", f"/{path.lower()}")
        sides[side and side[1]].append(row)
    training, validation = sides["train"], sides["val"] or sides["test"]
    if SPLIT_FROM_FOLDERS:
        print(f"{len(rows) - len(training) - len(validation):8}  photos of other folders left out")
    else:
        training, validation = (split_by_groups if GROUP_FROM else split_at_random)(rows)
    return sorted(training), sorted(validation)


def warn_of_copies(training, validation, photos):
    """Say how many validation photos look like a training photo, as in films and bursts."""
    first, second = (np.array([photos[row][1] for row in rows]) for rows in (validation, training))
    likeness = first @ second.T  # correlations: of pets and 4770 other photos at most 0.84
    alike = (likeness.max(axis=1) > 0.9).sum()  # half of a film's are above 0.95
    if alike > 0.05 * len(validation):
        row, column = np.unravel_index(likeness.argmax(), likeness.shape)
        pair = f"{validation[row].path} and {training[column].path}"
        text = f"{alike} of {len(validation)} validation photos resemble a training photo ({pair})"
        print(f"warning: {text}: the IoU will be too high. See GROUP_FROM.", file=sys.stderr)


def augment_photos(rows):
    """Write changed copies of the photos with objects into AUGMENTED_FOLDER; return their rows."""
    from imgaug import BoundingBox, BoundingBoxesOnImage
    from imgaug import augmenters as iaa

    steps = [iaa.Affine(scale=(0.4, 1.6)), iaa.Crop(percent=(0, 0.2))]
    steps += [iaa.Fliplr(0.5), iaa.Flipud(0.5)]
    steps += [iaa.Sometimes(0.5, iaa.Affine(rotate=(-45, 45), shear=(-16, 16)))]
    steps += [iaa.AddToHueAndSaturation((-30, 30)), iaa.Sometimes(0.1, iaa.AddToHue((-255, 255)))]
    steps += [iaa.Multiply((0.8, 1.2), per_channel=0.2), iaa.GaussianBlur((0, 1))]
    augmenter = iaa.Sequential(steps)
    augmenter.seed_(SEED)
    size, copies = (AUGMENTED_SIZE, AUGMENTED_SIZE), []
    (ROOT / AUGMENTED_FOLDER).mkdir(parents=True)
    (ROOT / TRAIN_CSV).unlink(missing_ok=True)  # copies of the same names had other boxes
    photos = groupby([row for row in rows if row.class_name], key=lambda row: row.path)
    for number, (path, rows) in enumerate(tqdm(photos, "augmenting")):
        rows = list(rows)
        with Image.open(ROOT / path, formats=FORMATS) as photo:
            photo = np.asarray(ImageOps.exif_transpose(photo).convert("RGB").resize(size))
        boxes = [BoundingBox(*row[3:7], label=row.class_name) for row in rows]
        boxes = BoundingBoxesOnImage(boxes, (rows[0].height, rows[0].width)).on(photo)  # scaled
        for index in range(AUGMENTATION_PER_IMAGE):
            copy, found = augmenter(image=photo, bounding_boxes=boxes)
            if not found[0].is_fully_within_image(copy):  # the largest
                continue
            path = f"{AUGMENTED_FOLDER}/augmented_{number:05d}_{index:02d}.jpg"
            Image.fromarray(copy).save(ROOT / path, quality=90)
            for box in found.remove_out_of_image_fraction(0.5).clip_out_of_image():
                corners = [round(float(corner), 2) for corner in (box.x1, box.y1, box.x2, box.y2)]
                if min(box.width, box.height) > 1:
                    copies.append(Row(path, *size, *corners, box.label))
    return copies


def main():
    """Read, split and write; each CSV is replaced when the new one is whole."""
    photos = ROOT / DATASET_FOLDER
    if DATASET_FOLDER == "images" and not photos.exists():
        get_dataset()
    for folder in (photos, ROOT / (EMPTY_FOLDER or DATASET_FOLDER)):
        if not folder.is_dir():
            sys.exit(f"{folder} is not a folder: set DATASET_FOLDER or EMPTY_FOLDER.")
    found = read_rows()
    sides = split_rows(sorted(found))
    training, validation = ([row for first in side for row in found[first][0]] for side in sides)
    first, second = (Counter(row.class_name for row in side) for side in (training, validation))
    for name in sorted((first.keys() ^ second.keys()) - {""}):
        print(f"warning: class {name} is only in training or only in validation.", file=sys.stderr)
    validation = [row for row in validation if row.class_name in {*first, ""}]
    if not any(row.class_name for row in validation):
        sys.exit(f"Too few usable photos to split in {DATASET_FOLDER}: the lines above say why.")
    warn_of_copies(*sides, found)
    class_ids = {name: i for i, name in enumerate(sorted(first.keys() - {""}))}

    copies = augment_photos(training) if AUGMENTATION else []
    for file, side in ((TRAIN_CSV, training + copies), (VALIDATION_CSV, validation)):
        unfinished = ROOT / f"{file}.unfinished"
        with open(unfinished, "w", newline="", encoding="utf-8") as csv_file:
            writer = csv.writer(csv_file, lineterminator="\n")
            writer.writerow([*Row._fields, "class_id"])
            for path, width, height, *corners, name in side:
                if name:
                    corners = [f"{corner:.10g}" for corner in corners]  # 34, not 34.0
                writer.writerow([path, width, height, *corners, name, class_ids.get(name)])
        os.replace(unfinished, ROOT / file)  # a kill leaves the old one or the new one

    print(" objects  training  validation  class")
    for name in class_ids:
        print(f"{first[name] + second[name]:8}{first[name]:10}{second[name]:12}  {name}")
    for file, side in ((TRAIN_CSV, training), (VALIDATION_CSV, validation)):
        print(f"{file}: {len({row.path for row in side})} photos.")
    print(f"{len(copies)} augmented objects. Next: python example_1/train_model.py")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("generate_dataset.py takes no arguments: edit DATASET_FOLDER and what is below.")
    main()
