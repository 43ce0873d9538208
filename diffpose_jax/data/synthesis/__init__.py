"""data/synthesis"""
