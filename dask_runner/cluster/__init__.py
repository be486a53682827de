"""The family of clusters. To add one: a module, a line here, a test."""

from dask_runner.cluster.interface import Cluster, ClusterConfig
from dask_runner.cluster.local import LocalCluster

CLUSTERS = {
    "local": LocalCluster,
}

__all__ = ["CLUSTERS", "Cluster", "ClusterConfig", "LocalCluster"]
