"""Histograms of trees of any number of files: what is filled, how it adds up exactly, the result.

Knows no run, no cluster and no drawing.
"""
