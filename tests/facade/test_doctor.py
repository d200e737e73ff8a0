"""`jaxpress doctor`: what it finds, what it makes of a poor installation, and its exit code."""

import json
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from command_line import Run
from packaging.requirements import Requirement

from jaxpress import doctor

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_it_passes_here(run: Run) -> None:
    done = run("doctor")
    assert done.code == 0
    assert "self-check   passed" in done.out
    assert f"jax          {metadata.version('jaxlib')}"[:16] in done.out


def test_json(run: Run) -> None:
    found = json.loads(run("doctor", "--json").out)
    assert found["ok"] and found["self_check"]["passed"] and found["suggestions"] == []
    assert set(found["versions"]) == {Requirement(d).name for d in PROJECT["dependencies"]}
    assert found["backend"] and found["devices"] and found["cores"] >= 1


def test_the_extras_are_those_of_the_project() -> None:
    extras = PROJECT["optional-dependencies"]

    def names(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in map(Requirement, extras[extra]):
            if requirement.name == "jaxpress":
                found = found.union(*map(names, requirement.extras))
            else:
                found.add(requirement.name)
        return found

    assert {extra: set(held) for extra, held in doctor.EXTRAS.items()} == {
        extra: names(extra) for extra in doctor.EXTRAS
    }


def test_a_failing_self_check(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("no conv")

    monkeypatch.setattr(doctor, "_self_check", fail)
    done = run("doctor")
    assert done.code == 1
    assert "FAILED: AssertionError: no conv" in done.out and "to do" in done.out


def test_an_old_requirement(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["jax>=999.1", "numpy>=2.0", 'keras>=3; extra == "demo"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: needs)
    done = run("doctor")
    assert done.code == 1
    assert "needs 999.1 or newer" in done.out and 'pip install --upgrade "jax>=999.1"' in done.out
    assert json.loads(run("doctor", "--json").out)["versions"]["numpy"]["met"]


def test_missing_extras_and_renderers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"demo": ("jax", "no-such-thing"), "graphviz": ("jax",)})
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    done = run("doctor")
    assert done.code == 0  # jaxpress itself works
    assert "missing: no-such-thing" in done.out
    assert "only .dot and .json" in done.out and "jaxpress[graphviz]" in done.out


@pytest.mark.parametrize(
    ("version", "numbers"), [("0.10.2", (0, 10, 2)), ("2.5.0rc1", (2, 5, 0)), ("3", (3,))]
)
def test_versions_are_compared_as_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert doctor._numbers(version) == numbers
