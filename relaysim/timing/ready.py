"""Networks with numbers of their own, and those of two clouds."""

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from relaysim.checks import check_choice, check_count
from relaysim.timing.distributions import lognormal
from relaysim.timing.network import Between, Network

GBIT = 1e9 / 8
"""Bytes a second in a Gbit a second."""

Cloud = Literal["gcp", "aws"]
_TABLES = {"gcp": "gcp_2020.csv", "aws": "aws_2020_06_05.csv"}


def datacenter(compute: Any = 0.1) -> Network:
    """Latency 0.05 ms one way, 10 Gbit/s up and down.

    Latency: the median within 19 regions of AWS, a round trip of 0.108 ms (`round_trips("aws")`). Bandwidth:
    the Ethernet of Assran et al. 2019, "Stochastic gradient push", whose InfiniBand has 100 Gbit/s.

    >>> datacenter(compute=0.2).upload
    1250000000.0
    """
    return Network(compute=compute, latency=0.05e-3, upload=10 * GBIT, download=10 * GBIT)


def lan(compute: Any = 0.1) -> Network:
    """Latency 0.25 ms one way, 1 Gbit/s up and down.

    Latency: a round trip of 0.5 ms, as in Dean 2009, "Designs, lessons and advice from building large
    distributed systems". Bandwidth: that of common Ethernet.

    >>> lan(compute=0.2).upload
    125000000.0
    """
    return Network(compute=compute, latency=0.25e-3, upload=GBIT, download=GBIT)


def wan(compute: Any = 0.1) -> Network:
    """Latency 78 ms one way on average, lognormal with σ = 0.9 from link to link; 100 Mbit/s up and down.

    Latency: mean and deviation of the logarithm between 20 regions of GCP (`round_trips("gcp")`: a mean round
    trip of 157 ms). Bandwidth: a choice of ours, at the lower end of 0.1 to 2 Gbit/s.

    >>> wan(compute=0.2).upload
    12500000.0
    """
    return Network(compute=compute, latency=lognormal(0.078, 0.9), upload=0.1 * GBIT, download=0.1 * GBIT)


def home(compute: Any = 0.1) -> Network:
    """Latency 20 ms one way on average, lognormal with σ = 0.5 from link to link; 20 Mbit/s up, 100 down.

    Bandwidth: what the FCC calls broadband since 2024. Latency: a choice of ours, two access lines of 10 ms
    one way, in the range of its reports "Measuring Broadband America".

    >>> home(compute=0.2).upload
    2500000.0
    """
    return Network(compute=compute, latency=lognormal(0.02, 0.5), upload=0.02 * GBIT, download=0.1 * GBIT)


def regions(
    cloud: Cloud,
    places: int | Sequence[str],
    compute: Any = 0.1,
    upload: Any = 0.1 * GBIT,
    download: Any = 0.1 * GBIT,
) -> Network:
    """Workers in the regions of a cloud, with the latencies that were measured between these.

    The mean round trips of 2020 (`round_trips`), half of which is one way.

    >>> regions("gcp", ["europe-west6", "europe-west4", "us-east1"]).latency.places.tolist()
    [12, 11, 16]

    Args:
      cloud: "gcp" with 20 regions, or "aws" with 19.
      places: the region of each worker; or n, for workers in all regions in turn, as listed.
      compute: as in `Network`, and so are the bandwidths, which are of one worker.

    Raises:
      ValueError: where there is no such cloud or region.
    """
    names, seconds = round_trips(cloud)
    if isinstance(places, str) or not isinstance(places, Sequence):
        places = [names[i % len(names)] for i in range(check_count("places", places))]
    for place in places:
        check_choice("each of places", place, names)
    at = Between(seconds / 2, np.array([names.index(place) for place in places]))
    return Network(compute=compute, latency=at, upload=upload, download=download)


def round_trips(cloud: Cloud) -> tuple[list[str], np.ndarray]:
    """The regions of a cloud, and (k, k) the mean seconds of a round trip between them.

    Source: vitorenesduarte/fantoch, see the README beside the tables.

    >>> names, seconds = round_trips("aws")
    >>> names[2], names[-1], seconds[2, -1].item()
    ('ap-northeast-1', 'us-west-2', 0.100869)

    Raises:
      ValueError: where there is no such cloud.
    """
    text = (files("relaysim.timing") / "tables" / _TABLES[check_choice("cloud", cloud, _TABLES)]).read_text()
    rows = list(csv.DictReader(text.splitlines()))
    names = sorted({row["from_region"] for row in rows})
    seconds = np.full((len(names), len(names)), np.nan)
    for row in rows:
        to = names.index(row["from_region"]), names.index(row["to_region"])
        seconds[to] = float(row["rtt_mean_ms"]) / 1000
    return names, seconds
