"""`replace-swish`: clips, products and maxima instead of exponentials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.errors import InputError
from graphopt.fitting.activation_fit import ActivationSite, FittedActivation, fit_in_order
from graphopt.fitting.activation_matching import KINDS, Found, find_activations
from graphopt.fitting.activation_surrogates import Gate
from graphopt.ir.edit import emit, remove_nodes, remove_unread
from graphopt.ir.graph import is_standard, label, producer_of, scalar_of
from graphopt.ir.identity import IdentitySet
from graphopt.optimizer.pass_contract import Change, Context, Numerics, PreparedPass, Skip, option

Fits: TypeAlias = Mapping[str, FittedActivation]
"""Fitted forms by the name of the activation's output."""


@dataclass(frozen=True)
class Site:
    """An activation to replace, and what was fitted to it, if anything was."""

    found: Found
    fit: FittedActivation | None


@dataclass(frozen=True)
class ReplaceSwish(PreparedPass[Site, Fits | None]):
    """Replace Swish, x * sigmoid(x), and its like by activations without exponentials.

    Rewrite:
        gate=hard      x * sigmoid(x)  ->  x * (hardtanh(x / 3) + 1) / 2 = x * clip(x + 3, 0, 6) / 6
        gate=fitted    x * sigmoid(x)  ->  x * clip(a x + b, 0, 1), a and b fitted for each channel
        smooth=true    x * sigmoid(x)  ->  max(x, 0) - |x| * max(b - a |x|, 0)^8, a and b fitted for
                       each channel: ten operators instead of four (GELU: a fourth power, nine)
        gate=hardtanh  x * sigmoid(x)  ->  hardtanh(x) = clip(x, -1, 1)
        An activation is known by what it computes, in whatever nodes: Swish as Mul with Sigmoid, as
        a Swish, QuickGelu or HardSwish node; with a slope, x * sigmoid(a * x); as e-Swish, with a
        constant factor. Others are replaced where `activations` names them:
        gelu, mish     x * clip(a x + b, 0, 1), as Swish
        elu, softplus  max(x, a x + b, c): three lines, with c below zero or at zero
        gate=hard takes fixed numbers, gate=fitted numbers of their own for each channel.

    Numerics:
        Approximate. |swish(x) - hard(x)| is at most 0.143, at |x| = 3, and vanishes far from zero.
        It adds up with depth: EfficientPose I, 59 sites and no training afterwards, moves its
        outputs on a photo by 0.5 to 0.9 of their range. Measure before relying on it.
        gate=fitted costs as many operators; slope and offset are fitted to photos, one site after
        the other: least squares from what the changed network feeds the gate to what the
        original's Swish gave there. On EfficientPose I the error of the outputs, relative to their
        deviation, falls from 1.14 to 0.32 on photos that were not fitted on.
        smooth=true comes nearer: on 100 photos of COCO its 59 sites leave an error of 0.029 and
        move key points by 0.7 pixels of 256 (gate=fitted alone: 4.3 on 20 of them).
        Fitted to values of a normal distribution, the error relative to the deviation is 0.057 for
        Swish, 0.048 for GELU and 0.054 for Mish (smooth: 0.006 and 0.005 for the first two), 0.02
        for ELU and 0.12 for Softplus; unfitted, at most 0.065, 0.142, 0.061 and 0.165 for GELU,
        Mish, ELU and Softplus. The 8 ELU of Lightweight OpenPose, fitted: 0.013 of the outputs,
        0.24 pixels.
        gate=hardtanh is another function: bounded, and negative for every negative x. It needs
        training afterwards; it is here since published mobile pose networks were built that way.

    Why:
        Exponentials are slow on mobile GPUs; clips and products fuse into the convolution before
        them (Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2; Swish:
        Ramachandran et al., "Searching for Activation Functions", 2017; e-Swish: Alcaide, 2018).

    When it skips:
        The Sigmoid gates another tensor, as in squeeze-and-excitation; a HardSwish node is asked
        for and the opset is older than 14; `activations` does not name it. gate=fitted: the
        fitted form errs by more than `max_error`, which counts what the sites before it changed;
        the original has no such tensor; its rank is not known.
        gate=hardtanh: it is not Swish.

    Examples:
        replace-swish
            s = Sigmoid(x) y = Mul(x, s)  ->  Add Clip Mul Mul
        replace-swish{form=op}
            s = Sigmoid(x) y = Mul(x, s)  ->  HardSwish
        replace-swish{gate=hardtanh}
            s = Sigmoid(x) y = Mul(x, s)  ->  Clip: Swish becomes hardtanh
        replace-swish{activations=elu}
            y = Elu(x)  ->  Mul Add Max Max: ELU becomes hard
        replace-swish{gate=fitted}
            a = Conv(x, maps) s = Sigmoid(a) y = Mul(a, s)  ->  Conv Mul Add Clip Mul
    """

    name: ClassVar[str] = "replace-swish"

    gate: Literal["hard", "fitted", "hardtanh"] = option(
        "hard", "the function that takes Swish's place"
    )
    form: Literal["ops", "op"] = option(
        "ops", "write Swish's hard gate as Add, Clip and Mul, or as one HardSwish node (opset 14)"
    )
    activations: str = option(
        "swish", f"what is replaced: all, or some of {', '.join(KINDS)}, joined by +"
    )
    max_error: Annotated[float, Field(gt=0)] = option(
        1.0,
        "gate=fitted: sites stay whose output would err by more, on held-out photos and "
        "relative to its deviation; 1 is as bad as a constant",
    )

    smooth: bool = option(
        False, "gate=fitted: Swish and GELU get tails that are powers, instead of a clipped gate"
    )

    def __post_init__(self) -> None:
        unknown = self._chosen - {*KINDS}
        if unknown:
            raise InputError(
                f"{self.name} knows no activation {min(unknown)!r}",
                hint=f"all, or some of {', '.join(KINDS)}, joined by +",
            )

    @property
    def numerics(self) -> Numerics:
        return Numerics.RETRAIN if self.gate == "hardtanh" else Numerics.APPROXIMATE

    @property
    def _chosen(self) -> set[str]:
        return {*KINDS} if self.activations == "all" else set(self.activations.split("+"))

    @property
    def needs_images(self) -> bool:
        return self.gate == "fitted"

    def prepare(self, graph: gs.Graph, context: Context) -> Fits | None:
        if not self.needs_images:
            return None
        original, calibration = context.original, context.calibration
        if original is None or calibration is None:
            raise InputError(
                "gates are fitted to what the network sees, and there are no images to show it",
                hint="give a folder of photos with --calib, or take gate=hard",
            )
        known = original.tensors()
        found = [f for f in self._activations(graph.copy()) if isinstance(f, Found)]
        places = [
            ActivationSite(f.x.name, f.y.name, f.smooth_form if self.smooth else f.form)
            for f in found
            if _comparable(f.x, known.get(f.y.name))
        ]
        return fit_in_order(
            graph,
            places,
            original,
            calibration,
            max_error=self.max_error,
            progress=lambda what: context.progress(f"{self.name}: {what}"),
        )

    def match(self, graph: gs.Graph, facts: Fits | None) -> Iterator[Site | Skip]:
        for found in self._activations(graph):
            if isinstance(found, Skip):
                yield found
            else:
                yield Site(found, None) if facts is None else _fitted(found, facts)

    def _activations(self, graph: gs.Graph) -> Iterator[Found | Skip]:
        found = find_activations(graph)
        inner = IdentitySet(node for site in found.values() for node in site.nodes)
        for node in list(graph.nodes):
            site = found.get(node)
            if site is not None:
                yield from self._judged(graph, node, site)
            elif node.outputs and node not in inner and _gates_another(node):
                yield Skip(label(node), "the Sigmoid gates another tensor: no Swish")

    def _judged(self, graph: gs.Graph, node: gs.Node, site: Found) -> Iterator[Found | Skip]:
        kind, title = site.activation.kind, site.activation.title
        as_node = self.gate == "hard" and self.form == "op" and kind == "swish"
        if kind not in self._chosen:
            yield Skip(label(node), f"{title} stays unless it is named: activations={kind}")
        elif self.gate == "hardtanh" and kind != "swish":
            yield Skip(label(node), f"hardtanh takes Swish's place only, not {title}'s")
        elif as_node and graph.opset < 14:
            yield Skip(label(node), f"opset {graph.opset} has no HardSwish: use form=ops")
        elif not (as_node and node.op == "HardSwish"):
            yield site

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        found, fit, title = site.found, site.fit, site.found.activation.title
        name = _take_out(graph, found)
        if fit is not None:
            fit.form.write(graph, found.x, found.y)
            return Change(name, f"{title} is fitted, {fit.error:.3f} of its output is off")
        if self.gate == "hardtanh":
            _write_hardtanh(graph, found)
        elif self.form == "op" and found.activation.kind == "swish":
            _write_hard_swish(graph, found)
        elif isinstance(found.form, Gate):
            found.form.write_plain(graph, found.x, found.y)
        else:
            found.form.write(graph, found.x, found.y)
        return Change(name, f"{title} becomes {self.gate}")


