"""Checks of the graphs that methods are given."""

from typing import Any

from relaysim.topology import Topology, as_topology


def check_connected(graph: Any) -> Topology:
    """The graph, of networkx too. Raises a ValueError unless it is connected, of two workers at least."""
    topology = as_topology("topology", graph)
    if not topology.is_connected:
        raise ValueError(f"topology {topology!r} is not connected: models would never meet")
    if topology.num_workers < 2:
        raise ValueError(f"topology is {topology!r}, expected two workers at least")
    return topology


def check_undirected(graph: Any) -> Topology:
    """The same where it is undirected."""
    topology = check_connected(graph)
    if topology.directed:
        raise ValueError(f"topology is {topology!r}, expected an undirected graph")
    return topology


def check_tree(graph: Any) -> Topology:
    """The same where it is a tree."""
    topology = check_connected(graph)
    if not topology.is_tree:
        raise ValueError(f"topology is {topology!r}, expected a tree: undirected, connected, without cycles")
    return topology
