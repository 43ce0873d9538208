"""Turns published PyTorch weights into a work directory that evaluate and predict accept:

    python -m diffpose_jax.convert --system mixste --input best_epoch_cpn.bin --output runs/mixste_cpn

Reads the file without PyTorch and executes nothing in it. Sizes follow from the tensors' shapes; what shapes do not
tell, such as the number of attention heads, is the release's and can be set: --options lifter.num_heads=4. A system
that refines another lifter's estimate needs that one, converted or trained before: --context runs/mixste_cpn.

Prints how many tensors were used and why the others were not; conversion.json in the work directory lists each. Nothing
is written unless every tensor fits.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from diffpose_jax import cli
from diffpose_jax.config import save_config
from diffpose_jax.errors import UserError
from diffpose_jax.formats.torch_checkpoint import read_checkpoint
from diffpose_jax.interop.conversion import Conversion, convert_weights
from diffpose_jax.interop.systems import SYSTEMS, System, build_config, check_schedule
from diffpose_jax.interop.weights import Weights, find_weights
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter, validate
from diffpose_jax.whole_files import write_text
from diffpose_jax.workdir.checkpoints import Checkpoints
from diffpose_jax.workdir.trained import resolve_context


def convert(
    system: str,
    source: str,
    output: str,
    *,
    context: str | None = None,
    averaged: bool | None = None,
    layout: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Converts the checkpoint of a published system into a new work directory.

    Args:
        system: A name of `interop.systems.SYSTEMS`.
        source: The checkpoint.
        output: The work directory to write.
        context: Work directory of the frozen lifter whose estimate is refined, for systems that need one.
        averaged: True for the moving average of the weights, False for the weights themselves, None for what the
            release evaluates.
        layout: Name of the joint layout; needed where the number of joints does not tell.
        options: Values by config key that override those of the release.

    Returns:
        The contents of conversion.json.

    Raises:
        UserError: Anything does not fit; nothing is written then.
    """
    if system not in SYSTEMS:
        raise UserError(f"--system: expected one of {', '.join(SYSTEMS)}, found {system!r}")
    published = SYSTEMS[system]
    path = _check_output(output)
    _check_context(system, published, context)
    structure = read_checkpoint(source)
    with _name_source(source):
        weights, unused = find_weights(structure, system, averaged)
        config = build_config(published, weights, layout, options or {})
    config.name = f"{system} from {Path(source).name}"
    config, frozen = _add_context(config, context, path)
    validate(config)
    lifter = build_lifter(config)
    template = jax.eval_shape(lambda: lifter.init(jax.random.key(0), example_batch(lifter)))
    template = {name: part for name, part in template.items() if name != "frozen" or not frozen}
    with _name_source(source):
        check_schedule(weights, getattr(lifter, "schedule", None), config.diffusion)
        conversion = convert_weights(published.variables, weights, template)
    report = _make_report(system, source, weights, conversion, unused)
    variables = conversion.variables | ({"frozen": frozen} if frozen else {})
    _write(path, config, variables, _read_step(structure), report)
    return report


@contextmanager
def _name_source(source: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _check_context(system: str, published: System, context: str | None) -> None:
    if published.needs_context and context is None:
        raise UserError(f"--context: required for {system}, the work directory of the lifter whose estimate it refines")
    if context is not None and not published.needs_context:
        takers = ", ".join(name for name, one in SYSTEMS.items() if one.needs_context)
        raise UserError(f"--context: has no meaning for {system}, only for {takers}")


def _add_context(config: ConfigDict, context: str | None, output: Path) -> tuple[ConfigDict, Any]:
    if context is None:
        return config, {}
    config.lifter.context = context
    return resolve_context(config, output)


def _check_output(output: str) -> Path:
    """The path to write to, which must be new or empty; the directory itself is made at the end."""
    path = Path(output)
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"--output {path}: expected a new or empty directory, found one with files")
    if path.exists() and not path.is_dir():
        raise UserError(f"--output {path}: expected a directory, found a file")
    return path