# --- finding ------------------------------------------------------------------------------------


def _fitted(found: Found, fits: Fits) -> Site | Skip:
    """The site that an activation is where its form could be fitted."""
    name, fit = label(found.nodes[0]), fits.get(found.y.name)
    if fit is None:
        return Skip(name, f"the original has no {found.y.name} of [N,C,...] to fit it to")
    if not fit.kept:
        title = found.activation.title
        return Skip(name, f"{title} stays: fitted, {fit.error:.3f} of its output would be off")
    return Site(found, fit)


def _gates_another(node: gs.Node) -> bool:
    """Whether it is a product with a Sigmoid, up to constant factors."""
    return is_standard(node, "Mul") and any(_is_gate(tensor) for tensor in node.inputs)


def _is_gate(tensor: gs.Tensor) -> bool:
    maker = producer_of(tensor)
    if maker is not None and is_standard(maker, "Mul"):
        factors = [t for t in maker.inputs if scalar_of(t) is None]
        return len(factors) == 1 and _is_gate(factors[0])
    return maker is not None and is_standard(maker, "Sigmoid")


def _comparable(tensor: gs.Tensor, other: gs.Tensor | None) -> bool:
    """Whether both are known to be [N,C,...], with the same channels."""
    if other is None or not tensor.shape or not other.shape:
        return False
    return len(tensor.shape) == len(other.shape) > 1 and tensor.shape[1] == other.shape[1]


