"""Keys that tell apart what Python calls equal."""

import itertools

import numpy as np

from jaxpress.capture.exactly import exactly


def test_equal_values_that_are_not_the_same():
    values = [0, False, 0.0, -0.0, np.float32(0), np.float32(-0.0), 0j, (0,), (False,), ((-0.0,),)]
    for a, b in itertools.combinations(values, 2):
        assert exactly(a) != exactly(b)
    for value in values:
        assert exactly(value) == exactly(value)
        hash(exactly(value))
