"""Every rule of every preset: applies, keeps the function, refuses a lookalike, can be left out."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from rule_examples import CASES, TESTED_ELSEWHERE

from helpers import quick_compiles
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes import Pipeline, Rule, rewrite
from jaxpress.testing import check_rule


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    with quick_compiles():
        yield


PRESETS = [p for p in vars(passes).values() if isinstance(p, Pipeline)]


def rules_by_name() -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for preset in PRESETS:
        for one in preset:
            for rule in one.rules:
                if rule not in found.setdefault(rule.name, []):
                    found[rule.name].append(rule)
    return found


RULES = rules_by_name()


def start(name: str):
    """The function of an example, tidied where the rule asks for that."""
    case = CASES[name]
    if not case.tidied:
        return case.fn
    graph = passes.cleanup(trace(case.fn)(*case.args))
    return lambda *args: graph(*args)


def test_no_rule_is_missing() -> None:
    missing = sorted(set(RULES) - set(CASES) - set(TESTED_ELSEWHERE))
    assert not missing, f"add an example of {missing} to tests/rule_examples.py"
    assert not set(TESTED_ELSEWHERE) & set(CASES) and len(TESTED_ELSEWHERE) == 1, "add no others"
    assert not set(CASES) - set(RULES), "no preset has a rule of that name any more"


def applying(name: str) -> list[Rule]:
    """The rules of this name that apply to its example; several may share one."""
    graph = trace(start(name))(*CASES[name].args)
    found = []
    for rule in RULES[name]:
        record: list = []
        rewrite(graph, rule, record=record)
        if record:
            found.append(rule)
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_the_function(name: str) -> None:
    case = CASES[name]
    rules = applying(name)
    assert rules, f"{RULES[name][0].why_not(trace(start(name))(*case.args))}"
    check_rule(
        rules[0],
        start(name),
        *case.args,
        gradients=case.gradients,
        dtypes=("bfloat16", "int32", "float16", "float64", "int64"),
    )


@pytest.mark.parametrize("name", CASES)
def test_it_refuses_a_lookalike(name: str) -> None:
    case = CASES[name]
    args = case.args if case.lookalike_args is None else case.lookalike_args
    graph = trace(case.lookalike)(*args)
    if case.tidied:
        graph = passes.cleanup(graph)
    for rule in RULES[name]:
        record: list = []
        rewrite(graph, rule, record=record)
        assert not record, f"{record[0]} in\n{graph}"


def test_a_rule_that_is_switched_off_is_off() -> None:
    holder = {r.name: p for p in PRESETS for one in p for r in one.rules}
    for name, preset in holder.items():
        for one in preset.without(name):
            assert name not in {rule.name for rule in one.rules}


@pytest.mark.parametrize(
    "name",
    ["gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "mish", "quick_gelu", "selu", "silu"],
)
def test_what_is_switched_off_is_not_made_by_another_rule_either(name: str) -> None:
    case = CASES[f"raise_{name}"]
    # With a maximum, so that clips are raised too.
    graph = trace(lambda *args: (case.fn(*args), jnp.maximum(args[0], 0.0)))(*case.args)
    assert name in passes.inference(graph).count()
    assert name not in passes.inference.without(f"raise_{name}")(graph).count()