def _read_step(structure: Any) -> int:
    found = structure.get("step", 0) if isinstance(structure, dict) else 0
    return found if type(found) is int and 0 <= found < 1 << 40 else 0


def _make_report(
    system: str, source: str, weights: Weights, conversion: Conversion, left_out: Mapping[str, str]
) -> dict[str, Any]:
    unused = {**left_out, **conversion.unused}
    shapes = {weights.full_name(key): list(value.shape) for key, value in weights.entries.items()}
    return {
        "system": system,
        "input": str(source),
        "weights": "moving average" if weights.averaged else "as trained",
        "found_at": "/".join([*map(str, weights.path), weights.prefix]) or "(top)",
        "counts": {"used": len(conversion.used), "unused": len(unused), "missing": len(conversion.missing)},
        "notes": list(SYSTEMS[system].notes),
        "used": {name: {"shape": shapes[name], "becomes": paths} for name, paths in sorted(conversion.used.items())},
        "unused": dict(sorted(unused.items())),
        "missing": dict.fromkeys(conversion.missing, "zeros in its place, which nothing reads"),
    }


def _write(path: Path, config: ConfigDict, variables: Any, step: int, report: Mapping[str, Any]) -> None:
    """Fills a folder beside `path` and renames it, so that an interrupted conversion leaves no incomplete directory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            filled = Path(folder) / path.name
            filled.mkdir()
            save_config(config, filled / "config.json")
            write_text(filled / "conversion.json", json.dumps(report, indent=2) + "\n")
            best = Checkpoints(filled / "best", keep=1, config=config)
            best.save(step, jax.tree.map(np.asarray, variables), {"converted_from": report["input"]})
            best.close()
            filled.replace(path)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written: {error.strerror}") from error


def print_report(report: Mapping[str, Any], output: str) -> None:
    """Prints the counts, the reasons, and where the full report is."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    counts = report["counts"]
    say(f"{report['system']} from {report['input']}: {report['weights']}, at {report['found_at']}")
    say(f"used     {counts['used']:5} tensors")
    say(f"unused   {counts['unused']:5} tensors" + _count_reasons(report["unused"]))
    say(f"missing  {counts['missing']:5} variables" + _count_reasons(report["missing"]))
    for note in report["notes"]:
        say(f"note: {note}")
    say(f"workdir: {output}   every tensor: {Path(output) / 'conversion.json'}")


def _count_reasons(reasons: Mapping[str, str]) -> str:
    counts = Counter(reasons.values())
    return f" ({', '.join(f'{count} {reason}' for reason, count in counts.most_common())})" if counts else ""


def parse_options(given: Sequence[str]) -> dict[str, str]:
    """`key=value` arguments as a dictionary. Raises UserError."""
    for item in given:
        if "=" not in item:
            raise UserError(f"--options {item}: expected key=value, such as lifter.num_heads=4")
    return dict(item.split("=", 1) for item in given)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    flags.DEFINE_string("system", None, f"One of {', '.join(SYSTEMS)}.", flag_values=values)
    flags.DEFINE_string("input", None, "The checkpoint: .pth, .pt, .bin or .pth.tar.", flag_values=values)
    flags.DEFINE_string("output", None, "The work directory to write; must be new or empty.", flag_values=values)
    flags.DEFINE_string("context", None, "Work directory of the lifter whose estimate is refined.", flag_values=values)
    flags.DEFINE_boolean(
        "ema", None, "Take the moving average of the weights, or not; what the release evaluates if not given.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("layout", None, "Joint layout, where the number of joints does not tell.", flag_values=values)
    flags.DEFINE_list("options", [], "Config values to override: lifter.num_heads=4,...", flag_values=values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, converts, and prints what became of the tensors; returns the exit code."""
    cli.require(argv, given, "system", "input", "output")
    report = convert(
        given.system,
        given.input,
        given.output,
        context=given.context,
        averaged=given.ema,
        layout=given.layout,
        options=parse_options(given.options),
    )
    print_report(report, given.output)
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
