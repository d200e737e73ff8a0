from jaxpress.viz.leaves import MAX_LEAVES, leaf_groups


def test_few_leaves_have_a_box_each() -> None:
    names = [f"x[{i}]" for i in range(MAX_LEAVES)]
    assert leaf_groups(names) == [(name, [i]) for i, name in enumerate(names)]


def test_a_large_structure_is_one_box_beside_others() -> None:
    names = ["x", *(f"state['{i}'].mean" for i in range(9)), "rng"]
    assert leaf_groups(names) == [("x", [0]), ("state", list(range(1, 10))), ("rng", [10])]


def test_a_single_structure_is_split_at_its_first_key() -> None:
    names = ["result[0]", *(f"result[1]['k{i}']" for i in range(8))]
    assert leaf_groups(names) == [("result[0]", [0]), ("result[1]", list(range(1, 9)))]


def test_a_structure_of_very_many_parts_is_one_box() -> None:
    names = [f"d['{i}']" for i in range(500)]
    assert leaf_groups(names) == [("d", list(range(500)))]


def test_names_that_are_no_paths_are_kept() -> None:
    names = [f"odd [{i} name" for i in range(8)]
    assert leaf_groups(names) == [(name, [i]) for i, name in enumerate(names)]


def test_every_leaf_is_in_one_group() -> None:
    names = [f"a{i % 3}[{i}].b['c']" for i in range(40)] + ["z"]
    held = [i for _, group in leaf_groups(names) for i in group]
    assert sorted(held) == list(range(41))
