"""What `dask-runner up` keeps running: the hosts, the scheduler, the runs that are attached."""
