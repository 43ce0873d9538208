"""data/detector"""