# --- writing ------------------------------------------------------------------------------------


def _take_out(graph: gs.Graph, site: Found) -> str:
    """Remove a site's nodes; what the last one is called."""
    last, *inner = site.nodes
    name = label(last)
    remove_nodes(graph, [last])
    remove_unread(graph, inner)
    return name


def _times(graph: gs.Graph, x: gs.Tensor, factor: float, out: gs.Tensor | str) -> gs.Tensor:
    """`factor * x`; no node where the factor is one and no particular tensor is asked for."""
    if factor == 1.0 and isinstance(out, str):
        return x
    return emit(graph, "Mul", x, factor, out=out)


def _write_hard_swish(graph: gs.Graph, site: Found) -> None:
    # c * x * gate(a * x) = c / a * hardswish(a * x)
    y, factor = site.y, site.scale / site.beta
    scaled = _times(graph, site.x, site.beta, f"{y.name}.scaled")
    if factor == 1.0:
        emit(graph, "HardSwish", scaled, out=y)
    else:
        _times(graph, emit(graph, "HardSwish", scaled, out=f"{y.name}.gated"), factor, y)


def _write_hardtanh(graph: gs.Graph, site: Found) -> None:
    y = site.y
    if site.scale == site.beta == 1.0:
        emit(graph, "Clip", site.x, -1.0, 1.0, out=y)
        return
    scaled = _times(graph, site.x, site.beta, f"{y.name}.scaled")
    clipped = emit(graph, "Clip", scaled, -1.0, 1.0, out=f"{y.name}.clipped")
    _times(graph, clipped, site.scale / site.beta, y)
