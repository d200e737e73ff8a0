"""The timing helper: what it calls and how often, its statistics, and the files that it writes."""

import json
import sys

import jax
import pytest
import timing


def test_compare_takes_turns_and_gives_every_call():
    called = []
    functions = {
        "a": lambda x: called.append("a") or x,
        "b": lambda x: called.append("b") or x,
    }
    found = timing.compare(functions, jax.numpy.ones(2), blocks=2, calls=3, pause=0.0, warmup=1)
    # One warm-up call each; then per block one untimed call and three timed; the order turns.
    assert "".join(called) == "ab" + "aaaa" + "bbbb" + "bbbb" + "aaaa"
    assert [len(block) for block in found.blocks["a"]] == [3, 3]
    assert all(t > 0 for blocks in found.blocks.values() for block in blocks for t in block)


def test_statistics_are_in_milliseconds_and_ratios_are_within_rounds():
    found = timing.Comparison({"a": [[1.0, 2.0], [30.0, 40.0]], "b": [[0.5, 1.0], [10.0, 10.0]]})
    assert found.times("a") == {"median": 16e3, "min": 1e3, "q1": 1750.0, "q3": 32500.0}
    assert found.ratio("a", "b") == pytest.approx((2.0 + 3.5) / 2)
    assert found.as_dict()["ratios"]["b"]["a"] == pytest.approx((0.5 + 1 / 3.5) / 2)


@pytest.mark.parametrize("bad", [{"blocks": 0}, {"calls": 0}, {"blocks": 1, "calls": 1}])
def test_too_few_calls_are_refused(bad):
    with pytest.raises(ValueError, match="two calls in all"):
        timing.compare({"a": lambda: 0}, **bad)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "out.json"
    timing.write_json(path, {"machine": timing.machine_facts()})
    machine = json.loads(path.read_text())["machine"]
    assert machine["versions"]["jax"] == jax.__version__ and machine["cores"] >= 1
    with pytest.raises(TypeError):
        timing.write_json(path, {"no": object()})
    assert json.loads(path.read_text())["machine"] == machine
    assert [p.name for p in path.parent.iterdir()] == ["out.json"]


@pytest.mark.parametrize("rich_is_there", [True, False])
def test_tables_print_with_rich_and_without(rich_is_there, monkeypatch, capsys):
    if not rich_is_there:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    timing.print_comparison(
        "title", timing.Comparison({"jit": [[0.002] * 2], "fast": [[1e-3] * 2]})
    )
    text = capsys.readouterr().out
    fast = next(line for line in text.splitlines() if "fast" in line)
    assert "title" in text and "0.500" in fast and "1 .. 1" in fast
    assert ("│" in text) == rich_is_there
