"""The configs of all methods: `get_config(argument)` in each file; `diffpose train --config NAME:ARGUMENT` takes one."""
