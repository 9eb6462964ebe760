"""How good poses are: COCO's key-point AP."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphopt.errors import InputError, Unsupported
from graphopt.ir.records import Record
from graphopt.pose.coco import check_shared, coco_result
from graphopt.pose.estimate import FindsPeople
from graphopt.pose.images import read_photo
from graphopt.pose.skeleton import Skeleton


@dataclass(frozen=True)
class Scores(Record):
    """COCO key-point scores of a run."""

    AP: float
    AP50: float
    AP75: float
    AR: float
    images: int
    seconds: float


def evaluate(
    estimator: FindsPeople,
    images: Path,
    annotations: Path,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Scores:
    """COCO's key-point AP (pycocotools) of a pose network on a folder of annotated photos.

    Key points are shifted by half a pixel, from pixel centres to COCO's corners. Parts that COCO
    lacks are left out; parts that the skeleton lacks count as missed.

    Args:
        images: the folder of photos, named as in the annotations.
        annotations: a COCO key-point file (`person_keypoints_*.json`).
        limit: only the first so many photos, by image id.
        progress: told how many photos are done, of how many.

    Raises:
        InputError: a file is missing or is no such file, or the skeleton shares no part with COCO.
        Unsupported: pycocotools is not installed.
    """
    skeleton = estimator.spec.skeleton
    check_judged(skeleton)
    truth, photos = annotated_photos(images, annotations, limit)
    start = time.perf_counter()
    found = detections(estimator, photos, progress)
    ap, ap50, ap75, ar = coco_scores(truth, found, list(photos))
    return Scores(ap, ap50, ap75, ar, len(photos), time.perf_counter() - start)


def check_judged(skeleton: Skeleton) -> None:
    """Refuse what cannot be judged by COCO's measure.

    Raises:
        InputError: the skeleton shares no part with COCO.
        Unsupported: pycocotools is not installed.
    """
    if find_spec("pycocotools") is None:
        raise Unsupported(
            "COCO evaluation needs pycocotools, which is not installed",
            hint="pip install 'graphopt[eval]'",
        )
    check_shared(skeleton)


def annotated_photos(
    images: Path, annotations: Path, limit: int | None = None
) -> tuple[dict[str, Any], dict[int, Path]]:
    """COCO's annotations, and the photos that they are of, by image id.

    Args:
        images, annotations, limit: see `evaluate`.

    Raises:
        InputError: a file is missing or is no such file.
    """
    truth = _read_annotations(annotations)
    photos = sorted(truth["images"], key=lambda image: int(image["id"]))[:limit]
    missing = [
        image["file_name"] for image in photos if not (images / image["file_name"]).is_file()
    ]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(photos)} annotated photos are not in {images}, "
            f"the first is {missing[0]}",
            hint="give the folder that holds the photos themselves to --images",
        )
    return truth, {image["id"]: images / image["file_name"] for image in photos}


def detections(
    estimator: FindsPeople,
    photos: Mapping[int, Path],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[dict[str, Any]]:
    """The people in photos as COCO's results: `image_id`, `category_id`, `keypoints`, `score`.

    Args:
        photos: by image id.
        progress: told how many are done, of how many.
    """
    found: list[dict[str, Any]] = []
    for done, (image, photo) in enumerate(photos.items()):
        progress(done, len(photos))
        found += [
            coco_result(person, estimator.spec.skeleton, image)
            for person in estimator(read_photo(photo)).people
        ]
    progress(len(photos), len(photos))
    return found


def _read_annotations(path: Path) -> dict[str, Any]:
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    wanted = {"images", "annotations", "categories"}
    if not isinstance(truth, dict) or not wanted <= truth.keys():
        raise InputError(
            f"{path} is no COCO annotation file: it lacks {', '.join(sorted(wanted))}",
            hint="COCO's own is called person_keypoints_val2017.json",
        )
    if not any("keypoints" in annotation for annotation in truth["annotations"]):
        raise InputError(f"{path} holds no key points; it may be COCO's instances or captions file")
    return truth


def coco_scores(
    truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]], images: Sequence[int]
) -> tuple[float, float, float, float]:
    """AP, AP50, AP75 and AR over these images."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not found:
        return 0.0, 0.0, 0.0, 0.0  # pycocotools does not take an empty list
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        judge = COCOeval(reference, reference.loadRes(list(found)), "keypoints")
        judge.params.imgIds = list(images)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    # Without a person in the truth COCO says -1.
    ap, ap50, ap75, ar = (max(0.0, float(judge.stats[i])) for i in (0, 1, 2, 5))
    return ap, ap50, ap75, ar
