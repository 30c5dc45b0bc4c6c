"""Where a port of Gemma first computes something else than Gemma does, and what the mistake is called.

    import gemma_mlp

    with gemma_mlp.capture(model, "theirs.safetensors"):
        model(ids)
    report = gemma_mlp.compare("theirs.safetensors", model="google/gemma-3-270m")
    assert report["agrees"], report["verdict"]

`capture` writes what a model of torch, flax or Keras computes to a file. `compare` runs the program `gemma-mlp`, which
comes with this package, on it.
"""

import importlib
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

__all__ = ["Error", "capture", "compare"]

# By the package that the model's class, or one it inherits from, is of. A Keras model on torch is both of the
# last: keras comes first.
FRAMEWORKS = {"keras": "keras", "flax": "jax", "torch": "transformers"}


class Error(RuntimeError):
    """What `gemma-mlp` said when it could not compare."""


def capture(model: Any, path: str | os.PathLike[str], **options: Any) -> AbstractContextManager[Any]:
    """Writes what `model` computes in the block to `path`, a safetensors file.

    `model` is a Gemma in torch (of transformers, or of your own with its module names), flax or Keras. What
    `options` there are depends on that: see `gemma_mlp.transformers`, `gemma_mlp.jax` and `gemma_mlp.keras`.

    Raises TypeError for a model of another framework.
    """
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    for package, module in FRAMEWORKS.items():
        if package in packages:
            return importlib.import_module(f"{__name__}.{module}").capture(model, path, **options)
    raise TypeError(f"a model of torch, flax or Keras is wanted, not {type(model).__module__}.{type(model).__name__}")


def compare(
    theirs: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    references: Iterable[str | os.PathLike[str]] = (),
    map: str | os.PathLike[str] | Mapping[str, str] | None = None,
    layers: str | Iterable[int] | None = None,
    allow: Mapping[str, float] | Iterable[tuple[str, float]] = (),
    csv: str | os.PathLike[str] | None = None,
    html: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """What `gemma-mlp compare --json` says of a captured file.

    `theirs` is compared with the Gemma in `model`, a folder or an id on the Hugging Face Hub, or with the file
    `reference`. `references` are files of further implementations: what they differ by counts as rounding.
    `map` gives names in the file to their canonical ones, as a JSON file or as a dict. `layers` are those to look at,
    as `"0,3-5"` or as numbers. `allow` lets what a regular expression matches be so many times farther than rounding.
    `csv` and `html` are files to write as well.

    Raises Error, with what the program said, if it could not compare.
    """
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(map, Mapping):
            names = Path(folder, "names.json")
            names.write_text(json.dumps(dict(map)))
            map = names
        if layers is not None and not isinstance(layers, str):
            layers = ",".join(str(layer) for layer in layers)
        options = {"--model": model, "--map": map, "--layers": layers, "--csv": csv, "--html": html}
        pairs = [(name, value) for name, value in options.items() if value is not None]
        pairs += [("--reference", file) for file in references]
        pairs += [("--allow", f"{regex}={ratio}") for regex, ratio in dict(allow).items()]
        files = [theirs] if reference is None else [theirs, reference]
        arguments = [f"{name}={os.fspath(value)}" for name, value in pairs] + ["--", *files]
        command = [program(), "compare", "--json", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise Error(f"{command[0]}: {error.strerror}") from None
    try:
        # 0: they agree. 1: they do not, or the program failed.
        if done.returncode in (0, 1):
            return json.loads(done.stdout)
    except json.JSONDecodeError:
        pass
    errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
    raise Error(errors[-1] if errors else done.stderr.strip() or f"gemma-mlp ended with code {done.returncode}")


def program() -> str:
    """The program `gemma-mlp`: $GEMMA_MLP, that of this environment, or one on the path."""
    if found := os.environ.get("GEMMA_MLP"):
        return found
    for path in (sysconfig.get_path("scripts"), None):
        if found := shutil.which("gemma-mlp", path=path):
            return found
    raise Error("the program gemma-mlp is not found: install this package with pip, or set GEMMA_MLP to its path")
