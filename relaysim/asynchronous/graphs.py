"""Checks of the graphs that methods are given."""

from typing import Any

from relaysim.topology import Topology, as_topology


def check_connected(name: str, graph: Any) -> Topology:
    """The graph, also one of networkx. Raises a ValueError where it is none or not connected."""
    topology = as_topology(name, graph)
    if not topology.is_connected:
        raise ValueError(f"{name} {topology!r} is not connected: models would never meet")
    return topology


def check_undirected(graph: Any) -> Topology:
    """The same where it is undirected and has two workers at least."""
    topology = check_connected("topology", graph)
    if topology.directed or topology.num_workers < 2:
        raise ValueError(f"topology is {topology!r}, expected an undirected graph of two workers at least")
    return topology


def check_tree(graph: Any) -> Topology:
    """The same where it is a tree."""
    topology = as_topology("topology", graph)
    if not topology.is_tree:
        raise ValueError(f"topology is {topology!r}, expected a tree: undirected, connected, without cycles")
    return topology
