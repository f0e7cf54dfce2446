"""Graphs that change from step to step."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse
from jax.sharding import Mesh

from relaysim import topology as topologies
from relaysim.checks import check_bool, shown
from relaysim.faults import Drop
from relaysim.mixing.gossip import even_shares, linear
from relaysim.topology import Topology
from relaysim.topology.graphs import is_networkx
from relaysim.types import Array, Key, Mixer, Stacked


def time_varying(
    matrices: Sequence[Any], *, push: bool = False, drop: Drop = 0.0, mesh: Mesh | None = None
) -> Mixer:
    """Averages over a graph that changes: in step t, x_i ← Σ_j W_ij x_j with W = W_{t mod T}.

    D-PSGD, D², gradient tracking and their like take it as they take `gossip`, `push_sum` as it takes `push`.

    >>> import relaysim as rs
    >>> mixer = rs.time_varying(rs.topology.base(6, degree=1))
    >>> x = jax.numpy.arange(6.0)[:, None]
    >>> for t in range(4):  # its phases
    ...     _, x = mixer.mix(jax.random.key(t), t, mixer.init(x), x)
    >>> x.round(5).ravel().tolist()
    [2.5, 2.5, 2.5, 2.5, 2.5, 2.5]

    Args:
      matrices: the phases W_0, …, W_{T−1}, each (n, n), dense or scipy-sparse, such as `topology.base` gives
        them; or a topology, for its Metropolis weights (with `push` for even shares). A phase need not be
        connected, all together must be.
      push: whether rows need not sum to 1, as for `push_sum`; columns must in any case.
      drop: what becomes of a lost message is as in `gossip`: the weights of what arrived are scaled to sum to
        1; with `push` the share stays with its sender. Each phase's links lose messages by themselves.
      mesh: devices that the workers lie over (see `sharding`): only rows that cross between them are sent.

    Raises:
      ValueError: where there is no phase, the matrices have different shapes, their columns (or rows) do not
        sum to 1, some worker can never hear from some other, or `drop` or `mesh` does not fit.
    """
    check_bool("push", push)
    weights = _checked(matrices, push)
    n, period = weights[0].shape[0], len(weights)
    # phases that come again are computed by one and the same code
    names = [(w.indptr.tobytes(), w.indices.tobytes(), w.data.tobytes()) for w in weights]
    known = {name: k for k, name in enumerate(dict.fromkeys(names))}
    which = np.array([known[name] for name in names], np.int32)
    phases = [linear(weights[names.index(name)], drop, mesh, renormalise=not push) for name in known]

    def init(x: Stacked) -> list:
        return [phase.init(x) for phase in phases]

    def mix(key: Key, step: Array, states: list, x: Stacked) -> tuple[list, Stacked]:
        def of_phase(k: int) -> Any:
            def mixed(states: list, x: Stacked) -> tuple[list, Stacked]:
                new, x = phases[k].mix(key, step, states[k], x)
                return [*states[:k], new, *states[k + 1 :]], x

            return mixed

        now = jax.numpy.asarray(which)[step % period]
        return jax.lax.switch(now, [of_phase(k) for k in range(len(phases))], states, x)

    calls = [phase.messages()[0] for phase in phases]
    return Mixer(n, init, mix, messages=lambda: [calls[k] for k in which])


def _checked(matrices: Any, push: bool) -> list[scipy.sparse.csr_array]:
    if not isinstance(matrices, Sequence | np.ndarray) or isinstance(matrices, str) or not len(matrices):
        raise ValueError(
            f"matrices is {shown(matrices)}, expected a sequence of matrices (n, n) or topologies"
        )
    weights: list[scipy.sparse.csr_array] = []
    for t, phase in enumerate(matrices):
        if isinstance(phase, Topology) or is_networkx(phase):
            graph = topologies.as_topology("matrices", phase)
            phase = even_shares(graph) if push else topologies.metropolis_weights(graph)
        n = weights[0].shape[0] if weights else None
        weights.append(topologies.check_stochastic(f"matrices[{t}]", phase, n, rows=not push))
    from scipy.sparse import csgraph  # slow to import

    parts, _ = csgraph.connected_components(sum(abs(w) for w in weights), connection="strong")
    if parts > 1:
        raise ValueError(f"matrices leave {parts} parts that are not connected: averages would never meet")
    return weights
