"""What runs on a host: the agent, and the Dask processes below it. Knows no SSH."""
