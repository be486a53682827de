"""Statistical trials: points and grids, models, what a trial leaves behind, loading it again.

Refuses to know how trials are spread over hosts (`workloads.trials`) and what is concluded from
them (`stats`).
"""
