"""bisect finds the rewrite that breaks a function, whatever comes before and after it."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxpress as jp
from helpers import array
from jaxpress.capture import ArgumentError
from jaxpress.passes import Pass, Rule, any_value, op
from jaxpress.viz.errors import OutputError

X, W = array(3, 4), array(4, 5)
WRONG = Rule("wrong", op("tanh", any_value("x")), lambda x: x * 1.001)
GOOD = Rule("good", op("neg", op("neg", any_value("x"))), lambda x: x)


def fn(x, w):
    y = lax.neg(lax.neg(x @ w))
    for i in range(5):
        y = jnp.sin(lax.neg(lax.neg(y))) + i
    return {"a": jnp.tanh(y) * 2, "b": lax.neg(lax.neg(x))}


def run(path):
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_nothing_wrong(tmp_path) -> None:
    found = jp.bisect(fn, X, W, out=tmp_path / "r.py")
    assert not found and found.total > 5 and "none of" in str(found)
    assert not list(tmp_path.iterdir())


def test_the_one_among_many_and_its_script(tmp_path) -> None:
    out = tmp_path / "r.py"
    found = jp.bisect(fn, X, W, passes=[GOOD + WRONG, GOOD, "default"], out=out)
    assert found and found.rewrite.rule == "wrong" and found.pass_name == "rewrite"
    assert found.error.path == "result['a']" and "test_bisect.py" in str(found)
    code, text = run(out)
    assert code == 1 and "they differ" in text and "tanh" in text and "mul" in text
    assert {p.name for p in tmp_path.iterdir()} == {"r.py", "r.npz"}
    # The region is the one operation: as small as it can be.
    assert out.read_text().count(".bind(") == 2


def test_the_tolerance_decides(tmp_path) -> None:
    once = Rule("once", op("cos", any_value("x")), lambda x: jnp.sin(x + jnp.pi / 2) + 1e-3)

    def cosine(x):
        return jnp.cos(x)

    assert jp.bisect(cosine, X, passes=[once], out=tmp_path / "r.py")
    assert not jp.bisect(cosine, X, passes=[once], tolerance=0.1, out=tmp_path / "s.py")


def in_scan(x):
    return lax.scan(lambda c, y: (jnp.tanh(c + y), c), x[0], x)


def test_a_rewrite_in_a_body_is_shown_with_its_loop(tmp_path) -> None:
    found = jp.bisect(in_scan, X, passes=[GOOD, WRONG], out=tmp_path / "r.py")
    assert found.rewrite.rule == "wrong"
    code, text = run(tmp_path / "r.py")
    assert code == 1 and "scan" in text and "they differ" in text
    assert "deserialize" in (tmp_path / "r.py").read_text()


def test_a_pass_that_is_a_function(tmp_path) -> None:
    def cosines(graph):
        with graph.edit() as editor:
            for node in graph.nodes:
                if node.op == "sin":
                    editor.replace(node, jnp.cos)
        return editor.graph

    found = jp.bisect(fn, X, W, passes=["cleanup", cosines], out=tmp_path / "r.py")
    assert found.pass_name == "cosines" and found.rewrite is None
    assert run(tmp_path / "r.py")[0] == 1


def test_across_jit_and_with_other_types(tmp_path) -> None:
    product = op("dot_general", any_value("x"), any_value("w"))
    rule = Rule("wrong", op("add", product, any_value("b")),
                lambda x, w, b: (x @ w - b).astype(x.dtype))  # fmt: skip
    multiply = jax.jit(lambda x, w: x @ w)

    def half(x, w, key):
        return multiply(x, w) + jax.random.normal(key, (3, 5), jnp.bfloat16)

    args = (X.astype(jnp.bfloat16), W.astype(jnp.bfloat16), jax.random.key(0))
    found = jp.bisect(half, *args, passes=[rule], out=tmp_path / "r.py")
    assert found.rewrite.rule == "wrong" and "bfloat16" in (tmp_path / "r.py").read_text()
    assert run(tmp_path / "r.py")[0] == 1


def test_weights_and_keywords(tmp_path) -> None:
    def model(params, x, *, scale):
        return (x @ params["w"]) * scale

    rule = Rule("wrong", op("dense", any_value("x"), any_value("w", known=True)),
                lambda x, w: (x + 1) @ w)  # fmt: skip
    passes = jp.passes.default.inserted(Pass("mine", rule), after="raise_ops")
    found = jp.bisect(model, {"w": W}, X, scale=2.0, passes=passes, weight_argnums=0,
                      out=tmp_path / "r.py")  # fmt: skip
    assert found.rewrite.rule == "wrong"
    assert not jp.bisect(model, {"w": W}, X, scale=2.0, passes=passes, out=tmp_path / "s.py")


def test_a_nan_is_a_difference(tmp_path) -> None:
    rule = Rule("wrong", op("tanh", any_value("x")), lambda x: x / (x - x))
    assert jp.bisect(jnp.tanh, X, passes=[rule], out=tmp_path / "r.py")
    assert run(tmp_path / "r.py")[0] == 1


def test_names_from_outside_are_only_ever_strings(tmp_path) -> None:
    evil = '"""\nimport os; os._exit(7)\n"""'
    rule = Rule(evil, WRONG.pattern, WRONG.replacement)

    def named(x):
        return {evil: jnp.tanh(x[evil])}

    named.__name__ = "../x" + evil
    out = tmp_path / "r.py"
    assert jp.bisect(named, {evil: X}, passes=[Pass(evil, rule)], out=out)
    code, text = run(out)
    assert code == 1 and "they differ" in text


def test_the_default_name_is_a_plain_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def named(x):
        return jnp.tanh(x)

    named.__name__ = "../etc/<lambda> x"
    found = jp.bisect(named, X, passes=[WRONG])
    assert found.path.name == "bisect_etc_lambda_x.py" and (tmp_path / found.path).exists()


def test_a_script_is_a_python_file(tmp_path) -> None:
    with pytest.raises(ArgumentError, match=r"not a \.py file"):
        jp.bisect(fn, X, W, out=tmp_path / "r.txt")


def test_a_folder_that_is_not_there(tmp_path) -> None:
    with pytest.raises(OutputError):
        jp.bisect(jnp.tanh, X, passes=[WRONG], out=tmp_path / "no" / "r.py")
