"""lifters/diffpose"""
