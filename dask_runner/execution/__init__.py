"""What happens on a host: batch processes, their limits, logs and outcomes.

A group of batches travels worker > pool > slot > supervisor > payload, and comes back as outcomes
through ledger and pool; nursery and zygote start the slots. Knows no driver and no manifest.
"""
