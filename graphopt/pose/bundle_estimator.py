"""Photo in, people out by a bundle: its kernels prepare the photo and decode, where it has them."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image

from graphopt.pose.decode import Poses
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.head_choice import decode_outputs, read_spec
from graphopt.pose.images import as_rgb
from graphopt.pose.kernel_decoder import limited, poses, thresholds
from graphopt.pose.pixels import pixels_of
from graphopt.pose.preprocess import Placement, arranged, extents, fitted, prepare
from graphopt.pose.resample import tables
from graphopt.pose.spec import AnySpec, PoseSpec
from graphopt.runtime.runner import BundleRunner

_tables = lru_cache(maxsize=8)(tables)


class BundledEstimator:
    """A pose network's bundle, ready for photos: `prepare`, `start` and `people`, or all at once.

    Threads that share one take turns when they call it; `BundleRunner.lock` makes the single steps
    safe.

    Pixels are prepared here where the bundle does not do it: it has no kernels for that, its own
    pose spec says other colours or another normalisation, or the photo is too large. People are
    found here where it has no decoder, or one for another skeleton or other maps.

    Args:
        runner: the bundle.
        spec: how photos and people fit the network.
        options: the decoder's thresholds; limits are those that were compiled in, if any.
    """

    def __init__(self, runner: BundleRunner, spec: AnySpec, options: DecodeOptions) -> None:
        self._runner, self._spec, self._options = runner, spec, options
        plan, path = runner.bundle.plan, runner.bundle.path / "pose.json"
        ((self._input, self._shape),) = runner.inputs.items()
        self._size = extents(self._shape)
        compiled = read_spec(path) if path.name in runner.bundle.manifest.files else None
        read = ("skeleton", "heat", "paf")
        maps = spec if isinstance(spec, PoseSpec) else None
        same = maps is not None and all(
            getattr(maps, part) == getattr(compiled, part, None) for part in read
        )
        self._maps = maps
        decoder = plan.decoder if same else None
        self._thresholds = None if decoder is None else thresholds(options)
        if decoder is not None:
            self._options = limited(options, decoder)
        same = compiled is not None and compiled.preprocess == spec.preprocess
        self._preparation = plan.preparation if same else None

    def __call__(self, photo: Image.Image) -> Poses:
        """The people in a photo of any mode (`as_rgb`), in its pixels."""
        with self._runner.lock:
            placement = self.prepare(photo)
            self.start()
            return self.people(placement)

    def prepare(self, photo: Image.Image) -> Placement:
        """Set the network's input to a photo of any mode; where it lies there."""
        photo = as_rgb(photo)
        known = self._preparation
        if known is not None and max(photo.size) <= known.side:
            fit = fitted(photo.size, self._spec.preprocess, self._size)
            given = _tables(photo.size, fit, known.neighbours)
            if given:
                self._runner.prepare({"photo": pixels_of(photo, known.pixel), **given})
                return fit.placement
        tensor, placement = prepare(photo, self._spec.preprocess, self._size)
        self._runner.feed({self._input: arranged(tensor, self._shape)})
        return placement

    def start(self) -> None:
        """Start the network on it."""
        self._runner.start()

    def people(self, placement: Placement) -> Poses:
        """The people in the network's maps, in pixels of the photo that lies there."""
        if self._thresholds is None or self._maps is None:
            rows, columns = self._size
            assert rows
            assert columns
            outputs, size = self._runner.maps(), (rows, columns)
            return decode_outputs(outputs, self._spec, placement, self._options, size)
        found = self._runner.people(self._thresholds)
        return poses(found, self._maps, placement, self._options)
