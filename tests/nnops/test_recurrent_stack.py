"""Both directions and several layers against torch, sequence lengths included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_plain import draw

from jaxpress import nnops

B, T, F, H = 2, 4, 3, 5
X = draw((B, T, F), dtype=np.float32)[0]
LENGTHS = np.array([4, 2])


def layers_of(op, made):
    """The weights of a torch module, a pair for each layer."""
    state = made.state_dict()
    return [
        tuple(
            nnops.recurrent_from("torch", op, state, suffix=f"_l{i}{end}")
            for end in ("", "_reverse")
        )
        for i in range(2)
    ]


@pytest.mark.parametrize("op, layer", [("lstm", "LSTM"), ("gru", "GRU"), ("rnn", "RNN")])
def test_two_layers_in_both_directions_with_lengths_as_in_torch(op, layer):
    torch = pytest.importorskip("torch")
    made = getattr(torch.nn, layer)(F, H, num_layers=2, bidirectional=True, batch_first=True)
    first = draw(*[(4, B, H)] * 2, dtype=np.float32)
    states = [torch.from_numpy(np.array(v)) for v in first[: 2 if op == "lstm" else 1]]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(np.array(X)), torch.from_numpy(LENGTHS), batch_first=True
    )
    with torch.no_grad():
        out, last = made(packed, tuple(states) if op == "lstm" else states[0])
        want, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    given = [
        tuple(tuple(v[2 * i + d] for v in first) if op == "lstm" else first[0][2 * i + d]
              for d in (0, 1))
        for i in (0, 1)
    ]  # fmt: skip
    y, after = nnops.recurrent_layers(
        op, X, layers_of(op, made), states=given, lengths=jnp.asarray(LENGTHS)
    )
    np.testing.assert_allclose(y, want.numpy(), atol=2e-6)
    for i in (0, 1):
        for d in (0, 1):
            got = after[i][d] if op == "lstm" else (after[i][d],)
            wanted = last if op == "lstm" else (last,)
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_allclose(a, b.numpy()[2 * i + d], atol=2e-6)


@pytest.mark.parametrize("op, cell", [("lstm", "OptimizedLSTMCell"), ("gru", "GRUCell")])
def test_two_layers_in_both_directions_with_lengths_as_in_flax(op, cell):
    nn = pytest.importorskip("flax.linen")
    make = lambda: nn.RNN(getattr(nn, cell)(H))  # noqa: E731
    layers, want = [], jnp.asarray(X)
    for i in (0, 1):
        both = nn.Bidirectional(make(), make())
        params = both.init(jax.random.key(i), want)
        want = both.apply(params, want, seq_lengths=jnp.asarray(LENGTHS))
        cells = params["params"]
        layers.append(
            [
                nnops.recurrent_from("linen", op, cells[part]["cell"])
                for part in ("forward_rnn", "backward_rnn")
            ]
        )
    y, _ = nnops.recurrent_layers(op, X, layers, lengths=jnp.asarray(LENGTHS))
    for n, got, wanted in zip(LENGTHS, y, want, strict=True):  # Flax goes on behind the end
        np.testing.assert_allclose(got[:n], wanted[:n], atol=2e-6)


def weights(features, columns=4 * H, seed=0):
    w_ih, w_hh = draw((features, columns), (H, columns), dtype=np.float32, seed=seed)
    return {"w_ih": w_ih, "w_hh": w_hh}


def test_layers_of_one_direction_are_calls_in_a_row():
    layers = [weights(F), weights(H, seed=1)]
    y, (first, second) = nnops.recurrent_layers("lstm", X, layers, reverse=True)
    middle, state = nnops.lstm(X, None, None, **layers[0], reverse=True)
    np.testing.assert_array_equal(first[1], state[1])
    np.testing.assert_array_equal(y, nnops.lstm(middle, None, None, **layers[1], reverse=True)[0])
    np.testing.assert_array_equal(y[:, 0], second[0])


def test_each_direction_and_layer_is_one_named_op():
    import jaxpress as jp

    layers = [(weights(F), weights(F)), (weights(2 * H), weights(2 * H))]
    graph = jp.trace(lambda x: nnops.recurrent_layers("lstm", x, layers)[0])(X)
    assert graph.count()["lstm"] == 4 and not graph.find("scan")


def test_what_does_not_fit():
    with pytest.raises(nnops.OpError, match="no recurrent op has this name"):
        nnops.recurrent_layers("elman", X, [weights(F)])
    with pytest.raises(nnops.OpError, match="there are 1 layers and 2 states"):
        nnops.recurrent_layers("lstm", X, [weights(F)], states=[None, None])
    with pytest.raises(nnops.OpError, match="states has 1 entries"):
        nnops.bidirectional("lstm", X, weights(F), weights(F), states=[None])
