"""`python -m models list | build NAME -o FILE | ship`: write reference models to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import onnx
import typer

import models

app = typer.Typer(help="Reference models for normfold.", no_args_is_help=True, add_completion=False)
SHIPPED = {"mobilenet_v2_mini.onnx": "mobilenet_v2"}
HERE = Path(__file__).parent


@app.command(name="list")
def list_models() -> None:
    """List the names, one a line."""
    typer.echo("\n".join(models.names()))


@app.command()
def build(
    name: str,
    output: Annotated[Path, typer.Option("-o", "--output", help="where to write the model")],
    seed: Annotated[int, typer.Option(help="seed of weights and statistics")] = 0,
) -> None:
    """Build one model and write it."""
    if name not in models.BUILDERS:
        raise typer.BadParameter(f"no reference model {name!r}; see `python -m models list`")
    _write(models.build(name, seed), output)


@app.command()
def ship(folder: Annotated[Path, typer.Option(help="where the shipped files live")] = HERE) -> None:
    """Write the models that the repository ships."""
    for file, name in SHIPPED.items():
        _write(models.build(name), folder / file)


def _write(model: onnx.ModelProto, path: Path) -> None:
    onnx.save(model, path)
    typer.echo(f"{path}: {len(model.graph.node)} nodes, {path.stat().st_size} bytes")


if __name__ == "__main__":
    app()
