"""Vogels et al. 2021, "RelaySum for decentralized deep learning on heterogeneous data"."""
