"""Grids of evaluations as units of work, which processes on one machine or many claim, finish and resume."""
