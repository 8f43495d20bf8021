"""The options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from normfold import Config


class Format(StrEnum):
    """How results are printed."""

    HUMAN = "human"
    JSON = "json"


class Level(StrEnum):
    """Mirror of `normfold.VerifyLevel`, here so that `--help` imports nothing heavy; a test compares the two."""

    FULL = "full"
    REGION = "region"
    OFF = "off"


class Policy(StrEnum):
    """Mirror of `normfold.Initializers`."""

    AUTO = "auto"
    FREEZE = "freeze"
    KEEP = "keep"


class LinkPolicy(StrEnum):
    """Mirror of `normfold.Links`."""

    DENY = "deny"
    HF = "hf"
    ALLOW = "allow"


class TargetName(StrEnum):
    """Mirror of `normfold.Target`."""

    PORTABLE = "portable"
    ORT_CPU = "ort-cpu"
    ORT_CUDA = "ort-cuda"
    TENSORRT = "tensorrt"
    DIRECTML = "directml"
    OPENVINO = "openvino"


Model = Annotated[Path, typer.Argument(help="The ONNX model.", metavar="MODEL", show_default=False)]
FormatOption = Annotated[Format, typer.Option("--format", help="human: tables; json: one document on stdout.")]
TargetOption = Annotated[TargetName, typer.Option("--target", help="Where the model will run: what norms become.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="Threads that the model will run on, where the target cares.", show_default="many"
    ),
]
Precise = Annotated[
    bool,
    typer.Option(
        "--precise",
        help="Write no operator whose statistics lose digits where means are large, even if it is the fastest.",
    ),
]
Aggressive = Annotated[
    bool,
    typer.Option(
        "--aggressive", help="Also fold and merge where parameters or FLOPs grow; the decision says what grew."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")]


def repeatable(flag: str, metavar: str, text: str) -> Any:
    """An option that may be given several times."""
    return typer.Option(flag, metavar=metavar, help=f"{text} Repeatable.", show_default=False)


_DATA = repeatable("--inputs", "NAME=FILE.npy|FILE.npz", "Data to compare on, instead of random data.")
_RTOL = repeatable("--rtol", "[OUTPUT:]NUMBER", "Relative tolerance; default: the model's own noise floor.")
Inputs = Annotated[list[str] | None, _DATA]
Shapes = Annotated[list[str] | None, repeatable("--shape", "NAME=1x3x224x224", "Dims for an input.")]
Rtol = Annotated[list[str] | None, _RTOL]
Atol = Annotated[list[str] | None, repeatable("--atol", "[OUTPUT:]NUMBER", "Absolute tolerance, likewise.")]
Seed = Annotated[int, typer.Option("--seed", help="Base of all random inputs.")]
Trials = Annotated[int, typer.Option("--trials", min=1, max=100, help="Seeded trials of the whole model.")]
Strict = Annotated[bool, typer.Option("--strict", help="An inconclusive verdict is a refusal.")]
NoImprove = Annotated[
    bool, typer.Option("--no-improve", help="Refuse outputs that move, even towards the float64 result.")
]
RequireNative = Annotated[
    bool, typer.Option("--require-native", help="A verdict that rests on an emulated operator is inconclusive.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=1.0, help="Seconds that one job of the worker process may take.")
]
Memory = Annotated[
    int | None,
    typer.Option(
        "--max-memory", metavar="MIB", min=256, help="Memory of the worker process, in MiB.", show_default=False
    ),
]
Initializers = Annotated[
    Policy, typer.Option("--initializers", help="Initializers that are also graph inputs: freeze or keep them.")
]

FollowLinks = Annotated[
    LinkPolicy | None,
    typer.Option(
        "--links",
        help="Symbolic links to external data: none; inside the model's directory or cache; any.  "
        "[default: hf, or deny with --untrusted]",
        show_default=False,
    ),
]
Untrusted = Annotated[
    bool,
    typer.Option(
        "--untrusted", help="The model comes from strangers: no links to data, and a process for every session."
    ),
]
Bounds = Annotated[
    list[str] | None,
    typer.Option(
        "--cap",
        metavar="NAME=NUMBER",
        envvar="NORMFOLD_CAPS",
        help="How large a model may be before it is refused, such as entries=5000000. Repeatable.",
        show_default=False,
    ),
]


def tolerances(specs: list[str] | None, flag: str) -> dict[str, float]:
    """`[OUTPUT:]NUMBER` by output name.

    Raises:
        UsageError: `usage.tolerance`.
    """
    import math

    from normfold import UsageError

    result: dict[str, float] = {}
    for spec in specs or []:
        name, _, text = spec.rpartition(":")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(
                "usage.tolerance",
                f"{flag} {spec!r} is not a tolerance",
                hint=f"write {flag} 1e-5 or {flag} OUTPUT:1e-5",
            )
        result[name] = value
    return result


def comparison(
    inputs: list[str] | None,
    shapes: list[str] | None,
    rtol: list[str] | None,
    atol: list[str] | None,
    memory: int | None,
) -> dict[str, Any]:
    """The part of the configuration that says how to compare.

    Raises:
        NormfoldError: an option cannot be read.
    """
    given: dict[str, Any] = {}
    if inputs or shapes:
        from normfold.verification import load_user_inputs, parse_shapes

        given = {"inputs": load_user_inputs(inputs or []), "shapes": parse_shapes(shapes or [])}
    return {
        **given,
        "rtol": tolerances(rtol, "--rtol"),
        "atol": tolerances(atol, "--atol"),
        "memory_limit": None if memory is None else memory << 20,
    }


def configuration(**settings: Any) -> Config:
    """A `Config`, with a one-line error for a value that it does not accept."""
    from pydantic import ValidationError

    from normfold import Config, UsageError

    try:
        return Config(**settings)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UsageError("usage.config", f"{place}: {problem['msg']}") from None
