"""The family of clusters: on this machine (local.py), and on the hosts of a hostfile (attached.py,
to what `dask-runner up` keeps running).

Imports nothing: agents and workers start a hundred times, and need little of what is here.
"""
