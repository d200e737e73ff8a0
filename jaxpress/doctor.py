"""``jaxpress doctor``: is everything there, and does it work?"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from jaxpress.cli_output import print_json
from jaxpress.targets import describe_error
from jaxpress.timing import usable_cores

__all__ = ["EXTRAS", "diagnose", "doctor_command", "missing_from"]

# What each extra that users ask for brings; a test compares it with pyproject.toml.
EXTRAS = {
    "graphviz": ("pygraphviz",),
    "demo": ("pygraphviz", "keras", "pillow", "scikit-learn"),
}


def doctor_command(*, json: bool) -> bool:
    """Print the findings; whether the self-check passed and every requirement is met."""
    found = diagnose()
    if json:
        print_json(found)
    else:
        print(_text(found))
    return found["ok"]


def diagnose() -> dict[str, Any]:
    """Everything that ``jaxpress doctor`` looks at, as plain data.

    Returns:
      ``ok``: whether jaxpress works here. ``versions``: each requirement with its version, the
      least one, and whether that is met. ``backend``, ``devices``, ``cores``. ``extras``: what is
      missing of each. ``renderers``: what can lay out pictures. ``self_check``: its seconds, and
      ``problem``. ``suggestions``: what to do.
    """
    versions = _versions()
    backend, devices, problem = _devices()
    extras = {name: missing_from(name) for name in EXTRAS}
    renderers = _renderers()
    started = time.perf_counter()
    problem = problem or _problem_of(_self_check)
    seconds = time.perf_counter() - started
    suggestions = [
        f'pip install --upgrade "{name}>={v["least"]}"'
        for name, v in versions.items()
        if not v["met"]
    ]
    if not renderers:
        suggestions.append('for pictures: pip install "jaxpress[graphviz]", or install Graphviz')
    if extras["demo"]:
        suggestions.append('for the demo: pip install "jaxpress[demo]"')
    if problem:
        suggestions.append("report the failed self-check, with all that this command printed")
    return {
        "ok": not problem and all(v["met"] for v in versions.values()),
        "jaxpress": metadata.version("jaxpress"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "versions": versions,
        "backend": backend,
        "devices": devices,
        "cores": usable_cores(),
        "extras": {name: {"installed": not m, "missing": m} for name, m in extras.items()},
        "renderers": renderers,
        "self_check": {"passed": not problem, "seconds": seconds, "problem": problem},
        "suggestions": suggestions,
    }


def missing_from(extra: str) -> list[str]:
    """The distributions of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if _installed(name) is None]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, dict[str, Any]]:
    """Each thing that jaxpress cannot do without: its version, and the least that will do."""
    found = {}
    for line in metadata.requires("jaxpress") or []:
        match = re.fullmatch(r"([\w.-]+)\s*>=\s*([\d.]+)", line)  # those of extras have a marker
        if match:
            name, least = match.groups()
            version = _installed(name)
            met = version is not None and _numbers(version) >= _numbers(least)
            found[name] = {"version": version, "least": least, "met": met}
    return found


def _numbers(version: str) -> tuple[int, ...]:
    head = re.match(r"[\d.]*", version)
    return tuple(int(part) for part in (head.group() if head else "").split(".") if part)


def _devices() -> tuple[str | None, list[str], str]:
    import jax

    try:
        return jax.default_backend(), [str(d) for d in jax.devices()], ""
    except RuntimeError as error:
        return None, [], f"JAX found no device: {error}"


def _renderers() -> list[str]:
    found = []
    program = shutil.which("dot")
    if program and importlib.util.find_spec("graphviz"):
        found.append(f"the program {program}")
    try:
        import pygraphviz
    except ImportError:  # not installed, or without its library
        pass
    else:
        found.append(f"pygraphviz {pygraphviz.__version__}")
    return found


def _problem_of(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:  # whatever it is, it is the finding
        return describe_error(error)
    return ""


def _self_check() -> None:
    """Trace, optimise and verify a convolution with batch norm and relu.

    Raises:
      AssertionError: an op that should be there is not.
      VerificationError: the results differ.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxpress import optimize, trace, verify

    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.standard_normal((3, 3, 2, 4)), jnp.float32)
    mean, shift = jnp.asarray(rng.standard_normal((2, 4)), jnp.float32)
    var, scale = jnp.asarray(rng.uniform(0.5, 1.5, (2, 4)), jnp.float32)

    def fn(x: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)
        return jax.nn.relu((y - mean) * (scale / jnp.sqrt(var + 1e-5)) + shift)

    x = jnp.asarray(rng.standard_normal((1, 8, 8, 2)), jnp.float32)
    before = trace(fn)(x).count()
    assert before["conv_general_dilated"] == 1, f"tracing found {dict(before)}"
    fast = optimize(fn)
    after = fast.graph(x).count()
    assert after == {"conv": 1}, f"optimising left {dict(after)}"
    verify(fn, fast)(x)


def _text(found: dict[str, Any]) -> str:
    rows: list[tuple[str, str]] = [
        ("jaxpress", found["jaxpress"]),
        ("python", f"{found['python']} ({found['executable']})"),
    ]
    for name, v in found["versions"].items():
        note = "" if v["met"] else f"  <- needs {v['least']} or newer"
        rows.append((name, f"{v['version'] or 'missing'}{note}"))
    cores = found["cores"]
    devices = ", ".join(found["devices"]) or "none"
    rows += [
        ("backend", f"{found['backend']} ({devices})"),
        ("cores", str(cores)),
        ("pictures", ", ".join(found["renderers"]) or "only .dot and .json: no renderer found"),
    ]
    for name, extra in found["extras"].items():
        lacks = f"missing: {', '.join(extra['missing'])}"
        rows.append((f"[{name}]", "installed" if extra["installed"] else lacks))
    check = found["self_check"]
    said = "passed" if check["passed"] else f"FAILED: {check['problem']}"
    rows.append(("self-check", f"{said} ({check['seconds']:.1f} s)"))
    rows += [("to do", text) for text in found["suggestions"]]
    return "\n".join(f"{name:<12} {text}" for name, text in rows)
