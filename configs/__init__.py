"""The configs of all methods: each file has `get_config(argument)`, see `diffpose train --config NAME:ARGUMENT`."""
