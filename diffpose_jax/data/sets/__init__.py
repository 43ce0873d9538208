"""data/sets"""
