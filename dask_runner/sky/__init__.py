"""Unbinned point-source searches: detector, samples, signal, likelihood; maps of the sky.

Owns what a search is made of and the test statistic at a direction. Refuses to know of trials, of
pixels of a run, and of hosts. Angles are in radians, energies in GeV.
"""
