"""How alike the people are that engines find in photos to those of a network before it changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from graphopt.analysis.compare import PoseTally, people_in
from graphopt.errors import GraphoptError, InputError
from graphopt.fitting.calibration import is_photo
from graphopt.pose.images import expand, read_photo
from graphopt.pose.preprocess import arranged, extents, prepare
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.engine import Engine


def photos_in(folder: Path) -> tuple[Path, ...]:
    """A photo, or all in a folder, by name; other files in it are passed over.

    Raises:
        InputError: there is none.
    """
    files = tuple(path for path, named in expand([folder]) if named or is_photo(path))
    if not files:
        raise InputError(f"there is no photo in {folder}")
    return files


def pose_oks(
    engines: Sequence[Engine], reference: Engine, spec: PoseSpec, photos: Sequence[Path]
) -> dict[str, float]:
    """The object key-point similarity of each engine's people to the reference's, by engine.

    Args:
        engines: whom to judge, with inputs of fixed sizes.
        reference: who finds the right people.
        spec: how photos become inputs and maps become people, for all of them.
        photos: what to look at.

    Returns:
        `PoseChange.oks` of those whose maps are read so; empty where the reference finds nobody.

    Raises:
        InputError: a photo cannot be read, or the reference does not run.
    """
    ((name, shape),) = engines[0].inputs.items()
    feeds = []
    for photo in photos:
        values, _ = prepare(read_photo(photo), spec.preprocess, extents(shape))
        feeds.append({name: arranged(values, shape)})
    known = [people_in(reference.run(feed), spec) for feed in feeds]
    found: dict[str, float] = {}
    if not any(known):
        return found
    for engine in engines:
        tally = PoseTally(spec)
        with suppress(GraphoptError):  # its maps have other names
            for feed, people in zip(feeds, known, strict=True):
                tally.add(people, people_in(engine.run(feed), spec))
            found[engine.name] = tally.change(0.0).oks
    return found
