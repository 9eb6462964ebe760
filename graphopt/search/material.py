"""Photos to fit networks to, others to judge them by, and whose results a folder holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphopt.errors import InputError, UsageError
from graphopt.fitting.calibration import LEAST, Calibration
from graphopt.ir.files import sha256_of
from graphopt.ir.version import VERSION
from graphopt.pose.evaluate import annotated_photos
from graphopt.search.options import SearchOptions
from graphopt.search.subject import Subject

JUDGED_AT_LEAST = 5
"""Photos without which nothing can be judged."""


def photos_for(
    subject: Subject, options: SearchOptions
) -> tuple[dict[int, Path], dict[str, Any] | None, SearchOptions]:
    """Photos to judge by, what is true of them, and options with as many others to fit to."""
    if (options.annotations is None) != (options.images is None):
        raise UsageError("--annotations and --images go together")
    most = options.calib_photos
    if options.annotations is not None and options.images is not None:
        truth, photos = annotated_photos(options.images, options.annotations, options.photos)
        return photos, truth, options
    chosen = Calibration.from_photos(
        options.calib, subject.graph, subject.spec, count=most + options.photos
    )
    # In the order in which `optimize` takes the first of them.
    files = [file for file in (*chosen.held_out, *chosen.fitting) if isinstance(file, Path)]
    fitted = min(most, max(LEAST, round(len(files) * most / (most + options.photos))))
    if len(files) < fitted + JUDGED_AT_LEAST:
        raise InputError(
            f"{options.calib} holds {len(files)} photos; a search fits to some and judges by "
            f"others, and needs at least {LEAST + JUDGED_AT_LEAST}",
            hint="a hundred or more of what the network will see; labels are not needed",
        )
    return dict(enumerate(files[fitted:], 1)), None, replace(options, calib_photos=fitted)


def owner_of(subject: Subject, photos: Mapping[int, Path], options: SearchOptions) -> str:
    """Digest of all that results depend on."""
    files = sorted(path for path in options.calib.iterdir() if path.is_file())
    lasting = (options.calib_photos, options.device, options.threads, options.pose)
    seen = hashlib.sha256(f"{VERSION} {subject.digest} {lasting}".encode())
    for file in (*files, *photos.values()):
        seen.update(f"{file.name} {file.stat().st_size}".encode())
    if options.annotations is not None:
        seen.update(sha256_of(options.annotations).encode())
    return seen.hexdigest()
